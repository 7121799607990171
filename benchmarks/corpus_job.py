"""What does a corpus job cost beside its inference, does it stay flat in memory, and does twice the work take twice the time?

    python benchmarks/corpus_job.py throughput BUNDLE            the job against Encoder.encode on the same texts, in turns
    python benchmarks/corpus_job.py scaling BUNDLE               50,000 to 400,000 rows
    python benchmarks/corpus_job.py memory BUNDLE --rows 624712  one long job, its resident size all along (Linux)

The corpus is made from the package's real sentences: the first words of one and the last words of another, which keeps their lengths and
makes most of them distinct; a tenth of the rows repeat an earlier text. With `--docstrings` it is real as it stands: the sentences of the
docstrings of this Python and of the packages installed beside it, in their order and with their own repetitions; `--repeated` of the rows
repeat an earlier one besides, the earliest most often, as Zipf's law has it. `--json FILE` keeps every sample; `--plot FILE` draws them
(extra `bench`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cls_runtime import Encoder
from cls_runtime.bench.resident import resident_bytes
from cls_runtime.bench.results import write_samples
from cls_runtime.bench.spread import times_as_fast
from cls_runtime.bench.texts import sentences_of
from cls_runtime.bench.turns import clocked, in_turns
from cls_runtime.jobs import JobOptions, run_job

REPEATED = 0.1
SAMPLE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A job's resident size at a moment."""

    seconds: float
    resident_mb: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """One job in a process of its own. Seconds are those of the whole process, `job` is the summary that it printed."""

    rows: int
    seconds: float
    cpu_seconds: float
    job: dict[str, Any]
    samples: list[Sample]


