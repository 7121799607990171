"""How a bundle is used in other programs: a few lines for each, that give the vectors which its source was trained to give.

What the lines are depends on the bundle: where a program makes a sentence's vector of the graph's first output it has to be told how, and
where the first output is not made for that, the vector is asked for by its name. `make interop` takes the lines out of real bundles' cards
and runs them; docs/integrations has the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from cls_runtime.bundle.manifest import GRAPH_OUTPUTS, Manifest

_SENTENCE = GRAPH_OUTPUTS["sentence"]
_TEXTS = '["a text", "another"]'
_QUERY = "query"  # the prompt's name that Encoder.encode_query looks for first
_JS_TYPES = {"fp32": "fp32", "fp16": "fp16", "int8": "q8"}
_VECTORS_AND_QUERIES = ("vectors", "queries")


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """Lines of code for a program, and a line of words before them; no code where the program cannot give the vectors.

    `code` sets `vectors` and, where the source has a prompt to show, `queries` to what the two texts of the example give.
    """

    program: str
    words: str
    language: Literal["python", "js"] = "python"
    code: str | None = None


def shown_prompt(manifest: Manifest) -> str | None:
    """The name of the prompt that the lines of code show: the one for queries, or the first that says something; None without one."""
    names = [name for name, text in manifest.prompts.items() if text and name != manifest.default_prompt_name]
    return _QUERY if _QUERY in names else next(iter(names), None)


def literal(text: str, *, language: Literal["python", "js"] = "python") -> str:
    """A text as a literal of the language, on one line; what is not printable is escaped."""
    if text.isprintable():
        return json.dumps(text, ensure_ascii=False)
    return json.dumps(text) if language == "js" else ascii(text)


def snippets(manifest: Manifest, *, name: str) -> tuple[Snippet, ...]:
    """Those of a bundle in the folder `models/NAME`, in the order in which its card shows them."""
    path = f"models/{name}"
    return (
        _cls_runtime(manifest, literal(path)),
        _sentence_transformers(manifest, literal(path)),
        _their_onnx_backend(manifest, literal(path)),
        _optimum(manifest, literal(path)),
        _fastembed(manifest, literal(path)),
        _transformers_js(manifest, name),
    )


def _cls_runtime(manifest: Manifest, path: str) -> Snippet:
    lines = [
        "from cls_runtime import Encoder",
        "",
        f"with Encoder.load({path}) as encoder:",
        *(f"    {line}" for line in _encoded(manifest, "encoder")),
    ]
    return Snippet(program="cls_runtime", words="`pip install cls-export[cpu]`. No PyTorch.", code=_joined(lines))


def _sentence_transformers(manifest: Manifest, path: str) -> Snippet:
    lines = [
        "from cls_runtime.integrations.sentence_transformers import sentence_transformer",
        "",
        f"model = sentence_transformer({path})",
        *_encoded(manifest, "model"),
    ]
    words = "`pip install cls-export[cpu] sentence-transformers`, version 5 or 6."
    return Snippet(program="sentence-transformers", words=words, code=_joined(lines))


def _their_onnx_backend(manifest: Manifest, path: str) -> Snippet:
    program = 'sentence-transformers 5, `backend="onnx"`'
    if manifest.layout == "native":
        return Snippet(program=program, words="Not supported: it reads `last_hidden_state`, which layout `native` does not have.")
    if not _is_pooled_with_prompts(manifest) and not manifest.token_rows:
        return Snippet(
            program=program, words="Not supported: to leave a prompt out it needs every token's row, which this bundle does not have."
        )
    file = _file(manifest)
    options = "" if file == "onnx/model.onnx" else f', model_kwargs={{"file_name": {literal(file)}}}'
    lines = [
        "from sentence_transformers import SentenceTransformer",
        "",
        f'model = SentenceTransformer({path}, backend="onnx", device="cpu"{options})',
        *_encoded(manifest, "model"),
    ]
    words = '`pip install "sentence-transformers<6" cls-export[optimum]`.'
    return Snippet(program=program, words=words, code=_joined(lines))


def _encoded(manifest: Manifest, model: str) -> list[str]:
    """`vectors` and `queries`, of what knows the source's prompts."""
    name = shown_prompt(manifest)
    lines = [f"vectors = {model}.encode({_TEXTS})"]
    if name == _QUERY:
        lines.append(f"queries = {model}.encode_query({_TEXTS})")
    elif name is not None:
        lines.append(f"queries = {model}.encode({_TEXTS}, prompt_name={literal(name)})")
    return lines


def _optimum(manifest: Manifest, path: str) -> Snippet:
    program, words = "optimum", "`pip install cls-export[optimum]`. Outputs are read by name."
    calls = _calls(manifest)
    if not calls:
        return Snippet(program=program, words=_CANNOT_LEAVE_OUT)
    file = PurePosixPath(_file(manifest))
    unit = manifest.source_pooling.normalize
    graph = f"subfolder={literal(str(file.parent))}, file_name={literal(file.name)}"
    lines = [
        "from optimum.onnxruntime import ORTModelForCustomTasks",
        *(["from torch.nn.functional import normalize"] if unit else []),
        "from transformers import AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({path})",
        f"model = ORTModelForCustomTasks.from_pretrained({path}, {graph})",
    ]
    for target, texts in calls:
        row = f'model(**inputs)["{_SENTENCE}"]'
        lines.append(f'inputs = tokenizer({texts}, padding=True, truncation=True, return_tensors="pt")')
        lines.append(f"{target} = {f'normalize({row})' if unit else row}{_cut(manifest)}")
    return Snippet(program=program, words=words + _left_out(manifest), code=_joined(lines))


