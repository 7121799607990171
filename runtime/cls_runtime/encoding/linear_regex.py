r"""Which regular expressions a tokenizer may cut or replace with: those whose time is known to grow as the text does, no faster.

The tokenizers library backtracks, and panics where it has done so too often. So a pattern is an alternation of branches, and a branch is

- atoms of one character (a letter, `.`, `\s`, `\p{L}`, `[...]`), each once or `{n}` times, of which at most three may be absent (`?`);
- then one atom of any number (`*`, `+`, `{n,m}`);
- then only atoms that may be absent (`*`, `?`), so that nothing after the long one can fail and make it try again.

Beside these there are the branches of GPT's patterns that look ahead. They scan a run of spaces in vain, once, because `\s+` takes the
whole run after them; so they go with a last branch `\s+`.
"""

from __future__ import annotations

import re

MAX_CHARACTERS = 1000
_MAX_OPTIONAL = 3  # each doubles the ways to match
_ESCAPED = r"\\[pP]\{\^?[A-Za-z_]+\}|\\[sSdDwWnrtf]|\\[^\w\s]"
_ATOM = re.compile(rf"{_ESCAPED}|\[\^?(?:{_ESCAPED}|[^\\\[\]&])+\]|[^\\\[\](){{}}*+?|^$]")
_QUANTIFIER = re.compile(r"(?:([?*+])|\{(\d{1,3})(,(\d{1,3})?)?\})?(?![?*+{])")
_KNOWN_BRANCHES = (
    r"\s+(?!\S)",
    r"\s*[\r\n]+",
    r"\s*[\r\n]",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"'(?i:[sdmt]|ll|ve|re)",
)
_REST_OF_SPACES = r"\s+"


def shortest_match(pattern: str) -> int:
    r"""The number of characters that `pattern` matches at least.

    >>> shortest_match(r" {2,}"), shortest_match(r"\s*")
    (2, 0)

    Raises:
        ValueError: it is not known to be linear.
    """
    if len(pattern) > MAX_CHARACTERS:
        raise ValueError(f"it has {len(pattern):,} characters, expected at most {MAX_CHARACTERS:,}")
    shortest = MAX_CHARACTERS
    place = 0
    while True:
        known = next((branch for branch in _KNOWN_BRANCHES if _is_branch(branch, pattern, place)), None)
        if known is not None and pattern.endswith("|" + _REST_OF_SPACES):
            end, least = place + len(known), 1
        else:
            end, least = _branch(pattern, place)
        shortest = min(shortest, least)
        if end == len(pattern):
            return shortest
        if pattern[end] != "|":
            raise ValueError(f"it has {pattern[end]!r} at character {end}, expected characters, classes and alternatives")
        place = end + 1


def _is_branch(branch: str, pattern: str, place: int) -> bool:
    return pattern.startswith(branch, place) and pattern[place + len(branch) :][:1] in ("", "|")


def _branch(pattern: str, place: int) -> tuple[int, int]:
    """Where the branch that starts at `place` ends, and how many characters it matches at least."""
    least, optional, after_a_long_one = 0, 0, False
    while (atom := _ATOM.match(pattern, place)) is not None:
        quantifier = _QUANTIFIER.match(pattern, atom.end())
        if quantifier is None:
            raise ValueError(f"it has a repeated repetition at character {atom.end()}")
        place = quantifier.end()
        low, may_be_more = _counts(quantifier)
        if after_a_long_one and low:
            raise ValueError(f"it goes back over what it has read where {atom[0]!r} is not found")
        if quantifier[1] == "?":
            optional += not after_a_long_one
        else:
            after_a_long_one |= may_be_more
        least += low
    if optional > _MAX_OPTIONAL:
        raise ValueError(f"it has {optional} optional characters in a row, expected at most {_MAX_OPTIONAL}")
    return place, least


def _counts(quantifier: re.Match[str]) -> tuple[int, bool]:
    """How often an atom occurs at least, and whether it may occur more often."""
    sign, low, comma, _high = quantifier.groups()
    if sign is not None:
        return int(sign == "+"), True
    return (1, False) if low is None else (int(low), comma is not None)
