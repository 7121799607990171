"""Merges requests that come at the same time, as a service's do, into batches. The work behind `Encoder.aencode`.

- A round takes some texts of each waiting request in turn, so that a long request does not hold up the short ones behind it.
- A request that would bring what waits over `max_waiting_texts` or `max_waiting_characters` is refused: memory does not grow with the load.
- What is wrong with one request is its own: its neighbours in the round are computed again without it. What is left of it is dropped.
- The threads end with the Encoder that they work for, closed or not, and before the interpreter does.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.chunks import Window, distinct
from cls_runtime.encoding.crew import Crew
from cls_runtime.encoding.overflow import Overflow
from cls_runtime.encoding.report import EncodeReport, QueueState, truncations
from cls_runtime.encoding.rows import Rows, empty_rows
from cls_runtime.encoding.runner import CLOSED, BatchRunner
from cls_runtime.encoding.tokenizer import Text, characters
from cls_runtime.errors import ClosedError, ClsError, OverloadedError

MAX_WAITING_TEXTS = 8192
MAX_WAITING_CHARACTERS = 2**25  # as many texts as that, of two pages each

# A request's share of a round, before the next one's turn: so many texts, or those that bring it to so many characters.
SHARE_TEXTS = 32
SHARE_CHARACTERS = 2**16
# A round's size in token budgets: enough texts that neighbours in a batch are about equally long.
ROUND_BUDGETS = 4
# For a guess at the tokens of a text that is not tokenized yet.
CHARACTERS_PER_TOKEN = 4

# A request's rows, its report, and the tokens of each text.
Outcome = tuple[Rows, EncodeReport, NDArray[np.intp]]


@dataclass(eq=False)
class _Request:
    """Texts on their way to vectors. `taken` of them are in a round or done, `missing` are not done yet; `waiting` characters not taken."""

    window: Window
    output: str
    overflow: Overflow
    width: int
    rows: Rows
    missing: int
    waiting: int
    taken: int = 0
    report: EncodeReport = field(default_factory=EncodeReport)
    lengths: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    since: float = field(default_factory=time.monotonic)
    future: Future[Outcome] = field(default_factory=Future)

    @property
    def kind(self) -> tuple[str, bool, bool]:
        return self.output, self.overflow.refuses, self.overflow.truncate_left


@dataclass(frozen=True)
class _Share:
    """The texts `start` to `stop` of a request, with so many characters."""

    request: _Request
    start: int
    stop: int
    characters: int

    @property
    def window(self) -> Window:
        return self.request.window.part(self.start, self.stop)


class RequestMerger:
    """A queue of requests, and the threads that compute them round by round. Safe to use from several threads at once."""

    def __init__(
        self,
        runner: BatchRunner,
        *,
        rounds_at_once: int,
        max_waiting_texts: int,
        max_waiting_characters: int,
        token_budget: int,
    ) -> None:
        self._runner = runner
        self._max_waiting_texts = max_waiting_texts
        self._max_waiting_characters = max_waiting_characters
        self._token_budget = token_budget
        self._requests: deque[_Request] = deque()
        self._waiting_texts = 0
        self._waiting_characters = 0
        self._crew = Crew(rounds_at_once, name="cls-encoder-merge")
        self._arrived = self._crew.told

    @property
    def state(self) -> QueueState:
        """What waits."""
        return QueueState(texts=self._waiting_texts, characters=self._waiting_characters)

    def end_with(self, owner: object) -> None:
        """Lets the threads end when `owner` is collected."""
        weakref.finalize(owner, self._crew.dismiss).atexit = False

    def submit(self, window: Window, output: str, *, width: int, overflow: Overflow) -> Future[Outcome]:
        """Queues a request; the future's result is its rows and its report. Cancel the future to withdraw it.

        The report's tokens, padding and batches are those of the rounds that the request was part of, neighbours included.

        Args:
            window: its distinct texts.
            output: the graph output.
            width: the width of its last axis.
            overflow: what to do about texts that are too long.

        Raises:
            OverloadedError: too many texts or characters are waiting.
            ClosedError: after `close`.
            EngineError: there is no thread, and none can be started.
        """
        count, size = len(window.texts), sum(map(characters, window.texts))
        with self._arrived:
            if self._crew.dismissed:
                raise ClosedError(CLOSED)
            self._check_room(self._waiting_texts, count, self._max_waiting_texts, "texts")
            self._check_room(self._waiting_characters, size, self._max_waiting_characters, "characters")
            self._crew.add(self._work)
            request = _Request(window, output, overflow, width, empty_rows(count, output, width), count, size)
            request.lengths = np.zeros(count, dtype=np.intp)
            self._waiting_texts += count
            self._waiting_characters += size
            self._requests.append(request)
            self._arrived.notify_all()
        request.future.add_done_callback(self._drop)
        return request.future

    def close(self) -> None:
        """Ends the threads after the rounds under way; what still waits fails with ClosedError. May be called more than once."""
        self._crew.dismiss()
        if self._crew.is_here:
            with self._arrived:
                waiting = list(self._requests)
            for request in waiting:
                _fail(request, ClosedError(CLOSED))
            self._crew.end()

    def _check_room(self, waiting: int, more: int, most: int, what: str) -> None:
        if waiting + more > most:
            raise OverloadedError(
                f"{waiting} {what} are waiting, {more} more would exceed the {most} of max_waiting_{what}; try again later, send fewer at "
                "once, or use encode or stream for a bulk job"
            )

    def _drop(self, future: Future[Outcome]) -> None:
        """Takes what is left of a request that failed or was withdrawn out of the queue."""
        if not future.cancelled() and future.exception() is None:
            return
        with self._arrived:
            for request in self._requests:
                if request.future is future:
                    self._requests.remove(request)
                    self._leave(len(request.window.texts) - request.taken, request.waiting)
                    break

    def _leave(self, texts: int, size: int) -> None:
        self._waiting_texts -= texts
        self._waiting_characters -= size

    def _work(self) -> None:
        while shares := self._next_round():
            self._compute(shares)
            with self._arrived:
                for share in shares:
                    self._done(share)

    def _next_round(self) -> list[_Share]:
        """Waits for requests and takes a share of each in turn; nothing once closed."""
        with self._arrived:
            while not self._crew.dismissed:
                while not self._requests and not self._crew.dismissed:
                    self._arrived.wait()
                if shares := self._take():
                    return shares
            return []

    def _take(self) -> list[_Share]:
        """One round: shares of requests for one output, the longest-waiting first. Those with texts left go to the end of the queue."""
        shares: list[_Share] = []
        others: list[_Request] = []
        tokens = 0
        while self._requests and tokens < ROUND_BUDGETS * self._token_budget:
            request = self._requests.popleft()
            if request.future.done():  # withdrawn just now
                self._leave(len(request.window.texts) - request.taken, request.waiting)
                continue
            if shares and request.kind != shares[0].request.kind:
                others.append(request)
                continue
            share = _next_share(request)
            shares.append(share)
            request.taken, request.waiting = share.stop, request.waiting - share.characters
            tokens += sum(_guessed_tokens(text) for text in request.window.texts[share.start : share.stop])
            if request.taken < len(request.window.texts):
                self._requests.append(request)
        self._requests.extendleft(reversed(others))
        return shares

    def _compute(self, shares: Sequence[_Share]) -> None:
        shares = [share for share in shares if not share.request.future.done()]  # of a request that failed there may be more of them
        if not shares:
            return
        try:
            self._run(shares)
        except ClsError as error:
            if len(shares) == 1:
                _fail(shares[0].request, error)
                return
            for share in shares:
                self._compute([share])
        except BaseException as error:  # noqa: BLE001  whatever it is, someone waits for it
            for share in shares:
                _fail(share.request, error)

    def _run(self, shares: Sequence[_Share]) -> None:
        """Computes shares together; each text's row goes to its request."""
        first = shares[0]
        windows = [share.window for share in shares]
        # A share alone keeps its own indices, so that an error names the text's place in its caller's input.
        merged = windows[0] if len(windows) == 1 else _concatenated(windows)
        texts = distinct(merged)
        (done,) = self._runner.compute([texts.once], first.request.output, width=first.request.width, overflow=first.request.overflow)
        rows, cuts = texts.rows_of_all(done.rows), texts.cuts_of_all(done.report.truncated)
        lengths = done.lengths[texts.positions]
        widths, numbers = np.zeros(len(done.lengths), dtype=np.intp), np.zeros(len(done.lengths), dtype=np.intp)
        for number, batch in enumerate(done.batches):
            widths[batch.indices], numbers[batch.indices] = batch.width, number
        padding, numbers = widths[texts.positions] - lengths, numbers[texts.positions]
        start = 0
        for share, window in zip(shares, windows, strict=True):
            part = slice(start, start + len(window.texts))
            share.request.rows[share.start : share.stop] = rows[part]
            share.request.lengths[share.start : share.stop] = lengths[part]
            report = EncodeReport(
                texts=len(window.texts),
                tokens=int(lengths[part].sum()),
                padding_tokens=int(padding[part].sum()),
                batches=len(np.unique(numbers[part])),
                truncated=truncations(window.indices, cuts[part]),
                input_tokens=int(lengths[part].sum()),
                tokenize_s=done.report.tokenize_s,
                compute_s=done.report.compute_s,
            )
            with self._arrived:
                share.request.report += report
            start = part.stop

    def _done(self, share: _Share) -> None:
        """Counts a share as done, and hands out the request that is complete."""
        request = share.request
        count = share.stop - share.start
        request.missing -= count
        self._leave(count, share.characters)
        if request.missing:
            return
        report = replace(request.report, truncated=tuple(sorted(request.report.truncated, key=lambda item: item.index)))
        try:
            request.future.set_result((request.rows, report, request.lengths))
        except InvalidStateError:  # withdrawn, or failed by another share
            return


def _fail(request: _Request, error: BaseException) -> None:
    try:
        request.future.set_exception(error)
    except InvalidStateError:  # withdrawn, or failed by another share
        return


def _next_share(request: _Request) -> _Share:
    start = stop = request.taken
    size = 0
    while stop < len(request.window.texts) and stop - start < SHARE_TEXTS and size < SHARE_CHARACTERS:
        size += characters(request.window.texts[stop])
        stop += 1
    return _Share(request, start, stop, size)


def _concatenated(windows: Sequence[Window]) -> Window:
    texts = [text for window in windows for text in window.texts]
    prompt_tokens = None
    if any(window.prompt_tokens is not None for window in windows):
        prompt_tokens = [count for window in windows for count in window.prompt_tokens or [0] * len(window.texts)]
    return Window(texts, range(len(texts)), prompt_tokens)


def _guessed_tokens(text: Text) -> int:
    return 2 + characters(text) // CHARACTERS_PER_TOKEN
