"""Where a link of a page leads on the documentation's site, and how GitHub names a heading; needs nothing but Python.

Pages are written for a reader of the repository. The site holds `docs/` and `PAGES_OUTSIDE`; what else a page links to is shown by the
repository's host, and an image beside such a page comes along.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = "docs/"
# Pages outside docs/ that the site shows too, and their names there.
PAGES_OUTSIDE = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/serving.md": "serving.md",
    "examples/README.md": "examples.md",
}
# Where images outside docs/ lie on the site.
ASSETS = "repository/"
_IMAGES = (".png", ".svg", ".gif", ".jpg", ".webp")
_CODE = re.compile(r"^(?P<fence> *(?:```+|~~~+)).*?^(?P=fence) *$|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)", re.DOTALL | re.MULTILINE)
_TARGET = re.compile(
    r"(?<=\]\()[^)\s]+|(?<=\]: )\S+(?=\s*$)|(?<=[ \n]src=\")[^\"]+|(?<=[ \n]srcset=\")[^\"]+|(?<=[ \n]href=\")[^\"]+", re.MULTILINE
)
_HEADING = re.compile(r"^#{1,6} +(.*?)(?: +#+)?$", re.MULTILINE)
_NAMED = re.compile(r"<a (?:id|name)=\"([^\"]+)\"")


@dataclass(frozen=True)
class Site:
    """The site of one repository.

    Attributes:
        root: the repository's folder.
        url: the repository's address, without a slash at its end.
    """

    root: Path
    url: str

    def page(self, path: str) -> str | None:
        """The name on the site of the repository's file `path`; None where the site has not got it."""
        if path in PAGES_OUTSIDE:
            return PAGES_OUTSIDE[path]
        if path.startswith(DOCS):
            return path.removeprefix(DOCS)
        return f"{ASSETS}{path}" if path.endswith(_IMAGES) else None

    def rewritten(self, text: str, *, path: str) -> str:
        """`text` of the repository's page `path`, with its relative links as the site needs them."""
        return outside_code(text, lambda prose: _TARGET.sub(lambda match: self._target(match[0], path), prose))

    def images_of(self, text: str, *, path: str) -> Iterator[str]:
        """The images outside docs/ that the page `path` shows."""
        for target in targets(text):
            name = resolved(target, path)
            if name and name.endswith(_IMAGES) and not name.startswith(DOCS) and (self.root / name).is_file():
                yield name

    def _target(self, target: str, path: str) -> str:
        name = resolved(target, path)
        if name is None or name.partition("/")[0] == ".." or not (self.root / name).exists():
            return target  # of another host, or one that the build shall complain about
        _, _, anchor = target.partition("#")
        end = f"#{anchor}" if anchor else ""
        if (self.root / name).is_dir() and (self.root / name / "README.md").is_file():
            name = posixpath.join(name, "README.md")
        there = self.page(name)
        if there is None or (self.root / name).is_dir():
            return f"{self.url}/{'tree' if (self.root / name).is_dir() else 'blob'}/main/{name}{end}"
        return posixpath.relpath(there, posixpath.dirname(self.page(path) or "") or ".") + end


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """`text` with `change` applied to all that is neither a code block nor code in a line."""
    code = [match[0] for match in _CODE.finditer(text)]
    prose = [change(part) for part in prose_of(text)]
    return "".join(part for pair in zip(prose, [*code, ""], strict=True) for part in pair)


def prose_of(text: str) -> list[str]:
    """What stands before, between and behind the code of a page."""
    starts, ends = [match.start() for match in _CODE.finditer(text)], [match.end() for match in _CODE.finditer(text)]
    return [text[start:end] for start, end in zip([0, *ends], [*starts, len(text)], strict=True)]


def targets(text: str) -> list[str]:
    """What a page links to, as it is written."""
    return [target for prose in prose_of(text) for target in _TARGET.findall(prose)]


def resolved(target: str, path: str) -> str | None:
    """The repository's file that a relative link of the page `path` means; None for an address and for a place on the page itself."""
    name = target.partition("#")[0]
    if not name or "://" in name or name.startswith(("mailto:", "/")):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), name))


def slug(heading: str, separator: str = "-") -> str:
    """The anchor that GitHub gives a heading's text: lower case, no punctuation, a hyphen for each blank."""
    return re.sub(r"[^\w\- ]", "", html.unescape(heading).strip().lower()).replace(" ", separator)


def anchors(text: str) -> set[str]:
    """Every `#anchor` that a page has on GitHub."""
    prose = re.sub(r"^( *)(```+|~~~+).*?^\1\2 *$", "", text, flags=re.DOTALL | re.MULTILINE)
    found: set[str] = set(_NAMED.findall(prose))
    for heading in _HEADING.findall(prose):
        name = slug(_plain(heading))
        found.add(next(free for free in (name, *(f"{name}-{count}" for count in range(1, 1000))) if free not in found))
    return found


def _plain(heading: str) -> str:
    """A heading without its markup: code, links and emphasis."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"<[^>]+>|[`*]", "", text)
