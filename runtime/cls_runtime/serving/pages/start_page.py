"""The start page: the models, how close they are to PyTorch, a form to try them, and commands for a shell."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from html import escape
from typing import Literal

from starlette.responses import Response

from cls_runtime import __version__
from cls_runtime.bundle.manifest import ParityFigures
from cls_runtime.bundle.parity import Thresholds, thresholds_for
from cls_runtime.serving.examples import EXAMPLES
from cls_runtime.serving.models import ServedModel
from cls_runtime.serving.pages.page import page

Kind = Literal["similarity", "rerank", "predict"]
_POOLED = {"cls": "CLS pooling", "mean": "mean pooling"}
_OUTPUTS = {"cls": "sentence", "sentence": "sentence", "pooler": "pooler", "logits": "logits", "tokens": "each token"}
_KEY = (
    '<section class="card"><label>API key <span class="note">for the forms below; this page keeps it in memory only</span>'
    '<input id="key" type="password" autocomplete="off" spellcheck="false"></label></section>'
)


def start_page(models: Sequence[ServedModel], *, keys: bool) -> Response:
    """The page.

    Args:
        models: what is served.
        keys: whether the server asks for a key.
    """
    kinds = list(dict.fromkeys(kind_of(model) for model in models))
    paths = ["/v1/embeddings", *(f"/{kind}" for kind in kinds)]
    values = {
        "title": escape(", ".join(model.name for model in models)),
        "version": escape(__version__),
        "key": _KEY if keys else "",
        "boxes": "\n".join(_box(kind, [model.name for model in models if kind_of(model) == kind]) for kind in kinds),
        "lines": "\n".join(shell_line(path, EXAMPLES[path], keys=keys) for path in paths),
        "models": "\n".join(_model(model, place) for place, model in enumerate(models)),
    }
    return page("start.html", "start.js", values)


def kind_of(model: ServedModel) -> Kind:
    """What a model is for: a reranker has one logit, a classifier several."""
    return ("similarity", "rerank")[len(model.labels)] if len(model.labels) < 2 else "predict"


def shell_line(path: str, body: object, *, keys: bool) -> str:
    """A curl command for an endpoint, as HTML; the page's script puts its own address into it."""
    key = ' \\\n  -H "Authorization: Bearer $KEY"' if keys else ""
    data = f" \\\n  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(json.dumps(body))}" if body is not None else ""
    origin = "<span data-origin>http://127.0.0.1:8080</span>"
    return f'<pre tabindex="0"><code>curl {origin}{escape(path)}{escape(key + data, quote=False)}</code></pre>'


def _box(kind: Kind, names: Sequence[str]) -> str:
    heading, button, fields = {
        "similarity": ("How similar are two sentences?", "Compare", _two("First sentence", "Second sentence", "/similarity")),
        "rerank": ("Which text answers the question?", "Rank", _rerank_fields()),
        "predict": ("Classify a text", "Classify", _area("text", "Text", EXAMPLES["/predict"]["inputs"])),
    }[kind]
    model = ""
    if len(names) > 1:
        options = "".join(f"<option>{escape(name)}</option>" for name in names)
        model = f'<label>Model <select name="model">{options}</select></label>'
    return (
        f'<form class="card" data-kind="{kind}" aria-labelledby="try-{kind}"><h2 id="try-{kind}">{heading}</h2>'
        f'{fields}{model}<button type="submit">{button}</button><output aria-live="polite"></output></form>'
    )


def _rerank_fields() -> str:
    first, second = EXAMPLES["/rerank"]["texts"]
    query = _area("query", "Question", EXAMPLES["/rerank"]["query"])
    return f'{query}<div class="two">{_area("first", "First text", first)}{_area("second", "Second text", second)}</div>'


def _two(first: str, second: str, path: str) -> str:
    inputs = EXAMPLES[path]["inputs"]
    return f'<div class="two">{_area("first", first, inputs["source_sentence"])}{_area("second", second, inputs["sentences"][0])}</div>'


def _area(name: str, label: str, text: str) -> str:
    return f'<label>{label} <textarea name="{name}" rows="2" required>{escape(text)}</textarea></label>'


