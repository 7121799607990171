"""How many texts a second: text to vectors, the graph alone on ready batches, and both as one thing after another is varied."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cls_runtime.batching import pad, plan_batches
from cls_runtime.bench.loaded import Loaded
from cls_runtime.bench.results import Kind, Timing
from cls_runtime.bench.turns import in_turns
from cls_runtime.encoder import GRAPH_OUTPUTS
from cls_runtime.engines.base import TokenBatch
from cls_runtime.tokenizer import TextTokenizer, TokenizedText

_OUTPUT = GRAPH_OUTPUTS["cls"]


def text_to_vector(
    sides: Mapping[str, Loaded],
    texts: Sequence[str],
    lengths: Sequence[int],
    *,
    rounds: int,
    kind: Kind = "text_to_vector",
    at: int | None = None,
) -> tuple[Timing, ...]:
    """`Encoder.encode` of all texts in one call. `lengths` are the texts' in tokens."""
    seconds = in_turns({name: _encoding(side, texts) for name, side in sides.items()}, rounds=rounds)
    timings: list[Timing] = []
    for name, side in sides.items():
        report = side.encoder.last_report
        timings.append(
            Timing(
                side=name,
                kind=kind,
                at=at,
                threads=side.threads,
                texts=len(texts),
                tokens=report.tokens,
                padding_tokens=report.padding_tokens,
                batches=report.batches,
                multiply_adds=side.multiply_adds(lengths, batches=report.batches),
                seconds=seconds[name],
            )
        )
    return tuple(timings)


def model_only(
    sides: Mapping[str, Loaded],
    tokenized: Sequence[TokenizedText],
    tokenizer: TextTokenizer,
    *,
    rounds: int,
    token_budget: int,
    kind: Kind = "model_only",
    at: int | None = None,
) -> tuple[Timing, ...]:
    """The engine on padded batches that are ready before the clock starts, as many at once as it has workers."""
    planned = plan_batches([len(text) for text in tokenized], token_budget=token_budget)
    batches = [pad([tokenized[index] for index in batch], pad_id=tokenizer.pad_id) for batch in planned]
    lengths = [len(text) for text in tokenized]
    with _running(sides, batches) as work:
        seconds = in_turns(work, rounds=rounds)
    return tuple(
        Timing(
            side=name,
            kind=kind,
            at=at,
            threads=side.threads,
            texts=len(tokenized),
            tokens=sum(lengths),
            padding_tokens=sum(batch.input_ids.size for batch in batches) - sum(lengths),
            batches=len(batches),
            multiply_adds=side.multiply_adds(lengths, batches=len(batches)),
            seconds=seconds[name],
        )
        for name, side in sides.items()
    )


def texts_of_length(tokenized: Sequence[TokenizedText], length: int, count: int) -> list[TokenizedText]:
    """`count` texts of exactly `length` tokens: what stands between the first and the last special token of real texts, one after another.

    A length of 1 or 2 has special tokens only.
    """
    first, last = tokenized[0].ids[:1], tokenized[0].ids[-1:]
    inner = np.concatenate([text.ids[1:-1] for text in tokenized])
    words = np.resize(inner if len(inner) else first, max(0, length - 2) * count).reshape(count, -1)  # repeats where texts are few
    types = None if tokenized[0].type_ids is None else np.zeros(length, dtype=np.int32)
    return [TokenizedText(np.concatenate([first, row, last])[:length].astype(np.int32), types, 0) for row in words]


def _encoding(side: Loaded, texts: Sequence[str]) -> Callable[[], object]:
    return lambda: side.encoder.encode(texts)


@contextlib.contextmanager
def _running(sides: Mapping[str, Loaded], batches: Sequence[TokenBatch]) -> Iterator[dict[str, Callable[[], object]]]:
    with contextlib.ExitStack() as stack:
        work: dict[str, Callable[[], object]] = {}
        for name, side in sides.items():
            pool = stack.enter_context(ThreadPoolExecutor(side.engine.workers))
            work[name] = _on_workers(side, pool, batches)
        yield work


def _on_workers(side: Loaded, pool: ThreadPoolExecutor, batches: Sequence[TokenBatch]) -> Callable[[], object]:
    return lambda: list(pool.map(lambda batch: side.engine.run(batch, [_OUTPUT]), batches))
