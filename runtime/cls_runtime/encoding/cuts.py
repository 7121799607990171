"""Where a long text may be cut so that the tokens on one side of the cut are those that the whole text has there.

A tokenizer normalizes a text, splits it into words, and makes tokens of each word alone. So a cut is exact where the normalizer cannot see
across it, where the splitting always splits, and where no added token lies across it. That is known for these kinds of splitting; a
pipeline with a part that is not listed here has no cuts.

    words      BertPreTokenizer: before a blank, on both sides of ASCII punctuation, beside Han characters that the normalizer parts
    blanks     Whitespace, WhitespaceSplit: before a blank
    bytes      ByteLevel with its pattern: before a blank, and where letters, digits and punctuation but the apostrophe meet
    metaspace  Metaspace: before a space

All of them ask for a character before the cut that is no blank, so that a run of blanks is never cut; and the character behind it is ASCII
or Han, which compose with nothing before them in any normal form.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from tokenizers import Tokenizer

Kind = Literal["words", "blanks", "bytes", "metaspace"]

_BLANKS = " \t\n"
_ALNUM = frozenset(string.ascii_letters + string.digits)
_PUNCTUATION = frozenset(string.punctuation)
_HAN_FIRST, _HAN_LAST = "\u4e00", "\u9fff"
# The replacement of Metaspace, which stands for a space.
_LOW_LINE = "\u2581"

# A limit of WordPiece over this says nothing about the words of any language.
_LONGEST_WORD = 10_000

# What treats a character the same whatever is behind it, once that is ASCII. Precompiled goes by grapheme, and none goes over a cut.
_LOCAL_NORMALIZERS = {"BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "Precompiled", "Nmt"}
# What only splits further, from left to right.
_LOCAL_SPLITTERS = {"Digits", "Punctuation"}
_RUN_PATTERNS = {" {2,}", r"\s{2,}|[\n\r\t]"}
# Malayalam's dot reph is the one letter of the first plane that a grapheme may begin with before a space.
_BEGINS_GRAPHEME = "\u0d4e"


@dataclass(frozen=True)
class Cuts:
    """The exact cuts of one tokenizer's texts.

    Attributes:
        plain: the ASCII characters that the normalizer leaves as they are, letters in lower case perhaps.
        blanks: those of space, tab and newline that are blanks to the splitting.
        joined: pairs of neighbours inside added tokens, in lower case, each blank as a space.
        blanks_only: an added token asks whether it stands in a word, so only a blank is a cut.
        han: whether a Han character is always a word.
        starts: whether what is behind a cut may stand alone as a text; before which characters, None for all.
        word_edge: characters of a long word that decide, at either end; all of it is one unknown token. None where that is not known.
        one_blank: whether a run of blanks is as good as one.
    """

    kind: Kind
    plain: frozenset[str]
    blanks: frozenset[str]
    joined: frozenset[tuple[str, str]]
    blanks_only: bool
    han: bool
    starts: frozenset[str] | None
    word_edge: int | None
    one_blank: bool
    normalizer: Any
    patterns: frozenset[str]

    def head(self, text: str, limit: int) -> str | None:
        """The longest beginning of `text` of at most `limit` characters that ends at a cut; None where there is none."""
        for place in range(min(limit, len(text) - 1), 0, -1):
            if self.splits(text[place - 1], text[place]):
                return text[:place]
        return None

    def tail(self, text: str, limit: int) -> str | None:
        """The longest end of `text` of at most `limit` characters that begins at a cut; None where there is none."""
        for place in range(max(len(text) - limit, 1), len(text)):
            if (self.starts is None or text[place] in self.starts) and self.splits(text[place - 1], text[place]):
                return text[place:]
        return None

    def splits(self, left: str, right: str) -> bool:
        """Whether the place between two neighbours is a cut."""
        if right in self.blanks:
            if left in self.plain:
                return left not in _BLANKS and (left.lower(), " ") not in self.joined
            return left > "\x7f" and self._is_foreign_letter(left)
        if self.blanks_only or self.kind in ("blanks", "metaspace"):
            return False
        if left in self.plain and right in self.plain and left not in _BLANKS and (left.lower(), right.lower()) not in self.joined:
            if self.kind == "words":
                return left in _PUNCTUATION or right in _PUNCTUATION
            return _character_class(left) != _character_class(right) and "'" not in (left, right)
        if not self.han or self.kind != "words":
            return False
        return (_is_han(left) or left in self.plain) and (_is_han(right) or right in self.plain) and (_is_han(left) or _is_han(right))

    def shortened(self, text: str) -> str:
        """A text of the same tokens without what cannot add any: blanks behind a blank, the middle of a word that is too long."""
        if self.one_blank:
            text = re.sub(r"[ \t\r\n]{2,}", " ", text)
        if self.word_edge is not None:
            edge = self.word_edge
            text = re.sub(rf"[0-9A-Za-z]{{{2 * edge + 1},}}", lambda run: run[0][:edge] + run[0][-edge:], text)
        return text

    def _is_foreign_letter(self, left: str) -> bool:
        """Whether a letter beyond ASCII stays something that is no blank, and no added token goes on behind it."""
        if not left.isalpha() or not left <= "\uffff" or left == _BEGINS_GRAPHEME:
            return False
        if any(second == " " != first for first, second in self.joined):
            return False
        image = _image(self.normalizer, left)
        return bool(image) and not any(character.isspace() or character in self.patterns for character in image or "")


def cuts_of(tokenizer: Tokenizer) -> Cuts | None:
    """The exact cuts of a tokenizer's texts; None where nothing is known of one of its parts."""
    normalizer = tokenizer.normalizer
    patterns = _patterns(list(_parts(_state(normalizer), "normalizers")))
    splitters = list(_parts(_state(tokenizer.pre_tokenizer), "pretokenizers"))
    kind = _kind(splitters)
    if patterns is None or kind is None:
        return None
    plain = frozenset(
        character
        for character in map(chr, range(32, 127))
        if character not in patterns and _image(normalizer, character) in {character, character.lower()}
    )
    spaces = {_LOW_LINE, " "} if kind == "metaspace" else {" ", "\t", "\n"}
    blanks = frozenset(blank for blank in _BLANKS if blank not in patterns and _image(normalizer, blank) in spaces)
    added = list(tokenizer.get_added_tokens_decoder().values())
    contents = [form for token in added for form in (token.content, _normalized(normalizer, token.content))]
    joined = {pair for content in contents for pair in _neighbours(content)}
    joined |= {(token.content[-1:].lower(), " ") for token in added if token.rstrip}
    vanish = kind in ("words", "blanks")
    word_edge = _word_edge(tokenizer, contents, plain) if vanish and len(splitters) == 1 else None
    return Cuts(
        kind=kind,
        plain=plain,
        blanks=blanks,
        joined=frozenset(joined),
        blanks_only=any(token.single_word for token in added),
        han=_normalized(normalizer, "\u4e2d") == " \u4e2d " and not any(_is_han(c) for text in contents for c in text),
        starts=_starts(kind, splitters, normalizer),
        word_edge=word_edge,
        one_blank=vanish and len(blanks) == len(_BLANKS) and not any(c.isspace() for text in contents for c in text),
        normalizer=normalizer,
        patterns=patterns,
    )


