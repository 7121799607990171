"""The structures of native/src/cls_native.h for ctypes, and a `NativeModel` as the library reads it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cls_runtime.bundle.manifest import GRAPH_OUTPUTS
from cls_runtime.engines.native.weights import Activation, Embeddings, HeadStep, Layer, NativeModel, Norm, Product, Rotation, padded

ABI = 1  # CLS_ABI of the header that this mirrors

OutputName = Literal["tokens", "sentence", "pooler", "logits"]
OUTPUTS: tuple[OutputName, ...] = ("tokens", "sentence", "pooler", "logits")  # by cls_output
GRAPH_OUTPUT_OF: dict[OutputName, str] = {name: GRAPH_OUTPUTS[name] for name in OUTPUTS}  # as an ONNX graph calls them
ACTIVATIONS: tuple[Activation, ...] = ("identity", "gelu", "gelu_coarse", "gelu_tanh", "relu", "silu", "tanh", "sigmoid")  # cls_activation

_INT, _FLOAT, _POINTER = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


class ProductSpec(ctypes.Structure):
    """`cls_product`."""

    _fields_ = (
        ("depth", _INT),
        ("width", _INT),
        ("integers", _POINTER),
        ("scales", _POINTER),
        ("sums", _POINTER),
        ("smoothing", _POINTER),
        ("floats", _POINTER),
        ("bias", _POINTER),
    )


class NormSpec(ctypes.Structure):
    """`cls_norm`."""

    _fields_ = (("size", _INT), ("epsilon", _FLOAT), ("scale", _POINTER), ("shift", _POINTER))


class RotationSpec(ctypes.Structure):
    """`cls_rotation`."""

    _fields_ = (("cosines", _POINTER), ("sines", _POINTER), ("half", _INT))


class EmbeddingsSpec(ctypes.Structure):
    """`cls_embeddings`."""

    _fields_ = (
        ("vocabulary", _INT),
        ("types", _INT),
        ("positions", _INT),
        ("half_words", _INT),
        ("position_offset", _INT),
        ("position_padding_id", _INT),
        ("words", _POINTER),
        ("token_types", _POINTER),
        ("position_rows", _POINTER),
        ("stride", _INT),
        ("norm", NormSpec),
        ("projection", ProductSpec),
    )


class LayerSpec(ctypes.Structure):
    """`cls_layer`."""

    _fields_ = (
        ("pre_norm", _INT),
        ("gated", _INT),
        ("window", _INT),
        ("activation", _INT),
        ("query_key_value", ProductSpec),
        ("query", ProductSpec),
        ("key_by_head", ProductSpec),
        ("value_by_head", ProductSpec),
        ("attention_output", ProductSpec),
        ("up", ProductSpec),
        ("down", ProductSpec),
        ("attention_norm", NormSpec),
        ("feed_forward_norm", NormSpec),
        ("rotation", RotationSpec),
        ("distances", _POINTER),
        ("distance_stride", _INT),
    )


class HeadSpec(ctypes.Structure):
    """`cls_head`."""

    _fields_ = (("steps", _INT), ("products", _POINTER), ("activations", _POINTER), ("norms", _POINTER))


class ModelSpec(ctypes.Structure):
    """`cls_model_spec`."""

    _fields_ = (
        ("hidden", _INT),
        ("hidden_stride", _INT),
        ("heads", _INT),
        ("head_stride", _INT),
        ("attention_width", _INT),
        ("feed_forward_stride", _INT),
        ("max_length", _INT),
        ("mean_pooled", _INT),
        ("one_row", _INT),
        ("embeddings", EmbeddingsSpec),
        ("layer_count", _INT),
        ("layers", _POINTER),
        ("final_norm", NormSpec),
        ("heads_of", HeadSpec * len(OUTPUTS)),
        ("widths", _INT * len(OUTPUTS)),
    )


class BatchSpec(ctypes.Structure):
    """`cls_batch`."""

    _fields_ = (
        ("texts", _INT),
        ("tokens", _INT),
        ("input_ids", _POINTER),
        ("lengths", _POINTER),
        ("token_type_ids", _POINTER),
        ("unpooled", _POINTER),
    )


# By the names of the header.
STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "cls_product": ProductSpec,
    "cls_norm": NormSpec,
    "cls_rotation": RotationSpec,
    "cls_embeddings": EmbeddingsSpec,
    "cls_layer": LayerSpec,
    "cls_head": HeadSpec,
    "cls_model_spec": ModelSpec,
    "cls_batch": BatchSpec,
}


@dataclass(frozen=True, eq=False)
class HeldModel:
    """A model's specification, and everything that its pointers lead to, which must live as long as the library uses it."""

    spec: ModelSpec
    held: tuple[object, ...]


def held_model(model: NativeModel) -> HeldModel:
    """The model as the library reads it; arrays that are contiguous and aligned already are not copied."""
    return _Builder().model(model)


