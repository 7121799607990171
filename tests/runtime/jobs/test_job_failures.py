"""What can go wrong during a job, and what is left afterwards: nothing lost, nothing twice."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from pyarrow import parquet

from cls_runtime.bundle.files import whole_file
from cls_runtime.jobs import job, output_folder

SHARD = "part-*.parquet"


# The process ends itself at a moment that is counted in what it does, so that the same happens on a fast machine and on a slow one.

KILLED = """
import contextlib, os, signal, threading
from cls_runtime.jobs import output_folder, shards

left, lock = {moments}, threading.Lock()

def moment():
    global left
    with lock:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

def counting(function):
    def counted(*arguments):
        moment()
        return function(*arguments)
    return counted

whole_file = output_folder.whole_file

@contextlib.contextmanager
def watched(path):
    with whole_file(path) as file:
        moment()
        yield file
        moment()

def audited(event, arguments):
    if event in ("open", "os.mkdir", "os.remove", "os.rename") and str(arguments[0]).startswith({out!r}):
        moment()

os.fsync = counting(os.fsync)
output_folder.whole_file = watched
shards._Appender.append = counting(shards._Appender.append)
sys.addaudithook(audited)
"""

STOPPED = """
import os, signal, threading
from cls_runtime.jobs import shards, stopping

flush, left = shards._Appender.flush, 2
handle, arrived = stopping.StopSignals._handle, threading.Event()

def handled(*arguments):
    arrived.set()
    handle(*arguments)

def flushed(self):
    global left
    flush(self)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), {number})
        arrived.wait()  # or the job might be done before the main thread gets its turn

shards.ROW_GROUP_ROWS = 2048
shards._Appender.flush = flushed
stopping.StopSignals._handle = handled
"""


def wait_for(condition, process):
    """However long it takes: a process that hangs is ended by pytest's own limit."""
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"ended early: {process.communicate()}")
        time.sleep(0.005)


def assert_survives_kills(bundle, tmp_path, make_texts, start, shard_bytes, leftovers, *, rows, shard_rows):
    """Kills a job ten times before something that it does to its folder: opening, writing, syncing, renaming or removing a file.

    A shard takes at least ten such moments, so that ten times at most 35 never reach the end of 40 shards.
    """
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in make_texts(rows)))
    arguments = [bundle, tmp_path / "in.txt", "--shard-rows", shard_rows]
    undisturbed = start(*arguments, "-o", tmp_path / "whole")
    _, stderr = undisturbed.communicate()
    assert undisturbed.returncode == 0, stderr
    out = tmp_path / "out"
    source = random.Random(rows)
    for moments in [1, *(source.randint(2, 35) for _ in range(9))]:
        killed = start(*arguments, "-o", out, before=KILLED.format(moments=moments, out=str(out)))
        _, stderr = killed.communicate()
        assert killed.returncode == -signal.SIGKILL, stderr
    assert 0 < len(list(out.glob(SHARD))) < rows // shard_rows
    final = start(*arguments, "-o", out, "--json")
    stdout, stderr = final.communicate()
    assert final.returncode == 0, stderr
    document = json.loads(stdout)
    assert document["texts"] == rows
    assert document["resumed_rows"] > 0
    assert shard_bytes(out) == shard_bytes(tmp_path / "whole")
    assert leftovers(out) == []


def test_killed_ten_times_the_output_is_the_undisturbed_one(bundle, tmp_path, make_texts, start, shard_bytes, leftovers):
    assert_survives_kills(bundle, tmp_path, make_texts, start, shard_bytes, leftovers, rows=8_000, shard_rows=200)


@pytest.mark.slow
def test_killed_ten_times_with_200000_rows(bundle, tmp_path, make_texts, start, shard_bytes, leftovers):
    assert_survives_kills(bundle, tmp_path, make_texts, start, shard_bytes, leftovers, rows=200_000, shard_rows=5_000)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_what_is_done(bundle, tmp_path, make_texts, start, run, number, code):
    texts = make_texts(20_000)
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in texts))
    out = tmp_path / "out"
    arguments = [bundle, tmp_path / "in.txt", "-o", out, "--shard-rows", 16_000, "--threads", 1]
    # Two row groups are in the shard that is being written, so there is something to save.
    process = start(*arguments, before=STOPPED.format(number=int(number)))
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (code, b"")
    assert stderr.startswith(b"error: ")
    assert b"Traceback" not in stderr
    state = json.loads((out / "_job.json").read_text())
    saved = sum(shard["stop"] - shard["start"] for shard in state["shards"])
    assert 0 < saved < 20_000
    assert not state["complete"]
    assert not list(out.glob(".*"))
    assert run(*arguments) == 0
    table = parquet.read_table(out)
    assert table["id"].to_pylist() == list(range(20_000))
    assert run(bundle, tmp_path / "in.txt", "-o", tmp_path / "all.npy") == 0
    np.testing.assert_allclose(
        np.array(table["embedding"].combine_chunks().flatten()).reshape(-1, 8), np.load(tmp_path / "all.npy"), atol=1e-6
    )


