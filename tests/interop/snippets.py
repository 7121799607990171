"""docs/integrations.md as test cases: each snippet is run as it stands, on other texts.

A comment before a snippet says where it runs and what its `vectors` must be:

    <!-- snippet: environment=A,B layout=standard,native vectors=cls|cls-normalized|pooler [over-length=differs] -->

`over-length=differs` is for a program that does not cut texts as PyTorch's tokenizer does; that it still does not is checked as well.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "integrations.md"
TEXTS_IN_SNIPPETS = '["a text", "another"]'
VECTORS_FILE = "vectors.f32"
_SNIPPET = re.compile(r"(?:^<!-- snippet: (?P<marks>.*?) -->\n)?^```(?P<language>python|js)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)

# What is added to a snippet: it writes float32 [n, width], little-endian.
_WRITE = {
    "python": f"\nimport numpy\nnumpy.asarray(vectors).astype('<f4', casting='same_kind').tofile({VECTORS_FILE!r})\n",
    "js": f"\n(await import('node:fs')).writeFileSync({VECTORS_FILE!r}, Buffer.from(Float32Array.from(vectors.data).buffer));\n",
}


@dataclass(frozen=True)
class Case:
    """One snippet in one environment on one layout. `line` is the snippet's line in the page."""

    environment: str
    layout: str
    vectors: str
    over_length_differs: bool
    language: str
    code: str
    line: int

    @property
    def name(self) -> str:
        return f"{self.environment}-{self.layout}-line{self.line}"

    def program(self, texts: list[str]) -> str:
        """The snippet with `texts` in place of its two, writing its vectors at the end."""
        if self.code.count(TEXTS_IN_SNIPPETS) != 1:
            raise ValueError(f"{PAGE.name}:{self.line}: expected {TEXTS_IN_SNIPPETS} once")
        listed = repr(texts) if self.language == "python" else json.dumps(texts)
        return self.code.replace(TEXTS_IN_SNIPPETS, listed) + _WRITE[self.language]


def cases() -> list[Case]:
    return list(_cases(PAGE.read_text(encoding="utf-8")))


def _cases(page: str) -> Iterator[Case]:
    for found in _SNIPPET.finditer(page):
        line = page.count("\n", 0, found.start("code")) + 1
        if found["marks"] is None:
            raise ValueError(f"{PAGE.name}:{line}: a snippet without a comment that says where it runs")
        marks = dict(mark.split("=") for mark in found["marks"].split())
        for environment, layout in itertools.product(marks.pop("environment").split(","), marks.pop("layout").split(",")):
            yield Case(
                environment=environment,
                layout=layout,
                vectors=marks["vectors"],
                over_length_differs=marks.get("over-length") == "differs",
                language=found["language"],
                code=found["code"],
                line=line,
            )
