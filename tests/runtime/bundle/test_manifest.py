import dataclasses
import json
from typing import get_args

import pytest
from bundle_builder import HIDDEN, LABELS

from cls_runtime import BundleError, UsageError
from cls_runtime.bundle.manifest import (
    MANIFEST_NAME,
    MultiplyAdds,
    Output,
    compute_fingerprint,
    from_json,
    read_manifest,
    to_json,
)


@pytest.fixture
def manifest(bundle):
    return read_manifest(bundle)


def edited(manifest, change):
    raw = json.loads(to_json(manifest))
    change(raw)
    return json.dumps(raw)


def test_what_is_written_is_read(manifest):
    assert from_json(to_json(manifest)) == manifest


def test_it_is_frozen_and_so_are_its_mappings(manifest):
    with pytest.raises(dataclasses.FrozenInstanceError):
        manifest.max_length = 3
    with pytest.raises(TypeError):
        manifest.variants["fp32"] = None


def test_unknown_fields_are_ignored(manifest):
    assert from_json(edited(manifest, lambda raw: raw.update(later={"a": 1}))) == manifest


def test_a_manifest_from_before_multiply_adds_has_none(manifest):
    assert from_json(edited(manifest, lambda raw: raw["variants"]["fp32"].pop("multiply_adds"))).variants["fp32"].multiply_adds == {}


def test_multiply_adds_of_a_batch():
    assert MultiplyAdds(per_run=1, per_text=10, per_token=100, per_token_pair=1000).count(2, 3) == 1 + 2 * (10 + 300 + 9000)


def test_every_output_has_a_width(manifest):
    assert manifest.encoder_outputs == get_args(Output) == ("cls", "pooler", "logits")
    assert [manifest.width(output) for output in manifest.encoder_outputs] == [HIDDEN, HIDDEN, LABELS]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("pooler", "output is 'pooler', this bundle has cls; export it with --pooler"),
        ("logits", "output is 'logits', this bundle has cls; export it with --logits"),
        ("mean", "output is 'mean', this bundle has cls"),
        ("last_hidden_state", "output is 'last_hidden_state', this bundle has cls"),
    ],
)
def test_an_output_that_the_bundle_lacks_has_no_width(manifest, output, message):
    held = tuple(item for item in manifest.outputs if item.name in {"last_hidden_state", "sentence_embedding"})
    with pytest.raises(UsageError) as caught:
        changed(manifest, outputs=held).width(output)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("schema_version"), "no schema_version"),
        (lambda raw: raw.update(schema_version="1"), "schema version '1', this version of cls-export reads 1"),
        (lambda raw: raw.update(schema_version=2), "upgrade cls-export"),
        (lambda raw: raw.pop("variants"), "no field 'variants'"),
        (lambda raw: raw["source"].pop("name"), "source has no field 'name'"),
        (lambda raw: raw.update(hidden_size=True), "hidden_size is bool, expected int"),
        (lambda raw: raw.update(hidden_size=None), "hidden_size is NoneType, expected int"),
        (lambda raw: raw.update(inputs="input_ids"), "inputs is str, expected a list"),
        (lambda raw: raw.update(inputs=[1]), r"inputs\[0\] is int, expected str"),
        (lambda raw: raw.update(variants=[]), "variants is list, expected an object"),
        (lambda raw: raw.update(pooler=3), "pooler is int, expected an object"),
        (lambda raw: raw.update(layout="wide"), "layout is 'wide', expected one of 'standard', 'native', 'broadcast'"),
        (lambda raw: raw["variants"]["fp32"]["parity"]["cls"].update(max_abs="0"), r"variants.fp32: parity.cls: max_abs is str"),
        (lambda raw: raw["files"][0].update(size_bytes=1.5), r"files\[0\]: size_bytes is float, expected int"),
        (lambda raw: raw.update(max_length=12), "the manifest was edited"),
    ],
)
def test_a_wrong_field_is_named(manifest, change, message):
    with pytest.raises(BundleError, match=message):
        from_json(edited(manifest, change))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "nope"])
def test_broken_json(text):
    with pytest.raises(BundleError, match="not valid JSON"):
        from_json(text)


def test_a_manifest_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr("cls_runtime.bundle.manifest.MAX_MANIFEST_BYTES", 10)
    (tmp_path / MANIFEST_NAME).write_text('{"schema_version": 1}')
    with pytest.raises(BundleError, match="21 bytes, a manifest has at most 10"):
        read_manifest(tmp_path)


def changed(manifest, **values):
    return dataclasses.replace(manifest, fingerprint="", **values)


def with_files(variant, *hashes):
    """The variant with a graph of another hash, and files that it reads."""
    return dataclasses.replace(variant, files=tuple(dataclasses.replace(variant.files[0], sha256=digest) for digest in hashes))


class TestFingerprint:
    def test_names_the_vector_space(self, manifest):
        for change in (
            {"max_length": 12},
            {"inputs": ("input_ids", "attention_mask")},
            {"architecture": "roberta"},
            {"outputs": manifest.outputs[:2]},
            {"source": dataclasses.replace(manifest.source, weights_sha256="1" * 64)},
            {"files": tuple(dataclasses.replace(file, sha256="1" * 64) for file in manifest.files)},
            {"source_pooling": dataclasses.replace(manifest.source_pooling, dense=("1" * 64,))},
            {"source_pooling": dataclasses.replace(manifest.source_pooling, mode="mean")},
            {"source_pooling": dataclasses.replace(manifest.source_pooling, normalize=True)},
            {"source_pooling": dataclasses.replace(manifest.source_pooling, include_prompt=False)},
            {"variants": {}},
            {"variants": {"fp32": with_files(manifest.variants["fp32"], "1" * 64)}},
            {"variants": {"fp32": with_files(manifest.variants["fp32"], manifest.variants["fp32"].files[0].sha256, "1" * 64)}},
            {"variants": {"fp32": dataclasses.replace(manifest.variants["fp32"], engine_files={"openvino": manifest.files})}},
            {"variants": {"fp16": manifest.variants["fp32"]}},
        ):
            assert changed(manifest, **change).fingerprint != manifest.fingerprint, change

    def test_is_the_same_for_every_name_date_and_figure(self, manifest):
        for change in (
            {"variants": {"fp32": dataclasses.replace(manifest.variants["fp32"], parity={}, recipe={"smoothing": 1})}},
            {"created": "2026-01-01"},
            {"tool_versions": {"torch": "9"}},
            {"source": dataclasses.replace(manifest.source, name="other", revision="r")},
        ):
            assert changed(manifest, **change).fingerprint == manifest.fingerprint, change

    def test_is_computed_where_none_is_given(self, manifest):
        assert changed(manifest).fingerprint == compute_fingerprint(manifest)
