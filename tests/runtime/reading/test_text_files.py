import gzip
import io
import json
import os
import sys
import threading
from types import SimpleNamespace

import pytest

from cls_runtime.errors import MissingExtraError, TextError, UsageError
from cls_runtime.reading import lines
from cls_runtime.reading.text_files import read_texts


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"", []),
        (b"one", ["one"]),
        (b"one\n", ["one"]),
        (b"one\n\n", ["one", ""]),
        (b"\n", [""]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),
        (b"  spaces \t\n", ["  spaces \t"]),
        ("line\u2028separator\x0b\x0c\x85 and \r inside\n".encode(), ["line\u2028separator\x0b\x0c\x85 and \r inside"]),
        (b"a\0b\n", ["a\0b"]),
        (b"last line keeps its carriage return\r", ["last line keeps its carriage return\r"]),
    ],
)
def test_a_line_of_txt_is_a_text(tmp_path, content, texts):
    assert list(read_texts([write(tmp_path / "in.txt", content)])) == texts


def test_bad_utf8_names_file_and_line(tmp_path):
    path = write(tmp_path / "in.txt", b"good\nb\xe4d\n")
    texts = read_texts([path])
    assert next(texts) == "good"
    with pytest.raises(TextError, match=r"in\.txt line 2 is not UTF-8 \(byte 0xe4 at place 2\); .* iconv -f CP1252 -t UTF-8"):
        next(texts)


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    with pytest.raises(TextError, match="line 2 is longer than 100 bytes"):
        list(read_texts([write(tmp_path / "in.txt", b"a\n" + b"x" * 101)]))
    assert list(read_texts([write(tmp_path / "in.txt", b"x" * 100)])) == ["x" * 100]


def test_jsonl_reads_objects_and_strings(tmp_path):
    lines = [json.dumps({"text": "a\nb", "id": 1}), "", '"bare"', "   ", json.dumps({"text": ""})]
    assert list(read_texts([write(tmp_path / "in.jsonl", "\n".join(lines))])) == ["a\nb", "bare", ""]
    path = write(tmp_path / "other.JSONL", '{"body": "x"}\n')
    assert list(read_texts([path], column="body")) == ["x"]


NESTED = '{"id": 1, "doc": {"text": "inner", "meta": {"lang": "en"}}}'
# name: a line of JSON, a column, its text.
REACHED = {
    "a field of an object": (NESTED, "doc.text", "inner"),
    "deeper": (NESTED, "doc.meta.lang", "en"),
    "a key with a dot": ('{"doc.text": "real", "doc": {"text": "inner"}}', "doc.text", "real"),
    "an object under a key with a dot": ('{"a.b": {"c": "real"}, "a": {"b": {"c": "inner"}}}', "a.b.c", "real"),
    "a key with a dot within an object": ('{"a": {"b.c": "inner"}}', "a.b.c", "inner"),
    "past what is no object": ('{"a.b": 1, "a": {"b": {"c": "inner"}}}', "a.b.c", "inner"),
    "a name that is also elsewhere": ('{"text": "x", "doc": {"text": "inner"}}', "doc.text", "inner"),
    "a name that begins with a dot": ('{".a": "real"}', ".a", "real"),
    "a field without a name": ('{"a": {"": "inner"}}', "a.", "inner"),
}


@pytest.mark.parametrize("name", REACHED)
def test_a_dot_reaches_into_an_object(tmp_path, name):
    line, column, text = REACHED[name]
    assert list(read_texts([write(tmp_path / "in.jsonl", line)], column=column)) == [text]


