"""Runs a graph in float64: what an export decides from its numbers is then the same on every CPU.

An engine's float32 kernels differ from CPU to CPU in their last bits, by about 1e-7 of a number. A scale that is read off such numbers, or
an integer that is rounded from one, comes out otherwise on another machine. In float64 the difference is about 1e-16, and does not decide
a rounding in practice. Integers are exact in it, too: a quantized graph run here is what integer kernels compute, without any engine's own
rounding or saturation.

onnx's reference implementation runs the operators; those that take most of its time are PyTorch's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeGuard, TypeVar

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import Tensor

from cls_exporter.graph.passes.rewriting import Builder, attribute, constant, known_dims
from cls_runtime.engines.cpu import available_cpus
from cls_runtime.engines.padding import PaddedBatch

Float64 = NDArray[np.float64]
Array = NDArray[Any]

LARGE = 1024  # elements

Item = TypeVar("Item")
T = TypeVar("T")


def run_exactly(model: ir.Model, batches: Iterable[PaddedBatch], outputs: Sequence[str]) -> Iterator[list[Float64]]:
    """The `outputs` of a graph of standard operators for each batch, in order, in float64; `model` is left as it was."""
    return reduce_exactly(model, batches, outputs, lambda values: values)


def reduce_exactly(
    model: ir.Model, batches: Iterable[PaddedBatch], outputs: Sequence[str], reduce: Callable[[list[Float64]], T]
) -> Iterator[T]:
    """What `reduce` makes of the outputs of each batch, in order. It is called on several threads at once."""
    inputs = [str(value.name) for value in model.graph.inputs]
    wide = _in_float64(model)
    weights = _taken_out(wide)
    evaluator = ReferenceEvaluator(ir.to_proto(wide), new_ops=OPERATORS)

    def run(batch: PaddedBatch) -> T:
        with np.errstate(all="ignore"):  # what a mask or a Where leaves out may be no number
            values: Any = evaluator.run(list(outputs), {**weights, **{name: getattr(batch, name) for name in inputs}})
        return reduce(values)

    return in_parallel(run, batches)


def in_parallel(function: Callable[[Item], T], items: Iterable[Item]) -> Iterator[T]:
    """`function` of each item, in order, on a thread for each CPU; few are under way at a time.

    PyTorch computes each on one thread: batches side by side do more than parts of one, and on a busy machine no part waits for another.
    """
    workers = available_cpus()
    remaining = iter(items)
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            under_way = deque(pool.submit(function, item) for item in islice(remaining, 2 * workers))
            while under_way:
                yield under_way.popleft().result()
                under_way.extend(pool.submit(function, item) for item in islice(remaining, 1))
    finally:
        torch.set_num_threads(threads)  # what a thread sets holds for all that start after it


def _in_float64(model: ir.Model) -> ir.Model:
    """A copy in which all that comes of the embeddings and of integers is float64.

    Positions stay in float32, since their operators may decide: a bucket of distances that a logarithm in float32 falls into is the
    model's, and float64 may round to another.
    """
    wide = model.clone()
    values = _dequantized_constants(wide)
    for node in list(wide.graph):
        tables = node.op_type == "Gather" and _is_float(node.inputs[0]) and node.inputs[0].const_value is not None
        if not (tables or node.op_type == "DequantizeLinear" or any(value in values for value in node.inputs)):
            continue
        for place, value in enumerate(node.inputs):
            if value not in values and _is_float(value):
                node.replace_input_with(place, _widened(node, value))
        values |= {value for value in node.outputs if _is_float(value)}
    for value in values:
        value.type = ir.TensorType(ir.DataType.DOUBLE)  # not its dtype: a clone shares the type
    return wide


def _dequantized_constants(model: ir.Model) -> set[ir.Value]:
    """Puts what `DequantizeLinear` makes of constants in its place, once and not for every batch; gives the new values."""
    made: set[ir.Value] = set()
    for node in list(model.graph):
        if node.op_type == "DequantizeLinear" and node.inputs[0] is not None and node.inputs[0].const_value is not None:
            value = _dequantized(node)
            node.outputs[0].replace_all_uses_with(value)
            model.graph.remove(node, safe=True)
            made.add(value)
    return made


def _dequantized(node: ir.Node) -> ir.Value:
    """What `DequantizeLinear` makes of constants, in float64."""
    integers, scales, zero_points = (np.asarray(constant(value), dtype=np.float64) for value in node.inputs)
    if scales.ndim:  # a scale for each part of the axis
        axis = int(attribute(node, "axis", 1)) % integers.ndim
        shape = [-1 if place == axis else 1 for place in range(integers.ndim)]
        scales, zero_points = scales.reshape(shape), zero_points.reshape(shape)
    return Builder(node).initializer((integers - zero_points) * scales, f"{node.outputs[0].name}.float64")


def _taken_out(model: ir.Model) -> dict[str, Array]:
    """Makes inputs of the large constants, and gives them by name: a protocol buffer would copy them, and holds two gigabytes at most."""
    graph = model.graph
    weights: dict[str, Array] = {}
    for name, value in list(graph.initializers.items()):
        array = constant(value)
        if array is not None and array.size >= LARGE and not value.is_graph_output():
            weights[name] = array
            del graph.initializers[name]
            value.const_value = None
            graph.inputs.append(value)
    return weights


def _is_float(value: ir.Value | None) -> TypeGuard[ir.Value]:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _widened(node: ir.Node, value: ir.Value) -> ir.Value:
    """`value` in float64 for `node`: another constant, or behind a Cast."""
    build = Builder(node)
    if value.const_value is not None:
        return build.initializer(value.const_value.numpy().astype(np.float64), f"{value.name}.float64")
    return build.node("Cast", [value], known_dims(value), dtype=ir.DataType.DOUBLE, attributes={"to": int(ir.DataType.DOUBLE)})


# An operator's class has the operator's name: that is how onnx finds it.


class Erf(OpRun):
    """Erf."""

    def _run(self, x: Array) -> tuple[Array]:
        return (torch.erf(_tensor(x)).numpy(),)


class GatherElements(OpRun):
    """GatherElements; onnx's own does not take every shape that the operator may have."""

    def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        return (torch.gather(_tensor(data), axis, _tensor(indices)).numpy(),)


