"""A native model computed once more, in float64 and as one would write it down: no panels, no lanes, no reassociation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cls_runtime.engines.base import TokenBatch
from cls_runtime.engines.native.weights import Layer, NativeModel, Norm, Product, unpacked_floats, unpacked_integers

_ERF = np.vectorize(math.erf)
ACTIVATIONS: dict[str, Any] = {
    "identity": lambda x: x,
    "gelu": lambda x: x * (1 + _ERF(x / math.sqrt(2))) / 2,
    "gelu_coarse": lambda x: x * (1 + _ERF(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def plain_output(model: NativeModel, batch: TokenBatch, output: str) -> Any:
    """[B, width], of `tokens` [T, width]; int8 weights are multiplied by what their rows would be unquantized."""
    rows = []
    for index, (begin, end) in enumerate(zip(batch.offsets[:-1], batch.offsets[1:], strict=True)):
        types = batch.token_type_ids
        x = _embedded(model, batch.input_ids[begin:end], None if types is None else types[begin:end])
        for layer in model.layers:
            x = _layer(model, layer, x)
        x = _norm(x, model.final_norm)
        skipped = 0 if batch.unpooled is None else int(batch.unpooled[index])
        if output == "tokens":
            rows.append(x[:, : model.hidden_size])
            continue
        if output != "sentence":
            row = x[0]
        elif not model.mean_pooled:
            row = x[skipped if skipped < len(x) else 0]
        else:
            row = x[skipped:].mean(axis=0) if skipped < len(x) else np.zeros_like(x[0])
        for step in model.output_heads.get(output, ()):
            row = _norm(ACTIVATIONS[step.activation](_product(row[None], step.product)), step.norm)[0]
        rows.append(row[None, : model.widths[output]])
    return np.concatenate(rows)


def _embedded(model: NativeModel, ids: Any, types: Any) -> Any:
    tables = model.embeddings
    x = tables.words[ids].astype(np.float64)
    if tables.token_types is not None:
        x = x + tables.token_types[np.zeros_like(ids) if types is None else types]
    if tables.positions is not None:
        padding = tables.position_padding_id
        place, places = 0, []
        for token in ids:
            if padding is None:
                places.append(len(places) + tables.position_offset)
            elif token == padding:
                places.append(padding)
            else:
                place += 1
                places.append(padding + place)
        x = x + tables.positions[places]
    x = _norm(x, tables.norm)
    return x if tables.projection is None else _product(x, tables.projection)


def _layer(model: NativeModel, layer: Layer, x: Any) -> Any:
    attended = _attention(model, layer, _norm(x, layer.attention_norm) if layer.pre_norm else x)
    x = x + _product(attended, layer.attention_output)
    if not layer.pre_norm:
        x = _norm(x, layer.attention_norm)
    inner = _product(_norm(x, layer.feed_forward_norm) if layer.pre_norm else x, layer.up)
    activation = ACTIVATIONS[layer.activation]
    if layer.gated:
        half = inner.shape[1] // 2
        inner = activation(inner[:, :half]) * inner[:, half:]
    else:
        inner = activation(inner)
    x = x + _product(inner, layer.down)
    return x if layer.pre_norm else _norm(x, layer.feed_forward_norm)


def _attention(model: NativeModel, layer: Layer, x: Any) -> Any:
    """Of all rows, also where the layer has the form for one."""
    width, stride = model.attention_width, model.head_stride
    if layer.one_row is not None:
        # The keys and values that the reassociated products stand for. A key's bias, the same for all keys, would change nothing.
        queries = _product(x, layer.one_row.query)
        keys = x @ _weight(layer.one_row.key_by_head).T
        values = _product(x, layer.one_row.value_by_head)
    else:
        assert layer.query_key_value is not None
        three = _product(x, layer.query_key_value)
        queries, keys, values = three[:, :width], three[:, width : 2 * width], three[:, 2 * width :]
    context = np.zeros_like(queries)
    for head in range(model.heads):
        part = slice(head * stride, (head + 1) * stride)
        query, key = queries[:, part], keys[:, part]
        if layer.rotation is not None:
            query, key = _rotated(query, layer), _rotated(key, layer)
        for i in range(len(x)):
            scores = key @ query[i]
            for j in range(len(x)):
                if layer.distances is not None:
                    scores[j] += layer.distances[head, j - i + model.max_length - 1]
                if layer.window and abs(j - i) > layer.window:
                    scores[j] = -np.inf
            shares = np.exp(scores - scores.max())
            context[i, part] = shares @ values[:, part] / shares.sum()
    return context


def _rotated(x: Any, layer: Layer) -> Any:
    assert layer.rotation is not None
    half = layer.rotation.cosines.shape[1]
    pairs = (x[:, :half] + 1j * x[:, half : 2 * half]) * (layer.rotation.cosines + 1j * layer.rotation.sines)[: len(x)]
    turned = x.copy()
    turned[:, :half], turned[:, half : 2 * half] = pairs.real, pairs.imag
    return turned


def _weight(product: Product) -> Any:
    if product.floats is not None:
        return unpacked_floats(product.floats).astype(np.float64)
    assert product.integers is not None
    assert product.scales is not None
    weight = unpacked_integers(product.integers).astype(np.float64) * product.scales
    return weight if product.smoothing is None else weight * product.smoothing[:, None]


def _product(x: Any, product: Product) -> Any:
    return x @ _weight(product) + product.bias


def _norm(x: Any, norm: Norm | None) -> Any:
    if norm is None:
        return x
    counted = x[:, : norm.size]
    y = np.zeros_like(x)
    y[:, : norm.size] = (counted - counted.mean(axis=1, keepdims=True)) / np.sqrt(counted.var(axis=1, keepdims=True) + norm.epsilon)
    return y * norm.scale + norm.shift
