"""What the NVIDIA driver says: its version, the CUDA that it runs, and the GPUs there are.

Asked of the driver's own library, so that nothing of CUDA need be installed. https://docs.nvidia.com/cuda/cuda-driver-api/
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cls_runtime.errors import EngineError

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
VERSION_FILE = Path("/proc/driver/nvidia/version")
VISIBLE = "CUDA_VISIBLE_DEVICES"
# CUresult and CUdevice_attribute, as cuda.h numbers them.
_NO_DEVICE = 100
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_LONGEST_NAME = 256
_NEEDS = "engine cuda needs an NVIDIA GPU"
_INSTEAD = "or use engine='onnxruntime'"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU: its number among those that are visible, its name, all of its memory, and its compute capability, such as (9, 0)."""

    number: int
    name: str
    memory_bytes: int
    compute_capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.number} ({self.name}, {self.memory_bytes / 2**30:.0f} GiB)"


def device_count() -> int:
    """How many GPUs the driver has for this process; at least one.

    Raises:
        EngineError: there is no driver, it fails, or it has none.
    """
    return _count(_driver())


def gpus() -> tuple[Gpu, ...]:
    """Those GPUs, in the order of their numbers.

    Raises:
        EngineError: as `device_count`.
    """
    driver = _driver()
    return tuple(_gpu(driver, number) for number in range(_count(driver)))


def check_devices(numbers: Iterable[int] = ()) -> None:
    """Checks that there is a GPU, and that those of these numbers are there.

    Raises:
        EngineError: as `device_count`, or one of them is not there; it names those that are.
    """
    count = device_count()
    if absent := [number for number in numbers if number >= count]:
        raise EngineError(f"GPU {absent[0]} is not there, the driver has {', '.join(map(str, gpus()))}; name one of them")


def cuda_version() -> str:
    """The newest CUDA that the driver runs, such as 13.0; not what is installed beside it.

    Raises:
        EngineError: there is no driver, or it fails.
    """
    driver, version = _driver(), ctypes.c_int()
    _check(driver, driver.cuDriverGetVersion(ctypes.byref(version)))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def driver_version(*, file: Path = VERSION_FILE) -> str | None:
    """The driver's own version, such as 580.65.06; None where the system does not tell."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", text, re.MULTILINE)
    return found[1] if found else None


def _driver() -> Any:
    """The driver's library, ready to be asked."""
    try:
        driver = _open_library(LIBRARY)
    except OSError:
        raise EngineError(f"{_NEEDS}, this machine has no NVIDIA driver ({LIBRARY}); install it, {_INSTEAD}") from None
    status = driver.cuInit(0)
    if status == _NO_DEVICE:
        raise _no_device()
    _check(driver, status)
    return driver


def _open_library(name: str) -> Any:
    return ctypes.CDLL(name)


def _count(driver: Any) -> int:
    count = ctypes.c_int()
    _check(driver, driver.cuDeviceGetCount(ctypes.byref(count)))
    if not count.value:
        raise _no_device()
    return count.value


def _gpu(driver: Any, number: int) -> Gpu:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(_LONGEST_NAME), ctypes.c_size_t()
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(driver, driver.cuDeviceGet(ctypes.byref(device), number))
    _check(driver, driver.cuDeviceGetName(name, _LONGEST_NAME, device))
    _check(driver, driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    _check(driver, driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device))
    _check(driver, driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device))
    return Gpu(
        number=number,
        name=name.value.decode(errors="replace"),
        memory_bytes=memory.value,
        compute_capability=(major.value, minor.value),
    )


def _check(driver: Any, status: int) -> None:
    """Raises an EngineError for a CUresult that is not success."""
    if status:
        name = ctypes.c_char_p()
        driver.cuGetErrorName(status, ctypes.byref(name))
        called = f" ({name.value.decode(errors='replace')})" if name.value else ""
        raise EngineError(f"{_NEEDS}, the driver fails with CUDA error {status}{called}; see nvidia-smi, {_INSTEAD}")


def _no_device() -> EngineError:
    visible = os.environ.get(VISIBLE)
    why = "" if visible is None else f" ({VISIBLE} is {visible!r})"
    return EngineError(f"{_NEEDS}, the driver finds no device{why}; see nvidia-smi, {_INSTEAD}")
