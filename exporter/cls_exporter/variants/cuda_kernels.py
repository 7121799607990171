"""Which operators ONNX Runtime computes on an NVIDIA GPU, from a list that is kept beside this module."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import onnx_ir as ir

from cls_exporter.graph.passes.rewriting import ONNX_DOMAIN

LIST_NAME = "cuda_kernels.json"


def without_cuda_kernel(model: ir.Model) -> list[str]:
    """The nodes of `model` that have no CUDA kernel for their opset and the types of their inputs and outputs, in words.

    Empty where the whole graph stays on the GPU. Sizes and shapes are not looked at: ONNX Runtime itself computes those on the CPU.
    """
    missing: dict[str, None] = {}  # a set in the graph's order
    for node in nodes_without_cuda_kernel(model):
        types = ", ".join(_type(value) for value in node.inputs)
        missing[f"{node.domain or 'ai.onnx'}::{node.op_type} (opset {_version(model, node)}; {types})"] = None
    return list(missing)


def nodes_without_cuda_kernel(model: ir.Model) -> list[ir.Node]:
    """The nodes that `without_cuda_kernel` tells of."""
    known = _kernels()
    return [
        node
        for node in model.graph
        if not any(_takes(kernel, node, _version(model, node)) for kernel in known.get(node.domain, {}).get(node.op_type, ()))
    ]


def _version(model: ir.Model, node: ir.Node) -> int:
    return model.graph.opset_imports.get(node.domain, 1)


@functools.cache
def _kernels() -> Mapping[str, Mapping[str, list[dict[str, Any]]]]:
    content = files("cls_exporter.variants").joinpath(LIST_NAME).read_text(encoding="utf-8")
    domains = json.loads(content)["kernels"]
    return {ONNX_DOMAIN if name == "ai.onnx" else name: operators for name, operators in domains.items()}


def _takes(kernel: Mapping[str, Any], node: ir.Node, version: int) -> bool:
    first, last = kernel["opset"]
    if not first <= version <= (last or version):
        return False
    return all(
        _allowed(kernel["types"], constraint, value)
        for values, constraints in ((node.inputs, kernel["in"]), (node.outputs, kernel["out"]))
        for value, constraint in zip(values, _stretched(constraints, len(values)), strict=True)
    )


def _stretched(constraints: list[str], count: int) -> list[str]:
    """One constraint for each of `count` values: a variadic operator repeats its last."""
    return (constraints + [constraints[-1]] * count)[:count]


def _allowed(types: Mapping[str, list[str]], constraint: str, value: ir.Value | None) -> bool:
    """Whether the kernel takes the value; a constraint that the list does not name, such as `int64`, is a type itself."""
    return value is None or not value.name or _type(value) in types.get(constraint, [constraint])


def _type(value: ir.Value | None) -> str:
    if value is None:
        return "none"
    return "unknown" if value.dtype is None else value.dtype.name.lower()
