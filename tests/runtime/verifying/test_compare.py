import dataclasses
import re

import numpy as np
import pytest
from bundle_builder import build_bundle
from damage import DAMAGES, FP32, build_damageable, edit
from golden_bundle import agree, build_golden_bundle

from cls_runtime import Encoder
from cls_runtime.bundle.manifest import Source, read_manifest
from cls_runtime.bundle.parity import cosines
from cls_runtime.errors import BundleError, CheckFailedError, UsageError
from cls_runtime.verifying.compare import compare_bundles, compatible, differences, require_compatible
from cls_runtime.verifying.neighbours import compare_neighbours

MANY = [f"{word} {number}" for number in range(8) for word in ("the cat", "a dog runs", "sleeping")]


@pytest.fixture
def pair(tmp_path):
    """Two equal bundles."""
    return build_golden_bundle(tmp_path / "old"), build_golden_bundle(tmp_path / "new")


def retrained(folder, by=0.3):
    """Another training of the model: other weights, and a manifest that says so."""
    edit(folder, FP32, "E", lambda weights: weights + by * np.random.default_rng(0).standard_normal(weights.shape).astype(np.float32))
    manifest = read_manifest(folder)
    agree(folder, source=dataclasses.replace(manifest.source, weights_sha256="1" * 64))


# ---------------------------------------------------------------- manifests


def test_equal_fingerprints_are_compatible(pair):
    old, new = map(read_manifest, pair)
    assert compatible(old, new)
    assert compatible(old, new.fingerprint)
    assert differences(old, new) == ()
    require_compatible(old, new, variant="fp32", other_variant="fp32")
    require_compatible(old, new.fingerprint)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        (
            {"source": Source(name="tiny", revision=None, weights_sha256="1" * 64, tokenizer_sha256="0" * 64)},
            "weights: 000000000000 -> 1111111",
        ),
        ({"max_length": 12}, "maximum length: 16 -> 12"),
        ({"architecture": "roberta"}, "architecture: bert -> roberta"),
    ],
)
def test_another_space_is_refused_and_says_why(pair, changes, difference):
    agree(pair[1], **changes)
    old, new = map(read_manifest, pair)
    assert not compatible(old, new)
    assert len(differences(old, new)) == 1
    assert differences(old, new)[0].startswith(difference)
    with pytest.raises(CheckFailedError, match=f"{old.fingerprint[:12]}, the others {new.fingerprint[:12]} .*{difference}"):
        require_compatible(old, new)
    with pytest.raises(CheckFailedError, match="encode the texts again"):
        require_compatible(old, new.fingerprint)


def test_every_field_of_the_fingerprint_has_words(pair):
    """A difference that nobody names would leave the user with two numbers."""
    old = read_manifest(pair[0])
    other_tokenizer = tuple(dataclasses.replace(file, sha256="2" * 64) for file in old.files)
    for changes in (
        {"schema_version": 2},
        {"files": other_tokenizer},
        {"inputs": ("input_ids",)},
        {"outputs": old.outputs[:-1]},
        {"source_pooling": dataclasses.replace(old.source_pooling, dense=("2_Dense",))},
        {"source_pooling": dataclasses.replace(old.source_pooling, mode="mean", normalize=True, include_prompt=False)},
        {"pooling": "mean", "source_pooling": dataclasses.replace(old.source_pooling)},
        {"prompts": {"query": "ask: "}, "default_prompt_name": "query"},
        {"truncate_dim": 4},
        {"token_rows": True},
        {"variants": {}},
        {"variants": {"fp32": dataclasses.replace(old.variants["fp32"], engine_files={"openvino": old.files})}},
    ):
        new = dataclasses.replace(old, fingerprint="", **changes)
        assert new.fingerprint != old.fingerprint
        assert len(differences(old, new)) == 1, changes


