"""The thread that has the CUDA graphs. Here its session is one on the CPU, which captures nothing, and all else is as on a GPU."""

import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
from packed_graphs import WIDTHS, batch_of, expected, packed_model, session_of

from cls_runtime import EngineWarning
from cls_runtime.engines.cuda import graphs as cuda_graphs
from cls_runtime.engines.cuda.capture_lock import PROCESS
from cls_runtime.engines.cuda.graphs import MOST_GRAPHS, SMALL_BATCHES_FIRST, CudaGraphs
from cls_runtime.engines.cuda.layouts import PackedLayout
from cls_runtime.engines.cuda.memory import Device

NAMES = ("input_ids", "position_ids", "cu_seqlens", "cls_rows")
LAYOUT = PackedLayout(NAMES, WIDTHS)
OUTPUTS = ["sentence_embedding"]
LONG = 60  # seconds


def until(condition):
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture
def session():
    return session_of(packed_model())


@pytest.fixture
def made(monkeypatch):
    """Makes graphs that are closed at the end, and need no small batches before."""
    monkeypatch.setattr(cuda_graphs, "SMALL_BATCHES_FIRST", 0)
    all_made = []

    def make(open_session):
        all_made.append(CudaGraphs(open_session, device=Device("cpu"), name="cuda:0"))
        return all_made[-1]

    yield make
    for graphs in all_made:
        graphs.close()


def plain(session, batch):
    laid_out = LAYOUT.lay_out(batch)
    return laid_out, [session.run(OUTPUTS, dict(laid_out.feeds))[0]]


def offer(graphs, session, batch):
    laid_out, rows = plain(session, batch)
    graphs.offer(laid_out.bucket, laid_out.feeds, OUTPUTS, laid_out.sizes, rows)


def opened(graphs, session):
    """The same graphs, with their session loaded: the first batch of all has that done."""
    offer(graphs, session, batch_of(5))
    until(lambda: graphs._desk.opened or graphs._desk.closed)
    return graphs


def replay(graphs, batch):
    laid_out = LAYOUT.lay_out(batch)
    with PROCESS.run():
        rows = graphs.run(laid_out.bucket, laid_out.feeds, OUTPUTS)
    return None if rows is None else LAYOUT.rows_of(batch, laid_out, OUTPUTS, rows)[0]


def with_a_graph(graphs, session, batch):
    before = graphs.count
    if not graphs._desk.opened:
        opened(graphs, session)
    offer(graphs, session, batch)
    assert graphs.count == before + 1
    until(lambda: graphs._desk.idle)


def test_a_shape_that_was_offered_gets_a_graph_with_the_plain_runs_vectors(made, session):
    graphs = made(lambda: session)
    batch = batch_of(5, 9, 2)
    assert replay(graphs, batch) is None
    with_a_graph(graphs, session, batch)
    for seed in range(5):
        other = batch_of(5, 9, 2, seed=seed)
        np.testing.assert_array_equal(replay(graphs, other), expected(other)[0])
    # The same bucket, another number of texts.
    np.testing.assert_array_equal(replay(graphs, batch_of(4, 8)), expected(batch_of(4, 8))[0])


def test_each_shape_has_memory_of_its_own(made, session):
    graphs = made(lambda: session)
    batches = [batch_of(5), batch_of(40), batch_of(3, 3, 3, 3, 3), batch_of(90, 20)]
    for batch in batches:
        with_a_graph(graphs, session, batch)
    first = [replay(graphs, batch) for batch in batches]
    for _ in range(3):
        for batch, rows in zip(batches, first, strict=True):
            np.testing.assert_array_equal(replay(graphs, batch), rows)
            np.testing.assert_array_equal(rows, expected(batch)[0])


def test_a_job_of_many_texts_does_not_pay_for_a_session(session):
    sessions = []
    graphs = CudaGraphs(lambda: sessions.append(True) or session, device=Device("cpu"), name="cuda:0")
    for _ in range(SMALL_BATCHES_FIRST):
        offer(graphs, session, batch_of(5))
    assert not graphs._thread.is_alive()
    opened(graphs, session)
    assert graphs.count == 0
    offer(graphs, session, batch_of(5))
    assert graphs.count == 1
    assert sessions == [True]
    graphs.close()
    assert not graphs._thread.is_alive()


