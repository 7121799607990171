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
from cls_runtime.commands.parsing import command_parser
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
from cls_runtime.quantities import duration, rate, several

_EXAMPLES = [
    ("cls-embed models/my-model texts.txt -o vectors.npy", "one text per line"),
    ("cls-embed models/my-model a.csv b.csv -o all.npy --column body", "the column body of two files"),
    ("cls-embed models/my-model a.csv -o v.npy --delimiter ';'", "CSV with semicolons"),
    ("zcat texts.gz | cls-embed models/my-model - -o vectors.npy", "standard input, one text per line"),
    ("cls-embed models/my-model queries.txt -o q.npy --prompt-name query", "with the model's prompt for queries"),
    ("cls-embed models/my-model texts.jsonl -o v.npy --dtype ubinary", "one bit per dimension, for a large index"),
    ("cls-embed models/my-model corpus/ -o vectors --id-column key", "Parquet shards; run it again to resume"),
]
_NOTES = (
    "A text is a line of .txt, the value of --column in a row of .csv or .parquet or in an object of .jsonl, or a line of "
    ".jsonl that is a string. A list of two strings in .jsonl or .parquet is a text pair. Files are UTF-8. .parquet and .zst "
    "need cls-export[jobs]. --json includes the fingerprint of the vectors: put only vectors of one fingerprint into an index."
)
_REQUIREMENTS = (
    shell.Requirement(
        options=("--id-column", "--keep", "--shard-rows"),
        need="-o FOLDER, a .npy file holds vectors only",
        is_met=lambda arguments: not _wants_npy(arguments.out),
        instead=lambda arguments: f"-o {arguments.out}",
    ),
    shell.Requirement(
        options=("--on-error null",),
        need=f"-o FOLDER or --dtype {' or '.join(FLOATS)}, a .npy of integers cannot mark a row that has no text",
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
        need="--output sentence or cls, other vectors are not trained to be shortened",
        is_met=lambda arguments: arguments.output in ("sentence", "cls"),
        instead=lambda arguments: f"--output {arguments.output}",
    ),
    shell.Requirement(
        options=("--prompt-name",),
        need="a prompt of the bundle, --prompt is your own text; use one of them",
        is_met=lambda arguments: arguments.prompt is None,
        instead=lambda arguments: f"--prompt {arguments.prompt!r}",
    ),
    shell.Requirement(
        options=("--engine ray",),
        need="-o FOLDER, each worker writes its own shards",
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
    parser = command_parser(
        "cls-embed",
        "Turns texts into vectors. If OUT ends in .npy, row i belongs to text i, and the file appears when it is complete. If OUT is a "
        "folder, it gets Parquet shards (id, kept columns, embedding); run the same command again to resume after an interruption.",
        examples=_EXAMPLES,
        notes=_NOTES,
    )
    add_bundle(parser)
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help=".txt (one text per line), .jsonl, .csv or .parquet; the first three also as .gz or .zst; a folder or a pattern of such "
        "files; or - for standard input, which is read like .txt",
    )
    parser.add_argument(
        "-o", dest="out", metavar="OUT", required=True, help="a .npy file for an array [n, width], or a folder for Parquet shards"
    )
    parser.add_argument(
        "--column",
        metavar="NAME",
        default="text",
        help="the column to read from .jsonl, .csv and .parquet; doc.text is the field text of doc (default: text)",
    )
    parser.add_argument(
        "--delimiter", metavar="CHARACTER", type=_delimiter, help="the field separator of .csv, such as ';' or '\\t' (default: a comma)"
    )
    _add_vectors(parser)
    parser.add_argument(
        "--variant", choices=VARIANT_NAMES, default="auto", help="the precision (default: auto, the fastest that passed its checks)"
    )
    parser.add_argument(
        "--engine",
        choices=(*ENGINE_NAMES, RAY),
        type=engine_name,
        default="auto",
        help="the engine that computes; ray runs the job on a Ray cluster (default: auto, the fastest installed CPU engine that can run "
        "BUNDLE)",
    )
    add_device(parser)
    parser.add_argument(
        "--threads", metavar="N", type=int, help="CPU threads (default: the CPUs that this process may use; on Ray 2 per worker)"
    )
    add_bundle_options(parser)
    parser.add_argument(
        "--on-overflow",
        choices=get_args(OnOverflow),
        default="warn",
        help="for texts longer than the model's maximum: warn truncates and reports them, truncate only counts them, raise stops "
        "(default: warn)",
    )
    parser.add_argument(
        "--on-error",
        choices=get_args(OnError),
        default="raise",
        help="for rows that cannot be read: raise stops, skip leaves them out, null keeps them without a vector (NaN in .npy); skip and "
        "null list them in OUT.npy.skipped.jsonl, or in the folder (default: raise)",
    )
    shards = parser.add_argument_group("Parquet shards")
    shards.add_argument("--id-column", metavar="NAME", help="the input column that becomes id (default: the row's number in the input)")
    shards.add_argument("--keep", metavar="COLUMN", action="append", help="copy this input column to the output; repeat for more")
    shards.add_argument("--shard-rows", metavar="N", type=int, help=f"rows per shard (default: {JobOptions.shard_rows})")
    add_ray_options(parser)
    return parser


def _add_vectors(parser: argparse.ArgumentParser) -> None:
    vectors = parser.add_argument_group("vectors")
    vectors.add_argument("--output", choices=OUTPUTS, default=JobOptions.output, help="which output of the bundle (default: sentence)")
    vectors.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="scale each vector to length 1, or do not (default: as the model was trained)",
    )
    vectors.add_argument(
        "--prompt-name",
        metavar="NAME",
        help="the bundle's prompt to put before every text, such as query (default: the model's default prompt, if it has one)",
    )
    vectors.add_argument("--prompt", metavar="TEXT", help="your own text to put before every text; '' for none")
    vectors.add_argument(
        "--dimensions",
        metavar="N",
        type=int,
        help="keep the first N dimensions and scale each vector to length 1 again; not with --no-normalize (default: as the model was "
        "trained)",
    )
    vectors.add_argument(
        "--dtype",
        choices=get_args(DType),
        default=JobOptions.dtype,
        help="the type of the numbers: int8 and uint8 are one byte per dimension, binary and ubinary one bit (default: float32)",
    )
    vectors.add_argument(
        "--ranges",
        metavar="FILE.npy",
        type=Path,
        help="for int8 and uint8: float32 [2, width], the minimum and maximum of each dimension (default: those of the bundle's golden "
        "texts; for Parquet shards of int8, one scale per row)",
    )


