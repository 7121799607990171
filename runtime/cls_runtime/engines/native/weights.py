"""What `native/weights.safetensors` holds: a model as layers of products and norms, with the arrays in the layout that kernels read.

The exporter makes it of a checkpoint, `weights_file` writes and maps it, `structures` hands it to the library, and `reference` computes it
with NumPy. Every width is padded to a multiple of `PANEL`, every head to a multiple of `LANES`, with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cls_runtime.engines.base import Float32

PANEL = 64
LANES = 16
GROUP = 4  # inputs whose products a kernel adds up in one step

Activation = Literal["identity", "gelu", "gelu_coarse", "gelu_tanh", "relu", "silu", "tanh", "sigmoid"]
HeadName = Literal["sentence", "pooler", "logits"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Product:
    """y [width] = x [depth] W + bias, with int8 weights or float32 ones; depth and width are padded.

    Attributes:
        bias: float32 [width].
        integers: int8 [width / 64, depth / 4, 64, 4]; None in float32.
        scales: of each column, float32 [width].
        sums: of each column of the integers, int32 [width].
        smoothing: what inputs are multiplied by before they are quantized, float32 [depth]; None for ones.
        floats: float32 [width / 64, depth, 64]; None in int8.
    """

    bias: Float32
    integers: NDArray[np.int8] | None = None
    scales: Float32 | None = None
    sums: NDArray[np.int32] | None = None
    smoothing: Float32 | None = None
    floats: Float32 | None = None

    @property
    def depth(self) -> int:
        """Inputs, padded."""
        if self.integers is not None:
            return int(self.integers.shape[1]) * GROUP
        assert self.floats is not None
        return int(self.floats.shape[1])

    @property
    def width(self) -> int:
        """Outputs, padded."""
        return len(self.bias)


@dataclass(frozen=True, kw_only=True, eq=False)
class Norm:
    """LayerNorm over the first `size` numbers of a row; scale and shift float32 [padded width], zero in the padding."""

    size: int
    epsilon: float
    scale: Float32
    shift: Float32


@dataclass(frozen=True, kw_only=True, eq=False)
class Rotation:
    """Rotary positions, float32 [max_length, D / 2] each; the first half of a head turns with the second."""

    cosines: Float32
    sines: Float32


@dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
    """Tables [rows, padded width] whose rows are added up, a norm, and a product to the hidden size where they are narrower.

    Attributes:
        words: float32 or float16.
        token_types, positions: float32; None where the model has none.
        position_offset: the row of the first token's position.
        position_padding_id: RoBERTa's rule: tokens of this id count as no position and take the row of that number; None for 0, 1, 2, ...
    """

    words: Float32 | NDArray[np.float16]
    token_types: Float32 | None = None
    positions: Float32 | None = None
    position_offset: int = 0
    position_padding_id: int | None = None
    norm: Norm | None = None
    projection: Product | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class OneRow:
    """The last attention's products where one row a text is needed: `query` [H -> attention width], keys and values reassociated.

    `key_by_head` [attention width -> H] takes a head's query to the hidden size; `value_by_head` [H -> attention width]. All float32.
    """

    query: Product
    key_by_head: Product
    value_by_head: Product


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One layer; see `cls_layer` in native/src/cls_native.h.

    `query_key_value` gives queries, keys and values one after another, each as wide as `attention_width`, a head every `head_stride`, the
    queries scaled. It is None where `one_row` is there. `distances` are float32 [A, 2 * max_length - 1, padded to 16].
    """

    attention_output: Product
    up: Product
    down: Product
    attention_norm: Norm | None
    feed_forward_norm: Norm | None
    activation: Activation
    query_key_value: Product | None = None
    one_row: OneRow | None = None
    pre_norm: bool = False
    gated: bool = False
    window: int = 0
    rotation: Rotation | None = None
    distances: Float32 | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadStep:
    """A product, its activation, and a norm behind it where there is one."""

    product: Product
    activation: Activation = "identity"
    norm: Norm | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class NativeModel:
    """A whole model.

    Layers, tables and products that are the same object are written once, so that ALBERT's layers stay one.

    Attributes:
        hidden_size: H.
        heads: A.
        head_size: D; in the arrays a head takes D rounded up to `LANES`, and all heads together are rounded up to `PANEL`.
        max_length: tokens that a text may have.
        mean_pooled: the sentence is the mean of its tokens' rows, else one row.
        output_heads: what makes `sentence` (Dense modules) of the pooled row, and `pooler` and `logits`, whole, of row 0; none where the
            row itself is the output.
        widths: numbers of each output that the model has, by its name; `tokens` among them where every row is an output.
    """

    hidden_size: int
    heads: int
    head_size: int
    max_length: int
    mean_pooled: bool
    embeddings: Embeddings
    layers: tuple[Layer, ...]
    final_norm: Norm | None = None
    output_heads: Mapping[HeadName, tuple[HeadStep, ...]] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def head_stride(self) -> int:
        """D, padded."""
        return padded(self.head_size, LANES)

    @property
    def attention_width(self) -> int:
        """Of queries, of keys, of values: all heads, padded."""
        return padded(self.heads * self.head_stride)


def padded(size: int, step: int = PANEL) -> int:
    """`size` rounded up to a multiple of `step`.

    >>> padded(384), padded(30, LANES)
    (384, 32)
    """
    return -(-size // step) * step


def packed_floats(weight: Float32) -> Float32:
    """[K, N], both padded, in panels: [N / 64, K, 64]."""
    depth, width = weight.shape
    return np.ascontiguousarray(weight.reshape(depth, width // PANEL, PANEL).transpose(1, 0, 2))


def unpacked_floats(floats: Float32) -> Float32:
    """The inverse of `packed_floats`."""
    panels, depth, _ = floats.shape
    return np.ascontiguousarray(floats.transpose(1, 0, 2).reshape(depth, panels * PANEL))


def packed_integers(integers: NDArray[np.int8]) -> NDArray[np.int8]:
    """[K, N], both padded, in panels: [N / 64, K / 4, 64, 4]."""
    depth, width = integers.shape
    return np.ascontiguousarray(integers.reshape(depth // GROUP, GROUP, width // PANEL, PANEL).transpose(2, 0, 3, 1))


def unpacked_integers(packed: NDArray[np.int8]) -> NDArray[np.int8]:
    """The inverse of `packed_integers`."""
    panels, groups, _, _ = packed.shape
    return np.ascontiguousarray(packed.transpose(1, 3, 0, 2).reshape(groups * GROUP, panels * PANEL))
