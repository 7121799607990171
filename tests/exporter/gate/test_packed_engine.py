"""A packed graph on a CPU: laid out as for a GPU, the numbers of its operators, and files that are none."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import packed_operators
import pytest
from bundle_builder import build_bundle
from onnx import numpy_helper

from cls_exporter.errors import GraphError
from cls_exporter.gate.packed_engine import PackedEngine, load_packed
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.manifest import Manifest
from cls_runtime.engines.base import Float32, TokenBatch
from cls_runtime.engines.packing import packed
from cls_runtime.errors import ClosedError, EngineError

OUTPUTS = ["sentence_embedding", "last_hidden_state"]
INPUTS = (
    "int32[T] input_ids, int32[T] token_type_ids, int32[T] position_ids, int32[N] cu_seqlens, int32[B] cls_rows, int32[B,S] token_offset,"
    " int32[B,S] attention_mask"
)
BODY = """
    words = Gather(E, input_ids)  kinds = Gather(K, token_type_ids)  places = Gather(P, position_ids)
    a = Add(words, kinds)  x = Add(a, places)  q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
    c = com.microsoft.PackedMultiHeadAttention <num_heads = 2, scale = 1.0> (q, k, v, "", token_offset, cu_seqlens)
    last_hidden_state = com.microsoft.SkipLayerNormalization <epsilon = 1.0e-5> (c, x, gamma)
    first = Gather(last_hidden_state, cls_rows)
    whole = com.microsoft.RestorePadding(last_hidden_state, token_offset)
    weights = Cast <to = 1> (attention_mask)  shares = Unsqueeze(weights, axis)  parts = Mul(whole, shares)
    sum = ReduceSum <keepdims = 0> (parts, rows)  sentence_embedding = Add(sum, first)
