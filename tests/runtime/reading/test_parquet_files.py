"""Parquet that is not what it should be, and Parquet that unpacks to far more than it is."""

import io

import pytest

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

from cls_runtime.errors import ClsError, TextError, UsageError  # noqa: E402
from cls_runtime.jobs.inputs import END, JobInputs  # noqa: E402
from cls_runtime.reading.rows import BLOCK_BYTES, Columns  # noqa: E402
from cls_runtime.reading.text_files import TextFile  # noqa: E402


def strings(*values, kind=None):
    """An array of strings whatever their bytes are."""
    return pa.array(values, pa.large_binary() if kind == pa.large_string() else pa.binary()).view(kind or pa.string())


BAD = strings(b"a", b"\xff", b"c")

# name: table, options of `find`, what is said of row 2.
BAD_ROWS = {
    "text": ({"text": BAD}, {}, r"row 2: 'text' is not UTF-8 \(byte 0xff at place 1\)"),
    "text of a large string": ({"text": strings(b"a", b"b\xc3", b"c", kind=pa.large_string())}, {}, r"'text' is not UTF-8 \(byte 0xc3"),
    "text in a dictionary": ({"text": BAD.dictionary_encode()}, {}, "'text' is not UTF-8"),
    "null text": ({"text": ["a", None, "c"]}, {}, "row 2: 'text' is null, expected a string"),
    "a text as large as no line may be": ({"text": ["a", "x" * (2**24 + 1), "c"]}, {}, "row 2: 'text' is longer than"),
    "kept": ({"text": ["a", "b", "c"], "s": BAD}, {"keep": ["s"]}, "row 2: 's' is not UTF-8"),
    "kept in a list": ({"text": ["a", "b", "c"], "s": pa.ListArray.from_arrays([0, 1, 2, 3], BAD)}, {"keep": ["s"]}, "'s' is not UTF-8"),
    "kept in a struct": ({"text": ["a", "b", "c"], "s": pa.StructArray.from_arrays([BAD], ["x"])}, {"keep": ["s"]}, "'s' is not UTF-8"),
    "id": ({"text": ["a", "b", "c"], "s": BAD}, {"id_column": "s"}, "row 2: 's' is not UTF-8"),
    "null id": ({"text": ["a", "b", "c"], "n": [1, None, 3]}, {"id_column": "n"}, "row 2 has no 'n', which is the id column"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_row_that_cannot_be_read(tmp_path, name):
    columns, options, message = BAD_ROWS[name]
    path = tmp_path / "in.parquet"
    parquet.write_table(pa.table(columns), path, use_dictionary="dictionary" in name)
    for on_error, texts in (("skip", ["a", "c"]), ("null", ["a", None, "c"])):
        blocks = list(JobInputs.find([str(path)], on_error=on_error, **options).blocks([(0, END)]))
        assert [text for block in blocks for text in block.texts] == texts
        assert [item.row for block in blocks for item in block.skipped] == [1]
        for block in blocks:
            block.columns.validate(full=True)
            assert len(block.columns) == len(block.texts)
    with pytest.raises(TextError, match=message) as caught:
        list(JobInputs.find([str(path)], **options).blocks([(0, END)]))
    assert "\n" not in str(caught.value)


ID_TYPES = {
    "list": pa.array([[1], [2]]),
    "struct": pa.array([{"x": 1}, {"x": 2}]),
    "dictionary": pa.array(["p", "q"]).dictionary_encode(),
    "dictionary in a list": pa.ListArray.from_arrays([0, 1, 2], pa.array(["p", "q"]).dictionary_encode()),
    "binary": pa.array([b"\xff", b""]),
    "time": pa.array([1, 2], pa.timestamp("us", "UTC")),
    "decimal": pa.array([1, 2], pa.decimal128(9)),
}


@pytest.mark.parametrize("kind", ID_TYPES)
def test_ids_of_any_type(bundle, tmp_path, kind):
    from cls_runtime.jobs import JobOptions, run_job

    parquet.write_table(pa.table({"text": ["a", "b"], "n": ID_TYPES[kind]}), tmp_path / "in.parquet")
    run_job(bundle, [str(tmp_path / "in.parquet")], str(tmp_path / "out"), options=JobOptions(id_column="n"), progress_bar=False)
    assert parquet.read_table(tmp_path / "out")["id"].to_pylist() == ID_TYPES[kind].to_pylist()


def patched(old, new):
    """A file whose metadata say something else."""
    file = io.BytesIO()
    parquet.write_table(pa.table({"text": ["cat"] * 300, "nme": ["a"] * 300}), file)
    data = file.getvalue()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    assert old in data[footer:]
    return data[:footer] + data[footer:].replace(old, new)


DAMAGED = {
    "a column's name is not UTF-8": patched(b"nme", b"n\xffe"),
    "the text's": patched(b"text", b"t\xffxt"),
    "no rows by its own account": patched(b"\xd8\x04", b"\x00\x80"),  # 300, zigzag
    "more rows than there are": patched(b"\xd8\x04", b"\xda\x04"),
    "cut": patched(b"nme", b"nme")[:-20],
    "a letter": b"P",
    "nothing": b"",
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("options", [{}, {"keep": ["nme"]}], ids=["text", "kept"])
def test_damage_is_one_line(tmp_path, name, options):
    (tmp_path / "in.parquet").write_bytes(DAMAGED[name])
    with pytest.raises(ClsError) as caught:
        list(JobInputs.find([str(tmp_path / "in.parquet")], on_error="skip", **options).blocks([(0, END)]))
    assert "\n" not in str(caught.value)


def test_a_column_that_is_there_twice(tmp_path):
    parquet.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"]), tmp_path / "in.parquet")
    with pytest.raises(UsageError, match="more than one column 'text'"):
        JobInputs.find([str(tmp_path / "in.parquet")])


BOMBS = {
    "one string that all rows name": {"compression": "zstd"},
    "strings that are the one before": {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
}


@pytest.mark.parametrize("name", BOMBS)
def test_blocks_are_bounded_by_bytes(tmp_path, name):
    texts = ["x" * 300_000] * 40
    parquet.write_table(pa.table({"text": texts}), tmp_path / "in.parquet", **BOMBS[name])
    with TextFile.named(str(tmp_path / "in.parquet")).rows(Columns()) as reader:
        blocks = []
        while (rows := reader.take(1024)).texts:
            blocks.append(rows.texts)
    assert [text for block in blocks for text in block] == texts
    assert max(sum(map(len, block)) for block in blocks) <= BLOCK_BYTES


def test_what_unpacks_to_too_much_is_refused_by_its_own_account(tmp_path):
    wide = pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array(["x" * (2**26 + 1)]))
    parquet.write_table(pa.table({"text": wide}), tmp_path / "wide.parquet", compression="zstd")
    with pytest.raises(
        TextError, match=r"has a dictionary of 67,\d+,\d+ bytes, more than .*; write the file again with smaller row groups"
    ):
        list(JobInputs.find([str(tmp_path / "wide.parquet")], on_error="skip").blocks([(0, END)]))


@pytest.mark.parametrize("start", [1, 699, 700, 701, 1500, 2999])
def test_blocks_do_not_depend_on_where_reading_began(tmp_path, start):
    """Shards made after an interruption have the bytes of those of an undisturbed job."""
    texts = [f"{row} " + "x" * (row % 7) * 1000 for row in range(3000)]
    parquet.write_table(pa.table({"text": texts}), tmp_path / "in.parquet", row_group_size=700)
    inputs = JobInputs.find([str(tmp_path / "in.parquet")])
    after = [block.texts for block in inputs.blocks([(start, END)])]
    whole = [block.texts for block in inputs.blocks([(0, start), (start, END)]) if block.start >= start]
    assert after == whole
    assert [text for block in after for text in block] == texts[start:]