def _model(model: ServedModel, place: int) -> str:
    facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in _facts(model))
    heading = f'<h2 id="model-{place}">{escape(model.name)}</h2>'
    return f'<section class="card" aria-labelledby="model-{place}">{heading}<dl>{facts}</dl>{_parity(model)}</section>'


def _facts(model: ServedModel) -> list[tuple[str, str]]:
    manifest, info = model.encoder.manifest, model.encoder.info
    vectors = f"{manifest.width('sentence')} dimensions, {_POOLED[manifest.pooling]}"
    if manifest.source_pooling.normalize:
        vectors += ", of unit length"
    if manifest.matryoshka_dims:
        vectors += f"; shorter on request: {', '.join(map(str, manifest.matryoshka_dims))}"
    facts = [("Names", ", ".join(f"<code>{escape(name)}</code>" for name in model.names))]
    if model.labels:
        facts.append(("Labels", escape(", ".join(model.labels))))
    facts += [
        ("Vectors", vectors),
        ("Texts", f"up to {manifest.max_length:,} tokens"),
        ("Variant", f"{escape(info.variant)} on {escape(info.engine)}, {info.threads} {'thread' if info.threads == 1 else 'threads'}"),
        ("Fingerprint", f"<code>{escape(model.fingerprint)}</code>"),
    ]
    if manifest.prompts:
        default = manifest.default_prompt_name
        named = (f"<code>{escape(name)}</code>{' (default)' if name == default else ''}" for name in manifest.prompts)
        facts.insert(-2, ("Prompts", ", ".join(named)))
    return facts


def _parity(model: ServedModel) -> str:
    """The figures that the manifest has of the variant served, and what they are held to."""
    variant, engine = model.encoder.info.variant, model.encoder.info.engine
    entry = model.encoder.manifest.variants.get(variant)
    if entry is None:  # the engine makes it itself, such as bf16
        return ""
    parity = entry.engine_parity[engine].parity if engine in entry.engine_parity else entry.parity
    if not parity:
        return ""
    rows = []
    for output, figures in parity.items():
        held = thresholds_for(variant, output, engine=engine)
        measured = f'<tr><th scope="row">{_OUTPUTS[output]}</th>{_figures(figures)}</tr>'
        rows.append(f'<tbody>{measured}<tr class="note"><td>threshold</td>{_held(held)}</tr></tbody>')
    texts = max(figures.texts for figures in parity.values())
    about = (
        f"{escape(variant)} compared with PyTorch in fp32, on {texts:,} texts, when the bundle was exported. A cosine of 1 means the same "
        "direction; the last column is the largest difference of a single number. Exports that miss a threshold are refused."
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Output", "Mean cosine", "Lowest 1%", "Lowest", "Largest difference"))
    table = f'<table class="figures"><thead><tr>{head}</tr></thead>{"".join(rows)}</table>'
    region = f'<div class="scroll" tabindex="0" role="region" aria-label="Parity of {escape(model.name)}">{table}</div>'
    return f'<h3>Parity with PyTorch</h3><p class="note">{about}</p>{region}'


def _figures(figures: ParityFigures) -> str:
    cells = [cosine(figures.mean_cosine), cosine(figures.p1_cosine), cosine(figures.min_cosine), _short(figures.max_abs)]
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _held(held: Thresholds) -> str:
    bounds = (held.mean_cosine, held.p1_cosine, held.min_cosine)
    least = ["–" if bound is None else f"≥ {bound:g}" if bound < 0.9999 else f"≥ {cosine(bound)}" for bound in bounds]
    most = f"≤ {_short(held.max_abs)}" if held.max_abs is not None else "–"
    return "".join(f"<td>{cell}</td>" for cell in [*least, most])


def cosine(value: float) -> str:
    """A cosine in digits that tell it from 1.

    >>> cosine(0.99961634), cosine(0.999999986), cosine(1.0)
    ('0.99962', '1 − 1.4e-8', '1')
    """
    if value >= 1:
        return "1"
    return f"1 − {_short(1 - value)}" if value > 0.9999 else f"{value:.5f}"


def _short(value: float) -> str:
    """A number in two digits: 5.6e-2 as 0.056, 5e-05 as 5e-5."""
    return re.sub("e-0", "e-", f"{value:.2g}")
