"""`cls-embed`: texts from files to a `.npy` of vectors, or to a folder of Parquet shards that survives whatever happens."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from cls_runtime.commands import shell
from cls_runtime.commands.bundle_options import add_bundle, add_bundle_options, bundle_name
from cls_runtime.commands.engine_options import DEVICE_NEEDS_GPU_ENGINE, add_device, engine_name
from cls_runtime.commands.ray_options import RAY, RAY_REQUIREMENTS, add_ray_options, engine_of, ray_options
from cls_runtime.encoding.report import OnOverflow
from cls_runtime.encoding.vector_options import WITH_RANGES, DType
from cls_runtime.engines.choice import ENGINE_NAMES, VARIANT_NAMES
from cls_runtime.errors import UsageError
from cls_runtime.jobs.embed_npy import NpyReport, embed_to_npy
from cls_runtime.jobs.filesystems import is_uri
from cls_runtime.jobs.job import JobReport, run_job
from cls_runtime.jobs.options import OUTPUTS, JobOptions
from cls_runtime.jobs.ranges import ranges_sha256, read_ranges
from cls_runtime.jobs.rows import OnError
from cls_runtime.jobs.vector_types import FLOATS

_EXAMPLES = [
    ("cls-embed models/my-model texts.txt -o vectors.npy", "a text a line"),
    ("cls-embed models/my-model a.csv b.csv -o all.npy --column body", "the column body of two files, one after the other"),
    ("cls-embed models/my-model a.csv -o v.npy --delimiter ';'", "as spreadsheets write CSV where numbers have commas"),
    ("zcat texts.gz | cls-embed models/my-model - -o vectors.npy", "standard input, a text a line"),
    ("cls-embed models/my-model queries.txt -o q.npy --prompt-name query", "with the prompt that the model has for queries"),
    ("cls-embed models/my-model texts.jsonl -o v.npy --dtype ubinary", "a bit a number, for an index of many"),
    ("cls-embed models/my-model corpus/ -o vectors --id-column key", "Parquet shards; the same command again resumes"),
]
_REQUIREMENTS = (
    shell.Requirement(
        options=("--id-column", "--keep", "--shard-rows"),
        need="-o FOLDER, a .npy file is vectors only",
        is_met=lambda arguments: not _wants_npy(arguments.out),
        instead=lambda arguments: f"-o {arguments.out}",
    ),
    shell.Requirement(
        options=("--on-error null",),
        need=f"-o FOLDER or --dtype {' or '.join(FLOATS)}, a .npy of integers has no number for a row without a text",
        is_met=lambda arguments: not _wants_npy(arguments.out) or arguments.dtype in FLOATS,
        instead=lambda arguments: f"-o {arguments.out} --dtype {arguments.dtype}",
    ),
    shell.Requirement(
        options=("--ranges",),
        need=f"--dtype {' or '.join(WITH_RANGES)}",
        is_met=lambda arguments: arguments.dtype in WITH_RANGES,
        instead=lambda arguments: f"--dtype {arguments.dtype}",
    ),
    shell.Requirement(
        options=("--dimensions",),
        need="--output sentence or cls, no other vector is trained to be cut",
        is_met=lambda arguments: arguments.output in ("sentence", "cls"),
        instead=lambda arguments: f"--output {arguments.output}",
    ),
    shell.Requirement(
        options=("--prompt-name",),
        need="a prompt of the bundle's, --prompt is a text of your own; give one of them",
        is_met=lambda arguments: arguments.prompt is None,
        instead=lambda arguments: f"--prompt {arguments.prompt!r}",
    ),
    shell.Requirement(
        options=("--engine ray",),
        need="-o FOLDER, each worker writes shards of its own",
        is_met=lambda arguments: not _wants_npy(arguments.out),
        instead=lambda arguments: f"-o {arguments.out}",
    ),
    *RAY_REQUIREMENTS,
    DEVICE_NEEDS_GPU_ENGINE,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cls-embed` with `argv` (default: the process's arguments) and gives the exit code."""
    return shell.run_command(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = shell.command_parser(
        "cls-embed",
        "Turns texts into vectors. OUT.npy appears when it is whole: row i belongs to text i. A folder OUT gets Parquet shards (id, kept "
        "columns, embedding), each whole when it appears; the same command again goes on where the last one was ended, by whatever.",
        examples=_EXAMPLES,
    )
    add_bundle(parser)
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help=".txt (a line a text), .jsonl or .csv, also .gz or .zst; .parquet; a folder or a pattern of them; or - (standard input)",
    )
    parser.add_argument(
        "-o", dest="out", metavar="OUT", required=True, help="a .npy file: an array [n, width]; or a folder: Parquet shards"
    )
    parser.add_argument(
        "--column",
        metavar="NAME",
        default="text",
        help="the column of .jsonl, .csv and .parquet; doc.text is a field of doc (default: text)",
    )
    parser.add_argument(
        "--delimiter", metavar="CHARACTER", type=_delimiter, help="what separates the fields of .csv: ';', '\\t' (default: a comma)"
    )
    _add_vectors(parser)
    parser.add_argument("--variant", choices=VARIANT_NAMES, default="auto", help="which precision (default: auto)")
    parser.add_argument(
        "--engine",
        choices=(*ENGINE_NAMES, RAY),
        type=engine_name,
        default="auto",
        help="what computes (default: auto, the fastest that is installed and has what it needs in BUNDLE); ray: auto on each worker of a "
        "Ray cluster, cuda with --ray-gpus",
    )
    add_device(parser)
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads (default: what the machine allows; on Ray 2 a worker)")
    add_bundle_options(parser)
    parser.add_argument(
        "--on-overflow",
        choices=get_args(OnOverflow),
        default="warn",
        help="texts longer than the model takes: warn says how many were cut, truncate only counts them, raise stops (default: warn)",
    )
    parser.add_argument(
        "--on-error",
        choices=get_args(OnError),
        default="raise",
        help="rows that cannot be read: raise stops, skip leaves them out, null keeps them without a vector; both list them in a file "
        "(default: raise)",
    )
    shards = parser.add_argument_group("a folder of Parquet shards")
    shards.add_argument("--id-column", metavar="NAME", help="the column that becomes id (default: the row's number in the input)")
    shards.add_argument("--keep", metavar="COLUMN", action="append", help="pass this column on; may be given again")
    shards.add_argument("--shard-rows", metavar="N", type=int, help=f"rows of a shard (default: {JobOptions.shard_rows})")
    add_ray_options(parser)
    return parser


