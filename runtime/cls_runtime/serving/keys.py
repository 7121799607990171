"""API keys: a line each in a file, never in argv."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from pathlib import Path

from cls_runtime.errors import UsageError
from cls_runtime.serving.refusal import Refusal

_HEADERS = (b"authorization", b"api-key", b"x-api-key")


class ApiKeys:
    """The keys of a file, any of which opens every endpoint that asks for one; None for a server without keys."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._keys: tuple[bytes, ...] = ()
        if path is not None:
            self.read()

    def read(self) -> None:
        """Reads the file again.

        Raises:
            UsageError: it cannot be read, or has no key.
        """
        if self._path is None:
            return
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError as error:
            raise UsageError(f"--api-key-file {self._path}: {error.strerror}") from None
        keys = tuple(line.strip() for line in lines if line.strip())
        if not keys:
            raise UsageError(f"--api-key-file {self._path} has no key; write one a line")
        self._keys = keys

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Looks for a key in a request's headers: `Authorization: Bearer K`, `Authorization: K`, `api-key: K`, `x-api-key: K`.

        Raises:
            Refusal: there is none, or another one.
        """
        if self._path is None:
            return
        given = b""
        for name, value in headers:
            if name in _HEADERS:
                given = value[7:] if value[:7].lower() == b"bearer " else value
                if sum(hmac.compare_digest(given.strip(), key) for key in self._keys):  # all of them, so that no time says which
                    return
        raise Refusal(
            "unauthorized",
            "the key is wrong" if given else "a key is needed: Authorization: Bearer KEY, or api-key: KEY",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )
