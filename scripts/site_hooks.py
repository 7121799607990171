"""What mkdocs does to a page beyond Markdown: links as the site needs them, commands' help in place of its mark, folders in the menu.

A page says where a command's help goes:

    <!-- help: cls-export -->
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from site_links import PAGES_OUTSIDE, Site, outside_code, slug

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
HELP = re.compile(r"^<!-- help: (\S+) -->$", re.MULTILINE)
COLUMNS = 100
# GitHub needs a backslash before a | that stands in the code of a table; Python-Markdown shows it.
_TABLE_ROW = re.compile(r"^\|.*$", re.MULTILINE)
_CODE_IN_LINE = re.compile(r"`[^`\n]+`")


@cache
def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


@cache
def site() -> Site:
    """The site of this repository."""
    return Site(ROOT, project()["urls"]["Homepage"].rstrip("/"))


def on_config(config: Any) -> Any:
    """Names headings as GitHub does, and lists the pages of a folder wherever the menu names one."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    config.nav = [_listed(entry, Path(config.docs_dir)) for entry in config.nav]
    return config


def _listed(entry: Any, docs: Path) -> Any:
    if isinstance(entry, dict):
        return {title: _listed(value, docs) for title, value in entry.items()}
    if isinstance(entry, list):
        return [_listed(value, docs) for value in entry]
    if not entry.endswith("/"):
        return entry
    pages = sorted(path.relative_to(docs).as_posix() for path in (docs / entry).glob("*.md"))
    return sorted(pages, key=lambda name: not name.endswith("README.md"))


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages outside docs/, and the images that they show."""
    shown: set[str] = set()
    for path, name in PAGES_OUTSIDE.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text))
        shown |= set(site().images_of(text, path=path))
    for page in Path(config.docs_dir).rglob("*.md"):
        shown |= set(site().images_of(page.read_text(encoding="utf-8"), path=page.relative_to(ROOT).as_posix()))
    for image in sorted(shown):
        files.append(File.generated(config, site().page(image), abs_src_path=str(ROOT / image)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page as the site shows it."""
    outside = {name: path for path, name in PAGES_OUTSIDE.items()}
    path = outside.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    text = site().rewritten(markdown, path=path)
    text = _TABLE_ROW.sub(lambda row: _CODE_IN_LINE.sub(lambda code: code[0].replace("\\|", "|"), row[0]), text)
    return HELP.sub(lambda mark: f"```text\n{help_of(mark[1])}\n```", outside_code(text, _apart))


def _apart(prose: str) -> str:
    """A blank line after each comment, without which Python-Markdown takes what follows as a part of it; GitHub does not."""
    return re.sub(r"^(<!--.*?-->)\n(?!\n)", r"\1\n\n", prose, flags=re.MULTILINE)


@cache
def help_of(command: str) -> str:
    """What `COMMAND --help` prints.

    Raises:
        PluginError: pyproject.toml has no such command, or it fails.
    """
    if command not in project()["scripts"]:
        raise PluginError(f"help of {command!r}: pyproject.toml has the commands {', '.join(project()['scripts'])}")
    module, function = project()["scripts"][command].split(":")
    program = f"import sys; sys.argv[:] = [{command!r}, '--help']; from {module} import {function} as run; sys.exit(run())"
    path = os.pathsep.join(str(ROOT / folder) for folder in ("runtime", "exporter"))
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": str(COLUMNS), "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", program], check=False, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise PluginError(f"{command} --help: exit code {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def commands_of(text: str) -> Iterator[str]:
    """The commands whose help a page shows."""
    return (mark[1] for mark in HELP.finditer(text))