"""

# Of what the packed operators read and make, as a file has them that `ir.save` wrote.
SHAPES = {**dict.fromkeys(["q", "k", "v", "c", "last_hidden_state"], "T,8"), "whole": "B,S,8"}


def packed_file(path: Path, *, inputs: str = INPUTS, body: str = BODY, outputs: Sequence[str] = OUTPUTS) -> Path:
    """A graph of one attention, whose sentence is the first row and the sum of those that are pooled."""
    generator = np.random.default_rng(0)
    shapes = {"E": (50, 8), "K": (2, 8), "P": (16, 8), "wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "gamma": (8,)}
    weights = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    weights |= {"axis": np.array([2]), "rows": np.array([1])}
    made = ", ".join(f"float[{'B' if name == 'sentence_embedding' else 'T'},8] {name}" for name in outputs)
    inner = ", ".join(f"float[{dims}] {name}" for name, dims in SHAPES.items() if name not in outputs)
    header = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>'
    proto = onnx.parser.parse_model(f"{header} g ({inputs}) => ({made}) <{inner}> {{ {body} }}")
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(proto, path)
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return Bundle.open(build_bundle(tmp_path / "bundle", outputs=("sentence_embedding",), pooling="mean", token_rows=True)).manifest


@pytest.fixture
def engine(tmp_path: Path, manifest: Manifest) -> PackedEngine:
    return load_packed(packed_file(tmp_path / "packed.onnx"), manifest)


def batch_of(*lengths: int, seed: int = 0, unpooled: Sequence[int] | None = None) -> TokenBatch:
    generator = np.random.default_rng(seed)
    tokens = sum(lengths)
    return TokenBatch(
        input_ids=generator.integers(1, 50, tokens).astype(np.int32),
        lengths=np.array(lengths, dtype=np.int32),
        token_type_ids=generator.integers(0, 2, tokens).astype(np.int32),
        unpooled=None if unpooled is None else np.array(unpooled, dtype=np.int32),
    )


def expected(path: Path, batch: TokenBatch) -> list[Float32]:
    model = ir.load(path)
    made = packed_operators.run(model, packed(batch, [str(value.name) for value in model.graph.inputs]), OUTPUTS)
    return [made[name] for name in OUTPUTS]


@pytest.mark.parametrize("lengths", [(3, 7, 1), (1,), (16,), (1, 1), (5, 5)])
def test_it_gives_the_rows_that_the_operators_give(lengths: tuple[int, ...], tmp_path: Path, engine: PackedEngine) -> None:
    batch = batch_of(*lengths)
    ours = engine.run(batch, OUTPUTS)
    assert [rows.shape for rows in ours] == [(len(lengths), 8), (sum(lengths), 8)]
    for rows, theirs in zip(ours, expected(tmp_path / "packed.onnx", batch), strict=True):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, theirs, rtol=0, atol=2e-5)


def test_a_text_alone_is_what_it_is_in_a_batch(engine: PackedEngine) -> None:
    batch = batch_of(3, 7, 1)
    together = engine.run(batch, OUTPUTS)
    for text, (begin, end) in enumerate([(0, 3), (3, 10), (10, 11)]):
        assert batch.token_type_ids is not None
        alone = TokenBatch(batch.input_ids[begin:end], batch.lengths[text : text + 1], batch.token_type_ids[begin:end])
        sentence, rows = engine.run(alone, OUTPUTS)
        np.testing.assert_allclose(together[0][text], sentence[0], rtol=0, atol=1e-5)
        np.testing.assert_allclose(together[1][begin:end], rows, rtol=0, atol=1e-5)


def test_only_the_outputs_that_are_asked_for_come_back(engine: PackedEngine) -> None:
    batch = batch_of(3, 2)
    both = engine.run(batch, OUTPUTS)
    (rows,) = engine.run(batch, ["last_hidden_state"])
    np.testing.assert_array_equal(rows, both[1])


def test_several_threads_at_once(engine: PackedEngine) -> None:
    batches = [batch_of(*lengths, seed=seed) for seed, lengths in enumerate([(3, 7, 1), (2,), (9, 9), (1, 4)] * 5)]
    one_by_one = [engine.run(batch, OUTPUTS) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda batch: engine.run(batch, OUTPUTS), batches))
    for first, second in zip(one_by_one, at_once, strict=True):
        for rows, others in zip(first, second, strict=True):
            np.testing.assert_array_equal(rows, others)


def test_a_closed_engine_says_so(engine: PackedEngine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(ClosedError, match="closed"):
        engine.run(batch_of(2), OUTPUTS)


def test_a_batch_that_cannot_be_computed_is_an_error_that_shows_its_shapes(engine: PackedEngine) -> None:
    wrong = dataclasses.replace(batch_of(3, 2), input_ids=np.array([1, 2, 3, 4, 99], dtype=np.int32))
    with pytest.raises(EngineError, match=r"ONNX Runtime failed on input_ids \[5\], .*token_offset \[2, 3\]"):
        engine.run(wrong, OUTPUTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"body": BODY.replace("com.microsoft.PackedMultiHeadAttention", "com.microsoft.Packed2")},
            "a packed graph cannot be run without a GPU: ONNX Runtime cannot load packed.onnx: ",
        ),
        (
            {"inputs": f"{INPUTS}, int32[T] more", "body": BODY.replace("Gather(P, pos", "Gather(P, more) no = Gather(P, pos")},
            "inputs more",
        ),
        ({"outputs": OUTPUTS[:1]}, "packed.onnx has no output last_hidden_state, which the manifest names"),
    ],
)
def test_another_graph_than_the_bundles_is_none(changes: dict[str, str], message: str, tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(GraphError, match=message):
        load_packed(packed_file(tmp_path / "packed.onnx", **changes), manifest)


def test_a_graph_with_an_output_more_is_none(tmp_path: Path, manifest: Manifest) -> None:
    fewer = dataclasses.replace(manifest, token_rows=False, fingerprint="")
    with pytest.raises(GraphError, match="has outputs last_hidden_state, expected only sentence_embedding"):
        load_packed(packed_file(tmp_path / "packed.onnx"), fewer)


def test_a_padded_graph_is_none(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(GraphError, match=r"model.onnx has no packed operator, expected at least one per layer"):
        load_packed(tmp_path / "bundle" / "onnx" / "model.onnx", manifest)


def test_the_file_is_left_as_it_was(tmp_path: Path, manifest: Manifest) -> None:
    path = packed_file(tmp_path / "packed.onnx")
    before, files = path.read_bytes(), sorted(tmp_path.iterdir())
    load_packed(path, manifest)
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == files
