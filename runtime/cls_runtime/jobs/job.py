"""A whole job: inputs and options in, a folder of Parquet shards out, on this machine or on Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.manifest import Output
from cls_runtime.encoding.report import OnOverflow
from cls_runtime.engines.choice import Choice, choose
from cls_runtime.engines.cpu import available_cpus
from cls_runtime.errors import UsageError
from cls_runtime.jobs.inputs import JobInputs
from cls_runtime.jobs.job_manifest import SKIPPED_NAME, JobSpec, JobState, open_job
from cls_runtime.jobs.local import run_local
from cls_runtime.jobs.progress import JobProgress
from cls_runtime.jobs.ray_engine import WORKER_THREADS, RayOptions, run_on_ray
from cls_runtime.jobs.rows import Counts, OnError
from cls_runtime.jobs.shards import ShardFormat
from cls_runtime.jobs.task import JobTask
from cls_runtime.jobs.vector_types import VectorType
from cls_runtime.reading.parquet_files import require_pyarrow

SHARD_ROWS = 100_000


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What a job does with its inputs.

    Attributes:
        column: the column of the text.
        id_column: the column that becomes `id`; None for the row's number in the input.
        keep: columns that are passed on.
        on_error: a row that cannot be read: `raise` ends the job, `skip` leaves it out, `null` keeps it without a vector.
        output: `cls`, `pooler` or `logits`.
        normalize: divide each vector by its L2 norm.
        dtype: how vectors are stored.
        shard_rows: rows of the input that one shard covers.
        on_overflow: `truncate` or `raise` for a text longer than the model takes.
        variant: the precision, or `auto`.
        engine: the inference engine, or `auto`.
        threads: CPU threads (on Ray: of each worker); None for all that there are (on Ray: 2).
    """

    column: str = "text"
    id_column: str | None = None
    keep: tuple[str, ...] = ()
    on_error: OnError = "raise"
    output: Output = "cls"
    normalize: bool = False
    dtype: VectorType = "float32"
    shard_rows: int = SHARD_ROWS
    on_overflow: OnOverflow = "truncate"
    variant: str = "auto"
    engine: str = "auto"
    threads: int | None = None

    def deciding(self) -> dict[str, Any]:
        """The options that a resumed job must share."""
        names = ("column", "id_column", "on_error", "output", "normalize", "dtype", "shard_rows")
        refuses = self.on_overflow == "raise"
        return {name: getattr(self, name) for name in names} | {"keep": list(self.keep), "refuses_overflow": refuses}


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """What a job did. `total` counts all runs, `this_run` what was done now, in `seconds`; `resumed_rows` of the input were done before."""

    shards: int
    width: int
    choice: Choice
    threads: int
    max_length: int
    fingerprint: str
    resumed_rows: int
    skipped_list: str
    total: Counts
    this_run: Counts
    seconds: float


def run_job(
    bundle: str | Path, inputs: Sequence[str], out: str, *, options: JobOptions | None = None, ray: RayOptions | None = None
) -> JobReport:
    """Embeds the inputs into the folder `out`; the same call again goes on where it stopped.

    Args:
        bundle: the bundle's folder (on Ray: at the same path on every node).
        inputs: paths, folders, globs, URIs of Parquet files, or `-`.
        out: a folder's path or URI: new, empty, or with this very job in it.
        options: what to do.
        ray: how to reach Ray; None to run here.

    Raises:
        UsageError: an input, an option or the folder does not fit; the folder holds another job.
        MissingExtraError: pyarrow or Ray is not installed.
        TextError: a row that cannot be read, with `on_error="raise"`.
        OSError: the disk is full, or failed; the finished shards stay.
        BundleError, EngineError, TextTooLongError, InvalidVectorError: as `Encoder`.
    """
    options = options or JobOptions()
    threads = options.threads or (available_cpus() if ray is None else WORKER_THREADS)
    require_pyarrow("Parquet shards")
    if options.shard_rows < 1:
        raise UsageError(f"shard_rows is {options.shard_rows}, expected at least 1")
    opened = Bundle.open(bundle)
    choice = choose(opened.manifest, engine=options.engine, variant=options.variant)
    found = JobInputs.find(inputs, column=options.column, id_column=options.id_column, keep=options.keep, on_error=options.on_error)
    task = _task(opened, choice, found, out, options)
    folder = task.folder()
    folder.create()
    with folder.lock():
        spec = JobSpec(inputs=found.identities(), options=options.deciding(), vectors=_vectors(opened, choice))
        state = open_job(folder, spec, where=out)
        if not found.seekable and state.shards:  # a finished one too: whether this is the same input nobody can know
            raise UsageError(f"output {out} holds a job that read standard input, which cannot be read again; choose another folder")
        before = sum(shard.stop - shard.start for shard in state.shards)
        progress = JobProgress(done_before=before, total=_total(state, task))
        if not state.complete:
            run_local(task, state, progress) if ray is None else run_on_ray(ray, task, state, progress)
    return JobReport(
        shards=len(state.shards),
        width=task.form.width,
        choice=choice,
        threads=threads,
        max_length=opened.manifest.max_length,
        fingerprint=opened.manifest.fingerprint,
        resumed_rows=before,
        skipped_list=f"{out.rstrip('/')}/{SKIPPED_NAME}",
        total=state.counts,
        this_run=progress.counts,
        seconds=progress.seconds,
    )


def _task(bundle: Bundle, choice: Choice, inputs: JobInputs, out: str, options: JobOptions) -> JobTask:
    origin = {**_vectors(bundle, choice), "output": options.output, "normalized": str(options.normalize).lower()}
    return JobTask(
        bundle=bundle.folder.absolute(),
        variant=choice.variant,
        engine=choice.engine,
        threads=options.threads,
        on_overflow="raise" if options.on_overflow == "raise" else "truncate",
        output=options.output,
        normalize=options.normalize,
        inputs=inputs,
        row_counts=inputs.row_counts(),
        form=ShardFormat(inputs.plan, options.dtype, bundle.manifest.width(options.output), origin),
        shard_rows=options.shard_rows,
        out=out,
    )


def _vectors(bundle: Bundle, choice: Choice) -> dict[str, str]:
    """Where the vectors come from. A precision that an engine makes itself has no file of its own."""
    variants = bundle.manifest.variants
    files = (variants.get(choice.variant) or variants["fp32"]).files
    graph = files[0].sha256 if files else ""
    return {"fingerprint": bundle.manifest.fingerprint, "variant": choice.variant, "graph_sha256": graph, "engine": choice.engine}


def _total(state: JobState, task: JobTask) -> int | None:
    return state.total_rows if task.row_counts is None else sum(task.row_counts)
