"""The smallest graph that an engine can show with that it works, in a hundred-odd bytes and without the onnx package.

    sentence_embedding [B, S] = Cast(input_ids [B, S], to=float32)

Written as protocol buffer fields, by the numbers in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cls_runtime.bundle import Bundle, sha256
from cls_runtime.engines.base import EngineModule, TokenBatch
from cls_runtime.errors import EngineError
from cls_runtime.manifest import BundleFile, Manifest, OutputSpec, Pooler, Source, SourcePooling, Variant

_FLOAT, _INT64 = 1, 7  # TensorProto.DataType
_ATTRIBUTE_INT = 2  # AttributeProto.AttributeType
_IR_VERSION, _OPSET = 8, 17
_INPUTS, _OUTPUT = ("input_ids", "attention_mask"), "sentence_embedding"
_GRAPH_NAME = "probe.onnx"


def probe(engine: EngineModule, folder: Path) -> tuple[str, ...]:
    """Loads the graph in an engine and runs it; gives the providers that computed.

    Args:
        engine: an engine's module.
        folder: an empty folder for the graph's file.

    Raises:
        ClsError: the engine is not installed, cannot load the graph, or computes something else.
    """
    loaded = engine.load(_bundle(folder), variant="fp32", threads=1)
    try:
        ids = np.array([[3, 1, 4]], dtype=np.int64)
        (found,) = loaded.run(TokenBatch(ids, np.ones_like(ids), None), [_OUTPUT])
        if found.dtype != np.float32 or not np.array_equal(found, ids):
            raise EngineError(
                f"{loaded.name} computed {found.tolist()} ({found.dtype}), expected {ids.tolist()} as float32; install it again"
            )
        return loaded.providers
    finally:
        loaded.close()


def graph_bytes() -> bytes:
    """The graph as an ONNX file."""
    cast = _field(1, b"to") + _number(3, _FLOAT) + _number(20, _ATTRIBUTE_INT)
    node = _field(1, _INPUTS[0].encode()) + _field(2, _OUTPUT.encode()) + _field(4, b"Cast") + _field(5, cast)
    graph = _field(1, node) + _field(2, b"probe")
    for name in _INPUTS:
        graph += _field(11, _value(name, _INT64))
    graph += _field(12, _value(_OUTPUT, _FLOAT))
    return _number(1, _IR_VERSION) + _field(7, graph) + _field(8, _field(1, b"") + _number(2, _OPSET))


def _value(name: str, element_type: int) -> bytes:
    """A ValueInfoProto: a tensor of two named axes."""
    axes = b"".join(_field(1, _field(2, axis)) for axis in (b"batch_size", b"sequence_length"))
    return _field(1, name.encode()) + _field(2, _field(1, _number(1, element_type) + _field(2, axes)))


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


def _bundle(folder: Path) -> Bundle:
    path = folder / _GRAPH_NAME
    path.write_bytes(graph_bytes())
    file = BundleFile(path=_GRAPH_NAME, sha256=sha256(path), size_bytes=path.stat().st_size)
    manifest = Manifest(
        source=Source(name="probe", revision=None, weights_sha256="", tokenizer_sha256=""),
        architecture="probe",
        hidden_size=1,
        num_layers=0,
        max_length=1,
        layout="standard",
        inputs=_INPUTS,
        outputs=(OutputSpec(name=_OUTPUT, width=1),),
        pooler=Pooler(state="absent", evidence="a probe"),
        source_pooling=SourcePooling(mode=None),
        variants={"fp32": Variant(files=(file,), recipe={}, parity={}, batch_invariance_max_abs=0.0)},
        files=(),
        tool_versions={},
    )
    return Bundle(folder, manifest)
