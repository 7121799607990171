"""Shards are plain Parquet: each reader that people use gets the rows, given the folder or a pattern."""

import base64
import json

import numpy as np
import pytest
from pyarrow import parquet

pytestmark = [pytest.mark.filterwarnings("ignore")]  # the readers' own warnings

DTYPES = ["float32", "float16", "int8", "uint8", "binary", "ubinary"]


@pytest.fixture(scope="module")
def folders(bundle, tmp_path_factory, make_texts):
    """A folder for each way to store vectors, with some null rows and a list of skipped ones beside the shards; and the true vectors."""
    from cls_runtime import Encoder
    from cls_runtime.jobs import JobOptions, run_job

    base = tmp_path_factory.mktemp("readers")
    texts = make_texts(300)
    (base / "in.txt").write_bytes(b"".join(f"{text}\n".encode() for text in texts) + b"\xff\n")
    for dtype in DTYPES:
        options = JobOptions(dtype=dtype, shard_rows=100, keep=("text",), on_error="skip")
        run_job(bundle, [str(base / "in.txt")], str(base / dtype), options=options)
    with Encoder.load(bundle, on_overflow="truncate") as encoder:
        return base, texts, encoder.encode(texts)


def assert_rows(folders, dtype, ids, texts, vectors, scales=None):
    """What a reader gave is what the job wrote."""
    _, true_texts, true = folders
    assert list(ids) == list(range(300))
    assert list(texts) == true_texts
    stored = np.array([np.asarray(vector, dtype=np.float32) for vector in vectors])
    if dtype == "int8":
        stored = stored * np.asarray(scales, dtype=np.float32)[:, None]
    if dtype == "uint8":
        origin = json.loads(parquet.read_schema(folders[0] / dtype / "part-000000000000.parquet").metadata[b"cls_export"])
        least, greatest = np.frombuffer(base64.b64decode(origin["ranges"]), "<f4").reshape(2, -1)
        stored = least + (stored + 0.5) * (greatest - least) / 255
    if dtype in ("binary", "ubinary"):
        bits = np.unpackbits((stored + 128 * (dtype == "binary")).astype(np.uint8), axis=1)
        np.testing.assert_array_equal(bits, true > 0)
        return
    inside = slice(None)
    if dtype == "uint8":  # what lies outside of the golden texts' ranges is not kept
        inside = (true >= least) & (true <= greatest)
        assert inside.mean() > 0.7
    tolerance = {"float32": 1e-6, "float16": 4e-3, "int8": 0.05, "uint8": 0.05}[dtype]
    np.testing.assert_allclose(stored[inside], true[inside], atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pandas(folders, dtype):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(folders[0] / dtype)
    assert_rows(folders, dtype, frame["id"], frame["text"], frame["embedding"], frame.get("embedding_scale"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_polars(folders, dtype):
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(folders[0] / dtype / "*.parquet")  # of a folder with other files it reads none
    scales = frame["embedding_scale"] if dtype == "int8" else None
    assert_rows(folders, dtype, frame["id"], frame["text"], frame["embedding"].to_list(), scales)
    assert frame.schema["embedding"].size == (1 if "binary" in dtype else 8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_duckdb(folders, dtype):
    duckdb = pytest.importorskip("duckdb")
    columns = duckdb.sql(f"select * from '{folders[0]}/{dtype}/*.parquet' order by id").fetchnumpy()
    assert_rows(folders, dtype, columns["id"], columns["text"], list(columns["embedding"]), columns.get("embedding_scale"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_datasets(folders, dtype, tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset("parquet", data_files=f"{folders[0]}/{dtype}/*.parquet", split="train", cache_dir=str(tmp_path))
    scales = rows["embedding_scale"] if dtype == "int8" else None
    assert_rows(folders, dtype, rows["id"], rows["text"], rows["embedding"], scales)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "float16"])
def test_spark(folders, dtype, spark):
    rows = spark.read.parquet(str(folders[0] / dtype)).orderBy("id").collect()
    scales = [row["embedding_scale"] for row in rows] if dtype == "int8" else None
    assert_rows(folders, dtype, [row["id"] for row in rows], [row["text"] for row in rows], [row["embedding"] for row in rows], scales)


@pytest.mark.slow
def test_spark_has_no_half_precision(folders, spark):
    """The documentation says so; the day this fails, float16 joins the test above."""
    with pytest.raises(Exception, match="FLOAT16"):
        spark.read.parquet(str(folders[0] / "float16")).collect()
