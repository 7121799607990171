"""Tiny native models with random weights, of every kind that there is: what each test of our own kernels computes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from cls_runtime.engines.base import TokenBatch
from cls_runtime.engines.native.weights import (
    LANES,
    Embeddings,
    HeadStep,
    Layer,
    NativeModel,
    Norm,
    OneRow,
    Product,
    Rotation,
    packed_floats,
    packed_integers,
    padded,
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a random model is like; see `NativeModel`. `integers` are the products with int8 weights, by their names in a layer."""

    hidden: int = 48
    heads: int = 3
    head_size: int = 16
    feed_forward: int = 100
    layers: int = 2
    vocabulary: int = 50
    max_length: int = 24
    embedding_size: int | None = None
    half_words: bool = False
    token_types: int = 2
    positions: bool = True
    position_offset: int = 0
    position_padding_id: int | None = None
    integers: tuple[str, ...] = ()
    smoothing: bool = False
    one_row: bool = False
    pre_norm: bool = False
    first_norm: bool = True
    gated: bool = False
    window: int = 0
    rotation: bool = False
    distances: bool = False
    shared_layers: bool = False
    mean_pooled: bool = False
    tokens: bool = False
    activation: Any = "gelu"
    pooler: bool = False
    labels: int = 0
    dense: tuple[int, ...] = ()


PRODUCTS = ("query_key_value", "attention_output", "up", "down", "projection")
# One of each kind of model that an export makes, and what is rare.
KINDS: dict[str, Kind] = {
    "float": Kind(),
    "int8": Kind(integers=PRODUCTS, activation="gelu_coarse"),
    "int8, one row, smoothed": Kind(integers=PRODUCTS, one_row=True, smoothing=True, half_words=True, layers=3, activation="gelu_coarse"),
    "one row, pooler, logits": Kind(one_row=True, pooler=True, labels=5),
    "mean, dense": Kind(mean_pooled=True, dense=(70, 30), integers=("up",)),
    "tokens": Kind(tokens=True, activation="gelu_tanh"),
    "roberta": Kind(position_padding_id=1, token_types=1),
    "mpnet": Kind(position_padding_id=1, token_types=0, distances=True, one_row=True),
    "electra": Kind(embedding_size=20, integers=PRODUCTS),
    "albert": Kind(shared_layers=True, layers=4, embedding_size=20),
    "modernbert": Kind(
        pre_norm=True, first_norm=False, gated=True, window=3, rotation=True, positions=False, token_types=0, integers=PRODUCTS, layers=3
    ),
    "roformer": Kind(rotation=True, positions=False, head_size=10, activation="relu"),
    "odd head size": Kind(head_size=15, distances=True, activation="silu", position_offset=2),
}


def random_model(kind: Kind, seed: int = 0) -> NativeModel:
    """A model of this kind; all paddings are zero, as an export leaves them."""
    return _Maker(kind, np.random.default_rng(seed)).model()


def random_batch(kind: Kind, seed: int, *lengths: int, unpooled: bool = False) -> TokenBatch:
    """Texts of these lengths, at random one to five where there are none given."""
    rng = np.random.default_rng(seed)
    sizes = np.array(lengths or rng.integers(1, kind.max_length + 1, rng.integers(1, 6)), dtype=np.int32)
    tokens = int(sizes.sum())
    return TokenBatch(
        input_ids=rng.integers(0, kind.vocabulary, tokens, dtype=np.int32),
        lengths=sizes,
        token_type_ids=rng.integers(0, kind.token_types, tokens, dtype=np.int32) if kind.token_types else None,
        unpooled=rng.integers(0, sizes + 1, dtype=np.int32) if unpooled else None,
    )


