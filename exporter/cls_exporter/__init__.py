"""Exports a BERT-family checkpoint's CLS row as an ONNX bundle. Needs `pip install cls-export[export,cpu]`.

Example:
    >>> from cls_exporter import ExportConfig, export
    >>> report = export("BAAI/bge-small-en-v1.5", "models/with-pooler", config=ExportConfig(pooler=True))
    >>> report.parity["fp32"].max_abs
    1.7e-06
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own takes a tenth of a command's first milliseconds, in which Ctrl-C is still Python's to answer
if TYPE_CHECKING:
    from typing import Any

    from cls_exporter.config import ExportConfig, ExportReport
    from cls_exporter.errors import CheckpointError, ExportError, GraphError, ParityError, UnsupportedError
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

# Where each of them is defined; the errors are all in `errors`.
_MODULES = {"ExportConfig": "config", "ExportReport": "config", "export": "exporting"}


def __getattr__(name: str) -> Any:
    """Imports what is asked for: `cls-export --help` needs no PyTorch, and its console script not even numpy."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"cls_exporter.{_MODULES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
