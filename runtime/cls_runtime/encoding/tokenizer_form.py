"""What a tokenizer.json may hold. The tokenizers library believes it: some of what it can say ends in an abort, a panic or a hang.

What is refused here by its form are patterns that are not known to be linear (`linear_regex`), normalizers that make a text many times as
long, and templates that do not take each text once. The vocabulary, which is most of the file, is not parsed here: it can do no harm.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from cls_runtime.bundle.typed_json import parsed, shown
from cls_runtime.encoding.linear_regex import shortest_match

# How many times as long, in bytes, all steps together may make a text. A space that becomes U+2581 is 3, a table of SentencePiece 11.
MAX_GROWTH = 128
MAX_STEPS = 100
MAX_ALL_ADDED_BYTES = 2**22  # of all added tokens, which are searched for with a machine of 60 times their size
MAX_ADDED_BYTES = 1000  # of an added token, which the library normalizes when it loads the file, and of what is put before a text
MAX_ID = 2**31 - 1  # token ids are int32
# WordPiece takes time that grows with the square of a word: 100 in every BERT.
MAX_WORD_CHARACTERS = 500
# Unigram tries each piece at each place of a text; SentencePiece makes pieces of at most 16 characters.
MAX_PIECE_BYTES = 512
# Its pieces become a tree with a node of 350 bytes for each beginning of a piece. XLM-RoBERTa's 250,000 have less than a million.
MAX_NODES = 2**22
MAX_PIECES_BYTES = 2**25  # beyond which nobody counts them
MAX_PREFIX_CHARACTERS = 100  # of what marks a piece within a word, "##" in BERT: it is put before each piece that is looked up

_NORMALIZERS = {"BertNormalizer", "Strip", "StripAccents", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt", "Precompiled", "Replace"}
_NORMALIZERS |= {"Prepend", "ByteLevel"}
_PRE_TOKENIZERS = {"BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Metaspace", "Whitespace", "Split", "Punctuation"}
_PRE_TOKENIZERS |= {"WhitespaceSplit", "Digits", "UnicodeScripts"}
_POST_PROCESSORS = {"BertProcessing", "RobertaProcessing", "ByteLevel", "TemplateProcessing"}
_VOCABULARY = re.compile(rb'"vocab"\s*:\s*\[')  # Unigram's is a list, all others' are objects
_SETTINGS = (b'"added_tokens"', b'"normalizer"', b'"pre_tokenizer"', b'"post_processor"')


def check_form(data: bytes) -> int:
    """Refuses the text of a tokenizer.json that the library must not see.

    Returns:
        How many bytes a piece of Unigram has at most; 0 where there are none.

    Raises:
        ValueError: it is no JSON, or says something that this version does not know to be harmless; one line says what.
    """
    settings = _settings(data)
    added = sum(map(_bytes_of_added_token, _list(settings.get("added_tokens") or [], "added_tokens")))
    if added > MAX_ALL_ADDED_BYTES:
        raise ValueError(f"its added tokens have {added:,} bytes, expected at most {MAX_ALL_ADDED_BYTES:,}")
    growth = 1.0
    normalizers = list(_steps(settings.get("normalizer"), "normalizers", _NORMALIZERS))
    if (tables := sum(step["type"] == "Precompiled" for step in normalizers)) > 1:
        raise ValueError(f"it has {tables} tables of SentencePiece, expected one")
    for step in normalizers:
        growth *= _growth_of_normalizer(step)
    for step in _steps(settings.get("pre_tokenizer"), "pretokenizers", _PRE_TOKENIZERS):
        growth *= _growth_of_pre_tokenizer(step)
    if growth > MAX_GROWTH:
        raise ValueError(f"it may make a text {growth:,.0f} times as long, expected at most {MAX_GROWTH}")
    processors = list(_steps(settings.get("post_processor"), "processors", _POST_PROCESSORS))
    adding = [step for step in processors if step["type"] != "ByteLevel"]
    if len(adding) > 1:
        raise ValueError(f"it adds special tokens {len(adding)} times, expected once")
    for step in adding:
        _check_processor(step)
    return _longest_piece(data)


def check_model(tokenizer: Tokenizer, longest_piece: int) -> None:
    """Refuses a model whose time grows with the square of a text's length, or that gives a text other tokens each time.

    Args:
        tokenizer: what the library made of the file.
        longest_piece: the bytes of a piece at most, as `check_form` says.

    Raises:
        ValueError: it is one.
    """
    model = tokenizer.model
    kind = type(model).__name__
    if kind == "WordPiece" and model.max_input_chars_per_word > MAX_WORD_CHARACTERS:
        raise ValueError(f"max_input_chars_per_word is {model.max_input_chars_per_word:,}, expected at most {MAX_WORD_CHARACTERS}")
    if kind == "BPE" and model.dropout:
        raise ValueError(f"its dropout is {model.dropout}, which gives a text other tokens each time, expected none")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        size = len(getattr(model, name, None) or "")
        if size > MAX_PREFIX_CHARACTERS:
            raise ValueError(f"its {name} has {size:,} characters, expected at most {MAX_PREFIX_CHARACTERS}")
    if kind == "Unigram" and longest_piece > MAX_PIECE_BYTES:
        longest = max(len(piece.encode()) for piece in tokenizer.get_vocab())
        if longest > MAX_PIECE_BYTES:
            raise ValueError(f"it has a piece of {longest:,} bytes, expected at most {MAX_PIECE_BYTES}")


def _longest_piece(data: bytes) -> int:
    """No piece of Unigram has more bytes. Refuses pieces that would be many times as large as a tree.

    Strings are found by their quotes: to parse the file would take ten times as long.
    """
    place = data.find(b'"vocab"')
    while place >= 0 and not _VOCABULARY.match(data, place):
        place = data.find(b'"vocab"', place + 1)
    if place < 0 and b"\\u00" not in data:  # an escape may hide any key
        return 0
    text = np.frombuffer(data, dtype=np.uint8, offset=max(0, place))
    quotes = _unescaped(text, np.flatnonzero(text == ord('"')))
    sizes = np.diff(quotes)[::2] - 1
    if (whole := int(sizes.sum())) > MAX_NODES:
        places = zip((quotes[:-1:2] + 1).tolist(), sizes.tolist(), strict=True)
        nodes = whole if whole > MAX_PIECES_BYTES else _beginnings([text[start : start + size].tobytes() for start, size in places])
        if nodes > MAX_NODES:
            raise ValueError(f"its pieces have {nodes:,} beginnings, expected at most {MAX_NODES:,}")
    return int(sizes.max(initial=0))


def _unescaped(text: NDArray[np.uint8], quotes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Those of the `quotes` in `text` that stand behind an even number of backslashes."""
    counted, odd = np.arange(len(quotes)), np.zeros(len(quotes), dtype=bool)
    for back in range(1, 2 * MAX_PIECE_BYTES + 2):
        counted = counted[text[quotes[counted] - back] == ord("\\")]
        if not len(counted):
            return quotes[~odd]
        odd[counted] ^= True
    raise ValueError(f"it has more than {2 * MAX_PIECE_BYTES} backslashes in a row")


