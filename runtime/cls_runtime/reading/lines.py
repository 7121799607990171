"""The lines of an open file, in bounded memory: each with its number, and no longer than anything that is a text."""

from __future__ import annotations

from typing import BinaryIO

from cls_runtime.errors import TextError

MAX_LINE_BYTES = 2**24
# How far the end of a line that is too long is looked for: whatever never ends shall not be read for ever.
MAX_PASSED_BYTES = 2**30
_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_PASSED_AT_ONCE = 2**20


class Lines:
    """An iterator over (number, line with its end); None for a line that is too long. Only LF ends a line: a text may contain any other
    separator.

    Attributes:
        taken_bytes: how much of the file was given out.

    Raises:
        TextError: while iterating; the file is UTF-16, or a line does not end.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._number = 0
        self._unended = False
        self.taken_bytes = 0

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> tuple[int, bytes | None]:
        if self._unended:
            self._pass_over()
        line = self._file.readline(MAX_LINE_BYTES + 1)
        if not line:
            raise StopIteration
        self._number += 1
        self.taken_bytes += len(line)
        if self._number == 1:
            _check_encoding(line, self._name)
            line = line.removeprefix(_UTF8_BOM)
        if len(line) <= MAX_LINE_BYTES:
            return self._number, line
        # Its rest is read only when somebody wants the next one: an error ends the work here.
        self._unended = not line.endswith(b"\n")
        return self._number, None

    def _pass_over(self) -> None:
        """Goes to the end of a line that is too long."""
        passed = 0
        while piece := self._file.readline(_PASSED_AT_ONCE):
            passed += len(piece)
            if piece.endswith(b"\n"):
                break
            if passed > MAX_PASSED_BYTES:
                raise TextError(f"{self._name} line {self._number} has more than {MAX_PASSED_BYTES:,} bytes and no end; is it a text file?")
        self._unended = False


def decoded(line: bytes | None, where: str) -> tuple[str, str]:
    """The line as text, or the error."""
    if line is None:
        return "", f"{where} is longer than {MAX_LINE_BYTES:,} bytes; is it a text file?"
    try:
        return line.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        bad = f"byte 0x{line[error.start]:02x} at place {error.start + 1}"
        return "", f"{where} is not UTF-8 ({bad}); convert the file to UTF-8"


def _check_encoding(line: bytes, name: str) -> None:
    """Refuses UTF-16: with its zeros, what it says in ASCII is valid UTF-8, of another text.

    Raises:
        TextError: the first line of the file has its mark, or a zero in every second place and letters in the others.
    """
    first, second = line[:64:2], line[1:64:2]
    zeros = (any(first) and not any(second[: len(first) - 1])) or (any(second) and not any(first[: len(second)]))
    if line.startswith(_UTF16_BOMS) or (len(line) >= 6 and zeros):
        raise TextError(f"{name} is UTF-16 or UTF-32; convert it to UTF-8")
