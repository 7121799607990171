"""The forms on GitHub: each has what GitHub asks of a form, and every command, option and target that it names exists."""

from __future__ import annotations

import contextlib
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
GITHUB = ROOT / ".github"
CONFIG = GITHUB / "ISSUE_TEMPLATE" / "config.yml"
FORMS = sorted(path for path in CONFIG.parent.glob("*.yml") if path != CONFIG)
PAGES = [*FORMS, CONFIG, GITHUB / "PULL_REQUEST_TEMPLATE.md"]
PRIVATE_FORM = "https://github.com/cls-export/cls-export/security/advisories/new"
COMMAND = re.compile(r"\b(cls-(?:export|embed|verify|bench|doctor|serve))\b([^`\n]*)")


def form(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIG.parent / f"{name}.yml").read_text(encoding="utf-8"))


def labels(name: str) -> str:
    """The questions of a form."""
    return "\n".join(item["attributes"].get("label", "") for item in form(name)["body"])


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    module = "cls_exporter.command" if command == "cls-export" else f"cls_runtime.commands.{command.removeprefix('cls-')}"
    with contextlib.suppress(SystemExit):
        importlib.import_module(module).main(["--help"])
    return capsys.readouterr().out


def test_there_is_a_form_for_each_kind_of_issue() -> None:
    assert [path.stem for path in FORMS] == ["bug_report", "feature_request", "wrong_vectors"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_what_github_asks_of_one(path: Path) -> None:
    read = form(path.stem)
    assert set(read) == {"name", "description", "labels", "body"}
    questions = [item for item in read["body"] if item["type"] != "markdown"]
    assert questions
    for item in read["body"]:
        assert set(item) <= {"type", "id", "attributes", "validations"}
        assert item["type"] in {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    for item in questions:
        assert set(item["attributes"]) <= {"label", "description", "placeholder", "render", "value"}
        assert item["attributes"]["label"]
    ids = [item["id"] for item in questions]
    asked = [item["attributes"]["label"] for item in questions]
    assert len(set(ids)) == len(ids)
    assert len(set(asked)) == len(asked)


def test_a_bug_comes_with_the_doctors_report_and_wrong_vectors_with_the_checks() -> None:
    assert "`cls-doctor --json`" in labels("bug_report")
    assert "`cls-verify --json`" in labels("wrong_vectors")
    assert "Checkpoint" in labels("wrong_vectors").splitlines()


def test_a_vulnerability_is_reported_privately() -> None:
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    assert config["blank_issues_enabled"] is False
    assert PRIVATE_FORM in [link["url"] for link in config["contact_links"]]
    assert all(set(link) == {"name", "url", "about"} for link in config["contact_links"])
    for page in ("SECURITY.md", "CONTRIBUTING.md"):
        assert PRIVATE_FORM in (ROOT / page).read_text(encoding="utf-8")


def test_commands_options_and_targets_that_are_named_exist(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = {(command, flag) for command, rest in COMMAND.findall(text) for flag in re.findall(r"--[a-z][a-z0-9-]+", rest)}
    assert {("cls-doctor", "--json"), ("cls-verify", "--json"), ("cls-export", "--int8")} <= named
    for command, flag in sorted(named | {("cls-verify", "--against")}):
        assert flag in help_of(command, capsys), f"{command} has no {flag}"
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", text)) <= targets
    assert set(re.findall(r"`([a-z]+)/`", text)) <= {path.name for path in ROOT.iterdir()}
