"""sentence-transformers, with a bundle in the place of PyTorch: its two classes on an `Encoder`, and a bundle as a module of its own class.

`SentenceTransformer` and `CrossEncoder` take the arguments of sentence-transformers 6.2 and give the same results. They import neither
torch nor transformers nor sentence-transformers:

>>> from cls_runtime.integrations.sentence_transformers import SentenceTransformer
>>> model = SentenceTransformer("models/all-MiniLM-L6-v2")  # doctest: +SKIP
>>> model.encode(["a text", "another"]).shape  # doctest: +SKIP
(2, 384)

`ClsEncoderModule` and `sentence_transformer` are for programs that need the original class, a `torch.nn.Module`; they import both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cls_runtime.integrations.sentence_transformers.cross_encoder import CrossEncoder
    from cls_runtime.integrations.sentence_transformers.embedder import SentenceTransformer
    from cls_runtime.integrations.sentence_transformers.module import ClsEncoderModule, sentence_transformer

__all__ = ["ClsEncoderModule", "CrossEncoder", "SentenceTransformer", "sentence_transformer"]

_MODULES = {"CrossEncoder": "cross_encoder", "SentenceTransformer": "embedder"}


def __getattr__(name: str) -> Any:
    """Imports what is asked for, so that only `ClsEncoderModule` and `sentence_transformer` import torch."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'module')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
