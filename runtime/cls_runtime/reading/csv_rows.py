"""The rows of an open CSV file, one at a time, and what to do about a quote that was lost.

A quoted field may hold line ends, so a lost quote makes one field of all rows up to the next quote. The lines of a record that is not CSV
tell which it is: nearly all of them are rows, then the quote of the first one is lost, and reading goes on behind it; none of them is,
then the record is one bad row; anything else ends the file.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator

from cls_runtime.errors import TextError
from cls_runtime.reading.lines import MAX_LINE_BYTES, Lines, decoded

# A field of this many lines each of which could be a row is no text.
PLAUSIBLE_LINES = 16
_MOST = 0.9

_Line = tuple[int, str | None]


class CsvRows:
    """An iterator over (number of its last line, fields, error) of each row that is not blank; the header is the first.

    Bytes that are not UTF-8 are lone surrogates in the fields. An error has no fields, and the number of the line that it begins at.

    Attributes:
        width: how many fields a row has; set it when the header is known.

    Raises:
        TextError: while iterating; a quote is lost, and it cannot be told where.
    """

    def __init__(self, lines: Lines, name: str) -> None:
        self.width = 0
        self._lines = lines
        self._name = name
        self._again: deque[_Line] = deque()  # lines that are read once more
        self._record: list[_Line] = []  # the lines of the row that is being read
        self._reader = csv.reader(self._fed(), strict=True)

    def __iter__(self) -> CsvRows:
        return self

    def __next__(self) -> tuple[int, list[str], str]:
        while True:
            self._record = []
            try:
                row = next(self._reader)
            except csv.Error as error:
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
            size = len(line or "") + (size if self._record else 0)
            self._record.append((number, line))
            if line is None or size > MAX_LINE_BYTES:
                raise csv.Error(f"longer than {MAX_LINE_BYTES:,} bytes")
            yield line

    def _bad(self, error: csv.Error) -> tuple[int, list[str], str]:
        """What could not be read as a row; what follows it is read next."""
        (number, line), *others = self._record
        self._reader = csv.reader(self._fed(), strict=True)
        if line is None:
            return number, [], decoded(None, f"{self._name} line {number}")[1]
        if others and self.width:
            likely = [_likeness(text, self.width) for _, text in others if text is None or text.strip()]
            if self.width > 1 and likely.count(1.0) >= _MOST * len(likely):
                self._again.extendleft(reversed(others))
            elif self.width == 1 or any(likely):
                self._stop()
        return number, [], f"{self._name} line {number} is not CSV ({_reason(error, several=bool(others))})"

    def _check_plausible(self) -> None:
        """Refuses a field of many lines each of which could be a row: two lost quotes look like one good field.

        Raises:
            TextError: see above.
        """
        if self.width > 1 and len(self._record) > PLAUSIBLE_LINES and all(_likeness(line, self.width) for _, line in self._record[1:]):
            self._stop()

    def _stop(self) -> None:
        first, last = self._record[0][0], self._record[-1][0]
        what = "a quote opens in the first of them and seems to be lost, and which of them are rows cannot be told"
        raise TextError(f"{self._name} lines {first} to {last}: {what}; mend the quote, or convert the file to .jsonl")


def _likeness(line: str | None, width: int) -> float:
    """How much a line looks like a row of `width` fields: 1 just so, 0.5 with a quote in a field that is not quoted, 0 not at all."""
    if line is None:
        return 0.0
    try:
        fields = next(csv.reader([line], strict=True), [])
    except csv.Error:
        try:  # a quoted field that goes on in the next line is the last of this one
            return float(0 < len(next(csv.reader([line]), [])) <= width)
        except csv.Error:
            return 0.0
    if len(fields) != width:
        return 0.0
    quotes = [field.count('"') for field in fields]
    quoted = sum(2 * count + 2 for count in quotes if count)
    return 1.0 if line.count('"') >= quoted else 0.5


def _reason(error: csv.Error, *, several: bool) -> str:
    reason = str(error)
    if "new-line character" in reason:
        reason = "a carriage return without a line feed outside of quotes; end lines with LF or CRLF"
    elif "limit" in reason:
        reason = f"{reason}; use .jsonl for texts this long"
    return f"{reason}; a quote opens in this line and is not closed as it should be" if several else reason
