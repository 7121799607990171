"""Which GPUs compute: what `device=` and `--device` may say, and the numbers that an engine is given.

GPUs have the numbers of the CUDA driver, from 0 on, among those that `CUDA_VISIBLE_DEVICES` leaves visible.

>>> parsed(None), parsed(1), parsed("cuda:1"), parsed("0,2"), parsed("all")
(None, (1,), (1,), (0, 2), 'all')
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from numbers import Integral
from typing import Literal, TypeGuard

from cls_runtime.engines.choice import check_engine
from cls_runtime.errors import UsageError

Device = int | str | Sequence[int]
Numbers = tuple[int, ...]

GPU_ENGINES = ("cuda",)
ALL: Literal["all"] = "all"
# More than any machine has; an engine would ask the driver for each.
MOST_DEVICES = 1024
_NUMBER = re.compile(r"(?:cuda:)?(\d{1,4})", re.ASCII)
_EXPECTED = "a GPU's number such as 1 or 'cuda:1', several such as '0,1' or (0, 1), or 'all'"


def parsed(device: Device | None) -> Numbers | Literal["all"] | None:
    """The numbers that `device` names, in its order; None for no choice.

    Raises:
        UsageError: it is none of these, or names a GPU twice.
    """
    if device is None:
        return None
    if isinstance(device, str) and device == ALL:
        return ALL
    given = _numbers(device)
    numbers = tuple(int(number) for number in given if _is_number(number))
    if not given or len(numbers) < len(given):
        raise UsageError(f"device is {_on_one_line(device)}, expected {_EXPECTED}")
    if len(set(numbers)) != len(numbers):
        raise UsageError(f"device is {_on_one_line(device)}, which names a GPU twice; name each once")
    return numbers


def check_device(device: Device | None, *, engine: str) -> None:
    """Checks what `device` says, and that `engine` has devices to choose from.

    Raises:
        UsageError: it is not understood, or `engine` computes on no GPU, or there is none of that name.
    """
    if parsed(device) is not None and engine not in GPU_ENGINES:
        check_engine(engine)
        raise UsageError(
            f"device is {_on_one_line(device)} and engine is {engine!r}, expected engine 'cuda', the one that computes on a GPU; "
            "name it with the device, or leave the device out"
        )


def device_numbers(device: Device | None, *, engine: str) -> Numbers:
    """The numbers that an engine's `load` is given; none where the choice is the engine's own. Only `all` asks the driver.

    Raises:
        UsageError: as `check_device`.
        EngineError: `all`, and there is no driver, or no GPU.
    """
    check_device(device, engine=engine)
    numbers = parsed(device)
    if numbers == ALL:
        from cls_runtime.engines.cuda.driver import device_count

        return tuple(range(device_count()))
    return numbers or ()


def computing(devices: Numbers, *, engine: str) -> Numbers:
    """The GPUs that compute when an engine was given `devices`: its own choice is the first."""
    return devices or ((0,) if engine in GPU_ENGINES else ())


def _numbers(device: Device) -> tuple[object, ...]:
    """What may be numbers; none for what cannot."""
    if isinstance(device, str):
        found = [_NUMBER.fullmatch(part.strip()) for part in device.split(",")]
        return () if None in found else tuple(int(match[1]) for match in found if match is not None)
    if isinstance(device, Integral):
        return (device,)
    return tuple(device) if isinstance(device, (tuple, list, range)) else ()


def _is_number(number: object) -> TypeGuard[Integral]:
    """Whether it is one, Python's or numpy's."""
    return isinstance(number, Integral) and not isinstance(number, bool) and 0 <= int(number) < MOST_DEVICES


def _on_one_line(device: object) -> str:
    return " ".join(repr(device).split())
