"""A bundle as functions of DuckDB's SQL. Needs duckdb, pyarrow and an engine: `pip install cls-export[cpu] duckdb pyarrow`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import duckdb
import pyarrow as pa

from cls_runtime.bundle.manifest import Output
from cls_runtime.encoder import Encoder, Float32
from cls_runtime.integrations.text_vectors import TextVectors


def register(
    connection: duckdb.DuckDBPyConnection,
    bundle: str | os.PathLike[str] | Encoder,
    *,
    query_function: str = "embed_query",
    document_function: str = "embed_document",
    variant: str = "auto",
    output: Output = "sentence",
    normalize: bool | None = None,
    dimensions: int | None = None,
    query_prefix: str | None = None,
    document_prefix: str | None = None,
) -> None:
    """Gives a connection two functions, for queries and for documents: VARCHAR to FLOAT[width], NULL to NULL, block by block.

        >>> register(connection, "models/bge-small-en-v1.5")  # doctest: +SKIP
        >>> connection.sql("SELECT embed_document(text) FROM 'corpus.parquet'")  # doctest: +SKIP

    Args:
        connection: the functions are this connection's, and are not stored in the database.
        bundle: the bundle's folder, its name on the hub, or an `Encoder` loaded with the options that you want.
        query_function: the name in SQL of the function for queries.
        document_function: the name in SQL of the function for documents.
        variant: as of `Encoder.load`; with an `Encoder`, the one that it computes, or `auto`.
        output: `sentence`, or another output with one row per text.
        normalize: divide each vector by its L2 norm; None for the model's own choice.
        dimensions: how many numbers of each vector are kept; None for the model's own choice.
        query_prefix: goes before each query; None for the bundle's own prompt, "" for none.
        document_prefix: goes before each document; likewise.

    Raises:
        BundleError, EngineError, HubError, IntegrityError, MissingExtraError: as `Encoder.load`.
        UsageError: the bundle has no such variant or output, or vectors of fewer dimensions.
        duckdb.Error: the connection has a function of that name.
    """
    vectors = TextVectors(
        bundle,
        variant=variant,
        output=output,
        normalize=normalize,
        dimensions=dimensions,
        query_prompt=query_prefix,
        document_prompt=document_prefix,
    ).load()
    width = vectors.form.dimensions
    made: list[str] = []
    try:
        for name, encode in ((query_function, vectors.queries), (document_function, vectors.documents)):
            function = _of_blocks(encode, width)
            connection.create_function(name, function, ["VARCHAR"], f"FLOAT[{width}]", type="arrow", null_handling="special")
            made.append(name)
    except duckdb.Error:
        for name in made:  # both or none, so that it can be called again with other names
            connection.remove_function(name)
        raise


def _of_blocks(encode: Callable[[list[str]], Float32], width: int) -> Callable[[Any], Any]:
    """A function of a block of texts, an Arrow array that may have nulls, to a block of vectors."""

    def embed(texts: Any) -> Any:
        listed = texts.to_pylist()
        given = [place for place, text in enumerate(listed) if text is not None]
        values = pa.array(encode([listed[place] for place in given]).reshape(-1), type=pa.float32())
        rows = pa.FixedSizeListArray.from_arrays(values, width)
        if len(given) == len(listed):
            return rows
        places = dict(zip(given, range(len(given)), strict=True))
        return rows.take(pa.array([places.get(place) for place in range(len(listed))], type=pa.int64()))

    return embed
