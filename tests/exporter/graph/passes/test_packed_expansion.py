"""The operators of a packed graph on a CPU: numbers as the operators' own, of every shape that a batch may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import packed_operators
import pytest
from numpy.typing import NDArray

from cls_exporter.graph.passes.packed_expansion import PackedExpansion
from cls_exporter.graph.passes.rewriting import known_dims
from cls_runtime.engines.cuda.libraries import preload

Array = NDArray[Any]

HEADS, WIDTH, VALUES = 2, 8, 6
TOLERANCE = {"float": 2e-6, "float16": 4e-3}
TYPES = {"float": np.float32, "float16": np.float16}
# Lengths of texts; rows behind them; places that a text has beyond the longest one.
SHAPES: tuple[tuple[Sequence[int], int, int], ...] = (
    ((3, 5, 1), 0, 0),
    ((1,), 0, 0),
    ((7,), 0, 0),
    ((1, 1, 1, 1), 0, 0),
    ((4, 2), 3, 0),  # rows behind, fewer than there is padding
    ((4, 4), 9, 0),  # more rows than places
    ((2, 5, 3), 0, 4),
    ((3, 2, 0, 0), 3, 1),  # texts without tokens, as a bucket has them
    ((0, 3, 0, 2), 0, 0),
    ((1, 0), 1, 0),
)


@dataclass(frozen=True)
class Layout:
    """The arrays that say where the tokens are, and how many rows there are."""

    token_offset: Array
    cu_seqlens: Array
    tokens: int
    rows: int


def layout(lengths: Sequence[int], *, behind: int = 0, wider: int = 0) -> Layout:
    width = max(lengths) + wider
    places = [text * width + place for text, length in enumerate(lengths) for place in range(length)]
    padding = sorted(set(range(len(lengths) * width)) - set(places))
    return Layout(
        token_offset=np.array([*places, *padding], dtype=np.int32).reshape(len(lengths), width),
        cu_seqlens=np.array([0, *np.cumsum(lengths)], dtype=np.int32),
        tokens=len(places),
        rows=len(places) + behind,
    )


def attention_graph(
    *,
    kind: str = "float",
    inputs: str = "q, k, v, empty, token_offset, cu_seqlens",
    attributes: str = "num_heads = 2, scale = 1.0",
    width: int = WIDTH,
    values: int = VALUES,
) -> ir.Model:
    body = f"y = com.microsoft.PackedMultiHeadAttention <{attributes}> ({inputs})".replace("empty", '""')
    return parse(
        f"g ({kind}[T,{width}] q, {kind}[T,{width}] k, {kind}[T,{values}] v, {kind}[{2 * width + values}] bias, int32[B,S] token_offset,"
        f" int32[N] cu_seqlens, {kind}[E,2,S,S] near) => ({kind}[T,{values}] y) {{ {body} }}"
    )


def restore_graph(kind: str = "float") -> ir.Model:
    return parse(
        f"g ({kind}[T,{WIDTH}] rows, int32[B,S] token_offset) => ({kind}[B,S,{WIDTH}] y)"
        " { y = com.microsoft.RestorePadding (rows, token_offset) }"
    )


def parse(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>\n{text}'))


def feeds_of(model: ir.Model, at: Layout, *, kind: str = "float", seed: int = 0) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    batch, length = at.token_offset.shape
    sizes = {"T": at.rows, "B": batch, "E": batch, "S": length}
    where: dict[str, Array] = {"token_offset": at.token_offset, "cu_seqlens": at.cu_seqlens}
    feeds: dict[str, Array] = {}
    for value in model.graph.inputs:
        shape = tuple(dim if isinstance(dim, int) else sizes.get(dim, 0) for dim in known_dims(value))
        name = str(value.name)
        feeds[name] = where[name] if name in where else generator.standard_normal(shape).astype(TYPES[kind])
    return feeds


def expanded(model: ir.Model) -> ir.Model:
    """The graph after the pass, held to what every pass promises but the numbers, which no other engine here computes."""
    signature = [(value.name, value.dtype, str(value.shape)) for value in (*model.graph.inputs, *model.graph.outputs)]
    copy = model.clone()
    first = PackedExpansion()(copy)
    assert first.modified
    onnx.checker.check_model(ir.to_proto(copy), full_check=True)
    assert [(value.name, value.dtype, str(value.shape)) for value in (*copy.graph.inputs, *copy.graph.outputs)] == signature
    once = ir.to_proto(copy).SerializeToString(deterministic=True)
    assert not PackedExpansion()(copy).modified
    assert ir.to_proto(copy).SerializeToString(deterministic=True) == once
    return copy


def assert_same(model: ir.Model, at: Layout, *, kind: str = "float", seed: int = 0) -> None:
    """The operators and what they were expanded to give the same rows for every text; rows of none are NaN in both."""
    feeds = feeds_of(model, at, kind=kind, seed=seed)
    theirs = packed_operators.run(model, feeds)["y"]
    ours = graphs.run(expanded(model), feeds)["y"]
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE[kind])


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("lengths", "behind", "wider"), SHAPES)
def test_attention_of_packed_texts(lengths: Sequence[int], behind: int, wider: int, kind: str) -> None:
    at = layout(lengths, behind=behind, wider=wider)
    model = attention_graph(kind=kind)
    assert_same(model, at, kind=kind)
    rows = graphs.run(expanded(model), feeds_of(model, at, kind=kind))["y"]
    assert np.isfinite(rows[: at.tokens]).all()
    assert np.isnan(rows[at.tokens :]).all()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("lengths", "behind", "wider"), SHAPES)
def test_padding_is_restored(lengths: Sequence[int], behind: int, wider: int, kind: str) -> None:
    assert_same(restore_graph(kind), layout(lengths, behind=behind, wider=wider), kind=kind)


@pytest.mark.parametrize("seed", range(25))
def test_any_batch(seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 12, generator.integers(1, 7))
    lengths[generator.integers(len(lengths))] += 1  # one token at least
    at = layout(lengths.tolist(), behind=int(generator.integers(0, 9)), wider=int(generator.integers(0, 3)))
    kind = ("float", "float16")[seed % 2]
    assert_same(attention_graph(kind=kind), at, kind=kind, seed=seed)
    assert_same(restore_graph(kind), at, kind=kind, seed=seed)


@pytest.mark.parametrize("attributes", ["num_heads = 2", "num_heads = 2, scale = 0.0", "num_heads = 1, scale = 0.3"])
def test_the_scale_is_the_operators(attributes: str) -> None:
    assert_same(attention_graph(attributes=attributes), layout((3, 5, 1)))


@pytest.mark.parametrize(
    "inputs",
    [
        "q, k, v, bias, token_offset, cu_seqlens",
        "q, k, v, empty, token_offset, cu_seqlens, near",
        "q, k, v, bias, token_offset, cu_seqlens, near",
    ],
)
def test_biases(inputs: str) -> None:
    assert_same(attention_graph(inputs=inputs), layout((3, 5, 1)))


def test_a_text_does_not_see_another_one() -> None:
    model = attention_graph()
    at = layout((3, 5, 1))
    feeds = feeds_of(model, at)
    before = graphs.run(expanded(model), feeds)["y"]
    changed = {**feeds, **{name: np.concatenate([feeds[name][:3], 2 * feeds[name][3:]]) for name in ("q", "k", "v")}}
    after = graphs.run(expanded(model), changed)["y"]
    np.testing.assert_array_equal(after[:3], before[:3])
    assert not np.allclose(after[3:], before[3:])


@pytest.mark.parametrize("damaged", ["token_offset", "cu_seqlens"])
def test_where_the_two_layouts_differ_the_rows_are_wrong(damaged: str) -> None:
    """Which of them a GPU reads depends on its kernel, so that both must be right."""
    model = attention_graph()
    at = layout((3, 5, 4))
    feeds = feeds_of(model, at)
    right = graphs.run(expanded(model), feeds)["y"]
    other = layout((4, 4, 4), wider=1)
    wrong = graphs.run(expanded(model), {**feeds, damaged: getattr(other, damaged)})["y"]
    assert np.nanmax(np.abs(wrong - right)) > 0.01


def test_layers_share_where_the_tokens_are() -> None:
    layer = '{} = com.microsoft.PackedMultiHeadAttention <num_heads = 2> (q, k, {}, "", token_offset, cu_seqlens)'
    one, two = layer.format("y", "v"), f"{layer.format('x', 'v')}  {layer.format('y', 'x')}"
    signature = "g (float[T,8] q, float[T,8] k, float[T,8] v, int32[B,S] token_offset, int32[N] cu_seqlens) => (float[T,8] y)"
    counts = [graphs.operators(expanded(parse(f"{signature} {{ {body} }}"))).count("Less") for body in (one, two)]
    assert counts == [1, 1]


@pytest.mark.parametrize(
    "body",
    [
        "y = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x)",
        'y = com.microsoft.PackedMultiHeadAttention <num_heads = 2> (packed, "", "", "", token_offset, cu_seqlens)',
        "y = Identity (x)",
    ],
)
def test_others_stay(body: str) -> None:
    model = parse(
        f"g (float[B,S,8] x, float[T,2,3,4] packed, int32[B,S] token_offset, int32[N] cu_seqlens) => (float[U,V,8] y) {{ {body} }}"
    )
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    result: Any = PackedExpansion()(model)
    assert (result.count, result.modified) == (0, False)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


# ---------------------------------------------------------------- the operators themselves


@pytest.fixture(scope="module")
def on_the_gpu() -> Callable[[ir.Model, Mapping[str, Array]], Array]:
    """Runs a graph by ONNX Runtime's CUDA provider."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the installed onnxruntime has no CUDA provider")
    preload(onnxruntime)

    def run(model: ir.Model, feeds: Mapping[str, Array]) -> Array:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        provider = ("CUDAExecutionProvider", {"use_tf32": "0"})
        session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=[provider])
        if "CUDAExecutionProvider" not in session.get_providers():
            pytest.skip("the CUDA provider does not come up here")
        rows: Array = session.run(["y"], {item.name: feeds[item.name] for item in session.get_inputs()})[0]
        return rows

    return run


@pytest.mark.gpu
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("lengths", "behind", "wider"), SHAPES)
def test_a_gpu_gives_the_rows_of_texts_that_the_references_give(
    lengths: Sequence[int], behind: int, wider: int, kind: str, on_the_gpu: Callable[[ir.Model, Mapping[str, Array]], Array]
) -> None:
    """With heads of 32, as flash attention takes them. What is in rows of no text is not looked at. Not run yet: no GPU was at hand."""
    at = layout(lengths, behind=behind, wider=wider)
    for model in (attention_graph(kind=kind, width=64, values=64), restore_graph(kind)):
        feeds = feeds_of(model, at, kind=kind)
        ours, theirs = on_the_gpu(model, feeds), packed_operators.run(model, feeds)["y"]
        count = at.tokens if ours.ndim == 2 else len(ours)
        np.testing.assert_allclose(ours[:count], theirs[:count], rtol=0, atol=4 * TOLERANCE[kind])
