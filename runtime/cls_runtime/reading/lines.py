"""The lines of an open file, in bounded memory: each with its number, and no longer than anything that is a text."""

from __future__ import annotations

from typing import BinaryIO

from cls_runtime.errors import TextError

MAX_LINE_BYTES = 2**24
# How far the end of a line that is too long is looked for: whatever never ends shall not be read for ever.
MAX_PASSED_BYTES = 2**30
_UTF8_BOM = b"\xef\xbb\xbf"
# The longer ones first: UTF-32's begins with UTF-16's.
_MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
# How many bytes a letter takes, and which of them differs from letter to letter; the others are zeros of ASCII, and others below a blank in
# the alphabets of half the world.
_UNITS = {"UTF-32LE": (4, 0), "UTF-32BE": (4, 3), "UTF-16LE": (2, 0), "UTF-16BE": (2, 1)}
_CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n\r")
_OTHER_FILES = {
    b"\x1f\x8b": "gzip; let its name end in .gz",
    b"\x28\xb5\x2f\xfd": "zstd; let its name end in .zst",
    b"PK\x03\x04": "a zip archive or a spreadsheet's workbook; unpack it, or save it as CSV in UTF-8",
    b"version https://git-lfs.github.com/spec/v1\n": "a Git LFS pointer and not the file itself; get it with git lfs pull",
}
_CONVERT = "convert it to UTF-8: iconv -f {} -t UTF-8 FILE > NEW"
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


def decoded(line: bytes | None, where: str, *, advice: str = "") -> tuple[str, str]:
    """The line as text, or the error; `advice` is what to do where it is not UTF-8, else that is how a text file is converted."""
    if line is None:
        return "", f"{where} is longer than {MAX_LINE_BYTES:,} bytes; is it a text file?"
    try:
        return line.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        return "", not_utf8(where, line[error.start], f"place {error.start + 1}", advice=advice)


def not_utf8(where: str, byte: int, place: str, *, advice: str = "") -> str:
    """The error for a byte that is not UTF-8. What it is instead nobody can tell; mostly it comes from Western Windows programs."""
    advice = advice or f"where it is Windows-1252, {_CONVERT.format('CP1252')}"
    return f"{where} is not UTF-8 (byte 0x{byte:02x} at {place}); {advice}"


def _check_encoding(line: bytes, name: str) -> None:
    """Refuses UTF-16 and UTF-32: with their zeros, what they say in ASCII is valid UTF-8, of another text. And files of another kind.

    Raises:
        TextError: the first line of the file has a mark of theirs, or control characters where they have them, and letters elsewhere.
    """
    for beginning, words in _OTHER_FILES.items():
        if line.startswith(beginning):
            raise TextError(f"{name} is {words}")
    for mark, encoding in _MARKS.items():
        if line.startswith(mark):
            raise TextError(f"{name} is {encoding} (it begins with the bytes {_shown(mark)}); {_CONVERT.format(encoding)}")
    if len(line) >= 6:
        for encoding, (width, letter) in _UNITS.items():
            columns = [line[place:64:width] for place in range(width)]
            others = b"".join(columns[:letter] + columns[letter + 1 :])
            if columns[letter].strip(_CONTROLS + b"\n") and not others.strip(_CONTROLS):
                raise TextError(f"{name} is {encoding} (it begins with the bytes {_shown(line[:4])}); {_CONVERT.format(encoding)}")


def _shown(data: bytes) -> str:
    return " ".join(f"0x{byte:02x}" for byte in data)
