"""Bundles on the hub: which files are asked for, of which commit, what is done without a network, and what goes wrong in which words."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundle_builder import describe, write_manifest
from bundle_layouts import in_the_cache
from golden_bundle import build_golden_bundle
from hub_server import TOKEN, Hub, files_of_folder
from native_bundle import NAMES, add_native
from native_library import needs_native

from cls_runtime import BundleError, Encoder, HubError, UsageError, compare_bundles, verify
from cls_runtime.bundle.manifest import MANIFEST_NAME, BundleFile, Manifest, read_manifest, to_json
from cls_runtime.bundle.typed_json import typed
from cls_runtime.engines.needed_files import graph_files
from cls_runtime.verifying.plan import combinations, verified_files

NAME = "org/name"
TEXTS = ["the cat sleeps", "a dog"]
COMPANIONS = {"tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with what a real one has: two variants, one of them in a second form and under a second name, golden vectors, a card."""
    folder = build_golden_bundle(tmp_path_factory.mktemp("full") / "name", variants={"fp32": None, "int8": None})
    for form in ("int8", "int8_openvino"):
        graph = onnx.load(folder / "onnx/model.onnx")
        graph.graph.name = form  # the same numbers, and another file
        onnx.save(graph, folder / f"onnx/model_{form}.onnx")
    shutil.copy(folder / "onnx/model_int8.onnx", folder / "onnx/model_quantized.onnx")
    (folder / "README.md").write_text("# name\n")
    manifest = read_manifest(folder)
    fp32 = dataclasses.replace(manifest.variants["fp32"], files=(describe(folder, "onnx/model.onnx"),))
    int8 = dataclasses.replace(
        fp32,
        files=(describe(folder, "onnx/model_int8.onnx"),),
        engine_files={"openvino": (describe(folder, "onnx/model_int8_openvino.onnx"),)},
    )
    files = (*manifest.files, describe(folder, "onnx/model_quantized.onnx"), describe(folder, "README.md"))
    write_manifest(folder, dataclasses.replace(manifest, variants={"fp32": fp32, "int8": int8}, files=files, fingerprint=""))
    return folder


@pytest.fixture
def there(hub: Hub, full: Path) -> Hub:
    """A hub that has it."""
    hub.add(NAME, files_of_folder(full))
    return hub


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The repository's folder in the cache, once something was fetched."""
    return tmp_path / "hf/hub/models--org--name"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library asks again at once."""
    sleep = time.sleep
    monkeypatch.setattr("time.sleep", lambda seconds: sleep(min(seconds, 0.01)))


def again(there: Hub, files: dict[str, bytes]) -> str:
    """Another commit on the main branch."""
    return there.repositories[NAME].commit(files)


def processed(program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A new process, which knows the hub by its environment alone."""
    command = [sys.executable, *program.split(), *arguments]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=120, check=False)


