"""The picklable function: over plain Arrow, and on Spark and Dask where they are installed."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from cls_runtime import Encoder, TextError
from cls_runtime.jobs import EmbedBatches


@pytest.fixture
def table(make_texts):
    return pa.table({"n": range(500), "text": make_texts(500)})


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_plain_arrow(bundle, table, dtype):
    embed = EmbedBatches(bundle, dtype=dtype, normalize=True)
    embedded = embed.table(table)
    assert embedded.schema.names == ["n", "text", "embedding", *(["embedding_scale"] if dtype == "int8" else [])]
    assert embedded.select(["n", "text"]).equals(table)
    stored = np.array(embedded["embedding"].combine_chunks().flatten(), dtype=np.float32).reshape(500, 8)
    if dtype == "int8":
        stored = stored * np.array(embedded["embedding_scale"])[:, None]
    with Encoder.load(bundle, on_overflow="truncate") as encoder:
        true = encoder.encode(table["text"].to_pylist(), normalize=True)
    np.testing.assert_allclose(stored, true, atol=1e-6 if dtype == "float32" else 0.5 / 127 + 1e-6)


@pytest.mark.parametrize(
    "options", [{"dtype": "uint8"}, {"dtype": "binary"}, {"prompt_name": "query"}, {"normalize": False}, {"dimensions": 8}]
)
def test_the_options_are_those_of_encode(trained, table, options):
    embed = EmbedBatches(trained, **options)
    embedded = embed.table(table)
    with Encoder.load(trained, on_overflow="truncate") as encoder:
        true = encoder.encode(table["text"].to_pylist(), **options)
        if options.get("dtype") == "uint8":
            np.testing.assert_array_equal(embed.ranges, encoder.ranges())
        else:
            assert embed.ranges is None
    stored = np.array(embedded["embedding"].combine_chunks().to_pylist(), dtype=true.dtype)
    assert embedded.schema.names == ["n", "text", "embedding"]
    assert embedded.schema.field("embedding").type.value_type == pa.from_numpy_dtype(true.dtype)
    assert np.mean(~np.isclose(stored, true, atol=1e-6)) < 1e-3


def test_it_pickles_after_use_and_without_the_encoder(bundle, table):
    embed = EmbedBatches(bundle)
    first = embed.table(table)
    data = pickle.dumps(embed)
    assert len(data) < 2000
    assert pickle.loads(data).table(table).equals(first)


def test_small_batches_are_computed_together_and_come_back_as_they_were(bundle, table):
    batches = table.to_batches(max_chunksize=7)
    embedded = list(EmbedBatches(bundle)(iter(batches)))
    assert [len(batch) for batch in embedded] == [len(batch) for batch in batches]
    whole = EmbedBatches(bundle).table(table)
    assert pa.Table.from_batches(embedded)["embedding"].to_pylist() == whole["embedding"].to_pylist()


def test_null_texts_have_null_vectors(bundle):
    embedded = EmbedBatches(bundle).table(pa.table({"text": ["cat", None]}))
    assert [vector is None for vector in embedded["embedding"].to_pylist()] == [False, True]


def test_plain_lists(bundle, table):
    embedded = EmbedBatches(bundle, fixed_size=False).table(table)
    assert embedded.schema.field("embedding").type == pa.list_(pa.float32())
    assert embedded["embedding"].to_pylist() == EmbedBatches(bundle).table(table)["embedding"].to_pylist()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # pyspark's own
def test_spark_maps_it(bundle, table, spark):
    frame = spark.createDataFrame(list(zip(table["n"].to_pylist(), table["text"].to_pylist(), strict=True)), "n long, text string")
    embedded = frame.mapInArrow(EmbedBatches(bundle, threads=1, fixed_size=False), "n long, text string, embedding array<float>").toPandas()
    assert_frame(embedded.sort_values("n"), bundle, table)


@pytest.mark.filterwarnings("ignore")  # dask's own
def test_dask_maps_it(bundle, table):
    frames = pytest.importorskip("dask.dataframe")
    embed = EmbedBatches(bundle, threads=1)

    def of_partition(partition):
        return embed.table(pa.Table.from_pandas(partition, preserve_index=False)).to_pandas()

    parted = frames.from_pandas(table.to_pandas(), npartitions=3)
    meta = of_partition(parted.partitions[0].compute().head(1)).head(0)
    assert_frame(parted.map_partitions(of_partition, meta=meta).compute(scheduler="processes", num_workers=2), bundle, table)


def assert_frame(embedded, bundle, table):
    """A pandas frame that has the table's rows in order, with their vectors."""
    whole = EmbedBatches(bundle).table(table)
    assert embedded["n"].tolist() == table["n"].to_pylist()
    assert embedded["text"].tolist() == table["text"].to_pylist()
    np.testing.assert_allclose(np.stack(embedded["embedding"]), np.array(whole["embedding"].to_pylist()), atol=1e-6)


@pytest.mark.parametrize("column", [[1, 2], [b"a", b"b"], [[1, 2]], [{"a": "b"}], [True]])
def test_a_column_without_strings_is_refused(bundle, column):
    with pytest.raises(TypeError, match="column 'text' holds .*, expected strings"):
        EmbedBatches(bundle).table(pa.table({"text": column}))


def test_lists_of_two_strings_are_pairs(bundle):
    table = pa.table({"text": pa.array([["a", "b"], None, ["the cat", "a"]], pa.large_list(pa.string()))})
    embedded = EmbedBatches(bundle).table(table)["embedding"].to_pylist()
    with Encoder.load(bundle) as encoder:
        np.testing.assert_allclose([embedded[0], embedded[2]], encoder.encode([("a", "b"), ("the cat", "a")]), atol=1e-6)
    assert embedded[1] is None
    with pytest.raises(TextError, match="row 2: 'text' is a list of 1, expected two strings, a pair"):
        EmbedBatches(bundle).table(pa.table({"text": [["a", "b"], ["c"]]}))


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
def test_every_type_of_strings_is_taken(bundle, kind):
    texts = pa.array(["a", None])
    texts = texts.dictionary_encode() if kind == "dictionary" else texts.cast(getattr(pa, kind)())
    assert EmbedBatches(bundle).table(pa.table({"text": texts}))["embedding"].null_count == 1


@pytest.mark.parametrize("batch", ["a", ["a"], {"text": "a"}])
def test_what_is_no_record_batch_is_refused(bundle, batch):
    with pytest.raises(TypeError, match="expected a pyarrow RecordBatch"):
        list(EmbedBatches(bundle)([batch]))
