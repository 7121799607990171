"""What `make release` refuses, and that the workflows ask for what is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import release

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout in which everything says 1.2.0."""
    for name in release.VERSIONS:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text('"""It."""\n\n__version__ = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.0] - 2026-01-01\n\n## [1.1.0] - 2025-01-01\n")
    return tmp_path


def test_one_version_everywhere(root: Path) -> None:
    assert release.version_of(root) == "1.2.0"
    assert release.version_of() == release.version_of(ROOT)


@pytest.mark.parametrize("name", [*release.VERSIONS, "CHANGELOG.md"])
def test_another_version_is_refused(root: Path, name: str) -> None:
    (root / name).write_text((root / name).read_text().replace("1.2.0", "1.3.0"))
    with pytest.raises(ValueError, match=rf"the versions differ: .*{re.escape(name)} says 1\.3\.0"):
        release.version_of(root)


def test_entries_that_belong_to_no_release_are_refused(root: Path) -> None:
    changelog = root / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("## [1.2.0]", "## [Unreleased]\n\n- Something.\n\n## [1.2.0]", 1))
    with pytest.raises(ValueError, match="CHANGELOG.md says Unreleased"):
        release.version_of(root)


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_version_that_is_tagged_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "ROOT", tmp_path)
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "one")
    release.check_tag("1.2.0")
    git(tmp_path, "tag", "v1.2.0")
    release.check_tag("1.2.0")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "two")
    with pytest.raises(ValueError, match=r"v1\.2\.0 is tagged at [0-9a-f]{12} already"):
        release.check_tag("1.2.0")


def test_what_fails_ends_the_release_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def failing(*_: str) -> None:
        subprocess.run([sys.executable, "-c", "raise SystemExit(3)"], check=True)

    monkeypatch.setattr(release, "check_tag", lambda version: None)
    monkeypatch.setattr(release, "_run", failing)
    assert release.main([]) == 1
    assert "error: Command" in capsys.readouterr().err


def test_a_program_that_is_not_there_ends_the_release_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "python")
    monkeypatch.setattr(release, "check_tag", lambda version: None)
    monkeypatch.setattr(release, "build", lambda folder: release._run(missing))
    assert release.main([]) == 1
    assert "No such file" in capsys.readouterr().err


def workflow(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((WORKFLOWS / name).read_text(encoding="utf-8"))
    return document


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.name)
def test_a_workflow_runs_what_a_person_runs(path: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    steps = [step for job in workflow(path.name)["jobs"].values() for step in job["steps"]]
    asked = {name for step in steps for name in re.findall(r"^make ([a-z-]+)", step.get("run", ""), re.MULTILINE)}
    assert asked <= targets
    assert workflow(path.name)["permissions"] == {"contents": "read"}


def test_every_python_that_is_promised_is_in_the_matrix() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    promised = set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text))
    jobs = workflow("ci.yml")["jobs"]
    (setup,) = [step for step in jobs["all"]["steps"] if "setup-python" in step.get("uses", "")]
    assert {*jobs["fast"]["strategy"]["matrix"]["python"], setup["with"]["python-version"]} == promised


def test_publishing_needs_no_password() -> None:
    publish = workflow("release.yml")["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert "secrets." not in (WORKFLOWS / "release.yml").read_text(encoding="utf-8")
    names = {
        re.search(r'^name = "(.*)"$', (ROOT / path).read_text(), re.MULTILINE)[1] for path in ("pyproject.toml", "native/pyproject.toml")
    }  # type: ignore[index]
    assert set(publish["strategy"]["matrix"]["project"]) == names
