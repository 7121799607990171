"""Merges requests that come at the same time, as a service's do, into batches. The work behind `Encoder.aencode`.

- A round takes some texts of each waiting request in turn, so that a long request does not hold up the short ones behind it.
- The first request of a round waits at most `max_wait_ms` for company, and not at all once there is a full batch.
- A request that would bring the texts waiting over `max_waiting_texts` is refused: memory does not grow with the load.
- What is wrong with one request is its own: its neighbours in the round are computed again without it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.chunks import Window, distinct
from cls_runtime.encoding.report import EncodeReport, truncations
from cls_runtime.encoding.runner import CLOSED, BatchRunner
from cls_runtime.encoding.tokenizer import Text, characters
from cls_runtime.errors import ClosedError, ClsError, OverloadedError

Float32 = NDArray[np.float32]

# Long enough for requests that arrive together to be seen together, short beside the milliseconds that a batch takes.
MAX_WAIT_MS = 2.0
MAX_WAITING_TEXTS = 8192

# A request's share of a round, before the next one's turn.
SHARE_TEXTS = 32
# A round's size in token budgets: enough texts that neighbours in a batch are about equally long.
ROUND_BUDGETS = 4
# For a guess at the tokens of a text that is not tokenized yet.
CHARACTERS_PER_TOKEN = 4


@dataclass(eq=False)
class _Request:
    """Texts on their way to vectors. `taken` of them are in a round or done, `missing` are not done yet."""

    window: Window
    output: str
    refuse_overflow: bool
    rows: Float32
    missing: int
    taken: int = 0
    report: EncodeReport = field(default_factory=EncodeReport)
    future: Future[tuple[Float32, EncodeReport]] = field(default_factory=Future)


@dataclass(frozen=True)
class _Share:
    """The texts `start` to `stop` of a request."""

    request: _Request
    start: int
    stop: int

    @property
    def window(self) -> Window:
        whole = self.request.window
        return Window(whole.texts[self.start : self.stop], whole.indices[self.start : self.stop])


class RequestMerger:
    """A queue of requests, and the threads that compute them round by round. Safe to use from several threads at once."""

    def __init__(self, runner: BatchRunner, *, rounds_at_once: int, max_wait_ms: float, max_waiting_texts: int, token_budget: int) -> None:
        self._runner = runner
        self._rounds_at_once = rounds_at_once
        self._max_wait_s = max_wait_ms / 1e3
        self._max_waiting_texts = max_waiting_texts
        self._token_budget = token_budget
        self._arrived = threading.Condition()
        self._requests: deque[_Request] = deque()
        self._waiting_texts = 0
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, window: Window, output: str, *, width: int, refuse_overflow: bool) -> Future[tuple[Float32, EncodeReport]]:
        """Queues a request; the future's result is its rows, float32 [n, width], and its report. Cancel the future to withdraw it.

        The report's tokens, padding and batches are those of the rounds that the request was part of, neighbours included.

        Args:
            window: its distinct texts.
            output: the graph output.
            width: the width of its last axis.
            refuse_overflow: a text that is too long is an error.

        Raises:
            OverloadedError: too many texts are waiting.
            ClosedError: after `close`.
        """
        count = len(window.texts)
        request = _Request(window, output, refuse_overflow, np.empty((count, width), dtype=np.float32), count)
        with self._arrived:
            if self._closed:
                raise ClosedError(CLOSED)
            if self._waiting_texts + count > self._max_waiting_texts:
                raise OverloadedError(
                    f"{self._waiting_texts} texts are waiting, {count} more would exceed the {self._max_waiting_texts} of "
                    "max_waiting_texts; try again later, send fewer at once, or use encode or stream for a bulk job"
                )
            self._waiting_texts += count
            self._requests.append(request)
            if len(self._threads) < self._rounds_at_once:
                thread = threading.Thread(target=self._work, name=f"cls-encoder-merge-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._arrived.notify_all()
        return request.future

    def close(self) -> None:
        """Ends the threads after the rounds under way; what still waits fails with ClosedError. May be called more than once."""
        with self._arrived:
            self._closed = True
            waiting = list(self._requests)
            self._requests.clear()
            self._arrived.notify_all()
        for request in waiting:
            _fail(request, ClosedError(CLOSED))
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _work(self) -> None:
        while shares := self._next_round():
            self._compute(shares)
            with self._arrived:
                for share in shares:
                    self._done(share)

    def _next_round(self) -> list[_Share]:
        """Waits for requests and takes a share of each in turn; nothing once closed."""
        with self._arrived:
            while not self._closed:
                while not self._requests and not self._closed:
                    self._arrived.wait()
                deadline = time.monotonic() + self._max_wait_s
                while not self._closed and self._waiting_tokens() < self._token_budget and (left := deadline - time.monotonic()) > 0:
                    self._arrived.wait(left)
                if shares := self._take():
                    return shares
            return []

    def _waiting_tokens(self) -> int:
        """A guess, and no higher than need be: counting stops at a full batch."""
        tokens = 0
        for request in self._requests:
            for text in islice(request.window.texts, request.taken, None):
                tokens += _guessed_tokens(text)
                if tokens >= self._token_budget:
                    return tokens
        return tokens

    def _take(self) -> list[_Share]:
        """One round: shares of requests for one output, the longest-waiting first. Those with texts left go to the end of the queue."""
        shares: list[_Share] = []
        others: list[_Request] = []
        tokens = 0
        while self._requests and tokens < ROUND_BUDGETS * self._token_budget:
            request = self._requests.popleft()
            if request.future.cancelled():
                self._waiting_texts -= len(request.window.texts) - request.taken
                continue
            if shares and (request.output, request.refuse_overflow) != (shares[0].request.output, shares[0].request.refuse_overflow):
                others.append(request)
                continue
            start = request.taken
            request.taken = min(start + SHARE_TEXTS, len(request.window.texts))
            shares.append(_Share(request, start, request.taken))
            tokens += sum(_guessed_tokens(text) for text in request.window.texts[start : request.taken])
            if request.taken < len(request.window.texts):
                self._requests.append(request)
        self._requests.extendleft(reversed(others))
        return shares

    def _compute(self, shares: Sequence[_Share]) -> None:
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
        ((rows, report),) = self._runner.compute(
            [texts.once], first.request.output, width=first.request.rows.shape[1], refuse_overflow=first.request.refuse_overflow
        )
        rows, cuts = texts.rows_of_all(rows), texts.cuts_of_all(report.truncated)
        start = 0
        for share, window in zip(shares, windows, strict=True):
            stop = start + len(window.texts)
            share.request.rows[share.start : share.stop] = rows[start:stop]
            truncated = truncations(window.indices, cuts[start:stop])
            with self._arrived:
                share.request.report += replace(report, texts=len(window.texts), truncated=truncated)
            start = stop

    def _done(self, share: _Share) -> None:
        """Counts a share as done, and hands out the request that is complete."""
        request = share.request
        count = share.stop - share.start
        request.missing -= count
        self._waiting_texts -= count
        if request.missing:
            return
        report = replace(request.report, truncated=tuple(sorted(request.report.truncated, key=lambda item: item.index)))
        try:
            request.future.set_result((request.rows, report))
        except InvalidStateError:  # withdrawn, or failed by another share
            return


def _fail(request: _Request, error: BaseException) -> None:
    try:
        request.future.set_exception(error)
    except InvalidStateError:  # withdrawn, or failed by another share
        return


def _concatenated(windows: Sequence[Window]) -> Window:
    texts = [text for window in windows for text in window.texts]
    return Window(texts, range(len(texts)))


def _guessed_tokens(text: Text) -> int:
    return 2 + characters(text) // CHARACTERS_PER_TOKEN
