"""The load generator: one thread, sockets that never block, and requests whose bytes are ready before the clock starts.

A `Stream` is open, with requests due at given times whatever was answered, or closed, with callers that send the next request when they
have an answer. Each request's record has when it was due, how late it was sent and when its answer had ended.
"""

from __future__ import annotations

import errno
import math
import select
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence

from cls_runtime.bench.http_messages import AnswerReader
from cls_runtime.bench.load_streams import LEFT, LOST, UNANSWERED, UNCONNECTED, Address, LoadRecord, Stream, StreamRecord
from cls_runtime.bench.open_loop import due_times

_RECEIVED_BYTES = 2**18
_BURST = 32  # requests that are sent one after another before answers are looked at
_NO_LINGER = struct.pack("ii", 1, 0)  # a close is a reset
_EPOLL: type = getattr(selectors, "EpollSelector", type(None))


class LoadGenerator:
    """Sends streams to one address, once."""

    def __init__(self, address: Address, streams: Sequence[Stream], *, answer_limit_s: float = 60.0) -> None:
        """`answer_limit_s`: how long answers are waited for while none comes."""
        self._address = address
        self._answer_limit_s = answer_limit_s
        self._selector = selectors.DefaultSelector()
        self._lanes = [_Lane(stream) for stream in streams]
        self._start = self._longest_pause_s = 0.0

    def run(self, *, started: Callable[[], object] = lambda: None) -> LoadRecord:
        """Opens connections, tells `started`, sends all requests, and gives what became of them.

        Raises:
            OSError: a connection that is needed before the start cannot be made.
        """
        try:
            self._open_first()
            cpu = time.process_time()
            self._start = time.monotonic()
            started()
            self._loop()
            return LoadRecord(
                streams={lane.stream.name: lane.record for lane in self._lanes},
                started_at=self._start,
                wall_seconds=time.monotonic() - self._start,
                cpu_seconds=time.process_time() - cpu,
                longest_pause_s=self._longest_pause_s,
            )
        finally:
            for key in list(self._selector.get_map().values()):
                key.data.socket.close()
            self._selector.close()

    def _open_first(self) -> None:
        for lane in self._lanes:
            for _ in range(lane.callers or (0 if lane.stream.leave else lane.stream.connections)):
                connection = self._connect(lane, blocking=True)
                if connection is None:
                    raise OSError(f"no connection to {self._address} can be made")
                (lane.calling if lane.callers else lane.free).append(connection)

    def _loop(self) -> None:
        last = max(max(lane.due[-1] if lane.due else 0.0, lane.stream.seconds) for lane in self._lanes)
        turn = 0.0  # when this turn of the loop began
        while not all(lane.done for lane in self._lanes):
            now = time.monotonic() - self._start
            wait = min(self._send_next(now), 0.5)
            events = self._select(wait)
            began, turn = turn, time.monotonic() - self._start
            self._longest_pause_s = max(self._longest_pause_s, turn - began - wait)
            for key, mask in events:
                self._ready(key.data, mask)
            if events:
                last = max(last, now)
            elif now > last + self._answer_limit_s:
                self._give_up(now)
                return

    def _send_next(self, now: float) -> float:
        """Sends what is due, and gives the seconds until something is."""
        wait = math.inf
        for lane in self._lanes:
            for _ in range(len(lane.calling)):
                self._call(lane, lane.calling.popleft(), now)
            due, sent = lane.due, 0
            while lane.next < len(due) and due[lane.next] <= now and sent < _BURST:
                lane.next += 1
                sent += 1
                self._assign(lane, lane.next - 1)
            if lane.calling:
                wait = 0.0
            if lane.next < len(due):
                wait = min(wait, due[lane.next] - now)
        return max(0.0, wait)

    def _select(self, seconds: float) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready, or soon is. epoll counts in milliseconds; select counts in microseconds, and waits for the epoll's own file."""
        if isinstance(self._selector, _EPOLL):
            if seconds > 0:
                select.select([self._selector], (), (), seconds)
            return self._selector.select(0)
        return self._selector.select(seconds)

    def _assign(self, lane: _Lane, index: int) -> None:
        """A request of an open stream gets a connection, or waits for one."""
        if lane.free:
            self._send(lane.free.pop(), index, lane.due[index])
        elif lane.open < lane.stream.most_connections:
            connection = self._connect(lane, blocking=False)
            if connection is not None:
                self._send(connection, index, lane.due[index])
            else:
                passed = time.monotonic() - self._start - lane.due[index]
                lane.record.add(lane.due[index], passed, passed, UNCONNECTED)
        else:
            lane.backlog.append(index)

    def _call(self, lane: _Lane, connection: _Connection | None, now: float) -> None:
        """A caller of a closed stream sends its next request, or ends; where nobody accepts its connection it ends as well."""
        if not lane.may_begin(now):
            lane.callers -= 1
            if connection is not None:
                self._drop(connection)
            return
        lane.next += 1
        if connection is None or connection.socket.fileno() < 0:
            connection = self._connect(lane, blocking=False)
        if connection is not None:
            self._send(connection, lane.next - 1, time.monotonic() - self._start)
        else:
            lane.callers -= 1
            lane.record.add(now, 0.0, 0.0, UNCONNECTED)

    def _connect(self, lane: _Lane, *, blocking: bool) -> _Connection | None:
        unix = isinstance(self._address, str)
        sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_STREAM)
        sock.settimeout(10.0 if blocking else 0.0)
        code = sock.connect_ex(self._address)
        if code and (blocking or code != errno.EINPROGRESS):
            sock.close()
            return None
        sock.setblocking(False)
        if not unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(lane, sock, connected=code == 0)
        self._selector.register(sock, selectors.EVENT_WRITE if code else selectors.EVENT_READ, connection)
        lane.open += 1
        return connection

    def _send(self, connection: _Connection, index: int, due: float) -> None:
        lane = connection.lane
        lane.in_flight += 1
        connection.busy, connection.due = True, due
        connection.late = time.monotonic() - self._start - due
        request = lane.stream.requests[index % len(lane.stream.requests)]
        if not connection.connected:
            connection.rest = memoryview(request)
            return
        try:
            sent = connection.socket.send(request)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._end(connection, LOST, keep=False)
            return
        if sent < len(request):
            connection.rest = memoryview(request)[sent:]
            self._selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)
        elif lane.stream.leave:
            self._end(connection, LEFT, keep=False)

    def _ready(self, connection: _Connection, mask: int) -> None:
        if mask & selectors.EVENT_WRITE and connection.socket.fileno() >= 0:  # an earlier event may have closed it
            self._writable(connection)
        if mask & selectors.EVENT_READ and connection.socket.fileno() >= 0:
            self._readable(connection)

    def _writable(self, connection: _Connection) -> None:
        if not connection.connected:
            if connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._end(connection, UNCONNECTED, keep=False)
                return
            connection.connected = True
            connection.late = time.monotonic() - self._start - connection.due
        if connection.rest is not None:
            try:
                connection.rest = connection.rest[connection.socket.send(connection.rest) :]
            except BlockingIOError:
                return
            except OSError:
                self._end(connection, LOST, keep=False)
                return
        if not connection.rest:
            connection.rest = None
            self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
            if connection.lane.stream.leave:
                self._end(connection, LEFT, keep=False)

    def _readable(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_RECEIVED_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        reader = connection.reader
        if not connection.busy:  # nothing was asked: the server closes what is idle
            self._drop(connection)
        elif not data:
            self._end(connection, reader.status if reader.end_of_input() else LOST, keep=False)
        elif reader.feed(data):
            whole = connection.rest is None  # else it was refused before the server had read it all
            self._end(connection, reader.status, keep=whole and not reader.closes)

    def _end(self, connection: _Connection, status: int, *, keep: bool) -> None:
        """The request that a connection carries has ended; the connection waits for the next one, or is closed."""
        lane = connection.lane
        lane.in_flight -= 1
        lane.record.add(connection.due, connection.late, time.monotonic() - self._start - connection.due, status)
        connection.busy = False
        if not keep:
            self._drop(connection)
        if lane.stream.pace is None:
            if status == UNCONNECTED:
                lane.callers -= 1
            else:
                lane.calling.append(connection if keep else None)
            return
        if keep:
            lane.free.append(connection)
        if lane.backlog:
            self._assign(lane, lane.backlog.popleft())

    def _drop(self, connection: _Connection) -> None:
        lane = connection.lane
        if connection in lane.free:
            lane.free.remove(connection)
        lane.open -= 1
        self._selector.unregister(connection.socket)
        if lane.stream.leave == "reset":
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        connection.socket.close()

    def _give_up(self, now: float) -> None:
        """Records what was not answered in time."""
        for key in self._selector.get_map().values():
            connection: _Connection = key.data
            if connection.busy:
                connection.lane.record.add(connection.due, connection.late, now - connection.due, UNANSWERED)
        for lane in self._lanes:
            for due in (lane.due[index] for index in lane.backlog):
                lane.record.add(due, now - due, now - due, UNANSWERED)


class _Lane:
    """A stream under way."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.record = StreamRecord(stream.name)
        self.due = due_times(stream.pace) if stream.pace is not None else []
        self.next = 0  # the request that is sent next
        self.free: list[_Connection] = []
        self.backlog: deque[int] = deque()  # of an open stream: due, and without a connection
        self.calling: deque[_Connection | None] = deque()  # of a closed one: callers that send next, with their connections
        self.callers = stream.callers if stream.pace is None else 0
        self.open = self.in_flight = 0

    def may_begin(self, now: float) -> bool:
        """Whether a caller of a closed stream sends one more."""
        stream = self.stream
        return not (stream.seconds and now >= stream.seconds) and not (stream.count and self.next >= stream.count)

    @property
    def done(self) -> bool:
        """Whether every request has ended."""
        return self.next >= len(self.due) and not self.backlog and not self.in_flight and not self.callers


class _Connection:
    """A connection, and the request that it carries where it is busy."""

    __slots__ = ("busy", "connected", "due", "lane", "late", "reader", "rest", "socket")

    def __init__(self, lane: _Lane, sock: socket.socket, *, connected: bool) -> None:
        self.lane = lane
        self.socket = sock
        self.connected = connected
        self.reader = AnswerReader()
        self.rest: memoryview | None = None  # what is still to be sent
        self.busy = False
        self.due = self.late = 0.0
