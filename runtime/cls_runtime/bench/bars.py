"""Bars and the figures compared with them: what a script in benchmarks/ measured for each, kept in one file that later runs add to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cls_runtime.bench.machine import this_host
from cls_runtime.bench.results import Host, write_samples
from cls_runtime.bench.table import Table, digits
from cls_runtime.bench.turns import clocked
from cls_runtime.bundle.typed_json import parsed, typed
from cls_runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure, None if it could not be measured, and its bar: `most` or `least`, or neither."""

    name: str
    value: float | None
    unit: str = ""
    most: float | None = None
    least: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the bar is reached."""
        if self.value is None:
            return self.most is self.least is None
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    @property
    def words(self) -> str:
        """The figure, its bar, and whether it is missed."""
        return f"{self.name} {self.measured}{f' ({self.bar})' if self.bar else ''}{'' if self.holds else ', missed'}"

    @property
    def measured(self) -> str:
        """The figure with its unit."""
        return f"{_number(self.value)}{self.unit and ' ' + self.unit}"

    @property
    def bar(self) -> str:
        """The bar, empty if there is none."""
        return ", ".join(f"at {word} {bar:g}" for word, bar in (("most", self.most), ("least", self.least)) if bar is not None)


@dataclass(frozen=True, kw_only=True)
class BarRecord:
    """A line of the table of bars, measured. `how` says with what; `quick` means that it was too short to count."""

    test: str
    figures: tuple[Figure, ...]
    how: str
    quick: bool
    measured: str = ""
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether every figure reaches its bar."""
        return all(figure.holds for figure in self.figures)


@dataclass(frozen=True, kw_only=True)
class BarsFile:
    """Every bar that was measured on one machine, of one bundle."""

    machine: Host
    fingerprint: str
    variant: str
    cpus: str
    bars: Mapping[str, BarRecord]


def measure_bars(
    chosen: Mapping[str, Callable[[], BarRecord]],
    *,
    path: Path | None,
    empty: BarsFile,
    say: Callable[[str], None],
) -> bool:
    """Measures one after another, says each, and writes it at once: what is stopped goes on with the bars that are left. Whether all hold.

    Raises:
        UsageError: the file is of another machine or bundle.
    """
    held = empty if path is None or not path.exists() else read_bars(path)
    if (held.machine.cpu, held.fingerprint, held.variant, held.cpus) != (empty.machine.cpu, empty.fingerprint, empty.variant, empty.cpus):
        raise UsageError(
            f"{path} has figures of {held.variant} of bundle {held.fingerprint[:12]} on {held.machine.cpu} ({held.cpus}), these are of "
            f"{empty.variant} of {empty.fingerprint[:12]} on {empty.machine.cpu} ({empty.cpus}); name another file, or remove that one"
        )
    all_hold = True
    for key, measure in chosen.items():
        seconds, record = clocked(measure)
        now = dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")
        record = replace(record, measured=now, seconds=round(seconds, 1))
        held = replace(held, bars={**held.bars, key: record})
        all_hold &= record.holds
        say(f"{'holds ' if record.holds else 'MISSED'}  {key} ({record.seconds:.0f} s{', quick' if record.quick else ''}): {record.how}")
        for figure in record.figures:
            say(f"          {figure.words}")
        if path is not None:
            write_samples(path, held)
    return all_hold


def empty_bars(*, fingerprint: str, variant: str, cpus: str) -> BarsFile:
    """A file of this machine in which nothing is measured yet."""
    return BarsFile(machine=this_host(), fingerprint=fingerprint, variant=variant, cpus=cpus, bars={})


def read_bars(path: Path) -> BarsFile:
    """Reads such a file.

    Raises:
        UsageError: it is none.
    """
    try:
        return typed(parsed(path.read_text(encoding="utf-8")), BarsFile, path.name)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no file of bars ({error}); measure again") from None


def bars_table(held: BarsFile, order: Sequence[str]) -> Table:
    """A row for each figure, bars in this order and others after them; the first row of a bar names its test."""
    keys = [*(key for key in order if key in held.bars), *sorted(set(held.bars) - set(order))]
    rows = [
        (
            "" if place else f"{record.test} ({record.how})",
            figure.name,
            figure.measured,
            figure.bar + ("" if figure.holds else ": **missed**"),
        )
        for record in map(held.bars.__getitem__, keys)
        for place, figure in enumerate(record.figures)
    ]
    return Table(
        key="serving_bars",
        title="Bars",
        caption=f"{held.variant} on {held.machine.cpu}, {held.machine.usable_cpus} CPUs; {held.cpus}.",
        header=("test", "figure", "measured", "bar"),
        rows=tuple(rows),
        label_columns=4,
    )


def missed_bars(held: BarsFile) -> list[str]:
    """Every figure that misses its bar, and every bar that was measured too briefly to count."""
    missed = [f"{key}: {figure.words}" for key, record in held.bars.items() for figure in record.figures if not figure.holds]
    return missed + [f"{key}: measured with --quick" for key, record in held.bars.items() if record.quick]


def _number(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:,.0f}" if value == int(value) else f"{value:.1e}" if abs(value) < 0.001 else digits(value)
