"""A folder of shards: what is in it, and who may go on with it."""

import base64
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from bundle_builder import build_bundle
from fake_driver import H100, T4, FakeDriver, pretend_driver
from pyarrow import parquet

from cls_runtime import DimensionsWarning, Encoder, TextTooLongError, TruncationWarning, UsageError
from cls_runtime.bundle.files import part_name
from cls_runtime.commands import embed
from cls_runtime.engines import onnxruntime
from cls_runtime.engines.cuda import load
from cls_runtime.jobs import JobOptions, RayOptions, run_job
from cls_runtime.jobs.embed_npy import embed_to_npy


def expected(bundle, texts, **options):
    with Encoder.load(bundle, on_overflow="truncate") as encoder:
        return encoder.encode(texts, **options)


def texts_of(corpus):
    return [json.loads(line)["text"] for line in corpus.read_text().splitlines()]


def test_every_row_once_and_in_order(bundle, corpus, tmp_path, run, read, leftovers):
    out = tmp_path / "out"
    assert run(bundle, corpus, "-o", out, "--id-column", "key", "--keep", "score", "--keep", "text", "--shard-rows", 700) == 0
    rows = read(out)
    texts = texts_of(corpus)
    assert list(rows) == ["id", "score", "text", "embedding"]
    assert rows["id"] == [f"k{row}" for row in range(3000)]
    assert rows["score"] == [row / 2 for row in range(3000)]
    assert rows["text"] == texts
    np.testing.assert_allclose(np.array(rows["embedding"], dtype=np.float32), expected(bundle, texts), atol=1e-6)
    shards = sorted(out.glob("*.parquet"))
    assert [parquet.read_metadata(path).num_rows for path in shards] == [700, 700, 700, 700, 200]
    assert [path.name for path in shards] == [f"part-{start:012d}.parquet" for start in range(0, 3000, 700)]
    assert parquet.read_schema(shards[0]).field("embedding").type == pa.list_(pa.float32(), 8)
    assert leftovers(out) == []


def test_without_an_id_column_the_id_is_the_row(bundle, tmp_path, run, read):
    (tmp_path / "a.txt").write_text("the cat\ndog\n")
    (tmp_path / "b.txt").write_text("cat\n")
    assert run(bundle, tmp_path / "a.txt", tmp_path / "b.txt", "-o", tmp_path / "out") == 0
    assert read(tmp_path / "out")["id"] == [0, 1, 2]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_stored_vectors_are_the_encoders(bundle, corpus, tmp_path, run, dtype, normalize):
    out = tmp_path / "out"
    assert run(bundle, corpus, "-o", out, "--dtype", dtype, *(["--normalize"] if normalize else [])) == 0
    table = parquet.read_table(out)
    stored = np.array(table["embedding"].combine_chunks().flatten(), dtype=np.float32).reshape(3000, 8)
    if dtype == "int8":
        stored = stored * np.array(table["embedding_scale"], dtype=np.float32)[:, None]
    true = expected(bundle, texts_of(corpus), normalize=normalize)
    # int8: half a step of 1/127 of the row's largest number; float16: its 11 bits.
    step = {"float32": 1e-6, "float16": 2**-11, "int8": 0.5 / 127}[dtype] * np.abs(true).max(axis=1, keepdims=True)
    assert (np.abs(stored - true) <= step * 1.01 + 1e-6).all()


def origin_of(folder):
    (shard,) = folder.glob("*.parquet")
    return json.loads(parquet.read_schema(shard).metadata[b"cls_export"])


def test_shards_say_where_their_vectors_come_from(bundle, corpus, tmp_path, run):
    assert run(bundle, corpus, "-o", tmp_path / "out", "--normalize") == 0
    origin = origin_of(tmp_path / "out")
    with Encoder.load(bundle) as encoder:
        assert origin["fingerprint"] == encoder.manifest.fingerprint
    assert (origin["variant"], origin["output"], origin["normalized"]) == ("fp32", "cls", "true")
    assert (origin["prompt"], origin["dimensions"], origin["dtype"], "ranges" in origin) == ("", "8", "float32", False)


