"""Files are whole or not there, whatever happens while they are written."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cls_runtime.bundle import file_locks, files
from cls_runtime.bundle.files import PART, is_part, part_name, remove_parts, sha256, whole_file, write_whole

EXISTING = [None, b"old"]


def content(path):
    return path.read_bytes() if path.exists() else None


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=EXISTING, ids=["new", "existing"])
def target(request, tmp_path):
    """A file's name where nothing is, or an old file."""
    path = tmp_path / "out.bin"
    if request.param is not None:
        path.write_bytes(request.param)
    return path


def test_a_file_appears_at_the_end_and_hides_until_then(target):
    before = content(target)
    with whole_file(target) as file:
        file.write(b"half")
        file.flush()
        assert content(target) == before
        (part,) = set(names(target.parent)) - {target.name}
        assert part.startswith(f".{target.name}.")
        assert part.endswith(PART)
        file.write(b" and half")
    assert content(target) == b"half and half"
    assert names(target.parent) == [target.name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_everything_as_it_was(target, error):
    before = content(target)

    def fail():
        with whole_file(target) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert content(target) == before
    assert names(target.parent) == ([] if before is None else [target.name])


@pytest.mark.parametrize(("owner", "step"), [(os, "fsync"), (Path, "replace")])
def test_a_failing_disk_at_the_end_leaves_everything_as_it_was(target, monkeypatch, owner, step):
    before = content(target)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(owner, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(target, b"new")
    monkeypatch.undo()
    assert content(target) == before
    assert names(target.parent) == ([] if before is None else [target.name])


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from cls_runtime.bundle.files import whole_file

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails with an error, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with whole_file(Path(sys.argv[1])) as file:
        file.write(b"x" * 2000)  # stays in the buffer
        raise KeyboardInterrupt
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX's")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO])
def test_a_full_or_failing_disk_names_the_file(target, number):
    with pytest.raises(OSError, match=os.strerror(number)) as caught, whole_file(target):
        raise OSError(number, os.strerror(number))
    assert caught.value.filename == str(target)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full", "another"), OSError(errno.EPIPE, "pipe"), OSError("of a library")])
def test_what_another_file_or_no_disk_said_is_left_alone(target, error):
    before = str(error)
    with pytest.raises(OSError) as caught, whole_file(target):  # noqa: PT011  that very one
        raise error
    assert (caught.value, str(caught.value)) == (error, before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_device_is_named():
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_whole(Path("/dev/full"), b"x")


def test_what_went_wrong_first_is_what_is_raised(target):
    before = content(target)
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(target)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
    assert content(target) == before
    assert names(target.parent) == ([] if before is None else [target.name])


KILLED = """
import os, signal, sys
from pathlib import Path
from cls_runtime.bundle.files import whole_file

with whole_file(Path(sys.argv[1])) as file:
    file.write(b"new")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_a_kill_leaves_the_old_file_and_a_hidden_one(target):
    before = content(target)
    done = subprocess.run([sys.executable, "-c", KILLED, str(target)])
    assert done.returncode == -signal.SIGKILL
    assert content(target) == before
    assert [name for name in names(target.parent) if name.endswith(PART)]
    write_whole(target, b"the next one clears up")
    assert names(target.parent) == [target.name]


OTHERS_PART = part_name("other.bin")


@pytest.mark.parametrize(
    "name",
    [".out.bin.part", ".out.bin.0badcafe.part", ".out.bin.0badcafe0badcafe.part", "out.bin.part", ".out.bin.x.part", OTHERS_PART],
    ids=["no digits", "too few", "digits that do not fit", "not hidden", "no hexadecimal digits", "another file's"],
)
def test_what_only_looks_like_a_leftover_stays(target, name):
    (target.parent / name).write_bytes(b"mine")
    remove_parts(target)
    write_whole(target, b"new")
    assert names(target.parent) == sorted([target.name, name])


def test_what_is_still_being_written_stays(target):
    with whole_file(target) as file:
        write_whole(target, b"another writer")
        file.write(b"the last one")
        dead = target.with_name(part_name(target.name))
        dead.touch()
        remove_parts(target)
        assert not dead.exists()
    assert content(target) == b"the last one"
    assert names(target.parent) == [target.name]


def test_without_locks_only_what_is_old_is_left_over(target, monkeypatch):
    monkeypatch.setattr(file_locks, "lock", lambda descriptor: False)
    old, young = (target.with_name(part_name(target.name)) for _ in range(2))
    for part in (old, young):
        part.touch()
    os.utime(old, (0, 0))
    remove_parts(target)
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize("name", ["x" * 255, "x" * 201, "\u00fc" * 127, "a", "a" * 200])
def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path, name):
    write_whole(tmp_path / name, b"new")
    assert content(tmp_path / name) == b"new"
    assert names(tmp_path) == [name]
    assert is_part(part_name(name), name)
    assert not is_part(part_name(name), f"{name}b")


def test_it_is_on_the_disk_before_it_has_its_name(target, monkeypatch):
    steps = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: steps.append(os.fstat(descriptor).st_mode & 0o170000) or fsync(descriptor))
    monkeypatch.setattr(Path, "replace", lambda self, other: steps.append("rename") or replace(self, other))
    write_whole(target, b"new")
    regular, folder = 0o100000, 0o040000
    assert steps == [regular, "rename", folder]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a right there")
def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "data").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "data" / "real")
    write_whole(link, b"new")
    assert link.is_symlink()
    assert content(tmp_path / "data" / "real") == b"new"
    assert names(tmp_path / "data") == ["real"]


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
def test_a_file_has_the_mode_of_any_file_that_a_program_makes(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_whole(tmp_path / "whole", b"")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_missing_folder_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "missing" / "out", b"new")


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes are POSIX's")
def test_a_pipe_is_written_to_as_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(pipe, b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("size_bytes", [0, 1, 10, 11, 25])
def test_the_sha256_is_that_of_all_bytes(tmp_path, monkeypatch, size_bytes):
    monkeypatch.setattr(files, "_BLOCK_BYTES", 10)
    data = bytes(range(size_bytes))
    (tmp_path / "file").write_bytes(data)
    assert sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()
