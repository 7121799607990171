import dataclasses
import json
import os
import socket
from pathlib import Path
from typing import get_args

import pytest
from bundle_builder import EXACT, HIDDEN, LABELS
from hypothesis import given, settings
from hypothesis import strategies as st
from json_mutations import mutated

from cls_runtime import Bundle, BundleError, UsageError
from cls_runtime.bundle.manifest import (
    MANIFEST_NAME,
    EngineParity,
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


@pytest.fixture(scope="module")
def whole(bundle):
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


def test_an_engines_own_figures_are_read_and_older_bundles_have_none(manifest):
    own = EngineParity(parity={"cls": EXACT}, batch_invariance_max_abs=0.0, bits={"cls": "0" * 64, "tokens": "1" * 64})
    fp32 = dataclasses.replace(manifest.variants["fp32"], engine_parity={"native": own})
    held = changed(manifest, variants={"fp32": fp32})
    assert from_json(to_json(held)).variants["fp32"].engine_parity["native"] == own
    assert held.fingerprint == manifest.fingerprint
    assert from_json(edited(manifest, lambda raw: raw["variants"]["fp32"].pop("engine_parity"))).variants["fp32"].engine_parity == {}


def test_what_makes_scores_of_logits(manifest):
    named = changed(manifest, logits_activation="sigmoid")
    assert from_json(to_json(named)).logits_activation == "sigmoid"
    assert named.fingerprint == manifest.fingerprint  # the graph's logits are before it
    assert from_json(edited(manifest, lambda raw: raw.pop("logits_activation"))).logits_activation is None  # a manifest from before it


def test_a_manifest_from_before_the_choice_of_a_tokenizer_has_none(manifest):
    assert from_json(edited(manifest, lambda raw: raw.pop("tokenizer"))).tokenizer is None


def test_multiply_adds_of_a_batch():
    assert MultiplyAdds(per_run=1, per_text=10, per_token=100, per_token_pair=1000).count(2, 3) == 1 + 2 * (10 + 300 + 9000)


def test_every_output_has_a_width(manifest):
    assert manifest.encoder_outputs == ("sentence", "cls", "pooler", "logits")
    assert {*manifest.encoder_outputs, "tokens"} == {*get_args(Output)}
    assert [manifest.width(output) for output in manifest.encoder_outputs] == [HIDDEN, HIDDEN, HIDDEN, LABELS]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("pooler", "output is 'pooler', this bundle has sentence, cls; export it with --pooler"),
        ("logits", "output is 'logits', this bundle has sentence, cls; export it with --logits"),
        ("mean", "output is 'mean', this bundle has sentence, cls"),
        ("last_hidden_state", "output is 'last_hidden_state', this bundle has sentence, cls"),
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
        (lambda raw: raw.update(tokenizer="slow"), "tokenizer is 'slow', expected one of 'file', 'transformers'"),
        (lambda raw: raw.update(layout="wide"), "layout is 'wide', expected one of 'standard', 'native', 'broadcast'"),
        (lambda raw: raw["variants"]["fp32"]["parity"]["cls"].update(max_abs="0"), r"variants.fp32: parity.cls: max_abs is str"),
        (lambda raw: raw["files"][0].update(size_bytes=1.5), r"files\[0\]: size_bytes is float, expected int"),
        (lambda raw: raw.update(max_length=12), "the manifest was edited"),
        (lambda raw: raw.update(fingerprint="\x1b[2J"), r"says fingerprint '\\x1b\[2J'"),
        (lambda raw: raw.update(schema_version=[1] * 1000), r"schema version \[1, 1, 1, 1, 1, 1, \.\.\.\]"),
        (lambda raw: raw.update(schema_version=10**400), r"schema version 10+\.\.\.0+, this"),
        (lambda raw: raw.update(layout="x" * 10**6), r"layout is 'x+\.\.\.x+', expected"),
        (lambda raw: raw["files"][0].update(size_bytes=10**400), r"size_bytes is 10+\.\.\.0+, expected a number of 64 bits"),
        (lambda raw: raw["variants"]["fp32"].update(batch_invariance_max_abs=10**400), "expected a number of 64 bits"),
        (lambda raw: raw["source"].update(name="x" * 10**6), "name has 1,000,000 characters, expected at most 65,536"),
        (lambda raw: raw["outputs"][1].update(width=0), r"outputs\[1\]: width is 0, expected 1 to 65,536"),
        (lambda raw: raw["outputs"][1].update(width=-5), "width is -5, expected 1 to 65,536"),
        (lambda raw: raw["outputs"][1].update(width=10**9), "width is 1000000000, expected 1 to 65,536"),
        (lambda raw: raw["outputs"][1].update(width=10**30), "width is 10+, expected a number of 64 bits"),
        (lambda raw: raw["outputs"][1].update(width=1e30), "width is float, expected int"),
        (lambda raw: raw["outputs"][1].update(width=True), "width is bool, expected int"),
        (lambda raw: raw.update(hidden_size=0), "hidden_size is 0, expected 1 to 65,536"),
        (lambda raw: raw.update(hidden_size=10**9), "hidden_size is 1000000000, expected 1 to 65,536"),
        (lambda raw: raw.update(num_layers=100_000), "num_layers is 100000, expected 1 to 1,024"),
        (lambda raw: raw.update(max_length=0), "max_length is 0, expected 1 to 1,048,576"),
        (lambda raw: raw.update(max_length=10**12), "max_length is 1000000000000, expected 1 to 1,048,576"),
        (lambda raw: raw.update(inputs=[]), r"inputs is \[\], expected input_ids among them"),
        (lambda raw: raw.update(inputs=["input_ids"]), r"inputs is \['input_ids'\], expected attention_mask among them"),
        (lambda raw: raw.update(inputs=[*raw["inputs"], "input_ids"]), r"inputs is \['input_ids', .*\], expected each once"),
        (lambda raw: raw["inputs"].append("position_ids"), "inputs is 'position_ids', expected one of input_ids, attention_mask"),
        (lambda raw: raw.update(outputs=[]), r"outputs is \[\], expected sentence_embedding among them"),
        (lambda raw: raw["outputs"].append(raw["outputs"][1]), "outputs is .* expected each once"),
        (lambda raw: raw["outputs"][2].update(name="other"), "outputs is 'other', expected one of sentence_embedding, pooler_output"),
        (lambda raw: raw.update(logits_activation="Sigmoid"), "logits_activation is 'Sigmoid', expected one of 'identity', 'sigmoid'"),
        (lambda raw: raw.update(logits_activation=["sigmoid"]), r"logits_activation is \['sigmoid'\], expected one of"),
        (
            lambda raw: raw.update(outputs=raw["outputs"][:2], logits_activation="sigmoid"),
            "has logits_activation 'sigmoid' and no output logits",
        ),
        (lambda raw: raw["variants"].update(int3=raw["variants"]["fp32"]), "variants is 'int3', expected one of fp32, fp16, int8"),
        (lambda raw: raw["variants"]["fp32"]["parity"].update(mean=raw["variants"]["fp32"]["parity"]["cls"]), "parity is 'mean', expected"),
        (
            lambda raw: raw["variants"]["fp32"].update(
                engine_parity={"native": {"parity": {}, "batch_invariance_max_abs": 0.0, "bits": {"mean": "0"}}}
            ),
            r"engine_parity\.native: bits is 'mean', expected one of sentence, cls",
        ),
        (lambda raw: raw["variants"]["fp32"].update(engine_parity={"native": {"parity": {}}}), "has no field 'batch_invariance_max_abs'"),
        (lambda raw: raw["variants"]["fp32"].update(engine_files={"\x1b[2J": 1}), r"engine_files\.'\\x1b\[2J' is int, expected a list"),
        (lambda raw: raw.update(files=raw["files"] * 600), "names 1,201 files, expected at most 1,000"),
        (lambda raw: raw["files"].append(raw["files"][0] | {"sha256": "1" * 64}), "names 'tokenizer.json' twice, with two hashes or sizes"),
        (lambda raw: raw["files"].append(raw["variants"]["fp32"]["files"][0] | {"size_bytes": 1}), "names 'onnx/model.onnx' twice"),
    ],
)
def test_a_wrong_field_is_named(manifest, change, message):
    with pytest.raises(BundleError, match=message):
        from_json(edited(manifest, change))


