"""Why a checkpoint runs on ONNX Runtime and not on our own kernels."""

from __future__ import annotations


class NotNativeError(Exception):
    """What of a checkpoint the kernels do not compute, as a short fact."""
