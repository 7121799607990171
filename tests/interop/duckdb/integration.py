"""DuckDB: `embed_query` and `embed_document`, alone and in a search."""

import duckdb
import pyarrow as pa
from integration_results import BUNDLE, QUERIES, TEXTS, encoder, expected, ranking, refused, same

from cls_runtime import BundleError, Encoder, UsageError
from cls_runtime.integrations.duckdb import register

width = expected(["x"]).shape[1]
texts = pa.table({"place": range(len(TEXTS)), "text": TEXTS})
for bundle in (BUNDLE, str(BUNDLE), encoder):
    for given, options in (
        ({}, {}),
        ({"normalize": False}, {"normalize": False}),
        ({"dimensions": 4}, {"dimensions": 4}),
        ({"output": "pooler"}, {"output": "pooler"}),
        ({"query_prefix": "the ", "document_prefix": "the "}, {"prompt": "the "}),
    ):
        with duckdb.connect() as connection:
            register(connection, bundle, **given)
            found = connection.sql("SELECT embed_document(text), embed_query(text) FROM texts ORDER BY place").fetchall()
            same([row[0] for row in found], expected(TEXTS, **options))
            same([row[1] for row in found], expected(TEXTS, query=True, **options))

connection = duckdb.connect()
register(connection, encoder, query_function="q", document_function="d")
assert connection.sql("SELECT d('x')").types == [duckdb.sqltype(f"FLOAT[{width}]")]
nulls = connection.sql("SELECT d(t) FROM (VALUES ('rain'), (NULL), ('the dog'), (NULL)) x(t)").fetchall()
assert [row[0] is None for row in nulls] == [False, True, False, True]
same([nulls[0][0], nulls[2][0]], expected(["rain", "the dog"]))
assert connection.sql("SELECT d(NULL), q(NULL)").fetchall() == [(None, None)]
assert connection.sql("SELECT d(text) FROM texts WHERE false").fetchall() == []
many = connection.sql("SELECT 'cat ' || i, d('cat ' || i) FROM range(5000) r(i)").fetchall()  # more than a block
same([row[1] for row in many], expected([row[0] for row in many]))
with refused(duckdb.BinderException, words="q(VARCHAR)"):
    connection.sql("SELECT q(3)")
with refused(duckdb.Error, words="already"):
    register(connection, encoder, query_function="q", document_function="d")
with refused(duckdb.Error, words="already"):
    register(connection, encoder, query_function="of_queries", document_function="d")
register(connection, encoder, query_function="of_queries", document_function="of_documents")  # the failed call left nothing behind
with refused(UsageError, words="dimensions is 9"):
    register(connection, encoder, dimensions=9)
with refused(BundleError):
    register(connection, "models/nothing")

connection.sql("CREATE TABLE stored AS SELECT text, d(text) AS vector FROM texts")
search = f"SELECT text FROM stored ORDER BY array_cosine_similarity(vector, q($query)::FLOAT[{width}]) DESC"
for query in QUERIES:
    assert [row[0] for row in connection.execute(search, {"query": query}).fetchall()] == ranking(query)
closed = Encoder.load(BUNDLE)
register(connection, closed, query_function="gone_q", document_function="gone_d")
closed.close()
with refused(duckdb.Error, words="the Encoder is closed"):
    connection.sql("SELECT gone_q('x')").fetchall()
