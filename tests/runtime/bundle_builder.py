"""A complete bundle in a tenth of a second: a graph of one attention head, built by hand, and a tokenizer made here.

A token's row is its own plus an attention-weighted sum of all rows, so an error in padding, mask or type ids changes it. The vector of a
text is its first row, or the mean of all rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from cls_runtime.bundle.files import sha256
from cls_runtime.bundle.manifest import (
    MANIFEST_NAME,
    BundleFile,
    Manifest,
    OutputSpec,
    ParityFigures,
    Pooler,
    Pooling,
    Source,
    SourcePooling,
    Variant,
    to_json,
)

HIDDEN = 8
LABELS = 3
MAX_LENGTH = 16
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?-"
VOCABULARY = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "cat", "dog", "sleeps", "runs", "##ing"]
EXACT = ParityFigures(texts=9, mean_cosine=1.0, p1_cosine=1.0, min_cosine=1.0, max_abs=0.0, worst_text=0)


def build_bundle(
    folder: Path,
    *,
    variants: dict[str, Variant | None] | None = None,
    outputs: tuple[str, ...] = ("sentence_embedding", "pooler_output", "logits"),
    type_ids: bool = True,
    tokenizer: Tokenizer | None = None,
    tokenizer_config: dict[str, object] | None = None,
    change_weights: Callable[[np.ndarray], np.ndarray] = lambda weights: weights,
    max_length: int = MAX_LENGTH,
    pooling: Pooling = "cls",
    token_rows: bool = False,
    normalize: bool = False,
    include_prompt: bool = True,
    label_count: int = LABELS,
    **used_like: object,
) -> Path:
    """Writes a bundle. `variants` gives manifest entries to use in place of a perfect one; every variant has the fp32 graph.

    `used_like` are the manifest's fields on how the source is used: `prompts`, `truncate_dim` and so on.
    """
    (folder / "onnx").mkdir(parents=True)
    (tokenizer or word_piece()).save(str(folder / "tokenizer.json"))
    config = {"pad_token": "[PAD]", "model_max_length": max_length, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | (tokenizer_config or {})))
    leaves_prompt_out = not include_prompt and (pooling != "cls" or any(used_like.get("prompts", {}).values()))
    graph = tiny_graph(
        outputs,
        type_ids=type_ids,
        change_weights=change_weights,
        pooling=pooling,
        token_rows=token_rows,
        leaves_prompt_out=leaves_prompt_out,
        label_count=label_count,
    )
    entries: dict[str, Variant] = {}
    for name, entry in (variants or {"fp32": None}).items():
        path = "onnx/model.onnx" if name == "fp32" else f"onnx/model_{name}.onnx"
        onnx.save(graph, str(folder / path))
        parity = {"cls" if pooling == "cls" else "sentence": EXACT}
        given = entry or Variant(files=(), recipe={}, parity=parity, batch_invariance_max_abs=0.0)
        entries[name] = Variant(**(vars(given) | {"files": (describe(folder, path),)}))
    widths = {"last_hidden_state": HIDDEN, "sentence_embedding": HIDDEN, "pooler_output": HIDDEN, "logits": label_count}
    manifest = Manifest(
        source=Source(name="tiny", revision=None, weights_sha256="0" * 64, tokenizer_sha256="0" * 64),
        architecture="bert",
        hidden_size=HIDDEN,
        num_layers=1,
        max_length=max_length,
        layout="standard",
        inputs=("input_ids", "attention_mask", *(("token_type_ids",) if type_ids else ())),
        outputs=tuple(OutputSpec(name=name, width=widths[name]) for name in ("last_hidden_state", *outputs)),
        pooler=Pooler(state="trained", evidence="made by a test"),
        source_pooling=SourcePooling(mode=pooling, normalize=normalize, include_prompt=include_prompt),
        variants=entries,
        files=(describe(folder, "tokenizer.json"), describe(folder, "tokenizer_config.json")),
        tool_versions={},
        pooling=pooling,
        token_rows=token_rows,
        **used_like,
    )
    assert manifest.leaves_prompt_out == leaves_prompt_out
    write_manifest(folder, manifest)
    return folder


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST_NAME).write_text(to_json(manifest), encoding="utf-8")


def describe(folder: Path, path: str) -> BundleFile:
    return BundleFile(path=path, sha256=sha256(folder / path), size_bytes=(folder / path).stat().st_size)


def word_piece() -> Tokenizer:
    """BERT's tokenizer over a vocabulary of letters and a few words, with truncation and padding of its own, which must not count."""
    tokenizer = Tokenizer(models.WordPiece({token: index for index, token in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = [(token, VOCABULARY.index(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=7)
    return tokenizer


def tiny_graph(
    outputs: tuple[str, ...],
    *,
    type_ids: bool,
    change_weights: Callable[[np.ndarray], np.ndarray],
    pooling: Pooling = "cls",
    token_rows: bool = False,
    leaves_prompt_out: bool = False,
    label_count: int = LABELS,
) -> onnx.ModelProto:
    """rows = E[ids] + T[types]; states = rows + softmax(rows q, masked) rows; sentence = states[0] or their mean.

    pooler = tanh(sentence P); logits = sentence L. With `leaves_prompt_out` all tokens but those of mask 2 are pooled.
    """
    random = np.random.default_rng(7)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        values = random.standard_normal(shape).astype(np.float32)
        return numpy_helper.from_array(change_weights(values) if name == "E" else values, name)

    def constant(name: str, values: object, kind: type = np.int64) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, dtype=kind), name)

    initializers = [
        weights("E", len(VOCABULARY), HIDDEN),
        weights("T", 2, HIDDEN),
        weights("q", HIDDEN),
        weights("P", HIDDEN, HIDDEN),
        weights("L", HIDDEN, label_count),
        constant("one", 1.0, np.float32),
        constant("far", -1e4, np.float32),
        constant("zero", 0),
        constant("axis1", [1]),
        constant("axis2", [2]),
        constant("least", 1e-9, np.float32),
        constant("one_token", 1),
    ]
    words = "words" if type_ids else "rows"
    nodes = [
        helper.make_node("Gather", ["E", "input_ids"], [words]),  # [B, S, H]
        *(
            [
                helper.make_node("Gather", ["T", "token_type_ids"], ["types"]),
                helper.make_node("Add", ["words", "types"], ["rows"]),
            ]
            if type_ids
            else []
        ),
        helper.make_node("MatMul", ["rows", "q"], ["scores"]),  # [B, S]
        *([helper.make_node("Min", ["attention_mask", "one_token"], ["attended"])] if leaves_prompt_out else []),
        helper.make_node("Cast", ["attended" if leaves_prompt_out else "attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "mask"], ["hidden"]),
        helper.make_node("Mul", ["hidden", "far"], ["bias"]),
        helper.make_node("Add", ["scores", "bias"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["probabilities"], axis=-1),
        helper.make_node("Unsqueeze", ["probabilities", "axis1"], ["weights"]),  # [B, 1, S]
        helper.make_node("MatMul", ["weights", "rows"], ["context"]),  # [B, 1, H]
        *_pooled(pooling, token_rows=token_rows, leaves_prompt_out=leaves_prompt_out),
        helper.make_node("MatMul", ["sentence_embedding", "P"], ["projected"]),
        helper.make_node("Tanh", ["projected"], ["pooler_output"]),
        helper.make_node("MatMul", ["sentence_embedding", "L"], ["logits"]),
    ]
    names = ("input_ids", "attention_mask", *(("token_type_ids",) if type_ids else ()))
    shapes = {
        "last_hidden_state": ["batch_size", "sequence_length" if token_rows else 1, HIDDEN],
        "sentence_embedding": ["batch_size", HIDDEN],
        "pooler_output": ["batch_size", HIDDEN],
        "logits": ["batch_size", label_count],
    }
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch_size", "sequence_length"]) for name in names],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in ("last_hidden_state", *outputs)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _pooled(pooling: Pooling, *, token_rows: bool, leaves_prompt_out: bool) -> list[onnx.NodeProto]:
    """`last_hidden_state` and `sentence_embedding` of `rows` [B, S, H], `context` [B, 1, H] and the masks."""
    node = helper.make_node
    if pooling == "cls" and not leaves_prompt_out:
        one_row = [
            node("Squeeze", ["context", "axis1"], ["summed"]),
            node("Gather", ["rows", "zero"], ["first"], axis=1),
            node("Add", ["first", "summed"], ["sentence_embedding"]),
        ]
        states = node("Add", ["rows", "context"], ["last_hidden_state"])
        return [*one_row, states if token_rows else node("Unsqueeze", ["sentence_embedding", "axis1"], ["last_hidden_state"])]
    states_name = "last_hidden_state" if token_rows else "states"
    nodes = [
        node("Add", ["rows", "context"], [states_name]),
        node("Equal", ["attention_mask", "one_token"], ["is_pooled"]),
        node("Cast", ["is_pooled"], ["counted"], to=TensorProto.FLOAT),
    ]
    share = "counted"
    if pooling == "cls":  # the first that is pooled
        nodes += [
            node("CumSum", ["counted", "one_token"], ["nth"]),
            node("Equal", ["nth", "one"], ["is_first_or_prompt"]),
            node("And", ["is_first_or_prompt", "is_pooled"], ["is_first"]),
            node("Cast", ["is_first"], ["first"], to=TensorProto.FLOAT),
        ]
        share = "first"
    nodes += [
        node("Unsqueeze", [share, "axis2"], ["share"]),
        node("Mul", [states_name, "share"], ["parts"]),
        node("ReduceSum", ["parts", "axis1"], ["total"], keepdims=0),
        node("ReduceSum", [share, "axis1"], ["count"], keepdims=1),
        node("Max", ["count", "least"], ["divisor"]),
        node("Div", ["total", "divisor"], ["sentence_embedding"]),
    ]
    return nodes if token_rows else [*nodes, node("Unsqueeze", ["sentence_embedding", "axis1"], ["last_hidden_state"])]
