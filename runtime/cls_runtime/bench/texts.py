"""Texts to measure with: what every Python has, so that a benchmark needs no data set and no network."""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

SHORTEST_WORDS, LONGEST_WORDS = 8, 40


def docstring_sentences(count: int) -> list[str]:
    """Up to `count` distinct sentences of 8 to 40 words, about 24 tokens, of Python's own docstrings: the same whenever one Python runs."""
    return _first(count, _sentences(_modules()))


def calibration_sentences(count: int) -> list[str]:
    """The same from the other end of the library, for whoever calibrates on texts that are not measured with."""
    return _first(count, _sentences(_modules()[::-1]))


def sentences_of(text: str) -> list[str]:
    """The sentences of running text, white space made one blank.

    >>> sentences_of("Is it?  It is.   So say I.")
    ['Is it?', 'It is.', 'So say I.']
    """
    return re.split(r"(?<=[.!?])\s+", " ".join(text.split()))


def _first(count: int, sentences: Iterator[str]) -> list[str]:
    distinct: dict[str, None] = {}
    for sentence in sentences:
        distinct[sentence] = None
        if len(distinct) >= count:
            break
    return list(distinct)[:count]


def _modules() -> list[Path]:
    library = Path(sysconfig.get_path("stdlib"))
    return sorted(library.glob("*.py")) + sorted(library.glob("[a-z]*/*.py"))


def _sentences(modules: Sequence[Path]) -> Iterator[str]:
    for path in modules:
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                for sentence in sentences_of(text):
                    if SHORTEST_WORDS <= len(sentence.split()) <= LONGEST_WORDS and _is_prose(sentence):
                        yield sentence


def _is_prose(sentence: str) -> bool:
    """Not an example session or a table of numbers, which have five times as many tokens as a sentence of as many words."""
    letters = sum(character.isalpha() or character == " " for character in sentence)
    return ">>>" not in sentence and letters >= 0.85 * len(sentence)
