"""`cls-bench`: how fast is a bundle here, beside what the machine could do at best, and beside other projects?"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cls_runtime.bench.html_report import html_report
from cls_runtime.bench.measure import benchmark_steps, run_benchmark
from cls_runtime.bench.peers import PEERS, PeerComparison, check_comparable, compare_with_peers, comparison_steps, side_names
from cls_runtime.bench.plan import QUICK, THOROUGH, Plan, PlannedSide, planned_sides
from cls_runtime.bench.plots import PLOT_SUFFIXES, overview, require_bench_extra
from cls_runtime.bench.results import BenchResults, read_results, results_json
from cls_runtime.bench.server_process import require_serve_extra
from cls_runtime.bench.tables import all_tables, environment
from cls_runtime.bench.texts import docstring_sentences
from cls_runtime.bundle.files import write_whole
from cls_runtime.bundle.manifest import Manifest, read_manifest
from cls_runtime.bundle.named_files import files_of
from cls_runtime.bundle.places import Place, find_bundle
from cls_runtime.commands import shell
from cls_runtime.commands.bundle_options import add_bundle, add_revision, bundle_name
from cls_runtime.commands.engine_options import DEVICE_NEEDS_GPU_ENGINE, add_device, engine_name
from cls_runtime.commands.parsing import command_parser
from cls_runtime.engines.choice import ENGINE_NAMES, VARIANT_NAMES, choose
from cls_runtime.engines.cpu import MOST_THREADS, available_cpus
from cls_runtime.errors import BundleError, UsageError
from cls_runtime.option_checks import check_count
from cls_runtime.progress_bar import ProgressBar
from cls_runtime.reading.text_files import read_texts

_EXAMPLES = [
    ("cls-bench models/my-model", "every variant on every installed engine; takes minutes"),
    ("cls-bench models/my-model --quick", "the same in under a minute, less precise"),
    ("cls-bench models/my-model --texts mine.txt --json result.json --html report.html", "with your own texts and an HTML report"),
    ("cls-bench models/my-model --against fastembed openvino:int8 --checkpoint ./checkpoint", "compare with other projects"),
    ("cls-bench models/my-model --serve --variant int8", "also behind cls-serve, at 20% to 120% of its capacity"),
    ("cls-bench --from result.json --plot result.svg", "plot earlier results"),
]
_REQUIREMENTS = (
    shell.Requirement(
        options=(
            *("--revision", "--variant", "--engine", "--device", "--texts", "--count", "--rounds", "--threads", "--quick", "--serve"),
            *("--against", "--checkpoint", "--environments"),
        ),
        need="a BUNDLE to measure, --from measures nothing",
        is_met=lambda arguments: arguments.results is None,
        instead=lambda arguments: f"--from {arguments.results}",
    ),
    shell.Requirement(
        options=("--checkpoint", "--environments"),
        need="--against",
        is_met=lambda arguments: arguments.against is not None,
        instead=lambda _: "no --against",
    ),
    shell.Requirement(
        options=("--quiet",),
        need="--json, --plot or --html, since it prints no tables",
        is_met=lambda arguments: any((arguments.json, arguments.plot, arguments.html)),
        instead=lambda _: "none of them",
    ),
    DEVICE_NEEDS_GPU_ENGINE,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cls-bench` with `argv` (default: the process's arguments) and gives the exit code."""
    return shell.run_command(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "cls-bench",
        "Measures a bundle on this machine: throughput, latency, start time, memory and padding, by text length, batch size, threads, "
        "variant and engine, and compares them with the compute bound of this machine.",
        examples=_EXAMPLES,
        json_file=True,
    )
    add_bundle(parser, optional="; not with --from")
    add_revision(parser)
    parser.add_argument(
        "--from", dest="results", metavar="FILE", type=Path, help="measure nothing; report the results that --json FILE wrote earlier"
    )
    what = parser.add_argument_group("what to measure")
    what.add_argument("--variant", choices=VARIANT_NAMES, action="append", help="only this precision; repeat for more (default: all)")
    what.add_argument(
        "--engine",
        choices=ENGINE_NAMES,
        type=engine_name,
        action="append",
        help="only this engine; repeat for more (default: all installed)",
    )
    add_device(what)
    what.add_argument("--texts", metavar="FILE", help="your own texts (.txt, .jsonl, .csv) (default: sentences from Python's docstrings)")
    what.add_argument(
        "--count",
        type=_positive,
        metavar="N",
        help=f"texts per round (default: {THOROUGH.texts}, {QUICK.texts} with --quick; fewer for a large model)",
    )
    what.add_argument("--rounds", type=_positive, metavar="N", help=f"rounds (default: {THOROUGH.rounds})")
    what.add_argument("--threads", type=_positive, metavar="N", help="CPU threads (default: the CPUs that this process may use)")
    what.add_argument("--quick", action="store_true", help="fewer texts, rounds and lengths, for a result in under a minute")
    what.add_argument(
        "--serve", action="store_true", help="also measure cls-serve at 20%% to 120%% of its capacity; needs cls-export[serve]"
    )
    against = parser.add_argument_group("other projects (each gets its own environment on first use)")
    against.add_argument(
        "--against", metavar="PEER", nargs="+", action="extend", help=f"{', '.join(PEERS)}; or one of its settings, such as fastembed:int8"
    )
    against.add_argument(
        "--checkpoint",
        metavar="MODEL",
        help="the checkpoint that the bundle was exported from, for the other projects: a folder or hub id (default: the bundle's hub id)",
    )
    against.add_argument("--environments", metavar="DIR", type=Path, help="the folder of these environments (default: in the user's cache)")
    out = parser.add_argument_group("reports (plots and HTML need cls-export[bench])")
    out.add_argument("--plot", metavar="FILE", type=Path, help="write all plots to one .png or .svg")
    out.add_argument("--html", metavar="FILE", type=Path, help="write one HTML page with all tables and plots, which needs no network")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    results = _measure(arguments) if arguments.results is None else read_results(arguments.results)
    document = results_json(results)
    # Files first: who reads standard output may go away, and minutes of measuring with it.
    if arguments.json not in (None, "-"):
        write_whole(Path(arguments.json), document.encode())
    if arguments.plot is not None:
        write_whole(arguments.plot, overview(results, suffix=arguments.plot.suffix))
    if arguments.html is not None:
        write_whole(arguments.html, html_report(results).encode())
    if arguments.json == "-":
        sys.stdout.write(document)
    elif not arguments.quiet:
        for line in report_lines(results):
            shell.say(line)
    return shell.EXIT_DONE