def _beginnings(pieces: list[bytes]) -> int:
    """How many different beginnings the pieces have, themselves included."""
    shared = 0
    for first, second in itertools.pairwise(sorted(pieces)):
        shared += next((place for place, (one, other) in enumerate(zip(first, second, strict=False)) if one != other), len(first))
    return sum(map(len, pieces)) - shared


def _settings(data: bytes) -> dict[str, Any]:
    """The file's values without its model, which comes last in what the library writes.

    What stands before `"model"` is parsed alone if it is whole without it and the rest names no setting, nor has an escape that could hide
    a letter of one. Otherwise everything is parsed, which takes ten times as long.
    """
    place = data.find(b'"model"')
    if place >= 0 and not any(data.find(name, place) >= 0 for name in (*_SETTINGS, b"\\u00")):
        try:
            return _object(parsed((data[:place] + b'"model":null}').decode()), "it")
        except ValueError:
            pass  # that word is in something else, or the file is damaged: the next line says how
    return _object(parsed(data.decode()), "it")


def _steps(component: Any, name: str, known: set[str]) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or post-processor, those of sequences in their place."""
    waiting = [] if component is None else [component]
    for _ in range(MAX_STEPS):
        if not waiting:
            return
        step = _object(waiting.pop(0), "a step")
        kind = step.get("type")
        if kind == "Sequence":
            waiting[:0] = _list(step.get(name), name)
        elif isinstance(kind, str) and kind in known:
            yield step
        else:
            raise ValueError(f"it has a step of type {shown(kind)}, expected one of {', '.join(sorted(known))}")
    raise ValueError(f"it has more than {MAX_STEPS} {name}")


def _growth_of_normalizer(step: Mapping[str, Any]) -> float:
    """How many times as long it may make a text, in bytes."""
    kind = step["type"]
    if kind == "Replace":
        content = len(_text(step.get("content"), "content").encode())
        shortest = _shortest(step.get("pattern"))
        return 1.0 + content if shortest == 0 else max(1.0, content / shortest)
    if kind == "Prepend":
        _checked_size(step.get("prepend"), "what is put before a text")
    if kind == "Precompiled":
        return _longest_replacement(step.get("precompiled_charsmap"))
    return 2.0 if kind == "ByteLevel" else 1.0


def _growth_of_pre_tokenizer(step: Mapping[str, Any]) -> float:
    if step["type"] == "Split":
        _shortest(step.get("pattern"))
    return {"ByteLevel": 2.0, "Metaspace": 3.0}.get(step["type"], 1.0)


def _shortest(pattern: Any) -> int:
    """How many bytes a pattern of a Replace or a Split matches at least."""
    kinds = _object(pattern, "a pattern")
    if set(kinds) == {"String"}:
        return len(_text(kinds["String"], "a pattern").encode())
    if set(kinds) == {"Regex"}:
        regex = _text(kinds["Regex"], "a pattern")
        try:
            return shortest_match(regex)
        except ValueError as error:
            raise ValueError(f"its pattern {shown(regex)} may take for ever on some text: {error}") from None
    raise ValueError(f"a pattern is {shown(pattern)}, expected String or Regex")


def _longest_replacement(table: Any) -> float:
    """The bytes of the longest text that SentencePiece's table puts in the place of a character, which has three where it matters."""
    text = _text(table, "precompiled_charsmap")
    try:
        packed = base64.b64decode(text, validate=True)
        replacements = packed[4 + int.from_bytes(packed[:4], "little") :]
        replacements.decode()
    except ValueError:
        replacements = b""
    if not replacements:
        raise ValueError("its precompiled_charsmap is not a table of SentencePiece")
    return max(1.0, max(map(len, replacements.split(b"\0"))) / 3)


