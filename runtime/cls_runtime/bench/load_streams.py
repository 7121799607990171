"""What a load generator is asked to send, and what it says afterwards."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cls_runtime.bench.open_loop import Pace

Address = tuple[str, int] | str  # host and port, or the path of a unix socket
Leave = Literal["close", "reset"]
# Instead of an answer's status: the connection ended, no connection could be made, no answer in time, and left by the generator itself.
LOST, UNCONNECTED, UNANSWERED, LEFT = 0, 1, 2, 3
LONGEST_PAUSE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Requests of one kind, taken in turns from `requests`. It is open where it has a pace, and else closed.

    Attributes:
        name: what its record is called.
        requests: whole requests.
        pace: of an open stream: when they are due.
        callers: of a closed stream: how many send at once.
        seconds, count: of a closed stream: no request is begun after so many seconds, or after so many requests, where not 0.
        connections: of an open stream: so many are opened before the start, others as they are needed.
        most_connections: of an open stream: a request that needs one more waits, and is late.
        leave: do not wait for the answer: close the connection once the request is sent, or reset it.
    """

    name: str
    requests: Sequence[bytes]
    pace: Pace | None = None
    callers: int = 0
    seconds: float = 0.0
    count: int = 0
    connections: int = 1
    most_connections: int = 8192
    leave: Leave | None = None


@dataclass(frozen=True)
class StreamRecord:
    """What became of a stream's requests, a number each, in the order in which they ended.

    Attributes:
        due_s: seconds from the start at which it was due; of a closed stream, at which it was sent.
        late_s: seconds from then until it was sent.
        taken_s: seconds from then until its answer had ended.
        status: the answer's, or one of those above.
    """

    name: str
    due_s: array[float] = field(default_factory=lambda: array("d"))
    late_s: array[float] = field(default_factory=lambda: array("d"))
    taken_s: array[float] = field(default_factory=lambda: array("d"))
    status: array[int] = field(default_factory=lambda: array("i"))

    def add(self, due: float, late: float, taken: float, status: int) -> None:
        """Adds a request."""
        self.due_s.append(due)
        self.late_s.append(late)
        self.taken_s.append(taken)
        self.status.append(status)

    def __len__(self) -> int:
        return len(self.status)

    def taken(self, *statuses: int) -> list[float]:
        """Seconds of each request that ended with one of these, from when it was due to its end."""
        return [seconds for seconds, status in zip(self.taken_s, self.status, strict=True) if status in statuses]

    def ended_within(self, seconds: float, *statuses: int) -> int:
        """How many requests ended with one of these before so many seconds from the start had passed."""
        ends = zip(self.due_s, self.taken_s, self.status, strict=True)
        return sum(due + taken <= seconds for due, taken, status in ends if status in statuses)

    def counts(self) -> dict[int, int]:
        """How many requests ended with each status."""
        return {status: self.status.count(status) for status in sorted(set(self.status))}

    def unanswered(self) -> Iterator[tuple[float, int]]:
        """When each request was sent that got no answer and was not left, and what happened."""
        for due, late, status in zip(self.due_s, self.late_s, self.status, strict=True):
            if status in (LOST, UNCONNECTED, UNANSWERED):
                yield due + late, status


@dataclass(frozen=True, kw_only=True)
class LoadRecord:
    """What a generator says of a run.

    Attributes:
        streams: what became of the requests, by the stream's name.
        started_at: `time.monotonic()` of the start, the same clock in all processes of a machine.
        wall_seconds: from the start to the last end.
        cpu_seconds: what the generator computed in that time.
        longest_pause_s: how long it once got no turn at all; seconds of it mean that the whole machine stood still.
    """

    streams: dict[str, StreamRecord]
    started_at: float
    wall_seconds: float
    cpu_seconds: float
    longest_pause_s: float = 0.0

    @property
    def stood_still(self) -> bool:
        """Whether the times are the machine's: a virtual one may be halted, and its clock goes on."""
        return self.longest_pause_s > LONGEST_PAUSE_S

    @property
    def cpu_share(self) -> float:
        """The share of one CPU that the generator had: near 1, it was the bottleneck."""
        return self.cpu_seconds / self.wall_seconds if self.wall_seconds else 0.0

    @property
    def late_s(self) -> list[float]:
        """How late each request was sent."""
        return [late for record in self.streams.values() for late in record.late_s]
