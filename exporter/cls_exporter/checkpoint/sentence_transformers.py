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

from cls_exporter.checkpoint.config_fields import as_integer, is_integer
from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.tensor_files import as_float32
from cls_exporter.checkpoint.weights import read_weights, shown_name, some_of
from cls_exporter.errors import CheckpointError, UnsupportedError, shown
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
_MODULES = 32
_BESIDES = {"Dense": " before Pooling", "Pooling": " twice"}
# Names that sentence-transformers knows without a prompt of theirs.
_UNSAID_PROMPTS = ("query", "document")


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


def read_sentence_modules(
    folder: CheckpointFolder, encoder: CheckpointFolder, *, hidden: int, allow_pooling_mismatch: bool
) -> SentenceModules:
    """Reads modules.json and what it names; a folder without it says nothing about pooling.

    Raises:
        CheckpointError: the pooling is not CLS, prompts are left out of it, or a file is damaged.
        UnsupportedError: a module or an activation that is not known.
    """
    settings = next((encoder.json_object(name) for name in _TRANSFORMER_CONFIGS if encoder.has(name)), {})
    limit = _max_length(settings)
    lowercase = _switch(settings, "do_lower_case", "sentence_bert_config.json", default=False)
    _check_settings(settings)
    has_modules = folder.has("modules.json")
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
        dense_files=tuple(file for dense in chain.dense for file in dense.files),
        max_length=limit,
        lowercase=lowercase,
        notes=(*notes, *(f"the Dense module is part of the graph: {text}" for text in described)),
    )


@dataclass(frozen=True)
class _Dense:
    """A Dense module: its two layers, the same in words, and the files that its weights came from."""

    linear: nn.Linear
    activation: nn.Module
    described: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Chain:
    """What the modules after the Transformer do; `mode` is None where none of them pools."""

    mode: str | None
    include_prompt: bool
    dense: tuple[_Dense, ...]
    normalize: bool


def _chain(modules: Sequence[tuple[str, CheckpointFolder]], *, hidden: int) -> _Chain:
    mode, include_prompt, normalize = None, True, False
    dense: list[_Dense] = []
    for kind, path in modules:
        if normalize and kind != "Dropout":
            raise UnsupportedError(f"modules.json has a {shown_name(kind)} after Normalize; supported is Normalize as the last module")
        if kind == "Pooling" and mode is None:
            mode, include_prompt = _pooling(path)
        elif kind == "Dense" and mode is not None:
            dense.append(_dense(path, dense[-1].linear.out_features if dense else hidden))
        elif kind == "Normalize":
            normalize = True
        elif kind != "Dropout":
            raise UnsupportedError(
                f"modules.json has the module {shown(kind)}{_BESIDES.get(kind, '')}; "
                "supported are Transformer, Pooling, Dense after it, Dropout and Normalize"
            )
    return _Chain(mode, include_prompt, tuple(dense), normalize)


def _modules(folder: CheckpointFolder) -> list[tuple[str, CheckpointFolder]]:
    """The class name and folder of each module, in order."""
    listed = folder.json("modules.json")
    modules: list[tuple[str, CheckpointFolder]] = []
    if isinstance(listed, list) and len(listed) > _MODULES:
        raise UnsupportedError(f"modules.json lists {len(listed)} modules; supported are at most {_MODULES}")
    for item in listed if isinstance(listed, list) else []:
        if not isinstance(item, dict) or not isinstance(item.get("type"), str) or not isinstance(item.get("path"), str):
            raise CheckpointError(
                f"modules.json in {folder.name} has an entry without type or path; expected sentence-transformers' format"
            )
        kind = item["type"]
        if not kind.startswith("sentence_transformers."):
            raise UnsupportedError(f"modules.json names the custom module {shown(kind)}; supported are sentence-transformers' own modules")
        modules.append((kind.rsplit(".", 1)[-1], folder.inner(item["path"], named_by="modules.json")))
    if not modules or modules[0][0] != "Transformer":
        raise UnsupportedError(
            f"modules.json starts with {shown_name(modules[0][0]) if modules else 'nothing'}; expected a Transformer as the first module"
        )
    return modules


def _max_length(settings: Mapping[str, Any]) -> int | None:
    limit = settings.get("max_seq_length")
    if limit is None:
        return None
    if is_integer(limit, 1):
        return int(limit)
    raise CheckpointError(f"sentence_bert_config.json has max_seq_length {shown(limit)}; expected a positive integer or null")


def _check_settings(settings: Mapping[str, Any]) -> None:
    task = settings.get("transformer_task", "feature-extraction")
    if task not in ("feature-extraction", "sequence-classification"):
        raise UnsupportedError(f"sentence_bert_config.json has transformer_task {shown(task)}; supported is 'feature-extraction'")
    if settings.get("processing_kwargs"):
        raise UnsupportedError(
            f"sentence_bert_config.json changes how texts are tokenized (processing_kwargs "
            f"{shown(settings['processing_kwargs'])}); a bundle does not; expected none, set such options in the tokenizer's own files"
        )


