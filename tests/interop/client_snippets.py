"""The lines of code below "Clients" of docs/guides/serve.md as test cases: each is run as it stands, with other texts and a test's server.

A comment before a snippet says in which client's environment it runs, which server of client_servers.py it asks, and by what name the
code calls what it got:

    <!-- client: environment=openai server=embedding result=vectors -->
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from snippets import ROOT, TEXTS_IN_SNIPPETS

PAGE = ROOT / "docs" / "guides" / "serve.md"
RESULTS = ("vectors", "similarities", "ranking", "predictions")
URL, KEY, QUERY = "http://127.0.0.1:8080", '"my-key"', '"a question"'
_SNIPPET = re.compile(r"(?:^<!-- client: (?P<marks>.*?) -->\n)?^```(?P<language>python|js)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
_CLIENTS = re.compile(r"^## Clients$(?P<section>.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)

# What is added to a snippet: it writes its result as JSON.
_WRITE = {
    "python": "\nimport json, pathlib\npathlib.Path('result.json').write_text(json.dumps({name}, default=lambda array: array.tolist()))\n",
    "js": "\n(await import('node:fs')).writeFileSync('result.json', JSON.stringify({name}));\n",
}


@dataclass(frozen=True)
class Snippet:
    """One snippet. `place` is where it stands."""

    environment: str
    server: str
    result: str
    language: str
    code: str
    place: str

    @property
    def name(self) -> str:
        return f"{self.environment}-{self.place}"

    def program(self, *, url: str, key: str, texts: list[str], query: str) -> str:
        """The snippet that asks the server at `url`, with `texts` in place of its texts and `query` of its question."""
        asked = texts[0] if '"a text"' in self.code.replace(TEXTS_IN_SNIPPETS, "") else texts
        text_in_code = TEXTS_IN_SNIPPETS if asked is texts else '"a text"'
        literal = json.dumps if self.language == "js" else repr
        changes = {URL: url, KEY: literal(key), text_in_code: literal(asked)}
        if self.result in ("similarities", "ranking"):
            changes[QUERY] = literal(query)
        code = self.code
        for old, new in changes.items():
            if code.count(old) != 1:
                raise ValueError(f"{PAGE.name}, {self.place}: {old} is there {code.count(old)} times; expected once")
            code = code.replace(old, new)
        return code + _WRITE[self.language].format(name=self.result)


def snippets() -> list[Snippet]:
    """Those of the page."""
    return list(_snippets(PAGE.read_text(encoding="utf-8")))


def _snippets(page: str) -> Iterator[Snippet]:
    section = _CLIENTS.search(page)
    if section is None:
        raise ValueError(f"{PAGE.name} has no section Clients")
    for found in _SNIPPET.finditer(page, section.start("section"), section.end("section")):
        line = page.count("\n", 0, found.start("code")) + 1
        if found["marks"] is None:
            raise ValueError(f"{PAGE.name}:{line}: a snippet without a comment that says where it runs")
        marks = dict(mark.split("=") for mark in found["marks"].split())
        if marks["result"] not in RESULTS or not re.search(rf"^(?:const )?{marks['result']} = ", found["code"], re.MULTILINE):
            raise ValueError(f"{PAGE.name}:{line}: {marks['result']} is not assigned; expected one of {', '.join(RESULTS)}")
        yield Snippet(**marks, language=found["language"], code=found["code"], place=f"line{line}")