class Gemm(OpRun):
    """Gemm."""

    def _run(
        self,
        a: Array,
        b: Array,
        c: Array | None = None,
        alpha: float = 1.0,
        beta: float = 1.0,
        transA: int = 0,  # noqa: N803  the operator's attributes
        transB: int = 0,  # noqa: N803
    ) -> tuple[Array]:
        left, right = (_tensor(a).T if transA else _tensor(a)), (_tensor(b).T if transB else _tensor(b))
        product = alpha * (left @ right) if alpha != 1.0 else left @ right
        return ((product if c is None else product + beta * _tensor(c)).numpy(),)


class MatMul(OpRun):
    """MatMul."""

    def _run(self, a: Array, b: Array) -> tuple[Array]:
        return (torch.matmul(_tensor(a), _tensor(b)).numpy(),)


class Gelu(OpRun):
    """Gelu, exact or by tanh."""

    def _run(self, x: Array, approximate: str = "none") -> tuple[Array]:
        return (torch.nn.functional.gelu(_tensor(x), approximate=approximate).numpy(),)


class LayerNormalization(OpRun):
    """LayerNormalization over the last axis, which is where encoders have it."""

    def _run(
        self, x: Array, scale: Array, bias: Array | None = None, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
    ) -> tuple[Array]:
        del stash_type  # the precision of the statistics: that of x here
        assert axis in {-1, x.ndim - 1}, axis
        weight, offset = (None if item is None else _tensor(item.astype(x.dtype)) for item in (scale, bias))
        return (torch.nn.functional.layer_norm(_tensor(x), x.shape[-1:], weight, offset, epsilon).numpy(),)


class Log(OpRun):
    """Log, rounded once: float32 logarithms of different CPUs differ in their last bit."""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.log(x.astype(np.float64)).astype(x.dtype),)


class Softmax(OpRun):
    """Softmax."""

    def _run(self, x: Array, axis: int = -1) -> tuple[Array]:
        return (torch.softmax(_tensor(x), axis).numpy(),)


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))  # W: PyTorch warns of arrays that cannot be written


OPERATORS = [Erf, GatherElements, Gelu, Gemm, LayerNormalization, Log, MatMul, Softmax]
