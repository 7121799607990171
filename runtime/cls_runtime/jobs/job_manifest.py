"""`_job.json`, the memory of a job: what it was asked to do, from what, and which ranges of rows are done.

It is replaced as a whole after every shard. The same command reads it and goes on; a command that asks for something else is refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cls_runtime.bundle.files import PART
from cls_runtime.errors import UsageError
from cls_runtime.jobs.inputs import END, InputIdentity
from cls_runtime.jobs.output_folder import OutputFolder
from cls_runtime.jobs.rows import Counts

JOB_NAME = "_job.json"
SKIPPED_NAME = "_skipped.jsonl"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A finished range of the input's rows, and the file that holds it."""

    start: int
    stop: int
    size_bytes: int
    counts: Counts

    @property
    def name(self) -> str:
        """The file's name."""
        return shard_name(self.start)


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What decides a job's output. `vectors` says where they come from: fingerprint, variant, its file's hash, engine."""

    inputs: tuple[InputIdentity, ...]
    options: Mapping[str, Any]
    vectors: Mapping[str, str]


@dataclass(kw_only=True)
class JobState:
    """How far a job is. `total_rows` is None until the end of the input was seen."""

    spec: JobSpec
    shards: list[Shard] = field(default_factory=list)
    total_rows: int | None = None

    @property
    def counts(self) -> Counts:
        """What all finished shards hold together."""
        return sum((shard.counts for shard in self.shards), Counts())

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.total_rows is not None and next(self.unfinished(END), None) is None

    def unfinished(self, shard_rows: int) -> Iterator[tuple[int, int]]:
        """The ranges that are not done, ascending, cut at the multiples of `shard_rows`; where the end is unknown they go on."""
        position = 0
        end = END if self.total_rows is None else self.total_rows
        for shard in [*sorted(self.shards, key=lambda shard: shard.start), None]:
            stop = end if shard is None else shard.start
            while position < stop:
                cut = min(stop, (position // shard_rows + 1) * shard_rows)
                yield position, cut
                position = cut
            if shard is not None:
                position = shard.stop

    def save(self, folder: OutputFolder) -> None:
        """Replaces the manifest in the folder.

        Raises:
            OSError: the disk is full, or failed.
        """
        document = {"format": FORMAT, **dataclasses.asdict(self), "complete": self.complete}
        with folder.write(JOB_NAME) as file:
            file.write(json.dumps(document, indent=1, ensure_ascii=False).encode())


def shard_name(start: int) -> str:
    """The file of the shard that begins with this row; by name is by row."""
    return f"part-{start:012d}.parquet"


def skipped_name(start: int) -> str:
    """The list of the rows of this shard that could not be read, until the job is finished."""
    return f"_skipped-{start:012d}.jsonl"


def open_job(folder: OutputFolder, spec: JobSpec, *, where: str) -> JobState:
    """The state of the folder's job, or a new one; what a crash left behind is removed.

    Raises:
        UsageError: the folder holds something else, or a job that is not this one; the message says in what they differ.
    """
    folder.create()
    sizes = folder.sizes()
    if JOB_NAME not in sizes:
        foreign = sorted(name for name in sizes if not name.endswith(PART))
        if foreign:
            raise UsageError(f"output {where} holds {foreign[0]!r} and no {JOB_NAME}; choose an empty folder or a new one")
        state = JobState(spec=spec)
    else:
        state = _read(folder, where)
        _check_same(state.spec, spec, where)
        state.spec = spec
        state.shards = [shard for shard in state.shards if sizes.get(shard.name) == shard.size_bytes]
    done = {name for shard in state.shards for name in (shard.name, skipped_name(shard.start))}
    for name in sizes:
        if name.endswith(PART) or (name.startswith(("part-", "_skipped-")) and name not in done):
            folder.remove(name)
    return state


def finish_job(folder: OutputFolder, state: JobState, total_rows: int) -> None:
    """Records that the input has ended: puts the lists of skipped rows together in `_skipped.jsonl`, in the rows' order."""
    state.total_rows = total_rows
    names = folder.sizes()
    pieces = sorted(name for name in names if name.startswith("_skipped-"))
    if pieces and SKIPPED_NAME not in names:  # it is there when a finished job made a lost shard again, with the same rows in it
        with folder.write(SKIPPED_NAME) as merged:
            for name in pieces:
                merged.write(folder.read(name))
    state.save(folder)
    for name in pieces:
        folder.remove(name)


def _read(folder: OutputFolder, where: str) -> JobState:
    try:
        raw = json.loads(folder.read(JOB_NAME))
        if raw["format"] != FORMAT:
            raise UsageError(f"{where}/{JOB_NAME} has format {raw['format']!r}, this version of cls-export reads {FORMAT}; upgrade it")
        spec = raw["spec"]
        return JobState(
            spec=JobSpec(inputs=tuple(InputIdentity(**item) for item in spec["inputs"]), options=spec["options"], vectors=spec["vectors"]),
            shards=[Shard(**{**item, "counts": Counts(**item["counts"])}) for item in raw["shards"]],
            total_rows=raw["total_rows"],
        )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{where}/{JOB_NAME} is damaged ({error}); remove the folder and start again") from None


def _check_same(old: JobSpec, new: JobSpec, where: str) -> None:
    """Refuses to go on with another job.

    `on_error` may change from `raise`: whatever is done had no errors then.
    """
    hint = "; give the same, or another output folder"
    for kind, before, now in (("vectors", old.vectors, new.vectors), ("options", old.options, new.options)):
        for key in sorted({*before, *now}):
            held, wanted = before.get(key), now.get(key)
            if held != wanted and not (kind == "options" and key == "on_error" and held == "raise"):
                raise UsageError(f"output {where} holds a job with {key.replace('_', ' ')} {held!r}, this one has {wanted!r}{hint}")
    _check_same_inputs(old.inputs, new.inputs, where, hint)


def _check_same_inputs(old: Sequence[InputIdentity], new: Sequence[InputIdentity], where: str, hint: str) -> None:
    if len(old) != len(new):
        raise UsageError(f"output {where} holds a job with {len(old)} input files, this one has {len(new)}{hint}")
    for place, (before, now) in enumerate(zip(old, new, strict=True), start=1):
        for key, label in (("name", "the name"), ("size_bytes", "bytes"), ("sha256", "the hash of its contents")):
            held, wanted = getattr(before, key), getattr(now, key)
            if held != wanted:
                raise UsageError(f"output {where} holds a job whose input {place} has {label} {held!r}, it is now {wanted!r}{hint}")
