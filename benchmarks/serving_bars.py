"""Does `cls-serve` meet its bars? Measures each figure, prints it beside its bar, and keeps it.

    python benchmarks/serving_bars.py BUNDLE --json benchmarks/results/vnni/serving.json     all of them: about half an hour
    python benchmarks/serving_bars.py BUNDLE --bars overload soak --json FILE                some; the file keeps the others
    python benchmarks/serving_bars.py BUNDLE --quick                                         all of them, too briefly to count

Every bar is written as soon as it is measured, so a run that is stopped goes on with `--bars` of what is left. Server and load generator
are processes of their own on CPUs of their own: on a machine with two, the server has one of them and its engine one thread, and so has
the Encoder that it is compared with. `--shared` gives all CPUs to both, and the generator's CPU time, which is said, is the server's loss.
Exit code 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import base64
import functools
import importlib
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cls_runtime import Encoder
from cls_runtime.bench.bars import BarRecord, BarsFile, Figure, bars_table, empty_bars, measure_bars, missed_bars, read_bars
from cls_runtime.bench.cpu_split import cpu_split
from cls_runtime.bench.http_messages import request_bytes
from cls_runtime.bench.in_process import InProcess
from cls_runtime.bench.load_streams import Stream
from cls_runtime.bench.open_loop import Pace
from cls_runtime.bench.server_process import ServerProcess
from cls_runtime.bench.serving_rig import (
    CALLERS,
    EMBEDDINGS,
    QUICK,
    REFUSED,
    Amounts,
    Rig,
    embedding_request,
    generator_words,
    percentile_ms,
)
from cls_runtime.bench.texts import docstring_sentences
from cls_runtime.bench.turns import in_turns
from cls_runtime.bundle.manifest import read_manifest
from cls_runtime.bundle.places import find_bundle
from cls_runtime.engines.choice import graph_variant
from cls_runtime.engines.cpu import available_cpus
from cls_runtime.errors import ClsError
from cls_runtime.reading.text_files import read_texts

BULK_TEXTS = 2048
QUEUE_MS = 2000.0  # the default of --max-queue-ms
LIVE = request_bytes("GET", "/live")
# In the order of the table of bars; those that are not here are in serving/endurance.py. Faults and environment are tests.
BARS = ("generator", "vectors", "overhead", "clients", "overload", "bulk", "connections", "soak", "endings", "cold")


def vectors(rig: Rig, amounts: Amounts) -> BarRecord:
    """base64 bit-equal to `aencode`; JSON equal after float32.

    A request of many texts is computed in rounds whose sizes follow the engine's pace, so its batches are others each time, and int8's bits
    with them: it is held to what the export found batches to change, twice, since both sides were in one.
    """
    import asyncio

    small = [[text] for text in (*rig.texts[:60], "", "ab " * 3000)] + [list(rig.texts[size : 2 * size]) for size in (2, 3, 4)]
    large = list(rig.texts[:300])
    differing = {"base64": 0, "float": 0}
    farthest = 0.0
    with (
        rig.server() as server,
        Encoder.load(rig.bundle, variant=rig.variant, engine=rig.engine, threads=rig.threads, on_overflow="truncate") as encoder,
    ):
        between_batches = encoder.manifest.variants[graph_variant(encoder.info.variant)].batch_invariance_max_abs
        for group in small:
            expected = asyncio.run(encoder.aencode(group))
            for form in differing:
                given = embedded(server, group, form)
                differing[form] += sum(row.tobytes() != own.tobytes() for row, own in zip(given, expected, strict=True))
        expected = asyncio.run(encoder.aencode(large))
        for form in differing:
            farthest = max(farthest, float(np.abs(np.array(embedded(server, large, form)) - expected).max()))
    figures = (
        Figure(name="base64 rows that differ from aencode's", value=differing["base64"], most=0),
        Figure(name="JSON rows that differ", value=differing["float"], most=0),
        Figure(name=f"largest difference in a request of {len(large)}", value=farthest, most=2 * between_batches),
    )
    count = sum(map(len, small))
    how = f"{count} texts in {len(small)} requests, one text empty and one truncated; {len(large)} texts in one request"
    return BarRecord(test="vectors", figures=figures, how=how, quick=amounts.quick)


def embedded(server: ServerProcess, texts: Sequence[str], form: str) -> list[np.ndarray]:
    """The server's vectors of texts, float32."""
    status, body = server.ask("POST", EMBEDDINGS, body=json.dumps({"input": list(texts), "encoding_format": form}).encode())
    if status != 200:
        raise SystemExit(f"the server answered {status}: {body[:200]!r}")
    rows = [item["embedding"] for item in json.loads(body)["data"]]
    return [np.frombuffer(base64.b64decode(row), "<f4") if form == "base64" else np.array(row, dtype=np.float32) for row in rows]


