"""The documentation: links resolve, versions agree, every command parses, and the README's tour runs as written."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from golden_bundle import build_golden_bundle

from cls_runtime import __version__

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = [
    *(page for folder in (".", "models", "benchmarks") for page in sorted((ROOT / folder).glob("*.md"))),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMAND = re.compile(r"^(?:\$ )?((?:cls-[a-z]+) .*)$")
FLAG = re.compile(r"--[a-z][a-z0-9-]+")
PACKAGES = {"cls_runtime": ROOT / "runtime" / "cls_runtime", "cls_exporter": ROOT / "exporter" / "cls_exporter"}
SOURCE_FOLDERS = ("exporter", "runtime", "tests", "scripts", "benchmarks", "docs")
# A bundle has a folder of this name too, so what a page names in it may be a bundle's.
KERNELS = "native"
# Of pages whose names must hold today; the changelog tells what once was.
CURRENT_PAGES = [page for page in PAGES if page.name not in {"CHANGELOG.md", "SECURITY.md"} and page.parent != ROOT / "models"]


def fenced(page: Path, language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def console_commands(page: Path) -> list[tuple[str, str]]:
    """What a reader types, and the first line that the page shows below it: the lines behind `$ ` in console blocks."""
    lines = [line for block in fenced(page, "console") for line in [*block.splitlines(), ""]]
    return [(line[2:], below) for line, below in zip(lines, [*lines[1:], ""], strict=True) if line.startswith("$ ")]


def commands_on(page: Path) -> Iterator[list[str]]:
    """Every `cls-...` command line of a page's code blocks, split; comments and redirections are cut off."""
    for block in re.findall(r"^```[a-z]*\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if found := COMMAND.match(line.strip()):
                yield shlex.split(re.split(r" [|>] ", found.group(1))[0], comments=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", text, re.MULTILINE) for target in target if target]
    broken = [target for target in targets if "://" not in target and not (page.parent / target.split("#")[0]).exists()]
    assert broken == []


def linked_pages(page: Path) -> set[Path]:
    """The files that a page links to."""
    return {(page.parent / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8"))}


def test_every_page_is_in_the_index() -> None:
    """Or in the README of its folder, which is in the index."""
    linked = linked_pages(ROOT / "docs" / "README.md")
    linked |= {page for folder in linked if folder.name == "README.md" and folder.is_file() for page in linked_pages(folder)}
    unlisted = [page for page in PAGES if page not in linked and page not in {ROOT / "docs" / "README.md", ROOT / "models" / "README.md"}]
    assert unlisted == []


def test_the_changelog_opens_with_this_version() -> None:
    released = re.findall(r"^## \[(\d[^\]]*)\] - (\d{4}-\d{2}-\d{2})$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert released, "no released version in CHANGELOG.md"
    assert released[0][0] == __version__


def test_the_changelog_has_keep_a_changelogs_headings_only() -> None:
    headings = re.findall(r"^### (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(headings) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    name = command.removeprefix("cls-")
    module = "cls_exporter.command" if name == "export" else f"cls_runtime.commands.{name}"
    with contextlib.suppress(SystemExit):
        importlib.import_module(module).main(["--help"])
    return capsys.readouterr().out


def test_every_flag_in_the_documentation_exists(capsys: pytest.CaptureFixture[str]) -> None:
    written = [(page.name, words) for page in PAGES for words in commands_on(page)]
    assert len(written) >= 5
    for page, (command, *words) in written:
        known = set(FLAG.findall(help_of(command, capsys)))
        flags = {word.split("=")[0] for word in words if word.startswith("--")}
        assert flags <= known, f"{page}: {command} has no {', '.join(flags - known)}"


def test_make_targets_in_the_documentation_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    written = {name for page in PAGES for name in re.findall(r"\bmake ([a-z][a-z0-9-]+)`", page.read_text(encoding="utf-8"))}
    written |= set(re.findall(r"^    make ([a-z][a-z0-9-]+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"setup", "check", "test", "demo", "bench"} <= written <= targets


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    done = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert set(told) == set(re.sub(r"\$\(.*\)", "", phony).split())
    assert told["check"] == "lint, formatting, types"
    assert len({line.index(told[line.split()[0]]) for line in done.stdout.splitlines()}) == 1  # aligned


def files_in(folder: Path) -> list[Path]:
    """The files below a folder, and the folders that hold one, by their path from there; what Python leaves behind is not counted."""
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return sorted({*files, *(parent for path in files for parent in path.parents if parent.name)})


def files_of_the_repository() -> list[str]:
    """The files and folders of the two packages and of those beside them: `/runtime/cls_runtime/encoder.py`, `/runtime/cls_runtime/`."""
    paths = [ROOT / folder / path for folder in (*SOURCE_FOLDERS, KERNELS) for path in (Path(), *files_in(ROOT / folder))]
    return [f"/{path.relative_to(ROOT).as_posix()}{'/' if path.is_dir() else ''}" for path in paths]


def is_defined(dotted: str) -> bool:
    """Whether `cls_runtime.encoding.batching` is a module, or `cls_runtime.encoding.batching.pad` something that is written in one."""
    package, *names = dotted.split(".")
    place = PACKAGES[package]
    while names and (place / names[0]).is_dir():
        place /= names.pop(0)
    if names and (place / f"{names[0]}.py").is_file():
        place /= f"{names.pop(0)}.py"
    source = place / "__init__.py" if place.is_dir() else place
    return not names or re.search(rf"\b{names[0]}\b", source.read_text(encoding="utf-8")) is not None


def stale_names(text: str, files: Sequence[str]) -> list[str]:
    """What a page names and the repository does not have.

    In backticks a Python file by the end of its path, and what is in a package or in a folder beside it by the whole path; wherever it is
    written a Python file by its whole path, and a module.
    """
    folders = "|".join([*SOURCE_FOLDERS, *PACKAGES])
    quoted = [name for name in re.findall(r"`([\w./-]+)`", text) if re.match(rf"(?:{folders})/|.*\.py$", name)]
    written = {*quoted, *re.findall(rf"(?<![\w/])(?:{folders})/[\w/-]+\.py\b", text)}
    ends = {name: name if Path(name).suffix or name.endswith("/") else f"{name}/" for name in written}
    stale = [name for name, end in ends.items() if not any(path.endswith(f"/{end}") for path in files)]
    modules = set(re.findall(r"\b(?:cls_runtime|cls_exporter)(?:\.[A-Za-z_]\w*)+", text))
    return sorted([*stale, *(name for name in modules if not is_defined(name))])


@pytest.mark.parametrize("page", CURRENT_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_modules_in_the_documentation_exist(page: Path) -> None:
    assert stale_names(page.read_text(encoding="utf-8"), files_of_the_repository()) == []


@pytest.mark.parametrize(
    "name",
    [
        "`gate.py`",
        "`gate/parity.py`",
        "`exporter/cls_exporter/passes/`",
        "`cls_exporter/integrations`",
        "`benchmarks/nothing.json`",
        "tests/commands/test_embed.py",
        "cls_runtime.batching",
        "from cls_exporter.integrations import ClsEncoderModule",
        "cls_runtime.bundle.parity.compare",
    ],
)
def test_a_stale_name_is_found(name: str) -> None:
    sound = "`encoding/batching.py`, `cls_runtime/engines/`, `docs/adr`, tests/test_docs.py, `onnx/model.onnx`, cls_runtime.bundle.parity"
    files = files_of_the_repository()
    assert stale_names(sound, files) == []
    assert len(stale_names(f"{sound} {name}", files)) == 1


def test_the_tree_in_the_architecture_is_the_folders_on_the_disk() -> None:
    (tree,) = re.findall(r"^```\n(exporter/cls_exporter/\n.*?)^```$", ARCHITECTURE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for block, package in zip(tree.split("\n\n"), ("cls_exporter", "cls_runtime"), strict=True):
        drawn, above = set(), ""
        for indent, name in re.findall(r"^( +)(\S+)", block, re.MULTILINE):
            above, path = (name, name) if len(indent) == 2 else (above, above + name)
            drawn.add(path.rstrip("/"))
        folder = PACKAGES[package]
        there = {
            path.as_posix() for path in files_in(folder) if (folder / path).is_dir() or (path.suffix == ".py" and len(path.parts) == 1)
        }
        assert drawn == there - {"__init__.py"}


def test_what_the_walks_name_is_defined() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for folder in PACKAGES.values() for path in folder.rglob("*.py"))
    defined = set(re.findall(r"^ *(?:async def|def|class) (\w+)|^([A-Z_]+) = ", source, re.MULTILINE))
    known = {name for names in defined for name in names if name}
    _, walks = ARCHITECTURE.read_text(encoding="utf-8").split("## A text: ")
    names = [name for name in re.findall(r"`([A-Za-z_][\w.]*)`", walks) if Path(name).suffix not in {".py", ".json", ".npz", ".h", ".cpp"}]
    named = {part for name in names for part in name.split(".")}
    assert len(named) > 50
    assert named <= known, f"not in the code: {', '.join(sorted(named - known))}"


@pytest.mark.parametrize("name", ["embed.md", "verify.md"])
def test_examples_that_load_a_bundle_run_as_written(name: str, tmp_path: Path) -> None:
    """On a tiny bundle under the names that the pages use."""
    pytest.importorskip("onnxruntime")
    shutil.copytree(build_golden_bundle(tmp_path / "models" / "all-MiniLM-L6-v2", max_length=48), tmp_path / "models" / "upgrade")
    examples = [example for example in fenced(ROOT / "docs" / "guides" / name, "python") if "models/all-MiniLM-L6-v2" in example]
    assert len(examples) >= 2
    for example in examples:
        done = subprocess.run([sys.executable, "-W", "error", "-c", example], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{example}\n{done.stdout}{done.stderr}"


def without_figures(text: str) -> str:
    """Times and rates differ from run to run; the words around them may not."""
    return re.sub(r"[0-9][0-9.,]*", "#", text)


@pytest.fixture
def readers_folder(minilm: Path, paraphrase: Path, tmp_path: Path) -> Path:
    """A folder in which the README's hub ids are local folders: real weights, and for the model with CLS pooling a smaller stand-in."""
    shutil.copytree(minilm, tmp_path / "sentence-transformers" / "all-MiniLM-L6-v2")
    stand_in = shutil.copytree(minilm, tmp_path / "BAAI" / "bge-small-en-v1.5", ignore=shutil.ignore_patterns("model*", "pytorch*"))
    shutil.copytree(paraphrase, stand_in, dirs_exist_ok=True)
    pooling = stand_in / "1_Pooling" / "config.json"
    modes = json.loads(pooling.read_text())
    pooling.write_text(json.dumps({**modes, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    (tmp_path / "texts.txt").write_text("one text\nanother one\n")
    return tmp_path


@pytest.mark.slow
def test_the_readme_runs_as_written(readers_folder: Path) -> None:
    readme = ROOT / "README.md"
    commands = [(line, below) for line, below in console_commands(readme) if not line.startswith(("pip ", "make "))]
    assert {line.split()[0] for line, _ in commands} >= {"cls-export", "cls-embed", "cls-verify", "cls-doctor"}
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    for line, below in commands:
        done = subprocess.run(["bash", "-c", line], cwd=readers_folder, env=environment, capture_output=True, text=True)
        assert done.returncode == (2 if below.startswith("error: ") else 0), f"{line}\n{done.stdout}{done.stderr}"
        if below != "..." and not below.startswith("$ "):
            assert without_figures(below) in without_figures(done.stdout + done.stderr), line
    snippets = fenced(readme, "python")
    assert snippets
    for snippet in snippets:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", snippet], cwd=readers_folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{snippet}\n{done.stdout}{done.stderr}"
