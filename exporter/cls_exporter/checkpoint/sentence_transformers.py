"""What a sentence-transformers folder says is done to the CLS row, in the old schema and the new one.

Old: module types under `sentence_transformers.models`, pooling as booleans. New (since 6): types under `sentence_transformers.base.modules`
and `sentence_transformers.sentence_transformer.modules`, pooling as one `pooling_mode`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cls_exporter.checkpoint.source import inside, read_json, read_json_object
from cls_exporter.checkpoint.weights import read_weights
from cls_exporter.errors import CheckpointError, UnsupportedError
from cls_runtime.bundle.manifest import SourcePooling

_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "torch.nn.modules.linear.Identity": nn.Identity,
    "torch.nn.modules.activation.Tanh": nn.Tanh,
    "torch.nn.modules.activation.ReLU": nn.ReLU,
    "torch.nn.modules.activation.GELU": nn.GELU,
    "torch.nn.modules.activation.Sigmoid": nn.Sigmoid,
}
_TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
)


@dataclass(frozen=True)
class SentenceModules:
    """What follows the encoder, and what its folder says about texts.

    `dense` are the fused Dense modules, None where there are none; `lowercase` says that texts are lowercased before the tokenizer.
    """

    pooling: SourcePooling
    dense: nn.Sequential | None = None
    dense_files: tuple[Path, ...] = ()
    max_length: int | None = None
    lowercase: bool = False
    notes: tuple[str, ...] = ()


def read_sentence_modules(folder: Path, encoder: Path, *, hidden: int, allow_pooling_mismatch: bool) -> SentenceModules:
    """Reads modules.json and what it names; a folder without it says nothing about pooling.

    Raises:
        CheckpointError: the pooling is not CLS, prompts are left out of it, or a file is damaged.
        UnsupportedError: a module or an activation that is not known.
    """
    settings = next((read_json_object(encoder / name) for name in _TRANSFORMER_CONFIGS if (encoder / name).exists()), {})
    limit = _max_length(settings)
    lowercase = bool(settings.get("do_lower_case", False))
    _check_settings(settings)
    has_modules = (folder / "modules.json").exists()
    is_reranker = has_modules and settings.get("transformer_task") == "sequence-classification" and len(_modules(folder)) == 1
    if is_reranker or not has_modules:
        return SentenceModules(SourcePooling(mode=None), max_length=limit, lowercase=lowercase, notes=_reranker_notes(folder, encoder))
    prompts, notes = _prompts(folder)
    chain = _chain(_modules(folder)[1:], hidden=hidden)
    _check_pooling(chain.mode, chain.include_prompt, prompts, allow_pooling_mismatch)
    described = tuple(dense.described for dense in chain.dense)
    pooling = SourcePooling(
        mode=chain.mode,
        mismatch_allowed=allow_pooling_mismatch and chain.mode != "cls",
        normalize=chain.normalize,
        dense=described,
        include_prompt=chain.include_prompt,
    )
    layers = [layer for dense in chain.dense for layer in (dense.linear, dense.activation)]
    return SentenceModules(
        pooling,
        dense=nn.Sequential(*layers) if layers else None,
        dense_files=tuple(dense.file for dense in chain.dense),
        max_length=limit,
        lowercase=lowercase,
        notes=(*notes, *(f"the Dense module is part of the graph: {text}" for text in described)),
    )


@dataclass(frozen=True)
class _Dense:
    """A Dense module: its two layers, the same in words, and the file that its weights came from."""

    linear: nn.Linear
    activation: nn.Module
    described: str
    file: Path


@dataclass(frozen=True)
class _Chain:
    """What the modules after the Transformer do; `mode` is None where none of them pools."""

    mode: str | None
    include_prompt: bool
    dense: tuple[_Dense, ...]
    normalize: bool


def _chain(modules: Sequence[tuple[str, Path]], *, hidden: int) -> _Chain:
    mode, include_prompt, normalize = None, True, False
    dense: list[_Dense] = []
    for kind, path in modules:
        if normalize and kind != "Dropout":
            raise UnsupportedError(f"modules.json has a {kind} after Normalize; supported is Normalize as the last module")
        if kind == "Pooling":
            config = read_json_object(path / "config.json")
            mode, include_prompt = _pooling_mode(config), bool(config.get("include_prompt", True))
        elif kind == "Dense" and mode is not None:
            dense.append(_dense(path, dense[-1].linear.out_features if dense else hidden))
        elif kind == "Normalize":
            normalize = True
        elif kind != "Dropout":
            raise UnsupportedError(
                f"modules.json has the module {kind!r}{' before Pooling' if kind == 'Dense' else ''}; "
                "supported are Transformer, Pooling, Dense after it, Dropout and Normalize"
            )
    return _Chain(mode, include_prompt, tuple(dense), normalize)


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """The class name and folder of each module, in order."""
    listed = read_json(folder / "modules.json")
    modules: list[tuple[str, Path]] = []
    for item in listed if isinstance(listed, list) else []:
        if not isinstance(item, dict) or not isinstance(item.get("type"), str) or not isinstance(item.get("path"), str):
            raise CheckpointError(
                f"modules.json in {folder.name} has an entry without type or path; expected sentence-transformers' format"
            )
        kind = item["type"]
        if not kind.startswith("sentence_transformers."):
            raise UnsupportedError(f"modules.json names the custom module {kind!r}; supported are sentence-transformers' own modules")
        modules.append((kind.rsplit(".", 1)[-1], inside(folder, item["path"], named_by="modules.json")))
    if not modules or modules[0][0] != "Transformer":
        raise UnsupportedError(
            f"modules.json starts with {modules[0][0] if modules else 'nothing'}; expected a Transformer as the first module"
        )
    return modules


def _max_length(settings: Mapping[str, Any]) -> int | None:
    limit = settings.get("max_seq_length")
    if limit is None or (isinstance(limit, int) and limit > 0):
        return limit
    raise CheckpointError(f"sentence_bert_config.json has max_seq_length {limit!r}; expected a positive integer or null")


def _check_settings(settings: Mapping[str, Any]) -> None:
    task = settings.get("transformer_task", "feature-extraction")
    if task not in ("feature-extraction", "sequence-classification"):
        raise UnsupportedError(f"sentence_bert_config.json has transformer_task {task!r}; supported is 'feature-extraction'")
    if settings.get("processing_kwargs"):
        raise UnsupportedError(
            f"sentence_bert_config.json changes how texts are tokenized (processing_kwargs {settings['processing_kwargs']}); a bundle does "
            "not; expected none, set such options in the tokenizer's own files"
        )


def _reranker_notes(folder: Path, encoder: Path) -> tuple[str, ...]:
    """What a CrossEncoder does after the classifier; the graph's logits are before it."""
    inner = read_json_object(encoder / "config.json").get("sentence_transformers")
    named = read_json_object(folder / "config_sentence_transformers.json").get("activation_fn")
    named = named or (inner.get("activation_fn") if isinstance(inner, dict) else None)
    if not named or str(named).endswith(".Identity"):
        return ()
    return (f"sentence-transformers applies {named} to the logits; the graph gives them without it",)


