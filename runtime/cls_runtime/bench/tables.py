"""The tables of a benchmark. Each is made from the results alone."""

from __future__ import annotations

import statistics

from cls_runtime.bench.figures import (
    latency_bound,
    machine_rates,
    measured_sides,
    percentiles_ms,
    rate,
    ratio,
    texts_per_second,
    timings,
)
from cls_runtime.bench.results import BenchResults, Latency, Timing
from cls_runtime.bench.serving_table import serving
from cls_runtime.bench.spread import spread
from cls_runtime.bench.sweep_tables import call_size, length, padding, threads, token_budget
from cls_runtime.bench.table import UNKNOWN, Table, bound_ratio, digits
from cls_runtime.quantities import duration, size

_RATIO = "ratio to compute bound"


def all_tables(results: BenchResults) -> tuple[Table, ...]:
    """Every table that has a row, in the order in which a reader wants them."""
    makers = (throughput, peers, latency, length, call_size, threads, token_budget, padding, starts, serving, parity, rates)
    return tuple(table for make in makers if (table := make(results)).rows)


def throughput(results: BenchResults) -> Table:
    """Texts a second, from text to vector and of the model alone."""
    rows: list[tuple[str, ...]] = []
    first: Timing | None = None
    models = {item.side: item for item in timings(results, "model_only")}
    for item in timings(results, "text_to_vector"):
        first = first or item
        speed, model = texts_per_second(item), models[item.side]
        rows.append(
            (
                item.side,
                f"{speed.median:,.0f}",
                f"{speed.low:,.0f} to {speed.high:,.0f}",
                f"{ratio(item, first).median:.2f}",
                bound_ratio(results, item),
                f"{texts_per_second(model).median:,.0f}",
                bound_ratio(results, model),
            )
        )
    name = first.side if first else ""
    count = results.texts
    return Table(
        key="throughput",
        title="Throughput",
        caption=(
            f"{len(count.token_counts):,} texts of {statistics.fmean(count.token_counts):.1f} tokens on average, "
            f"{results.settings.threads} threads, median and range of {results.settings.rounds} interleaved rounds. "
            "Ratio to compute bound: time taken divided by the time that the graph's multiply-adds alone need at this machine's "
            "measured rate."
        ),
        header=("variant and engine", "texts/s", "range", f"vs. {name}", _RATIO, "model alone, texts/s", _RATIO),
        rows=tuple(rows),
    )


def latency(results: BenchResults) -> Table:
    """Percentiles of requests, by callers at once."""
    callers = sorted({item.callers for item in results.latencies})
    cells = {(item.side, item.mode, item.callers): _latency(results, item) for item in results.latencies}
    rows = {(side, mode): (side, mode, *(cells.get((side, mode, count), UNKNOWN) for count in callers)) for side, mode, _ in cells}
    return Table(
        key="latency",
        title="Latency",
        caption=(
            "Milliseconds per request of one text, p50 / p95 / p99. Each caller waits for its answer before it sends the next request; "
            "encode: one thread per caller; aencode: one asyncio task per caller, requests merged. In brackets: the compute bound of the "
            "mean."
        ),
        header=("variant and engine", "method", *("1 caller" if count == 1 else f"{count} callers" for count in callers)),
        rows=tuple(rows[key] for key in sorted(rows, key=lambda key: measured_sides(results).index(key[0]))),
        label_columns=2,
    )


def _latency(results: BenchResults, item: Latency) -> str:
    bound = latency_bound(results, item)
    return f"{' / '.join(map(digits, percentiles_ms(item)))} ({UNKNOWN if bound is None else digits(bound * 1e3)})"


def starts(results: BenchResults) -> Table:
    """New processes: time to the first vector, and memory."""
    rows = [
        (
            item.side,
            f"{spread(item.seconds).median:.2f}",
            f"{spread(item.import_seconds).median:.2f}",
            f"{spread(item.load_seconds).median:.2f}",
            f"{spread(item.peak_bytes).median / 1e6:,.0f}",
            f"{next(side.file_bytes for side in results.sides if side.name == item.side) / 1e6:,.1f}",
            str(len(item.seconds)),
        )
        for item in results.starts
    ]
    return Table(
        key="start",
        title="Cold start and memory",
        caption=(
            "Seconds from the start of a process to its first vector, including import and load; peak resident memory after all texts; "
            "size of the graph's file."
        ),
        header=("variant and engine", "first vector, s", "import, s", "load, s", "peak MB", "file MB", "samples"),
        rows=tuple(rows),
    )


