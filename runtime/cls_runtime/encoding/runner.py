"""Computes windows of texts on the engine: tokenized, batched, spread over the workers, within one budget of threads."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

import numpy as np

from cls_runtime.encoding.batching import Batch, plan_batches
from cls_runtime.encoding.chunks import Window
from cls_runtime.encoding.job import Computed, Job, cuts_of
from cls_runtime.encoding.overflow import Overflow
from cls_runtime.encoding.report import BatchSummary, Truncation, check_overflow
from cls_runtime.encoding.rows import check_rows, empty_rows, place_rows
from cls_runtime.encoding.tokenizer import TextTokenizer
from cls_runtime.encoding.tokens import TokenizedTexts
from cls_runtime.engines.base import Engine
from cls_runtime.errors import ClosedError, EngineError

# How often a round that may be stopped looks whether it should.
STOPS_WITHIN_S = 0.005
CLOSED = "the Encoder is closed; load the bundle again"


class BatchRunner:
    """An engine, a tokenizer, and the threads that keep the engine busy. Safe to use from several threads at once.

    Attributes:
        batching: how texts are put together for the engine, with the token budget that was asked for.
        slots: of which whoever runs the engine holds one. Given those of another runner, both together run no more batches at once than it.
        max_length: the tokens that the model takes of a text at most.
        observer: called after each run of the graph, on its thread.
        last_ended: when the last run of the graph ended, well or not, by `time.monotonic`.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: TextTokenizer,
        *,
        token_budget: int | None = None,
        slots: threading.Semaphore | None = None,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self.batching = engine.batching if token_budget is None else replace(engine.batching, token_budget=token_budget)
        self._process = os.getpid()
        self._closed = False
        self._close_lock = threading.Lock()
        # Whoever runs the engine holds a slot, worker or caller, so that all callers together stay within the budget of threads.
        self.slots = slots or threading.Semaphore(engine.workers)
        self._running = 0
        self._stopped = threading.Condition(threading.Lock())  # guards `_running`, and is told when the last run of a closed runner ends
        self._pool = ThreadPoolExecutor(engine.workers, thread_name_prefix="cls-encoder")
        self.max_length = tokenizer.max_length
        self.observer: Callable[[BatchSummary], None] | None = None
        self.last_ended = time.monotonic()

    def compute(
        self,
        windows: Iterable[Window],
        output: str,
        *,
        width: int,
        overflow: Overflow,
        progress: Callable[[int], None] | None = None,
    ) -> Generator[Computed, None, None]:
        """The rows of each window, in order; tokenizes one window ahead of the one that is computed.

        Args:
            windows: read one at a time.
            output: the graph output.
            width: the width of its last axis.
            overflow: what to do about texts that are too long.
            progress: called with the number of texts of each batch, when it is done.

        Raises:
            TextError: a text that cannot be encoded.
            TextTooLongError: `overflow` refuses, and a text is too long.
            EngineError: the engine failed.
            ClosedError: after `close`.
        """
        jobs: deque[Job] = deque()
        try:
            for window in windows:
                self._check_process()
                jobs.append(self._start(window, output, width=width, overflow=overflow, progress=progress))
                if len(jobs) == 2:
                    yield _completed(jobs[0], progress)
                    jobs.popleft()
            while jobs:
                self._check_process()
                yield _completed(jobs[0], progress)
                jobs.popleft()
        finally:
            if os.getpid() == self._process:  # after a fork a thread may hold the locks that is not there
                for job in jobs:
                    for future, _ in job.futures:
                        future.cancel()

    def tokenize(self, window: Window, overflow: Overflow) -> tuple[TokenizedTexts, list[Truncation]]:
        """The tokens of a window's texts, and which were cut.

        Raises:
            TextError: a text that cannot be encoded.
            TextTooLongError: `overflow` refuses, and a text is too long.
        """
        texts = self._tokenizer.tokenize(window.texts, indices=window.indices, truncate_left=overflow.truncate_left)
        truncated = cuts_of(window, texts)
        if overflow.refuses:
            check_overflow(truncated, max_length=self.max_length)
        return texts, truncated

    def compute_here(
        self,
        texts: TokenizedTexts,
        prompt_tokens: Sequence[int] | None,
        output: str,
        *,
        width: int,
        stop: Callable[[], bool] | None = None,
        batch_tokens: int | None = None,
    ) -> Computed:
        """The rows of texts, computed on the thread that calls, one batch after another.

        With `stop` all workers compute them, until it says that there are enough; batches that are not in the result then have no rows.
        With `batch_tokens` a batch has at most so many tokens, unless the engine keeps shapes, or one text has more.

        Raises:
            EngineError: the engine failed.
            ClosedError: after `close`.
        """
        job = self._planned(texts, prompt_tokens, output, width=width, batch_tokens=batch_tokens)
        if stop is not None:
            return self._spread(job, stop)
        for batch in job.batches:
            self._run(job, batch)
        return job.computed

    def _spread(self, job: Job, stop: Callable[[], bool]) -> Computed:
        """The batches of a job that have run when all have, or when `stop` says so: then those under way are the last."""
        done: list[Batch] = []
        if self._engine.workers == 1 or len(job.batches) == 1:
            while len(done) < len(job.batches) and not (done and stop()):
                self._run(job, job.batches[len(done)])
                done.append(job.batches[len(done)])
            return replace(job, batches=done).computed
        job.futures.extend((self._submit(job, batch), batch) for batch in job.batches)
        try:
            for future, batch in job.futures:
                while not future.done() and not stop():
                    wait([future], timeout=STOPS_WITHIN_S)
                if stop():
                    for each, _ in job.futures:
                        each.cancel()
                if not future.cancelled():
                    future.result()
                    done.append(batch)
        finally:
            for future, _ in job.futures:
                future.cancel()
        return replace(job, batches=done).computed

    def check_usable(self) -> None:
        """Refuses a closed runner, and one that a fork has left without its threads.

        Raises:
            ClosedError: after `close`.
            EngineError: in another process than the one that made it.
        """
        if self._closed:
            raise ClosedError(CLOSED)
        self._check_process()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise EngineError(
                f"this Encoder was loaded in process {self._process}, its threads do not exist in process {os.getpid()}; "
                "load it after the fork, in the child"
            )

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Waits for the batches that run, then frees the threads and the engine. May be called more than once."""
        if os.getpid() != self._process:
            self._closed = True
            return  # the threads and whatever they held, locks too, belong to the parent
        with self._close_lock:
            with self._stopped:
                if self._closed:
                    return
                self._closed = True
            self._pool.shutdown(wait=True)  # what waits in it sees that it is closed
            with self._stopped:
                while self._running:
                    self._stopped.wait()
            self._engine.close()

    def _start(self, window: Window, output: str, *, width: int, overflow: Overflow, progress: Callable[[int], None] | None) -> Job:
        """Tokenizes a window and hands its batches to the workers; a single batch runs here, which saves the hand-over."""
        begun = time.perf_counter()
        texts, truncated = self.tokenize(window, overflow)
        seconds = time.perf_counter() - begun
        job = self._planned(texts, window.prompt_tokens, output, width=width, truncated=truncated, tokenize_s=seconds)
        for batch in job.batches:
            if self._engine.workers == 1 or len(job.batches) == 1:
                self._run(job, batch)
                if progress is not None:
                    progress(len(batch.indices))
            else:
                job.futures.append((self._submit(job, batch), batch))
        return job

    def _planned(
        self,
        texts: TokenizedTexts,
        prompt_tokens: Sequence[int] | None,
        output: str,
        *,
        width: int,
        truncated: Sequence[Truncation] = (),
        tokenize_s: float = 0.0,
        batch_tokens: int | None = None,
    ) -> Job:
        batching = self.batching
        if batch_tokens is not None and batch_tokens < batching.token_budget and not batching.keeps_shapes:
            batching = replace(batching, token_budget=batch_tokens)
        batches = plan_batches(texts.lengths, batching)
        unpooled = None if prompt_tokens is None else np.array(prompt_tokens, dtype=np.int32)
        rows = empty_rows(len(texts), output, width)
        return Job(texts, unpooled, output, width, batches, rows, tuple(truncated), tokenize_s)

    def _submit(self, job: Job, batch: Batch) -> Future[None]:
        future: Future[None] = Future()
        arguments = [(job, batch)]
        try:
            self._pool.submit(self._work, future, arguments)
        except RuntimeError:  # no more threads; or the pool was shut down, by `close` or at the interpreter's exit
            if future.cancel():  # a thread that is there may have taken it all the same
                arguments.clear()  # the pool keeps them until it has a thread
                self._run(job, batch)
                future = Future()
                future.set_result(None)
        return future

    def _work(self, future: Future[None], arguments: Sequence[tuple[Job, Batch]]) -> None:
        """Runs a batch on a thread of the pool, unless it was cancelled."""
        if not future.set_running_or_notify_cancel():
            return
        try:
            self._run(*arguments[0])
        except BaseException as error:  # noqa: BLE001  whatever it is, someone waits for it
            future.set_exception(error)
        else:
            future.set_result(None)

    def _run(self, job: Job, batch: Batch) -> None:
        """Runs one batch and writes its vectors into their rows."""
        tokens = job.texts.batch(
            batch.indices, pad_id=self._tokenizer.pad_id, unpooled=job.unpooled, token_budget=self.batching.token_budget
        )
        with self.slots:
            with self._stopped:
                if self._closed:
                    raise ClosedError(CLOSED)
                self._running += 1
            begun = time.perf_counter()
            try:
                (vectors,) = self._engine.run(tokens, [job.output])
            finally:
                seconds = time.perf_counter() - begun
                self.last_ended = time.monotonic()
                with self._stopped:
                    self._running -= 1
                    if self._closed:
                        self._stopped.notify_all()
        check_rows(vectors, texts=tokens.texts, tokens=tokens.tokens, width=job.width, output=job.output)
        place_rows(job.rows, vectors, batch.indices, tokens.lengths)
        padding = self._engine.padding_tokens(tokens)
        job.seconds.append(seconds)
        job.padding_tokens.append(padding)
        if (observer := self.observer) is not None:
            observer(BatchSummary(texts=tokens.texts, tokens=tokens.tokens, padding_tokens=padding, seconds=seconds))


def _completed(job: Job, progress: Callable[[int], None] | None) -> Computed:
    for future, batch in job.futures:
        future.result()
        if progress is not None:
            progress(len(batch.indices))
    return job.computed
