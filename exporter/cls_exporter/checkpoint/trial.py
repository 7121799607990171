"""A checkpoint's module computes a batch, or an export ends with PyTorch's reason: what config.json describes need not fit together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cls_exporter.checkpoint.load import Checkpoint
from cls_exporter.errors import as_checkpoint_error

_SHAPE = (3, 16)  # neither 1 nor a size of the model, or a tracer would take it for a constant


def outputs_of(checkpoint: Checkpoint, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The outputs of the checkpoint's module for int64 [B, S] of each of its inputs.

    Raises:
        CheckpointError: PyTorch cannot compute them.
    """
    name = checkpoint.name
    with (
        as_checkpoint_error(lambda reason: f"config.json of {name} describes a model that PyTorch cannot compute ({reason}); correct it"),
        torch.no_grad(),
    ):
        outputs: tuple[Tensor, ...] = checkpoint.model(*inputs)
    return outputs


def example_inputs(checkpoint: Checkpoint) -> tuple[Tensor, ...]:
    """int64 [B, S] for each of the checkpoint's inputs: ids all over the vocabulary, a text that is half padding."""
    batch, length = _SHAPE[0], min(_SHAPE[1], checkpoint.max_length)
    ids = (torch.arange(batch * length).reshape(batch, length) * 31 + 7) % int(checkpoint.config.vocab_size)
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    examples = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return tuple(examples[name] for name in checkpoint.inputs)


def check_computes(checkpoint: Checkpoint) -> None:
    """Runs the checkpoint's module once, on a small batch.

    Raises:
        CheckpointError: PyTorch cannot.
    """
    outputs_of(checkpoint, example_inputs(checkpoint))
