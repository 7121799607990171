"""HTTP/1.1 as bytes, for a load generator: requests made before the clock starts, and answers read no further than to their end."""

from __future__ import annotations

from collections.abc import Mapping

_HEAD_END = b"\r\n\r\n"


def request_bytes(method: str, path: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    r"""A whole request; one with a body says that it is JSON.

    >>> request_bytes("GET", "/live")
    b'GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n'
    """
    fields = {"host": "localhost", **(headers or {})}
    if body:
        fields = {**fields, "content-type": "application/json", "content-length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


class AnswerReader:
    """Finds the end of one answer after another. Of the body nothing is kept.

    `status` is that of the answer that ended last, and `closes` whether the server will close the connection behind it.
    """

    __slots__ = ("_chunks", "_head", "_left", "_until_closed", "closes", "status")

    def __init__(self) -> None:
        self.status = 0
        self.closes = False
        self._head = b""
        self._left = -1
        self._chunks: _ChunkReader | None = None
        self._until_closed = False

    def feed(self, data: bytes) -> bool:
        """Takes what was received, and says whether the answer has ended. What comes after its end belongs to nobody and is left out."""
        if self._left >= 0:
            self._left -= len(data)
            return self._ended(self._left <= 0)
        if self._chunks is not None:
            return self._ended(self._chunks.feed(data))
        if self._until_closed:
            return False
        self._head += data
        end = self._head.find(_HEAD_END)
        if end < 0:
            return False
        rest = self._head[end + len(_HEAD_END) :]
        head = self._head[:end].lower()
        self._head = b""
        self.status = int(head[9:12])
        if self.status < 200:  # an answer before the answer
            return self.feed(rest) if rest else False
        self.closes = b"\r\nconnection: close" in head
        if b"\r\ntransfer-encoding: chunked" in head:
            self._chunks = _ChunkReader()
            return self._ended(self._chunks.feed(rest))
        length = _content_length(head)
        if length is None and self.status not in (204, 304):
            self._until_closed = self.closes = True
            return False
        self._left = (length or 0) - len(rest)
        return self._ended(self._left <= 0)

    def end_of_input(self) -> bool:
        """The server has closed the connection: whether that is the end of an answer without a length."""
        return self._ended(self._until_closed)

    def _ended(self, ended: bool) -> bool:
        if ended:
            self._left = -1
            self._chunks = None
            self._until_closed = False
        return ended


class _ChunkReader:
    """Finds the end of a body that comes in chunks."""

    __slots__ = ("_line", "_skip", "_trailer")

    def __init__(self) -> None:
        self._line = b""
        self._skip = 0
        self._trailer = False

    def feed(self, data: bytes) -> bool:
        place = 0
        while place < len(data):
            if self._skip:
                step = min(self._skip, len(data) - place)
                self._skip -= step
                place += step
                continue
            end = data.find(b"\n", place)
            if end < 0:
                self._line += data[place:]
                return False
            line = (self._line + data[place:end]).strip()
            self._line = b""
            place = end + 1
            if self._trailer:
                if not line:
                    return True
                continue
            size = int(line.split(b";", 1)[0], 16)
            self._skip = size + 2 if size else 0
            self._trailer = not size
        return False


def _content_length(head: bytes) -> int | None:
    start = head.find(b"\r\ncontent-length:")
    if start < 0:
        return None
    end = head.find(b"\r\n", start + 2)
    return int(head[start + 17 : end if end >= 0 else len(head)])