def _fastembed(manifest: Manifest, path: str) -> Snippet:
    program, words = "fastembed", "`pip install fastembed`."
    calls = _calls(manifest)
    if not calls:
        return Snippet(program=program, words=_CANNOT_LEAVE_OUT)
    by_name = not _is_pooled_from_rows(manifest)
    pooling = ["    pooling=PoolingType.DISABLED,", f'    output_name="{_SENTENCE}",']
    lines = [
        "import numpy as np",
        "from fastembed import TextEmbedding",
        "from fastembed.common.model_description import ModelSource, PoolingType",
        "",
        "TextEmbedding.add_custom_model(",
        '    model="my-bundle",',
        *(pooling if by_name else [f"    pooling=PoolingType.{manifest.pooling.upper()},"]),
        f"    normalization={manifest.source_pooling.normalize},",
        '    sources=ModelSource(hf="my-bundle"),',
        f"    dim={manifest.width(manifest.sentence_output)},",
        f"    model_file={literal(_file(manifest))},",
        ")",
        f'model = TextEmbedding("my-bundle", specific_model_path={path})',
        *(f"{target} = np.stack(list(model.embed({texts}, batch_size=32))){_cut(manifest)}" for target, texts in calls),
    ]
    return Snippet(program=program, words=words + _left_out(manifest), code=_joined(lines))


def _transformers_js(manifest: Manifest, bundle: str) -> Snippet:
    program = "transformers.js"
    calls = _calls(manifest, language="js")
    if not calls:
        return Snippet(program=program, words=_CANNOT_LEAVE_OUT)
    words = "`npm install @huggingface/transformers`. It truncates long texts differently: without the last special token."
    variant = next(name for name in _JS_TYPES if name in manifest.variants)
    options = f"{{ dtype: '{_JS_TYPES[variant]}' }}"
    unit, cut = manifest.source_pooling.normalize, manifest.truncate_dim
    end = "" if cut is None else f".slice(null, [0, {cut}])"
    local = ["", "env.allowRemoteModels = false;", "env.localModelPath = 'models/';"]
    if _is_pooled_from_rows(manifest):
        how = f"{{ pooling: '{manifest.pooling}', normalize: {str(unit).lower()} }}"
        lines = [
            "import { env, pipeline } from '@huggingface/transformers';",
            *local,
            f"const extract = await pipeline('feature-extraction', '{bundle}', {options});",
            *(f"const {target} = {_awaited(f'extract({texts}, {how})', end)};" for target, texts in calls),
        ]
    else:
        end = (".normalize()" if unit else "") + end
        lines = [
            "import { AutoModel, AutoTokenizer, env } from '@huggingface/transformers';",
            *local,
            f"const tokenizer = await AutoTokenizer.from_pretrained('{bundle}');",
            f"const model = await AutoModel.from_pretrained('{bundle}', {options});",
        ]
        for target, texts in calls:
            row = f"(await model(tokenizer({texts}, {{ padding: true, truncation: true }}))).{_SENTENCE}"
            lines.append(f"const {target} = {row}{end};")
    return Snippet(program=program, words=words + _left_out(manifest), language="js", code=_joined(lines))


_CANNOT_LEAVE_OUT = "Not supported: the source does not pool its default prompt's tokens, and this program cannot leave them out."


def _left_out(manifest: Manifest) -> str:
    if shown_prompt(manifest) is None or _is_pooled_with_prompts(manifest):
        return ""
    return " Prompts are not supported: the source does not pool their tokens, and this program cannot leave them out."


def _calls(manifest: Manifest, *, language: Literal["python", "js"] = "python") -> list[tuple[str, str]]:
    """`vectors` and `queries` with their texts, each behind its prompt, for programs that know of none; nothing where they cannot."""
    name, default = shown_prompt(manifest), manifest.default_prompt
    if not _is_pooled_with_prompts(manifest):
        return [] if default else [("vectors", _TEXTS)]
    prompts = [default] if name is None else [default, manifest.prompts[name]]
    return [(target, _behind(prompt, language)) for target, prompt in zip(_VECTORS_AND_QUERIES, prompts, strict=False)]


def _behind(prompt: str, language: Literal["python", "js"]) -> str:
    if not prompt:
        return _TEXTS
    before = literal(prompt, language=language)
    return f"[{before} + text for text in {_TEXTS}]" if language == "python" else f"{_TEXTS}.map((text) => {before} + text)"


def _is_pooled_with_prompts(manifest: Manifest) -> bool:
    """Whether a prompt is nothing but more text; otherwise its tokens are read, and are none of those that are pooled."""
    return manifest.source_pooling.include_prompt or not any(manifest.prompts.values())


def _is_pooled_from_rows(manifest: Manifest) -> bool:
    """Whether `last_hidden_state` gives the sentence's vector to a program that pools it as `manifest.pooling` says."""
    return manifest.layout != "native" and not (manifest.token_rows and manifest.source_pooling.dense)


def _file(manifest: Manifest) -> str:
    """The first variant's graph."""
    return manifest.variants[next(name for name in _JS_TYPES if name in manifest.variants)].files[0].path


def _cut(manifest: Manifest) -> str:
    return "" if manifest.truncate_dim is None else f"[:, :{manifest.truncate_dim}]"


def _awaited(call: str, end: str) -> str:
    return f"(await {call}){end}" if end else f"await {call}"


def _joined(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
