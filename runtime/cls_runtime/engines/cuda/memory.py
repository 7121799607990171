"""Memory for the inputs of a run: one buffer on the device and one on the host, kept from run to run, so that a run costs one copy.

Also how running out of memory is told: ONNX Runtime has no error of its own for that.
"""

from __future__ import annotations

import contextlib
import ctypes
import queue
import re
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cls_runtime.engines.base import Int32

if TYPE_CHECKING:
    import onnxruntime

Feeds = Mapping[str, NDArray[Any]]  # a graph's inputs

_ALIGNMENT = 64  # int32 numbers, 256 bytes: what CUDA's own allocations have
# 256 KiB, which the allocator of the host maps by itself: page-locked memory shares no page with anything else.
_LEAST = 1 << 16
_PORTABLE = 1  # cudaHostRegisterPortable: page-locked for all GPUs
# ONNX Runtime's arena, the same where it has a limit, CUDA, cuBLAS, in this order.
_OUT_OF_MEMORY = re.compile(
    r"Failed to allocate memory for requested buffer|Available memory of \d+ is smaller than requested"
    r"|out of memory|cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Device:
    """Where a session's inputs lie, in ONNX Runtime's words: a GPU; or, to run the same code without one, the CPU."""

    kind: str = "cuda"
    number: int = 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the GPU has no memory left."""
    return _OUT_OF_MEMORY.search(str(error)) is not None


class CudaRuntime:
    """CUDA's runtime library, for one GPU. https://docs.nvidia.com/cuda/cuda-runtime-api/"""

    def __init__(self, library: Any, number: int) -> None:
        self._number = number
        self._set_device, self._register, self._unregister, self._forget = (
            getattr(library, function) for function in ("cudaSetDevice", "cudaHostRegister", "cudaHostUnregister", "cudaGetLastError")
        )

    @classmethod
    def found(cls, ort: ModuleType, number: int) -> CudaRuntime | None:
        """The one that this onnxruntime was built for; None where it is not found."""
        major = str(getattr(ort, "cuda_version", "") or "").partition(".")[0]
        name = f"cudart64_{major}.dll" if sys.platform == "win32" else f"libcudart.so.{major}"
        try:
            return cls(ctypes.CDLL(name), number)
        except (OSError, AttributeError):
            return None

    def select(self) -> None:
        """Makes the GPU this thread's, as each run does too: a copy is waited for on the thread's GPU."""
        self._or_forget(self._set_device(self._number))

    def lock(self, array: Int32) -> None:
        """Locks the pages of a host array for as long as it is there, so that the GPU copies from it by itself.

        One that cannot be locked stays as it is.
        """
        address = array.ctypes.data
        self.select()  # or the call would set up the first GPU too, where this one is another
        if self._or_forget(self._register(ctypes.c_void_p(address), ctypes.c_size_t(array.nbytes), ctypes.c_uint(_PORTABLE))):
            weakref.finalize(array, self._unlock, address).atexit = False

    def _unlock(self, address: int) -> None:
        self._or_forget(self._unregister(ctypes.c_void_p(address)))

    def _or_forget(self, status: int) -> bool:
        """Whether a call succeeded. An error that stays the thread's last one would be taken for a kernel's."""
        if status:
            self._forget()
        return not status


class InputBuffer:
    """Memory for the inputs of one run at a time. It grows by doubling and does not shrink."""

    def __init__(self, device: Device, *, runtime: CudaRuntime | None = None, least: int = _LEAST) -> None:
        self._device = device
        self._runtime = runtime
        self._least = least
        self._host: Int32 = np.empty(0, dtype=np.int32)
        self._memory: onnxruntime.OrtValue | None = None
        self._places: list[NDArray[Any]] = []  # of each bound input, in host memory

    @property
    def size_bytes(self) -> int:
        """On the device, and as much on the host."""
        return self._host.nbytes

    def bind(self, binding: onnxruntime.IOBinding, feeds: Feeds) -> None:
        """Copies the inputs and binds them."""
        *starts, end = _places(feeds)
        self._reserve(end)
        assert self._memory is not None
        address = self._memory.data_ptr()
        self._places = []
        for (name, array), start in zip(feeds.items(), starts, strict=True):
            here = self._host[start : start + array.nbytes // self._host.itemsize]
            self._places.append(here.view(array.dtype).reshape(array.shape))
            there = address + start * self._host.itemsize
            binding.bind_input(name, self._device.kind, self._device.number, array.dtype.type, array.shape, there)
        self.fill(feeds)

    def fill(self, feeds: Feeds) -> None:
        """Copies the inputs to where `bind` bound inputs of these shapes."""
        assert self._memory is not None
        for place, array in zip(self._places, feeds.values(), strict=True):
            place[...] = array
        if self._runtime is not None:
            self._runtime.select()
        self._memory.update_inplace(self._host)

    def _reserve(self, size: int) -> None:
        if size <= len(self._host):
            return
        import onnxruntime

        capacity = max(self._least, 1 << (size - 1).bit_length())
        self._memory, self._host, self._places = None, np.empty(0, dtype=np.int32), []  # freed first
        memory = onnxruntime.OrtValue.ortvalue_from_shape_and_type([capacity], np.int32, self._device.kind, self._device.number)
        host = np.zeros(capacity, dtype=np.int32)
        if self._runtime is not None:
            self._runtime.lock(host)
        self._memory, self._host = memory, host


class InputBuffers:
    """As many buffers as runs may be under way; who finds none free waits. The one used last is the next."""

    def __init__(self, count: int, make: Callable[[], InputBuffer]) -> None:
        self._all = tuple(make() for _ in range(count))
        self._free: queue.LifoQueue[InputBuffer] = queue.LifoQueue()
        for buffer in self._all:
            self._free.put(buffer)

    @property
    def size_bytes(self) -> int:
        """Of all of them, on the device, and as much on the host."""
        return sum(buffer.size_bytes for buffer in self._all)

    @contextlib.contextmanager
    def taken(self) -> Iterator[InputBuffer]:
        """One of them, for the time of a run."""
        buffer = self._free.get()
        try:
            yield buffer
        finally:
            self._free.put(buffer)


def _places(feeds: Feeds) -> list[int]:
    """Where each input begins, in int32 numbers, and behind them where the last one ends."""
    places = [0]
    for array in feeds.values():
        end = places[-1] + array.nbytes // np.dtype(np.int32).itemsize
        places.append(-(-end // _ALIGNMENT) * _ALIGNMENT)
    return places
