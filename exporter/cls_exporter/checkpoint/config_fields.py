"""What each field of config.json may be, checked before transformers computes or allocates anything by it.

Only what the supported encoders read is listed. Whether sizes fit the weights is decided by the weights (`checkpoint.encoder`). Programs
and people write numbers as texts and whole numbers with a point, here and in other files: `as_integer` and `as_number` read them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers.activations import ACT2FN

from cls_exporter.checkpoint.architectures import Architecture
from cls_exporter.errors import CheckpointError, shown

_LARGEST = 2**31 - 1
_LAYERS = 256
_LABELS = 2**20
_LABEL_CHARACTERS = 1000
# Numbers in a table that transformers computes one by one in Python; the largest that was published has 1,536 rows of 64.
_COMPUTED_NUMBERS = 2**22
_WRITTEN_INTEGER = re.compile(r"-?[0-9]{1,40}")
_WRITTEN_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")


def as_integer(value: Any) -> Any:
    """The integer that a value from JSON certainly means, 64 for 64.0 and "64"; any other value as it is."""
    if isinstance(value, str) and _WRITTEN_INTEGER.fullmatch(value):
        return int(value)
    number = as_number(value)
    return int(number) if isinstance(number, float) and number.is_integer() else value


def as_number(value: Any) -> Any:
    """The number that a value from JSON certainly means, 1e-12 for "1e-12"; any other value as it is."""
    return float(value) if isinstance(value, str) and _WRITTEN_NUMBER.fullmatch(value) else value


@dataclass(frozen=True)
class _Field:
    """What a value must be, in words and as a test of what `read` makes of it. `null_is_absent`: null says no more than a missing field."""

    expected: str
    accepts: Callable[[Any], bool]
    read: Callable[[Any], Any] = lambda value: value
    null_is_absent: bool = False


def is_integer(value: Any, low: int, high: int = _LARGEST) -> bool:
    """Whether a value from JSON is an integer, which true and false are not, in a range."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _integers(low: int, high: int = _LARGEST) -> _Field:
    return _Field(f"an integer from {low} to {high}", lambda value: is_integer(value, low, high), as_integer)


def _numbers(words: str, accepts: Callable[[float], bool]) -> _Field:
    return _Field(f"a number {words}", lambda value: is_number(value) and accepts(value), as_number)


def _or_null(field: _Field, *, is_absent: bool = False) -> _Field:
    return _Field(f"{field.expected} or null", lambda value: value is None or field.accepts(value), field.read, is_absent)


def _are_labels(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= _LABELS
        and all(isinstance(label, (str, int)) and len(str(label)) <= _LABEL_CHARACTERS for label in value.values())
    )


_SIZE = _integers(1)
_COUNT = _integers(0)
_LAYER_COUNT = _integers(1, _LAYERS)
_SHARE = _numbers("from 0 to 1", lambda value: 0 <= value <= 1)
_POSITIVE = _numbers("above 0 and at most 1e9", lambda value: 0 < value <= 10**9)
_EPSILON = _numbers("above 0 and at most 1", lambda value: 0 < value <= 1)
_SWITCH = _Field("true or false", lambda value: isinstance(value, bool))
_ACTIVATION = _Field("the name of an activation that transformers has", lambda value: isinstance(value, str) and value in ACT2FN)
_WORDS = _Field("a list of names", lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value))

