"""Bundles go to the hub: into which repositories, in one commit, and what is told where it does not work."""

from __future__ import annotations

import json
import re
import shutil
import sys
import types
from pathlib import Path

import pytest
from bundle_builder import build_bundle
from hub_server import TOKEN, USER, Hub, files_of_folder

from cls_exporter import command
from cls_exporter.config import ExportReport
from cls_exporter.writing.hub_upload import HubTarget, check_target, upload
from cls_runtime import Encoder
from cls_runtime.bundle.manifest import MANIFEST_NAME, read_manifest
from cls_runtime.errors import HubError, UsageError

NAME = f"{USER}/tiny"
# huggingface_hub 2 gives its HTTP client a file in a way that this one does not like any more.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bundle(tmp_path_factory.mktemp("made") / "tiny")


@pytest.fixture
def mine(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, with somebody logged in."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.mark.parametrize("public", [False, True])
def test_a_bundle_is_uploaded_in_one_commit_and_loads_from_there(mine, bundle, public):
    target = check_target("tiny", public=public)
    assert target == HubTarget(repository=NAME, public=public)
    assert mine.repositories == {}, "nothing is made before the export"
    done = upload(bundle, target)
    repository = mine.repositories[NAME]
    assert repository.private is not public
    assert done.public is public
    assert (done.url, done.commit) == (f"{mine.url}/{NAME}", repository.refs["main"])
    assert {path: data for path, data in repository.head.items() if path != ".gitattributes"} == files_of_folder(bundle)
    assert len(repository.commits) == 2, "the one that made the repository, and one"
    with Encoder.load(NAME) as encoder:
        assert encoder.bundle.folder.name == done.commit
        assert encoder.encode(["a dog"]).shape == (1, 8)


def test_an_earlier_bundle_is_replaced_and_what_it_had_more_is_deleted(mine, bundle, tmp_path):
    earlier = build_bundle(tmp_path / "tiny", variants={"fp32": None, "int8": None})
    (earlier / "README.md").write_text("of somebody's own")
    upload(earlier, check_target(NAME))
    assert "onnx/model_int8.onnx" in mine.repositories[NAME].head
    upload(bundle, check_target(NAME))
    head = mine.repositories[NAME].head
    assert set(head) == {*files_of_folder(bundle), "README.md", ".gitattributes"}
    assert len(mine.repositories[NAME].commits) == 3


def test_names_with_the_letters_of_patterns_are_deleted_alone(mine, bundle):
    raw = json.loads((bundle / MANIFEST_NAME).read_bytes())
    raw["files"].append({"path": "[a]*.txt", "sha256": "0" * 64, "size_bytes": 1})
    others = {"a.txt": b"x", "aa.txt": b"x"}
    mine.add(NAME, {MANIFEST_NAME: json.dumps(raw).encode(), "[a]*.txt": b"x", **others}, private=True)
    upload(bundle, check_target(NAME, force=True))
    assert set(mine.repositories[NAME].head) == {*files_of_folder(bundle), *others}


def test_what_no_export_wrote_is_not_written_among_without_force(mine, bundle):
    mine.add(NAME, {"config.json": b"theirs", "model.safetensors": b"weights", "README.md": b"card", ".gitattributes": b""}, private=True)
    with pytest.raises(
        UsageError, match=rf"{NAME} on the hub holds 'config.json' and 1 more, which no export wrote; --force uploads anyway"
    ):
        check_target(NAME)
    assert len(mine.repositories[NAME].commits) == 1
    upload(bundle, check_target(NAME, force=True))
    assert set(mine.repositories[NAME].head) == {
        *files_of_folder(bundle),
        "config.json",
        "model.safetensors",
        "README.md",
        ".gitattributes",
    }


def test_a_card_alone_is_no_obstacle(mine, bundle):
    mine.add(NAME, {"README.md": b"card", ".gitattributes": b""}, private=True)
    upload(bundle, check_target(NAME))
    assert mine.repositories[NAME].head["README.md"] == b"card"


def test_a_repository_is_as_visible_as_was_said(mine, bundle):
    mine.add(NAME, {"README.md": b"card"})
    with pytest.raises(UsageError, match="is public, and uploads are private by default; add --public"):
        check_target(NAME)
    mine.add(NAME, {"README.md": b"card"}, private=True)
    with pytest.raises(UsageError, match="is private, so --public would change nothing"):
        check_target(NAME, public=True)
    target = check_target(NAME)
    mine.repositories[NAME].private = False
    with pytest.raises(HubError, match=r"the bundle is complete in .*tiny but not on the hub .*: .* is public, and uploads are private"):
        upload(bundle, target)
    assert len(mine.repositories[NAME].commits) == 1


def test_what_appears_in_the_repository_meanwhile_is_not_written_over(mine, bundle):
    mine.add(NAME, {"README.md": b"card"}, private=True)
    target = check_target(NAME)
    mine.before_answer[f"POST /api/models/{NAME}/commit/main"] = lambda: mine.repositories[NAME].commit({"README.md": b"another's"})
    with pytest.raises(HubError, match=r"HTTP 412"):
        upload(bundle, target)
    assert mine.repositories[NAME].head == {"README.md": b"another's"}


REFUSED = {
    "no name": ("my model", {}, "expected a repository of the hub, org/name or name"),
    "an address": ("https://huggingface.co/org/name", {}, "expected a repository of the hub"),
    "nobody logged in": (NAME, {"HF_TOKEN": ""}, "needs a token with write access; log in with `hf auth login`, or set HF_TOKEN"),
    "a wrong token": (NAME, {"HF_TOKEN": "hf_wrong"}, r"the hub refuses you \(HTTP 401\); .*log in"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_before_the_export(hub, monkeypatch, case):
    name, variables, expected = REFUSED[case]
    for key, value in {"HF_TOKEN": TOKEN, **variables}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises((UsageError, HubError), match=f"--push-to-hub {re.escape(name)}.*{expected}") as caught:
        check_target(name)
    assert "hf_wrong" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_offline_is_refused_before_the_export(mine, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="cannot be done while HF_HUB_OFFLINE is set"):
        check_target(NAME)
    assert mine.asked == []


@pytest.mark.parametrize("end", ["/api/repos/create", "/preupload/main", "/objects/batch", "/commit/main"])
@pytest.mark.parametrize("status", [403, 500])
def test_an_upload_that_fails_says_how_to_do_it_later(mine, bundle, monkeypatch, end, status):
    monkeypatch.setattr("time.sleep", lambda _: None)
    target = check_target(NAME)
    mine.faults[end] = status
    with pytest.raises(HubError) as caught:
        upload(bundle, target)
    message = str(caught.value)
    assert message.startswith(
        f"the bundle is complete in {bundle} but not on the hub (to upload it later: hf upload {NAME} {bundle} . --private)"
    )
    assert f"HTTP {status}" in message
    assert "\n" not in message
    assert TOKEN not in message
    assert all(".onnx" not in path for path in (mine.repositories[NAME].head if NAME in mine.repositories else ()))


# ---------------------------------------------------------------- the command


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Path) -> list[str]:
    """Stands where the export is, and writes the tiny bundle; the models that it was called for."""
    monkeypatch.chdir(tmp_path)
    called: list[str] = []

    def export(model: str, output: Path, **_: object) -> ExportReport:
        called.append(model)
        shutil.copytree(bundle, output)
        return ExportReport(path=Path(output), manifest=read_manifest(bundle), parity={}, rewrites={}, multiply_adds={})

    module = types.ModuleType("cls_exporter.exporting")
    module.export = export
    monkeypatch.setitem(sys.modules, "cls_exporter.exporting", module)
    return called


def test_the_command_says_where_it_went(mine, exporting, capsys):
    assert command.main(["bert", "--push-to-hub", "tiny"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"Uploaded to {mine.url}/{NAME}, private, commit {mine.repositories[NAME].refs['main']}"
    assert command.main(["bert", "-o", "again", "--push-to-hub", NAME, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["hub"] == {"url": f"{mine.url}/{NAME}", "commit": mine.repositories[NAME].refs["main"], "public": False}


def test_nothing_is_exported_for_a_repository_that_is_refused(mine, exporting, capsys):
    mine.add(NAME, {"config.json": b"{}"}, private=True)
    assert command.main(["bert", "--push-to-hub", NAME]) == 2
    assert "holds 'config.json', which no export wrote" in capsys.readouterr().err
    assert exporting == []
    assert not Path("models").exists()


def test_a_failed_upload_leaves_the_bundle(mine, exporting, capsys, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    mine.faults["/commit/main"] = 500
    assert command.main(["bert", "--push-to-hub", NAME]) == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith(
        "error: the bundle is complete in models/bert but not on the hub (to upload it later: hf upload "
    )
    assert Path("models/bert", MANIFEST_NAME).is_file()
    assert TOKEN not in said.err + said.out


def test_public_goes_with_a_repository(mine, exporting, capsys):
    assert command.main(["bert", "--public"]) == 2
    assert "--public goes with --push-to-hub" in capsys.readouterr().err
    assert exporting == []