def test_a_dot_behind_a_name_is_another_name(tmp_path):
    with pytest.raises(TextError, match=r"has no 'text\.', only 'text'"):
        list(read_texts([write(tmp_path / "in.jsonl", '{"text": "a"}')], column="text."))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (NESTED, r"has no 'doc.body', only 'id', 'doc.text', 'doc.meta'; choose one with --column"),
        ('{"doc": {}, "other": [1]}', "has no 'doc.body', only 'doc', 'other'"),
        ('{"doc.": "a", "doc": "b"}', "has no 'doc.body', only 'doc.', 'doc'"),
        ('{"doc": null}', "has no 'doc.body', only 'doc'"),
        ('{"doc": {"body": 1}}', "'doc.body' is a JSON number, expected a string"),
        ('{"doc": {"body": "a", "body": "b"}}', "has 'body' twice"),
        ('{"doc": {"body": "a"}, "doc": {"body": "b"}}', "has 'doc' twice"),
    ],
)
def test_what_a_dot_does_not_reach(tmp_path, line, message):
    with pytest.raises(TextError, match=message):
        list(read_texts([write(tmp_path / "in.jsonl", line)], column="doc.body"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
        ("[1]", "line 2 is a JSON array, expected an object with 'text', or a string"),
        ("null", "is a JSON null"),
        ("1.5", "is a JSON number"),
        ('{"body": 1, "id": 2}', "has no 'text', only 'body', 'id'; choose one with --column"),
        ("{}", "only none"),
        ('{"text": null}', "'text' is a JSON null, expected a string"),
        ('{"text": true}', "'text' is a JSON boolean"),
        ('{"text": "a\\ud800"}', r"line 2 has a lone surrogate U\+D800 at character 1, which is no Unicode character"),
        ('{"text": "a", "id": 1, "text": "b"}', "line 2 has 'text' twice"),
        ('{"te\\u0078t": "a", "text": "b"}', "line 2 has 'text' twice"),
        ('{"text": "a", "n": 1' + "0" * 5000 + "}", "line 2 is not JSON"),
        ('{"text": "' + "x" * 2**24 + '"}', "line 2 is longer than 16,777,216 bytes"),
        ("\ufeff" + '"a"', "line 2 is not JSON"),
        ('"\\udfff"', r"line 2 has a lone surrogate U\+DFFF at character 0"),
    ],
)
def test_bad_jsonl_names_the_line(tmp_path, line, message):
    path = write(tmp_path / "in.jsonl", f'"fine"\n{line}\n')
    with pytest.raises(TextError, match=message) as caught:
        list(read_texts([path]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
@pytest.mark.parametrize(
    ("encoding", "mark", "name", "first"),
    [
        ("utf-16-le", "\ufeff", "UTF-16", "0xff 0xfe"),
        ("utf-16-be", "\ufeff", "UTF-16", "0xfe 0xff"),
        ("utf-16-le", "", "UTF-16LE", "0x22 0x00 0x63 0x00"),
        ("utf-16-be", "", "UTF-16BE", "0x00 0x22 0x00 0x63"),
        ("utf-32-le", "\ufeff", "UTF-32", "0xff 0xfe 0x00 0x00"),
        ("utf-32-be", "\ufeff", "UTF-32", "0x00 0x00 0xfe 0xff"),
        ("utf-32-le", "", "UTF-32LE", "0x22 0x00 0x00 0x00"),
        ("utf-32-be", "", "UTF-32BE", "0x00 0x00 0x00 0x22"),
    ],
)
def test_what_is_no_text_file_in_utf8_is_refused_as_a_whole(tmp_path, kind, encoding, mark, name, first):
    """The encoding is one that Python, and iconv, read it with."""
    path = write(tmp_path / f"in.{kind}", f'{mark}"cat and dog"\n'.encode(encoding))
    assert path.read_bytes().decode(name) == '"cat and dog"\n'
    said = rf"is {name} \(it begins with the bytes {first}\); convert it to UTF-8: iconv -f {name} -t UTF-8 FILE > NEW"
    with pytest.raises(TextError, match=said):
        list(read_texts([path]))


@pytest.mark.parametrize("text", ["Привет, мир", "γειά σου", "שלום עולם", "مرحبا بالعالم"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_alphabets_in_utf16_without_a_mark_are_seen(tmp_path, text, encoding):
    """Their bytes may all be valid UTF-8."""
    with pytest.raises(TextError, match=f"is {encoding.replace('-', '', 1).replace('-', '').upper().replace('UTF', 'UTF-')} "):
        list(read_texts([write(tmp_path / "in.txt", f"{text}\n".encode(encoding))]))


@pytest.mark.parametrize("content", ["\x01\x02\x03\x04\x05\x06\x07", "\ta\tb\tc\td", "\0\0\0\0\0\0\0"])
def test_control_characters_are_no_encoding(tmp_path, content):
    assert list(read_texts([write(tmp_path / "in.txt", f"{content}\n")])) == [content]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"text\ncat\n", mtime=0), "is gzip; let its name end in .gz"),
        (b"\x28\xb5\x2f\xfd\x04\x00\x09\x00", "is zstd; let its name end in .zst"),
        (b"PK\x03\x04\x14\x00", "is a zip archive or a spreadsheet's workbook; "),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "is a Git LFS pointer and not the file itself; get it with",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_files_of_another_kind_are_named(tmp_path, kind, content, message):
    with pytest.raises(TextError, match=message):
        list(read_texts([write(tmp_path / f"in.{kind}", content)]))


def test_a_line_without_end_is_not_looked_through_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(lines, "MAX_PASSED_BYTES", 2**21)
    file = SimpleNamespace(readline=bytes)
    rows = lines.Lines(file, "zeros")
    assert next(rows) == (1, None)
    with pytest.raises(TextError, match="zeros line 1 has more than 2,097,152 bytes and no end"):
        next(rows)


def test_csv_reads_the_column(tmp_path):
    path = write(tmp_path / "in.csv", '\ufeffid,text\r\n1,"a, ""quoted"""\r\n\r\n2,\r\n3,"two\nlines"\r\n')
    assert list(read_texts([path])) == ['a, "quoted"', "", "two\nlines"]
    assert list(read_texts([path], column="id")) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("", UsageError, "is empty, expected a header line with 'text'"),
        ("id,body\n1,a\n", UsageError, "has no column 'text'; its columns are 'id', 'body'"),
        ("text,text\n1,a\n", UsageError, "more than one column 'text'"),
        ("id,text\n1,a,b\n", TextError, "line 2 has 3 fields, the header has 2; put a field that contains a comma"),
        ("id,text\n1,a\n2\n", TextError, "line 3 has 1 fields"),
        ('id,text\n1,"never closed\n2,b\n', TextError, "is not CSV"),
        ("id,text\n1," + "x" * (2**24 + 1) + "\n", TextError, "line 2 is longer than 16,777,216 bytes"),
        (
            b"id,text\n1,a\n2,b\xff\n",
            TextError,
            r"line 3 is not UTF-8 \(byte 0xff at place 2 of 'text'\); where it is Windows-1252, convert",
        ),
        (b"id,t\xe4xt\n1,a\n", UsageError, r"has no column 'text', and its header is not UTF-8 \(byte 0xe4 at place 2 of 't.*xt'\).*iconv"),
        (
            "id;text\n1;a\n",
            UsageError,
            r"has no column 'text'; its columns are 'id;text'; it seems to be separated by semicolons \(--delimiter",
        ),
        ('"id";"text"\n"1";"a"\n', UsageError, "line 1 is not CSV .* it seems to be separated by semicolons"),
        ("id\ttext\n1\ta\n", UsageError, r"it seems to be separated by tabs \(--delimiter '\\t'\)"),
        ("id|body\n1|a\n", UsageError, "it seems to be separated by bars"),
        ("id,no;text\n1,a\n", UsageError, "its columns are 'id', 'no;text'; it seems to be separated by semicolons"),
        ("sep=;\nid;text\n1;a\n", UsageError, "begins with a spreadsheet's line 'sep=;', expected the header; remove that line"),
        ("id,a;b\n1,a\n", UsageError, "its columns are 'id', 'a;b'; choose one with --column"),
    ],
)
def test_bad_csv_is_one_clear_error(tmp_path, content, error, message):
    path = write(tmp_path / "in.csv", content)
    with pytest.raises(error, match=message):
        list(read_texts([path]))


