"""Names that reach into a column: `doc.text` is the field `text` of the column `doc`. A column whose own name holds the dot comes first."""

from __future__ import annotations

from collections.abc import Iterator


def ways(name: str) -> Iterator[tuple[str, str | None]]:
    """What a name may mean: a column, and the name within it; None where it is the column's own.

    >>> list(ways("a.b.c"))
    [('a.b.c', None), ('a.b', 'c'), ('a', 'b.c')]
    """
    yield name, None
    end = name.rfind(".")
    while end >= 0:
        yield name[:end], name[end + 1 :]
        end = name.rfind(".", 0, end)


def parts(name: str) -> set[str]:
    """Every column's name that may occur on one of the `ways`.

    >>> sorted(parts("a.b"))
    ['a', 'a.b', 'b']
    """
    words = name.split(".")
    return {".".join(words[start:stop]) for start in range(len(words)) for stop in range(start + 1, len(words) + 1)}
