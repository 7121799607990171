"""LanceDB: `cls-export` of its registry, alone and in a table that is closed and opened again."""

import tempfile

import lancedb
from integration_results import BUNDLE, NO_LISTS, NO_TEXTS, QUERIES, TEXTS, encoder, expected, ranking, refused, same
from lancedb.embeddings import EmbeddingFunctionRegistry, get_registry
from lancedb.pydantic import LanceModel, Vector

from cls_runtime import BundleError, UsageError
from cls_runtime.integrations.lancedb import ClsEmbeddingFunction

assert get_registry().get("cls-export") is ClsEmbeddingFunction
function = get_registry().get("cls-export").create(name=str(BUNDLE))
OPTIONS = [
    (function, {}),
    (ClsEmbeddingFunction.create(name=encoder, normalize=False), {"normalize": False}),
    (ClsEmbeddingFunction.create(name=str(BUNDLE), dimensions=4), {"dimensions": 4}),
    (ClsEmbeddingFunction.create(name=encoder, output="pooler"), {"output": "pooler"}),
    (ClsEmbeddingFunction.create(name=encoder, query_prefix="the ", document_prefix="the "), {"prompt": "the "}),
]
for made, options in OPTIONS:
    assert made.ndims() == expected(["x"], **options).shape[1]
    same(made.compute_source_embeddings(TEXTS), expected(TEXTS, **options))
    same(made.compute_source_embeddings_with_retry(TEXTS), expected(TEXTS, **options))
    same([made.compute_query_embeddings(query)[0] for query in QUERIES], expected(QUERIES, query=True, **options))
    stored = made.safe_model_dump()
    assert stored["variant"] == "fp32"
    again = ClsEmbeddingFunction.create(**stored)
    same(again.compute_query_embeddings_with_retry(QUERIES[0]), expected(QUERIES[:1], query=True, **options))
assert OPTIONS[1][0]._vectors.encoder is encoder
for given in NO_LISTS[2:]:
    with refused(TypeError, words="expected"):
        function.generate_embeddings(given)
for given in NO_TEXTS:
    with refused(TypeError, words="expected"):
        function.compute_query_embeddings(given)
with refused(UsageError, words="arguments that nothing uses: task"):
    function.compute_query_embeddings("x", task="y")
with refused(UsageError, words="dimensions is 9"):
    ClsEmbeddingFunction.create(name=str(BUNDLE), dimensions=9).ndims()
with refused(BundleError):
    ClsEmbeddingFunction.create(name="models/nothing").ndims()
with refused(ValueError, words="unknown"):
    ClsEmbeddingFunction.create(name=str(BUNDLE), unknown=1)


class Text(LanceModel):
    text: str = function.SourceField()
    vector: Vector(function.ndims()) = function.VectorField()


with tempfile.TemporaryDirectory() as folder:
    table = lancedb.connect(folder).create_table("texts", schema=Text)
    table.add([{"text": text} for text in TEXTS])
    rows = {row["text"]: row["vector"] for row in table.to_arrow().to_pylist()}
    same([rows[text] for text in TEXTS], expected(TEXTS))
    opened = lancedb.connect(folder).open_table("texts")  # LanceDB makes the function again
    for found in (table, opened):
        for query in QUERIES:
            assert [row["text"] for row in found.search(query).distance_type("cosine").limit(5).to_list()] == ranking(query)
    (config,) = EmbeddingFunctionRegistry.get_instance().parse_functions(opened.schema.metadata).values()
    assert config.function.variant == "fp32"
