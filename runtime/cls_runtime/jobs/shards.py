"""One finished range of rows as one Parquet file, written while the next rows are computed."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from cls_runtime.encoding.vector_options import VectorForm
from cls_runtime.jobs.columns import ColumnPlan
from cls_runtime.jobs.job_folder import shard_mark, skipped_name
from cls_runtime.jobs.job_manifest import Shard, shard_name
from cls_runtime.jobs.output_folder import OutputFolder, advised_when_full
from cls_runtime.jobs.rows import Counts, EmbeddedBlock, SkippedRow
from cls_runtime.jobs.skipped_list import skipped_lines
from cls_runtime.jobs.vector_types import vector_arrays, vector_fields

ROW_GROUP_ROWS = 8192
ROW_GROUP_BYTES = 2**26  # kept columns may hold whole documents
_WAITING_BLOCKS = 8


@dataclass(frozen=True)
class ShardFormat:
    """How a shard looks: its columns, its vectors, what the file says about their origin, and its job's token."""

    plan: ColumnPlan
    vectors: VectorForm
    origin: dict[str, str]
    job: str

    def schema(self) -> Any:
        """The Arrow schema."""
        schema = self.plan.schema()
        for item in vector_fields(self.vectors):
            schema = schema.append(item)
        return schema.with_metadata({"cls_export": json.dumps(self.origin)})

    def batch(self, embedded: EmbeddedBlock) -> Any:
        """A block as a record batch of this schema."""
        import pyarrow as pa

        missing = np.array([text is None for text in embedded.block.texts], dtype=bool)
        vectors = vector_arrays(embedded.vectors, missing, form=self.vectors)
        return pa.RecordBatch.from_arrays([*embedded.block.columns.columns, *vectors], schema=self.schema())


def write_shard(folder: OutputFolder, start: int, blocks: Iterable[EmbeddedBlock], form: ShardFormat, *, stop: int | None = None) -> Shard:
    """Writes the blocks, the first of which begins at row `start`, as one shard; it is on the disk when this returns.

    Args:
        folder: where to.
        start: the first row.
        blocks: consumed here; the file is written in another thread meanwhile.
        form: the format.
        stop: the row behind the last; None for where the blocks end.

    Raises:
        OSError: the disk is full, or failed; nothing is left of the shard.
    """
    counts, end = Counts(), start
    skipped: list[SkippedRow] = []
    with advised_when_full(shard_name(start)), folder.write(shard_name(start)) as file:
        with _appender(file, form) as appender, ThreadPoolExecutor(1, thread_name_prefix="cls-writer") as thread:
            waiting: deque[Future[None]] = deque()
            for embedded in blocks:
                waiting.append(thread.submit(appender.append, embedded))
                counts += embedded.counts
                end = embedded.block.stop
                skipped += embedded.block.skipped
                if len(waiting) > _WAITING_BLOCKS:
                    waiting.popleft().result()
            for future in waiting:
                future.result()
            end = end if stop is None else stop
            appender.finish(shard_mark(form.job, start, end))
        size_bytes = int(file.tell())
        if skipped:  # before the shard has its name: a shard without its list would look whole
            with folder.write(skipped_name(start, form.job)) as listed:
                listed.write(skipped_lines(skipped))
    return Shard(start=start, stop=end, size_bytes=size_bytes, counts=counts)


class _Appender:
    """Gathers record batches into row groups."""

    def __init__(self, writer: Any, form: ShardFormat) -> None:
        self._writer = writer
        self._form = form
        self._batches: list[Any] = []
        self._rows = self._bytes = 0

    def append(self, embedded: EmbeddedBlock) -> None:
        self._batches.append(self._form.batch(embedded))
        self._rows += len(self._batches[-1])
        self._bytes += self._batches[-1].nbytes
        if self._rows >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_batches(self._batches), row_group_size=self._rows)
        self._batches, self._rows, self._bytes = [], 0, 0

    def finish(self, mark: dict[str, str]) -> None:
        self.flush()
        self._writer.add_key_value_metadata(mark)


@contextlib.contextmanager
def _appender(file: Any, form: ShardFormat) -> Iterator[_Appender]:
    from pyarrow import parquet

    passed = form.plan.schema().names
    # Vectors hardly repeat and nobody filters by their numbers: no dictionaries and no statistics for them.
    writer = parquet.ParquetWriter(file, form.schema(), compression="zstd", use_dictionary=passed, write_statistics=passed)
    appender = _Appender(writer, form)
    try:
        yield appender
    except BaseException:
        with contextlib.suppress(Exception):  # on a full disk closing fails as writing did
            writer.close()
        raise
    writer.close()