def test_their_number_is_bounded(made, session, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MOST_GRAPHS", 2)
    graphs = opened(made(lambda: session), session)
    for length in (5, 40, 70, 100, 150):
        offer(graphs, session, batch_of(length))
    until(lambda: graphs._desk.idle)
    assert replay(graphs, batch_of(100)) is None
    assert replay(graphs, batch_of(5)) is not None
    assert graphs.count == 2 < MOST_GRAPHS


class Failing:
    """A session whose runs fail, or give other vectors than they should."""

    def __init__(self, session, *, error=None, change=None):
        self._session, self._error, self._change = session, error, change

    def io_binding(self):
        return self._session.io_binding()

    def run_with_iobinding(self, binding, options):
        if self._error:
            raise self._error
        self._session.run_with_iobinding(binding, options)
        rows = binding.get_outputs()[0]
        rows.update_inplace(self._change(rows.numpy()))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (
            lambda session: Failing(session, error=RuntimeError("CUDA failure 901: operation failed\nmore")),
            "CUDA failure 901: operation failed",
        ),
        (lambda session: Failing(session, change=lambda rows: rows + 100), "gave other vectors than a plain run"),
        (lambda session: Failing(session, change=lambda rows: rows * np.nan), "gave other vectors than a plain run"),
    ],
)
def test_where_capturing_fails_there_are_no_graphs_and_one_warning_says_so(made, session, broken, reason):
    graphs = opened(made(lambda: broken(session)), session)
    offer(graphs, session, batch_of(5))
    assert graphs._desk.failure
    with pytest.warns(EngineWarning, match=f"cuda:0 runs small batches without CUDA graphs and takes longer: .*{reason}") as told:
        assert replay(graphs, batch_of(5)) is None
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replay(graphs, batch_of(5)) is None
        offer(graphs, session, batch_of(40))
    until(lambda: not graphs._thread.is_alive())  # and its session is freed
    assert graphs.count == 0


def test_a_session_that_cannot_be_opened_is_the_same(made, session):
    def refuse():
        raise RuntimeError("This session cannot use the graph capture feature")

    graphs = opened(made(refuse), session)
    with pytest.warns(EngineWarning, match="cannot use the graph capture feature"):
        assert replay(graphs, batch_of(5)) is None


def test_a_graph_that_fails_later_is_given_up_and_whoever_waits_gets_nothing_from_it(made, session):
    failing = Failing(session, change=lambda rows: rows)
    graphs = made(lambda: failing)
    with_a_graph(graphs, session, batch_of(5))
    failing._error = RuntimeError("CUDA failure 700")
    assert replay(graphs, batch_of(5)) is None
    with pytest.warns(EngineWarning, match="CUDA failure 700"):
        assert replay(graphs, batch_of(5)) is None


def test_who_comes_while_the_thread_is_busy_does_not_wait(made, session):
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Failing):
        def run_with_iobinding(self, binding, options):
            entered.set()
            assert go_on.wait(LONG)
            self._session.run_with_iobinding(binding, options)

    graphs = made(lambda: Slow(session))
    go_on.set()
    with_a_graph(graphs, session, batch_of(5))
    go_on.clear()
    entered.clear()
    rows = []
    thread = threading.Thread(target=lambda: rows.append(replay(graphs, batch_of(5))))
    thread.start()
    assert entered.wait(LONG)
    assert replay(graphs, batch_of(6)) is None
    go_on.set()
    thread.join()
    np.testing.assert_array_equal(rows[0], expected(batch_of(5))[0])


def test_threads_at_once_get_their_own_vectors(made, session):
    graphs = made(lambda: session)
    for length in (5, 40):
        with_a_graph(graphs, session, batch_of(length))
    replays, wrong = [], []

    def work(seed):
        for turn in range(100):
            batch = batch_of((5, 40)[turn % 2], seed=seed * 1000 + turn)
            rows = replay(graphs, batch)
            if rows is not None:
                replays.append(1)
                if not np.array_equal(rows, expected(batch)[0]):
                    wrong.append(batch)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert replays