_FIELDS: Mapping[str, _Field] = {
    **dict.fromkeys(("hidden_size", "dim", "num_attention_heads", "n_heads", "intermediate_size", "hidden_dim", "vocab_size"), _SIZE),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "num_hidden_groups", "inner_group_num"), _LAYER_COUNT),
    **dict.fromkeys(("max_position_embeddings", "local_attention", "global_attn_every_n_layers", "relative_attention_num_buckets"), _SIZE),
    **dict.fromkeys(("embedding_size", "pooler_hidden_size"), _or_null(_SIZE, is_absent=True)),
    **dict.fromkeys(("type_vocab_size", "conv_kernel_size", "task_type_vocab_size"), _COUNT),
    **dict.fromkeys(("position_buckets", "max_relative_positions"), _integers(-1)),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "cls_token_id", "sep_token_id"), _or_null(_integers(-1))),
    **dict.fromkeys(("hidden_act", "activation", "hidden_activation", "pooler_hidden_act", "classifier_activation"), _ACTIVATION),
    **dict.fromkeys(("layer_norm_eps", "norm_eps"), _EPSILON),
    **dict.fromkeys(
        ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "embedding_dropout", "mlp_dropout"),
        _or_null(_SHARE, is_absent=True),
    ),
    **dict.fromkeys(("classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout", "pooler_dropout"), _or_null(_SHARE)),
    **dict.fromkeys(("rope_theta", "global_rope_theta", "local_rope_theta"), _or_null(_POSITIVE)),
    "initializer_range": _or_null(_POSITIVE, is_absent=True),
    **dict.fromkeys(("relative_attention", "position_biased_input", "share_att_key", "rotary_value", "sinusoidal_pos_embds"), _SWITCH),
    **dict.fromkeys(("norm_bias", "mlp_bias", "attention_bias", "classifier_bias", "use_task_id", "tie_word_embeddings"), _SWITCH),
    **dict.fromkeys(("rope_parameters", "rope_scaling"), _or_null(_Field("an object", lambda value: isinstance(value, dict)))),
    **dict.fromkeys(("architectures", "layer_types"), _or_null(_WORDS)),
    "norm_rel_ebd": _Field("a text", lambda value: isinstance(value, str)),
    "pruned_heads": _or_null(_Field("an object", lambda value: isinstance(value, dict)), is_absent=True),
    "pos_att_type": _or_null(_Field("a name or a list of names", lambda value: isinstance(value, str) or _WORDS.accepts(value))),
    "id2label": _or_null(_Field(f"an object of labels of at most {_LABEL_CHARACTERS} characters", _are_labels)),
    "label2id": _or_null(_Field("an object", lambda value: isinstance(value, dict))),
    "num_labels": _or_null(_integers(0, _LABELS)),
}


# What another file may say in config.json's place (see `checkpoint.sentence_settings`): all that decides an encoder's vectors, and no more.
FOLLOWED_FIELDS = frozenset(_FIELDS) - {"architectures"} | {"is_decoder", "position_embedding_type"}


def read_fields(stored: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """config.json with each known field as what it means; `name` is the checkpoint's in the error.

    Raises:
        CheckpointError: a field is of another type, or out of any range that makes sense.
    """
    read: dict[str, Any] = {}
    for field, value in stored.items():
        kind = _FIELDS.get(field)
        if kind is None:
            read[field] = value
        elif not kind.accepts(kind.read(value)):
            raise CheckpointError(
                f"config.json of {name} has {field} {shown(value)}; expected {kind.expected}; correct it or fetch it again"
            )
        elif value is not None or not kind.null_is_absent:
            read[field] = kind.read(value)
    return read


def check_sizes(config: Any, architecture: Architecture, *, name: str) -> None:
    """Holds the sizes of transformers' `config`, defaults included, to each other.

    Raises:
        CheckpointError: heads do not divide the hidden size, the padding token has no row, or no position is left for a text.
    """
    where = f"config.json of {name} has"
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    if hidden % heads:
        raise CheckpointError(f"{where} hidden_size {hidden} and num_attention_heads {heads}; expected a multiple of the heads")
    padding = config.pad_token_id
    if padding is None and architecture.first_position == "after_padding_id":
        raise CheckpointError(f"{where} no pad_token_id, which a {architecture.model_type} model counts its positions from")
    if padding is not None and padding >= config.vocab_size:
        raise CheckpointError(f"{where} pad_token_id {padding} and vocab_size {config.vocab_size}; expected an id below vocab_size")
    if architecture.longest_input(config) < 1:
        raise CheckpointError(
            f"{where} max_position_embeddings {config.max_position_embeddings}, all of which padding takes; expected more positions"
        )
    if architecture.computed and config.max_position_embeddings * (hidden // heads) > _COMPUTED_NUMBERS:
        raise CheckpointError(
            f"{where} max_position_embeddings {config.max_position_embeddings}; expected at most "
            f"{_COMPUTED_NUMBERS // (hidden // heads)}, since this model's table of positions is computed"
        )
