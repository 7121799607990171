"""Where a job may write: not over what it reads, not into the bundle, and nothing of an earlier run stays as if it were this one's."""

import os
import shutil

import pytest

from cls_runtime.bundle.files import part_name


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (lambda bundle, work: bundle, "which is read and must stay as it is"),
        (lambda bundle, work: bundle / "onnx", "which is read and must stay as it is"),
        (lambda bundle, work: bundle / "vectors", "which is read and must stay as it is"),
        (lambda bundle, work: work / "link" / "vectors", "which is read and must stay as it is"),
        (lambda bundle, work: f"file://{bundle}/vectors", "which is read and must stay as it is"),
        (lambda bundle, work: bundle / "vectors.npy", "which is read and must stay as it is"),
        (lambda bundle, work: work / "link" / "vectors.npy", "which is read and must stay as it is"),
        (lambda bundle, work: work / "golden.npy", "which is read and must stay as it is"),
        (lambda bundle, work: work / "hard.npy", "which is read"),
        (lambda bundle, work: work / "in.npy", "is the file"),
        (lambda bundle, work: work / "corpus", "holds inputs of this job"),
        (lambda bundle, work: f"file://{work}/corpus", "holds inputs of this job"),
        (lambda bundle, work: work / "corpus" / "vectors", "would be read as an input next time"),
        (lambda bundle, work: work / "corpus" / "deep" / ".." / "vectors", "would be read as an input next time"),
    ],
)
def test_an_output_is_no_input_and_not_in_the_bundle(bundle, tmp_path, run, capsys, place, message):
    own = shutil.copytree(bundle, tmp_path / "own")
    (tmp_path / "corpus" / "deep").mkdir(parents=True)
    (tmp_path / "corpus" / "in.txt").write_text("cat\n")
    (tmp_path / "corpus" / "deep" / "in.txt").write_text("dog\n")
    (tmp_path / "link").symlink_to(own)
    (tmp_path / "golden.npy").symlink_to(own / "tokenizer.json")
    (tmp_path / "in.npy").symlink_to(tmp_path / "corpus" / "in.txt")
    os.link(own / "tokenizer.json", tmp_path / "hard.npy")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run(own, tmp_path / "corpus", "-o", place(own, tmp_path)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("out", ["corpus/_vectors", "corpus/.vectors", "corpus2", "corpus/v.npy"])
def test_beside_the_inputs_or_hidden_among_them_is_no_input(bundle, tmp_path, run, out):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "in.txt").write_text("cat\n")
    for _ in range(2):
        assert run(bundle, tmp_path / "corpus", "-o", tmp_path / out) == 0


# ---------------------------------------------------------------- the list beside OUT.npy


@pytest.fixture
def npy(bundle, tmp_path, run):
    """Runs on rows one of which may be bad."""

    def embed(*options, bad=False):
        (tmp_path / "in.jsonl").write_text('{"text": "cat"}\n' + ("bad\n" if bad else '{"text": "dog"}\n'))
        return run(bundle, tmp_path / "in.jsonl", "-o", tmp_path / "v.npy", *options)

    return embed


@pytest.mark.parametrize("options", [(), ("--on-error", "skip"), ("--on-error", "null")])
def test_an_old_list_does_not_stay_beside_a_new_npy(npy, tmp_path, options):
    assert npy("--on-error", "skip", bad=True) == 0
    assert (tmp_path / "v.npy.skipped.jsonl").exists()
    assert npy(*options) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "v.npy"]


def test_an_old_list_stays_with_the_old_npy_when_the_new_one_fails(npy, tmp_path):
    assert npy("--on-error", "skip", bad=True) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert npy(bad=True) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("content", ["mine", "", '{"row": -1, "reason": ""}\n', '{"row": 1}\n', '[1, "x"]\n'])
def test_somebody_elses_file_in_the_lists_place_stays(npy, tmp_path, capsys, content):
    (tmp_path / "v.npy.skipped.jsonl").write_text(content)
    assert npy("--on-error", "skip", bad=True) == 2
    assert "v.npy.skipped.jsonl, which exists and is not such a list; move it away" in capsys.readouterr().err
    assert npy() == 0
    assert (tmp_path / "v.npy.skipped.jsonl").read_text() == content


def test_beside_a_long_name_no_list_is_looked_for(bundle, tmp_path, run):
    """A list's name would be too long for a file; that must not fail a job whose vectors are there already."""
    (tmp_path / "in.txt").write_text("cat\n")
    out = tmp_path / f"{'v' * 240}.npy"
    assert run(bundle, tmp_path / "in.txt", "-o", out) == 0
    assert out.exists()


def test_a_list_among_the_inputs_is_refused(bundle, tmp_path, run, capsys):
    (tmp_path / "in.txt").write_text("cat\n")
    assert run(bundle, tmp_path, "-o", tmp_path / "v.npy", "--on-error", "skip") == 2
    assert "the list of rows that cannot be read is in the input folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pipe", "null", "full", "dangling", "folder"])
def test_what_cannot_become_a_npy_is_one_line(npy, tmp_path, capsys, kind):
    out = tmp_path / "v.npy"
    make = {
        "pipe": lambda: os.mkfifo(out),
        "null": lambda: out.symlink_to("/dev/null"),
        "full": lambda: out.symlink_to("/dev/full"),
        "dangling": lambda: out.symlink_to(tmp_path / "none" / "v.npy"),
        "folder": out.mkdir,
    }
    make[kind]()
    assert npy() == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: output {out}: ")
    assert error.count("\n") == 1


def test_what_a_kill_left_beside_a_npy_goes_with_the_next_run(npy, tmp_path):
    for name in ("v.npy", "v.npy.skipped.jsonl"):
        (tmp_path / part_name(name)).write_bytes(b"from a crash")
    assert npy() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "v.npy"]