ENCODED = {
    "as trained": ([], {}),
    "a prompt's name": (["--prompt-name", "query"], {"prompt_name": "query"}),
    "a prompt's text": (["--prompt", "dog: "], {"prompt": "dog: "}),
    "no prompt": (["--prompt", ""], {"prompt": ""}),
    "not normalized": (["--no-normalize"], {"normalize": False}),
    "pooler": (["--output", "pooler"], {"output": "pooler"}),
    "bytes": (["--dtype", "uint8"], {"dtype": "uint8"}),
    "bits": (["--dtype", "ubinary"], {"dtype": "ubinary"}),
    "bits with a sign": (["--dtype", "binary", "--output", "logits"], {"dtype": "binary", "output": "logits"}),
    "half floats": (["--dtype", "float16"], {"dtype": "float16"}),
}


@pytest.mark.parametrize("out", ["out", "out.npy"])
@pytest.mark.parametrize("case", ENCODED)
def test_what_is_stored_is_what_encode_gives_with_the_same_options(trained, corpus, tmp_path, run, read, case, out):
    typed, options = ENCODED[case]
    assert run(trained, corpus, "-o", tmp_path / out, *typed) == 0
    true = expected(trained, texts_of(corpus), **options)
    stored = np.load(tmp_path / out) if out == "out.npy" else np.array(read(tmp_path / out)["embedding"], dtype=true.dtype)
    assert stored.dtype == true.dtype
    if true.dtype.kind == "f":
        np.testing.assert_allclose(stored, true, atol=1e-6 if true.dtype == np.float32 else 1e-3)
    else:  # a number at a step's edge may round the other way in another batch
        assert np.mean(stored != true) < 1e-3


