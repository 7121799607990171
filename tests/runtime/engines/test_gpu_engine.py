"""The engine of one GPU, and several of them as one. The same code as on a GPU, with small graphs on ONNX Runtime's CPU provider."""

import dataclasses
import gc
import threading
import time
import types
import weakref

import numpy as np
import onnxruntime
import pytest
from bundle_builder import tiny_graph
from hypothesis import given
from hypothesis import strategies as st
from packed_graphs import HIDDEN, WIDTHS, batch_of, expected, packed_model, session_of

from cls_runtime import BundleError, ClosedError, EngineError, EngineWarning
from cls_runtime.bundle.manifest import OutputSpec
from cls_runtime.engines.base import TokenBatch
from cls_runtime.engines.cuda import graphs as cuda_graphs
from cls_runtime.engines.cuda.engine import GpuEngine, halves
from cls_runtime.engines.cuda.graphs import CudaGraphs
from cls_runtime.engines.cuda.layouts import PackedLayout, PaddedLayout
from cls_runtime.engines.cuda.load import engine_of
from cls_runtime.engines.cuda.memory import Device
from cls_runtime.engines.cuda.pool import GpuPool

CPU = Device("cpu")
LONG = 60  # seconds
SENTENCE, TOKENS = "sentence_embedding", "last_hidden_state"
LENGTHS = st.lists(st.integers(1, 90), min_size=1, max_size=40).map(tuple)


def packed_engine(*, mean=False, session=None, workers=2, device=CPU, graphs=None):
    session = session or session_of(packed_model(mean=mean, tokens=True))
    inputs = [item.name for item in session.get_inputs()]
    return GpuEngine(session, PackedLayout(inputs, WIDTHS), device=device, workers=workers, graphs=graphs)


@pytest.fixture(scope="module", params=[False, True], ids=["cls", "mean"])
def pooled(request):
    """A packed engine, and whether it pools by the mean."""
    engine = packed_engine(mean=request.param)
    yield engine, request.param
    engine.close()


@given(LENGTHS)
def test_vectors_are_each_texts_own_and_in_order(pooled, lengths):
    engine, mean = pooled
    batch = batch_of(*lengths)
    vectors, states = engine.run(batch, [SENTENCE, TOKENS])
    wanted = expected(batch, mean=mean)
    np.testing.assert_array_equal(vectors, wanted[0])
    np.testing.assert_array_equal(states, wanted[1])
    assert (vectors.dtype, states.dtype) == (np.float32, np.float32)


def test_what_is_read_and_not_pooled_is_not_pooled():
    engine = packed_engine(mean=True)
    batch = batch_of(6, 9, 4, unpooled=(2, 3, 0))
    np.testing.assert_array_equal(engine.run(batch, [SENTENCE])[0], expected(batch, mean=True)[0])


def test_no_row_of_a_filler_reaches_a_mean():
    """Were fillers rows behind the last text, RestorePadding would put what a kernel left there into padding: NaN times 0."""
    names = ("token_offset", "attention_mask", "cu_seqlens", "input_ids")
    batch = batch_of(5, 9, 2)
    feeds = PackedLayout(names, WIDTHS).lay_out(batch).feeds
    rows = np.full((len(feeds["input_ids"]), HIDDEN), np.nan, dtype=np.float32)
    rows[: feeds["cu_seqlens"][-1]] = 1  # what a kernel writes: the rows of texts, by cu_seqlens
    texts, width = feeds["token_offset"].shape
    restored = np.zeros((texts * width, HIDDEN), dtype=np.float32)
    restored[feeds["token_offset"].ravel()[: len(rows)]] = rows
    means = (restored.reshape(texts, width, HIDDEN) * feeds["attention_mask"][..., None]).sum(1)
    assert np.isfinite(means).all()


def test_only_the_outputs_asked_for_come_back():
    bound, bindings = [], []
    real = session_of(packed_model(tokens=True))

    class Watched:
        def io_binding(self):
            binding = real.io_binding()
            bindings.append(
                types.SimpleNamespace(bind_input=binding.bind_input, bind_output=lambda *a: bound.append(a) or binding.bind_output(*a))
            )
            bindings[-1].real = binding
            return bindings[-1]

        def run_with_iobinding(self, binding):
            real.run_with_iobinding(binding.real)

        def get_providers(self):
            return ["CUDAExecutionProvider"]

        def get_inputs(self):
            return real.get_inputs()

    engine = packed_engine(session=Watched())
    (rows,) = engine.run(batch_of(3, 4), [SENTENCE])
    assert rows.shape == (2, HIDDEN)
    assert [(name, device, kind) for name, device, _, kind, *_ in bound] == [(SENTENCE, "cpu", np.float32)]
    assert engine.providers == ("CUDAExecutionProvider",)


