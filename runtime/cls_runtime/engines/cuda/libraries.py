"""CUDA's and cuDNN's libraries where pip has put them, loaded before ONNX Runtime looks for them where the system's are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import FunctionType, ModuleType

_FIRST_USE = threading.Lock()
_COMPLAINTS: dict[str, tuple[str, ...]] = {}


def preload(ort: ModuleType) -> tuple[str, ...]:
    """Loads the libraries that this onnxruntime was built for, once in a process, and gives its complaints, a line each.

    They stay loaded. A complaint is no error: whether the provider comes up shows in the session. Releases before 1.21, which cannot do
    this, find the libraries where the system's linker does.
    """
    with _FIRST_USE:
        if ort.__version__ not in _COMPLAINTS:
            function = getattr(ort, "preload_dlls", None)
            _COMPLAINTS[ort.__version__] = () if function is None else _said_by(function)
        return _COMPLAINTS[ort.__version__]


def _said_by(function: Callable[[], None]) -> tuple[str, ...]:
    """Calls a function that tells by `print`, and gives the lines that it would have printed.

    It gets a `print` of its own: for another one in the place of standard output other threads' lines would be lost.
    """
    said: list[str] = []

    def listen(*values: object, **_: object) -> None:
        said.extend(line.strip() for line in " ".join(map(str, values)).splitlines() if line.strip())

    if isinstance(function, FunctionType):
        names = {**function.__globals__, "print": listen}
        own = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
        own.__kwdefaults__ = function.__kwdefaults__
        function = own
    try:
        function()
    except Exception as error:  # noqa: BLE001  it is a help; the session says what is missing
        listen(f"{type(error).__name__}: {error}")
    return tuple(said)