class _Maker:
    def __init__(self, kind: Kind, rng: np.random.Generator) -> None:
        self.kind, self.rng = kind, rng
        self.hidden = padded(kind.hidden)
        self.head_stride = padded(kind.head_size, LANES)
        self.attention = padded(kind.heads * self.head_stride)
        self.hidden_places = np.arange(kind.hidden)
        self.head_places = (np.arange(kind.heads)[:, None] * self.head_stride + np.arange(kind.head_size)).ravel()

    def model(self) -> NativeModel:
        kind = self.kind
        heads: dict[Any, tuple[HeadStep, ...]] = {}
        widths = {"sentence": kind.hidden}
        if kind.dense:
            sizes = (kind.hidden, *kind.dense)
            heads["sentence"] = tuple(self.step(before, after, "tanh") for before, after in pairwise(sizes))
            widths["sentence"] = kind.dense[-1]
        if kind.pooler:
            heads["pooler"] = (self.step(kind.hidden, kind.hidden, "tanh"),)
            widths["pooler"] = kind.hidden
        if kind.labels:
            heads["logits"] = (self.step(kind.hidden, 40, "gelu", norm=True), self.step(40, kind.labels, "identity"))
            widths["logits"] = kind.labels
        if kind.tokens:
            widths["tokens"] = kind.hidden
        layers = [self.layer(index) for index in range(kind.layers)]
        if kind.shared_layers:
            layers = layers[:1] * kind.layers
        return NativeModel(
            hidden_size=kind.hidden,
            heads=kind.heads,
            head_size=kind.head_size,
            max_length=kind.max_length,
            mean_pooled=kind.mean_pooled,
            embeddings=self.embeddings(),
            layers=tuple(layers),
            final_norm=self.norm(kind.hidden) if kind.pre_norm else None,
            output_heads=heads,
            widths=widths,
            recipe={"made": "at random"},
        )

    def embeddings(self) -> Embeddings:
        kind = self.kind
        size = kind.embedding_size or kind.hidden
        places = np.arange(size)

        def table(rows: int) -> Any:
            return self.scattered((rows, padded(size)), np.arange(rows), places) if rows else None

        words = table(kind.vocabulary)
        rows = kind.max_length + (kind.position_offset if kind.position_padding_id is None else kind.position_padding_id + 1)
        return Embeddings(
            words=words.astype(np.float16) if kind.half_words else words,
            token_types=table(kind.token_types),
            positions=table(rows) if kind.positions else None,
            position_offset=kind.position_offset,
            position_padding_id=kind.position_padding_id,
            norm=self.norm(size),
            projection=self.product("projection", places, padded(size), self.hidden_places, self.hidden) if kind.embedding_size else None,
        )

    def layer(self, index: int) -> Layer:
        kind, hidden, attention = self.kind, self.hidden, self.attention
        one_row = kind.one_row and index == kind.layers - 1
        three = np.concatenate([self.head_places + part * attention for part in range(3)])
        inner, places = padded(kind.feed_forward), np.arange(kind.feed_forward)
        both = np.concatenate([places, places + inner]) if kind.gated else places

        def product(name: str, *sizes: Any) -> Product:
            return self.product("" if one_row else name, *sizes)

        attend: dict[str, Any] = {
            "query_key_value": None if one_row else product("query_key_value", self.hidden_places, hidden, three, 3 * attention)
        }
        if one_row:
            attend["one_row"] = OneRow(
                query=product("query", self.hidden_places, hidden, self.head_places, attention),
                key_by_head=product("key_by_head", self.head_places, attention, self.hidden_places, hidden),
                value_by_head=product("value_by_head", self.hidden_places, hidden, self.head_places, attention),
            )
        return Layer(
            **attend,
            attention_output=product("attention_output", self.head_places, attention, self.hidden_places, hidden),
            up=product("up", self.hidden_places, hidden, both, inner * (2 if kind.gated else 1)),
            down=product("down", places, inner, self.hidden_places, hidden),
            attention_norm=self.norm(kind.hidden) if index or kind.first_norm or not kind.pre_norm else None,
            feed_forward_norm=self.norm(kind.hidden),
            activation=kind.activation,
            pre_norm=kind.pre_norm,
            gated=kind.gated,
            window=kind.window if index % 2 else 0,
            rotation=self.rotation() if kind.rotation else None,
            distances=self.distances() if kind.distances else None,
        )

    def product(self, name: str, inputs: Any, depth: int, outputs: Any, width: int) -> Product:
        """Weights between these places of padded rows; int8 where the kind says so of this name."""
        weight = self.scattered((depth, width), inputs, outputs) / np.float32(np.sqrt(len(inputs)))
        bias = np.zeros(width, dtype=np.float32)
        bias[outputs] = self.rng.normal(size=len(outputs)) * 0.3
        if name not in self.kind.integers:
            return Product(bias=bias, floats=packed_floats(weight))
        smoothing = self.rng.uniform(0.5, 2, depth).astype(np.float32) if self.kind.smoothing else None
        if smoothing is not None:
            weight /= smoothing[:, None]
        scales = np.maximum(np.abs(weight).max(axis=0) / np.float32(127), np.float32(1e-9))
        integers = np.rint(weight / scales).astype(np.int8)
        return Product(
            bias=bias,
            integers=packed_integers(integers),
            scales=scales,
            sums=integers.sum(axis=0, dtype=np.int32),
            smoothing=smoothing,
        )

    def step(self, depth: int, width: int, activation: Any, *, norm: bool = False) -> HeadStep:
        product = self.product("", np.arange(depth), padded(depth), np.arange(width), padded(width))
        return HeadStep(product=product, activation=activation, norm=self.norm(width) if norm else None)

    def norm(self, size: int) -> Norm:
        scale, shift = np.zeros((2, padded(size)), dtype=np.float32)
        scale[:size] = self.rng.uniform(0.5, 1.5, size)
        shift[:size] = self.rng.normal(size=size) * 0.3
        return Norm(size=size, epsilon=1e-5, scale=scale, shift=shift)

    def rotation(self) -> Rotation:
        half = self.kind.head_size // 2
        angles = np.arange(self.kind.max_length)[:, None] / 100.0 ** (np.arange(half) / half)
        return Rotation(cosines=np.cos(angles).astype(np.float32), sines=np.sin(angles).astype(np.float32))

    def distances(self) -> Any:
        sizes = 2 * self.kind.max_length - 1
        return self.scattered((self.kind.heads, padded(sizes, LANES)), np.arange(self.kind.heads), np.arange(sizes))

    def scattered(self, shape: tuple[int, int], rows: Any, columns: Any) -> Any:
        array = np.zeros(shape, dtype=np.float32)
        array[np.ix_(rows, columns)] = self.rng.normal(size=(len(rows), len(columns)))
        return array
