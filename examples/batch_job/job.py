"""A nightly job: embeds the rows of a SQLite table that have no vector yet.

    python job.py documents.db models/bge-small-en-v1.5

The table is `documents(id INTEGER PRIMARY KEY, text TEXT)`. Vectors go into `embeddings(id, model, vector)` as float32 bytes, with the
fingerprint of the model that made them. Each block is one transaction, so the job may be killed at any time and continues where it
stopped. After a change of model every row counts as new. A row whose text changed does not: delete its vector with the change. For files
of many millions of rows use `cls-embed`, which does the same with Parquet shards.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from cls_runtime import ClsError, Encoder

PENDING = """
    SELECT id, text FROM documents
    WHERE id > ? AND text IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM embeddings WHERE embeddings.id = documents.id AND model = ?)
    ORDER BY id LIMIT ?
"""
BLOCK_ROWS = 4096  # read, embedded and committed at a time: memory does not grow with the table


def connect(path: str) -> sqlite3.Connection:
    """Opens a database that exists; sqlite3 alone would make an empty one of a misspelt name."""
    return sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=rw", uri=True)


def embed_new_rows(database: sqlite3.Connection, encoder: Encoder) -> int:
    """Embeds what has no vector of this model yet; gives the number of rows."""
    model = encoder.manifest.fingerprint
    database.execute("CREATE TABLE IF NOT EXISTS embeddings (id INTEGER PRIMARY KEY, model TEXT NOT NULL, vector BLOB NOT NULL)")
    done, last = 0, -(2**63)
    while rows := database.execute(PENDING, (last, model, BLOCK_ROWS)).fetchall():
        vectors = encoder.encode_document([text for _, text in rows])
        with database:  # one transaction
            database.executemany(
                "INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)",
                [(row_id, model, vector.tobytes()) for (row_id, _), vector in zip(rows, vectors, strict=True)],
            )
        done, last = done + len(rows), rows[-1][0]
    return done


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the job."""
    parser = argparse.ArgumentParser(description="Embeds the rows of a SQLite table that have no vector yet.")
    parser.add_argument("database", help="the SQLite file")
    parser.add_argument("bundle", help="the bundle's folder, or its name on the hub")
    options = parser.parse_args(argv)
    try:
        with closing(connect(options.database)) as database, Encoder.load(options.bundle, on_overflow="truncate") as encoder:
            print(f"{embed_new_rows(database, encoder):,} rows embedded with {encoder.manifest.source.name}")
    except (sqlite3.Error, ClsError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
