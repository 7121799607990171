"""A job's folder under attack: `_job.json` is data, and what is not the job's own stays."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from bundle_builder import build_bundle
from pyarrow import parquet

from cls_runtime import Bundle, BundleError
from cls_runtime.jobs import JobOptions, job, job_folder, run_job
from cls_runtime.jobs.job_manifest import JOB_NAME
from cls_runtime.jobs.output_folder import LOCK_NAME
from cls_runtime.jobs.task import graph_sha256

ROWS, SHARD_ROWS = 300, 100
SECOND = "part-000000000100.parquet"


@pytest.fixture(scope="module")
def texts(tmp_path_factory, make_texts):
    path = tmp_path_factory.mktemp("texts") / "in.txt"
    path.write_text("".join(f"{text}\n" for text in make_texts(ROWS)))
    return path


@pytest.fixture(scope="module")
def done_once(bundle, texts, tmp_path_factory):
    """A finished job of three shards. Read-only by agreement."""
    out = tmp_path_factory.mktemp("done") / "out"
    run_job(bundle, [str(texts)], str(out), options=JobOptions(shard_rows=SHARD_ROWS), progress_bar=False)
    return out


@pytest.fixture
def out(done_once, tmp_path):
    return shutil.copytree(done_once, tmp_path / "out")


@pytest.fixture
def again(bundle, texts, run):
    """The job's command, on a folder; gives the exit code."""
    return lambda out, *options: run(bundle, texts, "-o", out, "--shard-rows", SHARD_ROWS, *options)


def edited(out, change):
    document = json.loads((out / JOB_NAME).read_text())
    change(document)
    (out / JOB_NAME).write_text(json.dumps(document))


def shard(number, **changes):
    return lambda document: document["shards"][number].update(changes)


def counts(number, **changes):
    return lambda document: document["shards"][number]["counts"].update(changes)


def unfinished(*changes):
    """The same of a job that has not seen the end of its input."""

    def change(document):
        document["total_rows"] = None
        for item in changes:
            item(document)

    return change


DAMAGED = {
    "start a string": shard(0, start="0"),
    "start a float": shard(0, start=0.0),
    "start true": shard(1, start=True),
    "start null": shard(0, start=None),
    "start negative": shard(0, start=-100),
    "start of 400 digits": shard(0, start=int("9" * 400)),
    "stop of 400 digits": shard(2, stop=int("9" * 400)),
    "stop too large": shard(0, stop=ROWS),
    "stop too large, and its counts": unfinished(
        lambda document: document["shards"].pop(), shard(1, stop=ROWS), counts(1, read=200, rows=200)
    ),
    "stop before start": shard(1, stop=50),
    "no rows": shard(1, stop=100),
    "ranges overlap": lambda document: document["shards"].append(document["shards"][1]),
    "another grid": shard(1, start=150),
    "counts null": shard(0, counts=None),
    "counts a list": shard(0, counts=[1]),
    "counts negative": counts(0, skipped=-1, rows=101),
    "counts of more rows": counts(0, read=200, rows=200),
    "rows without a reason": counts(0, rows=50),
    "tokens of 400 digits": counts(0, tokens=int("9" * 400)),
    "size negative": shard(0, size_bytes=-1),
    "size a string": shard(0, size_bytes="4 kB"),
    "shards null": lambda document: document.update(shards=None),
    "shards an object": lambda document: document.update(shards={}),
    "a shard a number": lambda document: document.update(shards=[1]),
    "total_rows a string": lambda document: document.update(total_rows="300"),
    "total_rows too small": lambda document: document.update(total_rows=200),
    "total_rows negative": lambda document: document.update(total_rows=-1),
    "total_rows of 400 digits": lambda document: document.update(total_rows=int("9" * 400)),
    "vectors null": lambda document: document["spec"].update(vectors=None),
    "vectors of numbers": lambda document: document["spec"].update(vectors={"fingerprint": 1}),
    "options null": lambda document: document["spec"].update(options=None),
    "options a list": lambda document: document["spec"].update(options=[]),
    "inputs null": lambda document: document["spec"].update(inputs=None),
    "inputs of strings": lambda document: document["spec"].update(inputs=["in.txt"]),
    "input's size a string": lambda document: document["spec"]["inputs"][0].update(size_bytes="1"),
    "input's name a surrogate": lambda document: document["spec"]["inputs"][0].update(name="\ud800"),
    "an option of 400 digits": lambda document: document["spec"]["options"].update(shard_rows=int("9" * 400)),
    "an option true for 1": lambda document: document["spec"]["options"].update(shard_rows=True),
    "an option more": lambda document: document["spec"]["options"].update({"\x1b]0;x\x07" * 500: "y" * 10**5}),
    "spec null": lambda document: document.update(spec=None),
    "format a string": lambda document: document.update(format="2"),
    "format true": lambda document: document.update(format=True),
    "another format": lambda document: document.update(format=99),
    "no format": lambda document: document.pop("format"),
}
DAMAGED_BYTES = {
    "empty": b"",
    "cut": b'{"format": 2, "spec": {',
    "a list": b"[]",
    "a number": b"2",
    "NaN": b'{"format": 2, "spec": NaN}',
    "not UTF-8": b'{"format": 2, "spec": "\xff"}',
    "deep": b"[" * 100_000,
    "deep inside": b'{"format": 2, "spec": ' + b"[" * 100_000,
    "5000 digits": b'{"format": ' + b"9" * 5000 + b"}",
    "garbage": bytes(range(256)),
}


