"""What a sentence-transformers folder says is done to the CLS row, in the old schema and the new one.

Old: module types under `sentence_transformers.models`, pooling as booleans. New (since 6): types under `sentence_transformers.base.modules`
and `sentence_transformers.sentence_transformer.modules`, pooling as one `pooling_mode`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cls_exporter.checkpoint.dense import Dense, read_dense
from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.sentence_settings import TransformerSettings, check_sentence_embedding, switch, unknown_keys
from cls_exporter.checkpoint.weights import shown_name, some_of
from cls_exporter.config import PoolingChoice
from cls_exporter.errors import CheckpointError, UnsupportedError, shown
from cls_runtime.bundle.manifest import Pooling, SourcePooling

_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_MODULES = 32
_MODULE_TYPES = re.compile(r"sentence_transformers\.(models|base\.modules|sentence_transformer\.modules)(\.[a-z_]+)?\.[A-Za-z]+")
MODULES, ROOT_SETTINGS = "modules.json", "config_sentence_transformers.json"
_KNOWN_OF_ENTRIES = {"idx", "name", "path", "type", "kwargs"}
_KNOWN_OF_ROOT = {"__version__", "requirements", "model_type", "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim"}
_KNOWN_OF_RERANKERS = {"activation_fn", "keep_in_fp32_modules"}
_KNOWN_OF_POOLING = {"word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt", *_OLD_MODES}
_KNOWN_OF_NORMALIZE = {"module_input_name", "module_output_name"}
_BESIDES = {"Dense": " before Pooling", "Pooling": " twice"}
# Names that sentence-transformers knows without a prompt of theirs.
_UNSAID_PROMPTS = ("query", "document")


@dataclass(frozen=True)
class SentenceModules:
    """What follows the encoder, and what its folder says about texts.

    `computed` is the pooling of the exported graph; `pools_prompt` is false where that graph leaves a prompt's tokens out, which its mask
    then marks with a 2. `dense` are the fused Dense modules, None where there are none; `unknown` are entries of the folder's files that
    are none of those that are known, each with its file's name.
    """

    pooling: SourcePooling
    computed: Pooling = "cls"
    pools_prompt: bool = True
    dense: nn.Sequential | None = None
    dense_files: tuple[Path, ...] = ()
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_sentence_modules(
    folder: CheckpointFolder, settings: TransformerSettings, *, hidden: int, wanted: PoolingChoice, allow_pooling_mismatch: bool
) -> SentenceModules:
    """Reads modules.json and what it names; a folder without it says nothing about pooling.

    Raises:
        CheckpointError: the pooling is not CLS, prompts are left out of it, or a file is damaged.
        UnsupportedError: a module or an activation that is not known, or settings of one in a folder without modules.json.
    """
    if not folder.has(MODULES):
        if settings.changes:
            raise UnsupportedError(
                f"{settings.file} replaces {some_of(sorted(settings.changes))} of config.json, which sentence-transformers follows in the "
                f"folder with {MODULES} only, and transformers nowhere; export that folder, or write it into config.json"
            )
        return SentenceModules(SourcePooling(mode=None), computed="mean" if wanted == "mean" else "cls", unknown=settings.unknown)
    modules = listed_modules(folder)
    is_reranker = settings.classifies and len(modules) == 1
    prompts, notes = _prompts(folder, is_reranker=is_reranker)
    unknown = settings.unknown + _unknown_entries(folder, is_reranker=is_reranker)
    if is_reranker:
        return SentenceModules(SourcePooling(mode=None), unknown=unknown, notes=tuple(notes))
    if settings.classifies:
        raise UnsupportedError(
            f"{settings.file} has transformer_task 'sequence-classification' before a pooling; supported is 'feature-extraction'"
        )
    chain = _chain(modules[1:], hidden=hidden)
    computed: Pooling = "mean" if wanted == "mean" or (wanted == "auto" and chain.mode == "mean" and not allow_pooling_mismatch) else "cls"
    _check_pooling(chain.mode, computed, chain.include_prompt, prompts, allow_pooling_mismatch)
    described = tuple(dense.described for dense in chain.dense)
    pooling = SourcePooling(
        mode=chain.mode,
        mismatch_allowed=allow_pooling_mismatch and chain.mode != computed,
        normalize=chain.normalize,
        dense=described,
        include_prompt=chain.include_prompt,
    )
    layers = [layer for dense in chain.dense for layer in (dense.linear, dense.activation)]
    return SentenceModules(
        pooling,
        computed=computed,
        pools_prompt=chain.include_prompt or computed == "cls",
        dense=nn.Sequential(*layers) if layers else None,
        dense_files=tuple(file for dense in chain.dense for file in dense.files),
        unknown=unknown + chain.unknown,
        notes=(*notes, *(f"the Dense module is part of the graph: {text}" for text in described)),
    )


@dataclass(frozen=True)
class _Chain:
    """What the modules after the Transformer do; `mode` is None where none of them pools."""

    mode: str | None
    include_prompt: bool
    dense: tuple[Dense, ...]
    normalize: bool
    unknown: tuple[str, ...]


def _chain(modules: Sequence[tuple[str, CheckpointFolder]], *, hidden: int) -> _Chain:
    mode, include_prompt, normalize = None, True, False
    dense: list[Dense] = []
    unknown: tuple[str, ...] = ()
    for kind, path in modules:
        if normalize and kind != "Dropout":
            raise UnsupportedError(f"modules.json has a {shown_name(kind)} after Normalize; supported is Normalize as the last module")
        if kind in ("Pooling", "Dense") and not path.has("config.json"):
            raise CheckpointError(
                f"{path.name}, which modules.json names, has no config.json, which says what the {kind} module does; fetch it too"
            )
        if kind == "Pooling" and mode is None:
            mode, include_prompt = _pooling(path)
            unknown += unknown_keys(path.json_object("config.json"), _KNOWN_OF_POOLING, f"config.json in {path.name}")
        elif kind == "Dense" and mode is not None:
            dense.append(read_dense(path, dense[-1].linear.out_features if dense else hidden))
            unknown += dense[-1].unknown
        elif kind == "Normalize":
            normalize = True
            unknown += _unknown_of_normalize(path)
        elif kind != "Dropout":
            raise UnsupportedError(
                f"modules.json has the module {shown(kind)}{_BESIDES.get(kind, '')}; "
                "supported are Transformer, Pooling, Dense after it, Dropout and Normalize"
            )
    return _Chain(mode, include_prompt, tuple(dense), normalize, unknown)


def _unknown_of_normalize(folder: CheckpointFolder) -> tuple[str, ...]:
    settings, where = folder.json_object("config.json"), f"config.json in {folder.name}"
    check_sentence_embedding(settings, where)
    return unknown_keys(settings, _KNOWN_OF_NORMALIZE, where)


def _unknown_entries(folder: CheckpointFolder, *, is_reranker: bool) -> tuple[str, ...]:
    """Those of the folder's own two files."""
    known = _KNOWN_OF_ROOT | (_KNOWN_OF_RERANKERS if is_reranker else set())
    entries = folder.json(MODULES)
    types = tuple(f"the type {shown(item['type'])} in {MODULES}" for item in entries if not _MODULE_TYPES.fullmatch(item["type"]))
    keys = {key: None for item in entries for key in item}
    return types + unknown_keys(keys, _KNOWN_OF_ENTRIES, MODULES) + unknown_keys(folder.json_object(ROOT_SETTINGS), known, ROOT_SETTINGS)


