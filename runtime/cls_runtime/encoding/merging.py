"""Merges requests that come at the same time, as a service's do, into batches. The work behind `Encoder.aencode`.

- A worker that is idle takes what waits at once; what comes while all of them work is the next round.
- A round is bounded by time, and so is a request's share of it, so that a long request does not hold up the short ones behind it.
- A request that would bring what waits over `max_waiting_texts` or `max_waiting_characters` is refused: memory does not grow with the load.
- What is wrong with one request is its own. What is left of one that failed, was withdrawn or is too late is dropped at once.
- What a round completes is handed to each event loop with one call: every wake-up of another thread costs both.
- The threads end with the Encoder that they work for, closed or not, and before the interpreter does.
"""

from __future__ import annotations

import contextlib
import functools
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cls_runtime.encoding.chunks import Window
from cls_runtime.encoding.crew import Crew
from cls_runtime.encoding.overflow import Overflow
from cls_runtime.encoding.pace import Pace
from cls_runtime.encoding.report import QueueState
from cls_runtime.encoding.request import Outcome, Request
from cls_runtime.encoding.request_queue import RequestQueue, Round
from cls_runtime.encoding.rounds import computed
from cls_runtime.encoding.runner import CLOSED, BatchRunner
from cls_runtime.errors import ClosedError, DeadlineError, OverloadedError

if TYPE_CHECKING:
    import asyncio

MAX_WAITING_TEXTS = 8192
MAX_WAITING_CHARACTERS = 2**25  # as many texts as that, of two pages each

# Whoever gets an outcome does something with it: so many at a time, and the event loop looks at everything else in between.
DELIVERED_AT_ONCE = 2

_Delivery = tuple["asyncio.Future[Outcome]", Outcome | Exception]


