"""Texts and text pairs to token ids, exactly as transformers' `AutoTokenizer(..., truncation=True)` does it, without transformers.

What is over the maximum length is removed here and counted, not by the tokenizers library, which does not say how much it removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from cls_runtime.bundle.files import read_regular
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.typed_json import parsed, shown
from cls_runtime.encoding.tokenizer_form import MAX_ID, check_form, check_model
from cls_runtime.errors import BundleError, TextError

# A text, or a pair of texts that the model reads as one input.
Text = str | tuple[str, str]
Int32 = NDArray[np.int32]

# An Encoding holds some hundred bytes a token beside the ids, so texts become Encodings in blocks of this many characters.
BLOCK_CHARACTERS = 2**18

MAX_TOKENIZER_BYTES = 2**27
MAX_CONFIG_BYTES = 2**24
# Tokenized when a bundle is opened, so that a tokenizer that fails does it then: a letter, nothing, a sign of no vocabulary, a pair.
_PROBES: tuple[Text, ...] = ("a", "", "\U00012031", ("a", "a"))


@dataclass(frozen=True)
class TokenizedText:
    """One text's tokens: `ids` and `type_ids` int32 [S]; `removed` tokens were over the maximum length."""

    ids: Int32
    type_ids: Int32 | None
    removed: int

    def __len__(self) -> int:
        return len(self.ids)


class TextTokenizer:
    """A bundle's tokenizer. Safe to use from several threads at once."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        pad_id: int,
        truncate_left: bool,
        with_type_ids: bool,
        vocabulary_size: int | None = None,
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._truncate_left = truncate_left
        self._with_type_ids = with_type_ids
        self._largest_id = MAX_ID if vocabulary_size is None else vocabulary_size - 1
        self.max_length = max_length
        self.pad_id = pad_id

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> TextTokenizer:
        """Reads `tokenizer.json` and `tokenizer_config.json`, and the size of the vocabulary in `config.json` where there is one.

        Raises:
            BundleError: a file is missing or broken, says what no tokenizer of a bundle says (`tokenizer_form`), the padding token is
                unknown, or the maximum length leaves no room for a token.
        """
        path = bundle.companion("tokenizer.json")
        config = _read_object(bundle.companion("tokenizer_config.json"))
        tokenizer = _read_tokenizer(path)
        max_length = bundle.manifest.max_length
        for pair, name in ((False, "text"), (True, "pair")):
            special = tokenizer.num_special_tokens_to_add(pair)
            if max_length <= special:
                raise BundleError(f"bundle {bundle.folder} has max_length {max_length}, a {name} needs more than {special} tokens")
        made = cls(
            tokenizer,
            max_length=max_length,
            pad_id=_pad_id(tokenizer, config, bundle),
            truncate_left=config.get("truncation_side") == "left",
            with_type_ids="token_type_ids" in bundle.manifest.inputs,
            vocabulary_size=_vocabulary_size(bundle),
        )
        try:
            for probe in _PROBES:
                made.tokenize([probe])
            made.check_ids(np.array([made.pad_id]))
        except TextError as error:
            raise BundleError(f"{path} cannot be used: {error}; the bundle is damaged, copy or export it again") from None
        return made

    def tokenize(self, texts: Sequence[Text], *, indices: Sequence[int] | None = None) -> list[TokenizedText]:
        """Tokens of each text, special tokens included, at most `max_length` of them.

        Args:
            texts: texts and pairs.
            indices: each text's place in the caller's input, for errors; None where `texts` is that input.

        Raises:
            TypeError: an item is neither a str nor a pair of str.
            TextError: a text that is not valid Unicode (a lone surrogate), or that the library fails on.
            BundleError: a token's id is not one of the model's.
        """
        places = range(len(texts)) if indices is None else indices
        inputs = [checked_text(text, index) for text, index in zip(texts, places, strict=True)]
        tokenized: list[TokenizedText] = []
        rest = iter(inputs)
        for count in _block_sizes(inputs):
            block = list(islice(rest, count))
            try:
                # One short text is quicker without the library's thread pool.
                small = count == 1 and characters(block[0]) < 4096
                encodings = [self._encode_one(block[0])] if small else self._tokenizer.encode_batch_fast(block)
            except BaseException as error:  # TypeError or the bare class, by version; or a panic
                if not isinstance(error, Exception) and not _is_panic(error):
                    raise
                raise _explain(block, places[len(tokenized) :], error) from None
            tokenized += [self._limited(encoding) for encoding in encodings]
        return tokenized

    def _encode_one(self, text: Text) -> Encoding:
        return self._tokenizer.encode(text) if isinstance(text, str) else self._tokenizer.encode(*text)

    def _limited(self, encoding: Encoding) -> TokenizedText:
        whole = np.array(encoding.ids, dtype=np.int64)
        self.check_ids(whole)
        ids = whole.astype(np.int32)
        type_ids = np.array(encoding.type_ids, dtype=np.int32) if self._with_type_ids else None
        removed = len(ids) - self.max_length
        if removed <= 0:
            return TokenizedText(ids, type_ids, 0)
        kept = kept_positions(encoding.sequence_ids, self.max_length, truncate_left=self._truncate_left)
        return TokenizedText(ids[kept], None if type_ids is None else type_ids[kept], removed)

    def check_ids(self, ids: NDArray[np.int64]) -> None:
        """Refuses token ids [n] that the model has no row for; an engine may read beside its table.

        Raises:
            BundleError: there is one.
        """
        largest = int(ids.max(initial=0))
        if largest > self._largest_id:
            raise BundleError(
                f"tokenizer.json has the token id {largest}, the model knows ids up to {self._largest_id}; they are of different models, "
                "export the bundle again"
            )


def kept_positions(sequence_ids: Sequence[int | None], max_length: int, *, truncate_left: bool = False) -> NDArray[np.intp]:
    """The positions that stay when an encoded text or pair is cut to `max_length` tokens, in order.

    Special tokens (None in `sequence_ids`) stay. Of a pair the longer text is cut until both are equally long, then both are:
    transformers' `longest_first`.

    >>> kept_positions([None, 0, 0, 0, None], 4).tolist()
    [0, 1, 2, 4]
    >>> kept_positions([None, 0, 0, 0, None, 1, None], 6).tolist()
    [0, 1, 2, 4, 5, 6]
    """
    owner = np.array([-1 if sequence is None else sequence for sequence in sequence_ids])
    first, second = np.flatnonzero(owner == 0), np.flatnonzero(owner == 1)
    room = max_length - int((owner == -1).sum())
    first_room, second_room = _longest_first(len(first), len(second), room)
    kept = [np.flatnonzero(owner == -1)]
    for positions, count in ((first, first_room), (second, second_room)):
        kept.append(positions[len(positions) - count :] if truncate_left else positions[:count])
    return np.sort(np.concatenate(kept))


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text fit into `room`. The odd token goes to the text that was longer, on a tie to the second."""
    shorter, longer = min(first, second), max(first, second)
    if shorter + longer > room:
        longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room - room // 2
    return (longer, shorter) if first > second else (shorter, longer)


