"""README.md of a bundle: a model card for people, and for the hub, made of the manifest.

It is no part of the manifest's `files`, so that it can be edited: nothing in it decides a vector. The same manifest gives the same bytes,
whenever the export ran. Names, prompts and labels are a checkpoint's, and so of anybody: they stand in code spans, in JSON and in literals,
out of which nothing leads, or they do not stand here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from cls_exporter.checkpoint.source_card import Stated
from cls_exporter.writing.card_snippets import shown_prompt, snippets
from cls_runtime.bundle.manifest import Manifest, ParityFigures

CARD_NAME = "README.md"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_TOOLS = {"cls-export": "cls-export", "torch": "PyTorch", "transformers": "transformers", "onnxruntime": "ONNX Runtime"}
_FORMS = {
    "cuda": "tokens packed without padding, for GPU operators of ONNX Runtime",
    "native": "weights for cls-export's own kernels",
    "openvino": "products over batches of texts instead of rows of tokens",
}
_WORDS = {"cls": "the CLS row of the last layer", "mean": "the mean of all token rows of the last layer"}


def write_model_card(folder: Path, manifest: Manifest, stated: Stated, *, name: str) -> None:
    """Writes the card of the bundle in `folder`, as `model_card` makes it."""
    (folder / CARD_NAME).write_text(model_card(manifest, stated, name=name), encoding="utf-8", newline="\n")


def model_card(manifest: Manifest, stated: Stated, *, name: str) -> str:
    """The text of the card: YAML front matter as the hub reads it, then Markdown.

    Args:
        manifest: the bundle's, with every variant.
        stated: what the source says of itself.
        name: what the bundle's folder is called; one that would need quoting in code is replaced.
    """
    name = name if _PLAIN_NAME.fullmatch(name) else "bundle"
    matter = yaml.safe_dump(_front_matter(manifest, stated), sort_keys=False, allow_unicode=True, default_flow_style=False, width=2**20)
    sections = [
        f"# {name}, exported by cls-export",
        _summary(manifest),
        *_warnings(manifest),
        _table(("", ""), _facts(manifest)),
        "## Parity",
        _measured(manifest),
        _table(("variant", "output", "file", "MB", "mean cosine", "1st percentile", "lowest", "max abs"), _parity_rows(manifest)),
        *_forms(manifest),
        *_prompts(manifest),
        *_labels(manifest),
        "## How to use it",
        f"The examples expect this folder at `models/{name}`. {_given(manifest)}",
    ]
    for snippet in snippets(manifest, name=name):
        sections += [f"### {snippet.program}", snippet.words]
        sections += [] if snippet.code is None else [f"```{snippet.language}\n{snippet.code}```"]
    return f"---\n{matter}---\n\n" + "\n\n".join(sections) + "\n"


def code(text: str) -> str:
    """A text in a code span of a paragraph or a table; what would end either is escaped."""
    escaped = (f"\\u{{{ord(letter):x}}}" if letter in "`|\\" or not letter.isprintable() else letter for letter in text)
    return f"`{''.join(escaped)}`"


def _front_matter(manifest: Manifest, stated: Stated) -> dict[str, Any]:
    source, task = manifest.source, "feature-extraction"
    if "logits" in manifest.encoder_outputs:
        task = "text-classification"
    elif manifest.source_pooling.mode is not None:
        task = "sentence-similarity"
    is_of_the_hub = source.revision is not None and _HUB_ID.fullmatch(source.name) is not None
    matter = {
        "library_name": "cls-export",
        "pipeline_tag": task,
        "base_model": source.name if is_of_the_hub else None,
        **{key: _one_or_all(getattr(stated, key)) for key in ("license", "license_name", "language")},
        "tags": ["onnx", "sentence-transformers", "transformers.js", "cls-export"],
    }
    return {key: value for key, value in matter.items() if value}


def _one_or_all(values: Sequence[str]) -> str | list[str] | None:
    return values[0] if len(values) == 1 else list(values)


def _summary(manifest: Manifest) -> str:
    steps = [_WORDS[manifest.pooling], *(f"then {dense}" for dense in manifest.source_pooling.dense)]
    width = manifest.width(manifest.sentence_output)
    words = f"An ONNX bundle of {code(manifest.source.name)}. It turns a text into {width} numbers: {', '.join(steps)}."
    if manifest.source_pooling.normalize:
        words += " The examples below give vectors of length 1, as the source does; the graph itself does not normalize."
    return words


def _warnings(manifest: Manifest) -> list[str]:
    mode = manifest.source_pooling.mode
    words = (
        f"The source was trained with {mode} pooling, but this bundle uses {manifest.pooling} (`--allow-pooling-mismatch`): its vectors "
        "were not trained to mean anything."
    )
    return [] if mode in (None, manifest.pooling) else [words]


def _measured(manifest: Manifest) -> str:
    texts = max(figures.texts for variant in manifest.variants.values() for figures in variant.parity.values())
    return (
        f"Compared with PyTorch in fp32 on {texts} texts, from one token to beyond the maximum length; an export that misses a threshold "
        "fails. `cls-verify` repeats the comparison anywhere, without PyTorch."
    )


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    source = manifest.source
    yield "source", code(source.name) + ("" if source.revision is None else f" at {code(source.revision)}")
    yield "weights", f"sha256 `{source.weights_sha256}`"
    yield "architecture", f"{code(manifest.architecture)}: {manifest.num_layers} layers, hidden size {manifest.hidden_size}"
    yield "longest text", f"{manifest.max_length} tokens, including special tokens"
    yield "graph outputs", ", ".join(f"`{output.name}` ({output.width})" for output in manifest.outputs)
    if manifest.matryoshka_dims:
        yield "trained dimensions", ", ".join(map(str, manifest.matryoshka_dims))
    if manifest.truncate_dim is not None:
        yield "dimensions by default", f"{manifest.truncate_dim}, as in its source"
    if manifest.similarity_fn_name is not None:
        yield "similarity", manifest.similarity_fn_name
    tools = (f"{words} {code(manifest.tool_versions[tool])}" for tool, words in _TOOLS.items() if tool in manifest.tool_versions)
    yield "made with", ", ".join(tools)
    yield "fingerprint", f"`{manifest.fingerprint}`"


def _parity_rows(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    for name, variant in manifest.variants.items():
        megabytes = sum(file.size_bytes for file in variant.files) / 1e6
        for output, figures in variant.parity.items():
            yield name, output, code(variant.files[0].path), f"{megabytes:.1f}", *_numbers(figures)
        for engine, own in variant.engine_parity.items():
            files = variant.engine_files[engine]
            megabytes = sum(file.size_bytes for file in files) / 1e6
            for output, figures in own.parity.items():
                yield f"{name}, {engine}", output, code(files[0].path), f"{megabytes:.1f}", *_numbers(figures)


def _numbers(figures: ParityFigures) -> tuple[str, ...]:
    cosines = (figures.mean_cosine, figures.p1_cosine, figures.min_cosine)
    return (*(f"{cosine:.7f}" for cosine in cosines), f"{figures.max_abs:.1e}")


def _forms(manifest: Manifest) -> list[str]:
    """The files of which only one engine has use, and how they differ from the variant's own."""
    forms = [(name, engine, files) for name, variant in manifest.variants.items() for engine, files in variant.engine_files.items()]
    if not forms:
        return []
    rows = (
        (name, code(files[0].path), f"{sum(file.size_bytes for file in files) / 1e6:.1f}", f"`{engine}`", _FORMS.get(engine, ""))
        for name, engine, files in forms
    )
    words = "Forms that one engine of `cls_runtime` computes faster, also compared with PyTorch:"
    return [words, _table(("variant", "file", "MB", "engine", "form"), rows)]


