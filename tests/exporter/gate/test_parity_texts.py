"""The built-in texts: what they must be for the figures that rest on them to mean anything."""

from __future__ import annotations

import unicodedata
from importlib import resources

import pytest
from transformers import BatchEncoding, PreTrainedTokenizerFast

from cls_exporter.errors import CheckpointError
from cls_exporter.gate.parity_texts import parity_texts


def lines(name: str) -> list[str]:
    text = (resources.files("cls_exporter.gate") / "texts" / name).read_text(encoding="utf-8")
    assert text.endswith("\n")
    return text[:-1].split("\n")


@pytest.mark.parametrize(("name", "at_least"), [("parity.txt", 150), ("calibration.txt", 400)])
def test_texts_are_many_and_each_is_there_once(name: str, at_least: int) -> None:
    texts = lines(name)
    assert len(texts) >= at_least
    assert all(text.strip() for text in texts)
    assert len({" ".join(text.casefold().split()) for text in texts}) == len(texts)


def test_parity_is_never_measured_on_calibration_texts() -> None:
    assert not {text.casefold() for text in lines("parity.txt")} & {text.casefold() for text in lines("calibration.txt")}


def test_parity_texts_are_ragged_and_in_many_scripts() -> None:
    texts = lines("parity.txt")
    words = sorted(len(text.split()) for text in texts)
    assert words[0] == 1
    assert words[-1] > 100
    assert min(map(len, texts)) == 1
    scripts = {unicodedata.name(letter).split()[0] for text in texts for letter in text if letter.isalpha()}
    assert scripts >= {"LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "CJK", "HIRAGANA", "HANGUL", "THAI"}


class NeverLonger(PreTrainedTokenizerFast):
    """Gives three tokens for any text, as one does whose normalizer replaces all of it."""

    def __init__(self) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> BatchEncoding:
        return BatchEncoding({"input_ids": [1, 2, 3]})


def test_a_tokenizer_that_gives_no_more_tokens_for_more_words_is_refused() -> None:
    with pytest.raises(CheckpointError, match="makes 3 tokens of .* words and no fewer of half of them"):
        parity_texts(NeverLonger(), max_length=16)
