"""Everything that a benchmark found, as data: raw samples, and what they were measured on. `BenchResults` is the JSON file.

Nothing here is derived: medians, rates and limits are computed from the samples by `figures.py`, so a results file is enough for every
table and plot, today's and tomorrow's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cls_runtime.bench.peers import PeerComparison
from cls_runtime.bench.plausible import objections
from cls_runtime.bench.serving_results import ServingRecord
from cls_runtime.bundle.files import named_when_full
from cls_runtime.bundle.manifest import ParityFigures
from cls_runtime.bundle.typed_json import parsed, plain, typed
from cls_runtime.errors import UsageError

RESULTS_VERSION = 1
MAX_RESULTS_BYTES = 2**26  # the largest recorded one has 0.2 MB

# What a `Timing` is about, and what its `at` counts: nothing, nothing, tokens a text, texts a call, tokens a batch, threads.
Kind = Literal["text_to_vector", "model_only", "length", "call_size", "token_budget", "threads"]
CallMode = Literal["encode", "aencode"]


@dataclass(frozen=True, kw_only=True)
class Host:
    """The machine and its Python, without names that identify it. `cpu_features` are those that decide the speed of matrix products."""

    system: str
    machine: str
    cpu: str
    cpu_features: tuple[str, ...]
    cpus: int
    usable_cpus: int
    cpu_quota: float | None
    memory_bytes: int | None
    python: str
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class BundleFacts:
    """The bundle that was measured: its source's name, not its path."""

    source: str
    fingerprint: str
    architecture: str
    num_layers: int
    hidden_size: int
    max_length: int
    created: str


@dataclass(frozen=True, kw_only=True)
class TextFacts:
    """The texts: where they are from, and how many tokens each has after truncation, special tokens included."""

    origin: str
    token_counts: tuple[int, ...]
    truncated: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How it was measured: the budget of threads, the rounds, tokens in a batch at most (on a CPU, where each engine has its own)."""

    threads: int
    rounds: int
    token_budget: int
    quick: bool


@dataclass(frozen=True, kw_only=True)
class SideFacts:
    """A variant on an engine, or why it could not be measured. `name` is what every other record calls it."""

    name: str
    variant: str
    engine: str
    file_bytes: int = 0
    workers: int = 0
    providers: tuple[str, ...] = ()
    failed: str | None = None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The same work, done once a round: `seconds` has every round's.

    Attributes:
        side: whose.
        kind, at: what was varied, and its value; None where nothing was.
        threads: the budget of CPU threads.
        texts, tokens, padding_tokens, batches: the work of one round.
        multiply_adds: of the matrix products, padding left out, by arithmetic (`fp32`, `int8`, `bf16`, `tf32`); empty where unknown.
    """

    side: str
    kind: Kind
    at: int | None = None
    threads: int
    texts: int
    tokens: int
    padding_tokens: int
    batches: int
    multiply_adds: Mapping[str, int]
    seconds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Requests of one text by `callers` at once, each sending the next when it has the last: `seconds` of every request.

    `mode` is `encode`, one thread per caller, or `aencode`, one task per caller, whose requests are merged. `wall_seconds` is the time of
    all requests.
    """

    side: str
    mode: CallMode
    callers: int
    threads: int
    wall_seconds: float
    multiply_adds: Mapping[str, int]
    seconds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """A new process from its start to its first vector, once for each sample, and the most memory that it held after all texts.

    `seconds` is as the starting process sees it. `import_seconds` and `load_seconds` are parts of it; `peak_bytes` is the resident size.
    """

    side: str
    seconds: tuple[float, ...]
    import_seconds: tuple[float, ...]
    load_seconds: tuple[float, ...]
    peak_bytes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class MatrixRate:
    """How fast an engine's own kernels multiply large matrices here: `multiply_adds` in each of `seconds`."""

    engine: str
    arithmetic: str
    threads: int
    multiply_adds: int
    seconds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """A side's vectors of the bundle's golden texts against PyTorch's: the cosine of each, and their figures."""

    side: str
    cosines: tuple[float, ...]
    figures: ParityFigures


@dataclass(frozen=True, kw_only=True)
class BenchResults:
    """A run of `cls-bench`."""

    tool_version: str
    created: str
    seconds: float
    host: Host
    bundle: BundleFacts
    texts: TextFacts
    settings: Settings
    sides: tuple[SideFacts, ...]
    rates: tuple[MatrixRate, ...]
    timings: tuple[Timing, ...]
    latencies: tuple[Latency, ...]
    starts: tuple[ColdStart, ...]
    parity: tuple[Parity, ...] = ()
    serving: tuple[ServingRecord, ...] = ()
    peers: PeerComparison | None = None
    notes: tuple[str, ...] = ()
    results_version: int = field(default=RESULTS_VERSION)


def results_json(results: BenchResults) -> str:
    """The text of a results file: one line for each record, so that a difference between two runs can be read."""
    document = plain(results)
    lines = [f"{json.dumps(name)}: {_value(value)}" for name, value in document.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_samples(path: Path, document: object) -> None:
    """Writes what a script in benchmarks/ measured, dataclasses or plain values, one value a line; makes the folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with named_when_full(path):
        path.write_text(json.dumps(plain(document), indent=1) + "\n", encoding="utf-8")


def read_results(path: Path) -> BenchResults:
    """Reads a results file.

    Raises:
        UsageError: it cannot be read, or is not a results file of this version.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RESULTS_BYTES + 1)
        if len(data) > MAX_RESULTS_BYTES:
            raise ValueError(f"it has more than {MAX_RESULTS_BYTES:,} bytes")
        raw = parsed(data.decode())
    except (OSError, ValueError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise UsageError(f"results file {path} {reason}; expected what cls-bench --json wrote") from None
    if not isinstance(raw, dict) or "results_version" not in raw:
        raise UsageError(f"{path} has no results_version; expected a file that cls-bench --json wrote")
    if raw["results_version"] != RESULTS_VERSION:
        raise UsageError(
            f"{path} has results version {raw['results_version']!r}, this version of cls-export reads {RESULTS_VERSION}; "
            "measure again, or use the version that wrote it"
        )
    try:
        results = typed(raw, BenchResults, path.name)
    except ValueError as error:
        raise UsageError(f"{error}; it is not a whole results file, measure again") from None
    for objection in objections(results):
        raise UsageError(f"{path.name} {objection}; it is no file that cls-bench --json wrote, measure again")
    return results


def _value(value: object) -> str:
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n  " + ",\n  ".join(json.dumps(item, allow_nan=False) for item in value) + "\n]"
    return json.dumps(value, allow_nan=False)
