"""The id and the kept columns of a job's output: where they come from, their Arrow types, and how records become them."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cls_runtime.errors import TextError, UsageError
from cls_runtime.jobs.filesystems import opened_parquet
from cls_runtime.reading.csv_header import bad_byte
from cls_runtime.reading.parquet_files import ParquetRows, require_pyarrow
from cls_runtime.reading.rows import Columns, Record, listed
from cls_runtime.reading.text_files import TextFile

ID, EMBEDDING, SCALE = "id", "embedding", "embedding_scale"
SAMPLE_RECORDS = 1000
# What a JSON value may be for a column of each type: Arrow itself makes 2 of 2.5 in a column of integers, and 1.0 of true.
_JSON_TYPES: dict[str, set[type]] = {"string": {str}, "large_string": {str}, "bool": {bool}, "int64": {int}, "double": {int, float}}
# Integers that no column of float64 keeps, and those that none of int64 holds.
_WIDE, _HUGE = "wide", "huge"
_WIDE_FROM, _HUGE_FROM = 2**53, 2**63

# The type of a JSON value, or how large an integer it is.
_Form = type | str


@dataclass(frozen=True)
class OutputColumn:
    """A column passed through: its names in and out, its Arrow type, and whether values that are no strings become JSON text."""

    source: str
    name: str
    type: Any
    as_json: bool = False

    def array(self, values: Sequence[Any]) -> Any:
        """The values as an Arrow array.

        Raises:
            TextError: a value of another type, or one that cannot be written.
        """
        pa = require_pyarrow("Parquet shards")
        try:
            if self.as_json:
                values = [value if value is None or isinstance(value, str) else _json(value) for value in values]
            elif not {type(value) for value in values} <= {type(None), *_JSON_TYPES.get(str(self.type), ())}:
                raise ValueError(f"a value is no {self.type}")
            return pa.array(values, self.type)
        except (pa.ArrowException, OverflowError, ValueError, RecursionError) as error:
            raise TextError(str(error)) from None


@dataclass(frozen=True)
class ColumnPlan:
    """The columns of the output before `embedding`. Without an id column, `id` is the row's number in the job's input, an int64."""

    passed: tuple[OutputColumn, ...]
    numbered: bool

    def schema(self) -> Any:
        """The Arrow schema of `batch`."""
        pa = require_pyarrow("Parquet shards")
        numbers = [pa.field(ID, pa.int64())] if self.numbered else []
        return pa.schema([*numbers, *(pa.field(column.name, column.type) for column in self.passed)])

    def batch(self, rows: Any, arrays: Sequence[Any]) -> Any:
        """A record batch from the rows' numbers, int64 [n], and one array for each of `passed`."""
        pa = require_pyarrow("Parquet shards")
        numbers = [pa.array(rows)] if self.numbered else []
        return pa.RecordBatch.from_arrays([*numbers, *arrays], schema=self.schema())

    def misfit(self, record: Record, where: str) -> str:
        """Why a record's values do not fit the columns; empty if they do."""
        for column, value in zip(self.passed, record.values, strict=True):
            if column.name == ID and value is None:
                return no_id(where, column)
            try:
                column.array([value])
            except TextError:
                found = f"{where}: {column.source!r} is {reprlib.repr(value)}, expected {_expected(column)}"
                return f"{found} as in the first {SAMPLE_RECORDS:,} records, which decide the column's type; give all of them one type"
        return ""


NO_COLUMNS = ColumnPlan((), numbered=False)


def plan_columns(files: Sequence[TextFile], *, columns: Columns, id_column: str | None) -> ColumnPlan:
    """Finds the types of the id and the kept columns: a Parquet file says them, CSV has strings, JSON's are those of its first records.

    Args:
        files: the job's inputs.
        columns: `others` are the id column, if any, and the kept ones.
        id_column: which of `others` is the id.

    Raises:
        UsageError: a column that a file cannot have, two files that disagree, or a name that the output needs for itself.
        TextError: a JSON file's compression is damaged.
    """
    plan: list[OutputColumn] = []
    for source in columns.others:
        name = ID if source == id_column else source
        if name in (EMBEDDING, SCALE) or (name == ID and source != id_column):
            raise UsageError(f"--keep {source}: the output has a column {source!r} of its own; rename it in the input")
        if bad_byte(name) is not None:
            raise UsageError(f"--keep {source}: the name is not UTF-8, as that of a Parquet column must be; rename it in the input")
        plan.append(OutputColumn(source, name, None))
    if len({column.name for column in plan}) < len(plan):
        raise UsageError(f"--keep names a column twice: {', '.join(column.name for column in plan)}")
    types: list[list[_Kind]] = []
    if plan:
        samples = [_sampled(file, columns) for file in files]
        _check_fields(files, samples, columns.others)
        types = [_types(file, columns, sample) for file, sample in zip(files, samples, strict=True)]
    passed = []
    for place, column in enumerate(plan):
        kinds = [of_file[place] for of_file in types]
        kind, as_json = _common(column.source, kinds, files)
        passed.append(OutputColumn(column.source, column.name, kind, as_json))
    return ColumnPlan(tuple(passed), numbered=id_column is None)


