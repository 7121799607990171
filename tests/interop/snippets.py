"""The lines of code of docs/integrations and of bundles' own cards as test cases: each is run as it stands, on other texts.

A comment before a snippet of a page says on which bundles of all-MiniLM-L6-v2, under the name of the pages' example, it runs and what its
`vectors` must be:

    <!-- snippet: environment=A,B layout=standard,mean vectors=sentence|sentence-normalized|pooler [over-length=differs] -->

more_snippets.md has those that the pages describe in words alone.

`over-length=differs` is for a program that does not cut texts as PyTorch's tokenizer does; that it still does not is checked as well.
`mean` is the bundle with the model's own pooling, the layouts are bundles of its CLS row. A card has its programs as headings, and what its
vectors must be is what its source gives.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "integrations").glob("*.md"))
MORE = Path(__file__).with_name("more_snippets.md")
# The bundle of the pages; the tests put theirs under its name.
EXAMPLE = "bge-small-en-v1.5"
CARD_NAME = "README.md"
# Where the lines run that a card has below the heading of a program.
CARD_PROGRAMS = {
    "cls_runtime": ("development",),
    "sentence-transformers": ("development", "sentence_transformers"),
    'sentence-transformers 5, `backend="onnx"`': ("sentence_transformers",),
    "optimum": ("optimum",),
    "fastembed": ("fastembed",),
    "transformers.js": ("transformers_js",),
}
CUTS_DIFFERENTLY = ("transformers.js",)
TEXTS_IN_SNIPPETS = '["a text", "another"]'
FILES = {"vectors": "vectors.f32", "queries": "queries.f32"}
_SNIPPET = re.compile(r"(?:^<!-- snippet: (?P<marks>.*?) -->\n)?^```(?P<language>python|js)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)

_PROGRAM = re.compile(r"^### (?P<program>.*?)$(?P<text>.*?)(?=^### |\Z)", re.DOTALL | re.MULTILINE)

# What is added to a snippet: it writes float32 [n, width], little-endian.
_WRITE = {
    "python": "\nimport numpy\nnumpy.asarray({name}).astype('<f4', casting='same_kind').tofile({file!r})\n",
    "js": "\n(await import('node:fs')).writeFileSync({file!r}, Buffer.from(Float32Array.from({name}.data).buffer));\n",
}


@dataclass(frozen=True)
class Case:
    """One snippet in one environment on one bundle. `place` is where it stands."""

    environment: str
    layout: str
    vectors: str
    over_length_differs: bool
    language: str
    code: str
    place: str

    @property
    def name(self) -> str:
        return f"{self.environment}-{self.layout}-{self.place}"

    @property
    def results(self) -> list[str]:
        """The names that the snippet gives to what it computes."""
        return [name for name in FILES if re.search(rf"^(?: *|const ){name} = ", self.code, re.MULTILINE)]

    def program(self, texts: list[str]) -> str:
        """The snippet with `texts` in place of its two, writing its vectors at the end."""
        results = self.results
        if not results or self.code.count(TEXTS_IN_SNIPPETS) != len(results):
            raise ValueError(f"{self.place}: expected {TEXTS_IN_SNIPPETS} once for each of {', '.join(FILES)} that there is")
        listed = repr(texts) if self.language == "python" else json.dumps(texts)
        writing = "".join(_WRITE[self.language].format(name=name, file=FILES[name]) for name in results)
        return self.code.replace(TEXTS_IN_SNIPPETS, listed) + writing


def cases() -> list[Case]:
    """Those of the pages, and those of `MORE`."""
    return [case for page in (*PAGES, MORE) for case in _cases(page.read_text(encoding="utf-8"), page.stem)]


def card_cases(bundle: Path, layout: str) -> list[Case]:
    """Those of a bundle's card; of a program that cannot give the vectors there is none."""
    return list(_card_cases((bundle / CARD_NAME).read_text(encoding="utf-8"), layout))


def _card_cases(card: str, layout: str) -> Iterator[Case]:
    for section in _PROGRAM.finditer(card):
        for found, environment in itertools.product(_SNIPPET.finditer(section["text"]), CARD_PROGRAMS[section["program"]]):
            yield Case(
                environment=environment,
                layout=layout,
                vectors="as trained",
                over_length_differs=section["program"] in CUTS_DIFFERENTLY,
                language=found["language"],
                code=found["code"],
                place=section["program"],
            )


def _cases(page: str, stem: str) -> Iterator[Case]:
    for found in _SNIPPET.finditer(page):
        line = page.count("\n", 0, found.start("code")) + 1
        if found["marks"] is None:
            raise ValueError(f"{stem}.md:{line}: a snippet without a comment that says where it runs")
        marks = dict(mark.split("=") for mark in found["marks"].split())
        for environment, layout in itertools.product(marks.pop("environment").split(","), marks.pop("layout").split(",")):
            yield Case(
                environment=environment,
                layout=layout,
                vectors=marks["vectors"],
                over_length_differs=marks.get("over-length") == "differs",
                language=found["language"],
                code=found["code"],
                place=f"{stem}-line{line}",
            )