def listed_modules(folder: CheckpointFolder) -> list[tuple[str, CheckpointFolder]]:
    """The class name and folder of each module of modules.json, in order.

    Raises:
        CheckpointError: the file is not as sentence-transformers writes it, or a folder's name leads out of the checkpoint.
        UnsupportedError: a module is not sentence-transformers' own, or the first is no Transformer.
    """
    listed = folder.json(MODULES)
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


def _prompts(folder: CheckpointFolder, *, is_reranker: bool) -> tuple[dict[str, str], list[str]]:
    where = ROOT_SETTINGS
    config = folder.json_object(where)
    kind = "CrossEncoder" if is_reranker else "SentenceTransformer"
    if config.get("model_type", kind) != kind:
        raise UnsupportedError(f"{where} has model_type {shown(config['model_type'])}; its modules are those of a {kind}, expected that")
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
    on = [_OLD_MODES.get(key, key) for key in switches if switch(config, key, where, default=False)]
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
    return "+".join(named), switch(config, "include_prompt", where, default=True)


def _check_pooling(mode: str | None, computed: Pooling, include_prompt: bool, prompts: Mapping[str, str], allowed: bool) -> None:
    if mode is None:
        raise UnsupportedError("modules.json has no Pooling module, so it makes no sentence vector; expected one after the Transformer")
    if mode != computed and not allowed:
        raise CheckpointError(
            f"sentence-transformers pools this model by {mode}, not by the CLS row: its CLS vectors were not trained to mean anything; "
            "export a CLS model, or use --allow-pooling-mismatch if the CLS row is what you want"
        )
    if not include_prompt and prompts and computed == "cls":
        raise CheckpointError(
            f"pooling leaves the prompt out (include_prompt is false, prompts {some_of(sorted(prompts))}): the pooled row is then not "
            "row 0; supported is include_prompt true, or a model without prompts"
        )
