"""Runs share, captures do not."""

import threading
import time

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
