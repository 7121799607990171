"""What reading takes does not depend on how much a row, a line or a page turns out to be. Peaks in MiB, of processes of their own."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB there")

READING = """
import resource, sys
import pyarrow.parquet
from cls_runtime.errors import ClsError
from cls_runtime.jobs.inputs import JobInputs
from cls_runtime.jobs.reading_ahead import read_ahead

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before, rows, error = peak(), 0, ""
try:
    for block in read_ahead(JobInputs.find([sys.argv[1]], keep=[sys.argv[2]], on_error="skip").blocks([(0, 400)])):
        rows += block.stop - block.start
except ClsError as reason:
    error = str(reason)
print(rows, peak() - before, error)
"""


def run(program, *arguments):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)], check=True, capture_output=True, text=True
    ).stdout


def documents(path):
    with gzip.open(path, "wt", compresslevel=1) as file:
        for row in range(400):
            file.write(json.dumps({"text": f"{row} " + "word " * 20_000}) + "\n")


def endless(path):
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(110):
            file.write(bytes(10**7))


def one_string(path):
    table = pa.table({"text": pa.DictionaryArray.from_arrays(pa.array([0] * 20_000), pa.array(["x" * 2_000_000]))})
    parquet.write_table(table, path, compression="zstd")


def prefixes(path):
    table = pa.table({"text": ["a" * 1_000_000 + str(row) for row in range(400)]})
    parquet.write_table(table, path, use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"}, compression="zstd")


def one_kept(path):
    schema = pa.schema({"text": pa.string(), "kept": pa.binary(1_000_000)})
    with parquet.ParquetWriter(path, schema, dictionary_pagesize_limit=2**21) as writer:
        writer.write_table(pa.table({"text": ["a"] * 400, "kept": pa.array([b"x" * 1_000_000] * 400, pa.binary(1_000_000))}))


def numbers(path):
    kept = pa.ListArray.from_arrays(pa.array([0, 2**26]), pa.array(np.zeros(2**26, dtype=np.int8)))
    parquet.write_table(pa.table({"text": ["a"], "kept": kept}), path)


# All rows at once would be 1,100 MB of the third, 400 of the fourth and the fifth, and 1,400 of the last.
CASES = {
    "documents of 100 kB": ("in.jsonl.gz", documents, 400, "", "text"),
    "a line without end": ("in.txt.gz", endless, 1, "line 1 has more than 1,073,741,824 bytes and no end", "text"),
    "a string that all rows name": ("in.parquet", one_string, 400, "", "text"),
    "strings that are the one before": ("in.parquet", prefixes, 400, "", "text"),
    "bytes of a fixed size that all rows name": ("in.parquet", one_kept, 400, "", "kept"),
    "a list of equal numbers": ("in.parquet", numbers, 0, "'kept.list.element' in row group 0 unpacks from ", "kept"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_reading(tmp_path, name):
    file, write, rows, error, kept = CASES[name]
    write(tmp_path / file)
    read, grown, said = run(READING, tmp_path / file, kept).split(" ", 2)
    assert int(read) == rows
    assert error in said
    assert float(grown) < 250
