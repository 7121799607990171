"""Settings of single families with which no model can be computed, or none that one graph can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cls_exporter.errors import CheckpointError, UnsupportedError, shown

_LOOK_UP_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "albert", "ernie", "roformer")
_CROSS_ATTENTION = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie", "roformer")
_ROTATE = ("roformer", "modernbert")
_MPNET_BUCKETS = 32  # transformers computes as many, whatever relative_attention_num_buckets says
_BY_LENGTH = ("dynamic", "longrope")  # rotations with other angles for longer texts


def check_family_settings(config: Any, stored: Mapping[str, Any], *, name: str) -> None:
    """Holds the settings of a family to what its models can be; `config` is transformers', `stored` the file's, `name` the checkpoint's.

    Raises:
        CheckpointError: no model can be computed with a setting.
        UnsupportedError: a model can, but no encoder, or by no single graph.
    """
    family = stored["model_type"]
    where = f"config.json of {name} has"
    if family in _CROSS_ATTENTION and getattr(config, "add_cross_attention", False):
        raise UnsupportedError(
            f"{where} add_cross_attention, which is a decoder's; expected an encoder, set it to false if it was trained as one"
        )
    for field in _tables(family, config):
        if getattr(config, field) == 0:
            raise CheckpointError(f"{where} {field} 0, and a {family} model looks one up for every token; expected at least 1")
    if family == "mpnet" and config.relative_attention_num_buckets < _MPNET_BUCKETS:
        raise CheckpointError(
            f"{where} relative_attention_num_buckets {config.relative_attention_num_buckets}; transformers computes {_MPNET_BUCKETS} "
            "in any case; expected at least as many"
        )
    kernel = getattr(config, "conv_kernel_size", 0) if family == "deberta-v2" else 0
    if kernel and kernel % 2 == 0:
        raise CheckpointError(f"{where} conv_kernel_size {kernel}; expected an odd one, an even one gives fewer rows than there are tokens")
    size = config.hidden_size // config.num_attention_heads
    if family in _ROTATE and size % 2:
        raise CheckpointError(
            f"{where} hidden_size {config.hidden_size} and num_attention_heads {config.num_attention_heads}; expected heads of an even "
            f"size, since a {family} model rotates pairs of their numbers"
        )
    for rotation in _rotations(stored) if family == "modernbert" else ():
        _check_rotation(rotation, where=where)


def _tables(family: str, config: Any) -> list[str]:
    """The settings that give the number of rows of tables in which every token looks one up."""
    return [
        *(["type_vocab_size"] if family in _LOOK_UP_TYPES else []),
        *(["task_type_vocab_size"] if family == "ernie" and config.use_task_id else []),
    ]


def _rotations(stored: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The objects of config.json that say how positions become angles."""
    objects = [stored.get("rope_scaling"), *(stored.get("rope_parameters") or {}).values()]
    return [item for item in objects if isinstance(item, dict)]


def _check_rotation(rotation: Mapping[str, Any], *, where: str) -> None:
    kind = rotation.get("rope_type")
    if kind in _BY_LENGTH or rotation.get("type") in _BY_LENGTH:
        raise UnsupportedError(
            f"{where} the rope_type {shown(kind or rotation['type'])}, with other angles for longer texts, which one graph for all lengths "
            "does not compute; expected one without, such as 'default', 'linear' or 'yarn'"
        )
    if kind is None and rotation.get("type") not in (None, "default"):
        raise UnsupportedError(
            f"{where} a rotation of the type {shown(rotation['type'])}, which transformers 4 follows and transformers 5 passes over; "
            "write it as rope_type if the model was trained with it, else remove it"
        )