def test_another_precision_is_refused_where_it_matters(pair):
    manifest = read_manifest(pair[0])
    with pytest.raises(CheckFailedError, match="this bundle's vectors are fp32, the others int8"):
        require_compatible(manifest, manifest.fingerprint, variant="fp32", other_variant="int8")
    require_compatible(manifest, manifest.fingerprint, variant="fp32")


# ---------------------------------------------------------------- vectors


def test_equal_bundles_are_interchangeable(pair):
    found = compare_bundles(*pair, texts=MANY)
    assert found.interchangeable
    assert found.differences == ()
    assert (found.texts, found.other_tokens, found.other_truncation) == (len(MANY), 0, 0)
    assert set(found.figures) == {"cls", "pooler", "logits"}
    assert found.figures["cls"].max_abs == 0.0
    assert (found.neighbours.neighbours, found.neighbours.mean, found.neighbours.worst, found.neighbours.mixed) == (10, 1.0, 1.0, 1.0)


def test_another_training_is_measured(pair):
    retrained(pair[1])
    found = compare_bundles(*pair, texts=MANY)
    assert not found.interchangeable
    weights, graph = found.differences
    assert weights == "weights: 000000000000 -> 111111111111"
    assert re.fullmatch(r"graph of fp32: [0-9a-f]{12} -> [0-9a-f]{12}", graph)
    with Encoder.load(pair[0]) as old, Encoder.load(pair[1]) as new:
        expected = cosines(old.encode(MANY), new.encode(MANY))
    assert found.figures["cls"].mean_cosine == pytest.approx(expected.mean())
    assert found.neighbours.mean < 1.0
    assert any(objection.startswith("cls: mean_cosine 0.") and "worst is text " in objection for objection in found.objections)


def test_the_looser_variant_decides(tmp_path):
    folder = build_damageable(tmp_path / "tiny")
    other = build_golden_bundle(tmp_path / "other")
    found = compare_bundles(folder, other, texts=MANY)
    assert (found.first.variant, found.second.variant) == ("int8", "fp32")
    assert found.figures["cls"].max_abs > 5e-5  # fp32's threshold
    assert not [objection for objection in found.objections if objection.startswith("cls")]
    assert compare_bundles(folder, other, texts=MANY, variant="fp32").figures["cls"].max_abs == 0.0


def test_another_maximum_length_is_not_interchangeable_even_on_short_texts(pair):
    DAMAGES["other maximum length"].do(pair[1])
    found = compare_bundles(*pair, texts=["a", "the cat"])
    assert found.figures["cls"].max_abs == 0.0
    assert found.objections == ("texts are truncated at 16 tokens, in the other at 12",)
    found = compare_bundles(*pair)
    assert (found.first.truncated, found.second.truncated, found.other_truncation, found.other_tokens) == (2, 3, 3, 3)


def test_another_tokenizer_is_counted(pair):
    DAMAGES["tokenizer swapped"].do(pair[1])
    found = compare_bundles(*pair, texts=["cat", "the dog", "runs"])
    assert found.other_tokens == 2
    assert found.differences[0].startswith("tokenizer: ")


def test_an_added_output_changes_the_fingerprint_but_not_the_vectors(tmp_path):
    old = build_bundle(tmp_path / "old", outputs=("sentence_embedding",))
    new = build_bundle(tmp_path / "new", outputs=("sentence_embedding", "pooler_output"))
    found = compare_bundles(old, new, texts=MANY)
    assert (
        found.differences[0]
        == "outputs: last_hidden_state 8, sentence_embedding 8 -> last_hidden_state 8, sentence_embedding 8, pooler_output 8"
    )
    assert found.interchangeable
    assert list(found.figures) == ["cls"]


