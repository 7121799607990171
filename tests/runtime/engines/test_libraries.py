"""CUDA's libraries are loaded before the first session: once, quietly, and for nobody who did not ask for a GPU."""

import functools
import sys
import threading
import types

import onnxruntime
import pytest

from cls_runtime import Encoder
from cls_runtime.engines.cuda import libraries


@pytest.fixture(autouse=True)
def _as_in_a_fresh_process(monkeypatch):
    monkeypatch.setattr(libraries, "_COMPLAINTS", {})


def package(preload, version="1.31.1"):
    return types.SimpleNamespace(__version__=version, preload_dlls=preload)


def test_what_it_prints_is_given_and_not_printed(capfd):
    def preload_dlls(cuda=True, cudnn=True, *, directory=None):
        assert (cuda, cudnn, directory) == (True, True, None)
        print("Failed to load libcublas.so.13:", "no such file")
        print("\nPlease follow a link.\n")

    assert libraries.preload(package(preload_dlls)) == ("Failed to load libcublas.so.13: no such file", "Please follow a link.")
    assert capfd.readouterr() == ("", "")


def test_it_is_done_once_whoever_asks():
    calls, start = [], threading.Barrier(8)

    def preload_dlls():
        calls.append(1)
        print("said once")

    ort, answers = package(preload_dlls), []

    def ask():
        start.wait()
        answers.append(libraries.preload(ort))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert answers == [("said once",)] * 8


def test_other_threads_may_print_meanwhile(capfd):
    out = sys.stdout

    def preload_dlls():
        assert sys.stdout is out
        sys.stdout.write("another thread's\n")

    assert libraries.preload(package(preload_dlls)) == ()
    assert capfd.readouterr().out == "another thread's\n"


def test_a_release_that_cannot_do_it_is_left_alone():
    assert libraries.preload(types.SimpleNamespace(__version__="1.20.0")) == ()


def test_an_error_in_it_is_a_complaint():
    def preload_dlls():
        raise RuntimeError("no such folder")

    assert libraries.preload(package(preload_dlls)) == ("RuntimeError: no such folder",)


def test_one_that_is_no_plain_function_is_called_too():
    called = []
    assert libraries.preload(package(functools.partial(called.append, 1))) == ()
    assert called == [1]


def test_onnx_runtimes_own_function_is_quiet_and_changes_nothing(monkeypatch, capfd):
    """The one of the installed wheel, told that it was built for a CUDA that no machine has."""
    monkeypatch.setattr(onnxruntime, "cuda_version", "99.0")
    before = dict(vars(onnxruntime))
    complaints = libraries.preload(onnxruntime)
    assert any("libcublas.so.99" in line for line in complaints)
    assert capfd.readouterr() == ("", "")
    assert vars(onnxruntime) == before


def test_an_engine_on_the_cpu_loads_nothing(bundle, monkeypatch):
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda *_, **__: pytest.fail("loaded CUDA's libraries"))
    with Encoder.load(bundle, engine="onnxruntime") as encoder:
        encoder.encode(["a text"])
