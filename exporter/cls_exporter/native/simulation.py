"""A `NativeModel` in PyTorch, for measuring what goes into its products and for choosing which of them become int8.

What a product of integers computes is simulated with rows of whole steps; sums are in another order than the kernels', so vectors are
theirs to a few last bits and not bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from cls_runtime.engines.native.weights import (
    Activation,
    HeadStep,
    Layer,
    NativeModel,
    Norm,
    Product,
    Rotation,
    padded,
    unpacked_floats,
    unpacked_integers,
)
from cls_runtime.engines.padding import PaddedBatch

Observer = Callable[[Product, Tensor], None]
_STEPS = 255
_ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "gelu": nn.functional.gelu,
    "gelu_coarse": nn.functional.gelu,
    "gelu_tanh": partial(nn.functional.gelu, approximate="tanh"),
    "relu": nn.functional.relu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


class Simulation:
    """Computes a model's outputs in `dtype`; `observe` is called with each product over all tokens and its input [tokens, K].

    Batches are texts of one length, without padding.
    """

    def __init__(self, model: NativeModel, *, dtype: torch.dtype = torch.float32, observe: Observer | None = None) -> None:
        self._model = model
        self._dtype = dtype
        self._observe = observe
        self._weights: dict[int, tuple[Tensor, Tensor]] = {}

    def outputs(self, batches: Iterable[PaddedBatch]) -> dict[str, np.ndarray]:
        """Every output of all texts by its name, float32 [B, width]; of `tokens` [T, width]."""
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self._model.widths}
        with torch.inference_mode():
            for batch in batches:
                hidden = self._hidden(batch)
                for name, rows in parts.items():
                    rows.append(self._output(name, hidden).float().numpy()[:, : self._model.widths[name]])
        return {name: np.concatenate(rows) for name, rows in parts.items()}

    def _output(self, name: str, hidden: Tensor) -> Tensor:
        if name == "tokens":
            return hidden.reshape(-1, hidden.shape[-1])
        pooled = hidden.mean(1) if name == "sentence" and self._model.mean_pooled else hidden[:, 0]
        return self._head(pooled, self._model.output_heads.get(name, ()))  # type: ignore[call-overload]

    def _hidden(self, batch: PaddedBatch) -> Tensor:
        """The rows of the last layer [B, S, padded H]; row 0 alone where no other is needed."""
        hidden = self._embedded(batch)
        for layer in self._model.layers:
            hidden = self._layer(layer, hidden)
        return hidden if self._model.final_norm is None else self._norm(hidden, self._model.final_norm)

    def _embedded(self, batch: PaddedBatch) -> Tensor:
        own = self._model.embeddings
        rows = self._tensor(own.words[batch.input_ids])
        if own.token_types is not None:
            types = np.zeros_like(batch.input_ids) if batch.token_type_ids is None else batch.token_type_ids
            rows = rows + self._tensor(own.token_types[types])
        if own.positions is not None:
            rows = rows + self._tensor(own.positions[self._places(batch.input_ids)])
        if own.norm is not None:
            rows = self._norm(rows, own.norm)
        return rows if own.projection is None else self._product(rows, own.projection)

    def _places(self, ids: np.ndarray) -> np.ndarray:
        own = self._model.embeddings
        if own.position_padding_id is None:
            return np.broadcast_to(np.arange(ids.shape[1]) + own.position_offset, ids.shape)
        counted = ids != own.position_padding_id
        return np.where(counted, counted.cumsum(1) - 1 + own.position_offset, own.position_padding_id)

    def _layer(self, layer: Layer, hidden: Tensor) -> Tensor:
        read = self._norm(hidden, layer.attention_norm) if layer.pre_norm else hidden
        if layer.one_row is None:
            context = self._attention(layer, read)
        else:
            context = self._one_row(layer, read)
            hidden = hidden[:, :1]
        hidden = hidden + self._product(context, layer.attention_output, watched=True)
        if not layer.pre_norm:
            hidden = self._norm(hidden, layer.attention_norm)
        read = self._norm(hidden, layer.feed_forward_norm) if layer.pre_norm else hidden
        hidden = hidden + self._feed_forward(layer, read)
        return hidden if layer.pre_norm else self._norm(hidden, layer.feed_forward_norm)

    def _feed_forward(self, layer: Layer, read: Tensor) -> Tensor:
        inner = self._product(read, layer.up, watched=True)
        activate = _ACTIVATIONS[layer.activation]
        if layer.gated:
            activated, multiplied = inner.chunk(2, dim=-1)
            inner = activate(activated) * multiplied
        else:
            inner = activate(inner)
        return self._product(inner, layer.down, watched=True)

    def _attention(self, layer: Layer, read: Tensor) -> Tensor:
        assert layer.query_key_value is not None
        together = self._product(read, layer.query_key_value, watched=True)
        queries, keys, values = (self._heads(part) for part in together.chunk(3, dim=-1))
        if layer.rotation is not None:
            queries, keys = self._rotated(queries, layer.rotation), self._rotated(keys, layer.rotation)
        scores = self._biased(queries @ keys.transpose(-1, -2), layer)
        context = (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)
        return nn.functional.pad(context, (0, self._model.attention_width - context.shape[-1]))

    def _one_row(self, layer: Layer, read: Tensor) -> Tensor:
        assert layer.one_row is not None
        query = self._heads(self._product(read[:, :1], layer.one_row.query))
        back, _ = self._weight(layer.one_row.key_by_head)
        forth, bias = self._weight(layer.one_row.value_by_head)
        count, stride = self._model.heads, self._model.head_stride
        by_head = back[: count * stride].reshape(count, stride, -1)
        scores = self._biased((query @ by_head) @ read.transpose(-1, -2).unsqueeze(1), layer)
        seen = scores.softmax(-1) @ read.unsqueeze(1)
        values = forth[:, : count * stride].reshape(-1, count, stride).transpose(0, 1)
        context = (seen @ values).transpose(1, 2).flatten(2)
        return nn.functional.pad(context, (0, self._model.attention_width - context.shape[-1])) + bias

    def _heads(self, rows: Tensor) -> Tensor:
        """[B, S, width] -> [B, A, S, stride]."""
        count, stride = self._model.heads, self._model.head_stride
        return rows[..., : count * stride].reshape(*rows.shape[:2], count, stride).transpose(1, 2)

    def _rotated(self, rows: Tensor, rotation: Rotation) -> Tensor:
        half, length = rotation.cosines.shape[1], rows.shape[2]
        cosines, sines = self._tensor(rotation.cosines[:length]), self._tensor(rotation.sines[:length])
        first, second, rest = rows[..., :half], rows[..., half : 2 * half], rows[..., 2 * half :]
        return torch.cat([first * cosines - second * sines, second * cosines + first * sines, rest], dim=-1)

    def _biased(self, scores: Tensor, layer: Layer) -> Tensor:
        """Scores [B, A, queries, keys] with the bias of distances, and without keys that are too far away."""
        queries, keys = (np.arange(size) for size in scores.shape[-2:])
        apart = keys - queries[:, None]
        if layer.distances is not None:
            scores = scores + self._tensor(layer.distances[:, apart + self._model.max_length - 1])
        if layer.window:
            scores = scores.masked_fill(torch.from_numpy(np.abs(apart) > layer.window), -torch.inf)
        return scores

    def _head(self, row: Tensor, steps: tuple[HeadStep, ...]) -> Tensor:
        for step in steps:
            row = _ACTIVATIONS[step.activation](self._product(row, step.product))
            row = row if step.norm is None else self._norm(row, step.norm)
        return row

    def _norm(self, rows: Tensor, norm: Norm | None) -> Tensor:
        if norm is None:
            return rows
        scale, shift = self._tensor(norm.scale), self._tensor(norm.shift)
        normal = nn.functional.layer_norm(rows[..., : norm.size], (norm.size,), scale[: norm.size], shift[: norm.size], norm.epsilon)
        return nn.functional.pad(normal, (0, padded(norm.size) - norm.size))

    def _product(self, rows: Tensor, product: Product, *, watched: bool = False) -> Tensor:
        if watched and self._observe is not None:
            self._observe(product, rows.reshape(-1, rows.shape[-1]))
        if product.integers is not None:
            rows = in_steps(rows if product.smoothing is None else rows * self._tensor(product.smoothing))
        weight, bias = self._weight(product)
        return rows @ weight + bias

    def _weight(self, product: Product) -> tuple[Tensor, Tensor]:
        if id(product) not in self._weights:
            if product.integers is not None:
                assert product.scales is not None
                weight = unpacked_integers(product.integers).astype(np.float32) * product.scales
            else:
                assert product.floats is not None
                weight = unpacked_floats(product.floats)
            self._weights[id(product)] = self._tensor(weight), self._tensor(product.bias)
        return self._weights[id(product)]

    def _tensor(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self._dtype)


def in_steps(rows: Tensor) -> Tensor:
    """Each row as 256 steps from its lowest number, or zero, to its highest; times the step."""
    integers, step = integers_of(rows)
    return integers * step


def integers_of(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's numbers in steps from zero, -255 to 255, and the row's step."""
    low = rows.amin(-1, keepdim=True).clamp(max=0)
    high = rows.amax(-1, keepdim=True).clamp(min=0)
    step = ((high - low) / _STEPS).clamp(min=torch.finfo(torch.float32).tiny)
    zero = torch.round(-low / step)
    return torch.clamp(torch.round(rows / step) + zero, 0, _STEPS) - zero, step