def checked_text(text: object, index: int) -> Text:
    """`text` as a str or a pair.

    Raises:
        TypeError: it is neither; `index` is its place in the message.
    """
    if isinstance(text, str):
        return text
    if isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(part, str) for part in text):
        return (text[0], text[1])
    kind = f"a {type(text).__name__} of {len(text)} items" if isinstance(text, (tuple, list)) else type(text).__name__
    raise TypeError(f"text {index} is {kind}, expected a str or a pair (str, str)")


def characters(text: Text) -> int:
    """The length of a text, or of both texts of a pair."""
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


def _block_sizes(texts: Sequence[Text]) -> list[int]:
    """How many texts go into each block: as many as have `BLOCK_CHARACTERS` together, at least one."""
    sizes: list[int] = []
    held = 0
    for text in texts:
        if not sizes or held + characters(text) > BLOCK_CHARACTERS:
            sizes.append(0)
            held = 0
        sizes[-1] += 1
        held += characters(text)
    return sizes


def _is_panic(error: BaseException) -> bool:
    """Whether the library's Rust code panicked, which is no Exception to Python, and so passes every handler."""
    return (type(error).__module__, type(error).__name__) == ("pyo3_runtime", "PanicException")


def _one_line(error: BaseException) -> str:
    """What the library says; it may quote from the file, at any length."""
    return " ".join(str(error).split())[:300]


def _explain(texts: Sequence[Text], indices: Sequence[int], error: BaseException) -> TextError:
    """The error for a block that the library refused: which text it was, and why."""
    for text, index in zip(texts, indices):  # noqa: B905  the indices go on behind the block
        for part in (text,) if isinstance(text, str) else text:
            try:
                part.encode("utf-8")
            except UnicodeEncodeError as reason:
                return TextError(
                    f"text {index} has a lone surrogate U+{ord(part[reason.start]):04X} at character {reason.start}, "
                    "which is no Unicode character; decode the source with errors='replace'",
                    index=index,
                )
    return TextError(f"the tokenizer refused a text among {indices[0]} to {indices[len(texts) - 1]}: {_one_line(error)}")


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        data = read_regular(path, max_bytes=MAX_TOKENIZER_BYTES)
        check_form(data)
        tokenizer = Tokenizer.from_buffer(data)
        check_model(tokenizer, data)
    except BundleError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not _is_panic(error):
            raise
        raise BundleError(
            f"{path} is not a tokenizer of a bundle ({_one_line(error)}); the bundle is damaged, copy or export it again"
        ) from None
    return tokenizer


def _vocabulary_size(bundle: Bundle) -> int | None:
    """The rows of the model's table of tokens, as config.json has them; None where it does not say."""
    if not any(file.path == "config.json" for file in bundle.manifest.files):
        return None
    size = _read_object(bundle.companion("config.json")).get("vocab_size")
    return size if isinstance(size, int) and 0 < size <= MAX_ID else None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = parsed(read_regular(path, max_bytes=MAX_CONFIG_BYTES).decode("utf-8"))
    except (ValueError, OSError) as error:
        raise BundleError(f"{path} is not valid JSON ({error}); the bundle is damaged, copy or export it again") from None
    if not isinstance(value, dict):
        raise BundleError(f"{path} holds a {type(value).__name__}, expected an object; the bundle is damaged, export it again")
    return value


def _pad_id(tokenizer: Tokenizer, config: dict[str, Any], bundle: Bundle) -> int:
    token = config.get("pad_token")
    if isinstance(token, dict):
        token = token.get("content")
    pad_id = tokenizer.token_to_id(token) if isinstance(token, str) else None
    if pad_id is None:
        raise BundleError(
            f"tokenizer_config.json of bundle {bundle.folder} has pad_token {shown(token)}, expected a token of tokenizer.json"
        )
    return int(pad_id)
