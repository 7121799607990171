"""What must fit together in a `NativeModel` so that no kernel reads outside of an array: every shape, and numbers that are finite.

Large arrays are not looked at: whatever their numbers are, they are numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.typed_json import shown
from cls_runtime.engines.native.weights import (
    GROUP,
    LANES,
    PANEL,
    Embeddings,
    Layer,
    NativeModel,
    Norm,
    Product,
    padded,
)

MAX_WIDTH = 2**15  # of integers too: two sums of so many products of 8 bits fit into 32
MAX_ROWS = 2**24
MAX_LENGTH = 2**17
MAX_LAYERS = 1024
MAX_STEPS = 16
OUTPUTS = ("tokens", "sentence", "pooler", "logits")


def check_sizes(model: NativeModel) -> None:
    """Checks the whole model.

    Raises:
        ValueError: something does not fit; one line says where, what, and what was expected.
    """
    _check_number(model.hidden_size, "hidden_size", 1, MAX_WIDTH)
    _check_number(model.heads, "heads", 1, MAX_WIDTH)
    _check_number(model.head_size, "head_size", 1, MAX_WIDTH)
    _check_number(model.attention_width, "the width of all heads", PANEL, MAX_WIDTH)
    _check_number(model.max_length, "max_length", 1, MAX_LENGTH)
    _check_number(len(model.layers), "layers", 1, MAX_LAYERS)
    _check_embeddings(model.embeddings, model)
    checked: set[int] = set()
    for index, layer in enumerate(model.layers):
        last = index == len(model.layers) - 1
        if layer.one_row is not None and not last:
            raise ValueError(f"layers.{index} computes one row, which the layer after it needs all of")
        if id(layer) not in checked:
            _check_layer(layer, model, f"layers.{index}")
            checked.add(id(layer))
    if model.final_norm is not None:
        if not model.layers[-1].pre_norm:
            raise ValueError("final_norm is there, expected none behind a layer that ends with a norm")
        _check_norm(model.final_norm, "final_norm", model.hidden_size, padded(model.hidden_size))
    _check_outputs(model)


def _check_embeddings(embeddings: Embeddings, model: NativeModel) -> None:
    hidden = padded(model.hidden_size)
    stride = embeddings.words.shape[-1]
    if embeddings.projection is None:
        _check(stride == hidden, "embeddings.words", embeddings.words.shape, f"[rows, {hidden}]")
    else:
        _check_number(stride, "embeddings: the width of a row", PANEL, MAX_WIDTH)
        _check(stride % PANEL == 0, "embeddings.words", embeddings.words.shape, f"rows of a multiple of {PANEL}")
        _check_product(embeddings.projection, "embeddings.projection", stride, hidden)
    tables = {"words": embeddings.words, "token_types": embeddings.token_types, "positions": embeddings.positions}
    for name, table in tables.items():
        if table is not None:
            _check(table.ndim == 2 and table.shape[1] == stride, f"embeddings.{name}", table.shape, f"[rows, {stride}]")
            _check_number(len(table), f"embeddings.{name}: rows", 1, MAX_ROWS)
    _check_number(embeddings.position_offset, "embeddings.position_offset", 0, MAX_ROWS)
    padding_id = embeddings.position_padding_id
    if padding_id is not None:
        _check_number(padding_id, "embeddings.position_padding_id", 0, MAX_ROWS)
    if embeddings.positions is not None:
        rows = model.max_length + (embeddings.position_offset if padding_id is None else padding_id + 1)
        _check_number(len(embeddings.positions), "embeddings.positions: rows", rows, MAX_ROWS)
    if embeddings.norm is not None:
        size = model.hidden_size if embeddings.projection is None else embeddings.norm.size
        _check_norm(embeddings.norm, "embeddings.norm", size, stride)


def _check_layer(layer: Layer, model: NativeModel, name: str) -> None:
    hidden, attention = padded(model.hidden_size), model.attention_width
    if (layer.query_key_value is None) == (layer.one_row is None):
        raise ValueError(f"{name} has query_key_value and one_row both or neither, expected one of them")
    if layer.query_key_value is not None:
        _check_product(layer.query_key_value, f"{name}.query_key_value", hidden, 3 * attention)
    if layer.one_row is not None:
        _check_product(layer.one_row.query, f"{name}.one_row.query", hidden, attention, floats=True)
        _check_product(layer.one_row.key_by_head, f"{name}.one_row.key_by_head", attention, hidden, floats=True)
        _check_product(layer.one_row.value_by_head, f"{name}.one_row.value_by_head", hidden, attention, floats=True)
        if layer.rotation is not None or layer.window:
            raise ValueError(f"{name} has one_row with a rotation or a window, expected neither")
    _check_product(layer.attention_output, f"{name}.attention_output", attention, hidden)
    feed_forward = model.layers[0].down.depth
    _check_product(layer.up, f"{name}.up", hidden, feed_forward * (2 if layer.gated else 1))
    _check_product(layer.down, f"{name}.down", feed_forward, hidden)
    for part, norm in (("attention_norm", layer.attention_norm), ("feed_forward_norm", layer.feed_forward_norm)):
        if norm is not None:
            _check_norm(norm, f"{name}.{part}", model.hidden_size, hidden)
        elif not layer.pre_norm:
            raise ValueError(f"{name}.{part} is not there, which only a layer that begins with a norm may lack")
    _check_number(layer.window, f"{name}.window", 0, MAX_LENGTH)
    if layer.rotation is not None:
        if model.head_size % 2:
            raise ValueError(f"{name}.rotation turns heads of {model.head_size} numbers, expected an even count")
        expected = (model.max_length, model.head_size // 2)
        for part, table in (("cosines", layer.rotation.cosines), ("sines", layer.rotation.sines)):
            _check(table.shape == expected, f"{name}.rotation.{part}", table.shape, shown(expected))
    if layer.distances is not None:
        expected = (model.heads, padded(2 * model.max_length - 1, LANES))
        _check(layer.distances.shape == expected, f"{name}.distances", layer.distances.shape, shown(expected))


def _check_outputs(model: NativeModel) -> None:
    hidden = padded(model.hidden_size)
    if unknown := sorted(set(model.widths) - set(OUTPUTS)):
        raise ValueError(f"widths has {shown(unknown[0])}, expected some of {', '.join(OUTPUTS)}")
    if not model.widths:
        raise ValueError(f"widths is empty, expected some of {', '.join(OUTPUTS)}")
    for output, width in model.widths.items():
        _check_number(width, f"widths.{output}", 1, MAX_WIDTH)
        if output not in model.output_heads and width != model.hidden_size:
            raise ValueError(f"widths.{output} is {width:,}, expected the {model.hidden_size:,} numbers of a row")
    if model.layers[-1].one_row is not None and (model.mean_pooled or "tokens" in model.widths):
        raise ValueError("the last layer computes one row a text, and an output needs all of them")
    for output, steps in model.output_heads.items():
        if output not in model.widths:
            raise ValueError(f"output_heads.{output} is there, and widths has no {output}")
        _check_number(len(steps), f"output_heads.{output}: steps", 1, MAX_STEPS)
        depth = hidden
        for index, step in enumerate(steps):
            name = f"output_heads.{output}.{index}"
            width = step.product.width
            _check_product(step.product, f"{name}.product", depth, width, floats=True)
            if step.norm is not None:
                _check_norm(step.norm, f"{name}.norm", step.norm.size, width)
            depth = width
        if depth != padded(model.widths[output]):
            raise ValueError(f"output_heads.{output} gives {depth:,} numbers, expected {model.widths[output]:,}, padded")


def _check_product(product: Product, name: str, depth: int, width: int, *, floats: bool = False) -> None:
    for part, size in (("depth", depth), ("width", width)):
        if not PANEL <= size <= MAX_WIDTH * 3 or size % PANEL:
            raise ValueError(f"{name} has the {part} {size:,}, expected a multiple of {PANEL} up to {MAX_WIDTH * 3:,}")
    if (product.integers is None) == (product.floats is None):
        raise ValueError(f"{name} has integers and floats both or neither, expected one of them")
    _check_vector(product.bias, f"{name}.bias", width)
    if product.floats is not None:
        shape = (width // PANEL, depth, PANEL)
        _check(product.floats.shape == shape, f"{name}.floats", product.floats.shape, shown(shape))
        if not (product.scales is None and product.sums is None and product.smoothing is None):
            raise ValueError(f"{name} has floats and what belongs to integers")
        return
    assert product.integers is not None
    if floats:
        raise ValueError(f"{name} has integers, expected floats")
    _check_number(depth, f"{name}.integers: depth", PANEL, MAX_WIDTH)
    shape_of_groups = (width // PANEL, depth // GROUP, PANEL, GROUP)
    _check(product.integers.shape == shape_of_groups, f"{name}.integers", product.integers.shape, shown(shape_of_groups))
    if product.scales is None or product.sums is None:
        raise ValueError(f"{name} has integers without scales or sums, expected both")
    _check_vector(product.scales, f"{name}.scales", width)
    if product.smoothing is not None:
        _check_vector(product.smoothing, f"{name}.smoothing", depth)
    _check(product.sums.shape == (width,), f"{name}.sums", product.sums.shape, f"({width},)")
    largest = 128 * depth
    if int(product.sums.min()) < -largest or int(product.sums.max()) > largest:
        raise ValueError(f"{name}.sums has a sum beyond {largest:,}, which {depth:,} integers cannot have")


def _check_norm(norm: Norm, name: str, size: int, width: int) -> None:
    if norm.size != size or not 1 <= size <= width:
        raise ValueError(f"{name}.size is {norm.size:,}, expected {size if 1 <= size <= width else width:,}")
    if not np.finfo(np.float32).tiny <= norm.epsilon <= 1:
        raise ValueError(f"{name}.epsilon is {norm.epsilon}, expected a number above 0 and at most 1")
    for part, vector in (("scale", norm.scale), ("shift", norm.shift)):
        _check_vector(vector, f"{name}.{part}", width)
        if vector[size:].any():
            raise ValueError(f"{name}.{part} has numbers behind the first {size:,}, expected zeros")


def _check_vector(vector: NDArray[Any], name: str, size: int) -> None:
    _check(vector.shape == (size,), name, vector.shape, f"({size},)")
    if not np.isfinite(vector).all():
        raise ValueError(f"{name} has a number that is not finite")


def _check(holds: bool, name: str, found: tuple[int, ...], expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} has the shape {shown(found)}, expected {expected}")


def _check_number(value: int, name: str, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value:,}, expected {low:,} to {high:,}")
