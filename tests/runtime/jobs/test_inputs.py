"""Files, folders, globs: which rows a job sees, from any row on."""

import gzip
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from cls_runtime.errors import TextError, UsageError
from cls_runtime.jobs.inputs import END, JobInputs
from cls_runtime.jobs.names import expand


def rows_of(inputs, ranges=((0, END),), **options):
    return [(int(row), text) for block in inputs.blocks(ranges, **options) for row, text in zip(block.rows, block.texts, strict=True)]


def find(*names, **options):
    return JobInputs.find([str(name) for name in names], **options)


@pytest.fixture
def folder(tmp_path):
    """Ten rows, t0 to t9, in every format, compressed and not; and files that are none of a corpus."""
    base = tmp_path / "corpus"
    (base / "deep").mkdir(parents=True)
    (base / "a.txt").write_text("t0\nt1\n")
    (base / "b.csv.gz").write_bytes(gzip.compress(b"id,text\n1,t2\n\n2,t3\n"))
    with pa.CompressedOutputStream(str(base / "c.jsonl.zst"), "zstd") as file:
        file.write(b'{"text": "t4"}\n\n"t5"\n')
    parquet.write_table(pa.table({"text": ["t6", "t7", "t8"]}), base / "deep" / "d.parquet", row_group_size=2)
    (base / "deep" / "e.TXT.GZ").write_bytes(gzip.compress(b"t9"))
    for ignored in ("_SUCCESS", ".hidden.txt", "_old.txt", "notes.md", "deep/x.parquet.gz"):
        (base / ignored).write_text("not a text\n")
    return base


EVERY_ROW = [(row, f"t{row}") for row in range(10)]


def test_a_folder_is_all_its_files_by_name(folder):
    assert rows_of(find(folder)) == EVERY_ROW


def test_globs_and_files_in_the_order_given(folder):
    assert [text for _, text in rows_of(find(folder / "deep" / "[de]*", folder / "a.txt"))] == ["t6", "t7", "t8", "t9", "t0", "t1"]
    assert [text for _, text in rows_of(find(folder / "**" / "*.parquet"))] == ["t6", "t7", "t8"]


@pytest.mark.parametrize(("start", "stop"), [(start, stop) for start in range(10) for stop in range(start + 1, 12)])
def test_any_range(folder, start, stop):
    assert rows_of(find(folder), [(start, stop)]) == EVERY_ROW[start:stop]


@given(cuts=st.sets(st.integers(0, 3000), min_size=2, max_size=8))
def test_ranges_of_a_parquet_file(tmp_path_factory, cuts):
    path = tmp_path_factory.getbasetemp() / "ranges.parquet"
    if not path.exists():
        parquet.write_table(pa.table({"text": [f"t{row}" for row in range(3000)]}), path, row_group_size=700)
    edges = sorted(cuts)
    ranges = list(zip(edges[::2], edges[1::2], strict=False))
    inputs = find(path)
    assert [row for row, _ in rows_of(inputs, ranges)] == [row for start, stop in ranges for row in range(start, stop)]
    assert all(block.part <= block.start < block.stop for block in inputs.blocks(ranges))
    assert {block.part for block in inputs.blocks(ranges)} == {start for start, stop in ranges if start < 3000}


def test_the_files_of_a_range_alone_give_the_same_rows(tmp_path):
    counts = (3, 0, 5, 1)
    for place, count in enumerate(counts):
        parquet.write_table(
            pa.table({"text": pa.array([f"{place}{row}" for row in range(count)], pa.string())}), tmp_path / f"{place}.parquet"
        )
    inputs = find(tmp_path)
    assert inputs.row_counts() == counts
    whole = rows_of(inputs)
    for start in range(9):
        for stop in range(start + 1, 10):
            part, first_row = inputs.between(counts, start, stop)
            assert rows_of(part, [(start, stop)], first_row=first_row) == whole[start:stop]


@pytest.mark.parametrize(
    ("name", "message"),
    [("empty", "the folder holds no .txt"), ("*.nothing", "the pattern matches no .txt"), ("a.pdf", "texts are read from")],
)
def test_names_that_stand_for_nothing(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=message):
        find(tmp_path / name)


