"""A stand-in for the NVIDIA driver's library, as `ctypes.CDLL` gives it: it answers for the GPUs that it is made with."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from cls_runtime.engines.cuda import driver

H100 = ("NVIDIA H100 80GB HBM3", 79 * 2**30, (9, 0))
T4 = ("Tesla T4", 15 * 2**30, (7, 5))
ERRORS = {3: b"CUDA_ERROR_NOT_INITIALIZED", 100: b"CUDA_ERROR_NO_DEVICE", 999: b"CUDA_ERROR_UNKNOWN"}


@dataclass
class FakeDriver:
    """GPUs as (name, bytes, compute capability). `init_status` is what cuInit gives; `failing` is a call that fails with 3."""

    gpus: Sequence[tuple[str, int, tuple[int, int]]] = ()
    version: int = 13000
    init_status: int = 0
    failing: str = ""
    started: bool = False

    def cuInit(self, flags: int) -> int:  # noqa: N802
        self.started = not self.init_status
        return self.init_status

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        return self._answer("cuDriverGetVersion", version, self.version)

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        return self._answer("cuDeviceGetCount", count, len(self.gpus))

    def cuDeviceGet(self, device: Any, number: int) -> int:  # noqa: N802
        return self._answer("cuDeviceGet", device, 40 + number)  # a handle need not be the number

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:  # noqa: N802
        assert size == len(name)
        name.value = self._gpu(device)[0].encode()
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: ctypes.c_int) -> int:  # noqa: N802
        return self._answer("cuDeviceTotalMem_v2", size, self._gpu(device)[1])

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:  # noqa: N802
        return self._answer("cuDeviceGetAttribute", value, self._gpu(device)[2][{75: 0, 76: 1}[attribute]])

    def cuGetErrorName(self, status: int, name: Any) -> int:  # noqa: N802
        name._obj.value = ERRORS.get(status)
        return 0

    def _gpu(self, device: ctypes.c_int) -> tuple[str, int, tuple[int, int]]:
        return self.gpus[device.value - 40]

    def _answer(self, call: str, place: Any, value: int) -> int:
        assert self.started, f"{call} before cuInit"
        if call == self.failing:
            return 3
        place._obj.value = value
        return 0


def pretend_driver(monkeypatch: pytest.MonkeyPatch, fake: FakeDriver | None) -> None:
    """From now on this machine has that driver; None: none."""

    def open_library(name: str) -> FakeDriver:
        assert name == driver.LIBRARY
        if fake is None:
            raise OSError(name)
        return fake

    monkeypatch.setattr(driver, "_open_library", open_library)
