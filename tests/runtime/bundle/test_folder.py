import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import os
import pickle
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from bundle_builder import describe, write_manifest
from bundle_layouts import in_the_cache, linked, list_files, with_external_data

from cls_runtime import Bundle, BundleError, Encoder, IntegrityError, UsageError, verify
from cls_runtime.bundle.folder import ASIDE, staged_prefix
from cls_runtime.bundle.manifest import MANIFEST_NAME, read_manifest


def edit_manifest(folder, change):
    raw = json.loads((folder / MANIFEST_NAME).read_text())
    change(raw)
    (folder / MANIFEST_NAME).write_text(json.dumps(raw))


def edit_deciding(folder, change):
    """What the fingerprint covers, with a fingerprint that fits."""
    edit_manifest(folder, change)
    edit_manifest(folder, lambda raw: raw.pop("fingerprint"))
    write_manifest(folder, read_manifest(folder))


def rename_graph(path):
    def change(raw):
        raw["variants"]["fp32"]["files"][0]["path"] = path

    return change


def move_graph(folder, path):
    (folder / "onnx/model.onnx").rename(folder / path)
    edit_deciding(folder, rename_graph(path))


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
    "truncated graph of fitting size": (cut_graph_and_fit, r"model.onnx is not a graph that an export writes \(it is cut short\)"),
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
    "variant without files": (lambda f: edit_deciding(f, lambda raw: raw["variants"]["fp32"].update(files=[])), "names no file"),
    # ONNX Runtime takes it for a format of its own, whose form nobody has looked at.
    "graph of another format by its name": (
        lambda f: move_graph(f, "onnx/model.ort"),
        "has the graph 'onnx/model.ort', expected a name in .onnx",
    ),
    "no variants": (lambda f: edit_deciding(f, lambda raw: raw.update(variants={})), "no variant for .*; the bundle has none"),
    "tokenizer not named": (lambda f: edit_deciding(f, lambda raw: raw.update(files=[])), "names no tokenizer.json"),
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


@pytest.mark.parametrize("name", [MANIFEST_NAME, "tokenizer.json", "tokenizer_config.json", "onnx/model.onnx"])
def test_too_few_open_files_are_no_damage(own_bundle, monkeypatch, name):
    """Nobody shall copy or export a bundle again because the process has no more descriptors, or no more memory."""

    def refusing(opened):
        def refuse(path, *arguments, **options):
            if str(path).endswith(name):
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return opened(path, *arguments, **options)

        return refuse

    monkeypatch.setattr(os, "open", refusing(os.open))
    monkeypatch.setattr(Path, "open", refusing(Path.open))
    with pytest.raises(OSError, match="Too many open files"):
        Encoder.load(own_bundle, threads=1)


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


@pytest.mark.parametrize("name", ["nothing", "a zero \0", "x" * 300])
def test_a_folder_that_is_not_there(tmp_path, name):
    for opened in (Bundle.open, Encoder.load, verify):
        with pytest.raises(BundleError, match="does not exist; expected a folder"):
            opened(tmp_path / name)


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="is a file; expected a folder"):
        Bundle.open(tmp_path / "file")


