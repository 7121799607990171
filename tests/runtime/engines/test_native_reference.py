"""The native engine in NumPy: it computes what its model says, and the same whatever texts come together."""

import dataclasses
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_library import needs_native, usable_kernels
from native_models import KINDS, PRODUCTS, Kind, random_batch, random_model
from plain_transformer import ACTIVATIONS, plain_output

from cls_runtime.bundle.manifest import GRAPH_OUTPUTS
from cls_runtime.engines.base import TokenBatch
from cls_runtime.engines.native.engine import NativeEngine
from cls_runtime.engines.native.reference import ReferenceEngine
from cls_runtime.engines.native.sizes import check_sizes
from cls_runtime.engines.native.weights import NativeModel, OneRow, Product, packed_floats, unpacked_floats
from cls_runtime.errors import ClosedError, EngineError

SENTENCE = "sentence_embedding"


def names(model: NativeModel) -> list[str]:
    return [GRAPH_OUTPUTS[name] for name in model.widths]


def computed(model: NativeModel, batch: TokenBatch, *, exact: bool) -> dict[str, Any]:
    return dict(zip(model.widths, ReferenceEngine(model, exact=exact).run(batch, names(model)), strict=True))


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "fast"])
@pytest.mark.parametrize("name", KINDS)
def test_it_computes_what_the_model_says(name: str, exact: bool) -> None:
    kind = KINDS[name]
    model = random_model(kind, 1)
    batch = random_batch(kind, 2, 7, kind.max_length, 1, 2, unpooled=True)
    # Rows of 8 bits are off by up to half a step in each product; a wrong rule is off by more than ten times so much.
    tolerance = 0.15 if kind.integers else 2e-5
    for output, rows in computed(model, batch, exact=exact).items():
        assert rows.dtype == np.float32
        expected = plain_output(model, batch, output)
        assert rows.shape == expected.shape
        np.testing.assert_allclose(rows, expected, atol=tolerance)
        if kind.integers:
            cosines = (rows * expected).sum(axis=1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(expected, axis=1)
            assert cosines.min() > 0.999


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "fast"])
@pytest.mark.parametrize("name", KINDS)
def test_a_text_alone_is_a_text_in_a_batch(name: str, exact: bool) -> None:
    kind = KINDS[name]
    model = random_model(kind)
    batch = random_batch(kind, 5, 3, kind.max_length, 1, 17, unpooled=True)
    together = computed(model, batch, exact=exact)
    for index, (begin, end) in enumerate(zip(batch.offsets[:-1], batch.offsets[1:], strict=True)):
        types = batch.token_type_ids
        alone = TokenBatch(
            batch.input_ids[begin:end],
            batch.lengths[index : index + 1],
            None if types is None else types[begin:end],
            batch.unpooled[index : index + 1],
        )
        for output, rows in computed(model, alone, exact=exact).items():
            part = slice(begin, end) if output == "tokens" else slice(index, index + 1)
            assert rows.tobytes() == together[output][part].tobytes()


def test_one_row_is_the_same_row_of_all() -> None:
    """The reassociated keys and values are those of the layer that computes all rows."""
    kind = Kind(pooler=True)
    model = random_model(kind, 3)
    last, width = model.layers[-1], model.attention_width
    assert last.query_key_value is not None
    weight, bias = unpacked_floats(last.query_key_value.floats), last.query_key_value.bias
    parts = [slice(index * width, (index + 1) * width) for index in range(3)]
    zeros = np.zeros(len(weight), dtype=np.float32)
    one_row = OneRow(
        query=Product(bias=bias[parts[0]], floats=packed_floats(weight[:, parts[0]])),
        key_by_head=Product(bias=zeros, floats=packed_floats(weight[:, parts[1]].T)),
        value_by_head=Product(bias=bias[parts[2]], floats=packed_floats(weight[:, parts[2]])),
    )
    pruned = dataclasses.replace(model, layers=(*model.layers[:-1], dataclasses.replace(last, query_key_value=None, one_row=one_row)))
    check_sizes(pruned)
    batch = random_batch(kind, 3, 9, 24, 1, 4, unpooled=True)
    for output, rows in computed(pruned, batch, exact=True).items():
        np.testing.assert_allclose(rows, computed(model, batch, exact=True)[output], atol=5e-6)


def test_unpooled_tokens() -> None:
    """A sentence's row is the first that is pooled; a mean leaves out the others; the pooler takes row 0 whatever is pooled."""
    for kind in (KINDS["one row, pooler, logits"], Kind(pooler=True), KINDS["mean, dense"]):
        model = random_model(kind)
        batch = random_batch(kind, 1, 5, 5, 5, 5)
        same = dataclasses.replace(batch, input_ids=np.tile(batch.input_ids[:5], 4), token_type_ids=np.zeros(20, dtype=np.int32))
        rows = computed(model, dataclasses.replace(same, unpooled=np.array([0, 2, 5, 9], dtype=np.int32)), exact=True)
        sentences = rows["sentence"]
        assert not np.array_equal(sentences[0], sentences[1])
        assert np.array_equal(sentences[2], sentences[3])
        assert np.array_equal(sentences[0], sentences[2]) is not kind.mean_pooled
        for output in set(rows) - {"sentence"}:
            assert (rows[output] == rows[output][0]).all()


