"""Parquet that is not what it should be, and Parquet that unpacks to far more than it is."""

import io
import sys

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

from cls_runtime.errors import ClsError, MissingExtraError, TextError, UsageError  # noqa: E402
from cls_runtime.jobs.inputs import END, JobInputs  # noqa: E402
from cls_runtime.reading.parquet_files import require_pyarrow  # noqa: E402
from cls_runtime.reading.rows import BLOCK_BYTES, Columns  # noqa: E402
from cls_runtime.reading.text_files import TextFile, read_texts  # noqa: E402


def test_a_pyarrow_that_cannot_be_imported_is_not_called_missing(monkeypatch):
    class LacksMemory:
        def find_spec(self, name, path, target=None):
            if name == "pyarrow":
                raise ImportError("libarrow.so: failed to map segment from shared object")

    monkeypatch.delitem(sys.modules, "pyarrow")
    monkeypatch.setattr(sys, "meta_path", [LacksMemory(), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=r"a need pyarrow, which is installed but cannot be imported \(libarrow.so: failed to map"):
        require_pyarrow("a")


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


PAIRS = [["a", "b"], ["c", ""]]
PAIR_TYPES = {
    "list": pa.list_(pa.string()),
    "large list": pa.large_list(pa.large_string()),
    "fixed-size list": pa.list_(pa.string(), 2),
    "list view": pa.list_view(pa.string()),
    "large list view": pa.large_list_view(pa.large_string()),
    "views": pa.list_(pa.string_view()),
    "dictionary in a list": pa.list_(pa.dictionary(pa.int32(), pa.string())),
}


def written(folder, **columns):
    parquet.write_table(pa.table(columns), folder / "in.parquet")
    return str(folder / "in.parquet")


@pytest.mark.parametrize("kind", PAIR_TYPES)
def test_a_list_of_two_strings_is_a_pair(bundle, tmp_path, kind):
    from cls_runtime import Encoder
    from cls_runtime.jobs import JobOptions, run_job

    path = written(tmp_path, text=pa.array(PAIRS, PAIR_TYPES[kind]))
    assert [text for block in JobInputs.find([path]).blocks([(0, END)]) for text in block.texts] == [("a", "b"), ("c", "")]
    run_job(bundle, [path], str(tmp_path / "out"), options=JobOptions(keep=("text",)), progress_bar=False)
    rows = parquet.read_table(tmp_path / "out").to_pydict()
    assert rows["text"] == PAIRS
    with Encoder.load(bundle) as encoder:
        np.testing.assert_array_equal(rows["embedding"], encoder.encode([("a", "b"), ("c", "")]))


BAD_PAIR = strings(b"a", b"b", b"c", b"\xff", b"d", b"e")
# name: a column whose first and last rows are pairs, what is said of the one between.
BAD_PAIRS = {
    "one": (pa.array([["a", "b"], ["c"], ["d", "e"]]), "row 2: 'text' is a list of 1, expected two strings, a pair"),
    "three": (pa.array([["a", "b"], ["c"] * 3, ["d", "e"]], pa.list_view(pa.string())), "'text' is a list of 3, expected two"),
    "none": (pa.array([["a", "b"], [], ["d", "e"]], pa.large_list(pa.string())), "'text' is a list of 0, expected two"),
    "null": (pa.array([["a", "b"], None, ["d", "e"]]), "'text' is null, expected a string or a pair of strings"),
    "null in it": (pa.array([["a", "b"], ["c", None], ["d", "e"]], pa.list_(pa.string(), 2)), r"'text' \[1\] is null, expected a string"),
    "bytes": (
        pa.ListArray.from_arrays([0, 2, 4, 6], BAD_PAIR),
        r"'text' \[1\] is not UTF-8 \(byte 0xff at place 1\); write the file again",
    ),
    "too long": (pa.array([["a", "b"], ["c", "x" * (2**24 + 1)], ["d", "e"]]), r"'text' \[1\] is longer than 16,777,216 bytes"),
}


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_a_list_that_is_no_pair_is_a_bad_row(tmp_path, name):
    column, message = BAD_PAIRS[name]
    path = written(tmp_path, text=column)
    blocks = list(JobInputs.find([path], on_error="null").blocks([(0, END)]))
    assert [text for block in blocks for text in block.texts] == [("a", "b"), None, ("d", "e")]
    with pytest.raises(TextError, match=message):
        list(JobInputs.find([path]).blocks([(0, END)]))


@pytest.mark.parametrize(
    ("kind", "values"),
    [(pa.list_(pa.string(), 3), [["a"] * 3]), (pa.list_(pa.int64()), [[1, 2]]), (pa.list_(pa.list_(pa.string())), [[["a"]]])],
)
def test_a_list_column_that_can_hold_no_pairs_is_refused_at_once(tmp_path, kind, values):
    with pytest.raises(UsageError, match=r"column 'text' is .*list<.*, expected string or a list of two strings"):
        JobInputs.find([written(tmp_path, text=pa.array(values, kind))])


def test_where_pairs_are_no_texts_a_list_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"column 'text' is list<.*, expected string$"):
        read_texts([written(tmp_path, text=PAIRS)])


