"""The tokens of a text in words: how the vocabulary spells them, and where in the text they are."""

from __future__ import annotations

from dataclasses import dataclass

from cls_runtime.encoding.report import Truncation
from cls_runtime.encoding.texts import Text
from cls_runtime.encoding.tokenizer import TextTokenizer


@dataclass(frozen=True, kw_only=True)
class TextTokens:
    """The tokens of a text as the model gets them, special tokens included.

    Attributes:
        tokens: the tokens as the vocabulary spells them.
        offsets: start and end of each token in characters, a prompt included; (0, 0) for a special token. In a pair, offsets count within
            the text that the token is from.
        ids: the token ids.
        special: whether each token was added by the tokenizer and is not part of the text.
        truncated: what was removed; None if nothing was.
    """

    tokens: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    ids: tuple[int, ...]
    special: tuple[bool, ...]
    truncated: Truncation | None = None


def text_tokens(tokenizer: TextTokenizer, text: Text, index: int, *, truncate_left: bool | None = None, whole: bool = False) -> TextTokens:
    """The tokens of a text; `index` is its place in the caller's input.

    Raises:
        TextError: as `TextTokenizer.located`.
    """
    found = tokenizer.located(text, index, truncate_left=truncate_left, whole=whole)
    encoding, kept = found.encoding, found.kept.tolist()
    # Each of these is a list made anew of all tokens whenever it is asked for.
    spelled, sequence_ids, places = encoding.tokens, encoding.sequence_ids, encoding.offsets
    offsets = []
    for position in kept:
        of, (start, stop) = sequence_ids[position], places[position]
        offsets.append((0, 0) if of is None else (found.before[of] + start, found.before[of] + stop))
    return TextTokens(
        tokens=tuple(spelled[position] for position in kept),
        offsets=tuple(offsets),
        ids=tuple(found.ids.tolist()),
        special=tuple(sequence_ids[position] is None for position in kept),
        truncated=Truncation(index, found.removed, found.at_least) if found.removed else None,
    )