def sentences(count: int) -> Iterator[str]:
    """Sentences of real lengths, most of them distinct, always the same ones."""
    from cls_exporter.gate.parity_texts import builtin_texts  # needs the extra `export`, which --docstrings does not

    real = [line.split() for line in builtin_texts("calibration")]
    source = random.Random(624_712)
    seen: list[str] = []
    for _ in range(count):
        if seen and source.random() < REPEATED:
            yield source.choice(seen)
            continue
        head, tail = source.choice(real), source.choice(real)
        made = " ".join(head[: (len(head) + 1) // 2] + tail[len(tail) // 2 :])
        if len(seen) < 20_000:
            seen.append(made)
        yield made


def installed_sentences() -> Iterator[str]:
    """The sentences of the installed docstrings, file by file, as often as they occur."""
    for kind in ("stdlib", "purelib"):
        folder = Path(sysconfig.get_path(kind))
        for path in sorted(folder.rglob("*.py")):
            if kind == "stdlib" and "site-packages" in path.parts:
                continue
            for docstring in re.findall(r'"""(.*?)"""', path.read_text(encoding="utf-8", errors="replace"), re.DOTALL):
                for paragraph in re.split(r"\n\s*\n", docstring):
                    for sentence in sentences_of(paragraph):
                        if 3 <= len(sentence.split()) <= 100 and sentence[0].isalpha() and sentence[-1] in ".!?":
                            yield sentence


def with_repeats(real: Iterator[str], count: int, repeated: float) -> Iterator[str]:
    """`count` rows: the real ones in order, and with probability `repeated` (or when there are no more) an earlier one, by Zipf's law."""
    source = random.Random(624_712)
    seen: list[str] = []
    for _ in range(count):
        fresh = next(real, None) if not seen or source.random() >= repeated else None
        if fresh is None:
            yield seen[int(len(seen) ** source.random()) - 1]
        else:
            seen.append(fresh)
            yield fresh


def write_corpus(path: Path, rows: int, arguments: argparse.Namespace) -> Path:
    """A text a line."""
    made = with_repeats(installed_sentences(), rows, arguments.repeated) if arguments.docstrings else sentences(rows)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{sentence}\n" for sentence in made)
    return path


def watched_job(bundle: Path, corpus: Path, out: Path, *, rows: int, options: Sequence[str]) -> Run:
    """`cls-embed` into shards, watched from outside."""
    command = [sys.executable, "-m", "cls_runtime.commands.embed", str(bundle), str(corpus), "-o", str(out), "--json", *options]
    start, cpu = time.monotonic(), children_cpu_seconds()
    with tempfile.TemporaryFile() as printed, subprocess.Popen(command, stdout=printed) as process:
        samples = []
        while process.poll() is None:
            samples.append(Sample(seconds=time.monotonic() - start, resident_mb=resident_bytes(process.pid) / 1e6))
            time.sleep(SAMPLE_SECONDS)
        printed.seek(0)
        output = printed.read()
    if process.returncode != 0:
        raise SystemExit(f"the job ended with {process.returncode}")
    return Run(
        rows=rows,
        seconds=time.monotonic() - start,
        cpu_seconds=children_cpu_seconds() - cpu,
        job=json.loads(output),
        samples=[item for item in samples if item.resident_mb],
    )


def children_cpu_seconds() -> float:
    """CPU seconds of the child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def throughput(bundle: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """`Encoder.encode` and a job, in turns in this process, on texts without repeats (the job would not compute them again).

    Ratios of texts a second, and of the CPU seconds of the whole process, which neighbours on the machine disturb less.
    """
    texts = list(dict.fromkeys(sentences(arguments.rows)))
    corpus = folder / "corpus.txt"
    corpus.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    variants = set()

    def encode() -> dict[str, float]:
        with Encoder.load(bundle, variant=arguments.variant, on_overflow="truncate") as encoder:
            encoder.encode(texts[:256])
            cpu_seconds, (seconds, _) = clocked(lambda: clocked(lambda: encoder.encode(texts)), clock=time.process_time)
        return {"seconds": seconds, "cpu_seconds": cpu_seconds}

    def job(turn: int) -> dict[str, float]:
        options = JobOptions(variant=arguments.variant)
        cpu_seconds, report = clocked(
            lambda: run_job(bundle, [str(corpus)], str(folder / f"out{turn}"), options=options), clock=time.process_time
        )
        variants.add(f"{report.choice.variant} on {report.choice.engine}")
        return {"seconds": report.seconds, "cpu_seconds": cpu_seconds}

    samples = in_turns(("encode", "job"), lambda side, turn: encode() if side == "encode" else job(turn), rounds=arguments.rounds)
    ratios = {
        kind: times_as_fast([run[kind] for run in samples["job"]], [run[kind] for run in samples["encode"]])
        for kind in ("seconds", "cpu_seconds")
    }
    medians = {kind: round(statistics.median(values), 3) for kind, values in ratios.items()}
    return {
        "texts": len(texts),
        "computed_with": sorted(variants),
        "runs": samples,
        "job_to_encode": ratios,
        "job_to_encode_median": medians,
    }


def scaling(bundle: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a doubling number of rows, and what each doubling multiplies them by: the median of the rounds.

    The sizes take turns, up and down. `job_seconds` are those of the work, without starting; `cpu_seconds` those of the whole process.
    """
    corpora = {rows: write_corpus(folder / f"{rows}.txt", rows, arguments) for rows in arguments.sizes}

    def sample(rows: int, turn: int) -> Run:
        out = folder / f"out{rows}-{turn}"
        run = watched_job(bundle, corpora[rows], out, rows=rows, options=arguments.options)
        shutil.rmtree(out)
        return run

    runs = in_turns(arguments.sizes, sample, rounds=arguments.rounds)
    taken: dict[str, list[list[float]]] = {
        "job_seconds": [[run.job["seconds"] for run in runs[rows]] for rows in arguments.sizes],
        "cpu_seconds": [[run.cpu_seconds for run in runs[rows]] for rows in arguments.sizes],
    }
    medians = {kind: [statistics.median(seconds) for seconds in by_size] for kind, by_size in taken.items()}
    factors = {kind: [round(second / first, 3) for first, second in itertools.pairwise(middle)] for kind, middle in medians.items()}
    rounded = {kind: [[round(item, 2) for item in seconds] for seconds in by_size] for kind, by_size in taken.items()}
    peaks = [max(peak_mb(run) for run in runs[rows]) for rows in arguments.sizes]
    return {"rows": list(arguments.sizes), **rounded, "factor_of_each_doubling": factors, "peak_mb": peaks}


def memory(bundle: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One job, and its resident size over time: the peak of each tenth of the run, the first of which holds the start."""
    corpus = write_corpus(folder / "corpus.txt", arguments.rows, arguments)
    run = watched_job(bundle, corpus, folder / "out", rows=arguments.rows, options=arguments.options)
    tenths: list[float] = []
    for tenth in range(10):
        inside = [item.resident_mb for item in run.samples if tenth <= 10 * item.seconds / run.seconds < tenth + 1]
        tenths.append(round(max(inside, default=0.0), 1))
    out_bytes = sum(path.stat().st_size for path in (folder / "out").glob("*.parquet"))
    return {
        "peak_mb_by_tenth": tenths,
        "corpus_bytes": corpus.stat().st_size,
        "distinct_texts": len(set(corpus.read_text(encoding="utf-8").splitlines())),
        "out_bytes_per_row": round(out_bytes / run.rows, 1),
        **asdict(run),
    }


def peak_mb(run: Run) -> float:
    """The largest resident size that was seen."""
    return round(max((item.resident_mb for item in run.samples), default=0.0), 1)


def plot(result: dict[str, Any], path: Path) -> None:
    """Resident size over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([item["seconds"] for item in result["samples"]], [item["resident_mb"] for item in result["samples"]])
    axes.set(xlabel="seconds", ylabel="resident MB", ylim=(0, None), title=f"One job of {result['rows']:,} rows")
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(path)


def partition(arguments: list[str], at: str) -> tuple[list[str], list[str], list[str]]:
    """`str.partition` for a list: argparse takes no options behind the last of a positional's."""
    place = arguments.index(at) if at in arguments else len(arguments)
    return arguments[:place], arguments[place : place + 1], arguments[place + 1 :]


def main() -> int:
    """Runs one of the three and prints its figures."""
    kinds = {"throughput": throughput, "scaling": scaling, "memory": memory}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rows", type=int, default=20_000, help="of throughput and memory")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 100_000, 200_000, 400_000], help="of scaling")
    parser.add_argument("--docstrings", action="store_true", help="of scaling and memory: sentences from installed docstrings")
    parser.add_argument("--repeated", type=float, default=0.6, help="of --docstrings: the share of the rows that repeat an earlier one")
    parser.add_argument("--rounds", type=int, default=3, help="of throughput and scaling")
    parser.add_argument("--variant", default="auto", help="of throughput")
    parser.add_argument("--json", type=Path, help="keep every sample")
    parser.add_argument("--plot", type=Path, help="draw memory's samples")
    parser.epilog = "What stands behind -- are more options of cls-embed for scaling and memory."
    ours, _, options = partition(sys.argv[1:], "--")
    arguments = parser.parse_args(ours, argparse.Namespace(options=options))
    with tempfile.TemporaryDirectory() as folder:
        result = {"kind": arguments.kind, "options": arguments.options, **kinds[arguments.kind](arguments.bundle, Path(folder), arguments)}
    if arguments.json:
        write_samples(arguments.json, result)
    if arguments.plot:
        plot(result, arguments.plot)
    print(json.dumps({key: value for key, value in result.items() if key != "samples"}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
