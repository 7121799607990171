"""The id and the kept columns of rows as Arrow arrays; a row that has none that fit becomes one that could not be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cls_runtime.errors import TextError
from cls_runtime.jobs.columns import ID, ColumnPlan, no_id
from cls_runtime.reading.rows import Record, Rows
from cls_runtime.reading.text_files import TextFile


def with_arrays(plan: ColumnPlan, rows: Rows, file: TextFile) -> tuple[Rows, list[Any]]:
    """The rows of a file, and one Arrow array for each passed column. A row whose values do not fit the plan becomes an error."""
    if rows.batch is not None:
        return _from_parquet(plan, rows, file.label)
    if not plan.passed:
        return rows, []
    if file.kind == ".csv":
        rows = _without_empty_ids(plan, rows)
    try:
        return rows, _arrays(plan, rows.records)
    except TextError:
        checked = [_checked(plan, record, file.label) for record in rows.records]
        return Rows.of_records(checked), _arrays(plan, checked)


def _from_parquet(plan: ColumnPlan, rows: Rows, name: str) -> tuple[Rows, list[Any]]:
    import pyarrow as pa

    texts, errors = list(rows.texts), list(rows.errors)
    arrays = []
    for column in plan.passed:
        array = rows.batch.column(rows.batch.schema.names.index(column.source))
        bad = _not_utf8(array)
        missing = array.is_null().to_pylist() if column.name == ID and array.null_count else []
        for place in [*bad, *(place for place, is_missing in enumerate(missing) if is_missing)]:
            where = f"{name} row {rows.first + place}"
            wrong = f"{where}: {column.source!r} is not UTF-8" if place in bad else no_id(where, column)
            texts[place], errors[place] = None, errors[place] or wrong
        if bad:  # a null in their place: what is written must be readable
            array = array.take(pa.array([None if place in bad else place for place in range(len(array))], pa.int64()))
        try:
            arrays.append(array if array.type == column.type else array.cast(column.type))
        except pa.ArrowException as error:
            reason = " ".join(str(error).split())
            raise TextError(f"{name}: column {column.source!r} is {array.type} and cannot become {column.type} ({reason})") from None
    return replace(rows, texts=texts, errors=errors), arrays


def _not_utf8(array: Any) -> set[int]:
    """The places where a string, or one within a list or a struct, is not UTF-8."""
    import pyarrow as pa

    def is_valid(piece: Any) -> bool:
        try:
            piece.validate(full=True)
        except pa.ArrowException:
            return False
        return True

    return set() if is_valid(array) else {place for place in range(len(array)) if not is_valid(array.take(pa.array([place])))}


def _without_empty_ids(plan: ColumnPlan, rows: Rows) -> Rows:
    """An empty field is how CSV spells null."""
    place = next((place for place, column in enumerate(plan.passed) if column.name == ID), None)
    if place is None or all(not record.values or record.values[place] for record in rows.records):
        return rows
    emptied = [
        replace(record, values=(*record.values[:place], record.values[place] or None, *record.values[place + 1 :]))
        if record.values
        else record
        for record in rows.records
    ]
    return Rows.of_records(emptied)


def _checked(plan: ColumnPlan, record: Record, name: str) -> Record:
    """The record, turned into an error where its values do not fit the plan."""
    wrong = plan.misfit(record, f"{name} line {record.line}") if record.values else ""
    return Record(record.line, None, error=wrong) if wrong else record


def _arrays(plan: ColumnPlan, records: Sequence[Record]) -> list[Any]:
    """One Arrow array for each passed column; null for a record that has no values.

    Raises:
        TextError: a value does not fit.
    """
    arrays = []
    for place, column in enumerate(plan.passed):
        values = [record.values[place] if record.values else None for record in records]
        if column.name == ID and any(value is None and record.text is not None for value, record in zip(values, records, strict=True)):
            raise TextError("a record has no id")
        arrays.append(column.array(values))
    return arrays