@pytest.mark.parametrize("name", ["cls_export.json", "tokenizer.json", "onnx/model.onnx"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:7\nsize 9\n", "is a Git LFS pointer, not the file; run git lfs pull"),
        (b"<!doctype HTML><html>Sign in</html>", "is a saved web page (HTML), not the file"),
        (b"<?xml version='1.0'?><Error/>", "is an XML page"),
        (b"", "is empty"),
    ],
)
def test_a_file_that_was_not_fetched(own_bundle, name, content, words):
    (own_bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{re.escape(name)} {re.escape(words)}"):
        Encoder.load(own_bundle)


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


# ---------------------------------------------------------------- external data


def test_listed_external_data_is_read(own_bundle, encoder):
    with_external_data(own_bundle, "model.onnx_data")
    list_files(own_bundle, "onnx/model.onnx", "onnx/model.onnx_data")
    with Encoder.load(own_bundle, threads=1) as other:
        assert other.manifest.fingerprint != encoder.manifest.fingerprint
        np.testing.assert_allclose(other.encode(["the cat"]), encoder.encode(["the cat"]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "location",
    [
        "model.onnx_data",
        "./model.onnx_data",
        "../onnx/model.onnx_data",
        "../../outside.data",
        "/etc/passwd",
        "*/_ORT_MEM_ADDR_/*",
        "",
        "..\\model.onnx_data",
        "model.onnx_data\0",
        "file://model.onnx_data",
        "far/" * 2_000,
    ],
)
def test_external_data_that_the_manifest_does_not_name_is_refused(own_bundle, location):
    """Each in a bundle that lists the graph alone; nothing but the very path that is listed is read."""
    with_external_data(own_bundle, location)
    with pytest.raises(BundleError, match="reads its weights from .*which the manifest does not name beside it") as caught:
        Encoder.load(own_bundle, threads=1)
    assert len(str(caught.value)) < 600


def test_external_data_listed_as_a_companion_alone_is_refused(own_bundle):
    """It would have a hash, but the fingerprint would not cover it."""
    with_external_data(own_bundle, "model.onnx_data")
    manifest = read_manifest(own_bundle)
    files = (*manifest.files, describe(own_bundle, "onnx/model.onnx_data"))
    write_manifest(own_bundle, dataclasses.replace(manifest, files=files, fingerprint=""))
    with pytest.raises(BundleError, match="does not name beside it"):
        Encoder.load(own_bundle, threads=1)


def test_listed_external_data_behind_a_link_that_leaves_is_refused(own_bundle):
    data = with_external_data(own_bundle, "model.onnx_data")
    list_files(own_bundle, "onnx/model.onnx", "onnx/model.onnx_data")
    data.rename(own_bundle.parent / "outside.data")
    data.symlink_to(own_bundle.parent / "outside.data")
    with pytest.raises(BundleError, match="is a link that leaves the bundle"):
        Encoder.load(own_bundle, threads=1)


# ---------------------------------------------------------------- links that leave


@pytest.fixture
def with_weights_beside(own_bundle):
    with_external_data(own_bundle, "model.onnx_data")
    list_files(own_bundle, "onnx/model.onnx", "onnx/model.onnx_data")
    return own_bundle


def test_a_snapshot_in_the_hubs_cache_loads(with_weights_beside, tmp_path):
    snapshot = in_the_cache(with_weights_beside, tmp_path)
    with Encoder.load(with_weights_beside, threads=1) as expected, Encoder.load(snapshot, threads=1, check_hashes=True) as encoder:
        np.testing.assert_array_equal(encoder.encode(["the cat"]), expected.encode(["the cat"]))


@pytest.mark.parametrize("name", ["cls_export.json", "tokenizer.json", "onnx/model.onnx", "onnx/model.onnx_data"])
@pytest.mark.parametrize(
    "place",
    [
        *("models--org--other/blobs/file", "models--org--name/refs/file", "file", "models--org--name/blobs/link"),
        *("blobs/file", "blobs/ab/" + "cd" * 32, "models/blobs/cd/" + "cd" * 32),
    ],
)
def test_a_link_of_a_snapshot_to_elsewhere_is_refused(with_weights_beside, tmp_path, name, place):
    """Also one that leads to the blobs and from there to elsewhere."""
    snapshot = in_the_cache(with_weights_beside, tmp_path / "hub")
    target = tmp_path / "hub" / place
    target.parent.mkdir(parents=True, exist_ok=True)
    if place.endswith("link"):
        target.symlink_to(with_weights_beside / name)
    else:
        shutil.copy(with_weights_beside / name, target)
    (snapshot / name).unlink()
    (snapshot / name).symlink_to(target)
    with pytest.raises(BundleError, match=rf"{re.escape(name)} is a link that leaves the bundle \(to .*--follow-links"):
        Encoder.load(snapshot, threads=1)


@pytest.mark.parametrize("name", ["cls_export.json", "tokenizer.json", "onnx/model.onnx"])
def test_a_snapshot_whose_links_dangle(own_bundle, tmp_path, name):
    snapshot = in_the_cache(own_bundle, tmp_path)
    (snapshot / name).resolve().unlink()
    with pytest.raises(BundleError, match=rf"{re.escape(name)} is not downloaded \(it is a link into the hub's cache"):
        Encoder.load(snapshot)


def test_a_tree_of_links_loads_where_the_caller_says_so(with_weights_beside, tmp_path):
    farm = linked(with_weights_beside, tmp_path / "farm")
    with pytest.raises(BundleError, match="is a link that leaves the bundle"):
        Bundle.open(farm)
    with Encoder.load(with_weights_beside, threads=1) as expected, Encoder.load(farm, threads=1, follow_links=True) as encoder:
        np.testing.assert_array_equal(encoder.encode(["the cat"]), expected.encode(["the cat"]))
        with pickle.loads(pickle.dumps(encoder)) as copy:
            np.testing.assert_array_equal(copy.encode(["the cat"]), expected.encode(["the cat"]))


def test_following_links_checks_all_else(own_bundle, tmp_path):
    farm = linked(own_bundle, tmp_path / "farm")
    (farm / "tokenizer.json").unlink()
    os.mkfifo(farm / "tokenizer.json")
    with pytest.raises(BundleError, match="is not a regular file"):
        Bundle.open(farm, follow_links=True)
    truncate(own_bundle / "onnx/model.onnx", 300)
    (farm / "tokenizer.json").unlink()
    (farm / "tokenizer.json").symlink_to(own_bundle / "tokenizer.json")
    with pytest.raises(BundleError, match="has 300 bytes, the manifest says"):
        Bundle.open(farm, follow_links=True)


# ---------------------------------------------------------------- a bundle that is replaced


def aside(folder):
    """Where an export puts a bundle that it replaces, until the new one has its name."""
    return folder.with_name(f"{staged_prefix(folder)}0123456789abcdef{ASIDE}")


def exchange(folder, other):
    """As an export does it, in two steps."""
    folder.rename(aside(folder))
    other.rename(folder)
    aside(folder).rename(other)


@pytest.fixture
def two(make_bundle):
    """Two bundles of other weights."""
    return make_bundle(), make_bundle(change_weights=lambda weights: -weights)


@pytest.fixture
def without_descriptors(monkeypatch):
    """A system on which a folder that lost its name cannot be read."""
    monkeypatch.setattr("cls_runtime.bundle.folder.held_folder", contextlib.nullcontext)


def test_a_bundle_that_is_replaced_is_read_to_its_end(two):
    """Whatever has its name by now."""
    folder, other = two
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")

    def read(bundle):
        exchange(folder, other)
        return bundle.manifest, bundle.graph("fp32", engine="onnxruntime").read_bytes()

    manifest, graph = Bundle.read(folder, read)
    assert hashlib.sha256(graph).hexdigest() == manifest.variants["fp32"].files[0].sha256
    assert manifest == read_manifest(other)


def test_a_replaced_bundle_is_read_again(two, without_descriptors):
    """The first reading sees one manifest and the other bundle's files, and what it made is thrown away."""
    folder, other = two
    readings = []

    def read(bundle):
        if not readings:
            exchange(folder, other)
        readings.append(bundle.manifest.fingerprint)
        return bundle.manifest, (folder / "onnx/model.onnx").read_bytes()

    manifest, graph = Bundle.read(folder, read)
    assert len(readings) == 2
    assert hashlib.sha256(graph).hexdigest() == manifest.variants["fp32"].files[0].sha256


def test_a_bundle_that_comes_back_was_away(two, without_descriptors):
    folder, other = two
    readings = []

    def read(bundle):
        readings.append(bundle)
        if len(readings) == 1:
            time.sleep(0.02)  # a folder's time is the kernel's, which ticks
            exchange(folder, other)
            exchange(folder, other)

    Bundle.read(folder, read)
    assert len(readings) == 2


def test_an_error_in_a_replaced_bundle_is_forgotten(two):
    folder, other = two
    failures = []

    def read(bundle):
        if not failures:
            exchange(folder, other)
            failures.append(bundle)
            raise BundleError("half of each")
        return bundle

    assert Bundle.read(folder, read).manifest != failures[0].manifest


def test_an_error_in_a_bundle_that_stays_is_told_in_the_callers_words(own_bundle):
    def read(bundle):
        raise BundleError(f"{bundle.folder}/x is damaged")

    with pytest.raises(BundleError, match=f"^{own_bundle}/x is damaged"):
        Bundle.read(own_bundle, read)


def test_a_bundle_between_two_renames_is_waited_for(own_bundle):
    manifest = read_manifest(own_bundle)
    own_bundle.rename(aside(own_bundle))
    threading.Timer(0.1, lambda: aside(own_bundle).rename(own_bundle)).start()
    assert Bundle.read(own_bundle, lambda bundle: bundle.manifest) == manifest


def test_a_bundle_that_is_replaced_again_and_again_is_an_error(two, without_descriptors, monkeypatch):
    monkeypatch.setattr("cls_runtime.bundle.folder.READINGS", 3)
    with pytest.raises(BundleError, match="was replaced 3 times while it was read"):
        Bundle.read(two[0], lambda bundle: exchange(*two))


def test_every_load_is_of_one_bundle_while_another_takes_its_place(two):
    """Vectors tell whose graph it was, the fingerprint whose manifest: never of two."""
    folder, _ = two
    expected = {}
    for path in two:
        with Encoder.load(path, threads=1) as encoder:
            expected[encoder.manifest.fingerprint] = encoder.encode(["the cat"])
    assert len(expected) == 2
    done = threading.Event()
    current = folder.with_name("current")
    current.symlink_to(folder)

    def swap():
        for target in itertools.cycle(two):
            current.with_name("next").symlink_to(target)
            current.with_name("next").replace(current)
            if done.is_set():
                return

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(40):
            with Encoder.load(current, threads=1) as encoder:
                np.testing.assert_array_equal(encoder.encode(["the cat"]), expected[encoder.manifest.fingerprint])
    finally:
        done.set()
        swapping.join()
