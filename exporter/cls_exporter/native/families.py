"""Where each family keeps its layers: transformers' modules, of version 4 or 5, as `LayerParts` and tables of embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cls_exporter.native.activations import activation_of
from cls_exporter.native.layers import LayerParts, Positions
from cls_exporter.native.packing import Heads, Matrix, array, norm, product, table
from cls_exporter.native.reasons import NotNativeError
from cls_runtime.engines.base import Float32
from cls_runtime.engines.native.weights import LANES, Embeddings, Rotation, padded

_WHERE = "the feed-forward layers"


@dataclass(frozen=True, kw_only=True)
class NativeFamily:
    """How a family's encoder is read; `length` is the longest text in tokens.

    Attributes:
        layers: its layers in order, one object as often as it is computed.
        parts: of one of them.
        embeddings: the tables.
        positions: of each of the layers.
        rotates: whether keys are rotated, so that they cannot be reassociated.
        final_norm: where the encoder keeps a norm behind the last layer.
    """

    layers: Callable[[Any], list[Any]]
    parts: Callable[[Any], LayerParts]
    embeddings: Callable[[Any, int], Embeddings]
    positions: Callable[[Any, Heads, int], list[Positions]] | None = None
    rotates: bool = False
    final_norm: Callable[[Any], Any] | None = None


def _bert_parts(layer: Any) -> LayerParts:
    own, output = layer.attention.self, layer.attention.output
    return LayerParts(
        queries=Matrix.of(own.query),
        keys=Matrix.of(own.key),
        values=Matrix.of(own.value),
        output=Matrix.of(output.dense),
        up=Matrix.of(layer.intermediate.dense),
        down=Matrix.of(layer.output.dense),
        attention_norm=output.LayerNorm,
        feed_forward_norm=layer.output.LayerNorm,
        activation=activation_of(layer.intermediate.intermediate_act_fn, where=_WHERE),
    )


def _mpnet_parts(layer: Any) -> LayerParts:
    own = layer.attention.attn
    return LayerParts(
        queries=Matrix.of(own.q),
        keys=Matrix.of(own.k),
        values=Matrix.of(own.v),
        output=Matrix.of(own.o),
        up=Matrix.of(layer.intermediate.dense),
        down=Matrix.of(layer.output.dense),
        attention_norm=layer.attention.LayerNorm,
        feed_forward_norm=layer.output.LayerNorm,
        activation=activation_of(layer.intermediate.intermediate_act_fn, where=_WHERE),
    )


def _distilbert_parts(layer: Any) -> LayerParts:
    own = layer.attention
    return LayerParts(
        queries=Matrix.of(own.q_lin),
        keys=Matrix.of(own.k_lin),
        values=Matrix.of(own.v_lin),
        output=Matrix.of(own.out_lin),
        up=Matrix.of(layer.ffn.lin1),
        down=Matrix.of(layer.ffn.lin2),
        attention_norm=layer.sa_layer_norm,
        feed_forward_norm=layer.output_layer_norm,
        activation=activation_of(layer.ffn.activation, where=_WHERE),
    )


def _albert_parts(layer: Any) -> LayerParts:
    own = layer.attention
    return LayerParts(
        queries=Matrix.of(own.query),
        keys=Matrix.of(own.key),
        values=Matrix.of(own.value),
        output=Matrix.of(own.dense),
        up=Matrix.of(layer.ffn),
        down=Matrix.of(layer.ffn_output),
        attention_norm=own.LayerNorm,
        feed_forward_norm=layer.full_layer_layer_norm,
        activation=activation_of(layer.activation, where=_WHERE),
    )


def _roformer_parts(layer: Any) -> LayerParts:
    """A head's pairs 2i and 2i + 1 become the places i and D / 2 + i, which is how the kernels turn them."""
    parts, own = _bert_parts(layer), layer.attention.self
    if own.rotary_value:
        raise NotNativeError("rotary_value, which rotates values too")
    size = int(own.attention_head_size)
    pairs = np.concatenate([np.arange(0, size, 2), np.arange(1, size, 2)])
    order = (np.arange(own.num_attention_heads)[:, None] * size + pairs).ravel()
    return LayerParts(**{**vars(parts), "queries": parts.queries.rows(order), "keys": parts.keys.rows(order)})


def _modernbert_parts(layer: Any) -> LayerParts:
    projection = Matrix.of(layer.attn.Wqkv)
    width = len(projection.bias) // 3
    queries, keys, values = (projection.rows(np.arange(width) + place * width) for place in range(3))
    identity = isinstance(layer.attn_norm, torch.nn.Identity)
    return LayerParts(
        queries=queries,
        keys=keys,
        values=values,
        output=Matrix.of(layer.attn.Wo),
        up=Matrix.of(layer.mlp.Wi),
        down=Matrix.of(layer.mlp.Wo),
        attention_norm=None if identity else layer.attn_norm,
        feed_forward_norm=layer.mlp_norm,
        activation=activation_of(layer.mlp.act, where=_WHERE),
        settings={"pre_norm": True, "gated": True},
    )


def _albert_layers(encoder: Any) -> list[Any]:
    config, groups = encoder.config, encoder.encoder.albert_layer_groups
    by_group = config.num_hidden_layers / config.num_hidden_groups
    return [layer for place in range(config.num_hidden_layers) for layer in groups[int(place / by_group)].albert_layers]


