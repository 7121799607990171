"""The files of a job's folder: which are the job's own, which are whole, which a crash left, and which are somebody else's.

Nothing is removed but what is this job's for certain: a shard that says so in its footer, and files whose names have the job's token or the
check digits of a hidden name. Where somebody else's file has a name that the job needs, the folder is refused.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cls_runtime.errors import UsageError
from cls_runtime.jobs.job_manifest import JOB_NAME, MAX_JOB_BYTES, JobSpec, JobState, Shard, read_job, shard_name
from cls_runtime.jobs.output_folder import Entry, OutputFolder, advised_when_full
from cls_runtime.jobs.skipped_list import holds_skipped_list

SKIPPED_NAME = "_skipped.jsonl"
SHARD_KEY = b"cls_export_shard"  # in a shard's footer: its job's token and its rows
_FOOTER_READERS = 16
_SHARD = re.compile(r"part-(\d{12,19})\.parquet")
_LIST = re.compile(r"_skipped-(\d{12,19})-([0-9a-f]{16})\.jsonl")


def skipped_name(start: int, token: str) -> str:
    """The list of the rows of this shard that could not be read, until the job is finished."""
    return f"_skipped-{start:012d}-{token}.jsonl"


def shard_mark(token: str, start: int, stop: int) -> dict[str, str]:
    """What a shard's footer says about whose it is and which rows of the input it covers."""
    return {SHARD_KEY.decode(): json.dumps({"job": token, "start": start, "stop": stop})}


def open_job(
    folder: OutputFolder, spec: JobSpec, *, where: str, count_rows: Callable[[], int] | None = None, seekable: bool = True
) -> JobState:
    """The state of the folder's job, or a new one; what a crash left behind is removed.

    Args:
        folder: the output folder.
        spec: the job.
        where: the folder's name, for errors.
        count_rows: counts the rows of all inputs, as `read_job` takes it.
        seekable: whether the inputs can be read again.

    Raises:
        UsageError: the folder holds something else, or a job that is not this one; the message says in what they differ.
    """
    folder.create()
    entries = folder.entries()
    _refuse_odd(entries, where)
    if JOB_NAME in entries:
        size_bytes = entries[JOB_NAME].size_bytes
        if size_bytes > MAX_JOB_BYTES:
            raise UsageError(f"{where}/{JOB_NAME} has {size_bytes} bytes, expected at most {MAX_JOB_BYTES}; choose another folder")
        state = read_job(folder.read(JOB_NAME), spec, where=where, count_rows=count_rows)
    else:
        state = JobState(spec=spec)
        known = {*folder.parts(_is_own_name), *(_own_shards(folder, entries, spec) if seekable else ())}
        known |= {name for name in entries if _is_own_list(name, spec)}
        foreign = sorted(name for name, entry in entries.items() if not entry.is_folder and name not in known)
        if foreign:
            raise UsageError(f"output {where} holds {foreign[0]!r} and no {JOB_NAME}; choose an empty folder or a new one")
    _refuse_foreign(folder, entries, state, where)
    state.shards = list(_whole(folder, entries, state))
    _tidy(folder, entries, state)
    return state


def finish_job(folder: OutputFolder, state: JobState, total_rows: int) -> None:
    """Records that the input has ended: puts the lists of skipped rows together in `_skipped.jsonl`, in the rows' order."""
    again = state.total_rows is not None  # a finished job made a lost shard again: the list has its rows already
    state.total_rows = total_rows
    names = folder.entries()
    pieces = sorted(name for name in names if _is_own_list(name, state.spec))
    if pieces and not (again and SKIPPED_NAME in names):
        with advised_when_full(SKIPPED_NAME), folder.write(SKIPPED_NAME) as merged:
            for name in pieces:
                merged.write(folder.read(name))
    state.save(folder)
    _tidy(folder, folder.entries(), state)


def _refuse_odd(entries: dict[str, Entry], where: str) -> None:
    """Refuses links, folders, pipes and devices under the names of a job's files: reading or replacing them would reach something else."""
    for name, entry in sorted(entries.items()):
        if (_is_own_name(name) or _LIST.fullmatch(name)) and not entry.is_file:
            raise UsageError(f"output {where} holds {name}, which is a link or no file, expected a file of a job; choose another folder")


