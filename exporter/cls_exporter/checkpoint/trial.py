"""One small batch through a checkpoint's module: what config.json describes must be something that PyTorch computes."""

from __future__ import annotations

import torch
from torch import Tensor

from cls_exporter.checkpoint.load import Checkpoint
from cls_exporter.errors import as_checkpoint_error

_SHAPE = (3, 16)  # neither 1 nor a size of the model, or a tracer would take it for a constant


def example_inputs(checkpoint: Checkpoint) -> tuple[Tensor, ...]:
    """int64 [B, S] for each of the checkpoint's inputs: ids all over the vocabulary, a text that is half padding."""
    batch, length = _SHAPE[0], min(_SHAPE[1], checkpoint.max_length)
    ids = (torch.arange(batch * length).reshape(batch, length) * 31 + 7) % int(checkpoint.config.vocab_size)
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    examples = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return tuple(examples[name] for name in checkpoint.inputs)


def check_computes(checkpoint: Checkpoint) -> None:
    """Runs the checkpoint's module once.

    Raises:
        CheckpointError: PyTorch cannot; the message has its reason.
    """
    with (
        as_checkpoint_error(
            lambda reason: f"config.json of {checkpoint.name} describes a model that PyTorch cannot compute ({reason}); correct it"
        ),
        torch.inference_mode(),
    ):
        checkpoint.model(*example_inputs(checkpoint))
