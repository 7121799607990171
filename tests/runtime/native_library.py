"""What tests of the native engine share: whether the library is installed, and which kernels this CPU runs."""

from __future__ import annotations

import pytest

from cls_runtime import MissingExtraError
from cls_runtime.engines.native.library import kernels


def missing() -> str | None:
    """Why the library cannot be used here; None where it can. One that is installed and broken is an error, and no reason to skip."""
    try:
        kernels()
    except MissingExtraError as error:
        return str(error)
    return None


def usable_kernels() -> tuple[str, ...]:
    """The kernel families that this CPU runs, best first; without the library none."""
    return () if missing() else kernels().usable


needs_native = pytest.mark.skipif(missing() is not None, reason=missing() or "it is here")