def test_graphs_that_are_dropped_end_their_thread(session, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "SMALL_BATCHES_FIRST", 0)
    graphs = CudaGraphs(lambda: session, device=Device("cpu"), name="cuda:0")
    with_a_graph(graphs, session, batch_of(5))
    thread, there = graphs._thread, weakref.ref(graphs)
    del graphs
    until(lambda: not thread.is_alive())
    assert there() is None


def test_after_close_there_are_none(made, session):
    graphs = made(lambda: session)
    with_a_graph(graphs, session, batch_of(5))
    graphs.close()
    graphs.close()
    assert replay(graphs, batch_of(5)) is None
    offer(graphs, session, batch_of(40))
    assert not graphs._thread.is_alive()


def test_a_capture_waits_until_no_run_is_under_way_and_whoever_offered_waits_for_it(made, session):
    graphs = opened(made(lambda: session), session)
    offering = threading.Thread(target=offer, args=(graphs, session, batch_of(5)))
    with PROCESS.run():
        offering.start()
        until(lambda: PROCESS._captures or graphs.count)
        assert graphs.count == 0
        assert offering.is_alive()
    offering.join(LONG)
    assert graphs.count == 1


def test_who_waits_for_a_capture_is_let_go_when_the_graphs_are_closed(made, session):
    graphs = opened(made(lambda: session), session)
    offering = [threading.Thread(target=offer, args=(graphs, session, batch_of(length))) for length in (5, 40, 70)]
    with PROCESS.run():
        for thread in offering:
            thread.start()
        until(lambda: PROCESS._captures and len(graphs._desk.captures) == 2)
        closing = threading.Thread(target=graphs.close)
        closing.start()
        until(lambda: graphs._desk.closed)
    for thread in (*offering, closing):
        thread.join(LONG)
        assert not thread.is_alive()


def test_a_run_that_never_ends_costs_the_graphs_and_not_the_runs(made, session, monkeypatch):
    monkeypatch.setattr(PROCESS, "_patience_s", 0.05)
    graphs = opened(made(lambda: session), session)
    endless = PROCESS.run()
    endless.__enter__()
    try:
        offer(graphs, session, batch_of(3))
        assert graphs._desk.failure
        with pytest.warns(EngineWarning, match="a run is under way"):
            assert replay(graphs, batch_of(3)) is None
    finally:
        endless.__exit__(None, None, None)


def test_nothing_is_freed_beside_a_capture_of_another_engine(made, session):
    """Freeing memory of a GPU would end that capture."""
    freed = threading.Event()
    sessions = []

    def open_session():
        sessions.append(session_of(packed_model()))
        weakref.finalize(sessions[0], freed.set)
        return sessions.pop()

    graphs = made(open_session)
    with_a_graph(graphs, session, batch_of(3))
    with PROCESS.capture():
        closing = threading.Thread(target=graphs.close)
        closing.start()
        assert not freed.wait(0.2)
    closing.join(LONG)
    assert freed.wait(LONG)


def test_an_interpreter_that_exits_waits_for_the_graphs_thread_and_no_longer():
    """Also where a run never ended, such as one whose thread was interrupted in it."""
    program = """
import sys
sys.path[:0] = {paths!r}
import test_cuda_graphs as here
here.cuda_graphs.SMALL_BATCHES_FIRST = 0
here.PROCESS._patience_s = 0.5
session = here.session_of(here.packed_model())
graphs = here.CudaGraphs(lambda: session, device=here.Device("cpu"), name="cuda:0")
here.opened(graphs, session)
endless = here.PROCESS.run()
endless.__enter__()
offering = here.threading.Thread(target=here.offer, args=(graphs, session, here.batch_of(3)), daemon=True)
offering.start()
here.until(lambda: here.PROCESS._captures)
"""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path]
    done = subprocess.run([sys.executable, "-c", program.format(paths=paths)], capture_output=True, text=True, timeout=LONG, check=False)
    assert (done.returncode, done.stderr) == (0, "")
