"""What is read stays as it is, under whatever name it is written to."""

import os

import pytest

from cls_runtime.bundle.overwriting import names_below, refuse_overwriting, refuse_replacing
from cls_runtime.errors import UsageError


@pytest.fixture
def work(tmp_path):
    """An input, a bundle, and every kind of other name for them."""
    (tmp_path / "bundle" / "onnx").mkdir(parents=True)
    (tmp_path / "bundle" / "onnx" / "model.onnx").write_text("graph")
    (tmp_path / "in.txt").write_text("text")
    (tmp_path / "other.txt").write_text("text")
    (tmp_path / "link.txt").symlink_to("in.txt")
    (tmp_path / "twice.txt").symlink_to("link.txt")
    (tmp_path / "dangling").symlink_to(tmp_path / "bundle" / "new")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").symlink_to("bundle")
    os.link(tmp_path / "in.txt", tmp_path / "hard.txt")
    os.link(tmp_path / "bundle" / "onnx" / "model.onnx", tmp_path / "hard.onnx")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


REFUSED = {
    "in.txt": "is the file in.txt, which is read",
    "./bundle/../in.txt": "is the file in.txt",
    "link.txt": "is the file in.txt",
    "twice.txt": "is the file in.txt",
    "hard.txt": "is the file in.txt",
    "bundle": "is in bundle, which is read",
    "bundle/": "is in bundle",
    "bundle/new": "is in bundle",
    "bundle/onnx/model.onnx": "is in bundle",
    "bundle/new/deeper/x": "is in bundle",
    "folder/new": "is in bundle",
    "folder": "is in bundle",
    "dangling": "is in bundle",
    "hard.onnx": "is bundle/onnx/model.onnx by another name",
}


@pytest.mark.parametrize("target", REFUSED)
def test_every_name_of_what_is_read_is_refused(work, monkeypatch, target):
    monkeypatch.chdir(work)
    with pytest.raises(UsageError) as raised:
        refuse_overwriting(type(work)(target), what="-o X", files=["in.txt", "none.txt", "pipe"], folders=[type(work)("bundle")])
    assert str(raised.value).startswith(f"-o X {REFUSED[target]}")


@pytest.mark.parametrize("target", ["other.txt", "new.txt", "bundle2/x", "pipe", "loop", "/dev/null", "bundle.txt", "x" * 300])
def test_anything_else_is_not(work, monkeypatch, target):
    monkeypatch.chdir(work)
    refuse_overwriting(type(work)(target), what="-o X", files=["in.txt", "pipe", "/dev/null", "-"], folders=[type(work)("bundle")])


def test_standard_input_is_a_file_too(work, monkeypatch):
    kept = os.dup(0)
    try:
        with (work / "in.txt").open() as file:
            os.dup2(file.fileno(), 0)
        with pytest.raises(UsageError, match="is standard input, which is read"):
            refuse_overwriting(work / "hard.txt", what="-o X", files=["-"])
    finally:
        os.dup2(kept, 0)
        os.close(kept)


@pytest.mark.parametrize(
    ("target", "read", "message"),
    [
        ("bundle", "folder", "X is .*folder"),
        ("folder", "bundle", "X is"),
        ("bundle", "bundle/onnx/model.onnx", "X holds"),
        (".", "in.txt", "X holds"),
    ],
)
def test_a_folder_with_what_is_read_is_not_replaced(work, monkeypatch, target, read, message):
    monkeypatch.chdir(work)
    with pytest.raises(UsageError, match=message):
        refuse_replacing(type(work)(target), what="X", read=[type(work)("none"), type(work)(read)])


@pytest.mark.parametrize(("target", "read"), [("bundle/onnx", "bundle"), ("new", "bundle"), ("bundle", "in.txt"), ("bundle", "a/hub-id")])
def test_another_folder_may_be(work, monkeypatch, target, read):
    monkeypatch.chdir(work)
    refuse_replacing(type(work)(target), what="X", read=[type(work)(read)])


def test_the_way_down_from_a_folder(work):
    assert names_below(work / "folder" / "onnx" / "new", work / "bundle") == ("onnx", "new")
    assert names_below(work / "folder", work / "bundle") == ()
    assert names_below(work, work / "bundle") is None
