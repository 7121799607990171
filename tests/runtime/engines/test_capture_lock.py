"""Runs share, captures do not."""

import threading
import time

import pytest

from cls_runtime.engines.cuda.capture_lock import CaptureLock

LONG = 60  # seconds


def test_runs_go_at_the_same_time():
    lock, both = CaptureLock(), threading.Barrier(2)

    def work():
        with lock.run():
            both.wait(LONG)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert not both.broken


def test_a_capture_is_alone_and_goes_before_runs_that_come_later():
    lock, order = CaptureLock(), []

    def capture():
        with lock.capture():
            order.append("capture")

    def run():
        with lock.run():
            order.append("run")

    threads = []
    with lock.run():
        for work, waits in ((capture, lambda: lock._captures), (run, lambda: True), (run, lambda: True)):
            threads.append(threading.Thread(target=work))
            threads[-1].start()
            while not waits():
                time.sleep(0.001)
        time.sleep(0.05)
        assert order == []
    for thread in threads:
        thread.join(LONG)
    assert order == ["capture", "run", "run"]


def test_nothing_is_ever_beside_a_capture():
    lock, runs, wrong = CaptureLock(), [], []
    captures = []

    def work(seed):
        for turn in range(200):
            if (turn + seed) % 20 == 0:
                with lock.capture():
                    captures.append(1)
                    wrong.extend(runs)
                    if len(captures) != 1:
                        wrong.append("two captures")
                    time.sleep(0)
                    captures.pop()
            else:
                with lock.run():
                    runs.append(1)
                    wrong.extend(captures)
                    time.sleep(0)
                    runs.pop()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert not wrong
    assert not runs


def test_a_run_or_capture_that_fails_lets_go():
    lock = CaptureLock()
    for held in (lock.run, lock.capture):
        try:
            with held():
                raise ValueError
        except ValueError:
            pass
    with lock.capture():
        pass
    with lock.run():
        pass


def test_runs_go_on_while_a_capture_waits_for_a_graph_that_is_loaded():
    """Loading takes seconds, for which no other Encoder of the process may stand still."""
    lock, order = CaptureLock(), []

    def capture():
        with lock.capture():
            order.append("capture")

    with lock.load():
        thread = threading.Thread(target=capture)
        thread.start()
        time.sleep(0.05)
        with lock.run():
            order.append("run")
    thread.join(LONG)
    assert order == ["run", "capture"]


def test_a_load_waits_for_a_capture():
    lock, order = CaptureLock(), []

    def load():
        with lock.load():
            order.append("load")

    with lock.capture():
        thread = threading.Thread(target=load)
        thread.start()
        time.sleep(0.05)
        order.append("capture")
    thread.join(LONG)
    assert order == ["capture", "load"]


def test_a_run_that_never_ends_does_not_hold_up_the_others():
    lock = CaptureLock(patience_s=0.05)
    endless = lock.run()
    endless.__enter__()
    with pytest.raises(TimeoutError, match="a run is under way"), lock.capture():
        pass
    with lock.run():
        pass


def test_many_of_all_kinds_end():
    lock, beside = CaptureLock(), []

    def work(seed):
        for turn in range(100):
            if (turn + seed) % 10 == 0:
                with lock.capture():
                    beside.extend([lock._runs, lock._loads])
            elif (turn + seed) % 10 == 1:
                with lock.load():
                    time.sleep(0)
            else:
                with lock.run():
                    time.sleep(0)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert not any(thread.is_alive() for thread in threads)
    assert not any(beside)