def refused(out, again, capsys):
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    capsys.readouterr()
    assert again(out) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert len(error) < 1500
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    return error


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_value_is_one_line_and_nothing_changes(out, again, capsys, case):
    edited(out, DAMAGED[case])
    assert str(out) in refused(out, again, capsys)


@pytest.mark.parametrize("case", DAMAGED_BYTES)
def test_damaged_bytes_are_one_line_and_nothing_changes(out, again, capsys, case):
    (out / JOB_NAME).write_bytes(DAMAGED_BYTES[case])
    assert f"{out}/{JOB_NAME} is damaged" in refused(out, again, capsys)


def test_a_huge_one_is_not_read(out, again, capsys):
    with (out / JOB_NAME).open("r+b") as file:
        file.truncate(2**40)
    before = sorted(out.iterdir())
    assert again(out) == 2
    assert f"has {2**40} bytes, expected at most" in capsys.readouterr().err
    assert sorted(out.iterdir()) == before


@pytest.mark.parametrize("kind", ["pipe", "link", "dangling link", "folder", "device"])
@pytest.mark.parametrize("name", [JOB_NAME, "_skipped.jsonl", SECOND, "part-000000009000.parquet"])
def test_what_is_no_file_under_a_jobs_name_is_refused(out, again, capsys, name, kind):
    path, elsewhere = out / name, out.parent / "elsewhere"
    if path.exists():
        path.rename(elsewhere)
    else:
        elsewhere.write_text("mine")
    content = elsewhere.read_bytes()
    make = {
        "pipe": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to(elsewhere),
        "dangling link": lambda: path.symlink_to(out.parent / "new"),
        "folder": path.mkdir,
        "device": lambda: path.symlink_to("/dev/zero"),
    }
    make[kind]()
    assert f"holds {name}, which is a link or no file" in refused(out, again, capsys)
    assert elsewhere.read_bytes() == content
    assert not (out.parent / "new").exists()


def rewritten(path, change):
    """The file with other rows under the same footer, padded to the size that `_job.json` has."""
    table = parquet.read_table(path)
    metadata = parquet.read_metadata(path).metadata
    with parquet.ParquetWriter(path, table.schema) as writer:
        writer.write_table(change(table))
        writer.add_key_value_metadata({key: value for key, value in metadata.items() if key == job_folder.SHARD_KEY})


def other_size(path):
    edited(path.parent, shard(1, size_bytes=path.stat().st_size))


LOST = {
    "missing": Path.unlink,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "its footer is garbage": lambda path: path.write_bytes(path.read_bytes()[:-100] + b"\xff" * 100),
    "zeros, as after a power failure": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    "fewer rows": lambda path: (rewritten(path, lambda table: table.slice(0, 50)), other_size(path)),
    "another shard's file": lambda path: (shutil.copy(path.with_name("part-000000000000.parquet"), path), other_size(path)),
    "a Parquet file of something else": lambda path: (parquet.write_table(pa.table({"id": range(100)}), path), other_size(path)),
}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("case", LOST)
def test_a_shard_that_is_not_the_recorded_one_is_made_again(done_once, out, again, shard_bytes, case, finished):
    LOST[case](out / SECOND)
    if not finished:
        edited(out, unfinished())
    assert again(out) == 0
    assert shard_bytes(out) == shard_bytes(done_once)
    assert json.loads((out / JOB_NAME).read_text())["complete"] is True


def test_a_range_that_nobody_computed_is_noticed(done_once, bundle, texts, out, run, shard_bytes):
    """The manifest says that a short shard, as a signal leaves it, goes on to its grid's end."""
    options = ("--shard-rows", 1000)
    whole = out.parent / "whole"
    assert run(bundle, texts, "-o", whole, *options) == 0
    with (whole / "part-000000000000.parquet").open("rb") as file:
        table = parquet.read_table(file)
    size = (whole / "part-000000000000.parquet").stat().st_size
    rewritten(whole / "part-000000000000.parquet", lambda _: table.slice(0, 200))
    edited(whole, shard(0, size_bytes=(whole / "part-000000000000.parquet").stat().st_size))
    assert run(bundle, texts, "-o", whole, *options) == 0
    assert (whole / "part-000000000000.parquet").stat().st_size == size
    assert parquet.read_table(whole)["id"].to_pylist() == list(range(ROWS))


