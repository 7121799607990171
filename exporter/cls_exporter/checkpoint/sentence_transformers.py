"""What a sentence-transformers folder says is done to the last layer's rows, in the old schema and the new one.

Old: module types under `sentence_transformers.models`, pooling as booleans. New (since 6): types under `sentence_transformers.base.modules`
and `sentence_transformers.sentence_transformer.modules`, pooling as one `pooling_mode`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cls_exporter.checkpoint.dense import Dense, read_dense
from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.sentence_pooling import chosen_pooling, read_pooling
from cls_exporter.checkpoint.sentence_settings import TransformerSettings, check_sentence_embedding, unknown_keys
from cls_exporter.checkpoint.sentence_use import ROOT_SETTINGS, SentenceUse, notes_on, read_use, read_use_of_reranker, sizes_in_config
from cls_exporter.checkpoint.weights import shown_name, some_of
from cls_exporter.config import ExportConfig
from cls_exporter.errors import CheckpointError, UnsupportedError, shown
from cls_runtime.bundle.manifest import Pooling, SourcePooling

_MODULES = 32
_MODULE_TYPES = re.compile(r"sentence_transformers\.(models|base\.modules|sentence_transformer\.modules)(\.[a-z_]+)?\.[A-Za-z]+")
MODULES = "modules.json"
_KNOWN_OF_ENTRIES = {"idx", "name", "path", "type", "kwargs"}
_KNOWN_OF_ROOT = {"__version__", "requirements", "model_type", "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim"}
_KNOWN_OF_RERANKERS = {"activation_fn", "keep_in_fp32_modules"}
_KNOWN_OF_NORMALIZE = {"module_input_name", "module_output_name"}
_BESIDES = {"Dense": " before Pooling", "Pooling": " twice"}
_WITHOUT_PROMPT: Mapping[Pooling, str] = {"cls": "the vector is the first row after it", "mean": "the mean is that of the rows after it"}


@dataclass(frozen=True)
class SentenceModules:
    """What follows the encoder, and what its folder says about texts and vectors.

    `source_pooling` is what the folder says, `pooling` what is exported; `pools_prompt` is false where the exported graph leaves a prompt's
    tokens out, which its mask then marks. `dense` are the fused Dense modules, None where there are none; `unknown` are entries of the
    folder's files that are none of those that are known, each with its file's name.
    """

    source_pooling: SourcePooling
    pooling: Pooling
    use: SentenceUse
    pools_prompt: bool = True
    dense: nn.Sequential | None = None
    dense_files: tuple[Path, ...] = ()
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_sentence_modules(
    folder: CheckpointFolder, settings: TransformerSettings, *, config: Mapping[str, Any], hidden: int, asked: ExportConfig
) -> SentenceModules:
    """Reads modules.json and what it names; a folder without it says nothing about pooling and prompts.

    Args:
        folder: the checkpoint's.
        settings: of its Transformer module.
        config: the object in the encoder's config.json.
        hidden: the encoder's width.
        asked: which pooling is wanted, and what is allowed.

    Raises:
        CheckpointError: another pooling than the trained one was asked for, or a file is damaged.
        UnsupportedError: a pooling, a module or an activation that is not supported, or settings of one in a folder without modules.json.
    """
    if not folder.has(MODULES):
        if settings.changes:
            raise UnsupportedError(
                f"{settings.file} replaces {some_of(sorted(settings.changes))} of config.json, which takes effect only "
                f"in a folder with {MODULES}; export that folder, or write it into config.json"
            )
        use = SentenceUse(matryoshka_dims=sizes_in_config(config, width=hidden))
        return SentenceModules(SourcePooling(mode=None), chosen_pooling(None, asked), use, unknown=settings.unknown, notes=notes_on(use))
    modules = listed_modules(folder)
    is_reranker = settings.classifies and len(modules) == 1
    _check_kind(folder, "CrossEncoder" if is_reranker else "SentenceTransformer")
    unknown = settings.unknown + _unknown_entries(folder, is_reranker=is_reranker)
    if is_reranker:
        use = read_use_of_reranker(folder)
        return SentenceModules(SourcePooling(mode=None), chosen_pooling(None, asked), use, unknown=unknown, notes=notes_on(use))
    if settings.classifies:
        raise UnsupportedError(
            f"{settings.file} has transformer_task 'sequence-classification' before a pooling; supported is 'feature-extraction'"
        )
    chain = _chain(modules[1:], hidden=hidden, asked=asked)
    width = chain.dense[-1].linear.out_features if chain.dense else hidden
    use = read_use(folder, config, width=width)
    described = tuple(dense.described for dense in chain.dense)
    layers = [layer for dense in chain.dense for layer in (dense.linear, dense.activation)]
    notes = [f"the Dense module is part of the graph: {text}" for text in described]
    # Without a prompt the CLS row is row 0, whatever would be done to one, and costs less than all rows.
    pools_prompt = chain.include_prompt or (chain.pooling == "cls" and not use.has_prompts)
    if not pools_prompt:
        notes.append(f"a prompt's tokens are read and not pooled (include_prompt is false): {_WITHOUT_PROMPT[chain.pooling]}")
    source_pooling = SourcePooling(
        mode=chain.mode,
        mismatch_allowed=chain.pooling != chain.mode,
        normalize=chain.normalize,
        dense=described,
        include_prompt=chain.include_prompt,
    )
    return SentenceModules(
        source_pooling,
        chain.pooling,
        use,
        pools_prompt=pools_prompt,
        dense=nn.Sequential(*layers) if layers else None,
        dense_files=tuple(file for dense in chain.dense for file in dense.files),
        unknown=unknown + chain.unknown,
        notes=(*notes_on(use), *notes),
    )


@dataclass(frozen=True)
class _Chain:
    """What the modules after the Transformer do, and the pooling that is exported of it."""

    mode: str
    pooling: Pooling
    include_prompt: bool
    dense: tuple[Dense, ...]
    normalize: bool
    unknown: tuple[str, ...]


def _chain(modules: Sequence[tuple[str, CheckpointFolder]], *, hidden: int, asked: ExportConfig) -> _Chain:
    mode: str | None = None
    pooling: Pooling = "cls"
    include_prompt, normalize = True, False
    dense: list[Dense] = []
    unknown: tuple[str, ...] = ()
    for kind, path in modules:
        if normalize and kind != "Dropout":
            raise UnsupportedError(f"modules.json has a {shown_name(kind)} after Normalize; supported is Normalize as the last module")
        if kind in ("Pooling", "Dense") and not path.has("config.json"):
            raise CheckpointError(f"modules.json names {path.name}, which has no config.json for its {kind} module; fetch that file too")
        if kind == "Pooling" and mode is None:
            mode, include_prompt, of_pooling = read_pooling(path)
            unknown += of_pooling
            pooling = chosen_pooling(mode, asked)
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
    if mode is None:
        raise UnsupportedError("modules.json has no Pooling module, so it makes no sentence vector; expected one after the Transformer")
    return _Chain(mode, pooling, include_prompt, tuple(dense), normalize, unknown)


def _unknown_of_normalize(folder: CheckpointFolder) -> tuple[str, ...]:
    settings, where = folder.json_object("config.json"), f"config.json in {folder.name}"
    check_sentence_embedding(settings, where)
    return unknown_keys(settings, _KNOWN_OF_NORMALIZE, where)


def _check_kind(folder: CheckpointFolder, kind: str) -> None:
    named = folder.json_object(ROOT_SETTINGS).get("model_type", kind)
    if named != kind:
        raise UnsupportedError(f"{ROOT_SETTINGS} has model_type {shown(named)}; its modules are those of a {kind}, expected that")


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