@pytest.mark.parametrize(
    ("delimiter", "content"),
    [
        (";", 'id;text\n1;"a;b"\n2;c,d\n'),
        ("\t", 'id\ttext\n1\t"a;b"\n2\tc,d\n'),
        ("§", "id§text\n1§a;b\n2§c,d\n"),
    ],
)
def test_csv_with_another_delimiter(tmp_path, delimiter, content):
    path = write(tmp_path / "in.csv", content)
    assert list(read_texts([path], delimiter=delimiter)) == ["a;b", "c,d"]
    with pytest.raises(TextError, match=f"line 2 has 1 fields, the header has 2; put a field that contains {'a|the'}"):
        list(read_texts([write(path, f"id{delimiter}text\n1\n")], delimiter=delimiter))


def test_a_delimiter_that_a_header_does_not_have(tmp_path):
    with pytest.raises(UsageError, match="its columns are 'id,text'; it seems to be separated by commas$"):
        read_texts([write(tmp_path / "in.csv", "id,text\n1,a\n")], delimiter=";")


def test_inputs_are_read_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"from stdin\n\n")))
    first = write(tmp_path / "a.txt", "a1\na2\n")
    last = write(tmp_path / "b.csv", "text\nb1\n")
    assert list(read_texts([first, "-", str(last), first])) == ["a1", "a2", "from stdin", "", "b1", "a1", "a2"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.txt", "missing.txt does not exist"),
        ("folder.txt", "is a folder"),
        ("notes.pdf", "texts are read from .txt, .jsonl, .csv, .parquet files"),
        ("noextension", "texts are read from"),
        ("wrong.csv", "has no column 'text'"),
        ("locked.txt", "permission denied"),
    ],
)
def test_a_bad_last_input_is_seen_before_the_first_text(tmp_path, monkeypatch, name, message):
    good = write(tmp_path / "good.txt", "a\n")
    (tmp_path / "folder.txt").mkdir()
    write(tmp_path / "wrong.csv", "body\nx\n")
    locked = write(tmp_path / "locked.txt", "x")
    # chmod does not stop the superuser, as whom containers run tests
    monkeypatch.setattr(os, "access", lambda path, mode: path != locked)
    with pytest.raises(UsageError, match=message):
        read_texts([good, tmp_path / name])