def overhead(rig: Rig, amounts: Amounts) -> BarRecord:
    """One text after another, over HTTP and by `encode` in a process; the p50 of each in turns."""
    with rig.server() as server, rig.alone() as alone:
        samples = in_turns(("encode", "http"), lambda side, _: _sample(rig, amounts, server, alone, side, callers=1), rounds=amounts.rounds)
    p50s = {side: [percentile_ms(sample.seconds, 50) or 0.0 for sample in taken] for side, taken in samples.items()}
    added = [http - encode for http, encode in zip(p50s["http"], p50s["encode"], strict=True)]
    cpu = {side: statistics.median(sample.cpu_ms for sample in taken) for side, taken in samples.items()}
    figures = (
        Figure(name="p50 minus encode's p50", value=round(statistics.median(added), 3), unit="ms", most=0.5),
        Figure(name="lowest round", value=round(min(added), 3), unit="ms"),
        Figure(name="highest round", value=round(max(added), 3), unit="ms"),
        Figure(name="encode's p50", value=statistics.median(p50s["encode"]), unit="ms"),
        Figure(name="CPU time per text minus encode's", value=round(cpu["http"] - cpu["encode"], 3), unit="ms"),
    )
    how = f"{amounts.rounds} rounds of {amounts.seconds:g} s each, alternating; includes the time of the generator and the sockets"
    return BarRecord(test="overhead of one text over `encode` in a process", figures=figures, how=how, quick=amounts.quick)


def clients(rig: Rig, amounts: Amounts) -> BarRecord:
    """32 callers, one text a request, over HTTP and by `aencode` in a process; texts a second of each in turns."""
    with rig.server() as server, rig.alone() as alone:
        for side in ("http", "aencode"):
            _sample(rig, amounts, server, alone, side, callers=CALLERS)
        samples = in_turns(
            ("aencode", "http"), lambda side, _: _sample(rig, amounts, server, alone, side, callers=CALLERS), rounds=amounts.rounds
        )
    rates = {side: [sample.per_second for sample in taken] for side, taken in samples.items()}
    shares = [http / own for http, own in zip(rates["http"], rates["aencode"], strict=True)]
    cpu = {side: statistics.median(sample.cpu_ms for sample in taken) for side, taken in samples.items()}
    figures = (
        Figure(name="share of aencode's texts/s", value=round(statistics.median(shares), 4), least=0.9),
        Figure(name="lowest round", value=round(min(shares), 4)),
        Figure(name="over HTTP", value=round(statistics.median(rates["http"])), unit="texts/s"),
        Figure(name="aencode", value=round(statistics.median(rates["aencode"])), unit="texts/s"),
        Figure(name="CPU time per text over HTTP", value=round(cpu["http"], 3), unit="ms"),
        Figure(name="CPU time per text with aencode", value=round(cpu["aencode"], 3), unit="ms"),
    )
    how = f"{amounts.rounds} rounds of {amounts.seconds:g} s each, alternating; {samples['http'][-1].words}"
    return BarRecord(test="32 clients, one text per request", figures=figures, how=how, quick=amounts.quick)


class _Sample(NamedTuple):
    """One turn of a side: the seconds of each text, texts a second, and the milliseconds of CPU time that its process spent on one."""

    seconds: Sequence[float]
    per_second: float
    cpu_ms: float
    words: str = ""


