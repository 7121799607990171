"""Exports a BERT-family checkpoint's CLS row as an ONNX bundle. Needs `pip install cls-export[export,cpu]`.

Example:
    >>> from cls_exporter import ExportConfig, export
    >>> report = export("bert-base-uncased", "models/bert-base-uncased", config=ExportConfig(pooler=True))  # doctest: +SKIP
    >>> report.parity["fp32"].max_abs  # doctest: +SKIP
    1.7e-06
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cls_exporter.config import ExportConfig, ExportReport
from cls_exporter.errors import CheckpointError, ExportError, GraphError, ParityError, UnsupportedError

if TYPE_CHECKING:
    from cls_exporter.exporting import export

__all__ = [
    "CheckpointError",
    "ExportConfig",
    "ExportError",
    "ExportReport",
    "GraphError",
    "ParityError",
    "UnsupportedError",
    "export",
]


def __getattr__(name: str) -> Any:
    """Imports PyTorch only where `export` is asked for: `cls-export --help` needs none of it."""
    if name != "export":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = importlib.import_module("cls_exporter.exporting").export
    globals()["export"] = function
    return function
