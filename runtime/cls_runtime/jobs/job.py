"""A whole job: inputs and options in, a folder of Parquet shards out, on this machine or on Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.places import find_bundle
from cls_runtime.encoding.vector_options import VectorForm
from cls_runtime.engines.choice import Choice, choose
from cls_runtime.engines.cpu import available_cpus
from cls_runtime.engines.needed_files import encoder_files
from cls_runtime.errors import UsageError
from cls_runtime.jobs.inputs import JobInputs
from cls_runtime.jobs.job_folder import SKIPPED_NAME, open_job
from cls_runtime.jobs.job_manifest import JobSpec, JobState
from cls_runtime.jobs.local import run_local
from cls_runtime.jobs.options import JobOptions, RayOptions
from cls_runtime.jobs.output_checks import check_output_folder
from cls_runtime.jobs.progress import JobProgress
from cls_runtime.jobs.ray_engine import WORKER_THREADS, parquet_rows, run_on_ray
from cls_runtime.jobs.rows import Counts
from cls_runtime.jobs.shards import ShardFormat
from cls_runtime.jobs.task import JobTask, graph_sha256
from cls_runtime.jobs.truncation import warn_of_cut_texts
from cls_runtime.jobs.vector_forms import deciding, form_of, origin, stored_width, warn_of_dimensions
from cls_runtime.reading.parquet_files import require_pyarrow


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """What a job did, with vectors of the form `vectors`.

    `total` counts all runs, `this_run` what was done now, in `seconds`; `resumed_rows` of the input were done before.
    """

    shards: int
    vectors: VectorForm
    choice: Choice
    threads: int
    max_length: int
    fingerprint: str
    resumed_rows: int
    skipped_list: str
    total: Counts
    this_run: Counts
    seconds: float

    @property
    def width(self) -> int:
        """How many numbers a stored vector has."""
        return stored_width(self.vectors)


def run_job(
    bundle: str | Path,
    inputs: Sequence[str],
    out: str,
    *,
    options: JobOptions | None = None,
    ray: RayOptions | None = None,
    progress_bar: bool = True,
) -> JobReport:
    """Embeds the inputs into the folder `out`; the same call again goes on where it stopped.

    Args:
        bundle: the bundle's folder (on Ray: at the same path on every node), or its name on the hub (on Ray: every node fetches it).
        inputs: paths, folders, globs, URIs of Parquet files, or `-`.
        out: a folder's path or URI: new, empty, or with this very job in it.
        options: what to do.
        ray: how to reach Ray; None to run here.
        progress_bar: draw one where standard error is a terminal; elsewhere, and with False, it gets a line a minute.

    Warns:
        TruncationWarning: texts were cut, with `on_overflow="warn"`; once, at the end.

    Raises:
        UsageError: an input, an option or the folder does not fit; the folder holds another job.
        MissingExtraError: pyarrow or Ray is not installed.
        TextError: a row that cannot be read, with `on_error="raise"`.
        OSError: the disk is full, or failed; the finished shards stay.
        BundleError, EngineError, TextTooLongError, InvalidVectorError: as `Encoder`.
    """
    options = options or JobOptions()
    if ray is not None and options.device is not None:
        raise UsageError(f"device is {options.device!r}, and on Ray a worker has a GPU of its own; give RayOptions gpus, and no device")
    threads = options.threads or (available_cpus() if ray is None else WORKER_THREADS)
    require_pyarrow("Parquet shards")
    needed = partial(encoder_files, variant=options.variant, engine=options.engine)
    opened = find_bundle(bundle).open(needed, follow_links=options.follow_links)
    form = form_of(options, opened, scaled=True)
    warn_of_dimensions(options, opened.manifest, stacklevel=2)
    choice = choose(opened.manifest, engine=options.engine, variant=options.variant)
    job_inputs = JobInputs.find(
        inputs,
        column=options.column,
        id_column=options.id_column,
        keep=options.keep,
        delimiter=options.delimiter,
        on_error=options.on_error,
    )
    check_output_folder(out, bundle=opened.folder, names=inputs, inputs=job_inputs)
    spec = JobSpec(inputs=job_inputs.identities(), options=options.deciding() | deciding(form), vectors=_vectors(opened, choice))
    task = _task(opened, choice, job_inputs, out, options, form, spec)
    if ray is not None:
        parquet_rows(task)  # before there is a folder
    folder = task.folder()
    folder.create()
    with folder.lock():
        count_rows = job_inputs.count_rows if job_inputs.seekable else None
        state = open_job(folder, spec, where=out, count_rows=count_rows, seekable=job_inputs.seekable)
        if not job_inputs.seekable and state.shards:  # a finished one too: whether this is the same input nobody can know
            raise UsageError(f"output {out} holds a job that read standard input, which cannot be read again; choose another folder")
        before = sum(shard.stop - shard.start for shard in state.shards)
        progress = JobProgress(done_before=before, total=_total(state, task), bar=progress_bar)
        if not state.complete:
            run_local(task, state, progress) if ray is None else run_on_ray(ray, task, state, progress)
    if options.on_overflow == "warn" and state.counts.truncated:
        warn_of_cut_texts(state.counts, max_length=opened.manifest.max_length, stacklevel=2)
    return JobReport(
        shards=len(state.shards),
        vectors=form,
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


def _task(bundle: Bundle, choice: Choice, inputs: JobInputs, out: str, options: JobOptions, form: VectorForm, spec: JobSpec) -> JobTask:
    return JobTask(
        bundle=bundle.name,
        variant=choice.variant,
        engine=choice.engine,
        device=options.device,
        threads=options.threads,
        on_overflow=options.encoder_overflow,
        inputs=inputs,
        row_counts=inputs.row_counts(),
        form=ShardFormat(inputs.plan, form, {**spec.vectors, **origin(form)}, spec.token),
        shard_rows=options.shard_rows,
        out=out,
        fingerprint=spec.vectors["fingerprint"],
        follow_links=options.follow_links,
    )


def _vectors(bundle: Bundle, choice: Choice) -> dict[str, str]:
    """Where the vectors come from."""
    graph = graph_sha256(bundle.manifest, choice.variant, choice.engine)
    return {"fingerprint": bundle.manifest.fingerprint, "variant": choice.variant, "graph_sha256": graph, "engine": choice.engine}


def _total(state: JobState, task: JobTask) -> int | None:
    return state.total_rows if task.row_counts is None else sum(task.row_counts)