def _reranker_notes(folder: CheckpointFolder, encoder: CheckpointFolder) -> tuple[str, ...]:
    """What a CrossEncoder does after the classifier; the graph's logits are before it."""
    inner = encoder.json_object("config.json").get("sentence_transformers")
    named = folder.json_object("config_sentence_transformers.json").get("activation_fn")
    named = named or (inner.get("activation_fn") if isinstance(inner, dict) else None)
    if not named or str(named).endswith(".Identity"):
        return ()
    return (f"sentence-transformers applies {shown_name(str(named))} to the logits; the graph gives them without it",)


def _prompts(folder: CheckpointFolder) -> tuple[dict[str, str], list[str]]:
    where = "config_sentence_transformers.json"
    config = folder.json_object(where)
    listed = config.get("prompts")
    listed = {} if listed is None else listed
    if not isinstance(listed, dict) or not all(text is None or isinstance(text, str) for text in listed.values()):
        raise CheckpointError(f"{where} has prompts {shown(listed)}; expected an object of names and texts")
    prompts = {name: text for name, text in listed.items() if text}
    default = config.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in {*listed, *_UNSAID_PROMPTS}):
        raise CheckpointError(
            f"{where} has default_prompt_name {shown(default)}, which is none of its prompts ({some_of(sorted(listed)) or 'none'}); "
            "expected one of them or null"
        )
    if default is not None and default in prompts:
        raise CheckpointError(
            f"sentence-transformers puts the prompt {shown(prompts[default])} before every text (default_prompt_name {shown(default)}); a "
            "bundle adds nothing to a text, so its vectors would differ; set default_prompt_name to null in a copy and "
            "put the prompt there yourself"
        )
    if config.get("truncate_dim"):
        raise UnsupportedError(
            f"{where} cuts vectors to truncate_dim {shown(config['truncate_dim'])}; a bundle gives them whole; "
            "set it to null in a copy and cut the vectors yourself"
        )
    notes = [f"prompts are not added to texts, put them there yourself: {some_of(sorted(prompts))}"] if prompts else []
    return prompts, notes


def _pooling(folder: CheckpointFolder) -> tuple[str, bool]:
    """The mode of a Pooling module, several joined by a plus, and whether the prompt is pooled too."""
    config, where = folder.json_object("config.json"), f"config.json in {folder.name}"
    switches = [key for key in config if key.startswith("pooling_mode_")]
    on = [_OLD_MODES.get(key, key) for key in switches if _switch(config, key, where, default=False)]
    modes = config.get("pooling_mode")
    named = [modes] if isinstance(modes, str) else (on or ["mean"]) if modes is None else modes
    if not isinstance(named, list) or not named or not all(isinstance(mode, str) and mode in _OLD_MODES.values() for mode in named):
        raise CheckpointError(
            f"{where} pools by {shown(on if modes is None else modes)}, which is not known; expected {', '.join(_OLD_MODES.values())} "
            "or a list of them"
        )
    if switches and sorted(named) != sorted(on or ["mean"]):
        raise CheckpointError(
            f"{where} has pooling_mode {shown(modes)}, but its older entries say {shown(on)}; nothing says which was trained; correct one"
        )
    return "+".join(named), _switch(config, "include_prompt", where, default=True)


def _switch(settings: Mapping[str, Any], key: str, where: str, *, default: bool) -> bool:
    value = settings.get(key, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"{where} has {key} {shown(value)}; expected true or false")
    return value


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
            f"pooling leaves the prompt out (include_prompt is false, prompts {some_of(sorted(prompts))}): the pooled row is then not "
            "row 0; supported is include_prompt true, or a model without prompts"
        )


def _dense(folder: CheckpointFolder, width: int) -> _Dense:
    config = folder.json_object("config.json")
    where = f"the Dense module in {folder.name}"
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = _ACTIVATIONS.get(name) if isinstance(name, str) else None
    if activation is None:
        raise UnsupportedError(
            f"{where} has the activation {shown(name)}; supported are {', '.join(kind.__name__ for kind in _ACTIVATIONS.values())}"
        )
    if _switch(config, "use_residual", where, default=False):
        raise UnsupportedError(f"{where} has use_residual; supported is a Linear and its activation")
    if any(config.get(key) not in (None, "sentence_embedding") for key in ("module_input_name", "module_output_name")):
        raise UnsupportedError(f"{where} does not read and write sentence_embedding; supported is only that")
    out_features: Any = as_integer(config.get("out_features"))
    if not is_integer(out_features, 1) or as_integer(config.get("in_features", width)) != width:
        sizes = f"in_features {shown(config.get('in_features'))} and out_features {shown(config.get('out_features'))}"
        raise CheckpointError(f"{where} has {sizes}; expected {width} and an integer above 0")
    weights = read_weights(folder)
    expected = {"linear.weight": [out_features, width]}
    if _switch(config, "bias", where, default=True):
        expected["linear.bias"] = [out_features]
    shapes = {key: list(tensor.shape) for key, tensor in weights.tensors.items()}
    if shapes != expected:
        raise CheckpointError(f"{where} holds {shown(shapes)}; expected {expected}")
    linear = nn.Linear(width, out_features, bias="linear.bias" in expected, device="meta")
    linear.load_state_dict({key.removeprefix("linear."): as_float32(key, tensor) for key, tensor in weights.tensors.items()}, assign=True)
    return _Dense(linear, activation(), f"Linear({width}, {out_features}) + {activation.__name__}", weights.files)