def test_a_padded_graph_gives_the_rows_of_texts_and_tokens():
    session = session_of(tiny_graph((SENTENCE,), type_ids=True, change_weights=lambda weights: weights, token_rows=True))
    engine = GpuEngine(session, PaddedLayout([item.name for item in session.get_inputs()]), device=CPU)
    given = batch_of(3, 7, 1)  # of a smaller vocabulary
    batch = dataclasses.replace(given, input_ids=given.input_ids % 90, token_type_ids=np.zeros(11, dtype=np.int32))
    vectors, states = engine.run(batch, [SENTENCE, TOKENS])
    assert (vectors.shape, states.shape) == ((3, 8), (11, 8))
    starts = batch.offsets
    for place in range(3):
        part = slice(starts[place], starts[place + 1])
        alone = TokenBatch(
            batch.input_ids[part], batch.lengths[place : place + 1], np.zeros(starts[place + 1] - starts[place], dtype=np.int32)
        )
        vector, rows = engine.run(alone, [SENTENCE, TOKENS])
        np.testing.assert_allclose(vectors[place : place + 1], vector, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(states[part], rows, rtol=1e-5, atol=1e-5)
    assert engine.padding_tokens(batch) == 3 * 7 - 11
    assert engine.batching.pads


def test_how_texts_are_put_together_for_a_packed_graph():
    engine = packed_engine()
    assert (engine.batching.pads, engine.batching.token_budget, engine.name) == (False, 65_536, "cuda")
    assert engine.padding_tokens(batch_of(5, 9, 2)) == 32 - 16


def manifest(**more):
    names = (SENTENCE, TOKENS)
    fields = {"recorded_outputs": ("cls", "tokens"), "outputs": tuple(OutputSpec(name=name, width=HIDDEN) for name in names)}
    return types.SimpleNamespace(inputs=("input_ids", "attention_mask"), **(fields | more))


def loaded(session, of=None, **more):
    return engine_of(session, of or manifest(), "graph.onnx", device=CPU, open_capturing=lambda: session, **more)


def test_a_packed_graph_is_known_by_its_inputs():
    engine = loaded(session_of(packed_model(tokens=True)))
    assert not engine.batching.pads
    assert engine._graphs is not None
    engine.close()
    padded = session_of(tiny_graph((SENTENCE,), type_ids=False, change_weights=lambda weights: weights, token_rows=True))
    engine = loaded(padded)
    assert engine.batching.pads
    assert engine._graphs is None


@pytest.mark.parametrize("mean", [False, True])
def test_a_packed_graph_of_other_outputs_than_the_manifests_is_refused(mean):
    with pytest.raises(BundleError, match="graph.onnx has outputs sentence_embedding, expected last_hidden_state, sentence_embedding"):
        loaded(session_of(packed_model(mean=mean)))


def test_an_input_that_no_packed_graph_has_is_named():
    model = packed_model(tokens=True)
    for item in [*model.graph.input, *model.graph.node]:
        if isinstance(item, type(model.graph.input[0])):
            item.name = item.name.replace("position_ids", "places_of_tokens")
        else:
            item.input[:] = [name.replace("position_ids", "places_of_tokens") for name in item.input]
    with pytest.raises(BundleError, match="has the inputs places_of_tokens, expected some of input_ids"):
        loaded(session_of(model))


class Small:
    """A session on a device with room for so many tokens at once; None: what it raises is another error."""

    def __init__(self, most, *, error="CUDA failure 2: out of memory ; GPU=0"):
        self._session = session_of(packed_model(tokens=True))
        self.most, self.error, self.tokens = most, error, []

    def get_inputs(self):
        return self._session.get_inputs()

    def get_providers(self):
        return self._session.get_providers()

    def io_binding(self):
        binding = self._session.io_binding()
        bind = binding.bind_input

        def watched(name, *arguments):
            if name == "input_ids":
                self.tokens.append(arguments[3][0])
            bind(name, *arguments)

        binding.bind_input = watched
        return binding

    def run_with_iobinding(self, binding):
        if self.tokens[-1] > self.most:
            raise RuntimeError(self.error)
        self._session.run_with_iobinding(binding)


BIG = batch_of(*[90] * 20, *[70] * 10)  # 2,500 tokens


def test_a_batch_for_which_there_is_no_memory_is_run_as_two_and_that_is_said():
    engine = packed_engine(session=Small(1400))
    with pytest.warns(EngineWarning, match="cpu:0 has no memory for a batch of 30 texts and 2500 tokens") as told:
        vectors, states = engine.run(BIG, [SENTENCE, TOKENS])
    assert "it is run as two, of 14 texts and 1260 tokens and 16 texts and 1240 tokens; lower token_budget below 2500" in str(
        told[0].message
    )
    assert len(told) == 1
    np.testing.assert_array_equal(vectors, expected(BIG)[0])
    np.testing.assert_array_equal(states, expected(BIG)[1])


def test_where_half_is_too_much_as_well_it_is_an_error_that_names_the_budget():
    engine = packed_engine(session=Small(800))
    with (
        pytest.warns(EngineWarning),
        pytest.raises(EngineError, match="cpu:0 failed on 14 texts .* half of a batch.*lower token_budget, to 630") as caught,
    ):
        engine.run(BIG, [SENTENCE])
    assert "\n" not in str(caught.value)
    # It goes on: memory may be there for the next.
    np.testing.assert_array_equal(engine.run(batch_of(5, 6), [SENTENCE])[0], expected(batch_of(5, 6))[0])


def test_one_text_cannot_be_split():
    with pytest.raises(EngineError, match="cpu:0 has no memory for one text of 400 tokens"):
        packed_engine(session=Small(100)).run(batch_of(400), [SENTENCE])


def test_other_errors_are_not_tried_again():
    session = Small(100, error="CUDA failure 700: an illegal memory access was encountered\nand more")
    with pytest.raises(EngineError, match="cpu:0 failed on a batch of 30 texts and 2500 tokens: CUDA failure 700") as caught:
        packed_engine(session=session).run(BIG, [SENTENCE])
    assert len(session.tokens) == 1
    assert "\n" not in str(caught.value)


@given(st.lists(st.integers(1, 500), min_size=2, max_size=30).map(tuple))
def test_halves_are_the_batch_and_neither_is_empty(lengths):
    batch = dataclasses.replace(batch_of(*lengths), token_type_ids=np.arange(sum(lengths), dtype=np.int32), pad_id=4)
    first, second = halves(batch)
    assert first.texts
    assert second.texts
    for name in ("input_ids", "lengths", "token_type_ids"):
        np.testing.assert_array_equal(np.concatenate([getattr(first, name), getattr(second, name)]), getattr(batch, name))
    assert (first.tokens, second.tokens) == (first.lengths.sum(), second.lengths.sum())
    assert max(first.tokens, second.tokens) <= batch.tokens / 2 + batch.longest
    assert first.pad_id == second.pad_id == 4


def run_in_threads(engine, *, threads=8, turns=40, mean=False):
    wrong = []

    def work(seed):
        random = np.random.default_rng(seed)
        for turn in range(turns):
            batch = batch_of(*random.integers(1, 60, random.integers(1, 40)).tolist(), seed=seed * 1000 + turn)
            try:
                vectors, states = engine.run(batch, [SENTENCE, TOKENS])
            except Exception as error:  # noqa: BLE001  shown below
                wrong.append(error)
                return
            wanted = expected(batch, mean=mean)
            if not (np.array_equal(vectors, wanted[0]) and np.array_equal(states, wanted[1])):
                wrong.append(batch)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return wrong


def test_buffers_of_runs_at_once_are_never_mixed(pooled):
    engine, mean = pooled
    assert run_in_threads(engine, mean=mean) == []


def test_graphs_and_plain_runs_at_once_give_the_same(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "SMALL_BATCHES_FIRST", 0)
    model = packed_model(tokens=True)
    graphs = CudaGraphs(lambda: session_of(model), device=CPU, name="cuda:0")
    engine = packed_engine(session=session_of(model), graphs=graphs)
    assert run_in_threads(engine) == []
    assert 0 < graphs.count <= 32
    batch = batch_of(7, 8)
    before = engine.run(batch, [SENTENCE])[0]
    end = time.monotonic() + LONG
    while not any(key.outputs == (SENTENCE,) for key in graphs._desk.captured) and graphs.count < 32:
        engine.run(batch, [SENTENCE])
        assert time.monotonic() < end
    np.testing.assert_array_equal(engine.run(batch, [SENTENCE])[0], before)
    engine.close()
    assert not graphs._thread.is_alive()


def test_growth_is_bounded_over_a_thousand_batches():
    """By the largest batch, whatever came before it: a power of two of its inputs, for each run that may be under way."""
    engine, random = packed_engine(workers=2), np.random.default_rng(1)
    allocations = []
    make = onnxruntime.OrtValue.ortvalue_from_shape_and_type

    class Counting:
        ortvalue_from_shape_and_type = staticmethod(lambda *a: allocations.append(a[0][0]) or make(*a))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "OrtValue", Counting)
        for turn in range(1000):
            engine.run(batch_of(*random.integers(1, 500, random.integers(1, 120)).tolist(), seed=turn), [SENTENCE])
    largest = 120 * 500 * 2 + 2 * 130 + 64 * 4  # ids, positions, offsets, first rows, gaps
    assert engine._buffers.size_bytes <= 2 * 4 * (1 << largest.bit_length())
    assert len(allocations) <= 2 * 2  # for each buffer: the least, and up to twice of it


