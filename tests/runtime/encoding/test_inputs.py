"""What may be given as texts, and whose row it gets. One table a kind; every way into the Encoder is asked."""

import array
import asyncio
import collections
import enum
import io
import mmap
import pathlib
import sqlite3

import numpy as np
import pytest

from cls_runtime import Encoder


class Folded(str):
    """A str that compares, counts and prints in its own way, as jaraco.text's FoldedCase does."""

    __slots__ = ()

    def __eq__(self, other):
        return str.lower(self) == str.lower(other)

    def __hash__(self):
        return hash(str.lower(self))

    def __str__(self):
        return "another"

    def __len__(self):
        return 1

    def __iter__(self):
        return iter("another")

    def encode(self, *_):
        return b"another"


class Pair(tuple):
    """A tuple that says of itself what it likes."""

    __slots__ = ()

    def __eq__(self, _):
        return True

    def __hash__(self):
        return 1

    def __len__(self):
        return 7

    def __getitem__(self, _):
        return "another"

    def __iter__(self):
        return iter(["another"])


class Pairs(list):
    def __len__(self):
        return 7

    def __getitem__(self, _):
        return "another"

    def __iter__(self):
        return iter(["another"])


class Name(str, enum.Enum):
    CAT = "the cat"
    DOG = "dog"


class Frame:
    """What pandas and polars have: iterates over the columns' names."""

    columns = property(lambda self: ["a", "b"])
    shape = (2, 2)

    def __iter__(self):
        return iter(["a", "b"])


class Interchange(Frame):
    columns = shape = None

    def __dataframe__(self):
        raise NotImplementedError


class Keyed:
    """What dict() would take for a mapping."""

    def keys(self):
        return ["a"]

    def __getitem__(self, key):
        return key

    def __iter__(self):
        return iter(self.keys())


class Series(Keyed):
    """What pandas calls a Series: keys, and an array all the same."""

    dtype = "object"

    def __iter__(self):
        return iter(["the cat", "dog"])


class LineSource:
    """A wrapper around a file, as tempfile's."""

    def readline(self):
        return "a\n"

    def __iter__(self):
        return iter(["a\n"])


async def arriving():
    yield "the cat"


def sqlite_row():
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    row = connection.execute("select 'a' as x, 'b' as y").fetchone()
    connection.close()
    return row


NO_TEXTS = {
    "str": lambda: "the cat",
    "str subclass": lambda: Folded("the cat"),
    "bytes": lambda: b"the cat",
    "bytearray": lambda: bytearray(b"the cat"),
    "memoryview": lambda: memoryview(b"the cat"),
    "mmap": lambda: mmap.mmap(-1, 8),
    "array of characters": lambda: array.array("u", "the cat"),
    "characters of a str": lambda: iter("the cat"),
    "characters of a str beyond ASCII": lambda: iter("the çat"),
    "dict": lambda: {"a": "b"},
    "counter": lambda: collections.Counter(["a"]),
    "keys": {"a": "b"}.keys,
    "items": {"a": "b"}.items,
    "set": lambda: {"a"},
    "frozenset": lambda: frozenset({"a"}),
    "data frame": Frame,
    "data frame by its protocol": Interchange,
    "keys and items": Keyed,
    "database row": sqlite_row,
    "text file": lambda: io.StringIO("a\nb\n"),
    "binary file": lambda: io.BytesIO(b"a\nb\n"),
    "file by its methods": LineSource,
    "array of no dimension": lambda: np.array("the cat"),
    "path": lambda: pathlib.Path("a.txt"),
    "None": lambda: None,
    "number": lambda: 3,
    "async generator": arriving,
    "numbers": lambda: np.arange(3),
    "bytes in an array": lambda: np.array([b"a"]),
    "rows of an array": lambda: np.array([["a", "b"]]),
    "texts and None": lambda: ["a", None],
    "three": lambda: [("a", "b", "c")],
    "a pair of a number": lambda: [("a", 1)],
}

TEXTS = {
    "list": ["the cat", "dog"],
    "generator": lambda: (text for text in ["the cat", "dog"]),
    "values": {"a": "the cat", "b": "dog"}.values,
    "deque": collections.deque(["the cat", "dog"]),
    "strings of numpy": np.array(["the cat", "dog"]),
    "objects of numpy": np.array(["the cat", "dog"], dtype=object),
    "series": Series(),
    "names": list(Name),
}


def ways(encoder):
    """Each way of giving texts to an Encoder, as a function from texts to rows."""
    return {
        "encode": encoder.encode,
        "encode_with_report": lambda texts: encoder.encode_with_report(texts)[0],
        "aencode": lambda texts: asyncio.run(encoder.aencode(texts)),
        "stream": lambda texts: np.concatenate(list(encoder.stream(texts))),
    }


@pytest.fixture(scope="module")
def encoder(bundle):
    with Encoder.load(bundle, threads=1) as encoder:
        yield encoder


@pytest.mark.parametrize("way", ["encode", "encode_with_report", "aencode", "stream"])
@pytest.mark.parametrize("name", NO_TEXTS)
def test_what_iterates_over_no_texts_is_a_type_error(encoder, name, way):
    with pytest.raises(TypeError, match=r"^texts? .*expected|^texts is .*; pass "):
        ways(encoder)[way](NO_TEXTS[name]())


@pytest.mark.parametrize("way", ["encode", "encode_with_report", "aencode", "stream"])
@pytest.mark.parametrize("name", TEXTS)
def test_what_iterates_over_texts_is_taken(encoder, name, way):
    texts = TEXTS[name]() if callable(TEXTS[name]) else TEXTS[name]
    np.testing.assert_array_equal(ways(encoder)[way](texts), encoder.encode(["the cat", "dog"]))


@pytest.mark.parametrize("way", ["encode", "encode_with_report", "aencode", "stream"])
@pytest.mark.parametrize(
    ("texts", "plain"),
    [
        ([Folded("cat 1"), Folded("CAT 1"), Folded("dog")], ["cat 1", "CAT 1", "dog"]),
        ([Pair(("a", "b")), Pair(("c", "d"))], [("a", "b"), ("c", "d")]),
        ([Pairs(["a", "b"]), Pairs(["c", "d"])], [("a", "b"), ("c", "d")]),
        ([(Folded("a"), Folded("b")), (Folded("A"), Folded("b"))], [("a", "b"), ("A", "b")]),
    ],
    ids=["str", "tuple", "list", "str in a pair"],
)
def test_each_text_gets_its_own_row(encoder, texts, plain, way):
    """Compared as they compare themselves, these would be one text; as they count and iterate, other ones."""
    np.testing.assert_array_equal(ways(encoder)[way](texts), np.concatenate([encoder.encode([text]) for text in plain]))
    assert encoder.encode_with_report(texts)[1].texts == len(plain)


def test_texts_that_only_compare_as_equal_are_not_one(make_bundle, word_piece_with_case):
    """The bundle above lowercases; with one that does not the rows of the two are different."""
    with Encoder.load(make_bundle(tokenizer=word_piece_with_case), threads=1) as encoder:
        first, second = encoder.encode([Folded("a"), Folded("A")])
    assert not np.array_equal(first, second)


@pytest.fixture
def word_piece_with_case():
    from bundle_builder import word_piece
    from tokenizers import normalizers

    tokenizer = word_piece()
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    return tokenizer
