"""The documentation's site: what its reference shows, and where links lead on it. `make docs` builds it."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from site_links import PAGES_OUTSIDE, Site, anchors

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
SITE = Site(ROOT, "https://host/repository")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_public_name_is_in_the_reference_once() -> None:
    shown = re.findall(r"^::: (\S+)$", (REFERENCE / "python.md").read_text(encoding="utf-8"), re.MULTILINE)
    public = [f"{package}.{name}" for package in ("cls_runtime", "cls_exporter") for name in importlib.import_module(package).__all__]
    assert sorted(shown) == sorted(public)


def test_every_command_is_in_the_reference_once() -> None:
    page = (REFERENCE / "commands.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^<!-- help: (\S+) -->$", page, re.MULTILINE)) == sorted(PROJECT["scripts"])
    assert set(PROJECT["scripts"]) <= anchors(page)
    assert len(page.split()) <= 350


@pytest.mark.parametrize("path", PAGES_OUTSIDE)
def test_pages_outside_the_folder_are_there(path: str) -> None:
    assert (ROOT / path).is_file()


@pytest.mark.parametrize(
    ("path", "link", "there"),
    [
        ("docs/guides/embed.md", "serve.md#clients", "serve.md#clients"),
        ("docs/guides/embed.md", "../README.md", "../README.md"),
        ("docs/guides/embed.md", "../integrations/", "../integrations/README.md"),
        ("docs/guides/embed.md", "../../README.md#install", "../overview.md#install"),
        ("docs/guides/embed.md", "../../Makefile", "https://host/repository/blob/main/Makefile"),
        ("docs/guides/embed.md", "../../runtime/", "https://host/repository/tree/main/runtime"),
        ("docs/guides/embed.md", "../images/serving.svg", "../images/serving.svg"),
        ("docs/guides/embed.md", "nothing.md", "nothing.md"),
        ("docs/guides/embed.md", "../../../", "../../../"),
        ("docs/guides/embed.md", "#here", "#here"),
        ("docs/guides/embed.md", "https://else.where/x.md", "https://else.where/x.md"),
        ("README.md", "docs/guides/embed.md#s", "guides/embed.md#s"),
        ("README.md", "docs/", "README.md"),
        ("README.md", "LICENSE", "https://host/repository/blob/main/LICENSE"),
        ("README.md", "benchmarks/README.md", "benchmarks.md"),
        ("benchmarks/README.md", "../docs/guides/gpu.md", "guides/gpu.md"),
        ("benchmarks/README.md", "results/avx2/cls_bench.svg", "repository/benchmarks/results/avx2/cls_bench.svg"),
    ],
)
def test_where_a_link_leads(path: str, link: str, there: str) -> None:
    text = f'[a]({link}) `[a]({link})`\n```\n[a]({link})\n```\n<a href="{link}">\n[b]: {link}\n'
    expected = f'[a]({there}) `[a]({link})`\n```\n[a]({link})\n```\n<a href="{there}">\n[b]: {there}\n'
    assert SITE.rewritten(text, path=path) == expected


def test_headings_have_the_names_that_github_gives_them() -> None:
    page = "# A `b-c`: d, *e* & [f](g)\n## Same\n## Same\n```\n# no heading\n```\n<a name='x'></a><a id=\"y\"></a>\n"
    assert anchors(page) == {"a-b-c-d-e--f", "same", "same-1", "y"}
