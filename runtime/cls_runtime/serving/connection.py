"""One connection: uvicorn's on httptools, with limits on heads, time and memory, errors in JSON, and time to read the last answer.

It has no timers of its own: `Connections.look` goes through all of them about once a second.
"""

from __future__ import annotations

import asyncio
import logging
import urllib.parse
from typing import TYPE_CHECKING, Any, Literal

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cls_runtime.serving.exchange import LEFT, Exchange
from cls_runtime.serving.refusal import Refusal
from cls_runtime.serving.turning_away import TurnedAway, TurningAway

if TYPE_CHECKING:
    from cls_runtime.serving.connections import Connections

# What uvicorn would log is answered, counted and logged by the application.
_SILENT = logging.Logger("cls_serve.http", logging.CRITICAL + 1)  # noqa: LOG001  in no hierarchy, where nothing is set up
# What a header costs besides its bytes; HTTP/2 counts the same (RFC 9113, 6.5.2).
_HEADER_BYTES = 32
# A body up to this size leaves in one packet with its head.
_JOINED_BYTES = 2**16
# Of a content-length that is looked at.
_LENGTH_DIGITS = 9


class Connection(HttpToolsProtocol):
    """One connection.

    Attributes:
        head_since: when the head began that has not arrived completely, in seconds of the event loop; None without one.
        idle_since: when the last answer was written, or the connection was made.
        holds: whether what is written next is a head, which waits for its body so that both leave at once.
    """

    server_state: Connections
    cycle: Exchange

    def __init__(self, config: Config, server_state: Connections, app_state: dict[str, Any]) -> None:
        super().__init__(config, server_state, app_state)
        self.logger = self.access_logger = _SILENT
        self.access_log = False
        self.limits = server_state.limits
        self.head_since: float | None = None
        self.idle_since = self.loop.time()
        self.holds = False
        self._held = b""
        self._place: Literal["between", "head", "body"] = "between"  # of what arrives
        self._head_bytes = self._head_fed = 0
        self._framing = (b"", b"")  # the header that says how long the body is
        self._resumes = False  # see `_stay`
        self._running: Exchange | None = None
        self._deaf = False  # what still arrives is not looked at
        self._discarded = 0
        self._turned_away: TurnedAway | None = None
        self._closing_since: float | None = None
        self._unread = (0, 0.0)

    @property
    def idle(self) -> bool:
        """Whether nothing is asked and nothing is answered."""
        return self._running is None and self._place == "between" and self._closing_since is None

    @property
    def finished(self) -> bool:
        """Whether it is closed but for its client's part."""
        return self._closing_since is not None and not self.transport.get_write_buffer_size()

    # What arrives

    def data_received(self, data: bytes) -> None:
        """Takes bytes of the client."""
        if self._deaf:
            self._discarded += len(data)
            if self._discarded > self.limits.discard_bytes:
                self.transport.abort()
            return
        was_in_head = self._place == "head"
        while data:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._stay()
            except httptools.HttpParserError as error:
                cause = error.__context__
                self._malformed(cause if isinstance(cause, Refusal) else Refusal("malformed", f"this is not HTTP: {error}"))
                return
        if was_in_head and self._place == "head":
            self._head_fed += len(data)
            if self._head_fed > self.limits.head_bytes:
                self._malformed(self._too_large())

    def _stay(self) -> None:
        """Goes on in HTTP/1.1 where HTTP/2 is asked for, as by Java: in a parser that reads the body, as the first one does not."""
        self.parser = httptools.HttpRequestParser(self)
        if self._place == "body":
            self._resumes = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%s: %s\r\n\r\n" % self._framing)
            self._resumes = False

    def on_message_begin(self) -> None:
        """A request's first byte."""
        if self._resumes:
            return
        super().on_message_begin()
        self._place = "head"
        self.head_since = self.loop.time()
        self._head_bytes = self._head_fed = 0
        self._framing = (b"", b"")

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        if self._resumes:
            return
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if self._resumes:
            return
        self._count(len(name) + len(value) + _HEADER_BYTES)
        super().on_header(name, value)
        if self.headers[-1][0] in (b"content-length", b"transfer-encoding"):
            self._framing = self.headers[-1]

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.limits.head_bytes:
            raise self._too_large()

    def _too_large(self) -> Refusal:
        return Refusal("head_too_large", f"the request line and headers exceed {self.limits.head_bytes:,} bytes")

    def on_headers_complete(self) -> None:
        """A request, but for its body."""
        if self._resumes:
            return
        if len(self.pipeline) >= self.limits.pipelined:
            raise Refusal("malformed", f"more than {self.limits.pipelined} requests are pipelined on one connection")
        url = httptools.parse_url(self.url)
        raw_path = url.path or b"/"
        version = self.parser.get_http_version()
        self.scope |= {
            "method": self.parser.get_method().decode("ascii"),
            "http_version": version,
            "path": urllib.parse.unquote(raw_path.decode("latin-1")),
            "raw_path": raw_path,
            "query_string": url.query or b"",
        }
        self._place, self.head_since = "body", None
        if self._turns_away():
            return
        self._exchange(keep_alive=version != "1.0" and self.parser.should_keep_alive())

    def _turns_away(self) -> bool:
        """Whether the request is refused unread, which `on_message_complete` does. One that has to be told before its body is, is not."""
        turning_away = self.server_state.turning_away
        if turning_away is None or self._running is not None or self.expect_100_continue or self.parser.should_upgrade():
            return False
        if self.flow.write_paused or self.is_closing():  # answers that nobody takes would pile up
            return False
        name, value = self._framing
        if name != b"content-length" or len(value) > _LENGTH_DIGITS or int(value) > _JOINED_BYTES:
            return False
        self._turned_away = turning_away.request(self.scope)
        self.idle_since = self.loop.time()  # what is left of the body has its own time
        return self._turned_away is not None

    def _turn_away(self, turning_away: TurningAway, request: TurnedAway) -> None:
        """Refuses it, now that it has arrived."""
        self._turned_away = None
        close = self.server_state.draining or self.scope["http_version"] == "1.0" or not self.parser.should_keep_alive()
        self.write(turning_away.answer(request, head=self.server_state.default_headers, close=close))
        self.idle_since = self.loop.time()
        if close:
            self.close()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        if self._turned_away is None:
            super().on_body(body)

    def _exchange(self, *, keep_alive: bool) -> None:
        """Begins to answer what `scope` says, or lets it wait for those before it."""
        exchange = self.cycle = Exchange(
            scope=self.scope,
            transport=self,  # type: ignore[arg-type]  # as much of one as it needs
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        if self._running is None:
            self._start(exchange)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))

    def _start(self, exchange: Exchange) -> None:
        self._running = exchange
        task = self.loop.create_task(exchange.run_asgi(self.app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_message_complete(self) -> None:
        """A request's last byte."""
        if self.parser.should_upgrade() and self._framing[1] not in (b"", b"0"):
            return  # the parser's last byte of it, see `_stay`
        self._place = "between"
        if self._turned_away is None:
            super().on_message_complete()
        elif self.server_state.turning_away is not None:
            self._turn_away(self.server_state.turning_away, self._turned_away)

    def _malformed(self, refusal: Refusal) -> None:
        """Whatever comes after this cannot be read; what came before it is answered."""
        if self._place != "body" and self._running is None:
            self.refuse(refusal)
            return
        self._deaf = True
        self.cycle.keep_alive = False
        if self._place == "body":
            if self.cycle.response_complete:
                self.close()
            self.cycle.broken = refusal
            self.cycle.message_event.set()

    def refuse(self, refusal: Refusal) -> None:
        """Has the application answer a request whose head will not be read."""
        if self.scope is None or "path" in self.scope:
            self.on_message_begin()
        self._deaf, self.head_since, self.expect_100_continue = True, None, False
        path = self.url.partition(b"?")[0].decode("ascii", "backslashreplace")
        self.scope |= {"method": "-", "path": path, "raw_path": b"", "query_string": b"", "cls.refusal": refusal}  # type: ignore[typeddict-item]
        self._exchange(keep_alive=False)

    # What leaves

    def write(self, data: bytes) -> None:
        """Writes, but for a head, which waits for the next call."""
        if self.holds:
            self._held, self.holds = data, False
            return
        if self._held:
            head, self._held = self._held, b""
            if len(data) <= _JOINED_BYTES:
                data = head + data
            else:
                self.transport.write(head)
        self.transport.write(data)

    def is_closing(self) -> bool:
        """Whether nothing more will be written."""
        return self._closing_since is not None or self.transport.is_closing()

    def may_discard(self, exchange: Exchange) -> bool:
        """Whether the rest of a body that nobody reads is little, and sure to come."""
        name, value = self._framing
        return not exchange.waiting_for_100_continue and name == b"content-length" and int(value) <= self.limits.discard_bytes

    def close(self) -> None:
        """Closes it once the answer is written; where the client still sends, once it has had time to read that."""
        if self._held:
            self.write(b"")
        if self._closing_since is not None or self.transport.is_closing():
            return
        self._closing_since = self.loop.time()
        if self._place == "between" and not self.flow.read_paused and not self._deaf:
            self.transport.close()
            return
        self._deaf = True
        self.transport.write_eof()
        self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """An answer is written: the next request's turn."""
        if self._held:
            self.write(b"")
        self.server_state.total_requests += 1
        self._running, self.idle_since = None, self.loop.time()
        if self.is_closing():
            self.pipeline.clear()
            return
        if self.head_since is not None:
            self.head_since = self.idle_since
        if self.pipeline:
            self._start(self.pipeline.pop()[0])  # type: ignore[arg-type]  # made by `_exchange`
        else:
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, or was sent away."""
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()
            left: Any = self._running.scope.get(LEFT)
            if left is not None:
                left()
        self.pipeline.clear()
        super().connection_lost(exc)

    # What takes too long

    def look(self, now: float) -> None:
        """Ends the connection where its client takes too long."""
        limits = self.limits
        unread, since = self._unread
        left = self.transport.get_write_buffer_size()
        if not left or not unread:
            self._unread = (left, now)
        elif now - since > limits.unread_s:
            if unread - left < limits.unread_bytes:
                self.transport.abort()
                return
            self._unread = (left, now)
        if self._closing_since is not None:
            if not left and now - self._closing_since > limits.linger_s:
                self.transport.abort()
        elif self._running is not None:
            return  # `Flights` has the time
        elif self.head_since is not None:
            if now - self.head_since > limits.head_s:
                self.refuse(Refusal("slow", f"the request line and headers took longer than {limits.head_s:g} s"))
        elif now - self.idle_since > (limits.linger_s if self._place == "body" else limits.idle_s):
            self.close()
