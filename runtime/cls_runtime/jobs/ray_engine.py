"""The same job on Ray Data: an actor pool of Encoders, a task a shard. What a shard holds is what it would hold without Ray."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, replace
from types import ModuleType
from typing import Any

from cls_runtime.encoder import Encoder
from cls_runtime.engines.cpu import available_cpus
from cls_runtime.errors import ClsError, EngineError, MissingExtraError, UsageError
from cls_runtime.jobs.job_folder import finish_job
from cls_runtime.jobs.job_manifest import JobState, Shard
from cls_runtime.jobs.options import RayOptions
from cls_runtime.jobs.progress import JobProgress
from cls_runtime.jobs.rows import Counts
from cls_runtime.jobs.shards import write_shard
from cls_runtime.jobs.stopping import StopSignals
from cls_runtime.jobs.task import JobTask

WORKER_THREADS = 2
ADDRESS_SECONDS = 10.0


class ShardWorker:
    """An Encoder on a Ray worker. A call makes a shard; made twice, the second replaces the first and is equal to it."""

    def __init__(self, task: JobTask) -> None:
        self._task = task
        self._encoder: Encoder | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """One range in (`start`, `stop`); the shard out, as JSON, or the error that its user can mend."""
        try:
            result: dict[str, Any] = {"shard": asdict(self._shard(int(batch["start"][0]), int(batch["stop"][0])))}
        except (ClsError, OSError) as error:
            result = {"error": str(error), "exit_code": error.exit_code if isinstance(error, ClsError) else ClsError.exit_code}
        return {"result": [json.dumps(result)]}

    def _shard(self, start: int, stop: int) -> Shard:
        task = self._task
        self._encoder = self._encoder or task.load_encoder()
        inputs, first_row = task.inputs.between(task.row_counts or (), start, stop)
        with task.embedded(self._encoder, inputs.blocks([(start, stop)], first_row=first_row)) as embedded:
            return write_shard(task.folder(), start, embedded, task.form)


def run_on_ray(options: RayOptions, task: JobTask, state: JobState, progress: JobProgress) -> None:
    """Does what is not done yet. SIGINT or SIGTERM leaves the finished shards, and is passed on.

    A worker or a node that dies costs the shards that it was at; Ray does them elsewhere.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: as `parquet_rows`, or Ray cannot be reached.
        EngineError: Ray failed.
        ClsError: what went wrong on a worker.
    """
    folder = task.folder()
    total = parquet_rows(task)
    ranges = [{"start": start, "stop": stop} for start, stop in replace(state, total_rows=total).unfinished(task.shard_rows)]
    with StopSignals() as signals, progress:
        if ranges:
            with _connected(options) as ray, contextlib.closing(_results(ray, options, task, ranges)) as results:
                for result in signals.until_stopped(results):
                    shard = _shard(json.loads(result))
                    state.shards.append(shard)
                    state.save(folder)
                    progress.add(shard.counts)
        signals.pass_on()
        if not state.shards:
            state.shards.append(write_shard(folder, 0, [], task.form))
        state.shards.sort(key=lambda shard: shard.start)
        finish_job(folder, state, total)


def parquet_rows(task: JobTask) -> int:
    """The rows of all inputs.

    Raises:
        UsageError: an input is not Parquet.
    """
    if task.row_counts is None:
        raise UsageError("--engine ray reads .parquet inputs, whose rows any worker can find; convert the others, or run without it")
    return sum(task.row_counts)


class WorkerError(ClsError):
    """What went wrong on a worker, in its words, with the exit code that it would have had here."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # the class decides it everywhere but behind a network


def _shard(result: dict[str, Any]) -> Shard:
    if "error" in result:
        raise WorkerError(result["error"], result["exit_code"])
    raw = result["shard"]
    return Shard(**{**raw, "counts": Counts(**raw["counts"])})


def _results(ray: ModuleType, options: RayOptions, task: JobTask, ranges: Sequence[dict[str, int]]) -> Generator[str, None, None]:
    from ray import data

    threads = task.threads or WORKER_THREADS
    workers = options.workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
    data.DataContext.get_current().enable_progress_bars = False
    shards = data.from_items(list(ranges), override_num_blocks=len(ranges)).map_batches(
        ShardWorker,
        fn_constructor_args=(replace(task, threads=threads),),
        batch_size=1,
        compute=data.ActorPoolStrategy(min_size=1, max_size=min(workers, len(ranges))),
        num_cpus=threads,
        num_gpus=options.gpus or None,
    )
    try:
        for row in shards.iter_rows():
            yield row["result"]
    except ray.exceptions.RayError as error:
        raise EngineError(f"Ray gave up the job ({' '.join(str(error).split())[:500]}); run the same command again to continue") from None


@contextlib.contextmanager
def _connected(options: RayOptions) -> Iterator[ModuleType]:
    """Ray, connected; afterwards it is left as it was."""
    try:
        import ray
        import ray.data  # its own requirements are in the extra too
    except ImportError:
        raise MissingExtraError("--engine ray needs Ray: pip install 'cls-export[ray]'") from None
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    started = not ray.is_initialized()
    try:
        if started:
            _start(ray, options.address)
        yield ray
    finally:
        if started:
            ray.shutdown()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _start(ray: ModuleType, address: str | None) -> None:
    if address is not None:
        _check_address(address)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init(address="local", num_cpus=available_cpus(), include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"at {address}" if address else "here"
        raise UsageError(f"no Ray {where} ({' '.join(str(error).split())[:300]}); give the address of a running cluster") from None


def _check_address(address: str) -> None:
    """Looks whether somebody listens at `host:port`: Ray itself would try for minutes.

    Raises:
        UsageError: nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto`, or something that Ray will refuse
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ADDRESS_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"no Ray at {address} ({error}); give the address of a running cluster") from None