def test_standard_input_only_once():
    with pytest.raises(UsageError, match="given twice"):
        read_texts(["-", "-"])


def test_a_string_is_not_a_list_of_inputs():
    with pytest.raises(TypeError, match="expected a list"):
        read_texts("in.txt")


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet"])
def test_a_file_that_vanishes_between_is_an_error(tmp_path, kind):
    path = tmp_path / f"in.{kind}"
    if kind == "parquet":
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.table({"text": ["a"]}), path)
    else:
        write(path, {"txt": "a\n", "jsonl": '"a"\n', "csv": "text\na\n"}[kind])
    texts = read_texts([path])
    path.unlink()
    with pytest.raises(UsageError, match=rf"in\.{kind} cannot be read \(No such file"):
        next(texts)


def test_a_named_pipe_is_read_once_and_whole(tmp_path):
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("text\na\nb\n"))
    writer.start()
    assert list(read_texts([pipe])) == ["a", "b"]
    writer.join()


def test_reading_is_lazy(tmp_path):
    path = write(tmp_path / "in.txt", b"a\n" * 5000 + b"\xff\n")
    texts = read_texts([path])
    assert [next(texts) for _ in range(5000)] == ["a"] * 5000
    with pytest.raises(TextError, match="line 5001 is not UTF-8"):
        next(texts)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cls-export\[jobs\]'"):
        read_texts([write(tmp_path / "in.parquet", b"PAR1")])


def test_parquet_streams_its_column(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "in.parquet"
    texts = [f"text {number}" for number in range(3000)]
    table = arrow.table({"id": range(3000), "text": texts, "kind": arrow.array(["x"] * 3000).dictionary_encode()})
    parquet.write_table(table, path, row_group_size=700)
    assert list(read_texts([path])) == texts
    assert set(read_texts([path], column="kind")) == {"x"}
    with pytest.raises(UsageError, match="has no column 'body'; its columns are 'id', 'text', 'kind'"):
        read_texts([path], column="body")
    with pytest.raises(UsageError, match="column 'id' is int64, expected string"):
        read_texts([path], column="id")
    with pytest.raises(UsageError, match="is not a Parquet file"):
        read_texts([write(tmp_path / "bad.parquet", "no")])
    parquet.write_table(arrow.table({"text": ["a", None]}), path)
    with pytest.raises(TextError, match="row 2: 'text' is null"):
        list(read_texts([path]))
