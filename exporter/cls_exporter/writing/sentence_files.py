"""What sentence-transformers, and the servers that read its files, are told about a bundle: modules, pooling, prompts.

They pool the graph's output 0 themselves. Where it is every token's row, they get the whole chain: the pooling, the Dense modules with
their weights, Normalize. Where it is the sentence's vector already, pooled and behind Dense, they only have to take it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.checkpoint.sentence_use import ROOT_SETTINGS, UNSAID_PROMPTS, SentenceUse

_POOLINGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def write_sentence_files(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes modules.json and what it names into the existing `folder`."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    dense = checkpoint.model.dense if checkpoint.token_rows else None
    for linear, activation in zip(*[iter(dense or ())] * 2, strict=True):
        modules.append((f"{len(modules)}_Dense", "Dense"))
        _write_dense(linear, activation, folder / modules[-1][0])
    if checkpoint.source_pooling.normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
        (folder / modules[-1][0]).mkdir()
    entries = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(modules)
    ]
    write_json(folder / "modules.json", entries)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": checkpoint.max_length, "do_lower_case": False})
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", _pooling(checkpoint))
    # A reranker's prompts are none of the vectors that a SentenceTransformer makes of this folder.
    if checkpoint.source_pooling.mode is not None and says_anything(checkpoint.use):
        write_json(folder / ROOT_SETTINGS, _root_settings(checkpoint.use))


def says_anything(use: SentenceUse) -> bool:
    """Whether a reader would do without the file what it does not with it: nothing is said by the names and the function that all have."""
    return (
        use.has_prompts
        or not {*use.prompts} <= {*UNSAID_PROMPTS}
        or use.truncate_dim is not None
        or use.similarity_fn_name not in (None, "cosine")
    )


def _pooling(checkpoint: Checkpoint) -> dict[str, Any]:
    width = checkpoint.config.hidden_size if checkpoint.token_rows else checkpoint.model.width
    pooled = f"{checkpoint.pooling}_token" if checkpoint.pooling == "cls" else f"{checkpoint.pooling}_tokens"
    switches = {f"pooling_mode_{name}": name == pooled for name in _POOLINGS}
    # One row that is the sentence's vector already has no token of a prompt to leave out.
    include_prompt = checkpoint.model.include_prompt or not checkpoint.token_rows
    return {"word_embedding_dimension": width, **switches, "include_prompt": include_prompt}


def _root_settings(use: SentenceUse) -> dict[str, Any]:
    said = {"truncate_dim": use.truncate_dim, "similarity_fn_name": use.similarity_fn_name}
    named = {name: value for name, value in said.items() if value is not None}
    return {"prompts": dict(use.prompts), "default_prompt_name": use.default_prompt_name, **named}


def _write_dense(linear: nn.Linear, activation: nn.Module, folder: Path) -> None:
    """A Dense module with the entries that every version of sentence-transformers reads."""
    from safetensors.torch import save_file

    kind = type(activation)
    config = {
        "in_features": linear.in_features,
        "out_features": linear.out_features,
        "bias": linear.bias is not None,
        "activation_function": f"{kind.__module__}.{kind.__name__}",
    }
    folder.mkdir()
    write_json(folder / "config.json", config)
    save_file({f"linear.{name}": tensor.contiguous() for name, tensor in linear.state_dict().items()}, folder / "model.safetensors")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON as it is in every bundle: indented, with characters as they are."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
