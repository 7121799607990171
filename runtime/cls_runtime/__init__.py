"""Text to CLS vectors from a bundle, without PyTorch.

>>> from cls_runtime import Encoder
>>> with Encoder.load("models/all-MiniLM-L6-v2") as encoder:  # doctest: +SKIP
...     encoder.encode(["a text", "another"]).shape
(2, 384)
"""

from cls_runtime.bundle import Bundle
from cls_runtime.encoder import Encoder
from cls_runtime.errors import (
    BundleError,
    CheckFailedError,
    ClosedError,
    ClsError,
    EngineError,
    InstallationWarning,
    IntegrityError,
    InvalidVectorError,
    MissingExtraError,
    TextError,
    TextTooLongError,
    TruncationWarning,
    UsageError,
)
from cls_runtime.manifest import Manifest
from cls_runtime.report import EncodeReport, EncoderInfo, Truncation

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleError",
    "CheckFailedError",
    "ClosedError",
    "ClsError",
    "EncodeReport",
    "Encoder",
    "EncoderInfo",
    "EngineError",
    "InstallationWarning",
    "IntegrityError",
    "InvalidVectorError",
    "Manifest",
    "MissingExtraError",
    "TextError",
    "TextTooLongError",
    "Truncation",
    "TruncationWarning",
    "UsageError",
    "__version__",
]