@pytest.mark.parametrize(
    ("options", "objection"),
    [
        ({"pooling": "mean"}, "sentence's vector: the CLS row, in the other the mean of the tokens' rows"),
        ({"normalize": True}, "unit length: False, in the other True"),
        ({"prompts": {"query": "ask: "}, "default_prompt_name": "query"}, "default prompt: '', in the other 'ask: '"),
        ({"truncate_dim": 4}, "numbers of a vector: all, in the other 4"),
    ],
)
def test_another_use_of_the_same_rows_is_not_interchangeable(pair, tmp_path, options, objection):
    other = build_golden_bundle(tmp_path / "used-otherwise", **options)
    found = compare_bundles(pair[0], other, texts=MANY)
    assert found.objections[0] == objection
    if "pooling" not in options:  # whatever is made of it, it is the same row
        assert len(found.objections) == 1
        assert found.figures["cls"].max_abs == 0.0


def test_token_rows_are_compared_where_both_have_them(pair, tmp_path):
    first, second = (build_golden_bundle(tmp_path / name, token_rows=True) for name in ("first", "second"))
    found = compare_bundles(first, second, texts=MANY)
    assert found.interchangeable
    assert found.figures["tokens"].max_abs == 0.0
    assert found.figures["tokens"].texts == len(MANY)
    edit(second, FP32, "E", lambda weights: weights * np.float32(1.1))
    assert any(objection.startswith("tokens: ") for objection in compare_bundles(first, second, texts=MANY).objections)
    assert list(compare_bundles(first, pair[0], texts=MANY).figures) == ["cls", "pooler", "logits"]
    tokenizer = (second / "tokenizer.json").read_text()
    (second / "tokenizer.json").write_text(re.sub('"lowercase": *true', '"lowercase": false', tokenizer))
    agree(second)
    objections = compare_bundles(first, second, texts=["CATS"]).objections
    assert objections[0] == "tokens cannot be compared, a text has another number of tokens"


def test_another_label_is_not_interchangeable(pair):
    edit(pair[1], FP32, "L", lambda weights: -weights)
    found = compare_bundles(*pair, texts=MANY)
    assert any(
        objection.startswith(f"logits: another label for {len(MANY)} of {len(MANY)} texts, the first is text 0")
        for objection in found.objections
    )


@pytest.mark.parametrize(
    ("options", "error"), [({"texts": []}, UsageError), ({"variant": "int8"}, UsageError), ({"other": "./none"}, BundleError)]
)
def test_misuse_is_an_error(pair, options, error):
    with pytest.raises(error):
        compare_bundles(pair[0], options.pop("other", pair[1]), **options)


# ---------------------------------------------------------------- neighbours


def brute_force(first, second, count):
    def nearest(queries, index):
        unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries.astype(float), index.astype(float))]
        similarity = unit[0] @ unit[1].T
        np.fill_diagonal(similarity, -np.inf)
        return [set(row) for row in np.argsort(-similarity, axis=1)[:, :count]]

    old = nearest(first, first)
    return [[len(a & b) / count for a, b in zip(old, other, strict=True)] for other in (nearest(second, second), nearest(second, first))]


def test_neighbours_are_those_of_brute_force(monkeypatch):
    monkeypatch.setattr("cls_runtime.verifying.neighbours.BLOCK_ROWS", 7)  # several blocks
    random = np.random.default_rng(3)
    first = random.standard_normal((60, 5)).astype(np.float32)
    second = first + 0.4 * random.standard_normal((60, 5)).astype(np.float32)
    found = compare_neighbours(first, second)
    kept, mixed = brute_force(first, second, 10)
    assert (found.mean, found.worst, found.mixed) == pytest.approx((np.mean(kept), min(kept), np.mean(mixed)))
    assert 0.0 < found.mean < 1.0


def test_ties_and_repeated_texts_are_no_change():
    first = np.repeat(np.eye(6, dtype=np.float32), 4, axis=0)  # all others are equally far
    found = compare_neighbours(first, first)
    assert (found.neighbours, found.mean, found.worst) == (4, 1.0, 1.0)


@pytest.mark.parametrize("rows", [np.ones((5, 2)), np.eye(2), np.array([[1, 0], [0, 1], [np.nan, 1]])])
def test_too_few_or_invalid_vectors_have_no_neighbours(rows):
    assert compare_neighbours(rows.astype(np.float32), rows.astype(np.float32)) is None
