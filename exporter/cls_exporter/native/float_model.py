"""A checkpoint's PyTorch modules as a `NativeModel` in float32."""

from __future__ import annotations

from typing import Any

from torch import nn

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.native.families import FAMILIES
from cls_exporter.native.heads import heads_of
from cls_exporter.native.layers import LayerParts, Positions, layer_of
from cls_exporter.native.packing import Heads, norm
from cls_exporter.native.reasons import NotNativeError
from cls_runtime.engines.native.sizes import check_sizes
from cls_runtime.engines.native.weights import Layer, NativeModel


def float_model(checkpoint: Checkpoint) -> NativeModel:
    """The whole model in float32; the last layer has the form for one row where its outputs need no more.

    Raises:
        NotNativeError: the kernels do not compute something of it.
    """
    model, family = checkpoint.model, FAMILIES.get(checkpoint.architecture.model_type)
    if family is None:
        raise NotNativeError(f"the layers of {checkpoint.architecture.model_type}")
    if checkpoint.stored_config.get("auto_map"):
        raise NotNativeError("the checkpoint's own code")
    encoder: Any = model.encoder
    modules = family.layers(encoder)
    heads = Heads(count=int(checkpoint.config.num_attention_heads), size=_head_size(checkpoint))
    length = checkpoint.max_length
    positions = [Positions()] * len(modules) if family.positions is None else family.positions(encoder, heads, length)
    one_row = model.pooling == "cls" and not model.token_rows and not family.rotates
    made = NativeModel(
        hidden_size=int(checkpoint.config.hidden_size),
        heads=heads.count,
        head_size=heads.size,
        max_length=length,
        mean_pooled=model.pooling == "mean",
        embeddings=family.embeddings(encoder, length),
        layers=_layers_of(modules, [family.parts(layer) for layer in modules], heads, positions, one_row=one_row),
        final_norm=None if family.final_norm is None else norm(family.final_norm(encoder)),
        output_heads=heads_of(model),
        widths=_widths(checkpoint),
        recipe={"weights": "float32"},
    )
    try:
        check_sizes(made)
    except ValueError as error:
        raise NotNativeError(f"a model of these sizes ({error})") from None
    return made


def _head_size(checkpoint: Checkpoint) -> int:
    return int(checkpoint.config.hidden_size) // int(checkpoint.config.num_attention_heads)


def _layers_of(
    modules: list[Any], parts: list[LayerParts], heads: Heads, positions: list[Positions], *, one_row: bool
) -> tuple[Layer, ...]:
    """Each module and place once, so that layers that share weights are one; the last may have another attention."""
    made: dict[tuple[int, int, bool], Layer] = {}
    layers = []
    for place, (module, part, position) in enumerate(zip(modules, parts, positions, strict=True)):
        key = (id(module), id(position), one_row and place == len(modules) - 1)
        if key not in made:
            made[key] = layer_of(part, heads, position, one_row=key[2])
        layers.append(made[key])
    return tuple(layers)


def _widths(checkpoint: Checkpoint) -> dict[str, int]:
    """Numbers of each output; `cls` and `sentence` are one thing."""
    model, hidden = checkpoint.model, int(checkpoint.config.hidden_size)
    widths = {"tokens": hidden, "sentence": model.width, "cls": model.width, "pooler": hidden}
    if model.head is not None:
        widths["logits"] = [part.out_features for part in model.head.modules() if isinstance(part, nn.Linear)][-1]
    return {"sentence" if name == "cls" else name: widths[name] for name in model.output_names}