def _kind(splitters: Sequence[Mapping[str, Any]]) -> Kind | None:
    """What the first of them that splits at blanks does; those before it must be local, those behind it see words only."""
    for splitter in splitters:
        name = splitter["type"]
        if name == "BertPreTokenizer":
            return "words"
        if name in ("Whitespace", "WhitespaceSplit"):
            return "blanks"
        if name == "ByteLevel":
            return "bytes" if splitter.get("use_regex", True) else None
        if name == "Metaspace":
            return "metaspace" if splitter.get("split", True) and splitter.get("replacement", _LOW_LINE) == _LOW_LINE else None
        if name not in _LOCAL_SPLITTERS:
            return None
    return None


def _starts(kind: Kind, splitters: Sequence[Mapping[str, Any]], normalizer: Any) -> frozenset[str] | None:
    """Before which characters a text may begin and have the tokens that it has in the middle: a space keeps a second one away."""
    if kind == "words" and len(splitters) == 1:
        return None
    kept = kind in ("words", "blanks") or _normalized(normalizer, " a")[:1] in (" ", _LOW_LINE)
    return frozenset(" ") if kept else frozenset()


def _patterns(normalizers: Sequence[Mapping[str, Any]]) -> frozenset[str] | None:
    """The characters of what is replaced as a string of several; None where a normalizer is not known to see one side of a cut only."""
    characters: set[str] = set()
    for normalizer in normalizers:
        if normalizer["type"] == "Replace":
            content, pattern = normalizer["content"], normalizer["pattern"]
            if pattern.get("Regex") in _RUN_PATTERNS and content in (" ", _LOW_LINE):
                continue
            found = pattern.get("String", "")
            if not found or _ALNUM & set(found) or not content or (any(map(str.isspace, content)) and not found.isspace()):
                return None
            if len(found) > 1:
                characters |= set(found)
        elif normalizer["type"] not in _LOCAL_NORMALIZERS:
            return None
    return frozenset(characters)


def _word_edge(tokenizer: Tokenizer, contents: Sequence[str], plain: frozenset[str]) -> int | None:
    """WordPiece makes one unknown token of a word over its limit, so the middle of a long one says nothing but its length."""
    limit = getattr(tokenizer.model, "max_input_chars_per_word", None)
    if type(tokenizer.model).__name__ != "WordPiece" or limit is None or limit > _LONGEST_WORD:
        return None
    if not plain >= _ALNUM or any(content.isalnum() for content in contents):
        return None
    return int(limit) + max(map(len, contents), default=0) + 1


def _state(part: Any) -> Mapping[str, Any] | None:
    """A normalizer's or a splitter's own JSON, without the vocabulary."""
    state: Mapping[str, Any] | None = None if part is None else json.loads(part.__getstate__())
    return state


def _parts(state: Mapping[str, Any] | None, members: str) -> Iterator[Mapping[str, Any]]:
    if state is not None and state["type"] == "Sequence":
        for member in state[members]:
            yield from _parts(member, members)
    elif state is not None:
        yield state


def _image(normalizer: Any, character: str) -> str | None:
    """What a normalizer makes of a character between two letters; None where it changes those."""
    text = _normalized(normalizer, f"a{character}a")
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == "a" else None


def _normalized(normalizer: Any, text: str) -> str:
    return text if normalizer is None else str(normalizer.normalize_str(text))


def _is_han(character: str) -> bool:
    return _HAN_FIRST <= character <= _HAN_LAST


def _character_class(character: str) -> int:
    return 0 if character.isalpha() else 1 if character.isdigit() else 2


def _neighbours(content: str) -> Iterator[tuple[str, str]]:
    spaced = [" " if character.isspace() or character == _LOW_LINE else character for character in content.lower()]
    return pairwise(spaced)