@pytest.mark.parametrize("name", ["in.parquet", "in.txt"])
def test_a_total_that_is_not_the_inputs_is_refused(bundle, tmp_path, run, capsys, name):
    parquet.write_table(pa.table({"text": ["cat"] * 50}), tmp_path / "in.parquet")
    (tmp_path / "in.txt").write_text("cat\n" * 50)
    assert run(bundle, tmp_path / name, "-o", tmp_path / "out", "--shard-rows", 25) == 0
    assert run(bundle, tmp_path / name, "-o", tmp_path / "out", "--shard-rows", 25) == 0
    edited(tmp_path / "out", lambda document: (document["shards"].pop(), document.update(total_rows=25)))
    assert run(bundle, tmp_path / name, "-o", tmp_path / "out", "--shard-rows", 25) == 2
    assert "total_rows is 25, the inputs have 50 rows" in capsys.readouterr().err


# ---------------------------------------------------------------- what is not the job's own

MINE = [
    "x.part",
    ".x.part",
    ".part-000000000000.parquet.0badcafe.part",
    ".part-000000000000.parquet.0badcafe0badcafe.part",
    "part-1.parquet",
    "part-of-my-work.txt",
    "_skipped-notes.jsonl",
    "_skipped-000000000000.jsonl",
    "_skipped-000000000000-0badcafe0badcafe.jsonl",
    "_skipped-000000000000-0badcafe.jsonl",
    "notes.txt",
]


@pytest.mark.parametrize("name", MINE)
def test_files_that_only_look_like_the_jobs_stay(done_once, out, again, shard_bytes, name):
    (out / name).write_text("mine")
    (out / SECOND).unlink()
    assert again(out) == 0
    assert (out / name).read_text() == "mine"
    assert {key: value for key, value in shard_bytes(out).items() if key != name} == shard_bytes(done_once)


@pytest.mark.parametrize("name", [*MINE, SECOND, "_skipped.jsonl", "part-000000009000.parquet"])
def test_a_folder_of_somebody_elses_files_is_refused(tmp_path, again, capsys, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    refused(tmp_path / "out", again, capsys)


def another_jobs(out, name):
    """A shard of these very vectors, without this job's mark."""
    shutil.copy(out / "part-000000000000.parquet", out / name)
    table = parquet.read_table(out / name)
    parquet.write_table(table, out / name)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("part-000000009000.parquet", lambda path: path.write_text("mine")),
        ("part-000000009000.parquet", lambda path: another_jobs(path.parent, path.name)),
        ("part-000000009000.parquet", lambda path: shutil.copy(path.with_name("part-000000000000.parquet"), path)),
        ("_skipped.jsonl", lambda path: path.write_text("mine")),
        ("_skipped.jsonl", lambda path: path.write_text('{"row": 1, "reason": "x"}\nmine\n')),
        ("_skipped.jsonl", lambda path: path.write_text('{"row": 1, "reason": "x", "by": "me"}\n')),
        ("_skipped.jsonl", lambda path: path.write_bytes(b"")),
    ],
)
def test_somebody_elses_file_under_a_name_that_the_job_needs_is_refused(out, again, capsys, name, make):
    make(out / name)
    assert f"holds {name}, which this job did not write; move it away" in refused(out, again, capsys)


def test_shards_of_a_job_that_was_killed_before_its_first_save_are_its_own(done_once, out, again, shard_bytes):
    (out / JOB_NAME).unlink()
    (out / SECOND).unlink()
    assert again(out) == 0
    assert shard_bytes(out) == shard_bytes(done_once)


def test_shards_from_standard_input_are_never_taken_for_its_own(bundle, out, start):
    """Whether the same texts came through it before nobody can know."""
    first = start(bundle, "-", "-o", out.parent / "in")
    assert first.communicate(b"the cat\n")
    (out.parent / "in" / JOB_NAME).unlink()
    second = start(bundle, "-", "-o", out.parent / "in")
    _, stderr = second.communicate(b"another\n")
    assert second.returncode == 2
    assert b"holds 'part-000000000000.parquet' and no _job.json" in stderr


def test_a_list_of_rows_that_have_vectors_now_does_not_stay(out, again):
    (out / "_skipped.jsonl").write_text('{"row": 1, "reason": "in.txt line 2 is not UTF-8"}\n')
    assert again(out) == 0
    assert not (out / "_skipped.jsonl").exists()


