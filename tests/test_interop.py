"""What `make interop` runs is whole; the runs themselves need the consumers' environments."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

import client_snippets
import pytest
import snippets

from cls_exporter.writing.card_snippets import snippets as card_snippets
from cls_runtime.bundle.manifest import BundleFile, Manifest, OutputSpec, Pooler, Pooling, Source, SourcePooling, Variant

ROOT = snippets.ROOT
# Rows of the table of docs/guides/serve.md: the client, its environments, and the package that the version is of.
CLIENTS = (
    ("openai, python and npm", "openai", "openai"),
    ("openai, python and npm", "openai_js", "openai"),
    ("langchain", "langchain_openai", "langchain-openai"),
    ("llamaindex", "llama_index", "llama-index-core"),
    ("huggingface_hub", "huggingface_hub", "huggingface_hub"),
    ("cohere", "cohere", "cohere"),
    ("litellm", "litellm", "litellm"),
    ("haystack", "haystack", "haystack-ai"),
    ("chromadb", "chromadb", "chromadb"),
)
# The pages of docs/integrations, and the package that the version in their table is of.
PACKAGES = {
    "langchain": "langchain-core",
    "llama-index": "llama-index-core",
    "haystack": "haystack-ai",
    "chroma": "chromadb",
    "lancedb": "lancedb",
    "txtai": "txtai",
    "duckdb": "duckdb",
    "sentence-transformers": "sentence-transformers",
    "optimum": "optimum-onnx",
    "fastembed": "fastembed",
    "transformers-js": "@huggingface/transformers",
    "openvino": "openvino",
}


def test_every_snippet_says_where_it_runs_and_can_be_given_texts() -> None:
    cases = snippets.cases()
    assert len(cases) >= 45
    for case in cases:
        assert "['x', 'y']" in case.program(["x", "y"]) or '["x", "y"]' in case.program(["x", "y"])
        assert case.results == ["vectors"]
        assert case.vectors in ("sentence", "sentence-normalized", "cls", "cls-normalized", "pooler")
    assert {case.layout for case in cases} == {"standard", "native", "broadcast", "mean"}
    assert {case.environment for case in cases if case.layout == "mean"} == {case.environment for case in cases}
    assert len({case.name for case in cases}) == len(cases)


def manifest_of(*, pooling: Pooling, layout: Literal["standard", "native", "broadcast"] = "standard") -> Manifest:
    """As that of the bundle of all-MiniLM-L6-v2, as far as its card's lines of code depend on it."""
    graph = BundleFile(path="onnx/model.onnx", sha256="0" * 64, size_bytes=1)
    names = ("sentence_embedding",) if layout == "native" else ("last_hidden_state", "sentence_embedding")
    return Manifest(
        source=Source(name="all-MiniLM-L6-v2", revision=None, weights_sha256="0" * 64, tokenizer_sha256="0" * 64),
        architecture="bert",
        hidden_size=384,
        num_layers=6,
        max_length=256,
        layout=layout,
        inputs=("input_ids", "attention_mask", "token_type_ids"),
        outputs=tuple(OutputSpec(name=name, width=384) for name in names),
        pooler=Pooler(state="absent", evidence="made by a test"),
        source_pooling=SourcePooling(mode="mean", normalize=True),
        variants={"fp32": Variant(files=(graph,), recipe={}, parity={}, batch_invariance_max_abs=0.0)},
        files=(),
        tool_versions={},
        pooling=pooling,
        token_rows=pooling == "mean" and layout == "standard",
    )


def test_the_pages_lines_are_those_of_a_card() -> None:
    """Of the two modules of cls-export the pages say more than a card does."""
    run = {case.code for case in snippets.cases()}
    in_the_pages = {case.code for case in snippets.cases() if not case.place.startswith(snippets.MORE.stem)}
    apart = {"cls_runtime", "sentence-transformers"}
    for pooling, blocks in (("cls", in_the_pages), ("mean", run)):  # the pages' example is a CLS model
        cards = {snippet.program: snippet.code for snippet in card_snippets(manifest_of(pooling=pooling), name=snippets.EXAMPLE)}
        assert set(cards) == set(snippets.CARD_PROGRAMS)
        assert {program for program, code in cards.items() if code not in blocks} <= apart


def test_a_cards_lines_are_found_by_their_program() -> None:
    manifest = dataclasses.replace(manifest_of(pooling="mean"), fingerprint="", prompts={"query": "q: "})
    listed = card_snippets(manifest, name="x")
    card = "\n\n".join(f"### {item.program}\n\n{item.words}\n\n```{item.language}\n{item.code}```" for item in listed) + "\n"
    found = {(case.place, case.environment): case for case in snippets._card_cases(card, "mean")}
    assert list(found) == [
        (program, environment) for program, environments in snippets.CARD_PROGRAMS.items() for environment in environments
    ]
    for case in found.values():
        assert case.results == ["vectors", "queries"]
        assert case.program(["x", "y"]).count("'x', 'y'" if case.language == "python" else '"x", "y"') == 2
        assert all(file in case.program(["x"]) for file in snippets.FILES.values())
    assert not list(snippets._card_cases("### fastembed\n\nCannot: it does not.\n", "mean"))


