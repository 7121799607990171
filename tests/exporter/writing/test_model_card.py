"""The model card: what it says is the manifest's, its code is code whatever a checkpoint calls things, and nothing leads out of it."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from exports import Exported, FamilyKind
from markdown_it import MarkdownIt
from markdown_it.token import Token

from cls_exporter import ExportConfig, export
from cls_exporter.checkpoint.source_card import Stated
from cls_exporter.writing.model_card import CARD_NAME, code, model_card
from cls_runtime import Encoder
from cls_runtime.bundle.manifest import Manifest, OutputSpec, SourcePooling
from cls_runtime.verifying.verification import Verification

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
NOTHING = Stated()
HOSTILE = [
    'a"b',
    "it's `code` ``` | pipe \\| \\",
    "```\n# A heading\n",
    "line\r\n---\nlicense: mit\n---\n",
    "[link](https://example.org) https://example.org <script>alert(1)</script> <!-- ",
    "*/ ${x} `${x}` </pre> \u2028 \u202e \x1b[2J \0 \ud7ff \U0001f600 \U000e0001",
    "~~~\n    indented\n> quoted",
    "为这个句子生成表示：",
]


@pytest.fixture(scope="module")
def exported(exported_family: Callable[[str, FamilyKind], Exported]) -> Exported:
    return exported_family("bert", "encoder")


@pytest.fixture(scope="module")
def plain(exported: Exported) -> Manifest:
    """A real one: a BERT with fp32, fp16 and int8, CLS row and pooler, of a plain folder."""
    return dataclasses.replace(exported.report.manifest, fingerprint="")


def changed(manifest: Manifest, *, source: dict[str, Any] | None = None, **changes: Any) -> Manifest:
    """`source` are fields of its `source_pooling`."""
    return dataclasses.replace(manifest, fingerprint="", source_pooling=SourcePooling(**{"mode": "cls", **(source or {})}), **changes)


def mean(manifest: Manifest, *, source: dict[str, Any] | None = None, token_rows: bool = True, **changes: Any) -> Manifest:
    return changed(manifest, source={"mode": "mean", **(source or {})}, pooling="mean", token_rows=token_rows, **changes)


def parsed(card: str) -> tuple[dict[str, Any], list[Token]]:
    """The front matter, and the tokens of the rest; those inside lines are among them."""
    start, matter, rest = re.split(r"^---\n", card, maxsplit=2, flags=re.MULTILINE)
    assert start == ""
    tokens = [inner for token in MARKDOWN.parse(rest) for inner in (token, *(token.children or ()))]
    return yaml.safe_load(matter), tokens


def shape(card: str) -> list[tuple[str, str]]:
    """The kinds of all parts of the text, in order, with the languages of its blocks."""
    return [(token.type, token.info) for token in parsed(card)[1]]


def blocks(card: str, language: str) -> list[str]:
    return [token.content for token in parsed(card)[1] if token.type == "fence" and token.info == language]


def cells(card: str) -> list[list[str]]:
    """The rows of all tables, as plain text."""
    rows: list[list[str]] = []
    for token in parsed(card)[1]:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and token.level >= 4 and rows:
            rows[-1].append("".join(child.content for child in token.children or ()))
    return rows


def snippets(card: str) -> dict[str, str]:
    """The code of each program, by its heading; "" where it cannot be used."""
    found, program = {}, ""
    for before, token in itertools.pairwise(parsed(card)[1]):
        if before.type == "heading_open" and before.tag == "h3":
            program = token.content
            found[program] = ""
        elif token.type == "fence" and program:
            found[program] += token.content
    return found


ONNX_BACKEND = 'sentence-transformers 5, `backend="onnx"`'
PROGRAMS = ["cls_runtime", "sentence-transformers", ONNX_BACKEND, "optimum", "fastembed", "transformers.js"]


def test_forms_for_one_engine_are_listed_with_who_reads_them(plain: Manifest) -> None:
    (own,) = plain.variants["int8"].engine_files["openvino"]
    packed = dataclasses.replace(own, path="onnx/model_fp16_packed.onnx", size_bytes=45_100_000)
    fp16 = dataclasses.replace(plain.variants["fp16"], engine_files={"cuda": (packed,)})
    rows = cells(model_card(changed(plain, variants={**plain.variants, "fp16": fp16}), NOTHING, name="x"))
    assert ["variant", "file", "MB", "engine", "form"] in rows
    listed = {row[1]: row for row in rows if len(row) == 5}
    assert listed[packed.path][:4] == ["fp16", packed.path, "45.1", "cuda"]
    assert "without padding" in listed[packed.path][4]
    assert listed[own.path][:4] == ["int8", own.path, f"{own.size_bytes / 1e6:.1f}", "openvino"]


def test_without_such_forms_none_are_told(plain: Manifest) -> None:
    alone = dataclasses.replace(plain.variants["fp32"], engine_files={}, engine_parity={})
    card = model_card(changed(plain, variants={"fp32": alone}), NOTHING, name="x")
    assert "Forms that" not in card


def test_the_front_matter(plain: Manifest) -> None:
    tags = ["onnx", "sentence-transformers", "transformers.js", "cls-export"]
    assert parsed(model_card(changed(plain, source={"mode": None}), NOTHING, name="x"))[0] == {
        "library_name": "cls-export",
        "pipeline_tag": "feature-extraction",
        "tags": tags,
    }
    of_the_hub = dataclasses.replace(plain.source, name="org/some-model", revision="0" * 40)
    outputs = (*plain.outputs, OutputSpec(name="logits", width=2))
    stated = Stated(license=("other",), license_name=("own: terms #1",), language=("en", "no"))
    assert parsed(model_card(changed(dataclasses.replace(plain, source=of_the_hub), outputs=outputs, labels=("a", "b")), stated, name="x"))[
        0
    ] == {
        "library_name": "cls-export",
        "pipeline_tag": "text-classification",
        "base_model": "org/some-model",
        "license": "other",
        "license_name": "own: terms #1",
        "language": ["en", "no"],
        "tags": tags,
    }
    assert (
        parsed(model_card(changed(plain), Stated(language=("no",)), name="x"))[0].items()
        >= {
            "pipeline_tag": "sentence-similarity",
            "language": "no",
        }.items()
    )
    odd = dataclasses.replace(plain.source, name="org/name\n---\n# x", revision="0" * 40)
    assert "base_model" not in parsed(model_card(changed(dataclasses.replace(plain, source=odd)), NOTHING, name="x"))[0]


def test_the_tables(plain: Manifest) -> None:
    manifest = mean(plain, matryoshka_dims=(16, 8), truncate_dim=16, similarity_fn_name="dot")
    rows = cells(model_card(manifest, NOTHING, name="x"))
    facts = {row[0]: row[1] for row in rows if len(row) == 2}
    assert facts["source"] == plain.source.name
    assert facts["weights"] == f"sha256 {plain.source.weights_sha256}"
    assert facts["fingerprint"] == manifest.fingerprint
    assert facts["longest text"].startswith(f"{plain.max_length} tokens")
    assert facts["trained dimensions"] == "16, 8"
    assert facts["dimensions by default"].startswith("16,")
    assert facts["similarity"] == "dot"
    assert plain.tool_versions["transformers"] in facts["made with"]
    parity = {(row[0], row[1]): row[2:] for row in rows if len(row) == 8}
    for name, variant in plain.variants.items():
        for output, figures in variant.parity.items():
            path, size, average, p1, lowest, largest = parity[name, output]
            assert path == variant.files[0].path
            assert float(size) == pytest.approx(sum(file.size_bytes for file in variant.files) / 1e6, abs=0.051)
            told = [float(figure) for figure in (average, p1, lowest)]
            assert told == pytest.approx([figures.mean_cosine, figures.p1_cosine, figures.min_cosine], abs=6e-8)
            assert float(largest) == pytest.approx(figures.max_abs, rel=0.06)
    assert len(parity) == 1 + 5 * 2  # the head; three variants, and two native forms


def test_a_pooling_that_was_not_trained_is_told(plain: Manifest) -> None:
    words = "not trained to mean anything"
    assert words not in model_card(mean(plain), NOTHING, name="x")
    assert words not in model_card(changed(plain, source={"mode": None}), NOTHING, name="x")
    assert words in model_card(changed(plain, source={"mode": "mean", "mismatch_allowed": True}), NOTHING, name="x")


@pytest.mark.parametrize("layout", ["standard", "native", "broadcast"])
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("pooled", ["cls", "mean"])
def test_each_program_is_told_the_pooling_and_the_length(plain: Manifest, pooled: str, unit: bool, layout: str) -> None:
    build = mean if pooled == "mean" else changed
    options = {} if layout == "standard" else {"token_rows": False, "layout": layout}
    lines = snippets(model_card(build(plain, source={"normalize": unit}, **options), NOTHING, name="my-model"))
    assert list(lines) == PROGRAMS
    assert ("normalize(model(" in lines["optimum"]) == unit
    assert f"normalization={unit}" in lines["fastembed"]
    if layout == "native":
        assert lines[ONNX_BACKEND] == ""
        assert "PoolingType.DISABLED" in lines["fastembed"]
        assert 'output_name="sentence_embedding"' in lines["fastembed"]
        assert ").sentence_embedding" + (".normalize()" if unit else "") in lines["transformers.js"]
    else:
        assert f"PoolingType.{pooled.upper()}" in lines["fastembed"]
        assert f"pooling: '{pooled}', normalize: {str(unit).lower()}" in lines["transformers.js"]
        assert "queries" not in "".join(lines.values())
    assert "models/my-model" in lines["cls_runtime"]
    assert "'my-model'" in lines["transformers.js"]


def test_a_dense_after_the_mean_is_asked_for_by_name(plain: Manifest) -> None:
    dense = {"dense": ("Linear(32, 8) + Tanh",)}
    lines = snippets(model_card(mean(plain, source=dense), NOTHING, name="x"))
    assert "DISABLED" in lines["fastembed"]
    assert ").sentence_embedding" in lines["transformers.js"]
    assert 'backend="onnx"' in lines[ONNX_BACKEND]  # its modules.json has the Dense too
    card = model_card(changed(plain, source=dense), NOTHING, name="x")
    assert "then Linear(32, 8) + Tanh" in card
    assert "PoolingType.CLS" in snippets(card)["fastembed"]  # the row has been through it


@pytest.mark.parametrize(("variant", "js"), [("fp16", "fp16"), ("int8", "q8")])
def test_without_fp32_the_lines_name_another_file(plain: Manifest, variant: str, js: str) -> None:
    manifest = changed(plain, variants={variant: plain.variants[variant]})
    lines = snippets(model_card(manifest, NOTHING, name="x"))
    file = plain.variants[variant].files[0].path
    assert f'"{file}"' in lines[ONNX_BACKEND]
    assert f'"{file}"' in lines["fastembed"]
    assert f'"{Path(file).name}"' in lines["optimum"]
    assert f"dtype: '{js}'" in lines["transformers.js"]


def test_a_source_that_cuts_its_vectors(plain: Manifest) -> None:
    lines = snippets(model_card(mean(plain, truncate_dim=16), NOTHING, name="x"))
    assert [name for name, text in lines.items() if "16]" in text] == ["optimum", "fastembed", "transformers.js"]


def test_prompts(plain: Manifest) -> None:
    prompts = {"document": "", "query": "query: ", "other": "other: "}
    card = model_card(mean(plain, prompts=prompts), NOTHING, name="x")
    (shown,) = blocks(card, "json")
    assert json.loads(shown) == prompts
    lines = snippets(card)
    assert "encoder.encode_query(" in lines["cls_runtime"]
    assert "model.encode_query(" in lines["sentence-transformers"]
    assert "model.encode_query(" in lines[ONNX_BACKEND]
    for program in ("optimum", "fastembed", "transformers.js"):
        assert lines[program].count('"query: " + text') == 1
        assert "vectors" in lines[program]
    other = snippets(model_card(mean(plain, prompts={"passage": "p: "}), NOTHING, name="x"))
    assert 'encoder.encode(["a text", "another"], prompt_name="passage")' in other["cls_runtime"]


def test_a_default_prompt_goes_before_every_text(plain: Manifest) -> None:
    card = model_card(mean(plain, prompts={"d": "first: "}, default_prompt_name="d"), NOTHING, name="x")
    assert "`d` goes before every text" in card
    lines = snippets(card)
    for program in ("optimum", "fastembed", "transformers.js"):
        assert lines[program].count('"first: " + text') == 1
        assert "queries" not in lines[program]
    assert "first" not in lines["cls_runtime"] + lines["sentence-transformers"] + lines[ONNX_BACKEND]


@pytest.mark.parametrize("default", [None, "query"])
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("pooled", ["cls", "mean"])
def test_who_cannot_leave_a_prompt_out_is_not_told_to_use_it(plain: Manifest, pooled: str, rows: bool, default: str | None) -> None:
    build = mean if pooled == "mean" else changed
    apart = {"include_prompt": False}
    manifest = build(plain, source=apart, prompts={"query": "q: "}, default_prompt_name=default, token_rows=rows)
    lines = snippets(model_card(manifest, NOTHING, name="x"))
    for program in ("optimum", "fastembed", "transformers.js"):
        assert "q: " not in lines[program]
        assert ("vectors" in lines[program]) == (default is None)
    assert ("encode(" in lines[ONNX_BACKEND]) == rows
    assert "encode(" in lines["cls_runtime"]
    assert "encode(" in lines["sentence-transformers"]
    without = snippets(model_card(build(plain, source=apart, token_rows=rows), NOTHING, name="x"))
    assert all(without.values())  # without a prompt it makes no difference


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_leads_out_of_a_prompt_a_label_or_a_name(plain: Manifest, text: str) -> None:
    def card(text: str) -> str:
        manifest = mean(
            dataclasses.replace(plain, source=dataclasses.replace(plain.source, name=text, revision=text)),
            outputs=(*plain.outputs, OutputSpec(name="logits", width=2)),
            labels=(text, "b"),
            prompts={text: text, "default": text + text},
            default_prompt_name="default",
        )
        return model_card(manifest, NOTHING, name=text)

    written = card(text)
    assert shape(written) == shape(card("harmless"))
    kinds = {token.type for token in parsed(written)[1]}
    assert not kinds & {"link_open", "html_inline", "html_block", "image", "hr", "blockquote_open", "code_block"}
    assert all(character == "\n" or character.isprintable() for character in written)
    prompts, labels = (json.loads(block) for block in blocks(written, "json"))
    assert prompts == {text: text, "default": text + text}
    assert labels == [text, "b"]
    for block in blocks(written, "python"):
        strings = {node.value for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Constant)}
        assert text in strings
    (js,) = blocks(written, "js")
    before = re.findall(r"\(text\) => (\".*\") \+ text\)", js)
    assert [json.loads(literal) for literal in before] == [text + text, text]


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_node_reads_the_same_texts(plain: Manifest, tmp_path: Path) -> None:
    for text in HOSTILE:
        (js,) = blocks(model_card(mean(plain, prompts={"query": text}), NOTHING, name="x"), "js")
        (literal,) = re.findall(r"\(text\) => (\".*\") \+ text\)", js)
        (tmp_path / "program.mjs").write_text(f"process.stdout.write(JSON.stringify({literal}))", encoding="utf-8")
        done = subprocess.run(["node", "program.mjs"], cwd=tmp_path, capture_output=True, check=True)
        assert json.loads(done.stdout) == text


@pytest.mark.parametrize("text", [*HOSTILE, "", "`", "| a | b |"])
def test_a_code_span_is_one(text: str) -> None:
    (paragraph,) = [token for token in MARKDOWN.parse(f"before {code(text)} after") if token.type == "inline"]
    assert [child.type for child in paragraph.children or ()] == (["text", "code_inline", "text"] if text else ["text"])
    assert len(cells(f"---\n---\n| {code(text)} | b |\n| --- | --- |\n")[0]) == 2


def test_the_same_manifest_gives_the_same_bytes_at_any_time(plain: Manifest) -> None:
    later = dataclasses.replace(plain, created="2031-01-01T00:00:00+00:00")
    assert model_card(later, NOTHING, name="x") == model_card(plain, NOTHING, name="x")
    assert plain.created not in model_card(plain, NOTHING, name="x")


@pytest.mark.parametrize("name", ["a b", "ä", "a'b", 'a"b', "..", "", "a\nb", "-a"])
def test_a_name_that_needs_quoting_is_replaced(plain: Manifest, name: str) -> None:
    assert "models/bundle" in model_card(plain, NOTHING, name=name)


def test_an_export_writes_it_and_its_first_lines_run(exported: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    card = (exported.bundle / CARD_NAME).read_text(encoding="utf-8")
    manifest = exported.report.manifest
    assert card == model_card(manifest, NOTHING, name=exported.bundle.name)
    assert str(exported.bundle.parent) not in card
    assert CARD_NAME not in {file.path for file in manifest.files}
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / exported.bundle.name).symlink_to(exported.bundle)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(snippets(card)["cls_runtime"], names)
    with Encoder.load(exported.bundle) as encoder:
        np.testing.assert_array_equal(names["vectors"], encoder.encode(["a text", "another"]))


@pytest.mark.parametrize("edit", [lambda card: card.write_text("mine"), lambda card: card.unlink()], ids=["edited", "missing"])
def test_a_bundle_whose_card_was_edited_or_is_gone_is_whole(
    exported: Exported, edit: Callable[[Path], object], tmp_path: Path, traced_once: None
) -> None:
    bundle = Path(shutil.copytree(exported.bundle, tmp_path / "bundle"))
    edit(bundle / CARD_NAME)
    with Verification(bundle, variants=["fp32"], engines=["onnxruntime"]) as verification:
        assert all(verification.run(planned).passed for planned in verification.plan)
    export(exported.checkpoint, bundle, config=ExportConfig(), force=True)
    assert (bundle / CARD_NAME).read_text(encoding="utf-8").startswith("---\nlibrary_name: cls-export\n")


def test_the_license_is_the_sources(exported: Exported, tmp_path: Path, traced_once: None) -> None:
    model = Path(shutil.copytree(exported.checkpoint, tmp_path / "model"))
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    export(model, os.path.relpath(tmp_path / "my-model"), config=ExportConfig())
    card = (tmp_path / "my-model" / CARD_NAME).read_text(encoding="utf-8")
    assert parsed(card)[0]["license"] == "mit"
    assert "models/my-model" in card
