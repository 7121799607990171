"""A file that is written to while it is read, between looking it up and reading it, and between two runs of a job."""

import gzip
import os
import sys

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

from cls_runtime.errors import TextError, UsageError  # noqa: E402
from cls_runtime.jobs.inputs import END, JobInputs  # noqa: E402
from cls_runtime.reading.text_files import read_texts  # noqa: E402

ROWS = 5000


def write(path, word="cat"):
    texts = [f"{word} {row}" for row in range(ROWS)]
    if path.suffix == ".parquet":
        parquet.write_table(pa.table({"text": texts}), path, row_group_size=500)
        return
    lines = [f'"{text}"' for text in texts] if ".jsonl" in path.name else texts
    data = "".join(f"{line}\n" for line in (["text"] if ".csv" in path.name else []) + lines).encode()
    if path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(data)
    else:
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def overwrite(path):
    """A byte in the middle; the size stays."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**7))  # the clock of a disk may be too coarse for a test


def append(path):
    with open(path, "ab") as file:
        file.write(b"more\n")


def replace(path):
    write(path.with_name(f"new{path.suffix}"), "dog")
    path.with_name(f"new{path.suffix}").replace(path)


CHANGES = {
    "cut": lambda path: os.truncate(path, path.stat().st_size * 2 // 3),
    "appended": append,
    "overwritten": overwrite,
}
NAMES = ["in.txt", "in.jsonl", "in.csv", "in.txt.gz", "in.jsonl.zst", "in.parquet"]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", NAMES)
def test_changed_while_it_is_read(tmp_path, name, change):
    write(tmp_path / name)
    blocks = JobInputs.find([str(tmp_path / name)], on_error="skip").blocks([(0, END)])
    texts = read_texts([tmp_path / name])
    next(blocks), next(texts)
    CHANGES[change](tmp_path / name)
    for rest in (blocks, texts):
        with pytest.raises(TextError, match=r"was changed while it was read|is damaged") as caught:
            list(rest)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", {**CHANGES, "replaced": replace})
@pytest.mark.parametrize("name", NAMES)
def test_changed_before_it_is_read(tmp_path, name, change):
    write(tmp_path / name)
    inputs = JobInputs.find([str(tmp_path / name)])
    {**CHANGES, "replaced": replace}[change](tmp_path / name)
    for use in (lambda: list(inputs.blocks([(0, END)])), inputs.identities):
        with pytest.raises((TextError, UsageError), match="was changed|is not a Parquet file"):
            use()


@pytest.mark.parametrize("size", [1, 2**16, 2**20 + 1, 5 * 2**20])
def test_a_byte_anywhere_makes_it_another_input(tmp_path, size):
    path = tmp_path / "in.txt"
    path.write_bytes(np.full(size, ord("a"), dtype=np.uint8).tobytes())
    seen = {JobInputs.find([str(path)]).identities()}
    for place in {0, size // 2, size // 3, size - 1}:
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(b"b")
        seen.add(JobInputs.find([str(path)]).identities())
    assert len(seen) == 1 + len({0, size // 2, size // 3, size - 1})


def test_a_copy_elsewhere_is_the_same_input(tmp_path):
    write(tmp_path / "in.txt")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "in.txt").write_bytes((tmp_path / "in.txt").read_bytes())
    assert JobInputs.find([str(tmp_path / "in.txt")]).identities() == JobInputs.find([str(tmp_path / "deep" / "in.txt")]).identities()


def test_a_job_does_not_go_on_with_an_edited_input(bundle, tmp_path):
    from cls_runtime.jobs import JobOptions, run_job

    write(tmp_path / "in.txt")
    run = lambda: run_job(bundle, [str(tmp_path / "in.txt")], str(tmp_path / "out"), options=JobOptions(), progress_bar=False)  # noqa: E731
    run()
    assert run().this_run.read == 0
    overwrite(tmp_path / "in.txt")
    with pytest.raises(UsageError, match="whose input 1 has the hash of its contents"):
        run()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names are bytes there")
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "txt.gz", "jsonl.zst", "parquet"])
def test_names_that_are_not_utf8(bundle, tmp_path, kind):
    from cls_runtime.jobs import JobOptions, run_job

    folder = tmp_path / os.fsdecode("donn\xe9es".encode("latin-1"))
    folder.mkdir()
    path = folder / os.fsdecode(f"caf\xe9.{kind}".encode("latin-1"))
    write(tmp_path / f"in.{kind}")
    (tmp_path / f"in.{kind}").rename(path)
    if kind == "jsonl":
        path.write_text("no JSON\n" + path.read_text())
    assert sum(1 for _ in read_texts([path])) == ROWS if kind != "jsonl" else True
    out = tmp_path / os.fsdecode(b"vecteurs\xe9")
    for _ in range(2):
        report = run_job(bundle, [str(folder)], str(out), options=JobOptions(on_error="skip"), progress_bar=False)
        assert report.total.rows == ROWS
    assert report.this_run.read == 0
    if kind == "jsonl":
        assert "caf" in (out / "_skipped.jsonl").read_text()