def _check(arguments: argparse.Namespace) -> None:
    """Refuses before anything is measured what would fail afterwards."""
    if (arguments.bundle is None) == (arguments.results is None):
        raise UsageError("expected a BUNDLE to measure, or --from FILE with earlier results, and not both; see cls-bench --help")
    shell.check_requirements(arguments, _REQUIREMENTS)
    written: dict[str, str] = {}
    read = [path for path in (arguments.results, arguments.texts) if path is not None]
    kept = [Path(path) for path in (arguments.bundle, arguments.checkpoint) if path is not None]
    if arguments.threads is not None:
        check_count("--threads", arguments.threads, most=MOST_THREADS)
    for option, path in (("--json", arguments.json), ("--plot", arguments.plot), ("--html", arguments.html)):
        if path is not None and path != "-":
            shell.check_writable(Path(path), option, files=read, folders=kept)
            place = os.path.realpath(path)
            if place in written and (Path(path).is_file() or not Path(path).exists()):
                raise UsageError(f"{option} {path} is also the file of {written[place]}; choose another name")
            written[place] = option
    if arguments.plot is not None and arguments.plot.suffix not in PLOT_SUFFIXES:
        raise UsageError(f"--plot {arguments.plot}: expected a name that ends in {' or '.join(PLOT_SUFFIXES)}")
    if arguments.plot is not None or arguments.html is not None:
        require_bench_extra()
    if arguments.serve:
        require_serve_extra()