def test_what_is_kept_does_not_grow_with_the_number_of_runs():
    engine = packed_engine()
    for turn in range(50):
        engine.run(batch_of(20, 30, seed=turn), [SENTENCE])
    gc.collect()
    before = len(gc.get_objects())
    for turn in range(500):
        engine.run(batch_of(20, 30, seed=turn), [SENTENCE])
    gc.collect()
    assert len(gc.get_objects()) - before < 200


def test_rows_are_the_callers_own():
    engine = packed_engine()
    batch, other = batch_of(5, 9), batch_of(5, 9, seed=1)
    first = engine.run(batch, [SENTENCE])[0]
    kept = first.copy()
    engine.run(other, [SENTENCE])
    np.testing.assert_array_equal(first, kept)


def test_closing_while_runs_are_under_way_lets_them_end():
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Small):
        def run_with_iobinding(self, binding):
            entered.set()
            assert go_on.wait(LONG)
            super().run_with_iobinding(binding)

    engine = packed_engine(session=Slow(10_000))
    rows = []
    thread = threading.Thread(target=lambda: rows.append(engine.run(batch_of(5), [SENTENCE])[0]))
    thread.start()
    assert entered.wait(LONG)
    engine.close()
    engine.close()
    with pytest.raises(ClosedError):
        engine.run(batch_of(5), [SENTENCE])
    go_on.set()
    thread.join()
    np.testing.assert_array_equal(rows[0], expected(batch_of(5))[0])