def test_a_file_whose_name_looks_like_a_pattern(tmp_path):
    (tmp_path / "a[1].txt").write_text("cat\n")
    assert expand(str(tmp_path / "a[1].txt")) == [str(tmp_path / "a[1].txt")]


def columns_of(*names, **options):
    return pa.Table.from_batches([block.columns for block in find(*names, **options).blocks([(0, END)])])


JSON_COLUMNS = [
    ([1, 2], pa.int64(), [1, 2]),
    ([1, 2.5], pa.float64(), [1.0, 2.5]),
    ([True, None], pa.bool_(), [True, None]),
    (["a", None], pa.string(), ["a", None]),
    ([1, "a"], pa.string(), ["1", "a"]),
    ([{"x": 1}, [2]], pa.string(), ['{"x": 1}', "[2]"]),
    ([None, None], pa.string(), [None, None]),
    ([1, True], pa.string(), ["1", "true"]),
    ([1.5, True], pa.string(), ["1.5", "true"]),
    ([2**63 - 1, -(2**63)], pa.int64(), [2**63 - 1, -(2**63)]),
    ([1, 2**63], pa.string(), ["1", str(2**63)]),
    ([0.5, 2**53], pa.float64(), [0.5, 2.0**53]),
    ([0.5, 2**53 + 1], pa.string(), ["0.5", str(2**53 + 1)]),
]


@pytest.mark.parametrize(("values", "kind", "kept"), JSON_COLUMNS)
def test_the_types_of_json_columns(tmp_path, values, kind, kept):
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": "t", "c": value}) + "\n" for value in values))
    column = columns_of(tmp_path / "in.jsonl", keep=["c"])["c"]
    assert (column.type, column.to_pylist()) == (kind, kept)


@pytest.mark.parametrize(
    ("first", "value"),
    [
        ("1", "1" + "0" * 300),
        ("1.5", '"a"'),
        ('"a"', '"\\ud800"'),
        ("[1]", "[NaN]"),
        ("[1]", '["\\ud800"]'),
        ("1", "[" * 900 + "]" * 900),
        ("1", "2.5"),
        ("1", "-0.7"),
        ("1", "2.0"),
        ("1", "true"),
        ("1", '"2"'),
        ("1", str(2**63)),
        ("1.5", "true"),
        ("1.5", str(2**53 + 1)),
        ("true", "1"),
        ("true", '"yes"'),
        ('"a"', "1"),
        ('"a"', "true"),
        ('"a"', '["b"]'),
    ],
)
def test_a_kept_value_that_does_not_fit_is_a_bad_row(tmp_path, first, value):
    filler = f'{{"text": "t", "c": {first}}}\n' * 1000
    (tmp_path / "in.jsonl").write_text(f'{filler}{{"text": "bad", "c": {value}}}\n{{"text": "last", "c": {first}}}\n')
    (skipped,) = [item for block in find(tmp_path / "in.jsonl", keep=["c"], on_error="skip").blocks([(0, END)]) for item in block.skipped]
    assert skipped.row == 1000
    assert "line 1001: 'c' is " in skipped.reason
    assert skipped.reason.endswith("as in the first 1,000 records, which decide the column's type; give all of them one type")
    assert len(skipped.reason) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("first", "value", "kept"),
    [
        ("null", "2.5", "2.5"),
        ("null", "-0.7", "-0.7"),
        ("null", "true", "true"),
        ("null", '"2.5"', "2.5"),
        ("null", str(2**64), str(2**64)),
        ('"a", "d": 1', "2.5", None),
        ('[1], "d": 1', "2.5", "2.5"),
        ('1.5, "d": 1', "2", 2.0),
    ],
)
def test_a_value_behind_the_first_thousand_is_kept_or_ends_the_job(tmp_path, first, value, kept):
    filler = f'{{"text": "t", "c": {first}}}\n' * 1000
    (tmp_path / "in.jsonl").write_text(f'{filler}{{"text": "t", "c": {value}}}\n')
    if kept is None:
        with pytest.raises(TextError, match=r"line 1001: 'c' is 2.5, expected string as in the first 1,000 records"):
            columns_of(tmp_path / "in.jsonl", keep=["c"])
    else:
        assert columns_of(tmp_path / "in.jsonl", keep=["c"])["c"].to_pylist()[1000] == kept


