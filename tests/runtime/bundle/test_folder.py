import json
import os
import shutil

import pytest
from bundle_builder import write_manifest

from cls_runtime import Bundle, BundleError, Encoder, IntegrityError, UsageError
from cls_runtime.bundle.manifest import MANIFEST_NAME, read_manifest


def edit_manifest(folder, change):
    raw = json.loads((folder / MANIFEST_NAME).read_text())
    change(raw)
    (folder / MANIFEST_NAME).write_text(json.dumps(raw))


def rename_graph(path):
    def change(raw):
        raw["variants"]["fp32"]["files"][0]["path"] = path

    return change


def truncate(path, count):
    path.write_bytes(path.read_bytes()[:count])


def fit_sizes(folder):
    """Writes the sizes of the files as they are now, so that the damage is met by whoever reads the content."""
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    for file in [*manifest["files"], *(file for variant in manifest["variants"].values() for file in variant["files"])]:
        file["size_bytes"] = (folder / file["path"]).stat().st_size
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))


def replace_and_fit(folder, name, content):
    (folder / name).write_bytes(content)
    fit_sizes(folder)


def cut_graph_and_fit(folder):
    truncate(folder / "onnx/model.onnx", 300)
    fit_sizes(folder)


def link_out(folder):
    target = folder.parent / "elsewhere.json"
    (folder / "tokenizer.json").rename(target)
    (folder / "tokenizer.json").symlink_to(target)


