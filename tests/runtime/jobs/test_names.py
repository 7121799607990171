"""What a name stands for, on file systems with more than files and folders in them: nothing is lost, nothing hangs, nothing twice."""

import os
import socket
import stat
import sys
import threading
from pathlib import Path

import pytest

from cls_runtime.commands import embed
from cls_runtime.errors import ClsError, UsageError
from cls_runtime.jobs.inputs import END, JobInputs
from cls_runtime.jobs.names import expand

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pipes, devices and links")


def names_of(tmp_path, pattern=""):
    return [name.removeprefix(f"{tmp_path}/") for name in expand(str(tmp_path / pattern))]


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "a.txt").write_text("cat\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.txt").write_text("dog\n")
    return tmp_path


def test_a_folder_passes_over_what_is_no_file(corpus):
    os.mkfifo(corpus / "pipe.txt")
    (corpus / "zero.txt").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        place = Path.cwd()
        os.chdir(corpus)  # the path of a socket has hardly a hundred letters
        try:
            bound.bind("s.txt")
        finally:
            os.chdir(place)
        assert stat.S_ISSOCK((corpus / "s.txt").stat().st_mode)
        assert names_of(corpus) == names_of(corpus, "**/*.txt") == ["a.txt", "deep/b.txt"]


@pytest.mark.parametrize("pattern", ["", "**/*.txt"])
def test_links_in_a_circle(corpus, pattern):
    (corpus / "deep" / "loop").symlink_to(corpus)
    assert names_of(corpus, pattern) == ["a.txt", "deep/b.txt"]


@pytest.mark.parametrize("pattern", ["", "*.txt", "*/../*.txt"])
@pytest.mark.parametrize("target", ["nothing", "gone.txt"], ids=["to nothing", "to itself"])
def test_a_link_to_nothing_is_not_passed_over(corpus, pattern, target):
    (corpus / "gone.txt").symlink_to(corpus / target)
    with pytest.raises(UsageError, match=r"gone\.txt is a broken link"):
        expand(str(corpus / pattern))


@pytest.mark.parametrize("pattern", ["**/*.txt", "*/b.txt", "d*/*.txt", "deep/*.txt"])
def test_a_folder_that_cannot_be_read_is_not_passed_over(corpus, monkeypatch, pattern):
    """chmod does not stop the superuser, as whom containers run tests."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "deep" and access(path, mode))
    with pytest.raises(UsageError, match=r"deep cannot be read \(permission denied\); its files would be missing"):
        expand(str(corpus / pattern))


def test_nor_in_a_folder(corpus, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UsageError, match=r"deep cannot be read \(Permission denied\)"):
        expand(str(corpus))


@pytest.mark.parametrize("name", ["a\0b.txt", "x" * 5000 + ".txt", "a.txt/b.txt", "deep", "/dev/zero", "file:///\udce9.parquet", "s3://\0"])
def test_names_that_nothing_can_have(corpus, name):
    with pytest.raises(ClsError) as caught:
        JobInputs.find([name if "//" in name or name.startswith("/") else str(corpus / "a.txt" / name)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv.gz", "txt.zst", "parquet"])
@pytest.mark.parametrize("out", ["out.npy", "out"])
def test_a_device_is_one_line(bundle, tmp_path, capsys, kind, out):
    (tmp_path / f"in.{kind}").symlink_to("/dev/zero")
    assert embed.main([str(bundle), str(tmp_path / f"in.{kind}"), "-o", str(tmp_path / out)]) == 2
    assert capsys.readouterr().err.endswith(f"in.{kind} is a device or a socket, expected a file of texts\n")


@pytest.mark.parametrize(("kind", "lines"), [("txt", "cat\ndog\n"), ("jsonl", '"cat"\n"dog"\n'), ("csv", "text\ncat\ndog\n")])
@pytest.mark.parametrize("out", ["out.npy", "out"])
def test_a_named_pipe_is_a_stream(bundle, tmp_path, capsys, kind, lines, out):
    pipe = tmp_path / f"in.{kind}"
    os.mkfifo(pipe)
    assert not JobInputs.find([str(pipe)]).seekable
    assert JobInputs.find([str(pipe)]).identities()[0].size_bytes == 0
    writer = threading.Thread(target=lambda: pipe.write_text(lines))
    writer.start()
    assert embed.main([str(bundle), str(pipe), "-o", str(tmp_path / out)]) == 0
    writer.join()
    assert "2 texts" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "options"), [("parquet", {}), ("jsonl", {"keep": ["n"]})])
def test_what_a_pipe_cannot_give(tmp_path, kind, options):
    os.mkfifo(tmp_path / f"in.{kind}")
    with pytest.raises(UsageError, match="write it to a"):
        JobInputs.find([str(tmp_path / f"in.{kind}")], **options)


def test_a_file_given_twice_is_read_twice(corpus):
    inputs = JobInputs.find([str(corpus / "a.txt")] * 2)
    assert [text for block in inputs.blocks([(0, END)]) for text in block.texts] == ["cat", "cat"]


@pytest.mark.parametrize("case", ["closed", "none", "not waiting"])
def test_standard_input_that_gives_nothing(monkeypatch, case):
    reading, writing = os.pipe()
    with os.fdopen(reading, "r") as stdin, os.fdopen(writing, "wb"):
        if case == "closed":
            stdin.close()
        os.set_blocking(writing, True)
        if case == "not waiting":
            os.set_blocking(reading, False)
        monkeypatch.setattr(sys, "stdin", None if case == "none" else stdin)
        with pytest.raises(UsageError, match="standard input is"):
            JobInputs.find(["-"])