def _run(arguments: argparse.Namespace) -> int:
    shell.check_requirements(arguments, _REQUIREMENTS)
    options = _options(arguments)
    bundle, inputs, out, bar = bundle_name(arguments), arguments.inputs, arguments.out, not (arguments.json or arguments.quiet)
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
        shell.warn(f"{several(report.total.skipped, 'row')} could not be read; see {report.skipped_list}")
    if arguments.json:
        shell.print_json(_document(arguments.out, report))
    elif not arguments.quiet:
        shell.say(_summary(arguments.out, report))


def _summary(out: str, report: NpyReport | JobReport) -> str:
    texts, dtype, width, total = several(report.total.rows, "text"), report.vectors.dtype, report.width, report.total
    if isinstance(report, NpyReport):
        return f"{texts} -> {out} ({dtype} [{total.rows}, {width}]) in {_speed(report)}; {total.truncated:,} truncated"
    if report.this_run.read == 0 and report.resumed_rows:
        return f"{texts} -> {out}: an earlier run finished this job, nothing to do"
    earlier = f", {report.resumed_rows:,} of them in earlier runs" if report.resumed_rows else ""
    form = f"{several(report.shards, 'shard')} of {dtype} [{width}]"
    counts = f"{total.truncated:,} truncated, {several(total.duplicates, 'duplicate')}"
    return f"{texts}{earlier} -> {out} ({form}) in {_speed(report)}; {counts}"


def _speed(report: NpyReport | JobReport) -> str:
    speed = rate(report.this_run.rows, report.seconds, "texts")
    return f"{duration(report.seconds)}, {speed} with {report.choice.variant} on {report.choice.engine}"


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
