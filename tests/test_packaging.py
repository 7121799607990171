"""The distribution: what it depends on, what is in its wheel, and that the import arrow holds."""

from __future__ import annotations

import ast
import contextlib
import email
import importlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cls_runtime import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "cls_exporter")
ENGINES = ("onnxruntime", "openvino")
MADE_OF_TORCH = ("cls_runtime.integrations.sentence_transformers.module",)  # a torch.nn.Module for a program that brings torch
HOSTS = ("langchain_core", "llama_index", "haystack", "chromadb", "lancedb", "txtai", "duckdb")
NOT_INSTALLED = (*ENGINES, *HOSTS)  # what a module of the runtime may import and not find


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]


def names(requirements: list[str]) -> list[str]:
    return [re.split(r"[\[<>=!~; ]", line)[0] for line in requirements]


def test_base_install_is_numpy_and_tokenizers_and_nothing_else(project: dict[str, Any]) -> None:
    assert sorted(names(project["dependencies"])) == ["numpy", "tokenizers"]


def test_every_extra_of_the_contract_exists_and_engines_stay_in_theirs(project: dict[str, Any]) -> None:
    extras = {name: set(names(lines)) for name, lines in project["optional-dependencies"].items()}
    assert set(extras) == {"cpu", "gpu", "openvino", "export", "jobs", "ray", "bench", "optimum", "hub", "serve", "native", "completion"}
    assert extras["cpu"] == {"onnxruntime"}
    assert extras["gpu"] == {"onnxruntime-gpu"}
    assert project["optional-dependencies"]["gpu"] == ["onnxruntime-gpu[cuda,cudnn]>=1.21"]  # 1.20 has none of these extras
    assert extras["openvino"] == {"openvino"}
    assert extras["native"] == {"cls-export-native"}
    assert {"torch", "transformers", "onnx", "onnx-ir"} <= extras["export"]
    for name in ("export", "jobs", "ray", "bench", "serve"):
        assert not extras[name] & {"onnxruntime", "onnxruntime-gpu"}, f"{name} would decide between the two onnxruntime wheels"


def test_what_the_exporter_imports_is_in_its_extra(project: dict[str, Any]) -> None:
    imported = set()
    for path in (ROOT / "exporter" / "cls_exporter").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [item.name for item in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {module.split(".")[0] for module in modules}
    others = imported - sys.stdlib_module_names - {"cls_exporter", "cls_runtime"}
    foreign = {"pyyaml" if name == "yaml" else name.replace("_", "-") for name in others}
    assert {"torch", "onnx-ir", "sympy"} <= foreign
    assert foreign <= set(names(project["dependencies"] + project["optional-dependencies"]["export"]))


def test_every_entry_point_is_a_function(project: dict[str, Any]) -> None:
    scripts = project["scripts"]
    assert set(scripts) >= {"cls-export", "cls-embed", "cls-verify", "cls-bench", "cls-doctor", "cls-serve"}
    for target in [*scripts.values(), *project["entry-points"]["cls_export.reference"].values()]:
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function)), target


