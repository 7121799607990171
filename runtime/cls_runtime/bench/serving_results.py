"""What was measured of a server, as data: part of `BenchResults`, whose JSON it goes into. Samples are rounded to microseconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RateRecord:
    """Open-loop load at one rate, one text a request.

    Attributes:
        share: the rate over the server's capacity.
        rate: requests a second that were due.
        seconds: how long requests were due.
        answered_s: of each request that was answered, the seconds from when it was due to its answer's end.
        answered_in_time: how many of them ended before `seconds` had passed.
        refused_s: the same of each request that was refused, 429 or 503.
        failed: requests that got another answer, or none.
        late_p50_s, late_p99_s: how late requests were sent.
        generator_cpu: the share of one CPU that the generator took.
    """

    share: float
    rate: float
    seconds: float
    answered_s: tuple[float, ...]
    answered_in_time: int
    refused_s: tuple[float, ...]
    failed: int
    late_p50_s: float
    late_p99_s: float
    generator_cpu: float

    @property
    def goodput(self) -> float:
        """Answers a second."""
        return self.answered_in_time / self.seconds


@dataclass(frozen=True, kw_only=True)
class ServingRecord:
    """A variant on an engine behind `cls-serve`, and without it on the same CPUs.

    Attributes:
        side: whose.
        threads: CPU threads of the engine, in the server and without it.
        cpus: how server and generator share the machine, in words.
        ready_s: from the start of the server's process until it was ready.
        encode_s: without a server: seconds of each call of `encode` with one text, one after another.
        aencode_per_second: without a server: texts a second of `callers` that each send the next text when they have the last.
        callers: of that, and of `capacity`.
        capacity: the same over HTTP.
        trivial: the highest rate of `rates` against a responder that computes nothing: what the generator and the sockets cost.
        trivial_capacity: requests a second of `callers` against it.
        rates: the server under open-loop load, by rate.
    """

    side: str
    threads: int
    cpus: str
    ready_s: float
    encode_s: tuple[float, ...]
    aencode_per_second: float
    callers: int
    capacity: float
    trivial: RateRecord
    trivial_capacity: float
    rates: tuple[RateRecord, ...]
