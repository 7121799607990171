"""How large the numbers become that fp16 has to hold: measured in float32, on every text that an export is held to.

The CPU provider computes a float16 graph in float32 between its casts, so what overflows on a GPU may pass there. Hence a check of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.errors import ParityError
from cls_exporter.graph.passes.half_precision import LARGEST_HALF
from cls_exporter.graph.passes.rewriting import constant
from cls_runtime.engines import graph_runner
from cls_runtime.engines.padding import PaddedBatch

# Texts that nobody tried may go further, and so may the sums of a product on their way.
LIMIT = LARGEST_HALF / 2
# They make no number that their input did not have.
_MOVE_NUMBERS = frozenset(
    {"Concat", "Expand", "Gather", "GatherElements", "GatherND", "Identity", "Neg", "Reshape", "Slice", "Softmax", "Split", "Squeeze"}
    | {"Tanh", "Tile", "Transpose", "Unsqueeze"}
)


def check_range(model: ir.Model, values: Sequence[ir.Value], *, checkpoint: Checkpoint, texts: Sequence[str]) -> float:
    """Runs a float32 graph on each text alone and gives the largest size of any number in `values`.

    Args:
        model: the graph, left as it was.
        values: what float16 will have to hold.
        checkpoint: its tokenizer cuts the texts to the model's maximum.
        texts: at least one.

    Raises:
        ParityError: a number goes beyond half of float16's range, or is none; the message names the text and the place.
    """
    probe, places = _with_extremes(model, [str(value.name) for value in values if value.producer().op_type not in _MOVE_NUMBERS])  # type: ignore[union-attr]
    sizes = np.array(list(_extremes(probe, _alone(checkpoint, texts))))  # [texts, places]
    sizes = np.where(np.isnan(sizes), np.inf, sizes)
    text, place = np.unravel_index(int(np.argmax(sizes)), sizes.shape)
    largest = float(sizes[text, place])
    if largest > LIMIT:
        raise ParityError(
            f"fp16 is not exported: {places[int(place)]} reaches {largest:.3g} for text {int(text)} {texts[int(text)][:60]!r}, "
            f"float16 ends at {LARGEST_HALF:.0f}, and half of that is reserved for other texts; tried: attention scaled before its "
            "product, masks, softmax and norms in float32; export fp32 or int8"
        )
    return largest


def _with_extremes(model: ir.Model, names: Sequence[str]) -> tuple[ir.Model, list[str]]:
    """A copy whose only output is the largest size of each of `names`, float32 [n]; and what each is, in words."""
    probe = model.clone()
    graph = probe.graph
    by_name = {str(value.name): value for node in graph for value in node.outputs}
    axis = ir.Value(name="extremes.axis", const_value=ir.tensor(np.array([0], dtype=np.int64), name="extremes.axis"))
    graph.register_initializer(axis)
    parts: list[ir.Value] = []
    for name in names:
        highest = ir.node("ReduceMax", [by_name[name]], attributes={"keepdims": 0})
        lowest = ir.node("ReduceMin", [by_name[name]], attributes={"keepdims": 0})
        depth = ir.node("Neg", [lowest.outputs[0]])
        size = ir.node("Max", [highest.outputs[0], depth.outputs[0]])
        part = ir.node("Unsqueeze", [size.outputs[0], axis])
        graph.extend([highest, lowest, depth, size, part])
        parts.append(part.outputs[0])
    output = ir.Value(name="extremes", shape=ir.Shape([len(names)]), type=ir.TensorType(ir.DataType.FLOAT))
    graph.append(ir.node("Concat", parts, attributes={"axis": 0}, outputs=[output]))
    graph.outputs.clear()
    graph.outputs.append(output)
    return probe, [_place(by_name[name]) for name in names]


def _extremes(probe: ir.Model, batches: Iterable[PaddedBatch]) -> Iterator[NDArray[np.float32]]:
    """The probe's output for each batch, float32 [n], computed by ONNX Runtime."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        ir.save(probe, path, external_data="weights")  # ten times as fast as inside the protocol buffer, which is for files that are kept
        for (sizes,) in graph_runner.run_graph(path, batches, ["extremes"]):
            yield sizes


def _place(value: ir.Value) -> str:
    """The weight that makes a value, which says where it is, or the value's own name."""
    producer = value.producer()
    weights = [] if producer is None else [item.name for item in producer.inputs if item is not None and constant(item) is not None]
    return f"the output of {producer.op_type} with {weights[0]}" if producer is not None and weights else f"{value.name}"


def _alone(checkpoint: Checkpoint, texts: Sequence[str]) -> Iterator[PaddedBatch]:
    for text in texts:
        encoded = checkpoint.tokenizer(text, truncation=True, max_length=checkpoint.max_length)
        arrays = {name: np.array([encoded[name]], dtype=np.int64) for name in encoded}
        yield PaddedBatch(arrays["input_ids"], arrays["attention_mask"], arrays.get("token_type_ids"))