class RequestMerger:
    """A queue of requests, and the threads that compute them round by round. Safe to use from several threads and event loops at once."""

    def __init__(self, runner: BatchRunner, *, workers: int, max_waiting_texts: int, max_waiting_characters: int) -> None:
        self._runner = runner
        self._workers = workers
        self._max_waiting_texts = max_waiting_texts
        self._max_waiting_characters = max_waiting_characters
        self._pace = Pace()
        self._queue = RequestQueue(self._pace, workers=workers, full_tokens=runner.batching.full_tokens)
        self._idle = 0
        self._running = 0
        self._busy_since = 0.0
        self._crew = Crew(workers, name="cls-encoder-merge")
        self._arrived = self._crew.told

    def end_with(self, owner: object) -> None:
        """Lets the threads end when `owner` is collected."""
        weakref.finalize(owner, self._crew.dismiss).atexit = False

    @property
    def state(self) -> QueueState:
        """What waits. It takes no lock: a figure may be that of a moment later than the one before it."""
        queue = self._queue
        waiting, turn = queue.tokens, queue.turn_tokens
        running, tokens_per_second = queue.running_tokens, self._pace.tokens_per_second * self._workers  # read behind what waits
        stalled_s = time.monotonic() - max(self._busy_since, self._runner.last_ended) if queue.held_texts else 0.0
        return QueueState(
            texts=queue.texts,
            characters=queue.characters,
            seconds=(waiting + running) / tokens_per_second,
            turn_seconds=(turn + running) / tokens_per_second,
            stalled_s=max(0.0, stalled_s),
        )

    def submit(
        self,
        window: Window,
        output: str,
        *,
        width: int,
        overflow: Overflow,
        loop: asyncio.AbstractEventLoop,
        deadline: float | None = None,
    ) -> Request:
        """Queues a request, on the thread of the event loop that its future belongs to. `withdraw` it when that is awaited no more.

        Args:
            window: its distinct texts.
            output: the graph output.
            width: the width of its last axis.
            overflow: what to do about texts that are too long.
            loop: the event loop.
            deadline: when its outcome is a DeadlineError, by `time.monotonic`; None for never.

        Raises:
            OverloadedError: too many texts or characters are waiting.
            ClosedError: after `close`.
            EngineError: there is no thread, and none can be started.
        """
        request = Request.of(
            window, output, width=width, overflow=overflow, loop=loop, deadline=deadline, max_length=self._runner.max_length
        )
        count, size = request.count, sum(request.sizes)
        with self._arrived:
            if self._crew.dismissed:
                raise ClosedError(CLOSED)
            self._check_room(self._queue.held_texts, count, self._max_waiting_texts, "texts")
            self._check_room(self._queue.held_characters, size, self._max_waiting_characters, "characters")
            while self._crew.add(self._work):
                pass
            if not self._queue.held_texts:
                self._busy_since = request.since
            self._queue.add(request)
            if self._idle:
                self._arrived.notify()
        if deadline is not None:
            request.timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._give_up, request)
        return request

    def withdraw(self, request: Request) -> None:
        """Takes what waits of a request out of the queue, unless it has its outcome. Nobody awaits its future any more."""
        if request.timer is not None:
            request.timer.cancel()
            request.timer = None
        if request.ended or not self._crew.is_here:
            return
        with self._arrived:
            if not request.ended:
                request.ended = True
                self._queue.remove(request)
        with contextlib.suppress(RuntimeError):  # the event loop is closed, and the task that awaited was thrown away
            request.future.cancel()

    def close(self) -> None:
        """Ends the threads after the rounds under way; what still waits fails with ClosedError. May be called more than once."""
        self._crew.dismiss()
        if self._crew.is_here:
            with self._arrived:
                waiting = self._queue.waiting()
                for request in waiting:
                    request.ended = True
                    self._queue.remove(request)
            _hand_out([(request, ClosedError(CLOSED)) for request in waiting])
            self._crew.end()

    def _check_room(self, waiting: int, more: int, most: int, what: str) -> None:
        if waiting + more > most:
            raise OverloadedError(
                f"{waiting} {what} are waiting, {more} more would exceed the {most} of max_waiting_{what}; retry later, send fewer at "
                "once, or use encode or stream for a bulk job"
            )

    def _give_up(self, request: Request) -> None:
        """What the event loop does at a request's deadline, whatever the threads are at."""
        if not request.future.done():
            request.future.set_exception(_too_late(request))
        if not self._crew.is_here:
            return
        with self._arrived:
            if not request.ended:
                request.ended = True
                self._queue.remove(request)

    def _work(self) -> None:
        ended: float | None = time.perf_counter()
        while ended is not None:
            ended = self._one_round(ended)

    def _one_round(self, since: float) -> float | None:
        """Waits for requests, computes a share of each in turn, and hands out what is complete.

        The pace is of all that a round takes, also between the end of the one before it, `since`, and its own beginning: so fast the queue
        becomes shorter.

        Returns:
            When its computing ended; None where no more is to come.
        """
        taken, waited = self._next_round()
        if taken is None:
            return None
        begun = time.perf_counter() if waited else since
        stop = functools.partial(self._makes_way, taken) if taken.alone else None
        results = computed(self._runner, taken.shares, stop=stop, batch_tokens=taken.batch_tokens)
        ended = time.perf_counter()
        complete: list[tuple[Request, Exception | None]] = []
        with self._arrived:
            self._running -= 1
            self._queue.done(taken)
            tokens = 0
            for whole, result in zip(taken.shares, results, strict=True):
                share, request = whole, whole.request
                if result.done is not None:
                    share, others = whole.split(result.done)
                    self._queue.give_back(request, others)
                tokens += share.tokens
                if not request.ended and (result.error is not None or request.takes_in(share, result)):
                    request.ended = True
                    self._queue.remove(request)
                    complete.append((request, result.error))
            if tokens and all(result.error is None for result in results):
                self._pace.add(tokens, ended - begun)
        _hand_out([(request, error or request.outcome) for request, error in complete])
        return ended

    def _makes_way(self, taken: Round) -> bool:
        """Whether the round of a request that was alone should not go on: it has gone, or another one has come."""
        return taken.shares[0].request.ended or self._queue.came != taken.number

    def _next_round(self) -> tuple[Round | None, bool]:
        """Waits for requests and takes the next round, nothing once closed; and whether it had to wait."""
        waited = False
        while True:
            with self._arrived:
                while not self._queue and not self._crew.dismissed:
                    waited = True
                    self._idle += 1
                    self._arrived.wait()
                    self._idle -= 1
                if self._crew.dismissed:
                    return None, waited
                taken, expired = self._queue.take(self._crew.size - self._running, time.monotonic())
                if taken is not None:
                    self._running += 1
                    if self._queue and self._idle:
                        self._arrived.notify()
            _hand_out([(request, _too_late(request)) for request in expired])
            del expired
            if taken is not None:
                return taken, waited


def _hand_out(outcomes: Sequence[tuple[Request, Outcome | Exception]]) -> None:
    """Gives requests their outcomes, with one call into each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Delivery]] = {}
    for request, outcome in outcomes:
        by_loop.setdefault(request.loop, []).append((request.future, outcome))
    for loop, deliveries in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed, nobody waits
            loop.call_soon_threadsafe(_deliver, loop, deliveries)


def _deliver(loop: asyncio.AbstractEventLoop, deliveries: Sequence[_Delivery]) -> None:
    """Sets futures, on the thread of their event loop. One that is done was cancelled or came to its deadline."""
    if len(deliveries) > DELIVERED_AT_ONCE:
        loop.call_soon(_deliver, loop, deliveries[DELIVERED_AT_ONCE:])
    for future, outcome in deliveries[:DELIVERED_AT_ONCE]:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _too_late(request: Request) -> DeadlineError:
    done = request.count - request.missing
    return DeadlineError(
        f"timeout_s passed with {done} of {request.count} texts computed; allow more time, send fewer texts at once, or retry when "
        "fewer requests wait"
    )