@pytest.mark.parametrize("script", ["cls-export", "cls-embed", "cls-verify", "cls-bench", "cls-doctor", "cls-serve"])
def test_every_console_script_starts_its_command(project: dict[str, Any], script: str) -> None:
    module, function = project["scripts"][script].split(":")
    program = f"import sys; from {module} import {function}; sys.exit({function}())"
    done = subprocess.run([sys.executable, "-c", program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{script} ")


def test_constraints_pin_every_line_and_cover_the_dependencies(project: dict[str, Any]) -> None:
    for path in ROOT.glob("constraints*.txt"):
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        assert [line for line in lines if "==" not in line] == [], path.name
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    extras = project["optional-dependencies"]
    assert set(names(project["dependencies"] + extras["cpu"] + extras["serve"] + extras["export"])) <= pinned


def test_files_of_constraints_that_are_used_together_agree() -> None:
    general, jobs = (set((ROOT / f"constraints{name}.txt").read_text().splitlines()) for name in ("", "-jobs"))
    both = {line.split("==")[0].lower() for line in general if "==" in line} & {
        line.split("==")[0].lower() for line in jobs if "==" in line
    }
    assert {line for line in general if line.split("==")[0].lower() in both} == {
        line for line in jobs if line.split("==")[0].lower() in both
    }


def test_a_pin_that_the_oldest_python_cannot_install_has_a_marker() -> None:
    """Or pip finds no versions that go together there. Of those that are installed here."""
    unmarked = []
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if "==" in line and "python_version" not in line and not line.startswith("#"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                needed = importlib.metadata.metadata(line.split("==")[0]).get("Requires-Python") or ""
                unmarked += [line] if re.search(r">=? *3\.1[1-9]", needed) else []
    assert unmarked == []


def test_lowest_constraints_are_the_lower_bounds(project: dict[str, Any]) -> None:
    """The oldest environment tests what pyproject.toml promises; the first line for a package is the oldest Python's."""
    lowest: dict[str, str] = {}
    for line in (ROOT / "constraints-lowest.txt").read_text().splitlines():
        if "==" in line:
            name, version = line.split(";")[0].split("==", 1)
            lowest.setdefault(name, version.strip())
    extras = project["optional-dependencies"]
    promised = [line.split(">=") for line in project["dependencies"] + extras["cpu"] + extras["serve"]]
    assert {name: padded(bound) for name, bound in promised} == lowest


def test_the_exporters_lower_bounds_are_tested(project: dict[str, Any]) -> None:
    """torch's apart: pyproject.toml says why."""
    text = (ROOT / "constraints-transformers4.txt").read_text()
    pinned = dict(line.split(";")[0].strip().split("==", 1) for line in text.splitlines() if "==" in line)
    promised = dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in project["optional-dependencies"]["export"])  # type: ignore[union-attr]
    assert "torch" in pinned
    del promised["torch"]
    assert {name: padded(bound) for name, bound in promised.items()} == {name: padded(pinned[name]) for name in promised}


def padded(version: str) -> str:
    return ".".join([*version.split("."), "0"][:3])


# ---------------------------------------------------------------- the import arrow, by ruff


# (a folder's path, what a module there imports, whether that is against the arrow)
IMPORTS = [
    *[("runtime/cls_runtime", name, True) for name in HEAVY + ENGINES],
    *[("runtime/cls_runtime/commands", name, True) for name in HEAVY + ENGINES],
    *[("runtime/cls_runtime/engines", name, True) for name in HEAVY],
    *[("runtime/cls_runtime/engines", name, False) for name in ENGINES],
    *[("exporter/cls_exporter", name, True) for name in ENGINES],
    *[("exporter/cls_exporter", name, False) for name in ("torch", "transformers", "onnx_ir", "cls_runtime")],
    *[("runtime/cls_runtime/integrations", name, name != "torch") for name in HEAVY + ENGINES],
    ("runtime/cls_runtime", "numpy", False),
]
FORMS = {"import": "import {}\n", "from": "from {} import anything\n", "late": "def late() -> None:\n    import {}.part\n"}


def planted(folder: str, module: str, form: str) -> str:
    """Where a module with that import is planted in a copy of the tree."""
    return f"{folder}/{module}_{form}.py"


@pytest.fixture(scope="module")
def flagged(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The planted modules in which ruff finds a banned import, by the configurations of this tree, in a copy of nothing else."""
    copy = tmp_path_factory.mktemp("planted")
    for path in (ROOT / "pyproject.toml", *(path for part in ("exporter", "runtime") for path in (ROOT / part).rglob("ruff.toml"))):
        (copy / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / path.relative_to(ROOT))
    for folder, module, _ in IMPORTS:
        (copy / folder).mkdir(parents=True, exist_ok=True)
        for form, statement in FORMS.items():
            (copy / planted(folder, module, form)).write_text(statement.format(module))
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or "ruff"
    command = [ruff, "check", "--no-cache", "--select", "TID251,F401", "--output-format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=copy)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, set[str]] = {}
    for item in json.loads(done.stdout):
        found.setdefault(item["code"], set()).add(Path(item["filename"]).resolve().relative_to(copy.resolve()).as_posix())
    assert found["F401"] == {planted(folder, module, form) for folder, module, _ in IMPORTS for form in FORMS}  # ruff read every one
    return found["TID251"]


@pytest.mark.parametrize(("folder", "module", "banned"), IMPORTS)
@pytest.mark.parametrize("form", FORMS)
def test_ruff_flags_an_import_against_the_arrow(flagged: set[str], folder: str, module: str, banned: bool, form: str) -> None:
    assert (planted(folder, module, form) in flagged) is banned


# ---------------------------------------------------------------- the import arrow, by running


def heavy_modules_after_importing_all_of(source_root: Path, *, path: tuple[Path, ...] = ()) -> set[str]:
    """Imports every module of `source_root/cls_runtime` in a new process; the heavy ones that are loaded afterwards."""
    program = f"""
import pkgutil, sys
sys.path[:0] = {[str(source_root), *map(str, path)]!r}
import cls_runtime
assert cls_runtime.__path__ == [{str(source_root / "cls_runtime")!r}], cls_runtime.__path__
for found in pkgutil.walk_packages(cls_runtime.__path__, "cls_runtime."):
    if found.name in {MADE_OF_TORCH!r}:
        continue
    try:
        __import__(found.name)
    except ImportError as error:
        assert (error.name or "").split(".")[0] in {NOT_INSTALLED!r}, error
print(*(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_runtime_imports_nothing_heavy() -> None:
    assert heavy_modules_after_importing_all_of(ROOT / "runtime") == set()


@pytest.mark.parametrize("module", HEAVY)
def test_the_test_above_can_fail(module: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "runtime" / "cls_runtime", tmp_path / "cls_runtime")
    with open(tmp_path / "cls_runtime" / "bundle" / "parity.py", "a", encoding="utf-8") as file:
        file.write(f"\nimport {module}\n")
    stand_ins = tmp_path / "stand_ins"
    stand_ins.mkdir()
    (stand_ins / f"{module}.py").write_text("")  # fast, and there even where the real package is not
    assert heavy_modules_after_importing_all_of(tmp_path, path=(stand_ins,)) == {module}


# ---------------------------------------------------------------- the wheel, and the editable install


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = "import os, sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, str(folder)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_both_packages_whole_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to(root))
        for root in (ROOT / "exporter", ROOT / "runtime")
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "ruff.toml"
    }
    peers = ROOT / "benchmarks" / "peers"
    programs = [path for path in peers.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected |= {f"cls_runtime/bench/peer_programs/{path.relative_to(peers).as_posix()}" for path in programs}
    assert inside == expected
    assert {"cls_runtime/py.typed", "cls_exporter/py.typed", "cls_exporter/gate/texts/parity.txt"} <= inside


def test_the_wheels_metadata(wheel: zipfile.ZipFile, project: dict[str, Any]) -> None:
    assert (project["dynamic"], "version" in project) == (["version", "readme"], False)  # it stands in cls_runtime/__init__.py alone
    folder = f"cls_export-{__version__}.dist-info"
    metadata = email.message_from_bytes(wheel.read(f"{folder}/METADATA"))
    assert (metadata["Name"], metadata["Version"]) == ("cls-export", __version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert "Apache License" in wheel.read(f"{folder}/licenses/LICENSE").decode()
    requires = metadata.get_all("Requires-Dist", [])
    assert sorted(names([line for line in requires if "extra ==" not in line])) == ["numpy", "tokenizers"]
    assert "onnxruntime-gpu[cuda,cudnn]>=1.21; extra == 'gpu'" in requires
    assert {line.partition(",")[0] for line in metadata.get_all("Project-URL", [])} >= {"Homepage", "Documentation", "Changelog", "Issues"}


def test_the_index_shows_the_readme_with_links_that_work_there(wheel: zipfile.ZipFile) -> None:
    metadata = email.message_from_bytes(wheel.read(f"cls_export-{__version__}.dist-info/METADATA"))
    shown = metadata.get_payload()
    assert isinstance(shown, str)
    targets = re.findall(r'\]\(([^)]+)\)|(?:src|srcset)="([^"]+)"', shown)
    links = [link or image for link, image in targets]
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    own = [link.split(f"/v{__version__}/")[1].split("#")[0] for link in links if f"/cls-export/blob/v{__version__}/" in link]
    assert len(own) > 10
    assert [path for path in own if not (ROOT / path).exists()] == []


def test_no_environment_of_a_test_fetches_cudas_libraries() -> None:
    """They are gigabytes; an environment takes onnxruntime-gpu itself in the extra's place. Not `make gpu`'s, which has a GPU."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installing = [line for line in makefile.splitlines() if "$(call environment," in line]
    assert len(installing) > 8
    assert [line for line in installing if re.search(r"\[[^\]]*\bgpu\b", line) and "call environment,.venv-cuda," not in line] == []
    assert [line for line in makefile.splitlines() if re.match(r"[\w-]+:.*\.venv-cuda/", line)] == [
        line for line in makefile.splitlines() if line.startswith("gpu:")
    ]
    assert sum("onnxruntime-gpu" in line for line in installing) == 2


@pytest.mark.slow
def test_an_editable_install_works_for_type_checkers(tmp_path: Path) -> None:
    """mypy in another folder finds the types: the install is plain path lines, which tools can follow, not an import hook."""
    without_numpy = "[mypy-numpy.*]\nfollow_imports = skip\nfollow_imports_for_stubs = True\n"  # it takes half a minute to read
    (tmp_path / "mypy.ini").write_text(f"[mypy]\n{without_numpy}")
    (tmp_path / "user.py").write_text("from cls_runtime.bundle.parity import parity_figures\nreveal_type(parity_figures)\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--python-executable", sys.executable, "user.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ParityFigures" in done.stdout