def refusal(outcome: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The one line of a command that was refused."""
    assert outcome.returncode == code, outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
    return outcome.stderr.removeprefix("error: ").strip()


# ---------------------------------------------------------------- what is fetched


def test_only_the_files_of_the_chosen_variant_are_fetched(there, full):
    with Encoder.load(full, variant="fp32") as expected, Encoder.load(NAME, variant="fp32") as encoder:
        np.testing.assert_array_equal(encoder.encode(TEXTS), expected.encode(TEXTS))
        assert encoder.manifest == expected.manifest
        assert {file.path for file in encoder.bundle.files()} == {"onnx/model.onnx", *COMPANIONS}
    asked = there.files_asked()
    assert set(asked) == {MANIFEST_NAME, "onnx/model.onnx", *COMPANIONS}
    assert asked[0] == MANIFEST_NAME, "the manifest says what else there is"


def test_auto_fetches_what_it_takes(there):
    with Encoder.load(NAME, engine="onnxruntime") as encoder:
        assert encoder.info.variant == "int8"
    assert [path for path in there.files_asked() if path.startswith("onnx/")] == ["onnx/model_int8.onnx"]


@needs_native
def test_the_native_engine_fetches_its_weights_and_no_graph(hub, full, tmp_path):
    hub.add(NAME, files_of_folder(add_native(Path(shutil.copytree(full, tmp_path / "native")))))
    with Encoder.load(NAME, engine="native", variant="fp32") as encoder, Encoder.load(full, variant="fp32") as expected:
        np.testing.assert_allclose(encoder.encode(TEXTS), expected.encode(TEXTS), rtol=0, atol=2e-6)
    assert set(hub.files_asked()) == {MANIFEST_NAME, NAMES["fp32"], *COMPANIONS}


@pytest.mark.parametrize(("engine", "graph"), [("onnxruntime", "onnx/model_int8.onnx"), ("openvino", "onnx/model_int8_openvino.onnx")])
def test_an_engine_gets_its_own_form(full, engine, graph):
    assert [file.path for file in graph_files(read_manifest(full), variant="int8", engine=engine)] == [graph]


def test_a_form_for_a_gpu_is_fetched_for_one_alone(full):
    manifest = read_manifest(full)
    own = dataclasses.replace(
        manifest.variants["int8"], engine_files={"cuda": (packed := BundleFile(path="onnx/packed.onnx", sha256="0" * 64, size_bytes=7),)}
    )
    manifest = dataclasses.replace(manifest, variants={**manifest.variants, "fp16": own}, fingerprint="")
    for engine in ("onnxruntime", "openvino"):
        assert graph_files(manifest, variant="fp16", engine=engine) == own.files
    assert packed not in verified_files(manifest, planned=combinations(manifest, variants=["fp16"]))
    assert graph_files(manifest, variant="fp16", engine="cuda") == (packed,)
    assert packed in verified_files(manifest, planned=None)


def test_what_is_in_the_cache_is_not_fetched_again(there):
    Encoder.load(NAME, variant="fp32").close()
    there.asked.clear()
    Encoder.load(NAME, variant="fp32").close()
    assert there.files_asked() == []
    assert there.files_asked("HEAD") == [MANIFEST_NAME], "whether the branch has moved is asked, and nothing else"
    there.asked.clear()
    Encoder.load(NAME, variant="int8", engine="onnxruntime").close()
    assert there.files_asked() == ["onnx/model_int8.onnx"]


def test_a_folder_of_the_same_name_wins(there, full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(full, tmp_path / NAME)
    Encoder.load(NAME, variant="fp32").close()
    assert there.asked == []


def test_what_can_only_be_a_path_is_not_looked_for_on_the_hub(there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (Path(NAME), f"./{NAME}", str(tmp_path / NAME), f"models/{NAME}", "my models/name", "org/name.git", "a--b"):
        with pytest.raises(BundleError, match="does not exist; expected a folder made by cls-export"):
            Encoder.load(name)
    assert there.asked == []


# ---------------------------------------------------------------- revisions


def with_another_card(full: Path) -> dict[str, bytes]:
    """The same vectors, another commit."""
    manifest, card = read_manifest(full), b"# another\n"
    files = tuple(
        dataclasses.replace(file, sha256=hashlib.sha256(card).hexdigest(), size_bytes=len(card)) if file.path == "README.md" else file
        for file in manifest.files
    )
    changed = to_json(dataclasses.replace(manifest, files=files))
    return files_of_folder(full) | {"README.md": card, MANIFEST_NAME: changed.encode()}


def test_a_revision_is_honoured(there, full):
    first = there.repositories[NAME].refs["main"]
    second = there.repositories[NAME].commit(with_another_card(full), branch="v2")
    for name, revision, commit in (
        (NAME, None, first),
        (NAME, "v2", second),
        (f"{NAME}@v2", None, second),
        (NAME, second, second),
        (NAME, second[:8], second),
        (f"https://huggingface.co/{NAME}/tree/v2", None, second),
    ):
        with Encoder.load(name, revision=revision, variant="fp32") as encoder:
            assert encoder.bundle.folder.name == commit
            assert encoder.bundle.name == f"{NAME}@{commit}"


def test_a_short_hash_is_found_on_the_hub_too(there):
    first = there.repositories[NAME].refs["main"]
    with Encoder.load(NAME, revision=first[:9], variant="fp32") as encoder:
        assert encoder.bundle.folder.name == first


def test_a_branch_that_moves_between_the_manifest_and_the_files_gives_one_commit(there, full):
    first = there.repositories[NAME].refs["main"]
    reversed_files = {path: data if path == MANIFEST_NAME else data[::-1] for path, data in files_of_folder(full).items()}
    there.before_answer[f"HEAD /org/name/resolve/{first}/tokenizer.json"] = lambda: again(there, reversed_files)
    with Encoder.load(full, variant="fp32") as expected, Encoder.load(NAME, variant="fp32", check_hashes=True) as encoder:
        np.testing.assert_array_equal(encoder.encode(TEXTS), expected.encode(TEXTS))
        assert encoder.bundle.folder.name == first
    assert there.repositories[NAME].refs["main"] != first


def test_a_revision_of_a_folder_is_wrong_usage(there, full):
    with pytest.raises(UsageError, match="revision v2 names a commit of a hub repository, and bundle .*name is a folder; leave one out"):
        Encoder.load(full, revision="v2")
    with pytest.raises(UsageError, match="org/name@v1 names the revision v1, and revision v2 another"):
        Encoder.load(f"{NAME}@v1", revision="v2")
    with pytest.raises(UsageError, match="is a folder"):
        Encoder.load("./missing", revision="v2")
    assert there.asked == []


def test_a_pickled_encoder_finds_its_commit_again(there, store):
    with Encoder.load(NAME, variant="fp32", threads=1) as encoder:
        expected, sent = encoder.encode(TEXTS), pickle.dumps(encoder)
    again(there, {"README.md": b"no bundle any more"})
    there.asked.clear()
    with pickle.loads(sent) as back:
        np.testing.assert_array_equal(back.encode(TEXTS), expected)
    assert there.asked == [], "all of that commit is in the cache"
    shutil.rmtree(store)
    with pickle.loads(sent) as back:
        np.testing.assert_array_equal(back.encode(TEXTS), expected)
    assert set(there.files_asked()) == {MANIFEST_NAME, "onnx/model.onnx", *COMPANIONS}


def test_a_fingerprint_is_held_to(there):
    with pytest.raises(BundleError, match="has fingerprint .* expected 0000"):
        Encoder.load(NAME, variant="fp32", fingerprint="0" * 64)


# ---------------------------------------------------------------- without a network

LOAD = "import sys; from cls_runtime import Encoder; print(Encoder.load(sys.argv[1], variant=sys.argv[2]).encode(['a dog']).sum())"


def test_offline_works_with_what_was_fetched(there, full):
    Encoder.load(NAME, variant="fp32").close()
    there.asked.clear()
    offline = {"HF_HUB_OFFLINE": "1"}
    outcome = processed("-c", LOAD, NAME, "fp32", **offline)
    assert outcome.returncode == 0, outcome.stderr
    with Encoder.load(full, variant="fp32") as encoder:
        assert float(outcome.stdout) == pytest.approx(encoder.encode(["a dog"]).sum(), rel=1e-5)
    said = refusal(processed("-m cls_runtime.commands.doctor", NAME, "--json", **offline))
    assert "onnx/model_int8.onnx of org/name@" in said
    assert said.endswith("HF_HUB_OFFLINE is set and the cache does not have it; fetch it once with the network on")
    said = refusal(processed("-m cls_runtime.commands.doctor", "org/other", "--json", **offline))
    assert "there is no folder org/other, and the hub does not give a bundle of this name: HF_HUB_OFFLINE is set" in said
    assert there.asked == []


@pytest.mark.slow  # the older huggingface_hub asks six times
def test_a_hub_that_is_not_reached_gives_what_is_in_the_cache(there):
    Encoder.load(NAME, variant="fp32").close()
    elsewhere = {"HF_ENDPOINT": "http://me:a-secret@127.0.0.1:9"}
    assert processed("-c", LOAD, NAME, "fp32", **elsewhere).returncode == 0
    start = time.monotonic()
    said = refusal(processed("-m cls_runtime.commands.doctor", "models/foo", "--json", **elsewhere))
    if metadata.version("huggingface-hub") >= "1":  # the older one has patience
        assert time.monotonic() - start < 15, "a mistyped folder is told soon"
    assert "there is no folder models/foo, and the hub does not give a bundle of this name: " in said
    assert said.endswith("check the network, a proxy, and HF_ENDPOINT")
    assert "a-secret" not in said


@pytest.mark.parametrize("links", [True, False])
def test_a_cache_that_was_laid_out_by_hand(full, tmp_path, links):
    """Without links it is as on Windows, where a snapshot holds the files themselves."""
    snapshot = in_the_cache(full, tmp_path / "hf/hub")
    repository = snapshot.parent.parent
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(snapshot.name)
    if not links:
        whole = shutil.copytree(snapshot, tmp_path / "whole")
        shutil.rmtree(snapshot)
        shutil.rmtree(repository / "blobs")
        shutil.move(whole, snapshot)
    for path in ("golden.npz", "onnx/model_quantized.onnx", "onnx/model_int8.onnx"):
        (snapshot / path).unlink()
    outcome = processed("-c", LOAD, NAME, "fp32", HF_HOME=str(tmp_path / "hf"), HF_HUB_OFFLINE="1")
    assert outcome.returncode == 0, outcome.stderr


def test_what_is_fetched_where_there_are_no_links(there, store, monkeypatch):
    """As on Windows: the snapshot has the files themselves."""
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda *_, **__: False)
    for _ in range(2):
        Encoder.load(NAME, variant="fp32", check_hashes=True).close()
    assert not any(path.is_symlink() for path in store.rglob("*"))
    (graph,) = store.glob("snapshots/*/onnx/model.onnx")
    graph.write_bytes(b"cut")
    with pytest.raises(BundleError, match=rf"delete {re.escape(str(graph))} and load the bundle again"):
        Encoder.load(NAME, variant="fp32")


def test_files_that_repositories_share_are_read(there, store):
    """huggingface_hub 2 keeps what is in Xet storage once for all repositories."""
    Encoder.load(NAME, variant="fp32").close()
    for blob in [blob for blob in (store / "blobs").iterdir() if len(blob.name) == 64]:
        shared = store.parent / "blobs" / blob.name[:2] / blob.name
        shared.parent.mkdir(parents=True)
        blob.rename(shared)
        blob.symlink_to(shared)
    Encoder.load(NAME, variant="fp32", check_hashes=True).close()


# ---------------------------------------------------------------- what goes wrong


def test_without_the_package_the_extra_is_named(there, tmp_path):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "huggingface_hub.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join([str(hidden), *filter(None, sys.path)])
    said = refusal(processed("-m cls_runtime.commands.doctor", "models/foo", "--json", PYTHONPATH=path))
    assert "there is no folder models/foo, and " in said
    assert said.endswith("that needs huggingface_hub, run: pip install 'cls-export[hub]'")


FAILURES: dict[str, tuple[dict[str, int | str], str, str]] = {
    "no such model": (
        {},
        "org/none",
        "there is no folder org/none, and the hub does not give .*: it has no org/none for you; check the name",
    ),
    "no such revision": ({}, f"{NAME}@v9", "org/name has no revision v9; name a branch, a tag or a commit that it has"),
    "a plain checkpoint": ({}, "org/plain", "the model org/plain on the hub is no bundle, .*to make a bundle of it: cls-export org/plain"),
    "private": ({}, "org/private", "it has no org/private for you; .*log in with `hf auth login` or HF_TOKEN"),
    "gated": ({}, "org/gated", "org/gated is gated; ask for access on its page"),
    "401": ({MANIFEST_NAME: 401}, NAME, r"the hub refuses you \(HTTP 401\); check the name, and .*log in"),
    "403 of a file": ({"tokenizer.json": 403}, NAME, r"tokenizer.json of org/name@.* the hub refuses you \(HTTP 403\)"),
    "404 of a file": ({"tokenizer.json": 404}, NAME, "tokenizer.json of org/name@.* cannot be fetched"),
    "429": ({MANIFEST_NAME: 429}, NAME, r"HTTP 429 \(.*\); try again later"),
    "500": ({MANIFEST_NAME: 500}, NAME, r"HTTP 500 \(.*\); try again later"),
    "500 of a file": ({"tokenizer.json": 500}, NAME, "tokenizer.json of org/name@.* cannot be fetched .*HTTP 500"),
    "slow": ({"HEAD /org/name/resolve/main/cls_export.json": "slow"}, NAME, "timed out.*check the network"),
    "a huge manifest": (
        {MANIFEST_NAME: "size"},
        NAME,
        r"cls_export.json of org/name on the hub has 1,000,000,000,000 bytes, expected at most",
    ),
    "a huge graph": (
        {"onnx/model.onnx": "size"},
        NAME,
        r"onnx/model.onnx of org/name@\w+ on the hub has 1,000,000,000,000 bytes, its manifest",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_each_failure_is_one_line_that_says_what_to_do(there, full, impatient, monkeypatch, capfd, case):
    faults, name, expected = FAILURES[case]
    there.add("org/plain", {"config.json": b"{}", "model.safetensors": b"weights"})
    there.add("org/private", files_of_folder(full), private=True)
    there.add("org/gated", files_of_folder(full), gated=True)
    there.faults.update(faults)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(BundleError) as caught:
        Encoder.load(name, variant="fp32")
    message = str(caught.value)
    assert re.search(expected, message), message
    assert "\n" not in message
    assert len(message) < 700
    assert "hf_wrong" not in message
    assert capfd.readouterr() == ("", ""), "the library says nothing of its own"
    assert not there.storage_tokens


def test_an_answer_that_is_cut_is_an_error_and_leaves_no_half_file(there, full, store, impatient):
    there.faults["/lfs/" + hashlib.sha256((full / "onnx/model.onnx").read_bytes()).hexdigest()] = "cut"
    with pytest.raises(HubError, match=r"onnx/model.onnx of org/name@.* cannot be fetched from the hub"):
        Encoder.load(NAME, variant="fp32")
    assert not list(store.glob("snapshots/*/onnx/*"))
    there.faults.clear()
    Encoder.load(NAME, variant="fp32", check_hashes=True).close()


def test_a_token_goes_to_the_hub_and_nowhere_else(hub, full, monkeypatch):
    hub.add(NAME, files_of_folder(full), private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    Encoder.load(NAME, variant="fp32").close()
    assert not hub.storage_tokens


def test_a_full_disk_names_the_cache(there, monkeypatch):
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full_disk)
    with pytest.raises(HubError, match=r"the disk of its cache is full \(.*hf/hub\); make room, or set HF_HOME"):
        Encoder.load(NAME, variant="fp32")


def test_a_cache_that_cannot_be_written_to(there, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "cache")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", refused)
    with pytest.raises(HubError, match=r"its cache cannot be written to \(.*Permission denied.*\); set HF_HOME"):
        Encoder.load(NAME, variant="fp32")


def test_a_cut_file_in_the_cache_is_found(there, store):
    Encoder.load(NAME, variant="fp32").close()
    (link,) = store.glob("snapshots/*/onnx/model.onnx")
    blob = link.resolve()
    blob.write_bytes(blob.read_bytes()[:100])
    with pytest.raises(BundleError, match=rf"has 100 bytes, the manifest says .*cache is damaged, delete {re.escape(str(blob))} and load"):
        Encoder.load(NAME, variant="fp32")
    blob.unlink()
    Encoder.load(NAME, variant="fp32", check_hashes=True).close()


# ---------------------------------------------------------------- repositories that mean harm


def with_manifest(full: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, bytes]:
    """The files, with a manifest that was edited and has a fingerprint that fits."""
    files = files_of_folder(full)
    raw = json.loads(files[MANIFEST_NAME])
    change(raw)
    raw.pop("fingerprint")
    return {**files, MANIFEST_NAME: to_json(typed(raw, Manifest, MANIFEST_NAME)).encode()}


@pytest.mark.parametrize(
    "path", ["../x", "../../../other/name/resolve/main/x", "/etc/passwd", "onnx/../../x", "C:x", "..\\x", "", ".", "x\0y"]
)
@pytest.mark.parametrize("where", ["companion", "fp32", "int8"])
def test_a_path_out_of_the_folder_is_refused_before_anything_is_asked_for(hub, full, path, where):
    def change(raw: dict[str, Any]) -> None:
        files = raw["files"] if where == "companion" else raw["variants"][where]["files"]
        files[0]["path"] = path

    hub.add(NAME, with_manifest(full, change))
    with pytest.raises(BundleError, match="which leaves the folder; do not use this bundle"):
        Encoder.load(NAME, variant="fp32")
    assert hub.files_asked() == [MANIFEST_NAME]


STRANGE = {
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "is a Git LFS pointer"),
    "a web page": (b"<!doctype html><html>", "is a saved web page"),
    "nothing": (b"", "is empty"),
    "no JSON": (b"{", "is not valid JSON"),
    "another schema": (b'{"schema_version": 9}', "schema version 9"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_manifest_that_is_none_stops_before_anything_else(hub, full, case):
    data, expected = STRANGE[case]
    hub.add(NAME, {**files_of_folder(full), MANIFEST_NAME: data})
    with pytest.raises(BundleError, match=expected):
        Encoder.load(NAME)
    assert set(hub.files_asked("HEAD")) == {MANIFEST_NAME}


def test_a_repository_whose_files_are_not_those_of_its_manifest(hub, full):
    files = files_of_folder(full)
    hub.add(NAME, {**files, "onnx/model.onnx": files["onnx/model.onnx"] + b"more"})
    with pytest.raises(
        BundleError, match=r"on the hub has [\d,]+ bytes, its manifest says [\d,]+; the repository is damaged or half replaced"
    ):
        Encoder.load(NAME, variant="fp32")
    assert "onnx/model.onnx" not in hub.files_asked(), "it is not even downloaded"
    hub.add(NAME, {**files, "onnx/model.onnx": files["onnx/model.onnx"][::-1]})
    with pytest.raises(BundleError):
        Encoder.load(NAME, variant="fp32", check_hashes=True)
    hub.add(NAME, {path: data for path, data in files.items() if path != "tokenizer.json"})
    with pytest.raises(BundleError, match=r"org/name@\w+ has no such file; the repository is damaged"):
        Encoder.load(NAME, variant="fp32")


def test_a_card_that_was_changed_on_the_hubs_page_is_no_damage(hub, full):
    hub.add(NAME, {**files_of_folder(full), "README.md": b"# rewritten by its owner"})
    Encoder.load(NAME, variant="fp32", check_hashes=True).close()
    assert verify(NAME, variants=["fp32"], engines=["onnxruntime"]).passed
    assert [check.name for check in verify(NAME, engines=["onnxruntime"]).failures] == ["files"], "the whole bundle it is not"


# ---------------------------------------------------------------- commands, and whatever else takes a bundle


def test_verify_fetches_what_it_verifies(there):
    report = verify(NAME, variants=["fp32"], engines=["onnxruntime"])
    assert report.passed, report.failures
    fetched = {"golden.npz", "onnx/model.onnx", *COMPANIONS}
    assert set(there.files_asked()) == {MANIFEST_NAME, *fetched}
    assert report.checks[0].message.startswith(f"{len(fetched)} files")
    assert verify(NAME, engines=["onnxruntime"]).passed
    rest = {"README.md", "onnx/model_int8.onnx", "onnx/model_int8_openvino.onnx", "onnx/model_quantized.onnx"}
    assert set(there.files_asked("HEAD")) == {MANIFEST_NAME, *fetched, *rest}


@pytest.mark.parametrize("path", ["tokenizer.json", "onnx/model.onnx", "golden.npz", MANIFEST_NAME])
def test_a_damaged_repository_is_a_failed_check(hub, full, path):
    hub.add(NAME, {**files_of_folder(full), path: b"x"})
    report = verify(NAME, variants=["fp32"], engines=["onnxruntime"])
    assert [check.name for check in report.failures] == ["files"]


def test_two_revisions_are_compared(there, full):
    first, second = there.repositories[NAME].refs["main"], again(there, with_another_card(full))
    found = compare_bundles(f"{NAME}@{first}", f"{NAME}@{second}", variant="fp32")
    assert found.interchangeable
    assert (found.first.bundle.name, found.second.bundle.name) == (first, second)


def test_commands_take_a_name_and_a_revision(there, full, tmp_path):
    first = there.repositories[NAME].refs["main"]
    again(there, {"README.md": b"no bundle any more"})
    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    arguments = [NAME, str(tmp_path / "t.txt"), "-o", str(tmp_path / "v.npy"), "--variant", "fp32"]
    assert "is no bundle" in refusal(processed("-m cls_runtime.commands.embed", *arguments))
    outcome = processed("-m cls_runtime.commands.embed", *arguments, "--revision", first)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    with Encoder.load(full, variant="fp32") as encoder:
        expected = encoder.encode(TEXTS)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-6)
    outcome = processed("-m cls_runtime.commands.verify", NAME, "--revision", first, "--variant", "fp32", "--engine", "onnxruntime")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    outcome = processed("-m cls_runtime.commands.doctor", f"{NAME}@{first}")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    said = refusal(processed("-m cls_runtime.commands.verify", str(full), "--revision", "v2"))
    assert said.startswith("--revision v2 names a commit of a hub repository, and bundle ")
    assert refusal(processed("-m cls_runtime.commands.doctor", "--revision", "v2")).startswith("--revision goes with a BUNDLE to try")


@pytest.mark.slow
def test_the_benchmark_takes_a_name(there, tmp_path):
    options = ("--quick", "--count", "8", "--rounds", "1", "--variant", "fp32", "--engine", "onnxruntime", "--threads", "1")
    outcome = processed("-m cls_runtime.commands.bench", NAME, *options, "--json", str(tmp_path / "bench.json"))
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert set(there.files_asked()) == {MANIFEST_NAME, "golden.npz", "onnx/model.onnx", *COMPANIONS}


def test_corpus_jobs_take_a_name(there, full, tmp_path):
    pytest.importorskip("pyarrow")
    from cls_runtime.jobs.job import run_job
    from cls_runtime.jobs.options import JobOptions

    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    inputs, out, options = [str(tmp_path / "t.txt")], str(tmp_path / "out"), JobOptions(variant="fp32")
    assert run_job(NAME, inputs, out, options=options).total.rows == len(TEXTS)
    assert run_job(full, inputs, out, options=options).resumed_rows == len(TEXTS), "it is the same job"


def test_a_job_names_the_commit_to_its_workers(there, full, tmp_path):
    pytest.importorskip("pyarrow")
    from cls_runtime.jobs import job
    from cls_runtime.jobs.options import JobOptions

    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    tasks = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(job, "run_local", lambda task, *_: tasks.append(pickle.loads(pickle.dumps(task))))
        job.run_job(NAME, [str(tmp_path / "t.txt")], str(tmp_path / "out"), options=JobOptions(variant="fp32"))
    assert tasks[0].bundle == f"{NAME}@{there.repositories[NAME].refs['main']}"
    again(there, {"README.md": b"no bundle any more"})
    with Encoder.load(full, variant="fp32") as expected, tasks[0].load_encoder() as encoder:
        np.testing.assert_allclose(encoder.encode(TEXTS), expected.encode(TEXTS), atol=1e-6)


def test_record_batches_fetch_the_graph_only_where_they_are_embedded(there):
    pa = pytest.importorskip("pyarrow")
    from cls_runtime.jobs import EmbedBatches

    first = there.repositories[NAME].refs["main"]
    embed = EmbedBatches(NAME, variant="fp32")
    assert there.files_asked() == [MANIFEST_NAME]
    again(there, {"README.md": b"no bundle any more"})
    sent = pickle.loads(pickle.dumps(embed))
    assert sent.table(pa.table({"text": TEXTS})).num_rows == len(TEXTS)
    assert sent.encoder.bundle.folder.name == first


def test_sentence_transformers_saves_all_of_it(there, tmp_path):
    pytest.importorskip("torch")
    from cls_runtime.integrations.sentence_transformers import ClsEncoderModule

    module = ClsEncoderModule(Encoder.load(NAME, variant="fp32"))
    (tmp_path / "saved").mkdir()
    module.save(str(tmp_path / "saved"))
    loaded = ClsEncoderModule.load(str(tmp_path / "saved"))
    np.testing.assert_array_equal(loaded.encoder.encode(TEXTS), module.encoder.encode(TEXTS))
    assert (tmp_path / "saved/onnx/model_int8.onnx").is_file()
