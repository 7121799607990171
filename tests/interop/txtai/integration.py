"""txtai: `ClsVectors`, alone and in an index that is stored and loaded again."""

import json
import tempfile
from pathlib import Path

import numpy as np
from integration_results import BUNDLE, QUERIES, TEXTS, encoder, expected, ranking, refused, same
from txtai import Embeddings

METHOD = "cls_runtime.integrations.txtai.ClsVectors"


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


for path in (str(BUNDLE), encoder):
    for config, options in (
        ({}, {}),
        ({"dimensionality": 4}, {"dimensions": 4}),
        ({"vectors": {"output": "pooler", "variant": "fp32"}}, {"output": "pooler"}),
        ({"instructions": {"query": "the ", "data": "the "}}, {"prompt": "the "}),
        ({"instructions": {"query": "", "data": ""}}, {"prompt": ""}),
    ):
        made = Embeddings(path=path, method=METHOD, **config)
        same(made.batchtransform(TEXTS, "data"), unit(expected(TEXTS, **options)))
        same(made.batchtransform(QUERIES, "query"), unit(expected(QUERIES, query=True, **options)))
        same(made.batchtransform(QUERIES), unit(expected(QUERIES, query=True, **options)))
        same([made.transform(QUERIES[0])], unit(expected(QUERIES[:1], query=True, **options)))
        json.dumps(made.config)
        assert made.config["vectors"]["variant"] == "fp32"
for config, words in (
    ({"vectors": {"normalize": False}}, "vectors has 'normalize'"),
    ({"instructions": {"document": "x"}}, "instructions has 'document'"),
    ({"dimensionality": 9}, "dimensions is 9"),
    ({"path": "models/nothing"}, "models/nothing"),
):
    with refused(ImportError, words=words):  # txtai's own, of which ours is the cause
        Embeddings(**{"path": str(BUNDLE), "method": METHOD, **config})
embeddings = Embeddings(path=str(BUNDLE), method=METHOD)
for given in (None, [None], [3], [("a", "b")]):
    with refused(TypeError):
        embeddings.model.encode(given)
with refused(TypeError):
    embeddings.model.encode("a text")

embeddings = Embeddings(path=encoder, method=METHOD, content=True)
embeddings.index(TEXTS)
with tempfile.TemporaryDirectory() as folder:
    embeddings.save(folder)
    assert json.loads((Path(folder) / "config.json").read_text())["vectors"] == {"variant": "fp32", "output": "sentence"}
    again = Embeddings()
    again.load(folder)
    for found in (embeddings, again):
        for query in QUERIES:
            assert [row["text"] for row in found.search(query, 5)] == ranking(query)
    again.close()