def _embeddings(encoder: Any, length: int, projection: Any = None, *, counted: bool = False) -> Embeddings:
    """BERT's kin. `counted` positions begin behind the padding's number, and tokens of that id have none."""
    own = encoder.embeddings
    padding = int(own.padding_idx) if counted else None
    first = 0 if padding is None else padding + 1
    types = getattr(own, "token_type_embeddings", None)
    positions = getattr(own, "position_embeddings", None)
    token_types = None if types is None else array(types.weight)
    tasks = getattr(own, "task_type_embeddings", None)
    if tasks is not None:  # every token is of the first task
        assert token_types is not None
        token_types = token_types + array(tasks.weight)[:1]
    return Embeddings(
        words=table(own.word_embeddings.weight),
        token_types=None if token_types is None else table(token_types),
        positions=None if positions is None else table(positions.weight[: first + length]),
        position_offset=first,
        position_padding_id=padding,
        norm=norm(own.LayerNorm),
        projection=None if projection is None else product(Matrix.of(projection)),
    )


def _counted_embeddings(encoder: Any, length: int) -> Embeddings:
    return _embeddings(encoder, length, counted=True)


def _projected_embeddings(encoder: Any, length: int) -> Embeddings:
    return _embeddings(encoder, length, getattr(encoder, "embeddings_project", None))


def _albert_embeddings(encoder: Any, length: int) -> Embeddings:
    return _embeddings(encoder, length, encoder.encoder.embedding_hidden_mapping_in)


def _modernbert_embeddings(encoder: Any, length: int) -> Embeddings:
    del length  # positions are in the rotation
    return Embeddings(words=table(encoder.embeddings.tok_embeddings.weight), norm=norm(encoder.embeddings.norm))


def _mpnet_positions(encoder: Any, heads: Heads, length: int) -> list[Positions]:
    """The bias of each distance, key - query, by head."""
    own = encoder.encoder
    buckets = own.relative_position_bucket(torch.arange(1 - length, length))
    distances = array(own.relative_attention_bias.weight)[buckets.numpy()].T
    wide = np.zeros((heads.count, padded(2 * length - 1, LANES)), np.float32)
    wide[:, : 2 * length - 1] = distances
    return [Positions(distances=wide)] * len(own.layer)


def _roformer_positions(encoder: Any, heads: Heads, length: int) -> list[Positions]:
    del heads
    rows = array(encoder.encoder.embed_positions.weight)[:length]
    half = rows.shape[1] // 2
    turned = Rotation(cosines=np.ascontiguousarray(rows[:, half:]), sines=np.ascontiguousarray(rows[:, :half]))
    return [Positions(rotation=turned)] * len(encoder.encoder.layer)


def _modernbert_positions(encoder: Any, heads: Heads, length: int) -> list[Positions]:
    """Each kind of layer has frequencies of its own; in transformers 4 each layer keeps them."""
    del heads
    made: dict[tuple[bytes, float], Rotation] = {}
    positions = []
    for layer in encoder.layers:
        frequencies, scaling, window = _rotary(encoder, layer)
        key = (frequencies.tobytes(), scaling)
        if key not in made:
            made[key] = _rotation(frequencies, scaling, length)
        positions.append(Positions(rotation=made[key], window=window))
    return positions


def _rotary(encoder: Any, layer: Any) -> tuple[Float32, float, int]:
    """A layer's frequencies, what its cosines and sines are multiplied by, and its window; 0 for all keys."""
    kind = getattr(layer, "attention_type", None)
    if kind is None:
        own, local = layer.attn.rotary_emb, layer.attn.local_attention != (-1, -1)
        frequencies, scaling = own.inv_freq, own.attention_scaling
    else:
        own, local = encoder.rotary_emb, kind == "sliding_attention"
        frequencies, scaling = getattr(own, f"{kind}_inv_freq"), getattr(own, f"{kind}_attention_scaling")
    window = int(encoder.config.local_attention) // 2
    if local and window < 1:
        raise NotNativeError(f"local_attention {encoder.config.local_attention}, a window of one token")
    return array(frequencies), float(scaling), window if local else 0


def _rotation(frequencies: Float32, scaling: float, length: int) -> Rotation:
    """The angles are rounded as PyTorch rounds them."""
    angles = (np.arange(length, dtype=np.float32)[:, None] * frequencies).astype(np.float64)
    return Rotation(cosines=(np.cos(angles) * scaling).astype(np.float32), sines=(np.sin(angles) * scaling).astype(np.float32))


def _layers(encoder: Any) -> list[Any]:
    return list(encoder.encoder.layer)


_BERT = NativeFamily(layers=_layers, parts=_bert_parts, embeddings=_embeddings)
_ROBERTA = NativeFamily(layers=_layers, parts=_bert_parts, embeddings=_counted_embeddings)

FAMILIES: Mapping[str, NativeFamily] = {
    "bert": _BERT,
    "ernie": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": NativeFamily(layers=_layers, parts=_bert_parts, embeddings=_projected_embeddings),
    "distilbert": NativeFamily(layers=lambda encoder: list(encoder.transformer.layer), parts=_distilbert_parts, embeddings=_embeddings),
    "albert": NativeFamily(layers=_albert_layers, parts=_albert_parts, embeddings=_albert_embeddings),
    "mpnet": NativeFamily(layers=_layers, parts=_mpnet_parts, embeddings=_counted_embeddings, positions=_mpnet_positions),
    "roformer": NativeFamily(
        layers=_layers, parts=_roformer_parts, embeddings=_projected_embeddings, positions=_roformer_positions, rotates=True
    ),
    "modernbert": NativeFamily(
        layers=lambda encoder: list(encoder.layers),
        parts=_modernbert_parts,
        embeddings=_modernbert_embeddings,
        positions=_modernbert_positions,
        rotates=True,
        final_norm=lambda encoder: encoder.final_norm,
    ),
}