def test_a_full_disk_ends_the_job_and_room_lets_it_go_on(bundle, tmp_path, make_texts, run, shard_bytes):
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in make_texts(6_000)))
    arguments = [bundle, tmp_path / "in.txt", "--shard-rows", "3000"]
    limited = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"  # so that writing fails with an error, as on a full disk
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        "from cls_runtime.commands import embed\n"
        "sys.exit(embed.main(sys.argv[1:]))\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", limited, *map(str, arguments), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {out}/part-000000000000.parquet: File too large; the finished shards stay; make room, ")
    assert done.stderr.count("\n") == 1
    assert list(out.iterdir()) == []
    assert run(*arguments, "-o", out) == 0
    assert run(*arguments, "-o", tmp_path / "whole") == 0
    assert shard_bytes(out) == shard_bytes(tmp_path / "whole")


@pytest.mark.parametrize("name", ["_job.json", "_skipped-000000000000-", "_skipped.jsonl"])
def test_a_full_disk_at_any_file_of_a_job_is_named(bundle, corpus, tmp_path, run, capsys, monkeypatch, name):
    def full(path):
        if path.name.startswith(name):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return whole_file(path)

    with corpus.open("a") as file:
        file.write("no JSON\n")
    monkeypatch.setattr(output_folder, "whole_file", full)
    assert run(bundle, corpus, "-o", tmp_path / "out", "--on-error", "skip") == 2
    advice = "No space left on device; the finished shards stay; make room, and run the same command again to continue"
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}/out/{name}")
    assert said.endswith(f": {advice}\n")
    assert said.count("the finished shards") == 1
    monkeypatch.undo()
    assert run(bundle, corpus, "-o", tmp_path / "out", "--on-error", "skip") == 0


def test_two_jobs_do_not_write_to_one_folder(bundle, corpus, tmp_path, run, capsys, monkeypatch):
    """The second one comes while the first one works."""
    out = tmp_path / "out"
    work, second = job.run_local, []

    def working(*arguments):
        monkeypatch.setattr(job, "run_local", work)
        second.append(run(bundle, corpus, "-o", out))
        work(*arguments)

    monkeypatch.setattr(job, "run_local", working)
    assert run(bundle, corpus, "-o", out) == 0
    assert second == [2]
    assert f"error: output {out}: another job is writing to it; wait for it or end it" in capsys.readouterr().err
    assert run(bundle, corpus, "-o", out) == 0, "the folder is free again"


BAD_ROWS = b"""{"text": "cat", "n": 1}
{"text": "d\xffg", "n": 2}
{"text": 3, "n": 3}
no json
{"text": "\\ud800", "n": 5}
{"text": "dog", "n": 6}
"""
REASONS = ["line 2 is not UTF-8 (byte 0xff", "line 3: 'text' is a JSON number", "line 4 is not JSON", "line 5 has a lone surrogate U+D800"]


