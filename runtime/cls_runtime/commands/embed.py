"""`cls-embed`: texts from files to a `.npy` of vectors, in bounded memory."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from cls_runtime.commands import shell
from cls_runtime.commands.npy_writer import NpyWriter, check_npy_target
from cls_runtime.encoder import GRAPH_OUTPUTS, Encoder, Output
from cls_runtime.engines.choice import ENGINE_NAMES, VARIANT_NAMES
from cls_runtime.report import OnOverflow, Truncation
from cls_runtime.text_files import read_texts

_EXAMPLES = [
    ("cls-embed models/my-model texts.txt -o vectors.npy", "a text a line"),
    ("cls-embed models/my-model a.csv b.csv -o all.npy --column body", "the column body of two files, one after the other"),
    ("zcat texts.gz | cls-embed models/my-model - -o vectors.npy", "standard input, a text a line"),
    ("cls-embed models/my-model texts.jsonl -o v.npy --normalize", "unit vectors, for cosine by dot product"),
]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cls-embed` with `argv` (default: the process's arguments) and gives the exit code."""
    return shell.run_command(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = shell.command_parser(
        "cls-embed",
        "Turns texts into vectors: row i of OUT belongs to text i. OUT appears when it is whole; an existing OUT is replaced only then.",
        examples=_EXAMPLES,
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a folder made by cls-export")
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help=".txt (a line a text), .jsonl, .csv, .parquet, or - (standard input)")
    parser.add_argument("-o", dest="out", metavar="OUT", type=Path, required=True, help="the .npy file to write: float32 [n, width]")
    parser.add_argument("--column", metavar="NAME", default="text", help="the column of .jsonl, .csv and .parquet (default: text)")
    parser.add_argument("--output", choices=get_args(Output), default="cls", help="which of the bundle's outputs (default: cls)")
    parser.add_argument("--normalize", action="store_true", help="divide each vector by its length")
    parser.add_argument("--variant", choices=VARIANT_NAMES, default="auto", help="which precision (default: auto)")
    parser.add_argument("--engine", choices=ENGINE_NAMES, default="auto", help="what computes (default: auto, the fastest installed)")
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads (default: what the machine or container allows)")
    parser.add_argument(
        "--on-overflow",
        choices=get_args(OnOverflow),
        default="warn",
        help="texts longer than the model takes: warn says how many were cut, truncate only counts them, raise stops (default: warn)",
    )
    return parser


@dataclass
class _Cut:
    """The texts that were cut so far; only the first and the worst are kept, a corpus may have millions."""

    texts: int = 0
    first: Truncation | None = None
    worst: Truncation | None = None

    def add(self, truncated: Sequence[Truncation]) -> None:
        for item in truncated:
            self.texts += 1
            self.first = self.first or item
            if self.worst is None or item.removed_tokens > self.worst.removed_tokens:
                self.worst = item


def _run(arguments: argparse.Namespace) -> int:
    check_npy_target(arguments.out)
    texts = read_texts(arguments.inputs, column=arguments.column)
    # This command warns once at the end, where the Encoder would warn at every block.
    on_overflow: OnOverflow = "raise" if arguments.on_overflow == "raise" else "truncate"
    with Encoder.load(
        arguments.bundle,
        variant=arguments.variant,
        engine=arguments.engine,
        threads=arguments.threads,
        on_overflow=on_overflow,
    ) as encoder:
        start = time.perf_counter()
        cut = _Cut()
        with (
            NpyWriter(arguments.out, width=_width(encoder, arguments.output)) as writer,
            shell.progress_bar(unit=" texts") as advance,
        ):
            for rows in encoder.stream(texts, output=arguments.output, normalize=arguments.normalize):
                writer.append(rows)
                cut.add(encoder.last_report.truncated)
                advance(len(rows))
        seconds = time.perf_counter() - start
        document = _document(arguments, encoder, rows=writer.rows, cut=cut, seconds=seconds)
    _report(arguments, document, cut, max_length=encoder.manifest.max_length)
    return shell.EXIT_DONE


def _width(encoder: Encoder, output: Output) -> int:
    # An unknown output is not looked up here: encode() knows best how to say so.
    widths = {item.name: item.width for item in encoder.manifest.outputs}
    return widths.get(GRAPH_OUTPUTS[output]) or int(encoder.encode([], output=output).shape[1])


def _document(arguments: argparse.Namespace, encoder: Encoder, *, rows: int, cut: _Cut, seconds: float) -> dict[str, Any]:
    return {
        "out": str(arguments.out),
        "texts": rows,
        "width": _width(encoder, arguments.output),
        "output": arguments.output,
        "normalized": arguments.normalize,
        "truncated": cut.texts,
        "seconds": round(seconds, 3),
        "texts_per_second": round(rows / seconds, 1),
        "engine": encoder.info.engine,
        "variant": encoder.info.variant,
        "reasons": list(encoder.info.reasons),
        "threads": encoder.info.threads,
        "fingerprint": encoder.manifest.fingerprint,
    }


def _report(arguments: argparse.Namespace, document: dict[str, Any], cut: _Cut, *, max_length: int) -> None:
    if cut.first is not None and cut.worst is not None and arguments.on_overflow == "warn":
        shell.warn(
            f"{cut.texts} of {document['texts']} texts are longer than the {max_length} tokens that the model takes and were cut "
            f"(the first is text {cut.first.index}, the most was text {cut.worst.index} by {cut.worst.removed_tokens} tokens); "
            "--on-overflow raise stops at them"
        )
    if arguments.json:
        shell.print_json(document)
        return
    shape = f"float32 [{document['texts']}, {document['width']}]"
    speed = f"{document['seconds']:.1f} s, {document['texts_per_second']:,.0f} texts/s with {document['variant']} on {document['engine']}"
    shell.say(f"{document['texts']:,} texts -> {document['out']} ({shape}) in {speed}; {document['truncated']} truncated")


if __name__ == "__main__":
    sys.exit(main())
