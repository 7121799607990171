"""What people have in pandas, polars and pyarrow, given to an Encoder: here, since `make test-jobs` runs these where all three are."""

import asyncio

import numpy as np
import pytest

from cls_runtime import Encoder
from cls_runtime.errors import TextError

TEXTS = ["the cat", "dog"]
TABLE = {"id": [1, 2], "body": TEXTS}
WAYS = {
    "encode": lambda encoder, texts: encoder.encode(texts),
    "encode_with_report": lambda encoder, texts: encoder.encode_with_report(texts)[0],
    "aencode": lambda encoder, texts: asyncio.run(encoder.aencode(texts)),
    "stream": lambda encoder, texts: np.concatenate(list(encoder.stream(texts))),
}
COLUMNS = {
    "pandas Series": lambda pd: pd.Series(TEXTS),
    "pandas Series of strings": lambda pd: pd.Series(TEXTS, dtype="string"),
    "pandas Series of Arrow's": lambda pd: pd.Series(TEXTS, dtype="string[pyarrow]"),
    "pandas Series of categories": lambda pd: pd.Series(TEXTS, dtype="category"),
    "pandas Series with another index": lambda pd: pd.Series(TEXTS, index=[7, 3]),
    "pandas column": lambda pd: pd.DataFrame(TABLE)["body"],
    "pandas values": lambda pd: pd.DataFrame(TABLE)["body"].to_numpy(),
    "polars Series": lambda pl: pl.Series(TEXTS),
    "polars Series of categories": lambda pl: pl.Series(TEXTS, dtype=pl.Categorical),
    "polars column": lambda pl: pl.DataFrame(TABLE)["body"],
    "pyarrow Array": lambda pa: pa.array(TEXTS),
    "pyarrow Array of large strings": lambda pa: pa.array(TEXTS, pa.large_string()),
    "pyarrow Array of views": lambda pa: pa.array(TEXTS, pa.string_view()),
    "pyarrow Array with a dictionary": lambda pa: pa.array(TEXTS).dictionary_encode(),
    "pyarrow slice": lambda pa: pa.array(["x", *TEXTS, "y"]).slice(1, 2),
    "pyarrow ChunkedArray": lambda pa: pa.chunked_array([TEXTS[:1], [], TEXTS[1:]]),
    "pyarrow column": lambda pa: pa.table(TABLE)["body"],
    "numpy array": lambda np: np.array(TEXTS),
}
MISSING = ".*; a missing value has no vector, leave it out or fill it in"
NO_TEXTS = {
    "pandas DataFrame": (lambda pd: pd.DataFrame(TABLE), r"texts is a DataFrame, .* pass one of them, as in texts\['body'\]"),
    "pandas DataFrame of one": (lambda pd: pd.DataFrame(TABLE)[["body"]], r"texts is a DataFrame, .* as in texts\['body'\]"),
    "pandas DataFrame with a text": (lambda pd: pd.DataFrame({"title": TEXTS, "text": TEXTS}), r"as in texts\['text'\]"),
    "pandas DataFrame of numbers": (lambda pd: pd.DataFrame({"n": [1]}), r"as in texts\['n'\]"),
    "pandas DataFrame of nothing": (lambda pd: pd.DataFrame(), r"as in texts\['text'\]"),
    "pandas rows of one": (
        lambda pd: pd.DataFrame(TABLE)[["body"]].itertuples(index=False),
        "text 0 is a Pandas of 1 items, .*pass the field",
    ),
    "pandas rows of three": (lambda pd: pd.DataFrame(TABLE).itertuples(), "text 0 is a Pandas of 3 items"),
    "pandas array of two axes": (lambda pd: pd.DataFrame(TABLE)[["body"]].to_numpy(), "text 0 is ndarray, expected a str"),
    "pandas None": (lambda pd: pd.Series(["a", None], dtype=object), f"text 1 is NoneType, {MISSING}"),
    "pandas NaN": (lambda pd: pd.Series(["a", float("nan")], dtype=object), f"text 1 is float, {MISSING}"),
    "pandas NA": (lambda pd: pd.Series(["a", None], dtype="string"), f"text 1 is NAType, {MISSING}"),
    "pandas Series of numbers": (lambda pd: pd.Series([1.5]), r"text 0 is float, expected a str or a pair \(str, str\)$"),
    "polars DataFrame": (lambda pl: pl.DataFrame(TABLE), r"texts is a DataFrame, .* as in texts\['body'\]"),
    "polars LazyFrame": (lambda pl: pl.DataFrame(TABLE).lazy(), r"texts is a LazyFrame, .* as in texts.collect\(\)\['text'\]"),
    "polars rows of one": (lambda pl: pl.DataFrame(TABLE)[["body"]].iter_rows(), "text 0 is a tuple of 1 items, .*pass the field"),
    "polars null": (lambda pl: pl.Series(["a", None]), f"text 1 is NoneType, {MISSING}"),
    "pyarrow Table": (lambda pa: pa.table(TABLE), r"texts is a Table, .* as in texts\['body'\]"),
    "pyarrow RecordBatch": (lambda pa: pa.record_batch(TABLE), r"texts is a RecordBatch, .* as in texts\['body'\]"),
    "pyarrow null": (lambda pa: pa.array(["a", None]), f"text 1 is NoneType, {MISSING}"),
    "pyarrow null in a chunk": (lambda pa: pa.chunked_array([["a"], ["b", None]]), f"text 2 is NoneType, {MISSING}"),
    "pyarrow structs": (lambda pa: pa.array([{"x": "a"}]), "text 0 is dict, expected a str"),
}


def made(name, make):
    return make(pytest.importorskip(name.split()[0], reason="make test-jobs has it"))


@pytest.fixture(scope="module")
def encoder(bundle):
    with Encoder.load(bundle, threads=1) as encoder:
        yield encoder


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_strings_is_texts(encoder, name, way):
    np.testing.assert_array_equal(WAYS[way](encoder, made(name, COLUMNS[name])), encoder.encode(TEXTS))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NO_TEXTS)
def test_a_frame_a_row_or_a_missing_value_is_a_type_error(encoder, name, way):
    make, message = NO_TEXTS[name]
    with pytest.raises(TypeError, match=message):
        WAYS[way](encoder, made(name, make))


def test_lists_of_two_strings_in_an_arrow_array_are_pairs(encoder):
    pairs = [["a", "b"], ["c", "d"]]
    given = made("pyarrow pairs", lambda pa: pa.array(pairs))
    np.testing.assert_array_equal(encoder.encode(given), encoder.encode(pairs))


def test_a_long_arrow_array_is_read_in_order(encoder):
    texts = [f"cat {row % 5000}" for row in range(10_000)]
    given = made("pyarrow texts", lambda pa: pa.chunked_array([texts[:1], texts[1:7000], texts[7000:]]))
    np.testing.assert_array_equal(np.concatenate(list(encoder.stream(given))), np.concatenate(list(encoder.stream(texts))))


@pytest.mark.parametrize("way", WAYS)
def test_a_string_of_arrow_that_is_not_utf8_is_named_by_its_place(encoder, way):
    given = made("pyarrow bytes", lambda pa: pa.array([b"a"] * 5000 + [b"b\xff", b"c"]).view(pa.string()))
    with pytest.raises(TextError, match=r"text 5000 is not UTF-8 \(byte 0xff at place 2\)") as caught:
        WAYS[way](encoder, given)
    assert caught.value.index == 5000