def test_a_closed_engine_keeps_nothing_of_its_session():
    session = session_of(packed_model())
    engine, there = packed_engine(session=session), weakref.ref(session)
    engine.run(batch_of(5), [SENTENCE])
    engine.close()
    del session
    gc.collect()
    assert there() is None


class Member:
    """An engine of a pool: its runs wait at a gate, and it may fail."""

    name, providers, batching, workers = "cuda", ("CUDAExecutionProvider",), packed_engine().batching, 4

    def __init__(self, *, error=None):
        self.runs, self.closed, self.error = 0, False, error
        self.gate = threading.Event()
        self.gate.set()

    def padding_tokens(self, batch):
        return 7

    def run(self, batch, outputs):
        self.runs += 1
        assert self.gate.wait(LONG)
        if self.error:
            raise self.error
        return [np.zeros((batch.texts, 2), dtype=np.float32) for _ in outputs]

    def close(self):
        self.closed = True
        if self.error:
            raise self.error


def test_a_pool_gives_each_run_to_the_gpu_that_has_least_to_do():
    members = [Member(), Member(), Member()]
    for member in members:
        member.gate.clear()
    pool = GpuPool(members)
    threads = [threading.Thread(target=pool.run, args=(batch_of(3), [SENTENCE])) for _ in range(6)]
    for count, thread in enumerate(threads, start=1):
        thread.start()
        end = time.monotonic() + LONG
        while sum(member.runs for member in members) < count:
            assert time.monotonic() < end
            time.sleep(0.001)
    assert [member.runs for member in members] == [2, 2, 2]
    members[1].gate.set()
    threads[1].join()
    threads[4].join()
    pool.run(batch_of(3), [SENTENCE])
    assert [member.runs for member in members] == [2, 3, 2]
    for member in members:
        member.gate.set()
    for thread in threads:
        thread.join()


def test_a_pool_is_one_engine():
    pool = GpuPool([Member(), Member()])
    assert (pool.name, pool.providers, pool.workers) == ("cuda", ("CUDAExecutionProvider",), 8)
    assert (pool.batching, pool.padding_tokens(batch_of(3))) == (Member.batching, 7)


def test_a_gpu_that_fails_is_named_and_gets_no_more_than_its_share():
    sessions = [Small(10_000), Small(0, error="CUDA failure 46: all CUDA-capable devices are busy")]
    engines = [packed_engine(session=session, device=Device("cpu", number)) for number, session in enumerate(sessions)]
    for engine in engines:  # the CPU has one number
        engine._buffers = packed_engine()._buffers
    pool = GpuPool(engines)
    pool._runs[0] = 1
    with pytest.raises(EngineError, match="cpu:1 failed on a batch of 1 texts"):
        pool.run(batch_of(3), [SENTENCE])
    assert pool._runs == [1, 0]


def test_closing_a_pool_closes_all_also_where_one_fails():
    members = [Member(), Member(error=EngineError("cuda:1 is gone")), Member()]
    with pytest.raises(EngineError, match="cuda:1 is gone"):
        GpuPool(members).close()
    assert all(member.closed for member in members)


def test_threads_on_a_pool_get_their_own_vectors():
    pool = GpuPool([packed_engine(), packed_engine()])
    assert run_in_threads(pool, turns=20) == []
    pool.close()