def _prompts(folder: Path) -> tuple[dict[str, str], list[str]]:
    config = read_json_object(folder / "config_sentence_transformers.json")
    prompts = {name: text for name, text in (config.get("prompts") or {}).items() if text}
    default = config.get("default_prompt_name")
    if default is not None and prompts.get(default):
        raise CheckpointError(
            f"sentence-transformers puts the prompt {prompts[default]!r} before every text (default_prompt_name {default!r}); a bundle "
            "adds nothing to a text, so its vectors would differ; set default_prompt_name to null in a copy and "
            "put the prompt there yourself"
        )
    if config.get("truncate_dim"):
        raise UnsupportedError(
            f"config_sentence_transformers.json cuts vectors to truncate_dim {config['truncate_dim']}; a bundle gives them whole; "
            "set it to null in a copy and cut the vectors yourself"
        )
    notes = [f"prompts are not added to texts, put them there yourself: {', '.join(sorted(prompts))}"] if prompts else []
    return prompts, notes


def _pooling_mode(config: Mapping[str, Any]) -> str:
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for name, mode in _OLD_MODES.items() if config.get(name)] or ["mean"]
    return modes if isinstance(modes, str) else "+".join(modes)


def _check_pooling(mode: str | None, include_prompt: bool, prompts: Mapping[str, str], allowed: bool) -> None:
    if mode is None:
        raise UnsupportedError("modules.json has no Pooling module, so it makes no sentence vector; expected one after the Transformer")
    if mode != "cls" and not allowed:
        raise CheckpointError(
            f"sentence-transformers pools this model by {mode}, not by the CLS row: its CLS vectors were not trained to mean anything; "
            "export a CLS model, or use --allow-pooling-mismatch if the CLS row is what you want"
        )
    if not include_prompt and prompts:
        raise CheckpointError(
            f"pooling leaves the prompt out (include_prompt is false, prompts {', '.join(sorted(prompts))}): the pooled row is then not "
            "row 0; supported is include_prompt true, or a model without prompts"
        )


def _dense(path: Path, width: int) -> _Dense:
    config = read_json_object(path / "config.json")
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = _ACTIVATIONS.get(name)
    if activation is None:
        raise UnsupportedError(
            f"the Dense module in {path.name} has the activation {name!r}; supported are "
            f"{', '.join(kind.__name__ for kind in _ACTIVATIONS.values())}"
        )
    if config.get("use_residual"):
        raise UnsupportedError(f"the Dense module in {path.name} has use_residual; supported is a Linear and its activation")
    if any(config.get(key) not in (None, "sentence_embedding") for key in ("module_input_name", "module_output_name")):
        raise UnsupportedError(f"the Dense module in {path.name} does not read and write sentence_embedding; supported is only that")
    weights = read_weights(path)
    expected = {"linear.weight", "linear.bias"} if config.get("bias", True) else {"linear.weight"}
    if set(weights.tensors) != expected or weights.tensors["linear.weight"].shape != (config.get("out_features"), width):
        shapes = {key: list(tensor.shape) for key, tensor in weights.tensors.items()}
        raise CheckpointError(
            f"the Dense module in {path.name} holds {shapes}; expected {sorted(expected)} with a weight of "
            f"[{config.get('out_features')}, {width}]"
        )
    out_features = int(config["out_features"])
    linear = nn.Linear(width, out_features, bias="linear.bias" in expected, device="meta")
    linear.load_state_dict({key.removeprefix("linear."): tensor.float() for key, tensor in weights.tensors.items()}, assign=True)
    return _Dense(linear, activation(), f"Linear({width}, {out_features}) + {activation.__name__}", weights.files[0])
