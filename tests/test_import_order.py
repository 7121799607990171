"""Imports run one way within each package, as docs/architecture.md draws it: a folder knows what is made before it, never what uses it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Folders and modules at the top of each package, in the order in which they may import: each from the lines above its own. Those of one
# line do not know each other.
RUNTIME = [
    ("errors", "quantities", "suggestions"),
    ("option_checks",),
    ("bundle", "reading", "progress_bar"),
    ("engines",),
    ("encoding",),
    ("encoder",),
    ("verifying", "jobs", "integrations", "serving"),
    ("bench", "doctor", "pytest_plugin"),
    ("commands",),
    ("__main__",),
]
EXPORTER = [
    ("errors",),
    ("config",),
    ("checkpoint",),
    ("graph",),
    ("variants",),
    ("native",),
    ("gate",),
    ("native_variants",),
    ("writing",),
    ("exporting",),
    ("command",),
    ("start",),
    ("__main__",),
]
PACKAGES = {"cls_runtime": (ROOT / "runtime" / "cls_runtime", RUNTIME), "cls_exporter": (ROOT / "exporter" / "cls_exporter", EXPORTER)}


def imports_of(source: str, package: str) -> Iterator[tuple[str, str]]:
    """Each name that a module imports from a module of `package`, and that module; wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"{package}."):
            yield from ((item.name, str(node.module)) for item in node.names)


def public_names(package: str) -> dict[str, str]:
    """The module that each public name of a package comes from."""
    folder, _ = PACKAGES[package]
    return dict(imports_of((folder / "__init__.py").read_text(encoding="utf-8"), package))


def parts_imported(source: str, package: str) -> Iterator[str]:
    """The folders and modules at the top of `package` that a module imports, wherever in it; a public name stands for its module."""
    public = {"__version__": f"{package}.__init__", **public_names(package)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [item.name for item in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == package:
            names = [public.get(item.name, f"{package}.{item.name}") for item in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith(f"{package}."))


def against_the_order(sources: dict[str, str], package: str, order: Sequence[Sequence[str]]) -> list[str]:
    """`module imports part` for each import that does not point backwards. `sources` are modules by their path in the package."""
    place = {part: level for level, parts in enumerate(order) for part in parts}
    found = set()
    for path, source in sources.items():
        own = path.split("/")[0].removesuffix(".py")
        others = set(parts_imported(source, package)) - {own, "__init__"}
        found |= {f"{path} imports {part}" for part in others if not place[part] < place[own]}
    return sorted(found)


def sources_of(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*.py") if path != folder / "__init__.py")
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_and_module_has_its_place(package: str) -> None:
    folder, order = PACKAGES[package]
    there = {path.stem for path in folder.iterdir() if path.name not in {"__init__.py", "__pycache__", "py.typed", "ruff.toml"}}
    assert there == {part for parts in order for part in parts}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    folder, order = PACKAGES[package]
    assert against_the_order(sources_of(folder), package, order) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("bundle/planted.py", "from cls_runtime.encoder import Encoder"),
        ("bundle/planted.py", "import cls_runtime.reading.text_files"),
        ("engines/planted.py", "def late():\n    from cls_runtime.encoding.batching import pad"),
        ("encoder.py", "from cls_runtime import verifying"),
        ("bundle/planted.py", "from cls_runtime import Encoder"),
        ("encoder.py", "from cls_runtime import __version__, verify"),
        ("jobs/planted.py", "from cls_runtime.verifying.compare import compare_bundles"),
        ("bench/planted.py", "from cls_runtime.commands import shell"),
    ],
)
def test_an_import_against_the_order_is_found(path: str, line: str) -> None:
    assert len(against_the_order({path: line}, "cls_runtime", RUNTIME)) == 1
