import pytest

from cls_runtime.bundle.stand_ins import stand_in, stand_in_at


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"/annex/objects/SHA256E-s90868376--0.safetensors\n", "git-annex pointer"),
        (b"<!DOCTYPE html>", "saved web page"),
        (b"\xef\xbb\xbf\r\n <HTML lang='en'>", "saved web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML page"),
        (b"<!-- saved from url=(0030)https://huggingface.co/ -->\n<html>", "saved web page"),
        (b"Entry not found", "is what the hub says"),
        (b"Invalid username or password.", "is what the hub says"),
        (b"", "is empty"),
    ],
)
def test_what_is_not_the_file(head, words, tmp_path):
    assert words in stand_in(head)
    (tmp_path / "file").write_bytes(head + b"x" * 10_000 if head else head)
    assert stand_in_at(tmp_path / "file") == stand_in(head)


@pytest.mark.parametrize(
    "head", [b"[PAD]\n[UNK]\n", b"<s>\n<pad>\n", b"<htmlx>\n", b'{"version": "1.0"}', b"version 2\n", b"PK\x03\x04", b"\0" * 512, b"\n"]
)
def test_what_may_be_the_file(head):
    assert stand_in(head) is None


def test_a_file_that_is_not_there(tmp_path):
    assert stand_in_at(tmp_path / "nothing") is None
