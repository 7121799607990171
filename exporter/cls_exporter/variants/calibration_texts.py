"""The texts that int8's scales come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cls_runtime.errors import UsageError
from cls_runtime.reading.text_files import read_texts

_MOST_WORDS = 3  # of a text's beginning


@dataclass(frozen=True)
class CalibrationTexts:
    """Where the texts come from: `open` starts over, `count` and `sha256` name them in the manifest. Made by `of` and `of_file`."""

    open: Callable[[], Iterator[str]]
    count: int
    sha256: str

    @classmethod
    def of(cls, texts: Sequence[str]) -> CalibrationTexts:
        """Texts that are in memory."""
        return _counted(lambda: iter(texts))

    @classmethod
    def of_file(cls, file: Path) -> CalibrationTexts:
        """The texts of a file, one a line; it is read anew each time, so that memory does not grow with it.

        Raises:
            UsageError: the file cannot be read or holds no text.
        """
        if file.exists() and not file.is_file():
            raise UsageError(f"calibration file {file} is not a regular file; expected one that can be read twice, one text per line")
        texts = _counted(lambda: (text for text in read_texts([file]) if text.strip()))
        if not texts.count:
            raise UsageError(f"calibration file {file} holds no text; expected some hundred texts, one per line")
        return texts

    def with_beginnings(self) -> CalibrationTexts:
        """Each text, and behind it its first one, two or three words, by turns; the name in the manifest stays.

        A few tokens have the special ones beside them, whose rows make up most of a short text's mean and few of a long one's.
        """

        def open_all() -> Iterator[str]:
            for place, text in enumerate(self.open()):
                yield text
                yield " ".join(text.split()[: 1 + place % _MOST_WORDS])

        return CalibrationTexts(open_all, 2 * self.count, self.sha256)


def _counted(open_texts: Callable[[], Iterator[str]]) -> CalibrationTexts:
    digest = hashlib.sha256()
    count = 0
    for text in open_texts():
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
        count += 1
    return CalibrationTexts(open_texts, count, digest.hexdigest())