def _add_vectors(parser: argparse.ArgumentParser) -> None:
    vectors = parser.add_argument_group("which vectors; what is not said is as the model was trained")
    vectors.add_argument("--output", choices=OUTPUTS, default=JobOptions.output, help="which of the bundle's outputs (default: sentence)")
    vectors.add_argument("--normalize", action=argparse.BooleanOptionalAction, help="divide each vector by its length, or do not")
    vectors.add_argument("--prompt-name", metavar="NAME", help="which of the bundle's prompts goes before every text: query, document, ...")
    vectors.add_argument("--prompt", metavar="TEXT", help="a text of your own before every text; '' for none")
    vectors.add_argument("--dimensions", metavar="N", type=int, help="keep the first N numbers of each vector, and make its length 1 again")
    vectors.add_argument(
        "--dtype",
        choices=get_args(DType),
        default=JobOptions.dtype,
        help="in which numbers: int8 and uint8 are a byte, binary and ubinary a bit of each (default: float32)",
    )
    vectors.add_argument(
        "--ranges",
        metavar="FILE.npy",
        type=Path,
        help="float32 [2, width], the least and the greatest of each number, for int8 and uint8 (default: those of the bundle's golden "
        "texts; for shards of int8 a scale for each row)",
    )


def _run(arguments: argparse.Namespace) -> int:
    shell.check_requirements(arguments, _REQUIREMENTS)
    options = _options(arguments)
    bundle, inputs, out, bar = bundle_name(arguments), arguments.inputs, arguments.out, not arguments.json
    if _wants_npy(out):
        report: NpyReport | JobReport = embed_to_npy(bundle, inputs, Path(out), options=options, progress_bar=bar)
    else:
        report = run_job(bundle, inputs, out, options=options, ray=ray_options(arguments), progress_bar=bar)
    _tell(arguments, report)
    return shell.EXIT_DONE