def listed(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_bad_rows_end_the_job_unless_told_otherwise(bundle, tmp_path, run, capsys):
    (tmp_path / "in.jsonl").write_bytes(BAD_ROWS)
    assert run(bundle, tmp_path / "in.jsonl", "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "in.jsonl line 2 is not UTF-8" in error
    assert "--on-error skip or null goes on without such rows" in error
    assert run(bundle, tmp_path / "in.jsonl", "-o", tmp_path / "out", "--on-error", "skip") == 0, "what was done before had no errors"


@pytest.mark.parametrize("policy", ["skip", "null"])
def test_bad_rows_are_listed(bundle, tmp_path, run, read, capsys, leftovers, policy):
    (tmp_path / "in.jsonl").write_bytes(BAD_ROWS * 2)
    out = tmp_path / "out"
    assert run(bundle, tmp_path / "in.jsonl", "-o", out, "--on-error", policy, "--keep", "n", "--shard-rows", 4) == 0
    rows = read(out)
    if policy == "skip":
        assert rows["id"] == [0, 5, 6, 11]
        assert rows["n"] == [1, 6, 1, 6]
        assert None not in rows["embedding"]
    else:
        assert rows["id"] == list(range(12))
        assert [vector is None for vector in rows["embedding"]] == [False, True, True, True, True, False] * 2
    skipped = listed(out / "_skipped.jsonl")
    assert [item["row"] for item in skipped] == [1, 2, 3, 4, 7, 8, 9, 10]
    for item, reason in zip(skipped[:4], REASONS, strict=True):
        assert reason in item["reason"]
    assert leftovers(out) == ["_skipped.jsonl"]
    assert f"8 rows could not be read; see {out}/_skipped.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_null_rows_in_every_dtype(bundle, tmp_path, run, read, dtype):
    (tmp_path / "in.jsonl").write_bytes(BAD_ROWS)
    assert run(bundle, tmp_path / "in.jsonl", "-o", tmp_path / "out", "--on-error", "null", "--dtype", dtype) == 0
    rows = read(tmp_path / "out")
    assert [vector is None for vector in rows["embedding"]] == [False, True, True, True, True, False]
    if dtype == "int8":
        assert [scale is None for scale in rows["embedding_scale"]] == [False, True, True, True, True, False]


@pytest.mark.parametrize(("policy", "rows"), [("skip", 2), ("null", 6)])
def test_bad_rows_and_npy(bundle, tmp_path, run, policy, rows):
    (tmp_path / "in.jsonl").write_bytes(BAD_ROWS)
    out = tmp_path / "out.npy"
    assert run(bundle, tmp_path / "in.jsonl", "-o", out, "--on-error", policy) == 0
    vectors = np.load(out)
    assert vectors.shape == (rows, 8)
    assert np.isnan(vectors).all(axis=1).sum() == rows - 2
    assert [item["row"] for item in listed(tmp_path / "out.npy.skipped.jsonl")] == [1, 2, 3, 4]


def test_a_value_that_does_not_fit_its_column_is_a_bad_row(bundle, tmp_path, run, read):
    rows = [{"text": "cat", "n": row} for row in range(1500)]
    rows[1200]["n"] = "twelve hundred"
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(bundle, tmp_path / "in.jsonl", "-o", tmp_path / "out", "--id-column", "n", "--on-error", "skip") == 0
    assert read(tmp_path / "out")["id"] == [row for row in range(1500) if row != 1200]
    (skipped,) = listed(tmp_path / "out" / "_skipped.jsonl")
    assert "'n' is 'twelve hundred', expected int64" in skipped["reason"]


def test_skipped_rows_are_listed_once_after_a_lost_shard(bundle, tmp_path, run):
    (tmp_path / "in.jsonl").write_bytes(BAD_ROWS * 2)
    out = tmp_path / "out"
    arguments = (bundle, tmp_path / "in.jsonl", "-o", out, "--on-error", "skip", "--shard-rows", 6)
    assert run(*arguments) == 0
    whole = (out / "_skipped.jsonl").read_bytes()
    (out / "part-000000000000.parquet").unlink()
    assert run(*arguments) == 0
    assert (out / "_skipped.jsonl").read_bytes() == whole


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_cut_off_compressed_file_ends_the_job(bundle, tmp_path, run, capsys, suffix):
    import pyarrow as pa

    path = tmp_path / f"in.txt.{suffix}"
    with pa.CompressedOutputStream(str(path), {"gz": "gzip", "zst": "zstd"}[suffix]) as file:
        file.write(os.urandom(200_000).hex().encode() + b"\n")
    path.write_bytes(path.read_bytes()[:-1000])
    assert run(bundle, path, "-o", tmp_path / "out", "--on-error", "skip") == 2
    assert f"in.txt.{suffix} is damaged" in capsys.readouterr().err


def test_standard_input_cannot_resume(bundle, tmp_path, start, run, capsys):
    out = tmp_path / "out"
    process = start(bundle, "-", "-o", out, "--shard-rows", 5000)
    process.stdin.write(b"the cat\n" * 30_000)
    process.stdin.flush()
    wait_for(lambda: len(list(out.glob(SHARD))) >= 2, process)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    assert run(bundle, "-", "-o", out, "--shard-rows", 5000) == 2
    assert "standard input, which cannot be read again" in capsys.readouterr().err


def test_a_finished_job_from_standard_input_is_not_mistaken_for_this_one(bundle, tmp_path, start):
    for content, code in ((b"the cat\n", 0), (b"another text\n", 2)):
        process = start(bundle, "-", "-o", tmp_path / "out")
        _, stderr = process.communicate(content)
        assert process.returncode == code, stderr
    assert b"standard input, which cannot be read again; choose another folder" in stderr
