"""A lock ends with whoever holds it, and is seen by whoever has the folder."""

import os
import signal
import subprocess
import sys

import pytest

from cls_runtime.bundle import file_locks
from cls_runtime.bundle.file_locks import held, is_held

HOLDER = """
import sys
from pathlib import Path
from cls_runtime.bundle.file_locks import held

with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(params=["locks", "no locks"])
def lock(request, tmp_path, monkeypatch):
    """A lock file's path, on a file system with locks and on one without."""
    if request.param == "no locks":
        monkeypatch.setattr(file_locks, "lock", lambda descriptor: False)
    return tmp_path / "lock"


def test_one_at_a_time_and_nothing_is_left(lock):
    assert not is_held(lock)
    with held(lock):
        assert is_held(lock)
        with pytest.raises(BlockingIOError), held(lock):
            pytest.fail("held twice")
        assert is_held(lock), "the second one has not removed it"
    assert not lock.exists()
    with held(lock):
        pass


def test_an_error_lets_it_go(lock):
    with pytest.raises(KeyboardInterrupt), held(lock):
        raise KeyboardInterrupt
    assert not lock.exists()


def test_a_killed_process_holds_nothing(tmp_path):
    lock = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        assert is_held(lock)
        with pytest.raises(BlockingIOError), held(lock):
            pytest.fail("held twice")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert lock.exists()
    assert not is_held(lock)
    with held(lock):
        assert is_held(lock)
    assert not lock.exists()


def test_what_somebody_has_written_there_stays(lock):
    lock.write_text("mine")
    os.utime(lock, (0, 0))
    with held(lock):
        pass
    assert lock.read_text() == "mine"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_is_no_lock(tmp_path, kind):
    lock = tmp_path / "lock"
    make = {"link": lambda: lock.symlink_to(tmp_path / "elsewhere"), "pipe": lambda: os.mkfifo(lock), "folder": lock.mkdir}
    make[kind]()
    with pytest.raises(OSError), held(lock):  # noqa: PT011  the system's words differ
        pytest.fail("held")
    assert not (tmp_path / "elsewhere").exists()
    assert os.path.lexists(lock)
