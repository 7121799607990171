"""`_job.json`, the memory of a job: what it was asked to do, from what, and which ranges of rows are done.

It is replaced as a whole after every shard. The same command reads it and goes on; a command that asks for something else is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from cls_runtime.bundle.typed_json import plain, typed
from cls_runtime.errors import UsageError
from cls_runtime.jobs.inputs import END, InputIdentity
from cls_runtime.jobs.output_folder import OutputFolder, advised_when_full
from cls_runtime.jobs.rows import Counts

JOB_NAME = "_job.json"
FORMAT = 2
MAX_JOB_BYTES = 256 * 2**20  # some 700,000 shards
_MAX_TOKENS = 2**62
_SHOWN = 200


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

    @property
    def token(self) -> str:
        """Sixteen digits that stand in the job's files and follow from what it is; `on_error` is left out, since it may change."""
        options = {name: value for name, value in self.options.items() if name != "on_error"}
        decides = json.dumps([plain(self.inputs), options, plain(self.vectors)], sort_keys=True)
        return hashlib.sha256(decides.encode()).hexdigest()[:16]


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
        document = {"format": FORMAT, **plain(self), "complete": self.complete}
        with advised_when_full(JOB_NAME), folder.write(JOB_NAME) as file:
            file.write(json.dumps(document, indent=1).encode())


def shard_name(start: int) -> str:
    """The file of the shard that begins with this row; by name is by row."""
    return f"part-{start:012d}.parquet"


def read_job(data: bytes, spec: JobSpec, *, where: str, count_rows: Callable[[], int] | None) -> JobState:
    """The state that `_job.json` holds, of this very job.

    Args:
        data: the file's bytes.
        spec: what is to be done now; its `on_error` may be another one than before.
        where: the output folder, for errors.
        count_rows: counts the rows of all inputs, asked where the job says how many there are; None where they cannot be read again.

    Raises:
        UsageError: it is damaged, or of another job; the message says in what they differ.
    """
    try:
        raw = json.loads(data, parse_constant=_refuse_constant)
        if not isinstance(raw, dict) or type(raw.get("format")) is not int:
            raise ValueError("it has no format")
        if raw["format"] != FORMAT:
            raise UsageError(
                f"{where}/{JOB_NAME} has format {_shown(raw['format'])}, this version of cls-export reads {FORMAT}; "
                "go on with the version that began the job, or choose another folder"
            )
        old = typed(raw.get("spec"), JobSpec, "spec")
        read = typed({"shards": raw.get("shards"), "total_rows": raw.get("total_rows")}, _Progress, "job")
    except (ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        _refuse_damage(where, str(error))
    _check_same(old, spec, where)
    state = JobState(spec=spec, shards=sorted(read.shards, key=lambda shard: shard.start), total_rows=read.total_rows)
    for objection in _objections(state, count_rows):
        _refuse_damage(where, objection)
    return state


@dataclass(frozen=True, kw_only=True)
class _Progress:
    shards: tuple[Shard, ...]
    total_rows: int | None


def _refuse_damage(where: str, reason: str) -> NoReturn:
    raise UsageError(f"{where}/{JOB_NAME} is damaged ({reason[:_SHOWN]}); choose another folder, or remove this one and start again")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of a job")


def _objections(state: JobState, count_rows: Callable[[], int] | None) -> Iterator[str]:
    """What is impossible about finished ranges: none may overlap, cross the grid of shards or claim rows that its counts do not have."""
    shard_rows, keeps_all = state.spec.options["shard_rows"], state.spec.options["on_error"] == "null"
    behind = 0
    for shard in state.shards:
        where = f"shard {_shown(shard.start)} to {_shown(shard.stop)}"
        counts = shard.counts
        is_only = len(state.shards) == 1 and (shard.start, shard.stop) == (0, 0)
        if not (is_only or behind <= shard.start < shard.stop <= END):
            yield f"{where} overlaps another one or holds no rows"
            return
        if shard.stop > (shard.start // shard_rows + 1) * shard_rows:
            yield f"{where} is more than the {shard_rows} rows of a shard"
        if min(shard.size_bytes, *vars(counts).values()) < 0 or counts.tokens > _MAX_TOKENS:
            yield f"{where} has impossible counts"
        if counts.read != shard.stop - shard.start or counts.read != counts.rows + (0 if keeps_all else counts.skipped):
            yield f"{where} has the counts of {_shown(counts.read)} rows"
        if max(counts.skipped, counts.truncated, counts.duplicates) > counts.read:
            yield f"{where} has impossible counts"
        behind = shard.stop
    if state.total_rows is not None:
        if state.total_rows < behind or state.total_rows > END:
            yield f"total_rows is {_shown(state.total_rows)}, its shards end at {behind}"
        if count_rows is not None and state.total_rows != (rows := count_rows()):
            yield f"total_rows is {_shown(state.total_rows)}, the inputs have {rows} rows"


def _check_same(old: JobSpec, new: JobSpec, where: str) -> None:
    """Refuses to go on with another job.

    `on_error` may change from `raise`: whatever is done had no errors then.
    """
    hint = "; use the same, or another output folder"
    for kind, before, now in (("vectors", old.vectors, new.vectors), ("options", old.options, new.options)):
        for key in sorted({*before, *now}):
            held, wanted = before.get(key), now.get(key)
            same = held == wanted and type(held) is type(wanted)
            if not same and not (kind == "options" and key == "on_error" and held == "raise"):
                label = _shown(key, str).replace("_", " ")
                raise UsageError(f"output {where} holds a job with {label} {_shown(held)}, this one has {_shown(wanted)}{hint}")
    _check_same_inputs(old.inputs, new.inputs, where, hint)


def _check_same_inputs(old: Sequence[InputIdentity], new: Sequence[InputIdentity], where: str, hint: str) -> None:
    if len(old) != len(new):
        raise UsageError(f"output {where} holds a job with {len(old)} input files, this one has {len(new)}{hint}")
    for place, (before, now) in enumerate(zip(old, new, strict=True), start=1):
        for key, label in (("name", "the name"), ("size_bytes", "bytes"), ("sha256", "the hash of its contents")):
            held, wanted = getattr(before, key), getattr(now, key)
            if held != wanted:
                raise UsageError(
                    f"output {where} holds a job whose input {place} has {label} {_shown(held)}, it is now {_shown(wanted)}{hint}"
                )


def _shown(value: object, form: Any = repr) -> str:
    words = str(form(value))
    return words if len(words) <= _SHOWN else f"{words[: _SHOWN - 1]}…"