def test_an_id_that_changes_its_type_ends_the_job(tmp_path):
    lines = [f'{{"text": "t", "n": {row}}}\n' for row in range(1000)]
    for value in ("2.5", "-0.7", "true", '"k"'):
        (tmp_path / "in.jsonl").write_text("".join(lines) + f'{{"text": "t", "n": {value}}}\n')
        with pytest.raises(TextError, match=r"line 1001: 'n' is .*, expected int64 as in the first 1,000 records"):
            columns_of(tmp_path / "in.jsonl", id_column="n")


@pytest.mark.parametrize("value", ["2.5", "-0.7", "1e3", "007", "true", "", str(2**70)])
def test_a_kept_value_of_csv_is_its_letters(tmp_path, value):
    (tmp_path / "in.csv").write_text("text,c\n" + "t,1\n" * 1000 + f"t,{value}\n")
    assert columns_of(tmp_path / "in.csv", keep=["c"])["c"].to_pylist()[1000] == value


def test_a_dot_reaches_into_an_object_of_json(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"doc": {"text": "a", "n": 1}}\n{"doc": {"text": "b"}, "doc.n": 2}\n')
    inputs = find(tmp_path / "in.jsonl", column="doc.text", keep=["doc.n"])
    assert [text for _, text in rows_of(inputs)] == ["a", "b"]
    assert columns_of(tmp_path / "in.jsonl", column="doc.text", keep=["doc.n"])["doc.n"].to_pylist() == [1, 2]
    with pytest.raises(UsageError, match=r"column 'doc.m' is in none of the first 2 records"):
        find(tmp_path / "in.jsonl", column="doc.text", keep=["doc.m"])


JSON_PAIRS = [
    ('{"text": ["a", "b"]}', ("a", "b")),
    ('["a", "b"]', ("a", "b")),
    ('{"text": ["a"]}', r"'text' is a JSON array of 1, expected a string or a pair of strings"),
    ('["a", "b", "c"]', r"'text' is a JSON array of 3"),
    ('{"text": ["a", null]}', r"'text' \[1\] is a JSON null, expected a string"),
    ('{"text": ["\\ud800", "b"]}', r"has a lone surrogate U\+D800"),
    ('{"text": 1}', r"'text' is a JSON number, expected a string or a pair of strings"),
    ("1", r"is a JSON number, expected an object with 'text', or a string or a pair of strings"),
]


@pytest.mark.parametrize(("line", "expected"), JSON_PAIRS)
def test_two_strings_of_json_are_a_pair(tmp_path, line, expected):
    (tmp_path / "in.jsonl").write_text(f"{line}\n")
    if isinstance(expected, tuple):
        assert rows_of(find(tmp_path / "in.jsonl")) == [(0, expected)]
    else:
        with pytest.raises(TextError, match=expected):
            rows_of(find(tmp_path / "in.jsonl"))


def test_a_delimiter_without_csv_would_do_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("cat\n")
    (tmp_path / "b.csv").write_text("n;text\n1;dog\n")
    with pytest.raises(UsageError, match=r"--delimiter goes with \.csv files; found .*a\.txt"):
        find(tmp_path / "a.txt", delimiter=",")
    assert rows_of(find(tmp_path / "a.txt", tmp_path / "b.csv", delimiter=";")) == [(0, "cat"), (1, "dog")]


def test_a_kept_column_whose_name_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "in.csv").write_bytes(b"text,caf\xe9\nt,1\n")
    with pytest.raises(UsageError, match="--keep caf.*: the name is not UTF-8, as that of a Parquet column must be; rename it"):
        find(tmp_path / "in.csv", keep=["caf\udce9"])
    assert columns_of(tmp_path / "in.csv", id_column="caf\udce9")["id"].to_pylist() == ["1"]


def test_a_json_column_that_some_records_lack_is_null_there(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "t"}\n"u"\n')
    (tmp_path / "b.jsonl").write_text('{"text": "v"}\n{"text": "w", "n": 1}\n')
    assert columns_of(tmp_path / "a.jsonl", tmp_path / "b.jsonl", keep=["n"])["n"].to_pylist() == [None, None, None, 1]


