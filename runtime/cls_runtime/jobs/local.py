"""Runs a job on this machine: reading, tokenizing, inference and writing at the same time, one shard after the other."""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections.abc import Iterator

from cls_runtime.jobs.job_folder import finish_job
from cls_runtime.jobs.job_manifest import JobState
from cls_runtime.jobs.progress import JobProgress
from cls_runtime.jobs.reading_ahead import read_ahead
from cls_runtime.jobs.rows import EmbeddedBlock, RowBlock
from cls_runtime.jobs.shards import write_shard
from cls_runtime.jobs.stopping import StopSignals
from cls_runtime.jobs.task import JobTask


def run_local(task: JobTask, state: JobState, progress: JobProgress) -> None:
    """Does what is not done yet. On SIGINT, SIGTERM or SIGHUP the rows that have their vectors are saved, and it is passed on.

    Raises:
        TextError: a row that cannot be read, with `on_error="raise"`.
        OSError: the disk is full, or failed. Finished shards stay.
        BundleError, MissingExtraError, EngineError, TextTooLongError, InvalidVectorError: as `Encoder`.
    """
    folder = task.folder()
    with task.load_encoder() as encoder, progress, StopSignals() as signals, contextlib.ExitStack() as stack:
        for part, blocks in signals.until_stopped(itertools.groupby(_read(task, state, stack), key=operator.attrgetter("part"))):
            with task.embedded(encoder, blocks) as embedded:
                first = next(signals.until_stopped(embedded), None)
                if first is not None:
                    counted = _counted(itertools.chain([first], signals.until_stopped(embedded)), progress)
                    state.shards.append(write_shard(folder, part, counted, task.form))
                    state.save(folder)
            if signals.received is not None:
                break
        signals.pass_on()
        if not state.shards:
            state.shards.append(write_shard(folder, 0, [], task.form))  # readers need a schema even of nothing
        finish_job(folder, state, max(shard.stop for shard in state.shards))


def _read(task: JobTask, state: JobState, stack: contextlib.ExitStack) -> Iterator[RowBlock]:
    blocks = task.inputs.blocks(state.unfinished(task.shard_rows))
    if not task.inputs.seekable:
        return blocks  # a thread that waits for standard input could not be ended
    return stack.enter_context(contextlib.closing(read_ahead(blocks)))


def _counted(blocks: Iterator[EmbeddedBlock], progress: JobProgress) -> Iterator[EmbeddedBlock]:
    for embedded in blocks:
        progress.add(embedded.counts, fraction=embedded.block.fraction)
        yield embedded
