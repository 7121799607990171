"""API keys: a line each in a file, never in argv. Empty lines, and those that start with #, are none."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from cls_runtime.errors import UsageError
from cls_runtime.serving.refusal import Refusal

_HEADERS = (b"authorization", b"api-key", b"x-api-key")
# More of these headers say nothing that a client means; comparing each with every key would cost milliseconds.
_LOOKED_AT = 8
_MOST_BYTES = 2**20
_NOT_IN_A_KEY = re.compile(rb"[\0-\x20\x7f]")


class ApiKeys:
    """The keys of a file, any of which opens every endpoint that asks for one; None for a server without keys.

    Raises:
        UsageError: as `read`.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._digests: tuple[bytes, ...] = ()
        if path is not None:
            self.read()

    def read(self) -> int:
        """Reads the file, also again; gives the number of keys. After an error they are what they were.

        Raises:
            UsageError: it is no file that can be read, has no key, or one that no header could have.
        """
        if self._path is None:
            return 0
        try:
            if not self._path.is_file():
                raise UsageError(f"--api-key-file {self._path} is not a file; expected one with a key per line")
            with self._path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise UsageError(f"--api-key-file {self._path}: {error.strerror}") from None
        if len(content) > _MOST_BYTES:
            raise UsageError(f"--api-key-file {self._path} has more than {_MOST_BYTES:,} bytes; expected one key per line")
        keys: set[bytes] = set()
        for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
            key = line.strip()
            if not key or key.startswith(b"#"):
                continue
            if _NOT_IN_A_KEY.search(key):
                raise UsageError(
                    f"--api-key-file {self._path}: line {number} has a space or a control character in it; "
                    "expected one key per line, in UTF-8, and # before comments"
                )
            keys.add(key)
        if not keys:
            raise UsageError(f"--api-key-file {self._path} has no key; write one per line")
        self._digests = tuple(map(_digest, keys))
        return len(keys)

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Looks for a key in a request's headers: `Authorization: Bearer K`, `Authorization: K`, `api-key: K`, `x-api-key: K`.

        How long it takes depends on the number of keys and on what was sent, not on how much of that is right.

        Raises:
            Refusal: there is none, or another one.
        """
        if self._path is None:
            return
        given = b""
        looked = 0
        for name, value in headers:
            if name in _HEADERS and looked < _LOOKED_AT:
                looked += 1
                given = (value[7:] if value[:7].lower() == b"bearer " else value).strip()
                digest = _digest(given)
                if sum(hmac.compare_digest(digest, key) for key in self._digests):  # all of them
                    return
        raise Refusal(
            "unauthorized",
            "the key is wrong" if given else "a key is required: Authorization: Bearer KEY, or api-key: KEY",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
