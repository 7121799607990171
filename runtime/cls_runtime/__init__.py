"""Text to CLS vectors from a bundle, without PyTorch.

>>> from cls_runtime import Encoder
>>> with Encoder.load("models/bge-small-en-v1.5") as encoder:
...     encoder.encode(["a text", "another"]).shape
(2, 384)
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own takes a tenth of a command's first milliseconds, in which Ctrl-C is still Python's to answer
if TYPE_CHECKING:
    from typing import Any

    from cls_runtime.bundle.folder import Bundle
    from cls_runtime.bundle.manifest import Manifest
    from cls_runtime.encoder import Encoder
    from cls_runtime.encoding.options import EncoderOptions
    from cls_runtime.encoding.report import BatchSummary, EncodeReport, EncoderInfo, QueueState, Truncation
    from cls_runtime.encoding.text_tokens import TextTokens
    from cls_runtime.errors import (
        BundleError,
        CheckFailedError,
        ClosedError,
        ClsError,
        DeadlineError,
        DimensionsWarning,
        EngineError,
        EngineWarning,
        HubError,
        InstallationWarning,
        IntegrityError,
        InvalidVectorError,
        MissingExtraError,
        OverloadedError,
        TextError,
        TextTooLongError,
        TruncationWarning,
        UsageError,
    )
    from cls_runtime.verifying.compare import compare_bundles, require_compatible
    from cls_runtime.verifying.same_vectors import assert_same_vectors
    from cls_runtime.verifying.verification import verify

__version__ = "0.2.0"

__all__ = [
    "BatchSummary",
    "Bundle",
    "BundleError",
    "CheckFailedError",
    "ClosedError",
    "ClsError",
    "DeadlineError",
    "DimensionsWarning",
    "EncodeReport",
    "Encoder",
    "EncoderInfo",
    "EncoderOptions",
    "EngineError",
    "EngineWarning",
    "HubError",
    "InstallationWarning",
    "IntegrityError",
    "InvalidVectorError",
    "Manifest",
    "MissingExtraError",
    "OverloadedError",
    "QueueState",
    "TextError",
    "TextTokens",
    "TextTooLongError",
    "Truncation",
    "TruncationWarning",
    "UsageError",
    "__version__",
    "assert_same_vectors",
    "compare_bundles",
    "require_compatible",
    "verify",
]

# Where each of them is defined; errors and warnings are all in `errors`.
_MODULES = {
    "BatchSummary": "encoding.report",
    "Bundle": "bundle.folder",
    "EncodeReport": "encoding.report",
    "Encoder": "encoder",
    "EncoderInfo": "encoding.report",
    "EncoderOptions": "encoding.options",
    "Manifest": "bundle.manifest",
    "QueueState": "encoding.report",
    "TextTokens": "encoding.text_tokens",
    "Truncation": "encoding.report",
    "assert_same_vectors": "verifying.same_vectors",
    "compare_bundles": "verifying.compare",
    "require_compatible": "verifying.compare",
    "verify": "verifying.verification",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for. Without it every pytest run would load numpy, where the plugin is installed but not used."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"cls_runtime.{_MODULES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