def _measure(arguments: argparse.Namespace) -> BenchResults:
    plan = _plan(arguments)
    texts = docstring_sentences(plan.texts) if arguments.texts is None else _texts(arguments.texts, plan.texts)
    place = find_bundle(bundle_name(arguments))
    manifest = read_manifest(place.folder)
    sides = planned_sides(manifest, variants=arguments.variant, engines=arguments.engine, device=arguments.device)
    threads = arguments.threads or available_cpus()
    peers = None if arguments.against is None else _peer_options(arguments, manifest, sides)
    total = len(benchmark_steps(plan))
    if peers is not None:
        total += len(comparison_steps(side_names(*peers), rounds=plan.rounds))
    # An engine may print while it loads; standard output is for the results.
    with (
        ProgressBar(unit="step", total=total, shown=arguments.json != "-" and not arguments.quiet) as bar,
        contextlib.redirect_stdout(sys.stderr),
    ):
        results = run_benchmark(
            place.name,
            texts=texts,
            origin="Python's own docstrings" if arguments.texts is None else Path(arguments.texts).name,
            plan=plan,
            sides=sides,
            threads=threads,
            step=bar.begin,
        )
        if peers is None:
            return results
        used = texts[: len(results.texts.token_counts)]
        return dataclasses.replace(results, peers=_against(place, arguments, manifest, peers, used, plan, threads, bar.begin))


def _plan(arguments: argparse.Namespace) -> Plan:
    plan = QUICK if arguments.quick else THOROUGH
    count = arguments.count or plan.texts
    least = arguments.count or plan.least_texts  # what was asked for is not left out, however large the model
    return dataclasses.replace(plan, texts=count, least_texts=least, rounds=arguments.rounds or plan.rounds, serve=arguments.serve)


def _texts(name: str, count: int) -> list[str]:
    texts = list(itertools.islice(read_texts([name]), count))
    if not texts:
        raise UsageError(f"--texts {name} has no texts, expected at least one")
    return texts


def _peer_options(arguments: argparse.Namespace, manifest: Manifest, sides: Sequence[PlannedSide]) -> tuple[list[str], list[str]]:
    """This bundle's sides, what `auto` takes first, and the peers.

    Raises:
        UsageError: an unknown peer, no checkpoint for them, or a bundle that they cannot be compared with.
    """
    usable = [side for side in sides if side.objection is None]
    with contextlib.suppress(BundleError):  # no variant that `auto` would take; those that were named are compared all the same
        choice = choose(manifest)
        usable.sort(key=lambda side: (side.engine, side.variant) != (choice.engine, choice.variant))
    options = [f"{side.engine}:{side.variant}" for side in usable], list(arguments.against)
    side_names(*options)
    check_comparable(manifest)
    if arguments.checkpoint is None and "/" not in manifest.source.name:
        raise UsageError(
            f"--against needs --checkpoint: the bundle was made from a folder named {manifest.source.name!r}, and the peers make their "
            "own files from the checkpoint; name its folder or hub id"
        )
    return options


def _against(
    place: Place,
    arguments: argparse.Namespace,
    manifest: Manifest,
    options: tuple[list[str], list[str]],
    texts: Sequence[str],
    plan: Plan,
    threads: int,
    step: Callable[[str], None],
) -> PeerComparison:
    ours, peers = options
    place.fetch(files_of)  # other environments read it as a folder
    return compare_with_peers(
        place.folder,
        checkpoint=arguments.checkpoint or manifest.source.name,
        texts=texts,
        peers=peers,
        ours=ours,
        threads=threads,
        rounds=plan.rounds,
        environments=arguments.environments,
        progress=step,
    )


def report_lines(results: BenchResults) -> Iterator[str]:
    """What the terminal shows: what was measured on what, then every table."""
    facts = environment(results)
    width = max(len(name) for name, _ in facts)
    yield from (f"{name:<{width}}  {words}" for name, words in facts)
    for table in all_tables(results):
        yield from ("", table.title, *shell.table_lines([table.header, *table.rows]))


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