def _refuse_foreign(folder: OutputFolder, entries: dict[str, Entry], state: JobState, where: str) -> None:
    """Refuses files of somebody else with names that this job needs."""
    listed = {shard.name for shard in state.shards}
    shards = {name for name in entries if _SHARD.fullmatch(name)} - listed
    foreign = sorted(shards - set(_own_shards(folder, {name: entries[name] for name in shards}, state.spec)))
    if SKIPPED_NAME in entries:
        with folder.open(SKIPPED_NAME) as file, io.BufferedReader(file) as lines:
            if not holds_skipped_list(lines):
                foreign.append(SKIPPED_NAME)
    if foreign:
        raise UsageError(f"output {where} holds {foreign[0]}, which this job did not write; move it away, or choose another folder")


def _tidy(folder: OutputFolder, entries: dict[str, Entry], state: JobState) -> None:
    """Removes what a crash left, lists that are merged, and a list of rows that have vectors now."""
    needed = {shard.name for shard in state.shards}
    if not (state.complete and SKIPPED_NAME in entries):
        needed |= {skipped_name(shard.start, state.spec.token) for shard in state.shards}
    if not (state.complete and state.counts.skipped == 0):
        needed.add(SKIPPED_NAME)
    for name in entries:
        if (_SHARD.fullmatch(name) or _is_own_list(name, state.spec) or name == SKIPPED_NAME) and name not in needed:
            folder.remove(name)
    for name in folder.parts(_is_own_name):
        folder.remove_dead(name)


def _whole(folder: OutputFolder, entries: dict[str, Entry], state: JobState) -> Iterator[Shard]:
    """The shards that are there as `_job.json` has them: of its size, with its rows, and with their list of skipped rows."""
    present = [shard for shard in state.shards if shard.name in entries and entries[shard.name].size_bytes == shard.size_bytes]
    footers = _footers(folder, [shard.name for shard in present])
    merged = state.total_rows is not None and SKIPPED_NAME in entries
    for shard in present:
        footer = footers[shard.name]
        mark = shard_mark(state.spec.token, shard.start, shard.stop)[SHARD_KEY.decode()].encode()
        if footer is None or footer.num_rows != shard.counts.rows or (footer.metadata or {}).get(SHARD_KEY) != mark:
            continue
        listed = skipped_name(shard.start, state.spec.token)
        if shard.counts.skipped and not merged and (listed not in entries or folder.read(listed).count(b"\n") != shard.counts.skipped):
            continue
        yield shard


def _own_shards(folder: OutputFolder, entries: dict[str, Entry], spec: JobSpec) -> Iterator[str]:
    """The files that say in their footer that they are this job's."""
    names = [name for name in entries if _SHARD.fullmatch(name) and entries[name].is_file]
    for name, footer in _footers(folder, names).items():
        if footer is not None and _names_job((footer.metadata or {}).get(SHARD_KEY, b""), name, spec):
            yield name


def _names_job(mark: bytes, name: str, spec: JobSpec) -> bool:
    try:
        said = json.loads(mark)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("job") == spec.token and type(said.get("start")) is int and shard_name(said["start"]) == name


def _footers(folder: OutputFolder, names: Iterable[str]) -> dict[str, Any]:
    """The footers of shards; None for what is no Parquet file. Many are read at once: behind a URI each costs a round trip."""
    names = list(names)
    if len(names) < _FOOTER_READERS:
        return {name: _footer(folder, name) for name in names}
    with ThreadPoolExecutor(_FOOTER_READERS, thread_name_prefix="cls-footers") as threads:
        return dict(zip(names, threads.map(lambda name: _footer(folder, name), names), strict=True))


def _footer(folder: OutputFolder, name: str) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    with folder.open(name) as file:
        try:
            return parquet.read_metadata(file)
        except (pa.ArrowException, OSError, ValueError):
            return None


def _is_own_name(name: str) -> bool:
    """Whether a job may write a file of this name."""
    return name in (JOB_NAME, SKIPPED_NAME) or bool(_SHARD.fullmatch(name) or _LIST.fullmatch(name))


def _is_own_list(name: str, spec: JobSpec) -> bool:
    match = _LIST.fullmatch(name)
    return match is not None and match.group(2) == spec.token