def _sample(rig: Rig, amounts: Amounts, server: ServerProcess, alone: InProcess, side: str, *, callers: int) -> _Sample:
    if side != "http":
        given = {"seconds": amounts.seconds}
        calls = alone.encode(rig.texts, **given) if side == "encode" else alone.aencode(rig.texts, callers=callers, **given)
        return _Sample(calls.seconds, calls.per_second, calls.cpu_seconds / len(calls.seconds) * 1e3)
    before = server.cpu_seconds
    record = rig.load(server, Stream(name="texts", requests=rig.requests, callers=callers, seconds=amounts.seconds))
    texts = record.streams["texts"]
    per_second = texts.ended_within(amounts.seconds, 200) / amounts.seconds
    return _Sample(texts.taken(200), per_second, (server.cpu_seconds - before) / len(texts) * 1e3, generator_words(record))


def overload(rig: Rig, amounts: Amounts) -> BarRecord:
    """Four times what the server can do, for a minute; what it answers, what it refuses, and whether it says that it is alive."""
    with rig.server() as server:
        capacity = rig.capacity(server, seconds=2 * amounts.seconds)
        pace = Pace(rate=amounts.times_capacity * capacity, seconds=amounts.overload_seconds)
        ready = int(capacity * QUEUE_MS / 1e3 * 1.5) + 64
        record = rig.load(
            server,
            Stream(name="texts", requests=rig.requests, pace=pace, connections=ready),
            Stream(name="live", requests=[LIVE], pace=Pace(rate=20, seconds=amounts.overload_seconds, even=True)),
        )
    texts, live = record.streams["texts"], record.streams["live"]
    goodput = texts.ended_within(amounts.overload_seconds, 200) / amounts.overload_seconds
    others = len(texts) - len(texts.taken(200, *REFUSED))
    figures = (
        Figure(name="goodput relative to capacity", value=round(goodput / capacity, 4), least=0.95),
        Figure(name="p99 of accepted requests", value=percentile_ms(texts.taken(200), 99), unit="ms", most=1.2 * QUEUE_MS),
        Figure(name="p99 of refusals", value=percentile_ms(texts.taken(*REFUSED), 99), unit="ms", most=20),
        Figure(name="p99 of /live", value=percentile_ms(live.taken(200), 99), unit="ms", most=50),
        Figure(name="unanswered /live requests", value=len(live) - len(live.taken(200)), most=0),
        Figure(name="neither answered nor refused", value=others, most=0),
        Figure(name="share refused", value=round(len(texts.taken(*REFUSED)) / len(texts), 3)),
        Figure(name="capacity", value=round(capacity), unit="texts/s"),
    )
    how = f"{pace.rate:,.0f} requests/s for {pace.seconds:g} s at random times; {generator_words(record)}"
    return BarRecord(test=f"open loop at {amounts.times_capacity:g} times capacity", figures=figures, how=how, quick=amounts.quick)