INNER = pa.array([{"text": "inner", "n": 1, "tags": ["x"]}, {"text": "deep", "n": 2, "tags": []}])
# name: columns, options of `find`, the texts, the values of the first kept column.
STRUCTS = {
    "a field": ({"doc": INNER}, {"column": "doc.text"}, ["inner", "deep"], None),
    "a field of a field": ({"a": pa.StructArray.from_arrays([INNER], ["doc"])}, {"column": "a.doc.text"}, ["inner", "deep"], None),
    "a column with a dot": ({"doc": INNER, "doc.text": ["real", "own"]}, {"column": "doc.text"}, ["real", "own"], None),
    "a struct with a dot": ({"a.b": INNER, "a": ["x", "y"]}, {"column": "a.b.text"}, ["inner", "deep"], None),
    "kept": ({"text": ["a", "b"], "doc": INNER}, {"keep": ["doc.n"]}, ["a", "b"], [1, 2]),
    "kept list": ({"text": ["a", "b"], "doc": INNER}, {"keep": ["doc.tags"]}, ["a", "b"], [["x"], []]),
    "kept whole": ({"doc": INNER}, {"column": "doc.text", "keep": ["doc"]}, ["inner", "deep"], INNER.to_pylist()),
    "id": ({"doc": INNER}, {"column": "doc.text", "id_column": "doc.n"}, ["inner", "deep"], [1, 2]),
    "dictionary": (
        {"doc": pa.StructArray.from_arrays([pa.array(["p", "q"]).dictionary_encode()], ["kind"])},
        {"column": "doc.kind", "keep": ["doc.kind"]},
        ["p", "q"],
        ["p", "q"],
    ),
}


@pytest.mark.parametrize("name", STRUCTS)
def test_a_dot_reaches_into_a_struct(tmp_path, name):
    columns, options, texts, kept = STRUCTS[name]
    blocks = list(JobInputs.find([written(tmp_path, **columns)], **options).blocks([(0, END)]))
    assert [text for block in blocks for text in block.texts] == texts
    if kept is not None:
        assert blocks[0].columns.column("id" if "id_column" in options else options["keep"][0]).to_pylist() == kept


def test_a_null_struct_has_no_text(tmp_path):
    """Also where a value is stored behind the null."""
    masked = pa.StructArray.from_arrays([pa.array(["a", "hidden"])], ["text"], mask=pa.array([False, True]))
    with pytest.raises(TextError, match=r"row 2: 'doc.text' is null"):
        list(JobInputs.find([written(tmp_path, doc=masked)], column="doc.text").blocks([(0, END)]))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("doc", r"column 'doc' is struct<.*, expected string .*; choose one of its fields with --column doc.NAME"),
        ("doc.body", "no column 'doc.body'; its columns are 'id', 'doc.text', 'doc.n', 'doc.tags'; choose one with --column"),
        ("doc.n", "column 'doc.n' is int64, expected string"),
        ("id.", "no column 'id.'"),
        ("doc.tags.element", "no column 'doc.tags.element'"),
        ("twice.a", "more than one column 'twice.a'; its columns are .* rename one of them"),
    ],
)
def test_what_a_dot_does_not_reach_in_parquet(tmp_path, column, message):
    columns = {"id": [1, 2], "doc": INNER}
    if column == "twice.a":
        columns["twice"] = pa.StructArray.from_arrays([pa.array(["a", "b"])] * 2, ["a", "a"])
    with pytest.raises(UsageError, match=message):
        JobInputs.find([written(tmp_path, **columns)], column=column)


def test_other_columns_of_one_name_do_not_matter(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array(["a"]), pa.array(["b"])], names=["n", "text", "n"])
    parquet.write_table(table, tmp_path / "in.parquet")
    (block,) = JobInputs.find([str(tmp_path / "in.parquet")]).blocks([(0, END)])
    assert block.texts == ["a"]


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


def naming(string, *lengths):
    """Lists of so many strings, which are all the same one."""
    indices = pa.array(np.zeros(sum(lengths), np.int32))
    return pa.ListArray.from_arrays(np.cumsum([0, *lengths]).astype(np.int32), pa.DictionaryArray.from_arrays(indices, pa.array([string])))


BIG = naming("x" * 5_000_000, 2, 1000)
# name: a column whose second row names one string a thousand times.
BIG_ROWS = {
    "list": BIG,
    "list of lists": pa.ListArray.from_arrays([0, 1, 2], BIG),
    "struct": pa.StructArray.from_arrays([BIG], ["x"]),
    "map": pa.MapArray.from_arrays([0, 2, 1002], pa.array(np.arange(1002)), BIG.values),
}


