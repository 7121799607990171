"""Computes a round: shares of several requests, together. What is wrong with one request is its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.chunks import Window, distinct
from cls_runtime.encoding.job import cuts_of
from cls_runtime.encoding.request import Share, ShareResult
from cls_runtime.encoding.rows import Rows
from cls_runtime.encoding.runner import BatchRunner
from cls_runtime.errors import EngineError


def computed(
    runner: BatchRunner, shares: Sequence[Share], *, stop: Callable[[], bool] | None = None, batch_tokens: int | None = None
) -> list[ShareResult]:
    """The result of each share. Where they fail together, each is computed alone; one that was withdrawn meanwhile is not.

    A share that is alone may be done in part: up to the batch, of at most `batch_tokens`, after which `stop` says so.
    """
    try:
        return _computed_together(runner, shares, stop=stop if len(shares) == 1 else None, batch_tokens=batch_tokens)
    except BaseException as error:  # noqa: BLE001  whatever it is, someone waits for it
        if len(shares) == 1:
            return [ShareResult(error=_deliverable(error))]
        return [ShareResult() if share.request.ended else computed(runner, [share])[0] for share in shares]


def _computed_together(
    runner: BatchRunner, shares: Sequence[Share], *, stop: Callable[[], bool] | None, batch_tokens: int | None
) -> list[ShareResult]:
    begun = time.perf_counter()
    first = shares[0].request
    windows = [share.window for share in shares]
    # A share alone keeps its own indices, so that an error names the text's place in its caller's input.
    texts = distinct(windows[0] if len(windows) == 1 else _concatenated(windows))
    try:
        tokenized, _ = runner.tokenize(texts.once, first.overflow)
    except BaseException:
        if len(shares) == 1:
            raise
        return _computed_without_those_that_fail(runner, shares, windows)
    then = time.perf_counter()
    done = runner.compute_here(tokenized, texts.once.prompt_tokens, first.output, width=first.width, stop=stop, batch_tokens=batch_tokens)
    end = time.perf_counter()
    padding, numbers = np.zeros(len(tokenized), dtype=np.intp), np.zeros(len(tokenized), dtype=np.intp)
    for number, batch in enumerate(done.batches):
        numbers[batch.indices] = number
        if runner.batching.pads:
            lengths_here = done.lengths[batch.indices]
            padding[batch.indices] = lengths_here.max() - lengths_here
    parts = np.split(texts.positions, np.cumsum([len(window.texts) for window in windows])[:-1])
    part: list[int] | None = None
    if sum(len(batch.indices) for batch in done.batches) < len(tokenized):  # `stop` said so
        part = sorted(place for batch in done.batches for place in batch.indices.tolist())
        parts = [np.array(part, dtype=np.intp)]
        windows = [windows[0].only(part)]
    results: list[ShareResult] = []
    for window, places in zip(windows, parts, strict=True):
        lengths = done.lengths[places].tolist()
        truncated = cuts_of(window, tokenized, places)
        rows = _rows_at(done.rows, places)
        batches = len(set(numbers[places].tolist()))
        padded = int(padding[places].sum())
        results.append(ShareResult(rows, lengths, padded, batches, truncated, then - begun, end - then, done=part))
    return results


def _computed_without_those_that_fail(runner: BatchRunner, shares: Sequence[Share], windows: Sequence[Window]) -> list[ShareResult]:
    """The results of shares of which some cannot be tokenized or are refused, which costs the others no more than their tokens again."""
    errors: dict[int, ShareResult] = {}
    for place, (share, window) in enumerate(zip(shares, windows, strict=True)):
        try:
            runner.tokenize(window, share.request.overflow)
        except BaseException as error:  # noqa: BLE001  whatever it is, someone waits for it
            errors[place] = ShareResult(error=_deliverable(error))
    if not errors:  # none of them fails alone
        return [computed(runner, [share])[0] for share in shares]
    rest = [share for place, share in enumerate(shares) if place not in errors]
    results = iter(computed(runner, rest) if rest else [])
    return [errors[place] if place in errors else next(results) for place in range(len(shares))]


def _rows_at(rows: Rows, places: NDArray[np.intp]) -> Rows:
    """Copies of the rows at `places`: no request holds those of its neighbours, and none is changed with another."""
    return [rows[place].copy() for place in places.tolist()] if isinstance(rows, list) else rows[places]


def _deliverable(error: BaseException) -> Exception:
    """An error that can be raised where the result is awaited, and ends nothing but that: no SystemExit, StopIteration or panic."""
    if isinstance(error, Exception) and not isinstance(error, (StopIteration, StopAsyncIteration)):
        return error
    made = EngineError(f"computing failed with {type(error).__name__}: {error}")
    made.__cause__ = error
    return made


def _concatenated(windows: Sequence[Window]) -> Window:
    texts = [text for window in windows for text in window.texts]
    prompt_tokens = None
    if any(window.prompt_tokens is not None for window in windows):
        prompt_tokens = [count for window in windows for count in window.prompt_tokens or [0] * len(window.texts)]
    return Window(texts, range(len(texts)), prompt_tokens)
