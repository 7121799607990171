"""`Exchange`: a request and its answer, as they pass through a connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from cls_runtime.serving.refusal import Refusal

if TYPE_CHECKING:
    from cls_runtime.serving.connection import Connection


# Where an ASGI scope has what the connection calls when the client has gone away.
LEFT = "cls.left"


def head_of(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """An answer's head as it stands on the wire.

    Raises:
        RuntimeError: a header's value has more than one line.
    """
    lines = [STATUS_LINE[status], *[b"%s: %s\r\n" % header for header in headers], b"\r\n"]
    written = b"".join(lines)
    if written.count(b"\n") != len(lines):
        raise RuntimeError("a header's value has more than one line")
    return written


class Exchange(RequestResponseCycle):
    """A request and its answer. It writes to its connection, not to the transport."""

    broken: Refusal | None = None  # what is wrong with the rest of the body
    _head: Any = None  # the beginning of an answer, until its body is there

    async def send(self, message: Any) -> None:
        """Takes the answer."""
        connection: Connection = self.transport  # type: ignore[assignment]
        starts = message["type"] == "http.response.start"
        if starts:
            if self.more_body and not connection.may_discard(self):
                self.keep_alive = False
            if connection.server_state.draining:
                self.keep_alive = False
            if not self.keep_alive:
                headers = [item for item in message["headers"] if item[0] != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            self._head = message
            return
        if self._head is not None:
            head, self._head = self._head, None
            if not message.get("more_body") and not self.flow.write_paused and self._sent_at_once(head, message["body"]):
                return
            connection.holds = True
            await super().send(head)
        await super().send(message)

    def _sent_at_once(self, head: Any, body: bytes) -> bool:
        """Writes an answer that is all there, as nearly every one is, in fewer steps than uvicorn; whether it is one."""
        status, headers = head["status"], head["headers"]
        if self.disconnected or self.scope["method"] == "HEAD" or (b"content-length", b"%d" % len(body)) not in headers:
            return False
        written = head_of(status, (*self.default_headers, *headers))
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.transport.write(written + body)
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return True

    async def receive(self) -> Any:
        """Gives the next part of the body.

        Raises:
            Refusal: it is not framed as its headers say.
        """
        message = await super().receive()
        if self.broken is not None:
            raise self.broken
        return message