def test_outputs_come_in_the_order_asked_for() -> None:
    model = random_model(KINDS["one row, pooler, logits"])
    batch = random_batch(KINDS["one row, pooler, logits"], 0)
    engine = ReferenceEngine(model)
    one, two = engine.run(batch, ["logits", SENTENCE])
    assert one.shape[1] == 5
    np.testing.assert_array_equal(engine.run(batch, [SENTENCE])[0], two)
    assert engine.padding_tokens(batch) == 0


def test_two_threads_at_once() -> None:
    model = random_model(KINDS["int8"])
    engine, batches = ReferenceEngine(model), [random_batch(KINDS["int8"], seed) for seed in range(8)]
    expected = [engine.run(batch, [SENTENCE])[0] for batch in batches]
    rows: list[Any] = [None] * len(batches)

    def run(index: int) -> None:
        (rows[index],) = engine.run(batches[index], [SENTENCE])

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row, same in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(row, same)


def ids(*values: int) -> Any:
    return np.array(values, dtype=np.int32)


@pytest.mark.parametrize(
    "batch",
    [
        TokenBatch(ids(), ids()),
        TokenBatch(ids(1, 2), ids(1)),
        TokenBatch(ids(1, 2), ids(2, 0)),
        TokenBatch(ids(1, 2), ids(3, -1)),
        TokenBatch(ids(1, 50), ids(2)),
        TokenBatch(ids(1, -1), ids(2)),
        TokenBatch(ids(*[1] * 25), ids(25)),
        TokenBatch(ids(1, 2), ids(2), ids(0, 2)),
        TokenBatch(ids(1, 2), ids(2), ids(0, -1)),
        TokenBatch(ids(1, 2), ids(2), ids(0)),
        TokenBatch(ids(1, 2), ids(2), ids(0, 1), ids(-1)),
        TokenBatch(ids(1, 2), ids(2), ids(0, 1), ids(0, 0)),
    ],
)
def test_what_the_model_does_not_take(batch: TokenBatch) -> None:
    with pytest.raises(EngineError, match="the model does not take a batch of"):
        ReferenceEngine(random_model(Kind())).run(batch, [SENTENCE])


def test_an_output_that_is_not_there_and_an_engine_that_is_closed() -> None:
    batch = random_batch(Kind(), 0)
    engine = ReferenceEngine(random_model(Kind()))
    with pytest.raises(EngineError, match="the model has no output 'pooler_output', expected one of sentence_embedding"):
        engine.run(batch, ["pooler_output"])
    engine.close()
    engine.close()
    with pytest.raises(ClosedError, match="the engine is closed; load the bundle again"):
        engine.run(batch, [SENTENCE])


def assert_same_bits(kind: Kind, seed: int, *, unpooled: bool, threads: int = 1) -> None:
    """The library, with every family of kernels, gives the reference's bits."""
    model, batch = random_model(kind, seed), random_batch(kind, seed, unpooled=unpooled)
    check_sizes(model)
    expected = computed(model, batch, exact=True)
    for family in usable_kernels():
        engine = NativeEngine(model, threads=threads, kernels=family)
        for output, rows in zip(model.widths, engine.run(batch, names(model)), strict=True):
            assert rows.tobytes() == expected[output].tobytes(), (family, output, np.abs(rows - expected[output]).max())
        engine.close()


@needs_native
@pytest.mark.parametrize("name", KINDS)
def test_the_library_gives_the_same_bits(name: str) -> None:
    for seed in range(3):
        assert_same_bits(KINDS[name], seed, unpooled=bool(seed), threads=seed + 1)


@st.composite
def kinds(draw: st.DrawFn) -> Kind:
    """Models of any kind, most of which no export makes."""
    flags = st.booleans()
    rotation, mean, tokens, embedding_size = draw(flags), draw(flags), draw(flags), draw(st.sampled_from([None, None, 5, 64, 100]))
    one_row = draw(flags) and not (rotation or mean or tokens)
    return Kind(
        hidden=draw(st.sampled_from([1, 16, 33, 64, 65, 130])),
        heads=draw(st.integers(1, 5)),
        head_size=draw(st.sampled_from([2, 8, 16, 20, 34])) if rotation else draw(st.integers(1, 40)),
        feed_forward=draw(st.integers(1, 200)),
        layers=draw(st.integers(1, 3)),
        max_length=draw(st.sampled_from([1, 5, 17, 70])),
        embedding_size=embedding_size,
        half_words=draw(flags),
        token_types=draw(st.integers(0, 2)),
        positions=draw(flags),
        position_offset=draw(st.integers(0, 2)),
        position_padding_id=draw(st.sampled_from([None, 0, 3])),
        integers=tuple(draw(st.sets(st.sampled_from(PRODUCTS)))),
        smoothing=draw(flags),
        one_row=one_row,
        pre_norm=draw(flags),
        first_norm=draw(flags),
        gated=draw(flags),
        window=0 if one_row else draw(st.sampled_from([0, 1, 4, 20])),
        rotation=rotation,
        distances=draw(flags),
        mean_pooled=mean,
        tokens=tokens,
        activation=draw(st.sampled_from(sorted(ACTIVATIONS))),
        pooler=draw(flags),
        labels=draw(st.integers(0, 3)),
        dense=tuple(draw(st.lists(st.integers(1, 80), max_size=2))),
    )


@needs_native
@settings(max_examples=25)
@given(kinds(), st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 3))
def test_the_library_gives_the_same_bits_whatever_the_model(kind: Kind, seed: int, unpooled: bool, threads: int) -> None:
    assert_same_bits(kind, seed, unpooled=unpooled, threads=threads)