def test_a_snippet_without_a_comment_is_refused() -> None:
    with pytest.raises(ValueError, match=r"openvino\.md:2: a snippet without"):
        list(snippets._cases("```python\nprint()\n```\n", "openvino"))


def test_environments_are_the_same_in_the_page_in_make_and_on_disk() -> None:
    listed = dict(re.findall(r"^(INTEROP|CLIENTS|IMPORTING) := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    on_disk = {path.parent.name for path in (ROOT / "tests" / "interop").glob("*/*") if path.name in ("requirements.txt", "package.json")}
    clients = {path.parent.name for path in (ROOT / "tests" / "interop").glob("*/program.*")}
    in_the_pages = {case.environment for case in snippets.cases()}
    assert set(listed["INTEROP"].split()) == in_the_pages | {"faiss"}  # faiss is docs/guides/vector-index.md's
    assert set(listed["CLIENTS"].split()) == clients == {snippet.environment for snippet in client_snippets.snippets()}
    assert in_the_pages | {"faiss"} | clients == on_disk | {"development"}
    # Those that import cls-export, and only those, have a program that checks the integration.
    own = {case.environment for case in snippets.cases() if "cls_runtime.integrations" in case.code}
    checked = {path.parent.name for path in (ROOT / "tests" / "interop").glob("*/integration.py")}
    assert checked == own - {"development", "sentence_transformers"}
    assert checked | {"faiss"} == set(listed["IMPORTING"].split())


def test_the_table_has_every_page_and_the_version_that_is_run() -> None:
    """The minor version of each environment that a page's code runs in; of `development`, what constraints.txt pins."""
    table = (ROOT / "docs" / "integrations" / "README.md").read_text(encoding="utf-8")
    rows = {
        page: set(versions.split(", ")) for page, versions in re.findall(r"^\| \[[^]]*\]\(([\w-]+)\.md\) \| (.*?) \|", table, re.MULTILINE)
    }
    assert set(rows) == set(PACKAGES) == {page.stem for page in snippets.PAGES} - {"README"}
    for page, package in PACKAGES.items():
        cases = [case for case in snippets.cases() if case.place.startswith(f"{page}-line")]
        assert cases
        assert rows[page] == {pinned(case.environment, package) for case in cases} - {None}, page


def pinned(environment: str, package: str) -> str | None:
    """The minor version of a package in an environment; None where it has none."""
    folder = ROOT / "tests" / "interop" / environment
    file = next(path for path in (folder / "requirements.txt", folder / "package.json", ROOT / "constraints.txt") if path.exists())
    found = re.search(rf'^ *"?{package}(?:==|": ")(\d+\.\d+)', file.read_text(encoding="utf-8"), re.MULTILINE)
    return found and found[1]


def test_every_line_of_a_client_can_be_given_a_server_and_texts() -> None:
    found = client_snippets.snippets()
    assert {snippet.result for snippet in found} == set(client_snippets.RESULTS)
    assert len({snippet.name for snippet in found}) == len(found)
    for snippet in found:
        program = snippet.program(url="http://server:1", key="the key", texts=["x", "y"], query="the query")
        assert all(program.count(given) == 1 for given in ("http://server:1", "the key"))
        assert "a text" not in program
        assert program.count("the query") == (snippet.result in ("ranking", "similarities"))
        assert program.endswith("\n")
        assert program.count("result.json") == 1


def test_the_page_names_the_versions_of_the_clients() -> None:
    rows = re.findall(r"^\| \[(.*?)\]\(#.*?\) \| (.*?) \|", client_snippets.PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    versions = {name.casefold(): set(re.findall(r"\d+(?:\.\d+)+", version)) for name, version in rows if re.search(r"\d\.\d", version)}
    expected: dict[str, set[str]] = {}
    for name, folder, package in CLIENTS:
        expected.setdefault(name, set()).add(pinned(folder, package) or f"{folder} does not pin {package}")
    assert versions == expected


def test_a_clients_lines_must_say_where_they_run() -> None:
    with pytest.raises(ValueError, match=r"serve\.md:4: a snippet without"):
        list(client_snippets._snippets("## Clients\n\n```python\nvectors = 1\n```\n"))
    marks = "environment=x server=embedding result=vectors"
    with pytest.raises(ValueError, match="vectors is not assigned"):
        list(client_snippets._snippets(f"## Clients\n\n<!-- client: {marks} -->\n```python\nrows = 1\n```\n"))
    with pytest.raises(ValueError, match="no section Clients"):
        list(client_snippets._snippets("# Serving\n"))
    (snippet,) = client_snippets._snippets(f"## Clients\n<!-- client: {marks} -->\n```python\nvectors = 1\n```\n## Other\n```python\n```\n")
    with pytest.raises(ValueError, match="expected once"):
        snippet.program(url="", key="", texts=[], query="")


def test_every_environment_is_pinned() -> None:
    for path in (ROOT / "tests" / "interop").glob("*/requirements.txt"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert lines
        assert [line for line in lines if not re.match(r"[A-Za-z0-9._-]+==\d", line)] == [], path


def test_the_readmes_client_is_one_that_runs() -> None:
    """The README marks its lines for OpenAI's client as not run: they run as docs/guides/serve.md has them."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^```python\n(from openai .*?)^```$", readme, re.DOTALL | re.MULTILINE)
    assert lines in {snippet.code for snippet in client_snippets.snippets()}
