"""Any bytes in any format: rows, or one line. What is read and what is skipped add up to what the input has."""

import contextlib
import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

from cls_runtime.errors import ClsError  # noqa: E402
from cls_runtime.jobs.inputs import END, JobInputs  # noqa: E402


def _parquet(**options):
    texts = ["caf\xe9", "dog", "cat"] * 10 + [f"cat {row}" for row in range(10)]
    columns = {"text": texts, "n": list(range(40)), "s": ["p", "\xe9"] * 20, "tags": [["a", "\xe9"]] * 40}
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file, row_group_size=15, **options)
    return file.getvalue()


def _zstd(data):
    return pa.Codec("zstd").compress(data, asbytes=True)


_CSV = "".join(f'{row},"a ""{row}"", b\n line",z\n{row},plain,z\n' for row in range(20))
_CSV_BYTES = f"n,text,s\n{_CSV}".encode()
_JSONL = "".join(json.dumps({"text": f"caf\xe9 {row}", "n": row, "s": "q"}) + '\n"bare"\n' for row in range(20)).encode()
SEEDS = {
    ".txt": ["one\n\xe9 two\r\n\nfour".encode() * 10],
    ".jsonl": [_JSONL],
    ".csv": [_CSV_BYTES],
    ".txt.gz": [gzip.compress(b"cat\n" * 50)],
    ".csv.gz": [gzip.compress(_CSV_BYTES)],
    ".jsonl.zst": [_zstd(_JSONL)],
    ".parquet": [
        _parquet(compression="none"),
        _parquet(compression="zstd"),
        _parquet(use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"}, write_page_checksum=True),
    ],
}
OPTIONS = {
    ".jsonl": [{}, {"keep": ["s", "n"]}, {"id_column": "n"}],
    ".csv": [{}, {"keep": ["s"]}, {"id_column": "n"}],
    ".parquet": [{}, {"keep": ["tags", "s"], "id_column": "n"}, {"keep": ["text"]}, {"id_column": "s"}],
}

edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "insert", "end"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(
            st.binary(min_size=1, max_size=3), st.sampled_from([b'"', b'""', b"\n", b"\r", b"\0", b",", b"\xff", b"\\u0000", b"{", b"["])
        ),
    ),
    min_size=1,
    max_size=6,
)


def edited(data, changes):
    """Bytes set, taken out, put in, or cut off; `share` says where, half of the time counted from the end, where Parquet has its footer."""
    data = bytearray(data)
    for kind, share, piece in changes:
        place = int(share * 2 * len(data)) if share < 0.5 else max(0, len(data) - 1 - int((share - 0.5) * 2 * min(len(data), 1500)))
        stop = {"set": place + len(piece), "cut": place + 3, "insert": place, "end": len(data)}[kind]
        data[place:stop] = piece if kind in ("set", "insert") else b""
    return bytes(data)


def assert_sound(path, on_error, options):
    """Reads all of it, and counts."""
    position = 0
    with contextlib.suppress(ClsError):
        try:
            inputs = JobInputs.find([str(path)], on_error=on_error, **options)
            inputs.identities()
            counts = inputs.row_counts()
            for block in inputs.blocks([(0, END)]):
                left_out = len(block.skipped) if on_error == "skip" else 0
                assert block.start == position
                assert len(block.rows) + left_out == block.stop - block.start
                assert len(block.rows) == len(block.texts) == len(block.columns)
                assert on_error != "raise" or not block.skipped
                assert sum(text is None for text in block.texts) == (len(block.skipped) if on_error == "null" else 0)
                assert all("\n" not in item.reason for item in block.skipped)
                block.columns.validate(full=True)
                [text.encode() for text in block.texts if text is not None]
                position = block.stop
            assert counts is None or sum(counts) == position
        except ClsError as error:
            if "\n" in str(error) or len(str(error)) > 2000:
                raise ValueError(f"no line: {error}") from None
            raise


@pytest.mark.parametrize("kind", SEEDS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file(tmp_path_factory, kind, data):
    path = tmp_path_factory.getbasetemp() / f"damaged{kind}"
    path.write_bytes(edited(data.draw(st.sampled_from(SEEDS[kind])), data.draw(edits)))
    options = data.draw(st.sampled_from(OPTIONS.get(f".{kind.split('.')[1]}", [{}])))
    assert_sound(path, data.draw(st.sampled_from(["raise", "skip", "null"])), options)


LETTERS = st.lists(
    st.sampled_from([b"a", b'"', b'""', b",", b"\n", b"\r\n", b"\r", b"\0", b"\xc3\xa9", b"\xff", b" ", b"1,b\n", b'{"text": "a"}', b"["])
)


@pytest.mark.parametrize("kind", SEEDS)
@settings(max_examples=100, deadline=None)
@given(
    content=st.one_of(st.binary(max_size=200), LETTERS.map(b"".join)),
    headed=st.booleans(),
    on_error=st.sampled_from(["raise", "skip", "null"]),
)
def test_any_bytes(tmp_path_factory, kind, content, headed, on_error):
    path = tmp_path_factory.getbasetemp() / f"any{kind}"
    content = b"n,text\n" + content if headed and ".csv" in kind else content
    packed = {".gz": gzip.compress, ".zst": _zstd}.get(path.suffix if headed else "", bytes)
    path.write_bytes(packed(content))
    assert_sound(path, on_error, {})


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv"])
@settings(max_examples=100, deadline=None)
@given(content=LETTERS.map(b"".join), start=st.integers(0, 12))
def test_rows_that_are_passed_over_count_as_rows_that_are_read(tmp_path_factory, kind, content, start):
    path = tmp_path_factory.getbasetemp() / f"passed{kind}"
    path.write_bytes(b"n,text\n" + content if kind == ".csv" else content)
    with contextlib.suppress(ClsError):
        inputs = JobInputs.find([str(path)], on_error="null")
        whole = [text for block in inputs.blocks([(0, END)]) for text in block.texts]
        assert [text for block in inputs.blocks([(start, END)]) for text in block.texts] == whole[start:]
