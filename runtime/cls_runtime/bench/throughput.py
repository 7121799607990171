"""How many texts a second: text to vectors, the graph alone on ready batches, and both as one thing after another is varied."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from cls_runtime.bench.loaded import Loaded
from cls_runtime.bench.results import Kind, Timing
from cls_runtime.bench.turns import clocked, in_turns
from cls_runtime.bundle.manifest import GRAPH_OUTPUTS
from cls_runtime.encoding.batching import plan_batches
from cls_runtime.encoding.report import EncodeReport
from cls_runtime.encoding.tokens import TokenizedTexts
from cls_runtime.engines.base import TokenBatch
from cls_runtime.verifying.vector_checks import as_computed_with_report

_OUTPUT = GRAPH_OUTPUTS["cls"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Work of one side that is timed once a round: `timing` is its record without seconds, from the report that `work` gives."""

    timing: Callable[[EncodeReport, tuple[float, ...]], Timing]
    work: Callable[[], EncodeReport]


def timed(jobs: Sequence[Job], *, rounds: int) -> tuple[Timing, ...]:
    """Every job's record. All jobs take turns, whatever is varied between them, so that a slow minute hits all alike."""
    for job in jobs:
        job.work()  # a warm-up
    samples = in_turns(jobs, lambda job, _: clocked(job.work), rounds=rounds)
    return tuple(job.timing(taken[-1][1], tuple(seconds for seconds, _ in taken)) for job, taken in samples.items())


def encoding_jobs(
    sides: Mapping[str, Loaded],
    texts: Sequence[str],
    lengths: Sequence[int],
    *,
    kind: Kind = "text_to_vector",
    at: int | None = None,
) -> list[Job]:
    """`as_computed` of all texts in one call, on each side. `lengths` are the texts' in tokens."""
    return [Job(timing=_timing(side, lengths, kind, at), work=_encoding(side, texts)) for side in sides.values()]


def batch_jobs(
    sides: Mapping[str, Loaded],
    pools: Mapping[str, ThreadPoolExecutor],
    tokenized: TokenizedTexts,
    *,
    pad_id: int,
    token_budget: int | None,
    kind: Kind = "model_only",
    at: int | None = None,
) -> list[Job]:
    """The engine on batches that are ready before the clock starts, on each side; its pool has a thread for each worker.

    A batch has at most `token_budget` tokens; None for each engine's own.
    """
    lengths = tokenized.lengths.tolist()
    jobs = []
    for name, side in sides.items():
        batching = side.engine.batching
        if token_budget is not None:
            batching = replace(batching, token_budget=token_budget)
        plan = plan_batches(tokenized.lengths, batching)
        batches = [tokenized.batch(batch.indices, pad_id=pad_id, token_budget=batching.token_budget) for batch in plan]
        padding = sum(map(side.engine.padding_tokens, batches))
        report = EncodeReport(texts=len(lengths), tokens=sum(lengths), padding_tokens=padding, batches=len(batches))
        jobs.append(Job(timing=_timing(side, lengths, kind, at), work=_on_workers(side, pools[name], batches, report)))
    return jobs


@contextlib.contextmanager
def worker_pools(sides: Mapping[str, Loaded]) -> Iterator[dict[str, ThreadPoolExecutor]]:
    """A pool for each side, with as many threads as its engine has workers."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(ThreadPoolExecutor(side.engine.workers)) for name, side in sides.items()}


def texts_of_length(tokenized: TokenizedTexts, length: int, count: int) -> TokenizedTexts:
    """`count` texts of exactly `length` tokens: what stands between the first and the last special token of real texts, one after another.

    A length of 1 or 2 has special tokens only.
    """
    by_text = tokenized.token_ids()
    first, last = by_text[0][:1], by_text[0][-1:]
    inner = [token for text in by_text for token in text[1:-1]]
    words = np.resize(inner or first, max(0, length - 2) * count).reshape(count, -1).tolist()  # repeats where texts are few
    ids = [(*first, *row, *last)[:length] for row in words]
    return TokenizedTexts.of(ids, None if tokenized.type_ids is None else [[0] * length] * count)


def _timing(side: Loaded, lengths: Sequence[int], kind: Kind, at: int | None) -> Callable[[EncodeReport, tuple[float, ...]], Timing]:
    def timing(report: EncodeReport, seconds: tuple[float, ...]) -> Timing:
        return Timing(
            side=side.name,
            kind=kind,
            at=at,
            threads=side.threads,
            texts=report.texts,
            tokens=report.tokens,
            padding_tokens=report.padding_tokens,
            batches=report.batches,
            multiply_adds=side.multiply_adds(lengths, batches=report.batches),
            seconds=seconds,
        )

    return timing


def _encoding(side: Loaded, texts: Sequence[str]) -> Callable[[], EncodeReport]:
    def work() -> EncodeReport:
        return as_computed_with_report(side.encoder, texts)[1]

    return work


def _on_workers(side: Loaded, pool: ThreadPoolExecutor, batches: Sequence[TokenBatch], report: EncodeReport) -> Callable[[], EncodeReport]:
    def work() -> EncodeReport:
        for _ in pool.map(lambda batch: side.engine.run(batch, [_OUTPUT]), batches):
            pass
        return report

    return work
