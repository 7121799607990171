"""Texts that tell two tokenizers apart, and the first of them that gets other tokens from one than from the other.

What a tokenizer may do to a text is a list of steps that has no end, so what two tokenizers say of themselves is read for further texts:
the words that they replace, the tokens that they add, the length of the longest word, and where they normalize or split differently every
letter and sign of Unicode.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from cls_runtime.encoding.texts import Text

# The plainest first: the one that is shown is the first that differs.
PROBES: tuple[Text, ...] = (
    "the cat sat on the mat",
    "The CAT sat",
    "",
    "a",
    "don't stop-it, they're 'quoted' (e.g. self-made).",
    "2023 12345 3.14159 1,000 v2 b2b",
    "naïve café",
    "nai\u0308ve cafe\u0301",  # the accents are characters of their own
    "ﬁve cats ½",
    "x² ﬀ ℌ Ａｂｃ１ ㎏ ①",
    "Straße ẞ İstanbul ıŞ ǅ Σας",
    "two  spaces   three\ttab\nline\r\nend",
    " a blank before and behind ",
    "cat\u200bdog cat\u200ddog cat\u00adnip \ufeffcat",
    "no\u00a0break\u2003em\u3000wide",
    "bell\x07 null\x00 delete\x7f escape\x1b next\x85line \ufffd",
    "日本語の文章です 漢字 カタカナ ｶﾞ か\u3099",
    "中文句子，没有空格。",
    "한국어 문장 \u1112\u1161\u11ab",
    "привет Мир ёй йод",
    "Ωmega ά ώ Ελλάδα",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "שָׁלוֹם שלום",
    "مرحبا ١٢٣ لا",
    "🙂 🚲🌧️ 👩‍🚀 🇩🇪",
    "user_name@example.com https://example.com/a?b=c#d $5 50% a+b=c <b> `` ''",
    "“curly” ‘quotes’ – — … •",
    "camelCase snake_case UPPER",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\U00012031 \U00012031\U00012032 a\U00012031b",  # in no vocabulary
    ("the cat", "the dog sat"),
    ("", "a"),
)
_LONGEST_WORD = 1000
_VOCABULARY = 1000  # tokens of each vocabulary that are tried as words, and added tokens
_QUOTED = 200  # strings of a tokenizer's own steps
_MARKS = re.compile(r"^##|[▁Ġ]")
_PATTERN_SIGNS = re.compile(r"[\\^$.|?*+(){}\[\]]")
_MODEL_SETTINGS = (
    *("unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "end_of_word_suffix"),
    *("fuse_unk", "byte_fallback", "ignore_merges", "unk_id"),
)
_TOKENS_SHOWN = 12
_TOKEN_CHARACTERS = 30
_BLOCK = 4096
# The planes that have letters, without blocks of thousands that are all treated alike.
_PLANES = range(0x20, 0x20000)
_ALIKE = (range(0x3400, 0x4DC0, 64), range(0x4E00, 0xA000, 64), range(0xAC00, 0xD7A4, 64), range(0x17000, 0x18D09, 64))
_COMPATIBILITY = range(0x2F800, 0x2FA1E)


@dataclass(frozen=True)
class Difference:
    """A text, and its tokens by either tokenizer: with their ids where they are called the same, or their token types."""

    text: Text
    one: tuple[str, ...]
    other: tuple[str, ...]

    def in_words(self, one: str, other: str) -> str:
        """One line with both lists, each with its tokenizer's name; of long ones what is around the first difference."""
        place = next((place for place, pair in enumerate(zip(self.one, self.other, strict=False)) if pair[0] != pair[1]), 0)
        first = max(0, place - _TOKENS_SHOWN // 2)
        return f"{_shown_text(self.text)} becomes {_shown(self.one, first)} by {one} and {_shown(self.other, first)} by {other}"


def first_difference(one: Tokenizer, other: Tokenizer, *, with_types: bool) -> Difference | None:
    """The first text that gets other tokens from `other` than from `one`; None where no text was found.

    Neither may make a text many times as long, or take forever on it (`tokenizer_form`), and both cut and pad nothing afterwards.

    Args:
        one: a tokenizer.
        other: the one that is compared with it.
        with_types: other token types are a difference too.
    """
    if (found := _first_of(one, other, PROBES, with_types)) is not None:
        return found
    steps = [_steps(tokenizer) for tokenizer in (one, other)]
    if steps[0] == steps[1]:
        return None
    texts = [*_around_added_tokens(one, other), *_quoted(steps), *_long_words(one, other)]
    texts += [text for tokenizer in (one, other) for text in words_of(tokenizer.get_vocab())]
    if any(steps[0][name] != steps[1][name] for name in ("normalizer", "pre_tokenizer")):
        texts += _characters()
    return _first_of(one, other, list(dict.fromkeys(texts)), with_types)


def words_of(vocabulary: Mapping[str, int]) -> Iterator[str]:
    """Tokens from all over a vocabulary, as the words that they stand for."""
    tokens = sorted(vocabulary)
    for token in tokens[:: max(1, len(tokens) // _VOCABULARY)]:
        yield _MARKS.sub(" ", token)


def is_mark(token: str) -> bool:
    """Whether a token is only what marks a blank or the rest of a word."""
    return not _MARKS.sub(" ", token).strip()


def _first_of(one: Tokenizer, other: Tokenizer, texts: Sequence[Text], with_types: bool) -> Difference | None:
    for start in range(0, len(texts), _BLOCK):
        block = texts[start : start + _BLOCK]
        for text, left, right in zip(block, one.encode_batch_fast(block), other.encode_batch_fast(block), strict=True):
            if left.ids != right.ids:
                return Difference(text, *_named(one, left.ids, other, right.ids))
            if with_types and left.type_ids != right.type_ids:
                return Difference(text, *(tuple(f"type {kind}" for kind in encoding.type_ids) for encoding in (left, right)))
    return None


def _named(one: Tokenizer, ids: Sequence[int], other: Tokenizer, other_ids: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """The tokens of two lists of ids, with the ids where the tokens are called the same."""
    found = ((one, ids), (other, other_ids))
    names = tuple(tuple(str(tokenizer.id_to_token(number)) for number in numbers) for tokenizer, numbers in found)
    if names[0] != names[1]:
        return names
    return tuple(tuple(f"{name} ({number})" for name, number in zip(names[0], numbers, strict=True)) for _, numbers in found)


def _shown(tokens: Sequence[str], first: int) -> str:
    last = first + _TOKENS_SHOWN
    shown = [token if len(token) <= _TOKEN_CHARACTERS else f"{token[:_TOKEN_CHARACTERS]}..." for token in tokens[first:last]]
    return str([*(["..."] if first else []), *shown, *(["..."] if len(tokens) > last else [])])


def _shown_text(text: Text) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...") if isinstance(text, str) else f"the pair {text!r}"


def _steps(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a tokenizer does to a text: everything that decides its tokens but weights and merges."""
    steps = {name: _state(getattr(tokenizer, name)) for name in ("normalizer", "pre_tokenizer", "post_processor")}
    model = {name: getattr(tokenizer.model, name, None) for name in _MODEL_SETTINGS}
    added = {number: repr(token) for number, token in tokenizer.get_added_tokens_decoder().items()}
    return {**steps, "model": {"type": type(tokenizer.model).__name__, **model}, "added": added, "vocabulary": tokenizer.get_vocab()}


def _state(component: Any) -> Any:
    return None if component is None else json.loads(component.__getstate__())


def _around_added_tokens(*tokenizers: Tokenizer) -> Iterator[str]:
    """Tokens that are found in a text before it is split, as it stands or not, within a word or not."""
    tokens = {token.content for tokenizer in tokenizers for token in tokenizer.get_added_tokens_decoder().values()}
    for token in sorted(tokens)[:_VOCABULARY]:
        yield f"a {token} b"
        yield f"a{token}b {token.lower()} {token.upper()}"


def _quoted(steps: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the steps look for and put in its place; of a regular expression what is left without its signs."""
    found = dict.fromkeys(string for step in steps for name in ("normalizer", "pre_tokenizer") for string in _strings(step[name]))
    for string in list(found)[:_QUOTED]:
        for text in dict.fromkeys((string, _PATTERN_SIGNS.sub("", string))):
            yield f"a {text} b{text}c {text}{text}"


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if 0 < len(value) <= 100:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _long_words(*tokenizers: Tokenizer) -> Iterator[str]:
    """Words at the limit of either model and one letter longer."""
    limits = {getattr(tokenizer.model, "max_input_chars_per_word", None) for tokenizer in tokenizers}
    for limit in sorted(min(limit, _LONGEST_WORD) for limit in limits if limit is not None):
        yield from ("a" * limit, "a" * (limit + 1))


def _characters() -> Iterator[str]:
    """Every letter and sign within a word, alone and doubled."""
    alike = {number for block in _ALIKE for number in range(block.start, block.stop)}
    chosen = {number for block in _ALIKE for number in block}
    for number in (*_PLANES, *_COMPATIBILITY):
        character = chr(number)
        if (number not in alike or number in chosen) and unicodedata.category(character) not in ("Cn", "Co", "Cs"):
            yield f"a{character}b {character}{character}"
