"""All connections of a server: how many there may be, which have waited too long, and how they end when the server does."""

from __future__ import annotations

import select
from collections.abc import Awaitable, Callable, Iterable
from email.utils import formatdate
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from cls_runtime.serving.connection import Connection
from cls_runtime.serving.limits import Limits
from cls_runtime.serving.refusal import Refusal
from cls_runtime.serving.turning_away import TurningAway

Application = Callable[[Any, Any, Any], Awaitable[None]]


class Connections(ServerState):
    """All connections of a server, and what they share."""

    connections: set[Connection]  # type: ignore[assignment]  # uvicorn's are its own

    def __init__(self, application: Application, limits: Limits | None = None, *, turning_away: TurningAway | None = None) -> None:
        super().__init__()
        self.turning_away = turning_away
        self.limits = limits or Limits()
        self.draining = False
        self._config = Config(
            application,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            log_config=None,
        )
        self._config.load()

    def make(self) -> Connection:
        """A connection, for the event loop to give its transport to."""
        return Connection(self._config, self, {})

    @property
    def unfinished(self) -> int:
        """How many of them there are that are not closed but for their clients' part."""
        return sum(not one.finished for one in self.connections)

    @property
    def unanswered(self) -> int:
        """How many of them have a request, or an answer that is not written yet."""
        return sum(not (one.idle or one.finished) or one.transport.get_write_buffer_size() > 0 for one in self.connections)

    def look(self, now: float) -> None:
        """Ends those that have waited too long for their clients, and sets the clock of the `date` header."""
        self.default_headers = [(b"date", formatdate(usegmt=True).encode("ascii"))]
        for connection in list(self.connections):
            connection.look(now)

    def make_room(self, now: float) -> None:
        """Closes a sixteenth of them, those that have had no request for the longest time; none that has one."""
        before = now - self.limits.young_s
        idle = sorted((one for one in self.connections if one.idle and one.idle_since <= before), key=lambda one: one.idle_since)
        self._close_quiet(idle[: max(1, len(self.connections) // 16)])

    def close_idle(self, *, since: float) -> None:
        """Closes those that have had no request since then."""
        self._close_quiet([one for one in self.connections if one.idle and one.idle_since <= since])
        for one in list(self.connections):
            if one.head_since is not None and one.head_since <= since:
                one.refuse(Refusal("draining", "the server is shutting down; try another replica", retry_after_s=1))

    def abort(self) -> None:
        """Ends them all at once."""
        for connection in list(self.connections):
            connection.transport.abort()

    @staticmethod
    def _close_quiet(connections: Iterable[Connection]) -> None:
        """Closes those for which nothing has arrived yet that the event loop has not seen."""
        by_number = {one.transport.get_extra_info("socket").fileno(): one for one in connections}
        by_number.pop(-1, None)
        if not by_number:
            return
        if hasattr(select, "poll"):
            poll = select.poll()
            for number in by_number:
                poll.register(number, select.POLLIN)
            for number, _ in poll.poll(0):
                del by_number[number]
        for one in by_number.values():
            one.close()
