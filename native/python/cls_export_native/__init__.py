"""Where the kernels of cls-export lie: a shared library with the C interface of native/src/cls_native.h.

>>> import ctypes
>>> ctypes.CDLL(str(library())).cls_abi() >= 1
True
"""

from __future__ import annotations

import sys
from pathlib import Path

__version__ = "0.2.0"
__all__ = ["__version__", "library"]

_NAMES = {"win32": "cls_native.dll", "darwin": "libcls_native.dylib"}


def library() -> Path:
    """The path of the shared library of this package.

    Raises:
        FileNotFoundError: the package was not installed from a wheel of this system.
    """
    path = Path(__file__).resolve().parent / _NAMES.get(sys.platform, "libcls_native.so")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a wheel of cls-export-native for this system has it: pip install cls-export-native")
    return path
