"""The PyTorch module that is traced, and that every exported vector is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from cls_exporter.checkpoint.pooler import TanhPooler

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
    """What reads the CLS row [B, H]; None where nothing does.

    Attributes:
        dense: makes the `cls` output of it.
        pooler: makes the pooled row.
        pooler_output: the pooled row is an output, not only what `head` reads.
        head: makes the logits.
    """

    dense: nn.Sequential | None = None
    pooler: TanhPooler | None = None
    pooler_output: bool = False
    head: ClassifierHead | None = None


class ClsModel(nn.Module):
    """An encoder and what is computed from its CLS row.

    Always in eval mode. `output_names` gives the order of the outputs: `cls`, then `pooler` and `logits` where they were asked for.

    Attributes:
        width: of the `cls` output; the encoder's hidden size unless a Dense module follows.
    """

    def __init__(self, encoder: nn.Module, row: RowModules, *, hidden: int, token_type_ids: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.dense = row.dense
        self.pooler = row.pooler
        self.head = row.head
        self.width = hidden if row.dense is None else int([layer.out_features for layer in row.dense if isinstance(layer, nn.Linear)][-1])
        self._token_type_ids = token_type_ids
        self._pooler_output = row.pooler_output
        self.eval()
        self.requires_grad_(requires_grad=False)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of `forward`'s outputs, in order."""
        return ("cls", *(["pooler"] if self._pooler_output else []), *(["logits"] if self.head is not None else []))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> tuple[Tensor, ...]:
        """Runs the encoder.

        Args:
            input_ids: int64 [B, S].
            attention_mask: int64 [B, S], 1 for a token and 0 for padding.
            token_type_ids: int64 [B, S]; ignored by a model that does not take it.

        Returns:
            float32 `cls` [B, width], then `pooler` [B, H] and `logits` [B, labels] where they were asked for.
        """
        if self._token_type_ids and token_type_ids is not None:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)[0]
        else:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        row = hidden[:, 0]
        pooled = row if self.pooler is None else self.pooler(row)
        outputs = [row if self.dense is None else self.dense(row)]
        if self._pooler_output:
            outputs.append(pooled)
        if self.head is not None:
            outputs.append(self.head({"hidden": hidden, "row": row, "pooled": pooled}[self.head.reads]))
        return tuple(outputs)