@pytest.mark.parametrize("name", BIG_ROWS)
def test_a_row_that_names_a_large_string_often_is_refused_before_it_is_made(tmp_path, name):
    """Arrow itself would allocate 5 GB."""
    path = str(tmp_path / "in.parquet")
    parquet.write_table(pa.table({"text": ["a", "b"], "s": BIG_ROWS[name]}), path, compression="zstd", store_schema=False)
    peak = pa.default_memory_pool().max_memory()
    with pytest.raises(TextError, match=r"row 2: 's' has 5,000,\d+,\d+ bytes, more than 67,108,864; shorten its list, .* again$"):
        list(JobInputs.find([path], keep=["s"], on_error="skip").blocks([(0, END)]))
    assert pa.default_memory_pool().max_memory() < max(peak + 1, 2**30)
    if name == "list":
        with pytest.raises(TextError, match=r"row 2: 's' has 5,000,"):
            list(JobInputs.find([path], column="s", on_error="skip").blocks([(0, END)]))


def test_lists_that_name_a_large_string_come_in_blocks_bounded_by_bytes(bundle, tmp_path):
    from cls_runtime.jobs import JobOptions, run_job

    path = str(tmp_path / "in.parquet")
    parquet.write_table(pa.table({"text": ["a"] * 40, "s": naming("x" * 30_000, *[20] * 40)}), path, store_schema=False)
    sizes = [block.columns.nbytes for block in JobInputs.find([path], keep=["s"]).blocks([(0, END)])]
    assert len(sizes) == 40
    assert max(sizes) < BLOCK_BYTES
    run_job(bundle, [path], str(tmp_path / "out"), options=JobOptions(keep=("s",)), progress_bar=False)
    kept = parquet.read_table(tmp_path / "out")["s"]
    assert kept.type == pa.list_(pa.field("element", pa.string()))
    assert kept.to_pylist() == [["x" * 30_000] * 20] * 40


def test_too_many_strings_in_a_list_are_refused_by_their_own_account(tmp_path):
    path = str(tmp_path / "in.parquet")
    parquet.write_table(pa.table({"text": ["a"], "s": naming("", 2**25 + 1)}), path, compression="zstd", store_schema=False)
    with pytest.raises(
        TextError, match=r"column 's.list.element' in row group 0 unpacks from \d+ to 134,\d+,\d+ bytes, more than 200 times"
    ):
        list(JobInputs.find([path], keep=["s"]).blocks([(0, END)]))


INNER_TYPE = pa.struct([("a", pa.list_view(pa.string_view())), ("b", pa.list_(pa.string(), 2))])
LISTS = [["a", "b"], None, ["c", None], ["d", "d"]]
# name: the type of a kept column, its values.
KEPT_LISTS = {
    **{name: (kind, LISTS) for name, kind in PAIR_TYPES.items()},
    "bytes": (pa.list_(pa.binary()), [[b"\xff", b""], None, [None], []]),
    "bytes of one size": (pa.list_(pa.binary(2)), [[b"aa", b"bb", b"aa"], None, [None], []]),
    "lists of lists": (pa.list_(pa.list_(pa.string())), [[["a"], ["b", "c"]], None, [], [None, [None]]]),
    "map": (pa.map_(pa.string(), pa.list_(pa.string())), [[("a", ["b", "c"])], None, [], [("c", None)]]),
    "structs in views": (pa.list_view(INNER_TYPE), [[{"a": ["x", "y"], "b": ["1", "2"]}, None], None, [], [{"a": None, "b": None}]]),
}


@pytest.mark.parametrize(
    "stored", [{}, {"dictionary_pagesize_limit": 8, "data_page_size": 8}, {"use_dictionary": False}, {"store_schema": False}]
)
@pytest.mark.parametrize("name", KEPT_LISTS)
def test_lists_of_strings_are_kept_as_they_are(tmp_path, name, stored):
    kind, values = KEPT_LISTS[name]
    path = str(tmp_path / "in.parquet")
    parquet.write_table(pa.table({"text": ["a"] * 12, "s": pa.array(values * 3, kind)}), path, write_batch_size=2, **stored)
    expected = parquet.ParquetFile(path).schema_arrow.field("s").type
    for start in (0, 5):
        blocks = list(JobInputs.find([path], keep=["s"]).blocks([(start, start + 3), (start + 3, END)]))
        for block in blocks:
            block.columns.validate(full=True)
            assert block.columns.column("s").type == expected
        assert [value for block in blocks for value in block.columns.column("s").to_pylist()] == (values * 3)[start:]


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_lists_of_strings_that_arrow_cannot_read_into_dictionaries(tmp_path, encoding):
    path = str(tmp_path / "in.parquet")
    parquet.write_table(pa.table({"text": PAIRS}), path, use_dictionary=False, column_encoding={"text.list.element": encoding})
    (block,) = JobInputs.find([path]).blocks([(0, END)])
    assert block.texts == [("a", "b"), ("c", "")]


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
