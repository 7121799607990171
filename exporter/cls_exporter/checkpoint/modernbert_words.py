"""ModernBERT's layers and rotations as transformers 5 writes them, in the words of transformers 4, which passes over the newer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING

from cls_exporter.errors import UnsupportedError, shown

_KINDS = ("full_attention", "sliding_attention")
_THETAS = dict(zip(_KINDS, ("global_rope_theta", "local_rope_theta"), strict=True))


def in_words_that_are_read(fields: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """The fields of a ModernBERT's config.json as the installed transformers reads them; `name` is the checkpoint's.

    Raises:
        UnsupportedError: transformers 4 has no words for them.
    """
    is_newer = hasattr(CONFIG_MAPPING["modernbert"](), "layer_types")
    return dict(fields) if is_newer else in_older_words(fields, name=name)


def in_older_words(fields: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """The fields with `layer_types` and `rope_parameters` said as transformers 4 says them.

    Raises:
        UnsupportedError: it cannot.
    """
    older = dict(fields)
    if fields.get("layer_types"):
        older["global_attn_every_n_layers"] = _global_every(fields["layer_types"], name=name)
    for kind, theta in _THETAS.items():
        rotation = (fields.get("rope_parameters") or {}).get(kind)
        if not isinstance(rotation, dict):
            continue
        if rotation.get("rope_type", "default") != "default":
            raise _needs_newer(name, f"rope_parameters {shown(rotation)} for {kind}")
        if "rope_theta" in rotation:
            older[theta] = rotation["rope_theta"]
    return older


def _global_every(layer_types: list[str], *, name: str) -> int:
    """n where every n-th layer sees all tokens, from the first on."""
    for every in range(1, len(layer_types) + 1):
        if layer_types == [_KINDS[bool(layer % every)] for layer in range(len(layer_types))]:
            return every
    raise _needs_newer(name, f"layer_types {shown(layer_types)}")


def _needs_newer(name: str, setting: str) -> UnsupportedError:
    return UnsupportedError(f"config.json of {name} has {setting}, which transformers 4 cannot compute; export with transformers 5")
