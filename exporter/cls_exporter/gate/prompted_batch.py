"""A batch with marked prompts: what a graph that reads a prompt and does not pool it takes, and what PyTorch makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.checkpoint.trial import outputs_of
from cls_runtime.bundle.golden import Golden
from cls_runtime.bundle.manifest import Output
from cls_runtime.encoding.batching import pad
from cls_runtime.encoding.tokenizer import TokenizedText
from cls_runtime.engines.padding import PaddedBatch

Float32 = NDArray[np.float32]

_TEXTS = 8
_PROMPT_TOKENS = 4  # of a text that has more


@dataclass(frozen=True, kw_only=True)
class PromptedBatch:
    """`batch`, whose mask is 2 for the tokens of a prompt, and PyTorch's outputs for it by name."""

    batch: PaddedBatch
    outputs: Mapping[Output, Float32]


def prompted_batch(checkpoint: Checkpoint, golden: Golden) -> PromptedBatch | None:
    """A few golden texts as one batch, the first tokens of each marked as a prompt's; None where the mask marks no prompts."""
    if checkpoint.model.include_prompt:
        return None
    assert golden.token_ids is not None
    batch = _marked(golden.token_ids[:: -(-len(golden.token_ids) // _TEXTS)])
    inputs = [torch.from_numpy(getattr(batch, name)) for name in checkpoint.inputs]
    outputs = [output.numpy() for output in outputs_of(checkpoint, inputs)]
    return PromptedBatch(batch=batch, outputs=dict(zip(checkpoint.model.output_names, outputs, strict=True)))


def padded(token_ids: Sequence[Sequence[int]]) -> PaddedBatch:
    """Token ids as arrays, padded with id 0 on the right, all of type 0."""
    return pad([TokenizedText(np.array(ids, dtype=np.int32), np.zeros(len(ids), dtype=np.int32), removed=0) for ids in token_ids], pad_id=0)


def _marked(token_ids: Sequence[Sequence[int]]) -> PaddedBatch:
    """`padded`, with the first tokens of each text marked by a 2; one at least is left."""
    batch = padded(token_ids)
    for row, ids in zip(batch.attention_mask, token_ids, strict=True):
        row[: min(_PROMPT_TOKENS, len(ids) - 1)] = 2
    return batch
