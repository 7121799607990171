"""The code blocks of the documentation: each is found with its place, and claimed by one rule that says what a test does with it.

The line above a block may say more:

    <!-- not run: REASON -->      it cannot run in CI; its options are checked all the same
    <!-- snippet: ... -->         `make interop` runs it in another program (tests/interop/snippets.py)
    <!-- client: ... -->          `make interop` runs it against cls-serve (tests/interop/client_snippets.py)
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent
# How a page's data is read, by the language of its block.
DATA = ("json", "jsonl", "toml", "yaml")
NO_CODE = ("mermaid", "text")
_MARK = re.compile(r"^ *<!-- (not run|snippet|client): (\S.*?) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file.
        line: the number of the line that its fence opens on, from 1.
        language: the first word behind the fence; "" where there is none.
        text: what it holds.
        mark: what the line above says is done with it, such as "not run"; "" for nothing.
        filled: whether scripts/bench_report.py writes it.
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str = ""
    filled: bool = False

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Typed:
    """What a reader types, and the lines that the page shows below it."""

    command: str
    shown: tuple[str, ...] = ()


RULES: Mapping[str, Callable[[Block], bool]] = {
    "program": lambda block: _plain(block) and block.language == "python",
    "session": lambda block: _plain(block) and block.language == "console",
    "script": lambda block: _plain(block) and block.language == "sh",
    "data": lambda block: _plain(block) and block.language in DATA,
    "text": lambda block: _plain(block) and block.language in NO_CODE,
    "figure": lambda block: block.filled,
    "not run": lambda block: block.mark == "not run",
    "interop": lambda block: block.mark in {"snippet", "client"},
}


def _plain(block: Block) -> bool:
    return not block.mark and not block.filled


def claims(block: Block) -> list[str]:
    """The rules that claim a block; it should be one."""
    return [name for name, claimed in RULES.items() if claimed(block)]


def pages_with_code(root: Path = ROOT) -> list[Path]:
    """The pages whose blocks are read."""
    places = (
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "benchmarks/README.md",
        "models/README.md",
        "docs/**/*.md",
        "native/**/README.md",
    )
    return sorted(page for place in places for page in root.glob(place))


def blocks_on(page: Path) -> list[Block]:
    """A page's fenced blocks, in order."""
    text = page.read_text(encoding="utf-8")
    lines = text.splitlines()
    blocks = []
    for token in MarkdownIt("commonmark").parse(text):
        if token.type != "fence" or token.map is None:
            continue
        first = token.map[0]
        mark = _MARK.match(lines[first - 1]) if first else None
        above = [line for line in lines[:first] if line.startswith("<!-- bench:")]
        filled = bool(above) and above[-1].startswith("<!-- bench:begin")
        blocks.append(Block(page, first + 1, token.info.split(" ")[0], token.content, mark[1] if mark else "", filled))
    return blocks


def typed(block: Block) -> list[Typed]:
    """What a reader types of a session or a script: a session's commands one by one, a script as a whole."""
    if block.language != "console":
        return [Typed(block.text)]
    found: list[tuple[list[str], list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(([line[2:]], []))
        elif found and not found[-1][1] and found[-1][0][-1].endswith("\\"):
            found[-1][0].append(line)
        elif found:
            found[-1][1].append(line)
        else:
            raise ValueError(f"{block}: a console block opens with a line behind '$ '; found {line!r}")
    return [Typed("\n".join(command), tuple(shown)) for command, shown in found]


def command_lines(block: Block) -> Iterator[list[str]]:
    """Every `cls-...` command of a block, as words; a comment, a pipe and a redirection end it."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    for line in lines:
        for found in re.finditer(r"(?:^|[|&;(] *|(?<= ))(cls-(?:export|embed|verify|bench|serve|doctor) [^|;&>]*)", line):
            try:
                yield shlex.split(found[1], comments=True)
            except ValueError:  # prose with an apostrophe, or a quote that ends on another line
                yield found[1].split()


def figures_blanked(line: str) -> str:
    """A line of output without what differs from run to run: numbers with their units, hashes, the width of columns."""
    line = re.sub(r"(?<![\w.])(?=[a-f]*[0-9])[0-9a-f]{7,}(?![\w.])", "#", line)
    line = re.sub(r"[0-9][0-9.,]*(?:e[+-]?[0-9]+)?", "#", line)
    return " ".join(re.sub(r"# (?:bytes|kB|MB|GB|ms|s)\b", "# unit", line).split())


def first_missing(shown: tuple[str, ...], output: str) -> str | None:
    """The first line that a page shows and a command did not print behind those before it; `...` stands for any number of lines."""
    printed = iter([figures_blanked(line) for line in output.splitlines()])
    for line in shown:
        if line.strip() not in {"", "..."} and figures_blanked(line) not in printed:
            return line
    return None