def link_loop(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("tokenizer.json")


def make_folder(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").mkdir()


def make_pipe(folder):
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


DAMAGE = {
    "no manifest": (lambda f: (f / MANIFEST_NAME).unlink(), "does not exist; a bundle is a folder made by cls-export"),
    "broken JSON": (lambda f: (f / MANIFEST_NAME).write_text('{"schema_version": 1,'), "not valid JSON"),
    "not UTF-8": (lambda f: (f / MANIFEST_NAME).write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "endless nesting": (lambda f: (f / MANIFEST_NAME).write_text("[" * 200_000), "not valid JSON"),
    "another JSON": (lambda f: (f / MANIFEST_NAME).write_text("[1]"), "no schema_version"),
    "unknown schema": (lambda f: edit_manifest(f, lambda raw: raw.update(schema_version=2)), "schema version 2, this version .* reads 1"),
    "missing field": (lambda f: edit_manifest(f, lambda raw: raw.pop("outputs")), "no field 'outputs'"),
    "mistyped field": (lambda f: edit_manifest(f, lambda raw: raw.update(max_length="512")), "max_length is str, expected int"),
    "edited": (lambda f: edit_manifest(f, lambda raw: raw.update(max_length=12)), "fingerprint"),
    "missing graph": (lambda f: (f / "onnx/model.onnx").unlink(), "has no file onnx/model.onnx"),
    "missing tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no file tokenizer.json"),
    "truncated graph": (lambda f: truncate(f / "onnx/model.onnx", 300), "model.onnx has 300 bytes, the manifest says"),
    "truncated tokenizer": (lambda f: truncate(f / "tokenizer.json", 9), "tokenizer.json has 9 bytes, the manifest says"),
    "truncated graph of fitting size": (cut_graph_and_fit, "model.onnx is not a graph that (ONNX Runtime|OpenVINO) reads"),
    "empty graph": (lambda f: replace_and_fit(f, "onnx/model.onnx", b""), "model.onnx is not a graph"),
    "pickle for a graph": (lambda f: replace_and_fit(f, "onnx/model.onnx", b"\x80\x04\x95\x0b"), "model.onnx is not a graph"),
    "broken tokenizer": (lambda f: replace_and_fit(f, "tokenizer.json", b'{"model": 1}'), "tokenizer.json is not a tokenizer of a bundle"),
    "tokenizer that is no JSON": (lambda f: replace_and_fit(f, "tokenizer.json", b"\xff"), "tokenizer.json is not a tokenizer of a bundle"),
    "broken tokenizer config": (lambda f: replace_and_fit(f, "tokenizer_config.json", b"{"), "tokenizer_config.json is not valid JSON"),
    "config that is a list": (lambda f: replace_and_fit(f, "tokenizer_config.json", b"[]"), "holds a list, expected an object"),
    "no pad token": (lambda f: replace_and_fit(f, "tokenizer_config.json", b"{}"), "pad_token None"),
    "unknown pad token": (lambda f: replace_and_fit(f, "tokenizer_config.json", b'{"pad_token": "<pad>"}'), "pad_token '<pad>'"),
    "path goes up": (lambda f: edit_manifest(f, rename_graph("../model.onnx")), r"'../model.onnx', which leaves the folder"),
    "path goes up inside": (lambda f: edit_manifest(f, rename_graph("onnx/../../model.onnx")), "leaves the folder"),
    "absolute path": (lambda f: edit_manifest(f, rename_graph("/etc/passwd")), "leaves the folder"),
    "drive letter": (lambda f: edit_manifest(f, rename_graph("C:model.onnx")), "leaves the folder"),
    "backslashes": (lambda f: edit_manifest(f, rename_graph("..\\model.onnx")), "leaves the folder"),
    "NUL in a path": (lambda f: edit_manifest(f, rename_graph("onnx/mo\0del.onnx")), "leaves the folder"),
    "empty path": (lambda f: edit_manifest(f, rename_graph("")), "leaves the folder"),
    "link that leaves": (link_out, "is a link that leaves the bundle"),
    "link to itself": (link_loop, "has no file tokenizer.json"),
    "folder for a file": (make_folder, "is not a regular file"),
    "pipe for a file": (make_pipe, "is not a regular file"),
    "variant without files": (lambda f: edit_manifest(f, lambda raw: raw["variants"]["fp32"].update(files=[])), "names no file"),
    "no variants": (lambda f: edit_manifest(f, lambda raw: raw.update(variants={})), "no variant for onnxruntime"),
    "tokenizer not named": (lambda f: edit_manifest(f, lambda raw: raw.update(files=[])), "fingerprint|names no tokenizer.json"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_or_foreign_bundle_is_one_clear_error(own_bundle, name):
    damage, message = DAMAGE[name]
    Encoder.load(own_bundle, threads=1).close()  # whole before the damage
    damage(own_bundle)
    with pytest.raises(BundleError, match=message) as caught:
        Encoder.load(own_bundle, threads=1)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_outputs_that_the_graph_lacks(make_bundle):
    folder, other = make_bundle(), make_bundle(outputs=("sentence_embedding",))
    shutil.copy(other / "onnx/model.onnx", folder / "onnx/model.onnx")
    fit_sizes(folder)
    with pytest.raises(BundleError, match=r"has outputs last_hidden_state, sentence_embedding, the manifest says .*pooler_output"):
        Encoder.load(folder, threads=1)


def test_max_length_must_leave_room(make_bundle):
    folder = make_bundle(max_length=3)
    with pytest.raises(BundleError, match="max_length 3, a pair needs more than 3 tokens"):
        Encoder.load(folder, threads=1)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(BundleError, match="does not exist; expected a folder"):
        Bundle.open(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="is a file; expected a folder"):
        Bundle.open(tmp_path / "file")


def test_a_link_inside_the_bundle_is_fine(own_bundle):
    (own_bundle / "tokenizer.json").rename(own_bundle / "real.json")
    (own_bundle / "tokenizer.json").symlink_to("real.json")
    assert Bundle.open(own_bundle).companion("tokenizer.json").name == "tokenizer.json"


def test_a_bundle_behind_a_link_is_fine(bundle, tmp_path):
    (tmp_path / "link").symlink_to(bundle)
    assert Bundle.open(tmp_path / "link").manifest == Bundle.open(bundle).manifest


def test_a_changed_byte_fails_the_hash_and_only_the_hash(own_bundle):
    path = own_bundle / "onnx/model.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    bundle = Bundle.open(own_bundle)
    with pytest.raises(IntegrityError, match=r"model.onnx has sha256 .*, the manifest says") as caught:
        bundle.check_hashes()
    assert caught.value.exit_code == 1
    with pytest.raises(IntegrityError):
        Bundle.open(own_bundle, check_hashes=True)


def test_whole_bundles_pass_the_hash_check(bundle):
    assert Bundle.open(bundle, check_hashes=True) == Bundle.open(bundle)


def test_a_variant_that_it_lacks_names_those_it_has(bundle):
    with pytest.raises(UsageError, match="no variant 'int8'; it has fp32"):
        Bundle.open(bundle).graph("int8", engine="onnxruntime")


def test_files_names_each_once(own_bundle):
    manifest = read_manifest(own_bundle)
    object.__setattr__(manifest, "files", (*manifest.files, *manifest.variants["fp32"].files))
    write_manifest(own_bundle, manifest)
    assert [file.path for file in Bundle.open(own_bundle).files()] == ["tokenizer.json", "tokenizer_config.json", "onnx/model.onnx"]
