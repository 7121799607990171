"""The PyTorch module that is traced, and that every exported vector is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cls_exporter.checkpoint.pooler import TanhPooler
from cls_runtime.bundle.manifest import Output, Pooling

HeadInput = Literal["hidden", "row", "pooled"]


class ClassifierHead(nn.Module):
    """A sequence classifier, and what it reads: all hidden states [B, S, H], the CLS row [B, H] or the pooled row [B, H]."""

    def __init__(self, module: nn.Module, *, reads: HeadInput) -> None:
        super().__init__()
        self.module = module
        self.reads = reads

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, labels]."""
        logits: Tensor = self.module(features)
        return logits


@dataclass(frozen=True, kw_only=True)
class RowModules:
    """What reads a row [B, H] of the last layer: `dense` the pooled one, the others the CLS row; None where nothing does.

    Attributes:
        dense: makes the sentence's vector of the pooled row.
        pooler: makes the pooled row.
        pooler_output: the pooled row is an output, not only what `head` reads.
        head: makes the logits.
    """

    dense: nn.Sequential | None = None
    pooler: TanhPooler | None = None
    pooler_output: bool = False
    head: ClassifierHead | None = None


class ClsModel(nn.Module):
    """An encoder, the sentence's vector, and what is computed from its CLS row.

    Always in eval mode. `output_names` gives the order of the outputs: `tokens` where every row is asked for, the sentence's vector as
    `cls` or, pooled by anything else, as `sentence`, then `pooler` and `logits` where they were asked for.

    Args:
        encoder: gives the rows of the last layer [B, S, H] first.
        row: what reads the CLS row, and what makes the sentence's vector of the pooled one.
        hidden: H.
        token_type_ids: whether the encoder takes them.
        pooling: `cls`, row 0; or `mean`, of the rows of a text's tokens.
        token_rows: every row is an output.
        include_prompt: False where a prompt's tokens are read and not pooled: the mask is 2 for them.

    Attributes:
        width: of the sentence's vector; the encoder's hidden size unless a Dense module follows.
        one_row: whether all outputs come of row 0 alone.
    """

    def __init__(
        self,
        encoder: nn.Module,
        row: RowModules,
        *,
        hidden: int,
        token_type_ids: bool,
        pooling: Pooling = "cls",
        token_rows: bool = False,
        include_prompt: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.dense = row.dense
        self.pooler = row.pooler
        self.head = row.head
        self.width = hidden if row.dense is None else int([layer.out_features for layer in row.dense if isinstance(layer, nn.Linear)][-1])
        self.pooling: Pooling = pooling
        self.token_rows = token_rows
        self.include_prompt = include_prompt
        self._token_type_ids = token_type_ids
        self._pooler_output = row.pooler_output
        self.eval()
        self.requires_grad_(requires_grad=False)

    @property
    def one_row(self) -> bool:
        """Whether nothing but row 0 of the last layer is needed."""
        return self.pooling == "cls" and self.include_prompt and not self.token_rows

    @property
    def sentence_output(self) -> Output:
        """The name of the sentence's vector: `cls` where it is made of row 0, else `sentence`."""
        return "cls" if self.pooling == "cls" else "sentence"

    @property
    def output_names(self) -> tuple[Output, ...]:
        """The names of `forward`'s outputs, in order."""
        named: list[tuple[Output, bool]] = [
            ("tokens", self.token_rows),
            (self.sentence_output, True),
            ("pooler", self._pooler_output),
            ("logits", self.head is not None),
        ]
        return tuple(name for name, is_there in named if is_there)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> tuple[Tensor, ...]:
        """Runs the encoder.

        Args:
            input_ids: int64 [B, S].
            attention_mask: int64 [B, S], 1 for a token and 0 for padding; 2 for a token that is not pooled, without `include_prompt`.
            token_type_ids: int64 [B, S]; ignored by a model that does not take it.

        Returns:
            float32 in the order of `output_names`: `tokens` [B, S, H], the sentence's vector [B, width], `pooler` [B, H] and `logits`
            [B, labels].
        """
        seen = attention_mask if self.include_prompt else (attention_mask != 0).to(attention_mask.dtype)
        if self._token_type_ids and token_type_ids is not None:
            hidden = self.encoder(input_ids=input_ids, attention_mask=seen, token_type_ids=token_type_ids)[0]
        else:
            hidden = self.encoder(input_ids=input_ids, attention_mask=seen)[0]
        row = hidden[:, 0]
        pooled = row if self.pooler is None else self.pooler(row)
        outputs = [hidden] if self.token_rows else []
        sentence = self._pooled(hidden, row, attention_mask)
        outputs.append(sentence if self.dense is None else self.dense(sentence))
        if self._pooler_output:
            outputs.append(pooled)
        if self.head is not None:
            outputs.append(self.head({"hidden": hidden, "row": row, "pooled": pooled}[self.head.reads]))
        return tuple(outputs)

    def _pooled(self, hidden: Tensor, row: Tensor, mask: Tensor) -> Tensor:
        """hidden [B, S, H], whose row 0 is `row`, -> [B, H], as sentence-transformers' Pooling computes it."""
        if self.pooling == "cls" and self.include_prompt:
            return row
        counted = mask if self.include_prompt else mask == 1
        return first_row(hidden, counted) if self.pooling == "cls" else mean_row(hidden, counted)


def mean_row(hidden: Tensor, counted: Tensor) -> Tensor:
    """The mean of the rows [B, S, H] whose place in `counted` [B, S] is true; zeros where none is."""
    weights = counted.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def first_row(hidden: Tensor, counted: Tensor) -> Tensor:
    """The first of the rows [B, S, H] whose place in `counted` [B, S] is true; row 0 where none is."""
    length = counted.shape[1]
    # By a minimum: ONNX Runtime has no CUDA kernel for ArgMax.
    first = torch.where(counted, torch.arange(length, device=counted.device), length).amin(1)
    first = torch.where(first < length, first, 0)
    return hidden.gather(1, first[:, None, None].expand(-1, 1, hidden.shape[-1])).squeeze(1)
