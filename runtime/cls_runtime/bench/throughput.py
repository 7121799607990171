"""How many texts a second: text to vectors, the graph alone on ready batches, and both as one thing after another is varied."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from cls_runtime.bench.loaded import Loaded
from cls_runtime.bench.results import Kind, Timing
from cls_runtime.bench.turns import clocked, in_turns
from cls_runtime.bundle.manifest import GRAPH_OUTPUTS
from cls_runtime.encoding.batching import pad, plan_batches
from cls_runtime.encoding.report import EncodeReport
from cls_runtime.encoding.tokenizer import TokenizedText
from cls_runtime.engines.padding import PaddedBatch
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
    tokenized: Sequence[TokenizedText],
    *,
    pad_id: int,
    token_budget: int,
    kind: Kind = "model_only",
    at: int | None = None,
) -> list[Job]:
    """The engine on padded batches that are ready before the clock starts, on each side; its pool has a thread for each worker."""
    lengths = [len(text) for text in tokenized]
    jobs = []
    for name, side in sides.items():
        plan = plan_batches(lengths, max_length=max(lengths), token_budget=token_budget, engine=side.engine.name)
        batches = [pad([tokenized[index] for index in batch.indices], rows=batch.rows, width=batch.width, pad_id=pad_id) for batch in plan]
        padding = sum(batch.input_ids.size for batch in batches) - sum(lengths)
        report = EncodeReport(texts=len(lengths), tokens=sum(lengths), padding_tokens=padding, batches=len(batches))
        jobs.append(Job(timing=_timing(side, lengths, kind, at), work=_on_workers(side, pools[name], batches, report)))
    return jobs


@contextlib.contextmanager
def worker_pools(sides: Mapping[str, Loaded]) -> Iterator[dict[str, ThreadPoolExecutor]]:
    """A pool for each side, with as many threads as its engine has workers."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(ThreadPoolExecutor(side.engine.workers)) for name, side in sides.items()}


def texts_of_length(tokenized: Sequence[TokenizedText], length: int, count: int) -> list[TokenizedText]:
    """`count` texts of exactly `length` tokens: what stands between the first and the last special token of real texts, one after another.

    A length of 1 or 2 has special tokens only.
    """
    first, last = tokenized[0].ids[:1], tokenized[0].ids[-1:]
    inner = np.concatenate([text.ids[1:-1] for text in tokenized])
    words = np.resize(inner if len(inner) else first, max(0, length - 2) * count).reshape(count, -1)  # repeats where texts are few
    types = None if tokenized[0].type_ids is None else np.zeros(length, dtype=np.int32)
    return [TokenizedText(np.concatenate([first, row, last])[:length].astype(np.int32), types, 0) for row in words]


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


def _on_workers(side: Loaded, pool: ThreadPoolExecutor, batches: Sequence[PaddedBatch], report: EncodeReport) -> Callable[[], EncodeReport]:
    def work() -> EncodeReport:
        for _ in pool.map(lambda batch: side.engine.run(batch, [_OUTPUT]), batches):
            pass
        return report

    return work