def test_a_bundle_has_room_for_what_there_is(manifest):
    largest = {"hidden_size": 2**16, "num_layers": 2**10, "max_length": 2**20, "files": manifest.files * 400}
    widest = tuple(dataclasses.replace(output, width=2**16) for output in manifest.outputs)
    assert from_json(to_json(changed(manifest, outputs=widest, **largest))).max_length == 2**20


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("nope", "Expecting value"),
        ("[" * 100_000, "nested too deeply"),
        ('{"recipe":' * 50_000, "nested too deeply"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' is there twice"),
        ('{"a": [{"b": 1, "b": 1}]}', "the key 'b' is there twice"),
        ('{"a": NaN}', "Out of range float"),
        ('{"a": -Infinity}', "Out of range float"),
        ('{"a": [1e999]}', "Out of range float"),
        ('{"a": %s}' % ("9" * 5000), "Exceeds the limit"),
        (r'{"a": "\ud800"}', r"a lone surrogate U\+D800"),
        (r'{"a": {"\udfff": 1}}', r"a lone surrogate U\+DFFF"),
        (r'{"a": "\ude00\ud83d"}', r"a lone surrogate U\+DE00"),
    ],
)
def test_broken_json(text, reason):
    with pytest.raises(BundleError, match=f"not valid JSON \\(.*{reason}") as caught:
        from_json(text)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("place", ["name", "recipe", "key", "path", "unknown"])