def _prompts(manifest: Manifest) -> list[str]:
    if not manifest.prompts:
        return []
    words = ["The source defines these prompts."]
    if manifest.default_prompt:
        words.append(f"{code(str(manifest.default_prompt_name))} goes before every text by default.")
    if not manifest.source_pooling.include_prompt:
        words.append("A prompt's tokens are read but not pooled.")
    return ["## Prompts", " ".join(words), _json(dict(manifest.prompts))]


def _labels(manifest: Manifest) -> list[str]:
    if not manifest.labels:
        return []
    activation = manifest.logits_activation
    how = "" if activation in (None, "identity") else f", before {activation} turns them into scores"
    return ["## Labels", f"`logits` has one number per label, in this order{how}.", _json(list(manifest.labels))]


def _given(manifest: Manifest) -> str:
    """What the examples compute, in words."""
    name = shown_prompt(manifest)
    words = "`vectors` belong to the two texts"
    return f"{words}." if name is None else f"{words}, `queries` to the same texts with the prompt {code(name)}."


def _table(head: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _json(value: Any) -> str:
    """A block that nothing in it can end: a line break in a text is an escape, and every line begins with a bracket or a blank."""
    plain = json.dumps(value, indent=2, ensure_ascii=False)
    whole = all(character == "\n" or character.isprintable() for character in plain)
    return f"```json\n{plain if whole else json.dumps(value, indent=2)}\n```"