# A type, and whether values become JSON text to fit it; None where a file's records say nothing.
_Kind = tuple[Any, bool] | None


@dataclass
class _Sample:
    """What the first records of a JSON file have: the types of each column's values, and the names of all fields."""

    kinds: list[set[_Form]]
    fields: dict[str, None] = field(default_factory=dict)
    records: int = 0


def _sampled(file: TextFile, columns: Columns) -> _Sample:
    """Looks at a JSON file; what other formats have, they say themselves."""
    sample = _Sample([set() for _ in columns.others])
    if file.kind != ".jsonl":
        return sample
    if file.once:
        raise UsageError(f"{file.label} can be read only once, and the types of its columns are not known before; write it to a file")
    seen = 0
    with file.rows(columns) as reader:
        while seen < SAMPLE_RECORDS and (records := reader.take(SAMPLE_RECORDS - seen).records):
            seen += len(records)
            for record in records:
                if record.values:
                    sample.records += 1
                    sample.fields.update(dict.fromkeys(record.fields))
                    for kinds, value in zip(sample.kinds, record.values, strict=True):
                        kinds.add(_form(value))
    return sample


def _form(value: Any) -> _Form:
    if type(value) is not int or -_WIDE_FROM <= value <= _WIDE_FROM:
        return type(value)
    return _WIDE if -_HUGE_FROM <= value < _HUGE_FROM else _HUGE


def _check_fields(files: Sequence[TextFile], samples: Sequence[_Sample], names: Sequence[str]) -> None:
    """Refuses a name that not one of the first records has: it is a mistake, and would give a column of nulls."""
    records = sum(sample.records for sample in samples)
    if not records or any(file.kind != ".jsonl" for file in files):
        return
    fields = list(dict.fromkeys(name for sample in samples for name in sample.fields))
    for name in names:
        if name not in fields:
            where = files[0].label if len(files) == 1 else f"{len(files)} files"
            raise UsageError(f"column {name!r} is in none of the first {records} records of {where}, only {listed(fields)}")


def _types(file: TextFile, columns: Columns, sample: _Sample) -> list[_Kind]:
    import pyarrow as pa

    if file.kind == ".parquet":
        with opened_parquet(file, columns) as parquet:
            return [(_plain(parquet, name), False) for name in columns.others]
    if file.kind == ".txt":
        for name in columns.others:
            if name != columns.text:
                raise UsageError(f"{file.label} is plain text, it has no column {name!r}")
    if file.kind != ".jsonl":
        return [(pa.string(), False)] * len(columns.others)
    return [_json_kind(kinds) for kinds in sample.kinds]


def _plain(parquet: ParquetRows, name: str) -> Any:
    """A dictionary column leaves as its values: the dictionaries of two files need not agree."""
    kind = parquet.field(name)
    return getattr(kind, "value_type", kind) if str(kind).startswith("dictionary") else kind


def _json_kind(kinds: Iterable[_Form]) -> _Kind:
    import pyarrow as pa

    kinds = set(kinds) - {type(None)}
    if not kinds:
        return None
    types: tuple[tuple[set[_Form], Any], ...] = (
        ({str}, pa.string()),
        ({bool}, pa.bool_()),
        ({int, _WIDE}, pa.int64()),
        ({int, float}, pa.float64()),
    )
    for accepted, arrow in types:
        if kinds <= accepted:
            return arrow, False
    return pa.string(), True


def _common(name: str, kinds: Sequence[_Kind], files: Sequence[TextFile]) -> tuple[Any, bool]:
    import pyarrow as pa

    known = [(kind, file) for kind, file in zip(kinds, files, strict=True) if kind is not None]
    if not known:
        return pa.string(), True
    if {kind[0] for kind, _ in known} == {pa.int64(), pa.float64()} and all(file.kind == ".jsonl" for _, file in known):
        return pa.float64(), False
    (first, as_json), first_file = known[0]
    for (other, other_as_json), file in known[1:]:
        as_json = as_json or other_as_json
        if other != first:
            raise UsageError(f"column {name!r} is {first} in {first_file.label} and {other} in {file.label}; give them one type")
    return first, as_json


def _json(value: Any) -> str:
    """JSON text, which has no NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _expected(column: OutputColumn) -> str:
    return "what JSON can say" if column.as_json else str(column.type)


def no_id(where: str, column: OutputColumn) -> str:
    """Why a row without an id is none."""
    return f"{where} has no {column.source!r}, which is the id column"