class _Builder:
    """Fills in structures, and remembers what they point to."""

    def __init__(self) -> None:
        self._held: list[object] = []

    def model(self, model: NativeModel) -> HeldModel:
        layers = [self.layer(layer) for layer in model.layers]
        spec = ModelSpec(
            hidden=model.hidden_size,
            hidden_stride=padded(model.hidden_size),
            heads=model.heads,
            head_stride=model.head_stride,
            attention_width=model.attention_width,
            feed_forward_stride=max((layer.down.depth for layer in model.layers), default=0),
            max_length=model.max_length,
            mean_pooled=model.mean_pooled,
            one_row=bool(model.layers) and model.layers[-1].one_row is not None,
            embeddings=self.embeddings(model.embeddings),
            layer_count=len(layers),
            layers=self.structures(LayerSpec, layers),
            final_norm=self.norm(model.final_norm),
        )
        for place, name in enumerate(OUTPUTS):
            spec.heads_of[place] = self.head(model.output_heads.get(name, ()) if name != "tokens" else ())
            spec.widths[place] = model.widths.get(name, 0)
        return HeldModel(spec, tuple(self._held))

    def layer(self, layer: Layer) -> LayerSpec:
        one_row, distances = layer.one_row, layer.distances
        return LayerSpec(
            pre_norm=layer.pre_norm,
            gated=layer.gated,
            window=layer.window,
            activation=ACTIVATIONS.index(layer.activation),
            query_key_value=self.product(layer.query_key_value),
            query=self.product(None if one_row is None else one_row.query),
            key_by_head=self.product(None if one_row is None else one_row.key_by_head),
            value_by_head=self.product(None if one_row is None else one_row.value_by_head),
            attention_output=self.product(layer.attention_output),
            up=self.product(layer.up),
            down=self.product(layer.down),
            attention_norm=self.norm(layer.attention_norm),
            feed_forward_norm=self.norm(layer.feed_forward_norm),
            rotation=self.rotation(layer.rotation),
            distances=self.array(distances, np.float32),
            distance_stride=0 if distances is None else distances.shape[-1],
        )

    def embeddings(self, tables: Embeddings) -> EmbeddingsSpec:
        words, padding_id = tables.words, tables.position_padding_id
        return EmbeddingsSpec(
            vocabulary=len(words),
            types=0 if tables.token_types is None else len(tables.token_types),
            positions=0 if tables.positions is None else len(tables.positions),
            half_words=words.dtype == np.float16,
            position_offset=tables.position_offset,
            position_padding_id=-1 if padding_id is None else padding_id,
            words=self.array(words, words.dtype),
            token_types=self.array(tables.token_types, np.float32),
            position_rows=self.array(tables.positions, np.float32),
            stride=words.shape[1],
            norm=self.norm(tables.norm),
            projection=self.product(tables.projection),
        )

    def head(self, steps: Sequence[HeadStep]) -> HeadSpec:
        activations = (_INT * len(steps))(*(ACTIVATIONS.index(step.activation) for step in steps))
        self._held.append(activations)
        return HeadSpec(
            steps=len(steps),
            products=self.structures(ProductSpec, [self.product(step.product) for step in steps]),
            activations=ctypes.addressof(activations) if steps else None,
            norms=self.structures(NormSpec, [self.norm(step.norm) for step in steps]),
        )

    def product(self, product: Product | None) -> ProductSpec:
        if product is None:
            return ProductSpec()
        return ProductSpec(
            depth=product.depth,
            width=product.width,
            integers=self.array(product.integers, np.int8),
            scales=self.array(product.scales, np.float32),
            sums=self.array(product.sums, np.int32),
            smoothing=self.array(product.smoothing, np.float32),
            floats=self.array(product.floats, np.float32),
            bias=self.array(product.bias, np.float32),
        )

    def norm(self, norm: Norm | None) -> NormSpec:
        if norm is None:
            return NormSpec()
        scale, shift = self.array(norm.scale, np.float32), self.array(norm.shift, np.float32)
        return NormSpec(size=norm.size, epsilon=norm.epsilon, scale=scale, shift=shift)

    def rotation(self, rotation: Rotation | None) -> RotationSpec:
        if rotation is None:
            return RotationSpec()
        cosines, sines = self.array(rotation.cosines, np.float32), self.array(rotation.sines, np.float32)
        return RotationSpec(cosines=cosines, sines=sines, half=rotation.cosines.shape[1])

    def array(self, array: NDArray[Any] | None, kind: DTypeLike) -> int | None:
        """Where an array's numbers lie; None for none."""
        if array is None:
            return None
        readable = np.require(array, kind, ["C_CONTIGUOUS", "ALIGNED"])
        self._held.append(readable)
        return int(readable.ctypes.data)

    def structures(self, kind: type[ctypes.Structure], items: Sequence[ctypes.Structure]) -> int | None:
        """Where an array of structures lies; None for none."""
        if not items:
            return None
        array = (kind * len(items))(*items)
        self._held.append(array)
        return ctypes.addressof(array)
