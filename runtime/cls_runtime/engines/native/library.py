"""cls-export-native's shared library: found, loaded, and asked what it has."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from cls_runtime.engines.native.structures import ABI, BatchSpec, ModelSpec
from cls_runtime.errors import EngineError, MissingExtraError

PACKAGE, DISTRIBUTION = "cls_export_native", "cls-export-native"
PORTABLE = "portable"  # the kernels that every CPU has, which all others equal
_INSTALL = "run: pip install --force-reinstall cls-export-native, or name another engine"

# cls_open, cls_run and their like return one of these; 0 is success.
NO_MEMORY, BAD_INPUT, NO_KERNELS, NO_THREADS = 1, 2, 3, 4


@dataclass(frozen=True)
class Kernels:
    """The kernel families of the library by name, best first.

    Attributes:
        all: those that it was built with.
        usable: those that this CPU runs and whose results are, bit for bit, the portable ones.
        differing: those that this CPU runs and that differ, a line each; they are not used.
    """

    all: tuple[str, ...]
    usable: tuple[str, ...]
    differing: tuple[str, ...]


def kernels() -> Kernels:
    """What the installed library has. The first call in a process checks the kernels, which takes milliseconds.

    Raises:
        MissingExtraError, EngineError: as `library`.
    """
    loaded = library()
    differing = _text(loaded.cls_differing_kernels())
    return Kernels(
        all=_names(loaded.cls_all_kernels()),
        usable=_names(loaded.cls_usable_kernels()),
        differing=tuple(line for line in differing.splitlines() if line),
    )


def library() -> ctypes.CDLL:
    """The library, loaded once in a process. Its functions run without the interpreter's lock.

    Raises:
        MissingExtraError: cls-export-native is not installed.
        EngineError: it cannot be loaded, or has another interface than this version knows.
    """
    return _loaded(_path())


def _path() -> Path:
    try:
        package = import_module(PACKAGE)
        return Path(package.library())
    except Exception as error:  # noqa: BLE001  whatever a package that is cut or another's raises; a mere folder has no `library`
        if isinstance(error, ModuleNotFoundError) and error.name in (None, PACKAGE):
            raise MissingExtraError(f"{DISTRIBUTION} is not installed; run: pip install cls-export[native]") from None
        raise EngineError(f"{DISTRIBUTION} is installed but broken ({error}); {_INSTALL}") from None


@functools.lru_cache
def _loaded(path: Path) -> ctypes.CDLL:
    try:
        loaded = ctypes.CDLL(str(path))
        loaded.cls_abi.restype = ctypes.c_int32
        loaded.cls_abi.argtypes = ()
        found = loaded.cls_abi()
    except (OSError, AttributeError) as error:
        raise EngineError(f"{path} cannot be loaded ({error}); {_INSTALL}") from None
    if found != ABI:
        raise EngineError(
            f"{DISTRIBUTION} has the interface {found}, this version of cls-export expects {ABI}; run: pip install --upgrade "
            "cls-export[native]"
        )
    try:
        _declare(loaded)
    except AttributeError as error:
        raise EngineError(f"{path} lacks a function ({error}); {_INSTALL}") from None
    return loaded


def _declare(loaded: ctypes.CDLL) -> None:
    """Says what the functions take and give."""
    for name in ("cls_all_kernels", "cls_usable_kernels", "cls_differing_kernels"):
        function = getattr(loaded, name)
        function.restype, function.argtypes = ctypes.c_char_p, ()
    loaded.cls_kernels_of.restype, loaded.cls_kernels_of.argtypes = ctypes.c_char_p, (ctypes.c_void_p,)
    loaded.cls_open.restype = ctypes.c_int
    loaded.cls_open.argtypes = (ctypes.POINTER(ModelSpec), ctypes.c_char_p, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p))
    loaded.cls_run.restype = ctypes.c_int
    loaded.cls_run.argtypes = (ctypes.c_void_p, ctypes.POINTER(BatchSpec), ctypes.c_int, ctypes.c_void_p)
    loaded.cls_close.restype, loaded.cls_close.argtypes = None, (ctypes.c_void_p,)


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _names(value: bytes | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in _text(value).split(",") if name.strip())
