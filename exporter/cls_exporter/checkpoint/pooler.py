"""The pooler: tanh of a dense layer on the CLS row, and whether it was ever trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cls_exporter.checkpoint.tensor_files import as_float32
from cls_exporter.errors import CheckpointError
from cls_runtime.bundle.manifest import Pooler

_NATIVE = ("pooler.dense.weight", "pooler.dense.bias")
_PLAIN = ("pooler.weight", "pooler.bias")


class TanhPooler(nn.Module):
    """tanh(W row + b), which is the pooler of every family that has one. [B, H] -> [B, H]."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.dense = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        self.dense.load_state_dict({"weight": weight, "bias": bias}, assign=True)

    def forward(self, row: Tensor) -> Tensor:
        """The pooled row."""
        return torch.tanh(self.dense(row))


@dataclass(frozen=True)
class FoundPooler:
    """The pooler's weights where the checkpoint has them, whether they were trained, and the names that they were stored under."""

    weights: tuple[Tensor, Tensor] | None
    state: Pooler
    names: tuple[str, ...] = ()


def find_pooler(rest: dict[str, Tensor], *, hidden: int, initializer_range: float) -> FoundPooler:
    """Looks for a pooler's weight and bias in `rest` (see `placement.Placement`).

    Raises:
        CheckpointError: there are two of them, one half is missing, or it is not [hidden, hidden].
    """
    present = [names for names in (_NATIVE, _PLAIN) if any(name in rest for name in names)]
    if not present:
        return FoundPooler(None, Pooler(state="absent", evidence="the checkpoint stores no pooler weights"))
    if len(present) > 1:
        raise CheckpointError(
            "the weights hold two poolers, pooler.dense.weight and pooler.weight; only one was trained and nothing says which; "
            "remove the other one from the checkpoint"
        )
    names = present[0]
    missing = [name for name in names if name not in rest]
    if missing:
        raise CheckpointError(f"the pooler lacks {missing[0]}; expected {names[0]} and {names[1]}")
    weight, bias = (as_float32(name, rest[name]) for name in names)
    if weight.shape != (hidden, hidden) or bias.shape != (hidden,):
        raise CheckpointError(
            f"the pooler's {names[0]} is {list(weight.shape)} and its bias {list(bias.shape)}; expected {[hidden, hidden]} and {[hidden]}"
        )
    return FoundPooler((weight, bias), judge_pooler(weight, bias, initializer_range=initializer_range), names)


def judge_pooler(weight: Tensor, bias: Tensor, *, initializer_range: float) -> Pooler:
    """Whether a pooler still is what its initializer made: `trained` or `untrained`, with the figures that say so.

    transformers draws weights from N(0, initializer_range) and sets biases to zero. A gradient moves every bias, so one bias that is not
    exactly zero is proof of training; with all at zero, the weights' spread and shape decide (within five standard errors and 5 %).
    torch's own default, for a bare `nn.Linear` in a wrapper, is uniform within 1/sqrt(H) for both.
    """
    values = weight.double().flatten()
    count, std, mean = values.numel(), float(values.std()), float(values.mean())
    kurtosis = float(((values - mean) ** 4).mean() / max(std, 1e-30) ** 4)
    figures = f"weight std {std:.5f} (initializer_range {initializer_range:g}), kurtosis {kurtosis:.2f} (normal 3), "
    if bool((bias == 0).all()):
        slack = 0.05 + 5 / math.sqrt(2 * count)
        as_drawn = (
            abs(std / initializer_range - 1) < slack
            and abs(mean) < 5 * initializer_range / math.sqrt(count) + 1e-4 * initializer_range
            and abs(kurtosis - 3) < 5 * math.sqrt(24 / count) + 0.1
        )
        if as_drawn:
            return Pooler(state="untrained", evidence=f"{figures}bias exactly zero: still as initialized")
        return Pooler(
            state="trained", evidence=f"{figures}bias exactly zero, but the weights are not as initialized (weight decay alone can do that)"
        )
    bound = 1 / math.sqrt(weight.shape[1])
    largest, largest_bias = float(values.abs().max()), float(bias.abs().max())
    uniform_std = bound / math.sqrt(3)
    if (
        0.99 * bound < largest <= bound * (1 + 1e-6)
        and largest_bias <= bound * (1 + 1e-6)
        and abs(std / uniform_std - 1) < 5 / math.sqrt(2 * count) + 0.005
        and abs(kurtosis - 1.8) < 5 * math.sqrt(24 / count) + 0.02
    ):
        return Pooler(
            state="untrained",
            evidence=f"weight and bias uniform within 1/sqrt(H) = {bound:.5f} (std {std:.5f}, kurtosis {kurtosis:.2f}): torch's default, "
            "still as initialized",
        )
    return Pooler(state="trained", evidence=f"{figures}largest bias {largest_bias:.5f}")