def test_a_json_column_that_no_record_has_is_refused(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"text": "t", "title": 1}\n"u"\n')
    with pytest.raises(UsageError, match=r"column 'titel' is in none of the first 2 records of .*a.jsonl, only 'text', 'title'"):
        find(tmp_path / "a.jsonl", keep=["titel"])
    with pytest.raises(UsageError, match=r"column 'titel' is in none of the first 4 records of 2 files, only 'text', 'title'"):
        find(tmp_path / "a.jsonl", tmp_path / "b.jsonl", keep=["title", "titel"])
    (tmp_path / "empty.jsonl").touch()
    assert columns_of(tmp_path / "empty.jsonl", tmp_path / "a.jsonl", keep=["title"])["title"].to_pylist() == [1, None]
    assert find(tmp_path / "empty.jsonl", keep=["titel"]).files


def test_parquet_columns_keep_their_types(tmp_path):
    table = pa.table(
        {
            "text": ["a", "b"],
            "when": pa.array([1, 2], pa.timestamp("us")),
            "tags": pa.array([["x"], []], pa.list_(pa.string())),
            "kind": pa.array(["p", "q"]).dictionary_encode(),
        }
    )
    parquet.write_table(table, tmp_path / "in.parquet")
    kept = columns_of(tmp_path / "in.parquet", id_column="when", keep=["tags", "kind"])
    assert kept.schema.names == ["id", "tags", "kind"]
    assert kept["id"].type == pa.timestamp("us")
    assert kept["tags"].to_pylist() == [["x"], []]
    assert (kept["kind"].type, kept["kind"].to_pylist()) == (pa.string(), ["p", "q"])


def test_files_that_disagree_about_a_type(tmp_path):
    parquet.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("text,n\nb,2\n")
    with pytest.raises(UsageError, match=r"column 'n' is int64 in .*a\.parquet and string in .*b\.csv; give them one type"):
        find(tmp_path / "a.parquet", tmp_path / "b.csv", keep=["n"])


def test_plain_text_has_no_other_columns(tmp_path):
    (tmp_path / "a.txt").write_text("cat\n")
    with pytest.raises(UsageError, match="plain text, it has no column 'n'"):
        find(tmp_path / "a.txt", keep=["n"])
    assert columns_of(tmp_path / "a.txt", keep=["text"])["text"].to_pylist() == ["cat"]


def test_a_missing_id_is_a_bad_row(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "a", "n": 1}\n{"text": "b"}\n')
    with pytest.raises(TextError, match="line 2 has no 'n', which is the id column"):
        columns_of(tmp_path / "in.jsonl", id_column="n")


def test_null_texts_of_parquet(tmp_path):
    parquet.write_table(pa.table({"text": ["a", None, "c"], "n": [1, 2, 3]}), tmp_path / "in.parquet")
    with pytest.raises(TextError, match=r"in\.parquet row 2: 'text' is null"):
        rows_of(find(tmp_path / "in.parquet"))
    assert rows_of(find(tmp_path / "in.parquet", on_error="skip")) == [(0, "a"), (2, "c")]
    assert rows_of(find(tmp_path / "in.parquet", on_error="null")) == [(0, "a"), (1, None), (2, "c")]
    assert columns_of(tmp_path / "in.parquet", keep=["n"], on_error="skip")["n"].to_pylist() == [1, 3]


def test_a_damaged_row_group_is_named(tmp_path):
    path = tmp_path / "in.parquet"
    parquet.write_table(pa.table({"text": [f"{row} cat" for row in range(4000)]}), path, row_group_size=2000, compression="zstd")
    data = bytearray(path.read_bytes())
    offset = parquet.read_metadata(path).row_group(1).column(0).data_page_offset
    data[offset : offset + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(TextError, match=r"in\.parquet is damaged after row"):
        rows_of(find(path))


def test_the_fraction_read_grows_to_one(tmp_path):
    (tmp_path / "a.txt").write_text("cat\n" * 5000)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'"cat"\n' * 5000))
    fractions = [block.fraction for block in find(tmp_path).blocks([(0, END)])]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)


def test_lines_are_read_as_they_are_needed(tmp_path):
    (tmp_path / "a.txt").write_text("cat\n" * 5000 + "dog\n")
    blocks = find(tmp_path / "a.txt").blocks([(0, END)])
    assert len(next(blocks).texts) == 1024
    blocks.close()
