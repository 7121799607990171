"""`cls-embed -o OUT.npy`: one file that is whole or not there. It does not resume; a job that should has a folder for output."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cls_runtime.bundle.files import remove_parts, whole_file
from cls_runtime.bundle.places import find_bundle
from cls_runtime.encoder import Encoder
from cls_runtime.encoding.quantizing import quantized
from cls_runtime.encoding.vector_options import VectorForm
from cls_runtime.engines.choice import Choice
from cls_runtime.engines.needed_files import encoder_files
from cls_runtime.errors import UsageError
from cls_runtime.jobs.embedding import embed_blocks
from cls_runtime.jobs.inputs import END, JobInputs
from cls_runtime.jobs.npy_writer import check_npy_target, npy_writer
from cls_runtime.jobs.options import JobOptions
from cls_runtime.jobs.output_checks import check_output_file
from cls_runtime.jobs.progress import JobProgress
from cls_runtime.jobs.reading_ahead import read_ahead
from cls_runtime.jobs.rows import Counts, EmbeddedBlock, RowBlock
from cls_runtime.jobs.skipped_list import check_list_place, is_skipped_list, skipped_lines
from cls_runtime.jobs.truncation import CutTexts, warn_of_cut_texts
from cls_runtime.jobs.vector_forms import form_of, stored_width, warn_of_dimensions
from cls_runtime.jobs.vector_types import FLOATS, NUMBERS


@dataclass(frozen=True, kw_only=True)
class NpyReport:
    """What was done, in `seconds`, with vectors of the form `vectors`."""

    vectors: VectorForm
    choice: Choice
    threads: int
    max_length: int
    fingerprint: str
    total: Counts
    seconds: float
    skipped_list: str

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return stored_width(self.vectors)

    @property
    def this_run(self) -> Counts:
        """All of it: there was no earlier run."""
        return self.total


def embed_to_npy(bundle: str | Path, inputs: Sequence[str], out: Path, *, options: JobOptions, progress_bar: bool = True) -> NpyReport:
    """Embeds the inputs into the file `out`, in the numbers of `Encoder.encode`; a row kept without a text is NaN.

    The options of shards (`id_column`, `keep`, `shard_rows`) have no place in it. `progress_bar` is as in `run_job`.

    Warns:
        TruncationWarning: texts were cut, with `on_overflow="warn"`; once, at the end.
        DimensionsWarning: the model does not name this size for its vectors.

    Raises:
        UsageError, MissingExtraError, TextError: as `JobInputs`, and for an `out` that cannot be written, options that the bundle cannot
            follow, or rows kept without a text among integers.
        BundleError, EngineError, TextTooLongError, InvalidVectorError: as `Encoder`.
    """
    check_npy_target(out)
    if options.on_error == "null" and options.dtype not in FLOATS:
        raise UsageError(f"on_error is 'null' and dtype is {options.dtype!r}: an array cannot mark a row without a text; write to a folder")
    opened = find_bundle(bundle).open(
        partial(encoder_files, variant=options.variant, engine=options.engine), follow_links=options.follow_links
    )
    form = form_of(options, opened, scaled=False)
    warn_of_dimensions(options, opened.manifest, stacklevel=2)
    listed = skipped_list_of(out)
    if options.on_error != "raise":
        check_list_place(listed, what=f"output {out}")
    job_inputs = JobInputs.find(inputs, column=options.column, delimiter=options.delimiter, on_error=options.on_error, with_columns=False)
    may_list = None if options.on_error == "raise" else listed
    check_output_file(out, bundle=opened.folder, names=inputs, inputs=job_inputs, listed=may_list)
    overflow = options.encoder_overflow
    with (
        Encoder.load(
            opened.name,
            variant=options.variant,
            engine=options.engine,
            device=options.device,
            threads=options.threads,
            on_overflow=overflow,
            fingerprint=opened.manifest.fingerprint,
            follow_links=options.follow_links,
        ) as encoder,
        contextlib.ExitStack() as stack,
    ):
        counts = job_inputs.row_counts()
        progress = stack.enter_context(JobProgress(total=None if counts is None else sum(counts), bar=progress_bar))
        cut = CutTexts()
        with npy_writer(out, width=stored_width(form), dtype=NUMBERS[form.dtype]) as writer, _SkippedList(listed) as skipped:
            blocks = embed_blocks(encoder, _read(job_inputs, stack), form)
            for embedded in stack.enter_context(contextlib.closing(blocks)):
                writer.append(quantized(embedded.vectors, form.dtype, ranges=form.ranges))
                skipped.add(embedded)
                cut.add(embedded.cut)
                progress.add(embedded.counts, fraction=embedded.block.fraction)
        if not skipped.used and is_skipped_list(listed):
            listed.unlink()  # an earlier run's, of rows that have vectors now
        report = NpyReport(
            vectors=form,
            choice=Choice(encoder.info.engine, encoder.info.variant, encoder.info.reasons),
            threads=encoder.info.threads,
            max_length=encoder.manifest.max_length,
            fingerprint=encoder.manifest.fingerprint,
            total=progress.counts,
            seconds=progress.seconds,
            skipped_list=str(listed),
        )
    if options.on_overflow == "warn" and report.total.truncated:
        warn_of_cut_texts(report.total, max_length=report.max_length, cut=cut, stacklevel=2)
    return report


def _read(inputs: JobInputs, stack: contextlib.ExitStack) -> Iterator[RowBlock]:
    blocks = inputs.blocks([(0, END)])
    if not inputs.seekable:
        return blocks  # a thread that waits for standard input could not be ended
    return stack.enter_context(contextlib.closing(read_ahead(blocks)))


def skipped_list_of(out: Path) -> Path:
    """Where the rows that could not be read are listed: beside `out`."""
    return out.with_name(f"{out.name}.skipped.jsonl")


class _SkippedList(contextlib.ExitStack):
    """The list at `path`, where there is anything to list; it appears when it is whole."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.used = False
        self._path = path
        remove_parts(path)

    def add(self, embedded: EmbeddedBlock) -> None:
        if not embedded.block.skipped:
            return
        if not self.used:
            self._file = self.enter_context(whole_file(self._path))
            self.used = True
        self._file.write(skipped_lines(embedded.block.skipped))