def bulk(rig: Rig, amounts: Amounts) -> BarRecord:
    """One text a request, with and without a client that sends 2,048 texts again and again."""
    texts = [rig.texts[index % len(rig.texts)] + f" {index}" for index in range(BULK_TEXTS)]  # distinct: each is computed
    with rig.server() as server:
        capacity = rig.capacity(server, seconds=amounts.seconds)
        pace = Pace(rate=amounts.singles_load * capacity, seconds=amounts.bulk_seconds)
        singles = Stream(name="singles", requests=rig.requests, pace=pace, connections=64)
        bulks = Stream(name="bulk", requests=[embedding_request(texts)], callers=1, seconds=amounts.bulk_seconds)

        def p99(beside: bool, _: int) -> tuple[float, int, int]:
            streams = rig.load(server, *([singles, bulks] if beside else [singles])).streams
            done = len(streams["bulk"].taken(200)) if beside else 0
            return (
                percentile_ms(streams["singles"].taken(200), 99) or 1e9,
                done,
                len(streams["singles"]) - len(streams["singles"].taken(200)),
            )

        samples = in_turns((False, True), p99, rounds=max(1, amounts.rounds // 2))
    ratios = [beside[0] / without[0] for beside, without in zip(samples[True], samples[False], strict=True)]
    figures = (
        Figure(name="singles' p99 beside a bulk, relative to without", value=round(statistics.median(ratios), 3), most=2),
        Figure(name="singles' p99 beside a bulk", value=statistics.median(item[0] for item in samples[True]), unit="ms"),
        Figure(name="singles' p99 without a bulk", value=statistics.median(item[0] for item in samples[False]), unit="ms"),
        Figure(name="bulks answered", value=sum(item[1] for item in samples[True]), least=1),
        Figure(name="unanswered singles", value=sum(item[2] for side in samples.values() for item in side), most=0),
    )
    how = f"singles at {amounts.singles_load:.0%} of the capacity of {capacity:,.0f} texts/s at random times, {pace.seconds:g} s per round"
    return BarRecord(test=f"bulk of {BULK_TEXTS:,} beside singles", figures=figures, how=how, quick=amounts.quick)


def all_bars() -> Mapping[str, Callable[[Rig, Amounts], BarRecord]]:
    """What measures each bar."""
    endurance = importlib.import_module("serving.endurance")  # beside this file, which is run as a script or imported by its tests
    return {key: globals()[key] if key in globals() else getattr(endurance, key) for key in BARS}


def table(held: BarsFile) -> str:
    """The bars as benchmarks/serving.md has them."""
    from cls_runtime.bench.table import markdown

    made = bars_table(held, BARS)
    return f"{markdown(made)}\n\n{made.caption}"


def read(path: Path) -> BarsFile:
    """The file of a run."""
    return read_bars(path)


def missed(path: Path) -> list[str]:
    """What a recorded run misses: figures, bars that were measured too briefly, and bars that are not there."""
    held = read_bars(path)
    return missed_bars(held) + [f"{key}: not measured" for key in BARS if key not in held.bars]


def main() -> int:
    """Measures and says each bar."""
    bars = all_bars()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--bars", nargs="+", choices=bars, default=list(bars), metavar="BAR", help=f"of {', '.join(bars)} (default: all)")
    parser.add_argument("--variant", default="int8")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--texts", help="texts of your own; default: sentences of Python's docstrings")
    parser.add_argument("--shared", action="store_true", help="all CPUs for the server and for the generator")
    parser.add_argument("--threads", type=int, help="of the engine (default: the server's CPUs)")
    parser.add_argument("--quick", action="store_true", help="too briefly to count")
    defaults = Amounts()
    parser.add_argument("--overload-seconds", type=float, default=defaults.overload_seconds)
    parser.add_argument("--singles-load", type=float, default=defaults.singles_load, help="of the bar bulk, over the capacity")
    parser.add_argument("--soak-requests", type=int, default=defaults.soak_requests)
    parser.add_argument("--json", type=Path, help="keeps every bar; those that are not measured stay as they are")
    options = parser.parse_args()
    split = cpu_split(shared=options.shared)
    texts = list(read_texts([options.texts])) if options.texts else docstring_sentences(500)
    threads = split.threads(options.threads or available_cpus())
    rig = Rig(bundle=options.bundle, variant=options.variant, engine=options.engine, texts=texts, threads=threads, cpus=split)
    amounts = (
        QUICK
        if options.quick
        else Amounts(overload_seconds=options.overload_seconds, singles_load=options.singles_load, soak_requests=options.soak_requests)
    )
    try:
        fingerprint = read_manifest(find_bundle(options.bundle).folder).fingerprint
        cpus = f"{split.words}; engine threads: {threads}"
        empty = empty_bars(fingerprint=fingerprint, variant=options.variant, cpus=cpus)
        chosen = {key: functools.partial(bars[key], rig, amounts) for key in options.bars}
        return 0 if measure_bars(chosen, path=options.json, empty=empty, say=functools.partial(print, flush=True)) else 1
    except ClsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