def _options(arguments: argparse.Namespace) -> JobOptions:
    return JobOptions(
        column=arguments.column,
        id_column=arguments.id_column,
        keep=tuple(arguments.keep or ()),
        delimiter=arguments.delimiter,
        on_error=arguments.on_error,
        output=arguments.output,
        normalize=arguments.normalize,
        prompt_name=arguments.prompt_name,
        prompt=arguments.prompt,
        dimensions=arguments.dimensions,
        dtype=arguments.dtype,
        ranges=None if arguments.ranges is None else read_ranges(arguments.ranges),
        shard_rows=JobOptions.shard_rows if arguments.shard_rows is None else arguments.shard_rows,
        on_overflow=arguments.on_overflow,
        variant=arguments.variant,
        engine=engine_of(arguments),
        device=arguments.device,
        threads=arguments.threads,
        follow_links=arguments.follow_links,
    )


def _delimiter(typed: str) -> str:
    """A tab is hard to type."""
    return "\t" if typed in ("\\t", "tab") else typed


def _wants_npy(out: str) -> bool:
    """Whether OUT is a `.npy` file and not a folder.

    Raises:
        UsageError: it looks like another kind of file.
    """
    suffix = Path(out).suffix
    if suffix == ".npy":
        return True
    if suffix[1:].isalpha() and not is_uri(out) and not out.endswith("/") and not Path(out).is_dir():
        raise UsageError(f"output {out}: expected a name that ends in .npy, or a folder (make it first, or end its name with /)")
    return False


def _tell(arguments: argparse.Namespace, report: NpyReport | JobReport) -> None:
    if report.total.skipped:
        shell.warn(f"{_several(report.total.skipped, 'row')} could not be read; {report.skipped_list} lists them")
    if arguments.json:
        shell.print_json(_document(arguments.out, report))
        return
    texts, dtype, width, speed = report.total.rows, report.vectors.dtype, report.width, _speed(report)
    if isinstance(report, NpyReport):
        shell.say(f"{texts:,} texts -> {arguments.out} ({dtype} [{texts}, {width}]) in {speed}; {report.total.truncated} truncated")
    elif report.this_run.read == 0 and report.resumed_rows:
        shell.say(f"{texts:,} texts -> {arguments.out}: finished by an earlier run, nothing to do")
    else:
        earlier = f", {report.resumed_rows:,} of them in earlier runs" if report.resumed_rows else ""
        form = f"{_several(report.shards, 'shard')} of {dtype} [{width}]"
        counts = f"{report.total.truncated} truncated, {_several(report.total.duplicates, 'duplicate')}"
        shell.say(f"{texts:,} texts{earlier} -> {arguments.out} ({form}) in {speed}; {counts}")


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _speed(report: NpyReport | JobReport) -> str:
    rate = report.this_run.rows / max(report.seconds, 1e-9)
    return f"{report.seconds:.1f} s, {rate:,.0f} texts/s with {report.choice.variant} on {report.choice.engine}"


def _document(out: str, report: NpyReport | JobReport) -> dict[str, Any]:
    seconds, form = max(report.seconds, 1e-9), report.vectors
    document = {
        "out": out,
        "texts": report.total.rows,
        "width": report.width,
        "output": form.output,
        "prompt": form.prompt,
        "dimensions": form.dimensions,
        "normalized": form.normalize,
        "dtype": form.dtype,
        "ranges_sha256": None if form.ranges is None else ranges_sha256(form.ranges),
        "truncated": report.total.truncated,
        "duplicates": report.total.duplicates,
        "skipped": report.total.skipped,
        "tokens": report.total.tokens,
        "seconds": round(report.seconds, 3),
        "texts_per_second": round(report.this_run.rows / seconds, 1),
        "tokens_per_second": round(report.this_run.tokens / seconds, 1),
        "engine": report.choice.engine,
        "variant": report.choice.variant,
        "reasons": list(report.choice.reasons),
        "threads": report.threads,
        "fingerprint": report.fingerprint,
    }
    if isinstance(report, JobReport):
        document |= {
            "shards": report.shards,
            "resumed_rows": report.resumed_rows,
            "this_run": dataclasses.asdict(report.this_run),
        }
    return document


if __name__ == "__main__":
    sys.exit(main())
