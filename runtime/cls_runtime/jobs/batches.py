"""A function over Arrow record batches that pickles: for Spark, Dask, or any engine that maps partitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cls_runtime.bundle.manifest import Output
from cls_runtime.bundle.places import find_bundle
from cls_runtime.encoder import Encoder
from cls_runtime.encoding.texts import Text
from cls_runtime.encoding.vector_options import DType, VectorOptions
from cls_runtime.engines.devices import Device
from cls_runtime.errors import TextError
from cls_runtime.jobs.columns import EMBEDDING
from cls_runtime.jobs.embedding import embed_blocks
from cls_runtime.jobs.options import check_column, check_computing, check_vectors
from cls_runtime.jobs.rows import RowBlock
from cls_runtime.jobs.vector_forms import form_of, warn_of_dimensions
from cls_runtime.jobs.vector_types import vector_arrays, vector_fields
from cls_runtime.option_checks import check_flag
from cls_runtime.reading.arrow_texts import is_pairs, is_strings, texts_of
from cls_runtime.reading.parquet_files import require_pyarrow


class EmbedBatches:
    """Record batches in, the same with the columns of the vector behind the others.

        >>> embed = EmbedBatches("models/bge-small-en-v1.5", fixed_size=False)
        >>> import pyarrow
        >>> table = pyarrow.table({"text": ["a cat", None]})
        >>> [batch.num_rows for batch in embed(table.to_batches())]
        [2]

    On Spark it is `frame.mapInArrow(embed, schema)`.

    A null text has a null vector. The Encoder is loaded at the first batch, once in each process, and is not pickled. Batches of a
    partition are computed together, so that small ones are as fast as large ones.

    Args:
        bundle: the bundle's folder, at the same path on every machine, or its name on the hub, of which each machine fetches this commit.
        column: the column of the text, or of lists of two texts; it stays.
        output, normalize, prompt_name, prompt, dimensions: as of `Encoder.encode`.
        dtype, ranges: likewise; int8 without ranges adds `embedding_scale`, the row's own.
        fixed_size: a vector is a fixed-size list; False for a plain list, which is what Spark takes.
        variant: the precision. `auto` may be another one on another machine: name it on a cluster that is not all of a kind.
        engine: the inference engine, or `auto`.
        device: with engine `cuda`, which GPUs of the machine that computes, as of `Encoder.load`.
        threads: CPU threads, None for all of the machine; on a cluster, those of one task.
        follow_links: read the bundle's files wherever links in its folder lead.

    Warns:
        DimensionsWarning: the model does not name this size for its vectors.

    Raises:
        UsageError: an option that is not understood, or that the bundle cannot follow.
        BundleError: there is no bundle here. One with another fingerprint on another machine is refused there.
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        column: str = "text",
        output: Output = "sentence",
        normalize: bool | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        dtype: DType = "float32",
        ranges: ArrayLike | None = None,
        fixed_size: bool = True,
        variant: str = "auto",
        engine: str = "auto",
        device: Device | None = None,
        threads: int | None = None,
        follow_links: bool = False,
    ) -> None:
        check_column("column", column)
        check_flag("fixed_size", fixed_size)
        options = VectorOptions(
            output=output,
            normalize=normalize,
            prompt_name=prompt_name,
            prompt=prompt,
            dimensions=dimensions,
            dtype=dtype,
            ranges=ranges,
        )
        check_vectors(options)
        check_computing(variant, engine, threads, device)
        check_flag("follow_links", follow_links)
        opened = find_bundle(bundle).open(lambda _: (), follow_links=follow_links)  # computed is elsewhere
        self._bundle = opened.name
        self._fingerprint = opened.manifest.fingerprint
        self._form = form_of(options, opened, scaled=True)
        warn_of_dimensions(options, opened.manifest, stacklevel=2)
        self._column = column
        self._fixed_size = fixed_size
        self._variant = variant
        self._engine = engine
        self._device = device
        self._threads = threads
        self._follow_links = follow_links
        self._encoder: Encoder | None = None

    def __call__(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Embeds record batches, in order, in bounded memory.

        Raises:
            KeyError: a batch has no such column.
            TypeError: an item is no record batch, or the column holds neither strings nor lists of them.
            TextError: a list has not two strings.
            BundleError, EngineError, InvalidVectorError: as `Encoder`.
        """
        pa = require_pyarrow("record batches")
        for embedded in embed_blocks(self.encoder, self._blocks(batches), self._form):
            batch = embedded.block.columns
            missing = np.array([text is None for text in embedded.block.texts], dtype=bool)
            schema = self.schema(batch.schema)
            arrays = [*batch.columns, *vector_arrays(embedded.vectors, missing, form=self._form)]
            arrays = [array.cast(field.type) for array, field in zip(arrays, schema, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def table(self, table: Any) -> Any:
        """A whole Arrow table with the columns of the vector."""
        pa = require_pyarrow("record batches")
        return pa.Table.from_batches(list(self(table.to_batches())), schema=self.schema(table.schema))

    def schema(self, schema: Any) -> Any:
        """The Arrow schema of what comes out for what goes in."""
        pa = require_pyarrow("record batches")
        for field in vector_fields(self._form):
            is_plain = field.name == EMBEDDING and not self._fixed_size
            schema = schema.append(field.with_type(pa.list_(field.type.value_type)) if is_plain else field)
        return schema

    @property
    def ranges(self) -> NDArray[np.float32] | None:
        """The least and the greatest value of each number, float32 [2, width], where the bytes of a vector count from one to the other."""
        return self._form.ranges

    @property
    def encoder(self) -> Encoder:
        """This process's Encoder, loaded when it is first needed."""
        if self._encoder is None:
            self._encoder = Encoder.load(
                self._bundle,
                variant=self._variant,
                engine=self._engine,
                device=self._device,
                threads=self._threads,
                on_overflow="truncate",
                fingerprint=self._fingerprint,
                follow_links=self._follow_links,
            )
        return self._encoder

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_encoder": None}

    def _blocks(self, batches: Iterable[Any]) -> Iterator[RowBlock]:
        pa = require_pyarrow("record batches")
        start = 0
        for batch in batches:
            if not isinstance(batch, pa.RecordBatch):
                raise TypeError(f"a batch is a {type(batch).__name__}, expected a pyarrow RecordBatch; a whole table goes into table()")
            kind = batch.schema.field(self._column).type
            if not (is_strings(kind) or is_pairs(kind) or pa.types.is_null(kind)):
                raise TypeError(f"column {self._column!r} holds {kind}, expected strings or pairs of them; cast it, or name another column")
            rows = np.arange(start, start + len(batch), dtype=np.int64)
            yield RowBlock(0, start, start + len(batch), rows, self._texts(batch.column(self._column), start), batch)
            start += len(batch)

    def _texts(self, column: Any, start: int) -> list[Text | None]:
        if not is_pairs(column.type):
            texts: list[Text | None] = column.to_pylist()
            return texts
        pairs, errors = texts_of(column, self._column, "the input", start + 1, expected="a pair of strings")
        for place, error in enumerate(errors):
            if error and column[place].is_valid:
                raise TextError(error, index=start + place)
        return pairs