def _bytes_of_added_token(token: Any) -> int:
    entry = _object(token, "an added token")
    _check_id(entry.get("id"))
    return _checked_size(entry.get("content"), "an added token")


def _checked_size(value: Any, name: str) -> int:
    """The bytes of what is not split up, or normalized only once."""
    size = len(_text(value, name).encode())
    if size > MAX_ADDED_BYTES:
        raise ValueError(f"{name} has {size:,} bytes, expected at most {MAX_ADDED_BYTES:,}")
    return size


def _check_processor(step: Mapping[str, Any]) -> None:
    """Each text is taken once, and every special token is there. Ids stand in the step itself."""
    if step["type"] != "TemplateProcessing":
        for name in ("sep", "cls"):
            _check_id(_list(step.get(name), name)[1:2])
        return
    tokens = _object(step.get("special_tokens"), "special_tokens")
    for token in tokens.values():
        _check_id(_list(_object(token, "a special token").get("ids"), "ids"))
    for name, texts in (("single", ["A"]), ("pair", ["A", "B"])):
        taken: list[Any] = []
        for piece in _list(step.get(name), name):
            for kind, value in _object(piece, "a piece").items():
                place = _object(value, "a piece")
                _check_id(place.get("type_id"))
                if kind == "Sequence":
                    taken.append(place.get("id"))
                elif _text(place.get("id"), "an id") not in tokens:
                    raise ValueError(f"{name} names {shown(place['id'])}, which is not among its special tokens")
        if taken != texts:
            raise ValueError(f"{name} takes the texts {shown(taken)}, expected {texts}")


def _check_id(value: Any) -> None:
    for number in value if isinstance(value, list) else [value]:
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= MAX_ID:
            raise ValueError(f"an id is {shown(number)}, expected 0 to {MAX_ID}")


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {shown(value)}, expected an object")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {shown(value)}, expected a list")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shown(value)}, expected a text")
    return value