def parity(results: BenchResults) -> Table:
    """How close each side's vectors are to PyTorch's."""
    rows = [
        (
            item.side,
            str(item.figures.texts),
            f"{item.figures.mean_cosine:.7f}",
            f"{item.figures.p1_cosine:.7f}",
            f"{item.figures.min_cosine:.7f}",
            f"{item.figures.max_abs:.1e}",
        )
        for item in results.parity
    ]
    return Table(
        key="parity",
        title="Parity",
        caption="Cosine between each golden text's vector and PyTorch's fp32 vector, recorded at export.",
        header=("variant and engine", "texts", "mean cosine", "1st percentile", "lowest cosine", "largest difference"),
        rows=tuple(rows),
    )


def rates(results: BenchResults) -> Table:
    """How fast the machine multiplies matrices."""
    best = {id(item) for count in {item.threads for item in results.rates} for item in machine_rates(results, count).values()}
    rows = [
        (item.arithmetic, item.engine, str(item.threads), f"{rate(item) / 1e9:,.0f}", "yes" if id(item) in best else "")
        for item in sorted(results.rates, key=lambda item: (item.arithmetic, item.threads))
    ]
    return Table(
        key="rates",
        title="Matrix multiplication rates",
        caption="Billions of multiply-adds per second in products of 512 x 1024 by 1024 x 1024, with the engines' own kernels.",
        header=("arithmetic", "engine", "threads", "G/s", "sets the bound"),
        rows=tuple(rows),
        label_columns=2,
    )


def peers(results: BenchResults) -> Table:
    """The bundle beside other projects; one that could not be measured has a row that says why."""
    comparison = results.peers
    if comparison is None:
        return Table(key="peers", title="", caption="", header=(), rows=())
    ours = next((side.name for side in comparison.sides if side.ours and side.failed is None), None)
    ratios = {item.theirs: item for item in comparison.ratios if item.ours == ours}
    pooled = "" if comparison.pooling == "cls" else f"All vectors are the {comparison.pooling} of the tokens' rows. "
    rows = []
    for side in comparison.sides:
        ratio_to = ratios.get(side.name)
        rows.append(
            (
                side.name,
                side.failed or side.settings or UNKNOWN,
                UNKNOWN if side.texts_per_second is None else f"{side.texts_per_second:,.0f}",
                UNKNOWN if ratio_to is None else f"{ratio_to.median:.2f}",
                UNKNOWN if ratio_to is None else f"{ratio_to.low:.2f} to {ratio_to.high:.2f}",
                UNKNOWN if side.parity is None else f"{side.parity.mean_cosine:.6f}",
            )
        )
    return Table(
        key="peers",
        title="Other projects",
        caption=(
            f"{comparison.texts:,} texts of {comparison.mean_tokens:.1f} tokens on average, {comparison.threads} threads each, "
            f"each peer in its own environment, in interleaved rounds. {pooled}Parity is the mean cosine to {comparison.reference}. "
            f"Ratio: {ours or 'ours'} vs. the peer, median of the rounds; above 1, ours is faster."
        ),
        header=("side", "settings", "texts/s", "ratio", "range", "parity"),
        rows=tuple(rows),
        label_columns=2,
    )


def environment(results: BenchResults) -> tuple[tuple[str, str], ...]:
    """What was measured, and on which machine, as pairs of words."""
    host, bundle, texts = results.host, results.bundle, results.texts
    memory = UNKNOWN if host.memory_bytes is None else size(host.memory_bytes)
    return (
        ("bundle", f"{bundle.source}: {bundle.architecture}, {bundle.num_layers} layers, hidden size {bundle.hidden_size}"),
        ("fingerprint", bundle.fingerprint),
        (
            "texts",
            f"{len(texts.token_counts):,} of {texts.origin}, {texts.truncated} truncated to {bundle.max_length} tokens",
        ),
        ("cpu", f"{host.cpu} ({host.machine}), {host.usable_cpus} of {host.cpus} CPUs usable, memory {memory}"),
        ("cpu features", ", ".join(host.cpu_features) or UNKNOWN),
        ("system", host.system),
        ("versions", ", ".join([host.python, *(f"{name} {version}" for name, version in host.versions.items())])),
        ("threads", str(results.settings.threads)),
        ("measured", f"{results.created}, in {duration(results.seconds)}{', --quick' if results.settings.quick else ''}"),
        *(("not measured", f"{side.name}: {side.failed}") for side in results.sides if side.failed is not None),
        *(("note", note) for note in results.notes),
    )
