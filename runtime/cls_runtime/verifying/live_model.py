"""PyTorch's vectors of any texts, through whatever is installed for that: what `cls-verify --against` compares a bundle with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.manifest import Manifest, Pooling, TokenizerChoice
from cls_runtime.encoding.texts import Text
from cls_runtime.errors import MissingExtraError

Float32 = NDArray[np.float32]

REFERENCE_GROUP = "cls_export.reference"


class Reference(Protocol):
    """Gives PyTorch's vectors; found by the entry point group `cls_export.reference`."""

    def __call__(
        self,
        model: str,
        texts: Sequence[Text],
        *,
        outputs: Sequence[str],
        max_length: int,
        tokenizer: TokenizerChoice | None,
        pooling: Pooling,
    ) -> Mapping[str, Float32]:
        """Float32 [n, width] for each of `outputs`, of texts as they are, cut to `max_length` tokens by that tokenizer.

        Of `tokens` it is a sample of each text's rows (`bundle.token_sample`), one text's after the other's: float32 [R, H].
        """


def live_vectors(model: str, texts: Sequence[Text], manifest: Manifest) -> Mapping[str, Float32]:
    """What the model gives for every output that the bundle records.

    Raises:
        MissingExtraError: PyTorch is not installed.
        ClsError: the model cannot be read, or is not one that the bundle can be of.
    """
    # Looked up by name: this package must run without PyTorch, so it never imports the one that needs it.
    providers = list(metadata.entry_points(group=REFERENCE_GROUP))
    missing = MissingExtraError("comparing with a live model needs PyTorch: pip install 'cls-export[export,cpu]'")
    if not providers:
        raise missing
    try:
        reference = cast("Reference", cast("Any", providers[0]).load())
    except ImportError:
        raise missing from None
    return reference(
        model,
        texts,
        outputs=manifest.recorded_outputs,
        max_length=manifest.max_length,
        tokenizer=manifest.tokenizer,
        pooling=manifest.pooling,
    )
