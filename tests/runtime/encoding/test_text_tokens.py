"""`Encoder.tokens` of whole texts, which tokens are special, and `Encoder.decode`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_builder import MAX_LENGTH, VOCABULARY
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cls_runtime import ClosedError, Encoder, TextError, TextTooLongError, UsageError
from cls_runtime.encoding.tokenizer import LONG_CHARACTERS

LONG = "the dog sleeps " * 20
CLS, SEP = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> Iterator[Encoder]:
    with Encoder.load(bundle, threads=2) as encoder:
        yield encoder


def test_a_whole_text_has_the_tokens_that_the_model_does_not_take(encoder: Encoder) -> None:
    (whole,) = encoder.tokens([LONG], whole=True)
    (cut,) = encoder.tokens([LONG], on_overflow="truncate")
    assert len(whole.ids) == 3 * 20 + 2
    assert whole.truncated is None
    assert cut.truncated is not None
    assert len(cut.ids) == MAX_LENGTH
    assert whole.ids[: MAX_LENGTH - 1] == cut.ids[:-1]
    assert all(LONG[start:stop] == token for token, (start, stop) in zip(whole.tokens[1:-1], whole.offsets[1:-1], strict=True))


@given(texts=st.lists(st.text(alphabet="the cat!", max_size=14) | st.tuples(st.just("a"), st.just("dog")), max_size=4))
def test_a_text_that_fits_is_whole_anyway(encoder: Encoder, texts: list[Any]) -> None:
    if all(item.truncated is None for item in encoder.tokens(texts, on_overflow="truncate")):
        assert encoder.tokens(texts, whole=True) == encoder.tokens(texts)


def test_which_tokens_are_special(encoder: Encoder) -> None:
    single, pair, named = encoder.tokens(["a cat", ("a", "dog"), "[SEP]"])
    assert single.special == (True, False, False, True)
    assert pair.special == (True, False, True, False, True)
    assert (named.ids, named.special) == ((CLS, SEP, SEP), (True, False, True))  # one that the text spells is the text's


def test_whole_texts_longer_than_are_tokenized_in_parts(encoder: Encoder) -> None:
    text = "a " * LONG_CHARACTERS[0]
    (found,) = encoder.tokens([text], whole=True)
    assert len(found.ids) == LONG_CHARACTERS[0] + 2
    with pytest.raises(TextError, match=r"text 1 has 1,048,577 characters, at most 1,048,576 are tokenized as a whole") as error:
        encoder.tokens(["a", "a" * (LONG_CHARACTERS[-1] + 1)], whole=True)
    assert error.value.index == 1


def test_whole_and_how_to_cut_exclude_each_other(encoder: Encoder, bundle: Path) -> None:
    for options in ({"on_overflow": "raise"}, {"truncation_side": "left"}):
        with pytest.raises(UsageError, match="whole=True truncates nothing"):
            encoder.tokens(["a"], whole=True, **options)
    with Encoder.load(bundle, on_overflow="raise") as strict:
        assert len(strict.tokens([LONG], whole=True)[0].ids) == 62
        with pytest.raises(TextTooLongError):
            strict.tokens([LONG])


def test_decode(encoder: Encoder) -> None:
    ids = encoder.tokens(["the cat sleeps", ""])
    assert encoder.decode(item.ids for item in ids) == ["the cat sleeps", ""]
    assert encoder.decode([ids[0].ids], skip_special_tokens=False) == ["[CLS] the cat sleeps [SEP]"]
    assert encoder.decode([np.array(ids[0].ids), []]) == ["the cat sleeps", ""]
    assert encoder.decode([]) == []


@given(ids=st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=20), skip=st.booleans())
def test_ids_are_decoded_as_the_library_does(encoder: Encoder, bundle: Path, ids: list[int], skip: bool) -> None:
    library = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    assert encoder.decode([ids], skip_special_tokens=skip) == [library.decode(ids, skip_special_tokens=skip)]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            [len(VOCABULARY)],
            f"list 1 has the id {len(VOCABULARY)}, which no token has; this model's ids are 0 to {len(VOCABULARY) - 1}",
        ),
        ([5, -1], "list 1 has the id -1,"),
        ([2**31], f"list 1 has the id {2**31},"),
        ([2**63 - 1], f"list 1 has the id {2**63 - 1},"),
        ([2**63], f"list 1 has the id {2**63},"),
        ([2**64], "list 1 does not hold whole numbers"),
        ([1.5], "list 1 does not hold whole numbers"),
        (["a"], "list 1 does not hold whole numbers"),
        ([True], "list 1 does not hold whole numbers"),
        ([[1]], "list 1 does not hold whole numbers"),
        ([None], "list 1 does not hold whole numbers"),
        ([[1], [1, 2]], "list 1 does not hold whole numbers"),
        (5, "list 1 does not hold whole numbers"),
        ("a", "list 1 does not hold whole numbers"),
    ],
)
def test_what_is_no_id(encoder: Encoder, ids: Any, message: str) -> None:
    with pytest.raises(TextError) as error:
        encoder.decode([[5], ids])
    assert str(error.value).startswith(message)
    assert error.value.index == 1


def test_a_closed_encoder(bundle: Path) -> None:
    encoder = Encoder.load(bundle)
    encoder.close()
    with pytest.raises(ClosedError):
        encoder.decode([[5]])
