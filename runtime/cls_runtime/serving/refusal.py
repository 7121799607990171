"""`Refusal`: what a request gets in place of an answer, whichever protocol it came by."""

from __future__ import annotations

from typing import Literal

# `malformed`: not JSON, or of the wrong type; `invalid`: a value that makes no sense; `empty`: nothing to encode; `unsupported`: the bundle
# has not what is asked for.
Kind = Literal[
    "malformed",
    "invalid",
    "empty",
    "unauthorized",
    "unknown_model",
    "unknown_path",
    "wrong_method",
    "too_large",
    "unsupported",
    "overloaded",
    "failed",
    "draining",
    "stalled",
    "late",
    "slow",
    "head_too_large",
]
STATUS: dict[Kind, int] = {
    "malformed": 400,
    "invalid": 400,
    "empty": 400,
    "unauthorized": 401,
    "unknown_model": 404,
    "unknown_path": 404,
    "wrong_method": 405,
    "too_large": 413,
    "unsupported": 400,
    "overloaded": 429,
    "failed": 500,
    "draining": 503,
    "stalled": 503,
    "late": 503,
    "slow": 408,
    "head_too_large": 431,
}


class Refusal(Exception):  # noqa: N818  a 404 is no error of the server
    """Why a request is not answered.

    Attributes:
        kind: which of the reasons.
        message: one line: what was found, what was expected, what to do.
        param: the field of the body that is wrong.
        code: a word for programs, where the protocols have one (`model_not_found`).
        retry_after_s: when the client may try again.
        headers: that go with it.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
        self.headers = headers or {}

    @property
    def status(self) -> int:
        """The HTTP status, where a protocol has no other for it."""
        return STATUS[self.kind]
