"""The name that somebody probably meant, for the error message about one that does not exist."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST_WORD = 60  # whoever typed more did not mean a name
_LEAST_SIMILARITY = 0.6  # as difflib measures it


def closest(word: object, known: Iterable[str]) -> str | None:
    """The most similar of the known names, whatever the case of their letters; None if none is similar.

    >>> closest("--poolin", ["--pooler", "--pooling"]), closest("x", ["fp32"])
    ('--pooling', None)
    """
    if not isinstance(word, str) or not word or len(word) > LONGEST_WORD:
        return None
    from difflib import get_close_matches

    names = {name.lower(): name for name in known if len(name) <= LONGEST_WORD}
    found = get_close_matches(word.lower(), names, n=1, cutoff=_LEAST_SIMILARITY)
    return names[found[0]] if found else None


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """The closest name as a remark to append to a message, such as ` (did you mean int8?)`; empty if none is similar."""
    name = closest(word, known)
    return "" if name is None else f" (did you mean {name}?)"