@pytest.mark.parametrize("out", ["out", "out.npy"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_ranges_from_a_file(bundle, corpus, tmp_path, run, read, dtype, out):
    texts = texts_of(corpus)
    vectors = expected(bundle, texts)
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    np.save(tmp_path / "ranges.npy", ranges)
    assert run(bundle, corpus, "-o", tmp_path / out, "--dtype", dtype, "--ranges", tmp_path / "ranges.npy") == 0
    true = expected(bundle, texts, dtype=dtype, ranges=ranges)
    stored = np.load(tmp_path / out) if out == "out.npy" else np.array(read(tmp_path / out)["embedding"])
    assert np.mean(stored != true) < 1e-3
    if out == "out":
        rows = read(tmp_path / out)
        assert list(rows) == ["id", "embedding"]
        least, greatest = np.frombuffer(base64.b64decode(origin_of(tmp_path / out)["ranges"]), "<f4").reshape(2, -1)
        middle = {"int8": 128.5, "uint8": 0.5}[dtype]
        back = least + (np.array(rows["embedding"]) + middle) * (greatest - least) / 255
        assert (np.abs(back - vectors) <= (greatest - least) / 255 * 0.51 + 1e-6).all()


def test_other_ranges_are_another_job(bundle, corpus, tmp_path, run, capsys):
    for name, most in (("one", 1), ("two", 2)):
        np.save(tmp_path / f"{name}.npy", np.array([[-most] * 8, [most] * 8], dtype=np.float32))
    base = (bundle, corpus, "-o", tmp_path / "out", "--dtype", "int8")
    assert run(*base, "--ranges", tmp_path / "one.npy") == 0
    capsys.readouterr()
    for other in (["--ranges", tmp_path / "two.npy"], []):
        assert run(*base, *other) == 2
        assert "holds a job with ranges sha256 '" in capsys.readouterr().err
    assert run(*base, "--ranges", tmp_path / "one.npy", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ranges_sha256"] == origin_of(tmp_path / "out")["ranges_sha256"]


def test_dimensions_of_shards_and_of_a_file(bundle, corpus, tmp_path, run, read):
    true = expected(bundle, texts_of(corpus), dimensions=4)
    assert run(bundle, corpus, "-o", tmp_path / "out", "--dimensions", 4) == 0
    np.testing.assert_allclose(np.array(read(tmp_path / "out")["embedding"]), true, atol=1e-6)
    assert (origin_of(tmp_path / "out")["dimensions"], origin_of(tmp_path / "out")["normalized"]) == ("4", "true")
    assert run(bundle, corpus, "-o", tmp_path / "out.npy", "--dimensions", 4) == 0
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), true, atol=1e-6)


@pytest.mark.parametrize("out", ["out", "out.npy"])
def test_a_size_that_the_model_does_not_name_is_one_warning(bundle, corpus, tmp_path, run, capsys, out):
    shards = ["--shard-rows", 700] if out == "out" else []
    assert run(bundle, corpus, "-o", tmp_path / out, "--dimensions", 5, "--on-overflow", "truncate", *shards) == 0
    assert capsys.readouterr().err == "warning: dimensions is 5, this bundle names 4; measure the loss, or leave it out\n"
    make = run_job if out == "out" else embed_to_npy
    with pytest.warns(DimensionsWarning) as warned:
        make(bundle, [str(corpus)], str(tmp_path / "again") if out == "out" else tmp_path / "again.npy", options=JobOptions(dimensions=5))
    assert [Path(warning.filename) for warning in warned] == [Path(__file__)], "the warning names who asked for the job"


def test_a_job_of_0_1_goes_on(bundle, trained, corpus, tmp_path, run, capsys):
    """Its record, literally: whoever asks for no more than it knew has the same, and so the same token in the shards."""
    of_0_1 = {
        "column": "text",
        "id_column": None,
        "on_error": "raise",
        "output": "cls",
        "normalize": False,
        "dtype": "int8",
        "shard_rows": 700,
        "keep": [],
        "refuses_overflow": False,
    }
    out = tmp_path / "out"
    assert run(bundle, corpus, "-o", out, "--shard-rows", 700, "--dtype", "int8", "--output", "cls") == 0
    record = json.loads((out / "_job.json").read_text())
    assert record["spec"]["options"] == of_0_1
    record["spec"]["options"] = of_0_1
    record["shards"] = record["shards"][:2]
    (out / "_job.json").write_text(json.dumps(record))
    capsys.readouterr()
    assert run(bundle, corpus, "-o", out, "--shard-rows", 700, "--dtype", "int8", "--json") == 0
    assert json.loads(capsys.readouterr().out)["resumed_rows"] == 1400
    # Of a model that was trained to give unit vectors it goes on where they are not asked for, as it did not.
    trained_out = tmp_path / "trained"
    typed = ("--no-normalize", "--prompt", "", "--dtype", "int8", "--shard-rows", 700)
    assert run(trained, corpus, "-o", trained_out, *typed) == 0
    assert json.loads((trained_out / "_job.json").read_text())["spec"]["options"] == of_0_1
    assert run(trained, corpus, "-o", trained_out, "--prompt", "", "--dtype", "int8", "--shard-rows", 700) == 2
    assert "holds a job with normalize False, this one has True; use the same, or another output folder" in capsys.readouterr().err


def test_json_summary(bundle, corpus, tmp_path, run, capsys):
    assert run(bundle, corpus, "-o", tmp_path / "out", "--json", "--shard-rows", 1000) == 0
    document = json.loads(capsys.readouterr().out)
    distinct = [len(set(texts_of(corpus)[start : start + 1000])) for start in (0, 1000, 2000)]
    assert (document["texts"], document["shards"], document["width"], document["dtype"]) == (3000, 3, 8, "float32")
    assert document["duplicates"] == 3000 - sum(distinct)
    assert document["truncated"] > 0
    assert document["tokens"] > 0
    assert document["resumed_rows"] == 0
    assert document["texts_per_second"] > 0
    assert document["threads"] >= 1


def test_a_finished_job_is_not_done_again(bundle, corpus, tmp_path, run, capsys):
    out = tmp_path / "out"
    assert run(bundle, corpus, "-o", out) == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    assert run(bundle, corpus, "-o", out) == 0
    assert "an earlier run finished this job, nothing to do" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_lost_or_changed_shard_is_made_again(bundle, corpus, tmp_path, run, shard_bytes):
    out = tmp_path / "out"
    assert run(bundle, corpus, "-o", out, "--shard-rows", 1000) == 0
    whole = shard_bytes(out)
    (out / "part-000000001000.parquet").unlink()
    (out / "part-000000002000.parquet").write_bytes(b"half")
    (out / part_name("part-000000000000.parquet")).write_bytes(b"from a crash")
    assert run(bundle, corpus, "-o", out, "--shard-rows", 1000) == 0
    assert shard_bytes(out) == whole
    assert not list(out.glob(".*"))


REFUSALS = {
    "normalize": (["--normalize"], "with normalize False, this one has True"),
    "dtype": (["--dtype", "int8"], "with dtype 'float32', this one has 'int8'"),
    "shard rows": (["--shard-rows", "999"], "with shard rows 1000, this one has 999"),
    "keep": (["--keep", "score"], "with keep [], this one has ['score']"),
    "id column": (["--id-column", "key"], "with id column None, this one has 'key'"),
    "output": (["--output", "pooler"], "with output 'cls', this one has 'pooler'"),
    "overflow": (["--on-overflow", "raise"], "with refuses overflow False, this one has True"),
    "on error": (["--on-error", "raise"], "with on error 'skip', this one has 'raise'"),
    "prompt": (["--prompt", "query: "], "with prompt None, this one has 'query: '"),
    "dimensions": (["--dimensions", "4", "--no-normalize"], "with dimensions None, this one has 4"),
    "ranges": (["--dtype", "uint8"], "with dtype 'float32', this one has 'uint8'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_other_options_are_refused_with_the_reason(bundle, corpus, tmp_path, run, capsys, shard_bytes, case):
    out = tmp_path / "out"
    base = (bundle, corpus, "-o", out, "--shard-rows", "1000", "--on-error", "skip")
    assert run(*base) == 0
    before = shard_bytes(out)
    capsys.readouterr()
    options, message = REFUSALS[case]
    assert run(*base, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: output {out} holds a job ")
    assert message in error
    assert error.count("\n") == 1
    assert shard_bytes(out) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_text(path.read_text() + '"more"\n'), "whose input 1 has bytes"),
        (lambda path: path.write_text(path.read_text().replace("k0", "kx", 1)), "the hash of its contents"),
        (lambda path: path.write_text(path.read_text()[:-3] + "7}\n"), "the hash of its contents"),
    ],
    ids=["longer", "another beginning", "another end"],
)
def test_another_input_is_refused(bundle, corpus, tmp_path, run, capsys, change, message):
    assert run(bundle, corpus, "-o", tmp_path / "out") == 0
    change(corpus)
    capsys.readouterr()
    assert run(bundle, corpus, "-o", tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_another_name_or_another_number_of_inputs_is_refused(bundle, corpus, tmp_path, run, capsys):
    assert run(bundle, corpus, "-o", tmp_path / "out") == 0
    other = corpus.with_name("other.jsonl")
    shutil.copy(corpus, other)
    capsys.readouterr()
    assert run(bundle, other, "-o", tmp_path / "out") == 2
    assert "has the name 'corpus.jsonl', it is now 'other.jsonl'" in capsys.readouterr().err
    assert run(bundle, corpus, other, "-o", tmp_path / "out") == 2
    assert "a job with 1 input files, this one has 2" in capsys.readouterr().err


def test_another_delimiter_is_refused(bundle, tmp_path, run, read, capsys):
    (tmp_path / "in.csv").write_text("n;text\n1;cat\n2;dog\n")
    assert run(bundle, tmp_path / "in.csv", "-o", tmp_path / "out", "--delimiter", ";", "--keep", "n") == 0
    assert read(tmp_path / "out")["n"] == ["1", "2"]
    assert run(bundle, tmp_path / "in.csv", "-o", tmp_path / "out", "--delimiter", ";", "--keep", "n") == 0
    (tmp_path / "in.csv").write_text("n,text\n1,cat\n2,dog\n")
    capsys.readouterr()
    assert run(bundle, tmp_path / "in.csv", "-o", tmp_path / "out", "--keep", "n") == 2
    assert "holds a job with delimiter ';', this one has None; use the same" in capsys.readouterr().err


def test_a_comma_is_what_jobs_without_a_delimiter_had():
    assert JobOptions(delimiter=",").deciding() == JobOptions().deciding()
    assert "delimiter" not in JobOptions().deciding()


def test_another_bundle_is_refused(bundle, corpus, tmp_path, run, capsys):
    assert run(bundle, corpus, "-o", tmp_path / "out") == 0
    longer = build_bundle(tmp_path / "longer", max_length=20)
    weights = build_bundle(tmp_path / "weights", change_weights=lambda values: values + 1)
    capsys.readouterr()
    assert run(longer, corpus, "-o", tmp_path / "out") == 2
    assert "holds a job with fingerprint " in capsys.readouterr().err
    assert run(weights, corpus, "-o", tmp_path / "out") == 2
    assert "holds a job with fingerprint " in capsys.readouterr().err


def test_a_folder_with_something_else_is_refused(bundle, corpus, tmp_path, run, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    assert run(bundle, corpus, "-o", tmp_path / "out") == 2
    assert "holds 'thesis.tex' and no _job.json; choose an empty folder or a new one" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


FOLDER_ONLY = "with -o FOLDER, a .npy file holds vectors only; found -o {work}/v.npy"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "{work}/v.npy", "--id-column", "key"], f"--id-column goes {FOLDER_ONLY}"),
        (["-o", "{work}/v.npy", "--keep", "score"], f"--keep goes {FOLDER_ONLY}"),
        (
            ["-o", "{work}/v.npy", "--dtype", "int8", "--on-error", "null"],
            "--on-error null goes with -o FOLDER or --dtype float32 or float16, a .npy of integers cannot mark a row that has no text",
        ),
        (["-o", "{work}/out", "--ranges", "r.npy"], "--ranges goes with --dtype int8 or uint8; found --dtype float32"),
        (
            ["-o", "{work}/v.npy", "--ranges", "r.npy", "--dtype", "ubinary"],
            "--ranges goes with --dtype int8 or uint8; found --dtype ubinary",
        ),
        (["-o", "{work}/out", "--ranges", "{work}/r.npy", "--dtype", "int8"], "ranges file {work}/r.npy does not exist; expected float32"),
        (
            ["-o", "{work}/out", "--dimensions", "4", "--output", "pooler"],
            "--dimensions goes with --output sentence or cls, other vectors are not trained to be shortened; found --output pooler",
        ),
        (["-o", "{work}/out", "--dimensions", "9"], "dimensions is 9, the vectors of this bundle have 8; choose at most 8"),
        (["-o", "{work}/out", "--dimensions", "0"], "dimensions is 0, expected a whole number of at least 1"),
        (
            ["-o", "{work}/out", "--prompt-name", "query", "--prompt", "a"],
            "--prompt-name goes with a prompt of the bundle, --prompt is your own text; use one of them; found --prompt 'a'",
        ),
        (["-o", "{work}/out", "--prompt-name", "passage"], "prompt_name is 'passage', this bundle has query, document"),
        (["-o", "{work}/out", "--output", "tokens"], "expected one of sentence, cls, pooler, logits, found 'tokens'"),
        (["-o", "{work}/v.npy", "--shard-rows", "100000"], f"--shard-rows goes {FOLDER_ONLY}"),
        (["-o", "{work}/v.npy", "--keep", "score", "--shard-rows", "9"], f"--keep, --shard-rows go {FOLDER_ONLY}"),
        (
            ["-o", "{work}/v.npy", "--engine", "ray"],
            "--engine ray goes with -o FOLDER, each worker writes its own shards; found -o {work}/v.npy",
        ),
        (["-o", "{work}/out", "--ray-workers", "2"], "--ray-workers goes with --engine ray; found --engine auto"),
        (["-o", "{work}/out", "--ray-gpus", "0"], "--ray-gpus goes with --engine ray; found --engine auto"),
        (
            ["-o", "{work}/out", "--engine", "ray", "--device", "1"],
            "--device goes with GPUs of this machine, use --ray-gpus on Ray; found --engine ray",
        ),
        (["-o", "{work}/out", "--device", "1"], "--device goes with --engine cuda, which computes on a GPU; found --engine auto"),
        (["-o", "{work}/v.npy", "--engine", "cuda", "--device", "gpu0"], "device is 'gpu0', expected a GPU's number such as 1"),
        (["-o", "{work}/out", "--engine", "tensorrt"], "engine tensorrt was taken out"),
        (["-o", "{work}/out", "--engine", "ray", "--ray-workers", "0"], "ray workers is 0, expected a whole number of at least 1"),
        (["-o", "{work}/out", "--engine", "ray", "--ray-gpus", "-1"], "ray gpus is -1.0, expected a number of at least 0"),
        (["-o", "{work}/out", "--shard-rows", "0"], "shard_rows is 0, expected a whole number of at least 1"),
        (["-o", "{work}/out", "--threads", "0"], "threads is 0, expected a whole number of at least 1"),
        (["-o", "{work}/out", "--keep", "scroe"], "column 'scroe' is in none of the first 1000 records of"),
        (["-o", "{work}/out", "--id-column", "kye"], "column 'kye' is in none of the first 1000 records of"),
        (["-o", "{work}/out", "--keep", "embedding"], "the output has a column 'embedding' of its own"),
        (["-o", "{work}/out", "--keep", "score", "--keep", "score"], "--keep names a column twice"),
        (["-o", "{work}/out.parquet"], "expected a name that ends in .npy, or a folder"),
        (["-o", "{work}/out", "--engine", "ray"], "--engine ray reads .parquet inputs"),
        (["-o", "{work}/out", "--output", "nonsense"], "found 'nonsense'"),
    ],
)
def test_options_that_do_not_go_together(bundle, corpus, tmp_path, run, capsys, arguments, message):
    before = sorted(tmp_path.iterdir())
    assert run(bundle, corpus, *(argument.format(work=tmp_path) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert message.format(work=tmp_path) in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("options", "engine"), [([], "auto"), (["--ray-gpus", "0"], "auto"), (["--ray-gpus", "0.5"], "cuda")])
def test_a_ray_worker_with_a_share_of_a_gpu_computes_on_it(options, engine):
    arguments = embed._parser().parse_args(["bundle", "in.parquet", "-o", "out", "--engine", "ray", *options])
    assert embed._options(arguments).engine == engine


def test_on_ray_no_gpu_is_named(bundle, corpus, tmp_path):
    with pytest.raises(UsageError, match="device is 1, and on Ray a worker has a GPU of its own"):
        run_job(bundle, [str(corpus)], str(tmp_path / "out"), options=JobOptions(engine="cuda", device=1), ray=RayOptions(gpus=1))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs, for which a CPU engine computes; the numbers that each load was given."""
    pretend_driver(monkeypatch, FakeDriver([H100, T4]))
    given = []

    def stand_in(bundle, *, variant, threads, devices=()):
        given.append(devices)
        return onnxruntime.load(bundle, variant=variant, threads=threads)

    monkeypatch.setattr(load, "load", stand_in)
    return given


@pytest.mark.parametrize(("device", "numbers"), [("1", (1,)), ("0,1", (0, 1)), ("all", (0, 1))])
@pytest.mark.parametrize("out", ["shards", "v.npy"])
def test_a_job_has_all_the_gpus_that_it_names_in_one_encoder(bundle, corpus, tmp_path, run, two_gpus, device, numbers, out):
    assert run(bundle, corpus, "-o", tmp_path / out, "--engine", "cuda", "--device", device, "--variant", "fp32") == 0
    assert two_gpus == [numbers]


def test_no_rows_give_a_shard_with_a_schema(bundle, tmp_path, run, read):
    (tmp_path / "empty.txt").touch()
    assert run(bundle, tmp_path / "empty.txt", "-o", tmp_path / "out") == 0
    assert read(tmp_path / "out") == {"id": [], "embedding": []}


def test_from_python_the_same(bundle, corpus, tmp_path):
    options = JobOptions(shard_rows=1000, variant="fp32")
    report = run_job(bundle, [str(corpus)], str(tmp_path / "out"), options=options)
    assert (report.shards, report.width, report.total.rows, report.resumed_rows) == (3, 8, 3000, 0)
    again = run_job(bundle, [str(corpus)], str(tmp_path / "out"), options=options)
    assert (again.total, again.this_run.rows, again.resumed_rows) == (report.total, 0, 3000)


def cut_rows(bundle, texts):
    with Encoder.load(bundle, on_overflow="truncate") as encoder:
        encoder.encode(texts)
        return len(encoder.last_report.truncated)


def test_cut_texts_are_told_once_at_the_end(bundle, corpus, tmp_path, run, capsys):
    """Several shards, each with texts that are cut, and one line: from the command that does the work and from one that finds it done."""
    cut = cut_rows(bundle, texts_of(corpus))
    line = f"warning: {cut} of 3000 texts exceed the model's 16 tokens and were truncated; --on-overflow raise stops at them\n"
    for choice, said in (("warn", line), ("warn", line), ("truncate", "")):
        assert run(bundle, corpus, "-o", tmp_path / "out", "--shard-rows", 700, "--on-overflow", choice) == 0
        assert capsys.readouterr().err == said


@pytest.mark.parametrize("out", ["out", "out.npy"])
def test_cut_texts_from_python(bundle, corpus, tmp_path, out):
    def job(on_overflow):
        options = JobOptions(on_overflow=on_overflow, shard_rows=700)
        if out.endswith(".npy"):
            return embed_to_npy(bundle, [str(corpus)], tmp_path / out, options=options)
        return run_job(bundle, [str(corpus)], str(tmp_path / out), options=options)

    cut = cut_rows(bundle, texts_of(corpus))
    with pytest.warns(TruncationWarning, match=f"{cut} of 3000 texts exceed the model's 16 tokens") as warned:
        assert job("warn").total.truncated == cut
    assert len(warned) == 1
    assert Path(warned[0].filename) == Path(__file__), "the warning names who asked for the job"
    assert job("truncate").total.truncated == cut  # a warning would be an error here
    if out.endswith(".npy"):
        with pytest.raises(TextTooLongError):
            job("raise")


def test_a_column_without_a_name_can_be_the_id(bundle, tmp_path, run, read):
    """As pandas writes its index; and `--id-column ""` is not the same as none."""
    (tmp_path / "in.csv").write_text(",text\n7,the cat\n8,dog\n")
    assert run(bundle, tmp_path / "in.csv", "-o", tmp_path / "out", "--id-column", "") == 0
    assert read(tmp_path / "out")["id"] == ["7", "8"]


@pytest.mark.parametrize("scheme", ["file://", "local://"])
def test_uris_of_arrow_and_of_fsspec(bundle, tmp_path, run, read, make_texts, scheme):
    if scheme == "local://":
        pytest.importorskip("fsspec")
    (tmp_path / "in").mkdir()
    for part in range(2):
        parquet.write_table(pa.table({"text": make_texts(500), "n": range(part * 500, part * 500 + 500)}), tmp_path / f"in/{part}.parquet")
    where = f"{scheme}{tmp_path}"
    assert run(bundle, f"{where}/in", "-o", f"{where}/out", "--id-column", "n", "--shard-rows", 300) == 0
    assert read(tmp_path / "out")["id"] == list(range(1000))
    assert not list((tmp_path / "out").glob(".*"))
    assert run(bundle, f"{where}/in", "-o", f"{where}/out", "--id-column", "n", "--shard-rows", 300) == 0
    assert run(bundle, f"{where}/none.parquet", "-o", f"{where}/out") == 2
    assert run(bundle, "nowhere://x/y.parquet", "-o", f"{where}/out") == 2


def test_without_pyarrow_the_extra_is_named_and_npy_works(bundle, tmp_path, run, capsys, monkeypatch):
    import sys

    (tmp_path / "in.jsonl").write_text('{"text": "cat"}\n"dog"\n')
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run(bundle, tmp_path / "in.jsonl", "-o", tmp_path / "out") == 2
    assert "pip install 'cls-export[jobs]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(bundle, tmp_path / "in.jsonl", "-o", tmp_path / "out.npy") == 0
    assert np.load(tmp_path / "out.npy").shape == (2, 8)


@pytest.mark.slow
@pytest.mark.timing
def test_eight_times_the_rows_cost_eight_times_the_cpu_seconds(bundle, tmp_path, make_texts):
    """In turns, so that a machine that becomes slower in between is slower for both; what else it does can only add to either.

    Held to twice that, which a neighbour on the same core does not reach; 64 times, were it quadratic.
    """
    sources = {}
    for times in (1, 8):
        # The same rows again with other texts: as many repeats in every shard, so as much to compute for a row.
        sources[times] = tmp_path / f"{times}.txt"
        sources[times].write_text("".join(f"{text} {part}\n" for part in range(times) for text in make_texts(10_000)))

    def cpu_seconds(times, turn):
        start = time.process_time()
        run_job(bundle, [str(sources[times])], str(tmp_path / f"out{times}-{turn}"), options=JobOptions(threads=1, shard_rows=5_000))
        return time.process_time() - start

    cpu_seconds(1, 0)  # what is imported and made ready once
    turns = [(cpu_seconds(1, turn), cpu_seconds(8, turn)) for turn in (1, 2, 3)]
    few, many = map(min, zip(*turns, strict=True))
    assert many < 2 * 8 * few


@pytest.mark.parametrize("out", ["out", "out.npy"])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_a_mean_pooled_model(corpus, tmp_path, run, read, capsys, include_prompt, out):
    """Its prompt is read and, where the model was trained so, not pooled."""
    options = {"pooling": "mean", "include_prompt": include_prompt, "prompts": {"query": "the cat, "}, "default_prompt_name": "query"}
    bundle = build_bundle(tmp_path / "mean", **options)
    texts = texts_of(corpus)
    true = expected(bundle, texts)
    assert np.abs(true - expected(bundle, [f"the cat, {text}" for text in texts], prompt="")).max() < 1e-6 or not include_prompt
    assert run(bundle, corpus, "-o", tmp_path / out) == 0
    stored = np.load(tmp_path / out) if out == "out.npy" else np.array(read(tmp_path / out)["embedding"])
    np.testing.assert_allclose(stored, true, atol=1e-6)
    if out == "out":
        assert origin_of(tmp_path / out)["output"] == "sentence"
        capsys.readouterr()
        assert run(bundle, corpus, "-o", tmp_path / "cls", "--output", "cls") == 2
        assert "output is 'cls', this bundle has sentence, " in capsys.readouterr().err
