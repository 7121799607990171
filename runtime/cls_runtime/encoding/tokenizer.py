"""Texts and text pairs to token ids, exactly as transformers' `AutoTokenizer(..., truncation=True)` does it, without transformers.

What is over the maximum length is removed here and counted, not by the tokenizers library, which does not say how much it removed. Of a
long text no more is tokenized than settles which tokens stay.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from cls_runtime.bundle.folder import Bundle
from cls_runtime.encoding.encodings import EncodingReader, Located
from cls_runtime.encoding.texts import Text, are_single, characters, checked_texts, sizes
from cls_runtime.encoding.tokenizer_files import one_line, pad_id, read_object, read_tokenizer, vocabulary_size
from cls_runtime.encoding.tokenizer_form import MAX_ID
from cls_runtime.encoding.tokens import TokenizedTexts
from cls_runtime.encoding.truncating import is_settled, kept_positions
from cls_runtime.errors import BundleError, TextError, is_refusal

if TYPE_CHECKING:
    from cls_runtime.encoding.cuts import Cuts
    from cls_runtime.encoding.ids_to_text import IdsToText


# An Encoding holds some hundred bytes a token beside the ids, so texts become Encodings in blocks of this many characters.
BLOCK_CHARACTERS = 2**18

_SHORT_CHARACTERS = 4096  # one text of fewer is quicker without the library's thread pool
# Tokenized when a bundle is opened, so that a tokenizer that fails does it then: a letter, nothing, a sign of no vocabulary, a pair.
_PROBES: tuple[Text, ...] = ("a", "", "\U00012031", ("a", "a"))
# Of a text (of each text of a pair) with more characters than the first number so many are tokenized, then more where they do not settle
# which tokens stay. Beyond the last number a text must be cut or is refused: a character takes 200 to 400 bytes while it is tokenized.
LONG_CHARACTERS = (2**16, 2**18, 2**20)

_SURROGATE = re.compile("[\ud800-\udfff]")


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
        self.truncate_left = truncate_left
        self._largest_id = MAX_ID if vocabulary_size is None else vocabulary_size - 1
        self.max_length = max_length
        self.pad_id = pad_id
        self._reader = EncodingReader(max_length=max_length, with_type_ids=with_type_ids, check_ids=self.check_ids)

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> TextTokenizer:
        """Reads `tokenizer.json` and `tokenizer_config.json`, and the size of the vocabulary in `config.json` where there is one.

        Raises:
            BundleError: a file is missing or broken, says what no tokenizer of a bundle says (`tokenizer_form`), the padding token is
                unknown, or the maximum length leaves no room for a token.
        """
        path = bundle.companion("tokenizer.json")
        config = read_object(bundle.companion("tokenizer_config.json"))
        tokenizer = read_tokenizer(path)
        max_length = bundle.manifest.max_length
        for pair, name in ((False, "text"), (True, "pair")):
            special = tokenizer.num_special_tokens_to_add(pair)
            if max_length <= special:
                raise BundleError(f"bundle {bundle.folder} has max_length {max_length}, a {name} needs more than {special} tokens")
        made = cls(
            tokenizer,
            max_length=max_length,
            pad_id=pad_id(tokenizer, config, bundle),
            truncate_left=config.get("truncation_side") == "left",
            with_type_ids="token_type_ids" in bundle.manifest.inputs,
            vocabulary_size=vocabulary_size(bundle),
        )
        try:
            for probe in _PROBES:
                made.tokenize([probe])
            made.check_ids(np.array([made.pad_id]))
        except TextError as error:
            raise BundleError(f"{path} cannot be used: {error}; the bundle is damaged, copy or export it again") from None
        return made

    def tokenize(self, texts: Sequence[Text], *, indices: Sequence[int] | None = None, truncate_left: bool | None = None) -> TokenizedTexts:
        """Tokens of each text, special tokens included, at most `max_length` of them.

        Args:
            texts: texts and pairs.
            indices: each text's place in the caller's input, for errors; None where `texts` is that input.
            truncate_left: whether the end of a text stays that is too long; None for what the bundle says.

        Raises:
            TypeError: an item is neither a str nor a pair of str.
            TextError: a text that is not valid Unicode (a lone surrogate), that the library fails on, or so long that it must be cut and
                has no place for it.
            BundleError: a token's id is not one of the model's.
        """
        left = self.truncate_left if truncate_left is None else truncate_left
        places = range(len(texts)) if indices is None else indices
        inputs = checked_texts(texts, places)
        parts: list[TokenizedTexts] = []
        done = 0
        for count in _block_sizes(inputs):
            block = inputs[done : done + count]
            at_least = False
            encodings: Sequence[Encoding]
            if count == 1 and characters(block[0]) > LONG_CHARACTERS[0]:
                encoding, complete, _ = self._encode_long(block[0], places[done], left=left)
                encodings, at_least = [encoding], not complete
            else:
                encodings = self._encodings(block, places[done:])
            zero = are_single(block) and self._single_types_are_zero
            parts.append(self._reader.tokens(encodings, truncate_left=left, at_least=at_least, types_are_zero=zero))
            done += count
        return TokenizedTexts.joined(parts or [self._reader.tokens([], truncate_left=left)])

    def _encodings(self, texts: Sequence[Text], indices: Sequence[int], *, located: bool = False) -> Sequence[Encoding]:
        """The library's encodings, with places or faster; it names no text that it fails on, `_explain` does."""
        try:
            if len(texts) > 1 or (characters(texts[0]) >= _SHORT_CHARACTERS and not located):
                return self._tokenizer.encode_batch_fast(texts)
            (text,) = texts
            return [self._tokenizer.encode(text) if isinstance(text, str) else self._tokenizer.encode(*text)]
        except BaseException as error:  # TypeError or the bare class, by version; or a panic
            if not is_refusal(error):
                raise
            raise _explain(texts, indices, error) from None

    @cached_property
    def _cuts(self) -> Cuts | None:
        from cls_runtime.encoding.cuts import cuts_of  # a part of a start's time, and few texts are long

        return cuts_of(self._tokenizer)

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of the tokens that stand for no text."""
        return frozenset(token for token, added in self._tokenizer.get_added_tokens_decoder().items() if added.special)

    def located(self, text: Text, index: int, *, truncate_left: bool | None = None, whole: bool = False) -> Located:
        """A text's tokens, those of `tokenize`, with places in the text.

        With `whole` all of them stay. Errors are those of `tokenize`; also where only a text without its runs of blanks settles the tokens,
        since places would be others, and for a `whole` one of more characters than are ever tokenized at once.
        """
        left = self.truncate_left if truncate_left is None else truncate_left
        if whole:
            return self._located_whole(text, index)
        if characters(text) > LONG_CHARACTERS[0]:
            encoding, complete, before = self._encode_long(text, index, left=left, located=True)
        else:
            (encoding,), complete, before = self._encodings([text], [index], located=True), True, [0, 0]
        kept = kept_positions(encoding.sequence_ids, self.max_length, truncate_left=left)
        found = self._reader.tokens([encoding], truncate_left=left, at_least=not complete)
        removed, at_least = int(found.removed[0]), bool(found.at_least[0])
        return Located(encoding=encoding, kept=kept, ids=found.ids, before=before, removed=removed, at_least=at_least)

    def _located_whole(self, text: Text, index: int) -> Located:
        if characters(text) > LONG_CHARACTERS[-1]:
            raise TextError(
                f"text {index} has {characters(text):,} characters, at most {LONG_CHARACTERS[-1]:,} are tokenized as a whole; split it",
                index=index,
            )
        (encoding,) = self._encodings([text], [index], located=True)
        ids = np.array(encoding.ids, dtype=np.int64)
        self.check_ids(ids)
        return Located(encoding=encoding, kept=np.arange(len(ids)), ids=ids.astype(np.int32), before=[0, 0])

    @cached_property
    def ids_to_text(self) -> IdsToText:
        """The way back."""
        from cls_runtime.encoding.ids_to_text import IdsToText

        return IdsToText(self._tokenizer)

    def _encode_long(self, text: Text, index: int, *, left: bool, located: bool = False) -> tuple[Encoding, bool, list[int]]:
        """As much of a long text as settles its tokens, whether that is all, and how many characters of each part are before it."""
        whole: tuple[str, ...] = (text,) if isinstance(text, str) else text
        if any(not part.isascii() and _SURROGATE.search(part) for part in whole):
            raise _explain([text], [index], ValueError())
        parts = whole
        for limit in LONG_CHARACTERS:
            kept = [found for part in parts if (found := self._part(part, limit, left=left)) is not None]
            if len(kept) == len(parts):
                (encoding,) = self._encodings([kept[0] if len(kept) == 1 else (kept[0], kept[1])], [index], located=located)
                complete = [len(part) <= limit for part in parts]
                if all(complete) or is_settled(encoding.sequence_ids, complete, self.max_length):
                    before = [len(part) - len(held) if left else 0 for part, held in zip(parts, kept, strict=True)]
                    return encoding, all(complete), before
                if len(parts) == 2 and min(map(len, parts)) > LONG_CHARACTERS[-1] and len(encoding) > 2 * self.max_length:
                    break  # both keep half, and the odd token is the longer one's: more of them would not say whose
            if parts is whole and self._cuts is not None and not located:
                parts = tuple(self._cuts.shortened(part) for part in whole)
        raise TextError(
            f"text {index} has {characters(text):,} characters, and the tokens that the model takes cannot be determined from "
            f"{LONG_CHARACTERS[-1]:,} of them (docs/guides/embed.md, Long texts); shorten it, or split it at blanks",
            index=index,
        )

    def _part(self, part: str, limit: int, *, left: bool) -> str | None:
        """`part`, or at most `limit` characters of it up to a cut, from the side that stays; None where it has no cut there."""
        if len(part) <= limit:
            return part
        if self._cuts is None:
            return None
        return self._cuts.tail(part, limit) if left else self._cuts.head(part, limit)

    @cached_property
    def _single_types_are_zero(self) -> bool:
        """Whether no text that is no pair gets another type id than 0: they are constants of the tokenizer, not of the text."""
        probe = self._tokenizer.encode("a")
        return 0 in probe.sequence_ids and not any(probe.type_ids)

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


def _block_sizes(texts: Sequence[Text]) -> list[int]:
    """How many texts go into each block: as many as have `BLOCK_CHARACTERS` together, at least one; a long text alone."""
    if len(texts) == 1:
        return [1]
    given = sizes(texts)
    given[given > LONG_CHARACTERS[0]] = BLOCK_CHARACTERS + 1
    ends = given.cumsum()
    starts = [0]
    while starts[-1] < len(texts):
        start = starts[-1]
        last = int(np.searchsorted(ends, ends[start] - given[start] + BLOCK_CHARACTERS, side="right"))
        starts.append(max(start + 1, last))
    return [stop - start for start, stop in itertools.pairwise(starts)]


def _explain(texts: Sequence[Text], indices: Sequence[int], error: BaseException) -> TextError:
    """The error for a block that the library refused: which text it was, and why."""
    for text, index in zip(texts, indices):  # noqa: B905  the indices go on behind the block
        for part in (text,) if isinstance(text, str) else text:
            try:
                part.encode("utf-8")
            except UnicodeEncodeError as reason:
                return TextError(
                    f"text {index} has a lone surrogate U+{ord(part[reason.start]):04X} at character {reason.start}, "
                    "which is not a Unicode character; decode the source with errors='replace'",
                    index=index,
                )
    return TextError(f"the tokenizer refused a text among {indices[0]} to {indices[len(texts) - 1]}: {one_line(error)}")
