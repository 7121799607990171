"""ONNX graphs without the onnx package, and the smallest bundle around one, so that an engine can be tried before any model is there.

Written as protocol buffer fields, by the numbers in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Two of them are files of this
package (`GRAPHS`), so that `cls-doctor` tries engines where nothing can be written; a test compares them with the code that makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.files import named_when_full, sha256
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.manifest import BundleFile, Manifest, OutputSpec, Pooler, Source, SourcePooling, Variant

GRAPHS = Path(__file__).parent / "graphs"
INPUTS, OUTPUT = ("input_ids", "attention_mask"), "sentence_embedding"
FLOAT, INT32, INT64 = 1, 6, 7  # TensorProto.DataType
MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators
_DATA_TYPES = {"float32": FLOAT, "uint8": 2, "int8": 3, "int32": INT32, "int64": INT64, "float16": 10}
_ATTRIBUTE_INT = 2  # AttributeProto.AttributeType
_IR_VERSION, _OPSET, _MICROSOFT_OPSET = 8, 17, 1
_PADDED = dict.fromkeys(INPUTS, (INT64, ("batch_size", "sequence_length")))


def node(op_type: str, inputs: Sequence[str], output: str, attributes: Mapping[str, int] | None = None, *, domain: str = "") -> bytes:
    """A NodeProto with one output and integer attributes; an input that is left out has no name."""
    parts = b"".join(_field(1, name.encode()) for name in inputs) + _field(2, output.encode()) + _field(4, op_type.encode())
    for name, value in (attributes or {}).items():
        parts += _field(5, _field(1, name.encode()) + _number(3, value) + _number(20, _ATTRIBUTE_INT))
    return parts + (_field(7, domain.encode()) if domain else b"")


def initializer(name: str, array: NDArray[Any]) -> bytes:
    """A TensorProto of float32, float16, uint8, int8, int32 or int64 values."""
    dims = b"".join(_number(1, size) for size in array.shape)
    little_endian = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return dims + _number(2, _DATA_TYPES[array.dtype.name]) + _field(8, name.encode()) + _field(9, little_endian.tobytes())


def graph_file(
    name: str,
    nodes: Sequence[bytes],
    initializers: Sequence[bytes] = (),
    *,
    inputs: Mapping[str, tuple[int, Sequence[str]]] = _PADDED,
) -> bytes:
    """An ONNX file with float32 `OUTPUT` of two axes. `inputs` are types and axes by name: int64 `INPUTS` [batch_size, sequence_length]."""
    graph = b"".join(_field(1, item) for item in nodes) + _field(2, name.encode())
    graph += b"".join(_field(5, item) for item in initializers)
    graph += b"".join(_field(11, _value(item, kind, axes)) for item, (kind, axes) in inputs.items())
    graph += _field(12, _value(OUTPUT, FLOAT, ("batch_size", "width")))
    opsets = _field(8, _field(1, b"") + _number(2, _OPSET))
    if any(MICROSOFT.encode() in item for item in nodes):
        opsets += _field(8, _field(1, MICROSOFT.encode()) + _number(2, _MICROSOFT_OPSET))
    return _number(1, _IR_VERSION) + _field(7, graph) + opsets


def write_graphs(folder: Path, graphs: Mapping[str, bytes]) -> None:
    """Writes each graph (name to ONNX file) to where `graph_bundle` looks for it."""
    for name, data in graphs.items():
        path = folder / f"{name}.onnx"
        with named_when_full(path):
            path.write_bytes(data)


def graph_bundle(folder: Path, names: Iterable[str], *, width: int) -> Bundle:
    """A bundle whose variants are the graphs `NAME.onnx` in `folder`, with nothing but them."""
    variants: dict[str, Variant] = {}
    for name in names:
        path = folder / f"{name}.onnx"
        file = BundleFile(path=path.name, sha256=sha256(path), size_bytes=path.stat().st_size)
        variants[name] = Variant(files=(file,), recipe={}, parity={}, batch_invariance_max_abs=0.0)
    manifest = Manifest(
        source=Source(name="hand-made", revision=None, weights_sha256="", tokenizer_sha256=""),
        architecture="hand-made",
        hidden_size=width,
        num_layers=0,
        max_length=1,
        layout="standard",
        inputs=INPUTS,
        outputs=(OutputSpec(name=OUTPUT, width=width),),
        pooler=Pooler(state="absent", evidence="made by hand"),
        source_pooling=SourcePooling(mode=None),
        variants=variants,
        files=(),
        tool_versions={},
    )
    return Bundle(folder, manifest)


def _value(name: str, element_type: int, axes: Sequence[str]) -> bytes:
    """A ValueInfoProto: a tensor of named axes."""
    shape = b"".join(_field(1, _field(2, axis.encode())) for axis in axes)
    return _field(1, name.encode()) + _field(2, _field(1, _number(1, element_type) + _field(2, shape)))


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _number(number: int, value: int) -> bytes:
    """An integer field."""
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
