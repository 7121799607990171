"""`Exchange`: a request and its answer, as they pass through a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from cls_runtime.serving.refusal import Refusal

if TYPE_CHECKING:
    from cls_runtime.serving.connection import Connection


class Exchange(RequestResponseCycle):
    """A request and its answer. It writes to its connection, not to the transport."""

    broken: Refusal | None = None  # what is wrong with the rest of the body

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
        connection.holds = starts
        await super().send(message)

    async def receive(self) -> Any:
        """Gives the next part of the body.

        Raises:
            Refusal: it is not framed as its headers say.
        """
        message = await super().receive()
        if self.broken is not None:
            raise self.broken
        return message
