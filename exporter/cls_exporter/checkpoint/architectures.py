"""The table of supported architectures: how transformers builds each, and what its checkpoints look like.

An architecture is what a checkpoint's `model_type` says. Everything that loading must know about it beyond what transformers' own modules
do is a field here; what its graph must show after the passes is in `graph/families.py`. A new one is a line in each table, and a row in
the tests' parity matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cls_exporter.errors import UnsupportedError, shown

HeadKind = Literal["pooled", "sequence", "distilbert", "context", "modernbert"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One architecture.

    `head` is what its sequence classifier reads: `pooled` the pooler's output, `sequence` the CLS row through a dense layer of its own,
    and the three others a layout that only they have (see `checkpoint.heads`). `first_position` is the row of the table of positions that a
    text begins with, `pad_token_id + 1` or a fixed one, which shortens the longest text by as much. `reads_position_type` says that its
    models had relative positions for other values of `position_embedding_type` than 'absolute'; elsewhere that setting means nothing.
    `computed` are encoder parameters that are a formula, not weights: a checkpoint may lack them. `relative_positions` says that positions
    are computed between tokens, for texts of any length.
    """

    model_type: str
    encoder_class: str
    classifier_class: str
    has_pooler: bool
    head: HeadKind
    first_position: int | Literal["after_padding_id"] = 0
    reads_position_type: bool = True
    computed: tuple[str, ...] = ()
    relative_positions: bool = False

    def longest_input(self, config: Any) -> int:
        """The largest number of tokens (special ones included) that a model of this `config` has positions for."""
        first = int(config.pad_token_id) + 1 if self.first_position == "after_padding_id" else self.first_position
        return int(config.max_position_embeddings) - first

    def positions(self, config: Any) -> int | None:
        """The same where there is a table of positions, beyond which nothing can be computed; None where there is none."""
        has_table = not self.relative_positions or getattr(config, "position_biased_input", False)
        return self.longest_input(config) if has_table else None


_TABLE = (
    Architecture(
        model_type="bert", encoder_class="BertModel", classifier_class="BertForSequenceClassification", has_pooler=True, head="pooled"
    ),
    Architecture(
        model_type="roberta",
        encoder_class="RobertaModel",
        classifier_class="RobertaForSequenceClassification",
        has_pooler=True,
        head="sequence",
        first_position="after_padding_id",
    ),
    Architecture(
        model_type="xlm-roberta",
        encoder_class="XLMRobertaModel",
        classifier_class="XLMRobertaForSequenceClassification",
        has_pooler=True,
        head="sequence",
        first_position="after_padding_id",
    ),
    Architecture(
        model_type="camembert",
        encoder_class="CamembertModel",
        classifier_class="CamembertForSequenceClassification",
        has_pooler=True,
        head="sequence",
        first_position="after_padding_id",
    ),
    Architecture(
        model_type="distilbert",
        encoder_class="DistilBertModel",
        classifier_class="DistilBertForSequenceClassification",
        has_pooler=False,
        head="distilbert",
        reads_position_type=False,
    ),
    Architecture(
        model_type="electra",
        encoder_class="ElectraModel",
        classifier_class="ElectraForSequenceClassification",
        has_pooler=False,
        head="sequence",
    ),
    Architecture(
        model_type="mpnet",
        encoder_class="MPNetModel",
        classifier_class="MPNetForSequenceClassification",
        has_pooler=True,
        head="sequence",
        first_position=2,
        reads_position_type=False,
    ),
    Architecture(
        model_type="albert",
        encoder_class="AlbertModel",
        classifier_class="AlbertForSequenceClassification",
        has_pooler=True,
        head="pooled",
    ),
    Architecture(
        model_type="ernie",
        encoder_class="ErnieModel",
        classifier_class="ErnieForSequenceClassification",
        has_pooler=True,
        head="pooled",
    ),
    Architecture(
        model_type="deberta-v2",
        encoder_class="DebertaV2Model",
        classifier_class="DebertaV2ForSequenceClassification",
        has_pooler=False,
        head="context",
        reads_position_type=False,
        relative_positions=True,
    ),
    Architecture(
        model_type="roformer",
        encoder_class="RoFormerModel",
        classifier_class="RoFormerForSequenceClassification",
        has_pooler=False,
        head="sequence",
        reads_position_type=False,
        computed=("encoder.embed_positions.weight",),
    ),
    Architecture(
        model_type="modernbert",
        encoder_class="ModernBertModel",
        classifier_class="ModernBertForSequenceClassification",
        has_pooler=False,
        head="modernbert",
        reads_position_type=False,
        relative_positions=True,
    ),
)

ARCHITECTURES: Mapping[str, Architecture] = {architecture.model_type: architecture for architecture in _TABLE}


def architecture_of(config: Mapping[str, Any], *, where: str) -> Architecture:
    """The architecture of a checkpoint's `config.json`; `where` names the checkpoint in the error.

    Raises:
        UnsupportedError: `model_type` is missing or not in the table, or the configuration asks for what no encoder of the table does.
    """
    model_type = config.get("model_type")
    supported = ", ".join(ARCHITECTURES)
    if not model_type:
        raise UnsupportedError(f'{where}: config.json has no "model_type"; expected one of {supported}; add it to config.json')
    architecture = ARCHITECTURES.get(model_type) if isinstance(model_type, str) else None
    if architecture is None:
        raise UnsupportedError(f"{where} is a {shown(model_type)} model; supported architectures are {supported}")
    if config.get("is_decoder"):
        raise UnsupportedError(
            f"{where} is a decoder (is_decoder is {shown(config['is_decoder'])} in config.json): its first token sees no other; "
            "expected an encoder, set is_decoder to false if it was trained as one"
        )
    reads_position_type = architecture.reads_position_type or bool(config.get("auto_map"))
    if reads_position_type and config.get("position_embedding_type", "absolute") not in (None, "absolute"):
        raise UnsupportedError(
            f"{where} has position_embedding_type {shown(config['position_embedding_type'])}; "
            "transformers 5 no longer computes it, supported is 'absolute'"
        )
    if config.get("quantization_config"):
        raise UnsupportedError(
            f"{where} holds quantized weights (quantization_config in config.json); "
            "export the float checkpoint it was made from, and use --int8 to quantize"
        )
    return architecture
