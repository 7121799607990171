"""What benchmarks/gpu.py measured: one JSON file, which every part is added to when it is done, and the tables that pages have of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cls_runtime.bench.results import Host, write_samples
from cls_runtime.bench.spread import Spread, spread, times_as_fast
from cls_runtime.bench.table import UNKNOWN, Table, digits
from cls_runtime.bundle.typed_json import parsed, typed

OURS, SENTENCE_TRANSFORMERS, TORCH, ALONE = "cls-export", "sentence-transformers", "torch, sorted by hand", "model alone"
# Texts a second from text to vector, float16, on the card named; the works' names are those of `models.WORKS`.
BARS: Mapping[str, Mapping[str, float]] = {
    "H100": {"bert-base, 25 tokens": 60_000, "bert-base, 512 tokens": 3_400, "MiniLM, 25 tokens": 100_000, "MiniLM, 256 tokens": 15_000}
}
ONE_TEXT_P50_MS = 0.5  # of MiniLM
FP32_MAX_ABS, FP16_MIN_COSINE = 5e-5, 0.9999
GROWTH = 0.02  # of the memory in use after the first tenth of the texts


@dataclass(frozen=True, kw_only=True)
class Samples:
    """One side at one work.

    Attributes:
        work: the model, and the tokens of its texts.
        side: who computes.
        at: the value of what is varied; 0 where nothing is.
        texts, tokens, padding_tokens: of each sample.
        multiply_adds: those of a sample's matrix products, padding left out; 0 where they are unknown.
        seconds: of every sample.
        figures: what a side has beside its seconds, such as cosines.
        held_bytes: memory in use, after each sample.
        failed: why there are no seconds.
    """

    work: str
    side: str
    at: int = 0
    texts: int = 0
    tokens: int = 0
    padding_tokens: int = 0
    multiply_adds: int = 0
    seconds: tuple[float, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    held_bytes: tuple[int, ...] = ()
    failed: str = ""

    @property
    def texts_per_second(self) -> Spread:
        """Of the samples."""
        return spread(self.texts / seconds for seconds in self.seconds)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What computes. Of a run without a GPU, the name is the CPU's, and nothing else is known."""

    name: str
    memory_bytes: int = 0
    compute_capability: str = ""
    driver: str = ""
    cuda: str = ""


@dataclass(frozen=True, kw_only=True)
class GpuFile:
    """A results file: the card, the machine around it, and every part's samples. `small` says that none of them counts."""

    card: Card
    engine: str
    small: bool
    machine: Host
    versions: Mapping[str, str]
    measured: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, tuple[Samples, ...]] = field(default_factory=dict)

    def of(self, part: str, *, work: str | None = None, side: str | None = None, at: int | None = None) -> list[Samples]:
        """The samples of a part that were timed, in order."""
        return [
            item
            for item in self.parts.get(part, ())
            if item.seconds and work in (None, item.work) and side in (None, item.side) and at in (None, item.at)
        ]

    def with_samples(self, part: str, samples: Samples, *, when: str) -> GpuFile:
        """The file with these samples, in the place of those of the same side at the same work."""
        key = (samples.work, samples.side, samples.at)
        others = tuple(item for item in self.parts.get(part, ()) if (item.work, item.side, item.at) != key)
        return replace(self, measured={**self.measured, part: when}, parts={**self.parts, part: (*others, samples)})


def read(path: Path) -> GpuFile:
    """A results file.

    Raises:
        ValueError: it is none.
    """
    return typed(parsed(path.read_text(encoding="utf-8")), GpuFile, path.name)


def write(path: Path, held: GpuFile) -> None:
    """Replaces a results file."""
    beside = path.with_name(f".{path.name}")
    write_samples(beside, held)
    beside.replace(path)


def rate(held: GpuFile) -> float | None:
    """The multiply-adds a second of the fastest matrix product in float16."""
    return max((item.multiply_adds / min(item.seconds) for item in held.of("limit")), default=None)


def throughput(held: GpuFile) -> Table:
    """A row a work: who makes how many vectors of texts a second, and the limit of the matrix products."""
    rows = tuple(_throughput_row(held, work) for work in dict.fromkeys(item.work for item in held.of("texts", side=OURS)))
    return Table(
        key="gpu_throughput",
        title="Text to vector on a GPU",
        caption=(
            f"{held.card.name}, float16, texts a second: medians, and for each ratio the range of the rounds. The limit is what the matrix "
            f"products alone would take at {_tera(rate(held))} multiply-adds a second, the fastest product measured."
        ),
        header=(
            *("work", "sentence-transformers", "torch, sorted by hand", "cls-export", "times sentence-transformers", "times torch"),
            *("model alone", "limit", "bar"),
        ),
        rows=rows,
    )


def _throughput_row(held: GpuFile, work: str) -> tuple[str, ...]:
    ours, alone = held.of("texts", work=work, side=OURS)[0], held.of("model", work=work)
    best = max(alone, key=lambda item: item.texts_per_second.median, default=None)
    speed, bar = rate(held), bar_of(held, work)
    peers = [next(iter(held.of("texts", work=work, side=side)), None) for side in (SENTENCE_TRANSFORMERS, TORCH)]
    median = ours.texts_per_second.median
    return (
        work,
        *(UNKNOWN if peer is None else f"{peer.texts_per_second.median:,.0f}" for peer in peers),
        f"**{median:,.0f}**",
        *(UNKNOWN if peer is None else _ratio(ours, peer) for peer in peers),
        UNKNOWN if best is None else f"{best.texts_per_second.median:,.0f}",
        UNKNOWN if speed is None or not ours.multiply_adds else f"{ours.texts * speed / ours.multiply_adds:,.0f}",
        "" if bar is None else f"{bar:,.0f}{'' if median >= bar else ': missed'}",
    )


