"""The documentation: links resolve, versions agree, it is short, and the options, targets and files that it names are there."""

from __future__ import annotations

import contextlib
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from code_blocks import blocks_on, command_lines, pages_with_code, typed
from site_links import anchors, targets

from cls_runtime import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = [
    *(page for folder in (".", "models", "benchmarks") for page in sorted((ROOT / folder).glob("*.md"))),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# Half of the 51,032 that there were before 0.2.0, tables and code included.
MOST_WORDS = 25_500
FLAG = re.compile(r"--[a-z][a-z0-9-]+")
PACKAGES = {"cls_runtime": ROOT / "runtime" / "cls_runtime", "cls_exporter": ROOT / "exporter" / "cls_exporter"}
SOURCE_FOLDERS = ("exporter", "runtime", "tests", "scripts", "benchmarks", "docs")
# A bundle has a folder of this name too, so what a page names in it may be a bundle's.
KERNELS = "native"
# Of pages whose names must hold today; the changelog tells what once was.
CURRENT_PAGES = [page for page in PAGES if page.name not in {"CHANGELOG.md", "SECURITY.md"} and page.parent != ROOT / "models"]


@pytest.mark.parametrize("page", sorted({*PAGES, *pages_with_code()}), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    """To a file that is there, and to a heading that it has."""
    assert broken_links(page.read_text(encoding="utf-8"), page) == []


def broken_links(text: str, page: Path) -> list[str]:
    broken = []
    for target in targets(text):
        name, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        file = (page.parent / name).resolve()
        if name and not file.exists():
            broken.append(target)
        elif anchor and (not name or file.suffix == ".md"):
            there = anchors(file.read_text(encoding="utf-8") if name else text)
            broken += [target] if anchor not in there else []
    return broken


@pytest.mark.parametrize(
    "link",
    ["[a](nothing.md)", "[a](../docs/nothing/)", "[a](#nothing)", "[a](README.md#nothing)", "[a]: nothing.md", '<img src="nothing.svg">'],
)
def test_a_broken_link_is_found(link: str) -> None:
    sound = "# Two `words`, one\n[a](#two-words-one) [b](../README.md) [c](https://host/x#y) `[d](nothing.md)`\n```\n[e](nothing.md)\n```\n"
    page = ROOT / "docs" / "new.md"
    assert broken_links(sound, page) == []
    assert len(broken_links(f"{sound}\n{link}\n", page)) == 1


def test_every_page_is_in_the_index() -> None:
    """Pages of programs and decisions are in the index of their folder, and that is in the index of all."""
    index, folders = ROOT / "docs" / "README.md", (ROOT / "docs" / "integrations", ROOT / "docs" / "adr")
    listed = [index, *(folder / "README.md" for folder in folders)]
    linked = {
        page: {(page.parent / target.split("#")[0]).resolve() for target in targets(page.read_text(encoding="utf-8"))} for page in listed
    }
    of_a_folder = {page for folder in folders for page in folder.glob("*.md") if page.name != "README.md"}
    assert [page for page in PAGES if page not in {*linked[index], *of_a_folder, index, ROOT / "models" / "README.md"}] == []
    assert [page for page in sorted(of_a_folder) if page not in linked[page.parent / "README.md"]] == []


def test_the_documentation_is_short() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert sum(len(page.read_text(encoding="utf-8").split()) for page in pages) <= MOST_WORDS


def test_the_readme_fits_a_screen_or_two_and_opens_with_a_chart() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert any(re.search(r"!\[|<img ", line) for line in lines[:45])


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
    """In blocks that run and in those that do not."""
    written = [(block, words) for page in pages_with_code() for block in blocks_on(page) for words in command_lines(block)]
    assert len(written) >= 5
    helps = {command: set(FLAG.findall(help_of(command, capsys))) for command in {words[0] for _, words in written}}
    for block, (command, *words) in written:
        flags = {word.split("=")[0] for word in words if word.startswith("--")}
        assert flags <= helps[command], f"{block}: {command} has no {', '.join(flags - helps[command])}"


def typed_lines() -> list[str]:
    """Every line that a reader types."""
    lines = [
        line for page in pages_with_code() for block in blocks_on(page) if block.language in {"console", "sh"} for line in typed(block)
    ]
    return [part.strip() for line in lines for part in line.command.replace("\\\n", " ").splitlines()]


def test_make_targets_in_the_documentation_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    written = {name for page in PAGES for name in re.findall(r"\bmake ([a-z][a-z0-9-]+)`", page.read_text(encoding="utf-8"))}
    written |= set(re.findall(r"^    make ([a-z][a-z0-9-]+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE))
    typed_words = [shlex.split(line, comments=True) for line in typed_lines() if line.startswith("make ")]
    written |= {word for _, *words in typed_words for word in words if "=" not in word and not word.startswith("-")}
    assert {"setup", "check", "test", "demo", "bench"} <= written <= targets


def test_extras_in_the_documentation_exist() -> None:
    extras = {*tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]}
    found = [re.findall(r"\bcls-export\[([a-z,-]+)\]", page.read_text(encoding="utf-8")) for page in pages_with_code()]
    written = {name for named in found for names in named for name in names.split(",")}
    assert {"cpu", "export"} <= written <= extras


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
    (tree,) = re.findall(
        r"^```text\n(exporter/cls_exporter/\n.*?)^```$", ARCHITECTURE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
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


def walks() -> str:
    """The section of the architecture that follows a text, a checkpoint, a row, a request and a sample."""
    (section,) = re.findall(r"^## Walks$(.*?)(?=^## )", ARCHITECTURE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return str(section)


def walk_steps() -> list[list[str]]:
    """Each line of the walks' blocks: a name, the file in one of the packages that defines it, and what happens there."""
    blocks = re.findall(r"^```text\n(.*?)^```$", walks(), re.DOTALL | re.MULTILINE)
    return [re.split("  +", line.strip(), maxsplit=2) for block in blocks for line in block.splitlines()]


def defined_names(files: Iterable[Path]) -> set[str]:
    """Functions, classes and constants, methods among them."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return {name for names in re.findall(r"^ *(?:async def|def|class) (\w+)|^([A-Z_]+) = ", source, re.MULTILINE) for name in names if name}


def test_each_step_of_a_walk_is_defined_in_its_file() -> None:
    steps = walk_steps()
    assert len(steps) > 50
    for step in steps:
        name, file, _ = step
        (path,) = [folder / file for folder in PACKAGES.values() if (folder / file).is_file()]
        assert {*name.split(".")} <= defined_names([path]), f"{file} does not define {name}"


def test_what_the_walks_say_of_a_step_names_what_is_defined() -> None:
    known = defined_names(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
    quoted = [name for name in re.findall(r"`([A-Za-z_][\w.]*)`", walks()) if Path(name).suffix != ".py"]
    told = re.findall(r"\b(?:[a-z]+_[a-z_]+|[A-Z][a-z]+[A-Z]\w+)\b", " ".join(words for _, _, words in walk_steps()))
    named = {part for name in [*quoted, *told] for part in name.split(".")} - {"_job", "PyTorch"}
    assert named >= {"RequestMerger", "submit", "TokenBatch", "run_on_ray", "ParityError"}
    assert named <= known, f"not in the code: {', '.join(sorted(named - known))}"