def test_the_list_is_whole_after_an_interruption(bundle, tmp_path, run, monkeypatch):
    """The second shard's list is lost with it; the first one's waits, and a list that is shorter than it was is noticed."""
    (tmp_path / "in.jsonl").write_bytes(b'{"text": "cat"}\nbad\nbad\n{"text": "dog"}\n')
    arguments = (bundle, tmp_path / "in.jsonl", "-o", tmp_path / "out", "--on-error", "skip", "--shard-rows", 2)
    assert run(*arguments) == 0
    listed = (tmp_path / "out" / "_skipped.jsonl").read_bytes()
    token = json.loads(parquet.read_metadata(tmp_path / "out" / "part-000000000000.parquet").metadata[job_folder.SHARD_KEY])["job"]
    (tmp_path / "out" / "_skipped.jsonl").unlink()
    (tmp_path / "out" / job_folder.skipped_name(0, token)).write_bytes(listed.splitlines(keepends=True)[0])
    (tmp_path / "out" / job_folder.skipped_name(2, token)).write_bytes(b"")
    edited(tmp_path / "out", lambda document: document.update(total_rows=None))
    assert run(*arguments) == 0
    assert (tmp_path / "out" / "_skipped.jsonl").read_bytes() == listed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "_job.json",
        "_skipped.jsonl",
        "part-000000000000.parquet",
        "part-000000000002.parquet",
    ]


# ---------------------------------------------------------------- the bundle that the job began with


def test_a_bundle_that_is_exchanged_meanwhile_is_noticed(bundle, texts, tmp_path, monkeypatch):
    own = shutil.copytree(bundle, tmp_path / "own")
    others = {"max_length": {"max_length": 12}, "weights": {"change_weights": lambda values: values + 1}}
    for name, options in others.items():
        other = build_bundle(tmp_path / name, **options)
        work = job.run_local

        def exchanged(*arguments, other=other, work=work):
            shutil.rmtree(own)
            shutil.copytree(other, own)
            work(*arguments)

        monkeypatch.setattr(job, "run_local", exchanged)
        with pytest.raises(BundleError, match="another bundle is there by now"):
            run_job(own, [str(texts)], str(tmp_path / f"out-{name}"), progress_bar=False)
        assert not list((tmp_path / f"out-{name}").glob("*.parquet"))
        monkeypatch.undo()


def test_the_graphs_hash_is_that_of_the_file_that_the_engine_reads(bundle):
    manifest = Bundle.open(bundle).manifest
    own, gpus = (dataclasses.replace(manifest.variants["fp32"].files[0], sha256=digit * 64) for digit in "12")
    variant = dataclasses.replace(manifest.variants["fp32"], engine_files={"openvino": (own,), "cuda": (gpus,)})
    both = dataclasses.replace(manifest, variants={"fp32": variant})
    assert graph_sha256(both, "fp32", "onnxruntime") == manifest.variants["fp32"].files[0].sha256
    assert graph_sha256(both, "fp32", "openvino") == "1" * 64
    assert graph_sha256(both, "fp32", "cuda") == "2" * 64
    assert graph_sha256(both, "bf16", "openvino") == "1" * 64  # which it makes of the fp32 file


# ---------------------------------------------------------------- the folder itself


def test_the_lock_of_a_killed_job_is_free(bundle, texts, out, again, start):
    process = start(bundle, "-", "-o", out.parent / "locked")
    while not (out.parent / "locked" / LOCK_NAME).exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    assert again(out.parent / "locked") == 2
    process.kill()
    process.communicate()
    assert again(out.parent / "locked") == 0
    assert not (out.parent / "locked" / LOCK_NAME).exists()


def test_a_folder_that_vanishes_is_one_line(bundle, texts, tmp_path):
    program = (
        "import shutil, sys\nfrom cls_runtime.jobs import shards\nfrom cls_runtime.commands import embed\n"
        "flush = shards._Appender.flush\n"
        "shards._Appender.flush = lambda self: (shutil.rmtree(sys.argv[-1], ignore_errors=True), flush(self))\n"
        "sys.exit(embed.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, str(bundle), str(texts), "--shard-rows", "100", "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "No such file or directory" in done.stderr


@pytest.mark.parametrize("name", ["x" * 255, "x" * 256, "file/out", "file"])
def test_odd_names_of_folders_are_done_or_one_line(again, tmp_path, capsys, name):
    (tmp_path / "file").touch()
    code = again(f"{tmp_path}/{name}/")
    assert code == (0 if len(name) == 255 else 2)
    assert capsys.readouterr().err.count("error: ") == (code == 2)


def test_a_file_name_that_is_not_utf_8_is_kept_as_it_is(bundle, tmp_path, run):
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(path, "wb") as file:
        file.write(b"cat\n")
    for _ in range(2):
        assert run(bundle, os.fsdecode(path), "-o", tmp_path / "out") == 0