def test_a_lone_surrogate_anywhere(manifest, place):
    def change(raw):
        at = {
            "name": lambda: raw["source"].update(name="\ud800"),
            "recipe": lambda: raw["variants"]["fp32"]["recipe"].update(a=[{"b": "\ud800"}]),
            "key": lambda: raw["tool_versions"].update({"\ud800": "1"}),
            "path": lambda: raw["files"][0].update(path="token\ud800.json"),
            "unknown": lambda: raw.update(later="\ud800"),
        }
        at[place]()

    with pytest.raises(BundleError, match="a lone surrogate U\\+D800"):
        from_json(edited(manifest, change))


@settings(max_examples=300)
@given(data=st.data())
def test_any_mutation_is_read_or_one_clear_error(whole, data):
    """Whatever stands in a manifest, with a fingerprint that fits wherever one can be made."""
    raw = mutated(data.draw, json.loads(to_json(whole)))
    if isinstance(raw, dict):
        raw.pop("fingerprint", None)
    message = ""
    try:
        to_json(from_json(json.dumps(raw))).encode()
    except BundleError as error:
        message = str(error)
    assert message.isprintable()
    assert len(message) < 2000


def not_a_file(kind, path):
    """Puts something that is not a plain file under `path`."""
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link out":
        path.symlink_to("/proc/version")
    elif kind == "link to itself":
        path.symlink_to(path.name)
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link out", "link to itself", "socket"])
@pytest.mark.parametrize("name", [MANIFEST_NAME, "tokenizer.json", "tokenizer_config.json", "onnx/model.onnx"])
def test_what_is_not_a_file_is_not_read(own_bundle, monkeypatch, kind, name):
    monkeypatch.chdir((own_bundle / name).parent)  # a socket's path has at most 108 bytes
    not_a_file(kind, Path((own_bundle / name).name))
    with pytest.raises(BundleError, match="not a regular file|leaves the bundle|has no file|cannot be read"):
        Bundle.open(own_bundle)


def test_a_manifest_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr("cls_runtime.bundle.manifest.MAX_MANIFEST_BYTES", 10)
    (tmp_path / MANIFEST_NAME).write_text('{"schema_version": 1}')
    with pytest.raises(BundleError, match="21 bytes, expected at most 10"):
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
