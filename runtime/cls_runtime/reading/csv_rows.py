"""The rows of an open CSV file, one at a time, and what to do about a quote that was lost.

A quoted field may hold line ends, so a lost quote makes one field of all rows up to the next quote. The lines of a record that is not CSV
tell which it is: nearly all of them are rows, then the quote of the first one is lost, and reading goes on behind it; none of them is,
then the record is one bad row; anything else ends the file.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from cls_runtime.errors import TextError
from cls_runtime.reading.lines import MAX_LINE_BYTES, Lines, decoded

# A field of this many lines each of which could be a row is no text.
PLAUSIBLE_LINES = 16
# Nor is one of this size nearly all lines of which could be rows; it is looked at before it grows to the size of the longest text.
PLAUSIBLE_CHARACTERS = 2**17
_MOST = 0.9

_Line = tuple[int, str | None]


def _own_csv() -> Any:
    """The module below `csv` once more. How long a field may be is a setting of the module, and the other one is the whole process's."""
    found = importlib.util.find_spec("_csv")
    if found is None or found.loader is None:
        raise ImportError("this Python has no module _csv")
    own = importlib.util.module_from_spec(found)
    found.loader.exec_module(own)
    own.field_size_limit(MAX_LINE_BYTES)
    return own


_CSV = _own_csv()


class CsvRows:
    """An iterator over (number of its last line, fields, error) of each row that is not blank; the header is the first.

    Bytes that are not UTF-8 are lone surrogates in the fields. An error has no fields, and the number of the line that it begins at.

    Args:
        lines: of the file.
        name: what errors call it.
        delimiter: what separates fields, one character.

    Attributes:
        width: how many fields a row has; set it when the header is known.

    Raises:
        TextError: while iterating; a quote is lost, and it cannot be told where.
    """

    def __init__(self, lines: Lines, name: str, delimiter: str = ",") -> None:
        self.width = 0
        self._lines = lines
        self._name = name
        self._delimiter = delimiter
        self._again: deque[_Line] = deque()  # lines that are read once more
        self._record: list[_Line] = []  # the lines of the row that is being read
        self._reader = _CSV.reader(self._fed(), delimiter=self._delimiter, strict=True)

    def __iter__(self) -> CsvRows:
        return self

    def __next__(self) -> tuple[int, list[str], str]:
        while True:
            self._record = []
            try:
                row = next(self._reader)
            except _CSV.Error as error:
                return self._bad(error)
            if row:
                self._check_plausible()
                return self._record[-1][0], row, ""

    def _fed(self) -> Iterator[str]:
        """The lines of the rows, noted in `_record`."""
        size = 0
        while True:
            if self._again:
                number, line = self._again.popleft()
            else:
                taken = next(self._lines, None)
                if taken is None:
                    return
                number, line = taken[0], None if taken[1] is None else taken[1].decode("utf-8", "surrogateescape")
            before = size if self._record else 0
            size = before + len(line or "")
            self._record.append((number, line))
            if line is None or size > MAX_LINE_BYTES:
                raise _CSV.Error(f"longer than {MAX_LINE_BYTES:,} bytes")
            if size > PLAUSIBLE_CHARACTERS >= before and len(self._record) > PLAUSIBLE_LINES and self._are_rows(self._record[1:]):
                raise _CSV.Error(f"a field of more than {PLAUSIBLE_CHARACTERS:,} characters, nearly all lines of which are rows")
            yield line

    @property
    def first_line(self) -> str:
        """The first line of the row that was read last."""
        return (self._record[0][1] or "") if self._record else ""

    def _bad(self, error: Exception) -> tuple[int, list[str], str]:
        """What could not be read as a row; what follows it is read next."""
        (number, line), *others = self._record
        self._reader = _CSV.reader(self._fed(), delimiter=self._delimiter, strict=True)
        if line is None:
            return number, [], decoded(None, f"{self._name} line {number}")[1]
        if others and self.width:
            if self._are_rows(others):
                self._again.extendleft(reversed(others))
            elif self.width == 1 or any(self._likeness(text) for _, text in others if text is None or text.strip()):
                self._stop()
        return number, [], f"{self._name} line {number} is not CSV ({_reason(error, several=bool(others))})"

    def _check_plausible(self) -> None:
        """Refuses a field of many lines each of which could be a row: two lost quotes look like one good field.

        Raises:
            TextError: see above.
        """
        if self.width > 1 and len(self._record) > PLAUSIBLE_LINES and all(self._likeness(line) for _, line in self._record[1:]):
            self._stop()

    def _stop(self) -> None:
        first, last = self._record[0][0], self._record[-1][0]
        what = "a quote opens in the first of them and seems to be lost, and which of them are rows cannot be told"
        raise TextError(f"{self._name} lines {first} to {last}: {what}; mend the quote, or convert the file to .jsonl")

    def _are_rows(self, lines: Sequence[_Line]) -> bool:
        """Whether nearly all of the lines that are not blank look like rows. Of a single column any line does, which says nothing."""
        likely = [self._likeness(line) for _, line in lines if line is None or line.strip()]
        return self.width > 1 and likely.count(1.0) >= _MOST * len(likely)

    def _likeness(self, line: str | None) -> float:
        """How much a line looks like a row: 1 just so, 0.5 with a quote in a field that is not quoted, 0 not at all."""
        if line is None:
            return 0.0
        try:
            fields: list[str] = next(_CSV.reader([line], delimiter=self._delimiter, strict=True), [])
        except _CSV.Error:  # a quoted field that goes on in the next line is the last of this one
            return float(0 < len(loose_fields(line, self._delimiter)) <= self.width)
        if len(fields) != self.width:
            return 0.0
        quotes = [field.count('"') for field in fields]
        quoted = sum(2 * count + 2 for count in quotes if count)
        return 1.0 if line.count('"') >= quoted else 0.5


def loose_fields(line: str, delimiter: str) -> list[str]:
    """The fields of a line that may be no row; a quote in a wrong place is a letter. None of a line that cannot be split at all."""
    fields: list[str] = []
    with contextlib.suppress(_CSV.Error):
        fields = next(_CSV.reader([line], delimiter=delimiter), [])
    return fields


def _reason(error: Exception, *, several: bool) -> str:
    reason = str(error)
    if "new-line character" in reason:
        reason = "a carriage return without a line feed outside of quotes; end lines with LF or CRLF"
    return f"{reason}; a quote opens in this line and is not closed as it should be" if several else reason