def details(held: GpuFile) -> str:
    """What else was measured, a line each."""
    return "\n".join(f"- {line}" for line in (*_latency(held), *_precisions(held), *_budgets(held), *_memory(held), *_failures(held)))


def measured_on(held: GpuFile) -> str:
    """The card and the versions, a line each."""
    card, host = held.card, held.machine
    facts = {
        "card": f"{card.name}, {card.memory_bytes / 2**30:.0f} GiB, compute capability {card.compute_capability or 'unknown'}",
        "driver": f"{card.driver or 'unknown'}, CUDA {card.cuda or 'unknown'}",
        "cpu": f"{host.cpu}, {host.usable_cpus} of {host.cpus} CPUs usable",
        "versions": ", ".join((host.python, *(f"{name} {version}" for name, version in held.versions.items()))),
        "measured": ", ".join(f"{part} {when}" for part, when in held.measured.items()),
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def bar_of(held: GpuFile, work: str) -> float | None:
    """The bar of a work on this card; None where there is none, as on every other card."""
    return next((bars.get(work) for name, bars in BARS.items() if name in held.card.name), None)


def missed(held: GpuFile) -> list[str]:
    """What a file of a card with bars misses: speeds, parity, latency, memory, and what was not measured."""
    bars = next((bars for name, bars in BARS.items() if name in held.card.name), None)
    if bars is None or held.small:
        return []
    lines = []
    for work, bar in bars.items():
        speed = next((item.texts_per_second.median for item in held.of("texts", work=work, side=OURS)), 0.0)
        lines += [] if speed >= bar else [f"{work}: {speed:,.0f} texts/s, expected at least {bar:,.0f}"]
    p50 = next((1e3 * statistics.median(item.seconds) for item in held.of("one", work="MiniLM", side=OURS)), float("inf"))
    lines += [] if p50 <= ONE_TEXT_P50_MS else [f"one text of MiniLM: p50 {p50:.2f} ms, expected at most {ONE_TEXT_P50_MS}"]
    fp32 = next((item.figures["max_abs"] for item in held.of("precisions", side="fp32")), 1.0)
    fp16 = next((item.figures["min_cosine"] for item in held.of("precisions", side="fp16")), 0.0)
    lines += [] if fp32 <= FP32_MAX_ABS else [f"fp32: max abs {fp32:.1e}, expected at most {FP32_MAX_ABS:.1e}"]
    lines += [] if fp16 >= FP16_MIN_COSINE else [f"fp16: lowest cosine {fp16:.7f}, expected at least {FP16_MIN_COSINE}"]
    growth = [_growth(item) for item in held.of("memory")]
    return lines + ([] if growth and max(growth) <= GROWTH else [f"memory: grew by {growth}, expected at most {GROWTH} of it"])


def _growth(item: Samples) -> float:
    settled, *later = item.held_bytes or (0,)
    return max((held / settled - 1 for held in later), default=1.0) if settled else 1.0


def _latency(held: GpuFile) -> Iterator[str]:
    for item in held.of("one"):
        p50, p99 = (digits(float(value) * 1e3) for value in np.percentile(item.seconds, (50, 99)))
        yield f"one text at a time, {item.work}, {item.side}: p50 {p50} ms, p99 {p99} ms of {len(item.seconds):,}"


def _precisions(held: GpuFile) -> Iterator[str]:
    for item in held.of("precisions"):
        parity = ", ".join(f"{name} {value:.7f}" if "cosine" in name else f"{name} {value:.1e}" for name, value in item.figures.items())
        yield f"{item.side}, {item.work}: {item.texts_per_second.median:,.0f} texts/s; against PyTorch: {parity}"


def _budgets(held: GpuFile) -> Iterator[str]:
    for work in dict.fromkeys(item.work for item in held.of("budgets")):
        by_budget = (f"{item.at:,}: {item.texts_per_second.median:,.0f}" for item in held.of("budgets", work=work))
        yield f"{work}, texts/s by the tokens of a run at most: {'; '.join(by_budget)}"


def _memory(held: GpuFile) -> Iterator[str]:
    for item in held.of("memory"):
        first, last = (value / 2**20 for value in (item.held_bytes[0], item.held_bytes[-1]))
        yield (
            f"{item.texts * len(item.seconds):,} texts of {item.work}: {first:,.0f} MiB in use after the first tenth, {last:,.0f} MiB at "
            f"the end, at most {_growth(item):.1%} more than at first"
        )


def _failures(held: GpuFile) -> Iterator[str]:
    for part, samples in held.parts.items():
        yield from (f"{part}, {item.work}, {item.side}: not measured, {item.failed}" for item in samples if item.failed)


def _ratio(ours: Samples, theirs: Samples) -> str:
    ratios = spread(_times(ours.seconds, theirs.seconds))
    return f"{ratios.median:.1f} ({ratios.low:.1f} to {ratios.high:.1f})"


def _times(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    rounds = min(len(ours), len(theirs))
    return times_as_fast(ours[:rounds], theirs[:rounds])


def _tera(speed: float | None) -> str:
    return UNKNOWN if speed is None else f"{speed / 1e12:.0f}e12"
