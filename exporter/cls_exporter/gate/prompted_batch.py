"""A batch with marked prompts: what a graph that reads a prompt and does not pool it takes, and what PyTorch makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.checkpoint.trial import outputs_of
from cls_runtime.bundle.golden import Golden
from cls_runtime.bundle.manifest import Output
from cls_runtime.engines.base import TokenBatch
from cls_runtime.engines.padding import padded, token_rows

Float32 = NDArray[np.float32]

_TEXTS = 8
_PROMPT_TOKENS = 4  # of a text that has more


@dataclass(frozen=True, kw_only=True)
class PromptedBatch:
    """`batch`, of which the tokens of a prompt are not pooled, and PyTorch's outputs for it by name, of `tokens` [T, H]."""

    batch: TokenBatch
    outputs: Mapping[Output, Float32]


def prompted_batch(checkpoint: Checkpoint, golden: Golden) -> PromptedBatch | None:
    """A few golden texts as one batch, the first tokens of each marked as a prompt's; None where the mask marks no prompts."""
    if checkpoint.model.include_prompt:
        return None
    assert golden.token_ids is not None
    batch = _marked(golden.token_ids[:: -(-len(golden.token_ids) // _TEXTS)])
    laid_out = padded(batch)
    inputs = [torch.from_numpy(getattr(laid_out, name)) for name in checkpoint.inputs]
    outputs: dict[Output, Float32] = {}
    for name, output in zip(checkpoint.model.output_names, outputs_of(checkpoint, inputs), strict=True):
        outputs[name] = token_rows(output.numpy(), batch, laid_out.shape) if name == "tokens" else output.numpy()
    return PromptedBatch(batch=batch, outputs=outputs)


def token_batch(token_ids: Sequence[Sequence[int]]) -> TokenBatch:
    """Token ids as a batch that is padded with id 0, all of type 0. No ids at all are a row of padding, which no text becomes."""
    ids = np.array([token for ids in token_ids for token in ids], dtype=np.int32)
    return TokenBatch(ids, np.array([len(ids) for ids in token_ids], dtype=np.int32), np.zeros_like(ids))


def _marked(token_ids: Sequence[Sequence[int]]) -> TokenBatch:
    """`token_batch`, of each text the first tokens marked; one at least is left."""
    batch = token_batch(token_ids)
    return replace(batch, unpooled=np.minimum(_PROMPT_TOKENS, batch.lengths - 1))
