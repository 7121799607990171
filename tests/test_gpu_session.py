"""benchmarks/on_gpu/session.py with packages and steps made for it: what it sees, and what it goes on after."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from on_gpu import session
from on_gpu.session import Step


@pytest.fixture
def carried(tmp_path: Path) -> Path:
    folder = tmp_path / "carried"
    made = tmp_path / "made"
    for name in ("onnxruntime", "onnxruntime_gpu-2.dist-info"):
        (made / name).mkdir(parents=True)
    (made / "onnxruntime" / "__init__.py").write_text("wheel = 'gpu'")
    (made / "onnxruntime_gpu-2.dist-info" / "METADATA").write_text("Name: onnxruntime-gpu\nVersion: 2\n")
    folder.mkdir()
    with tarfile.open(folder / "ort.tar.gz", "w:gz") as archive:
        for path in made.iterdir():
            archive.add(path, path.name)
    with zipfile.ZipFile(folder / "newer-3-py3-none-any.whl", "w") as wheel:
        wheel.writestr("newer/__init__.py", "version = 3")
        wheel.writestr("newer-3.dist-info/METADATA", "Name: newer\nVersion: 3\n")
    return folder


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """What the machine has."""
    folder = tmp_path / "site-packages"
    for name in ("onnxruntime", "newer", "other", "nvidia"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("wheel = 'cpu'; version = 1")
    for name, version in (("onnxruntime", "1"), ("newer", "1"), ("other", "1")):
        (folder / f"{name}-{version}.dist-info").mkdir()
        (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    return folder


def said_by(python: Path, program: str) -> list[str]:
    return subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=True).stdout.split()


def test_carried_packages_are_taken_and_no_other_onnxruntime_is_seen(tmp_path: Path, carried: Path, packages: Path) -> None:
    python = session.make_environment(tmp_path / "environment", [carried], packages=[packages])
    program = """
import importlib.metadata, newer, onnxruntime, other
print(onnxruntime.wheel, newer.version, other.version, importlib.metadata.version("newer"))
print(*sorted(item.name for item in importlib.metadata.distributions()))
"""
    assert said_by(python, program) == ["gpu", "3", "1", "3", "newer", "onnxruntime-gpu", "other"]
    site = Path(said_by(python, "import onnxruntime; print(onnxruntime.__file__)")[0]).parents[1]
    assert (site / "nvidia").is_dir(), "where onnxruntime looks for CUDA's libraries"


def planned(*commands: tuple[str, str, float]):
    return lambda python, **_: [Step(name, [sys.executable, "-c", program], limit_s) for name, program, limit_s in commands]


def test_no_step_stops_another(tmp_path: Path, carried: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(("fails", "raise SystemExit(3)", 60), ("hangs", "import time; time.sleep(600)", 0.5), ("works", "print('figures')", 60))
    out = tmp_path / "out"
    given = ["--carried", str(carried), "--out", str(out), "--work", str(tmp_path / "work")]
    assert session.main(given, plan=plan) == 1
    told = capsys.readouterr().out
    assert "fails: ended with 3" in told
    assert "hangs: cut off after 0 s" in told
    assert "works: ok" in told
    assert "figures" in (out / "session.log").read_text()


def test_what_there_is_no_time_for_is_named(tmp_path: Path, carried: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--carried", str(carried), "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--minutes", "0.1"]
    assert session.main([*given, "--only", "late"], plan=planned(("first", "", 60), ("late", "", 60))) == 1
    told = capsys.readouterr().out
    assert "late: left out, no time" in told
    assert "first" not in told


def test_every_test_for_a_gpu_and_every_part_of_the_benchmark_has_its_step(tmp_path: Path) -> None:
    import gpu

    steps = session.steps(Path("python"), out=tmp_path, work=tmp_path, checkpoint=tmp_path)
    told = [word for step in steps for word in step.command]
    parts = [word for step in steps if "--only" in step.command for word in step.command[step.command.index("--only") + 1 :]]
    assert sorted(parts) == sorted(gpu.PARTS)
    marked = [path for path in (session.ROOT / "tests").rglob("test_*.py") if "pytest.mark." + "gpu" in path.read_text(encoding="utf-8")]
    assert marked
    assert {str(path) for path in marked} <= set(told)
    assert all(Path(word).exists() for word in told if word.endswith(".py"))
