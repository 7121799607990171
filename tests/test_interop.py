"""What `make interop` runs is whole; the runs themselves need the consumers' environments."""

from __future__ import annotations

import re

import pytest
import snippets

ROOT = snippets.ROOT


def test_every_snippet_says_where_it_runs_and_can_be_given_texts() -> None:
    cases = snippets.cases()
    assert len(cases) >= 15
    for case in cases:
        assert "['x', 'y']" in case.program(["x", "y"]) or '["x", "y"]' in case.program(["x", "y"])
        assert case.vectors in ("cls", "cls-normalized", "pooler")
    assert {case.layout for case in cases} == {"standard", "native", "broadcast"}
    assert len({case.name for case in cases}) == len(cases)


def test_a_snippet_without_a_comment_is_refused() -> None:
    with pytest.raises(ValueError, match=r"integrations\.md:2: a snippet without"):
        list(snippets._cases("```python\nprint()\n```\n"))


def test_environments_are_the_same_in_the_page_in_make_and_on_disk() -> None:
    listed = re.search(r"^INTEROP := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed is not None
    on_disk = {path.parent.name for path in (ROOT / "tests" / "interop").glob("*/*") if path.name in ("requirements.txt", "package.json")}
    in_the_page = {case.environment for case in snippets.cases()}
    assert set(listed[1].split()) == in_the_page | {"faiss"} == on_disk | {"development"}  # faiss is docs/vector-index.md's


def test_every_environment_is_pinned() -> None:
    for path in (ROOT / "tests" / "interop").glob("*/requirements.txt"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert lines
        assert [line for line in lines if not re.match(r"[A-Za-z0-9._-]+==\d", line)] == [], path
