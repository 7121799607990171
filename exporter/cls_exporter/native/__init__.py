"""The weights of our own kernels: a checkpoint as layers of products and norms, in float32 and in int8."""

from __future__ import annotations

from cls_exporter.native.choice import check_follows, int8_forms
from cls_exporter.native.float_model import float_model
from cls_exporter.native.reasons import NotNativeError

__all__ = ["NotNativeError", "check_follows", "float_model", "int8_forms"]
