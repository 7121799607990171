"""The GitHub action: its YAML is read and its steps are run here, in their order, with a stand-in for actions/cache alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parent.parent
EXPRESSION = re.compile(r"\$\{\{ *(.*?) *\}\}")
# pip itself is not run: what it is asked to install is this checkout, with torch.
PIP = "import os, sys\nopen(os.environ['PIP_LOG'], 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"


@pytest.fixture(scope="module")
def action() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    return document


@dataclass
class Runner:
    """Runs a composite action as GitHub does: inputs with defaults, outputs of steps, `if`, and the cache in a folder."""

    action: Mapping[str, Any]
    work: Path
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    def run(self, **inputs: str) -> subprocess.CompletedProcess[str] | None:
        """Runs the steps; the first that fails, or None."""
        known = {name: str(entry.get("default", "")) for name, entry in self.action["inputs"].items()}
        assert set(inputs) <= set(known)
        values = {f"inputs.{name}": value for name, value in (known | inputs).items()}
        self.outputs, self.ran = {}, []
        saved: tuple[Path, Path] | None = None
        for step in self.action["runs"]["steps"]:
            if "if" in step and not self._condition(step["if"]):
                continue
            self.ran.append(step["id"])
            if "uses" in step:
                assert step["uses"].startswith("actions/cache@")
                path, key = (self._filled(step["with"][name], values) for name in ("path", "key"))
                saved = (self.work / path, self.work / ".cache" / key)
                self.outputs[step["id"]] = {"cache-hit": "true" if saved[1].exists() else ""}
                if saved[1].exists():
                    shutil.copytree(saved[1], saved[0], dirs_exist_ok=True)
                continue
            done = self._shell(step, values)
            if done.returncode:
                return done
        if saved is not None and not saved[1].exists():
            shutil.copytree(*saved)
        return None

    def _shell(self, step: Mapping[str, Any], values: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        assert step["shell"] == "bash"
        output = self.work / f"{step['id']}.out"
        output.write_text("")
        (self.work / "stand_ins").mkdir(exist_ok=True)
        (self.work / "stand_ins" / "pip.py").write_text(PIP)
        path = [self.work / "stand_ins", ROOT / "exporter", ROOT / "runtime"]
        environment = os.environ | {
            **{name: self._filled(value, values) for name, value in step["env"].items()},
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(output),
            "PIP_LOG": str(self.work / "pip.log"),
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "HF_HUB_OFFLINE": "1",
        }
        done = subprocess.run(["bash", "-e", "-c", step["run"]], cwd=self.work, env=environment, capture_output=True, text=True)
        self.outputs[step["id"]] = dict(line.split("=", 1) for line in output.read_text().splitlines())
        self.outputs[step["id"]]["log"] = done.stdout
        return done

    def _filled(self, text: str, values: Mapping[str, str]) -> str:
        def value(found: re.Match[str]) -> str:
            if output := re.fullmatch(r"steps\.(\w+)\.outputs\.([\w-]+)", found[1]):
                return self.outputs[output[1]][output[2]]
            return values[found[1]]

        return EXPRESSION.sub(value, text)

    def _condition(self, text: str) -> bool:
        found = re.fullmatch(r"steps\.(\w+)\.outputs\.([\w-]+) != '(\w+)'", text)
        assert found is not None, text
        return self.outputs[found[1]][found[2]] != found[3]


@pytest.fixture
def runner(action: dict[str, Any], tmp_path: Path) -> Runner:
    return Runner(action, tmp_path)


def test_every_expression_names_something_that_exists(action: dict[str, Any]) -> None:
    steps = action["runs"]["steps"]
    assert action["runs"]["using"] == "composite"
    identifiers = [step["id"] for step in steps]
    for expression in EXPRESSION.findall((ROOT / "action.yml").read_text()):
        kind, name, *_ = expression.split(".")
        assert (kind == "inputs" and name in action["inputs"]) or (kind == "steps" and name in identifiers), expression
    assert set(action["inputs"]) == {"model", "revision", "output", "options", "verify-options", "junit", "python"}


def test_no_input_is_pasted_into_a_command(action: dict[str, Any]) -> None:
    """An input such as `$(curl ...)` must stay a word: it reaches the steps as an environment variable only."""
    scripts = [step["run"] for step in action["runs"]["steps"] if "run" in step]
    assert len(scripts) == 4
    assert [script for script in scripts if "${{" in script] == []


def test_the_key_follows_model_revision_options_and_tool(runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import action as script

    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    keys = [
        script.cache_key("some/model", "", []),
        script.cache_key("other/model", "", []),
        script.cache_key("some/model", "abc", []),
        script.cache_key("some/model", "", ["abc"]),
        script.cache_key("some/model", "", ["--int8"]),
        script.cache_key(str(checkpoint), "", []),
    ]
    (checkpoint / "model.safetensors").write_bytes(b"changed")
    keys.append(script.cache_key(str(checkpoint), "", []))
    shutil.copytree(ROOT / "runtime", tmp_path / "tool" / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tool" / "pyproject.toml").write_text("")
    monkeypatch.setattr(script, "ROOT", tmp_path / "tool")
    keys.append(script.cache_key("some/model", "", []))
    with open(tmp_path / "tool" / "runtime" / "cls_runtime" / "parity.py", "a") as source:
        source.write("# another version\n")
    keys.append(script.cache_key("some/model", "", []))
    assert len(set(keys)) == len(keys)
    assert script.cache_key("some/model", "", []) == keys[-1]


@pytest.mark.parametrize(
    ("step", "environment", "message"),
    [("verify", {}, "`model` is empty"), ("deploy", {"CLS_MODEL": "some/model"}, "step 'deploy', expected key, install, export or verify")],
)
def test_misuse_ends_with_2(step: str, environment: dict[str, str], message: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "action.py"), step], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.slow
def test_export_cache_and_verify_from_end_to_end(runner: Runner, tmp_path: Path) -> None:
    import checkpoints

    checkpoints.make_checkpoint(tmp_path / "checkpoint")
    inputs = {"model": "checkpoint", "output": "models/mine", "options": "--pooler", "junit": "report.xml", "python": sys.executable}
    failed = runner.run(**inputs)
    assert failed is None, failed.stdout + failed.stderr
    assert runner.ran == ["key", "cache", "install", "export", "verify"]
    assert (tmp_path / "pip.log").read_text().splitlines()[-1] == f"install {ROOT}[export,cpu]"
    assert "golden pooler" in runner.outputs["verify"]["log"]
    assert (tmp_path / "report.xml").exists()
    assert runner.outputs["key"]["path"] == "models/mine"

    shutil.rmtree(tmp_path / "models")
    assert runner.run(**inputs) is None
    assert runner.ran == ["key", "cache", "install", "verify"]
    assert runner.outputs["cache"]["cache-hit"] == "true"
    assert (tmp_path / "pip.log").read_text().splitlines()[-1] == f"install {ROOT}[cpu]"  # no PyTorch to verify
    runner.run(**inputs, **{"verify-options": "--against checkpoint"})  # passes where the package is installed, not only on the path
    assert (tmp_path / "pip.log").read_text().splitlines()[-1] == f"install {ROOT}[export,cpu]"
    assert "--against checkpoint" in runner.outputs["verify"]["log"]

    graph = next((tmp_path / ".cache").iterdir()) / "onnx" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\x00")
    failed = runner.run(**inputs)
    assert failed is not None
    assert (runner.ran[-1], failed.returncode) == ("verify", 1)
    assert "sha256 differs" in failed.stderr


def test_a_hub_model_without_a_revision_is_warned_of(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "gh").write_text("")
    environment = {"CLS_MODEL": "some/model", "GITHUB_OUTPUT": str(tmp_path / "gh")}
    script = [sys.executable, str(ROOT / "scripts" / "action.py"), "key"]
    assert "::warning::some/model has no revision" in subprocess.run(script, env=environment, capture_output=True, text=True).stdout
    pinned = environment | {"CLS_REVISION": "abc"}
    assert subprocess.run(script, env=pinned, capture_output=True, text=True).stdout == ""
