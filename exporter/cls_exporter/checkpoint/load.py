"""`load_checkpoint`: MODEL -> everything that an export needs of it, or an error that says what would be wrong."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedTokenizerFast

from cls_exporter.checkpoint.architectures import Architecture, architecture_of
from cls_exporter.checkpoint.heads import FoundHead, find_head
from cls_exporter.checkpoint.model import ClsModel
from cls_exporter.checkpoint.placement import Placement, place
from cls_exporter.checkpoint.pooler import FoundPooler, TanhPooler, find_pooler
from cls_exporter.checkpoint.sentence_transformers import SentenceModules, read_sentence_modules
from cls_exporter.checkpoint.source import encoder_folder, find_source, read_json_object
from cls_exporter.checkpoint.tokenizer import LoadedTokenizer, check_vocabulary, load_tokenizer
from cls_exporter.checkpoint.weights import read_weights, sha256_of, some_of
from cls_exporter.errors import CheckpointError, UnsupportedError
from cls_runtime.bundle.manifest import Pooler, SourcePooling
from cls_runtime.errors import UsageError


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read, understood and found exportable.

    Attributes:
        name: hub id, or the folder's last part; never a path.
        revision: the hub's commit; None for a local folder.
        folder: where the encoder's files are.
        architecture: its line in the table of architectures.
        config: transformers' configuration.
        model: the PyTorch module, in eval mode, fp32, on the CPU.
        tokenizer: pads on the right; its backend carries no truncation or padding of its own.
        tokenizer_json: the text of the bundle's tokenizer.json.
        max_length: the longest input in tokens, special ones included.
        inputs: the graph's inputs, in order.
        pooler: whether the checkpoint's pooler was trained, whether or not it is exported.
        source_pooling: how the source makes a sentence vector.
        labels: of the classifier's outputs; empty without `logits`.
        weights_sha256: of the weight file, or of the list of files and hashes.
        tokenizer_sha256: of `tokenizer_json`.
        notes: what was recognised, renamed and left out, in words.
    """

    name: str
    revision: str | None
    folder: Path
    architecture: Architecture
    config: PretrainedConfig
    model: ClsModel
    tokenizer: PreTrainedTokenizerFast
    tokenizer_json: str
    max_length: int
    inputs: tuple[str, ...]
    pooler: Pooler
    source_pooling: SourcePooling
    labels: tuple[str, ...]
    weights_sha256: str
    tokenizer_sha256: str
    notes: tuple[str, ...]


def load_checkpoint(
    model: str,
    *,
    revision: str | None = None,
    pooler: bool = False,
    logits: bool = False,
    max_length: int | None = None,
    allow_pooling_mismatch: bool = False,
    allow_untrained_pooler: bool = False,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Loads MODEL for an export.

    Example:
        >>> checkpoint = load_checkpoint("bert-base-uncased", pooler=True)  # doctest: +SKIP
        >>> checkpoint.model.output_names  # doctest: +SKIP
        ('cls', 'pooler')

    Args:
        model: a hub id or a local folder.
        revision: a branch, tag or commit of the hub's repository.
        pooler: add the pooler's output; needs trained pooler weights.
        logits: add the sequence classifier's output.
        max_length: lowers the longest input; it cannot be raised above what the model takes.
        allow_pooling_mismatch: accept a sentence-transformers model that does not pool by the CLS row.
        allow_untrained_pooler: accept a pooler that still is as initialized.
        trust_remote_code: run Python code that comes with the checkpoint.

    Raises:
        CheckpointError: the checkpoint cannot be read, or its vectors would be silently wrong.
        UnsupportedError: an architecture, a module or an option that is not supported.
        UsageError: a revision for a local folder, or a max_length that makes no sense.
    """
    source = find_source(model, revision=revision, trust_remote_code=trust_remote_code)
    folder = encoder_folder(source.folder)
    raw_config = _read_config(folder, source.name, trust_remote_code=trust_remote_code)
    architecture = architecture_of(raw_config, where=source.name)
    config = _load_config(folder, trust_remote_code=trust_remote_code)
    sentence = read_sentence_modules(source.folder, folder, hidden=config.hidden_size, allow_pooling_mismatch=allow_pooling_mismatch)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code, lowercase=sentence.lowercase)
    encoder = _build_encoder(config, trust_remote_code=trust_remote_code)
    weights = read_weights(folder)
    placement = place(weights.tensors, encoder.state_dict(), computed=architecture.computed)
    _fill(encoder, placement)
    check_vocabulary(tokenizer.tokenizer, rows=encoder.get_input_embeddings().weight.shape[0], name=source.name)
    parts = _parts(placement, architecture, config, raw_config, pooler=pooler, logits=logits, allow_untrained_pooler=allow_untrained_pooler)
    takes_types = _takes_token_types(encoder, config, tokenizer)
    return Checkpoint(
        name=source.name,
        revision=source.revision,
        folder=folder,
        architecture=architecture,
        config=config,
        model=ClsModel(
            encoder,
            hidden=config.hidden_size,
            token_type_ids=takes_types,
            dense=sentence.dense,
            pooler=parts.pooler,
            pooler_output=pooler,
            head=parts.head.head if parts.head else None,
        ),
        tokenizer=tokenizer.tokenizer,
        tokenizer_json=tokenizer.serialized,
        max_length=_max_length(architecture, config, tokenizer, sentence, max_length),
        inputs=("input_ids", "attention_mask", *(["token_type_ids"] if takes_types else [])),
        pooler=parts.state,
        source_pooling=sentence.pooling,
        labels=parts.head.labels if parts.head else (),
        weights_sha256=sha256_of((*weights.files, *sentence.dense_files), root=source.folder),
        tokenizer_sha256=tokenizer.sha256,
        notes=placement.notes + parts.notes + sentence.notes + tokenizer.notes,
    )


def _read_config(folder: Path, name: str, *, trust_remote_code: bool) -> dict[str, Any]:
    if (folder / "adapter_config.json").exists():
        raise UnsupportedError(f"{name} is an adapter (adapter_config.json); merge it into its base model and export that")
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{name} has no config.json; expected a checkpoint as save_pretrained() writes it")
    raw_config = read_json_object(folder / "config.json")
    custom = [file for file in ("config.json", "tokenizer_config.json") if read_json_object(folder / file).get("auto_map")]
    if custom and not trust_remote_code:
        raise CheckpointError(
            f"{name} comes with Python code of its own (auto_map in {' and '.join(custom)}), which would run on this machine; "
            "read it, then use --trust-remote-code"
        )
    return raw_config


def _load_config(folder: Path, *, trust_remote_code: bool) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"config.json in {folder.name} is not a configuration that transformers reads ({reason}); correct it"
        ) from None
    config.return_dict = True
    config.use_cache = False
    if hasattr(config, "reference_compile"):
        # ModernBERT would otherwise compile itself on some machines.
        config.reference_compile = False
    return config  # type: ignore[no-any-return]


def _build_encoder(config: PretrainedConfig, *, trust_remote_code: bool) -> Any:
    """The architecture's encoder without pooler, in eval mode; its weights are placeholders. The caller's random state is kept."""
    kwargs: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    kind: Any = AutoModel._model_mapping.get(type(config), None)  # noqa: SLF001
    if kind is not None and "add_pooling_layer" in inspect.signature(kind).parameters:
        kwargs["add_pooling_layer"] = False
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            factory: Any = AutoModel
            encoder = factory.from_config(config, attn_implementation="eager", dtype=torch.float32, **kwargs)
    except (ValueError, TypeError, RuntimeError, AttributeError, KeyError, OSError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"config.json does not describe a model that can be built ({reason}); correct it") from None
    return encoder.eval()


def _fill(encoder: nn.Module, placement: Placement) -> None:
    weights = {name: tensor.detach().float().contiguous() for name, tensor in placement.encoder.items()}
    encoder.load_state_dict(weights, strict=False, assign=True)


@dataclass(frozen=True)
class _Parts:
    state: Pooler
    pooler: TanhPooler | None
    head: FoundHead | None
    notes: tuple[str, ...]


def _parts(
    placement: Placement,
    architecture: Architecture,
    config: PretrainedConfig,
    raw_config: Mapping[str, Any],
    *,
    pooler: bool,
    logits: bool,
    allow_untrained_pooler: bool,
) -> _Parts:
    hidden = int(config.hidden_size)
    rest = dict(placement.rest)
    if architecture.head == "context":
        # DeBERTa's pooler.dense belongs to its classifier; it has another activation than a pooler.
        rest = {name: tensor for name, tensor in rest.items() if not name.startswith("pooler.dense.")}
    found = find_pooler(rest, hidden=hidden, initializer_range=float(getattr(config, "initializer_range", 0.02)))
    if pooler:
        _check_pooler(found, architecture, allowed=allow_untrained_pooler)
    head = None
    if logits:
        head = find_head(
            placement.rest, architecture=architecture, config=config, raw_config=raw_config, hidden=hidden, pooler_names=found.names
        )
    pooled = pooler or (head is not None and head.head.reads == "pooled")
    module = TanhPooler(*found.weights) if pooled and found.weights is not None else None
    used = set(head.names if head else ()) | set(found.names if module is not None else ())
    unused = sorted(set(placement.rest) - used)
    notes = [f"left out, not asked for: {some_of(unused)}"] if unused else []
    if pooler and found.names[0] == "pooler.weight" and architecture.model_type != "albert":
        notes.append("pooler.weight and pooler.bias were read as the pooler: a Linear with tanh on the CLS row")
    if pooler and found.weights is not None and not bool(found.weights[1].any()):
        notes.append(f"check that the pooler was trained: {found.state.evidence}")
    return _Parts(found.state, module, head, tuple(notes) + (head.notes if head else ()))


def _check_pooler(found: FoundPooler, architecture: Architecture, *, allowed: bool) -> None:
    if found.weights is None and not architecture.has_pooler:
        raise UnsupportedError(
            f"--pooler: {architecture.model_type} models have no pooler; export without --pooler, the CLS row is the vector"
        )
    if found.weights is None:
        raise CheckpointError(
            "--pooler: the checkpoint has no pooler weights (a masked-LM checkpoint has none); transformers would draw random ones, which "
            "give another vector at each load; export without --pooler, or a checkpoint whose pooler was trained"
        )
    if found.state.state == "untrained" and not allowed:
        raise CheckpointError(
            f"--pooler: the checkpoint's pooler was never trained ({found.state.evidence}); its vectors mean nothing; export without "
            "--pooler, or use --allow-untrained-pooler if you want them all the same"
        )


def _takes_token_types(encoder: nn.Module, config: PretrainedConfig, tokenizer: LoadedTokenizer) -> bool:
    """Whether the tokenizer emits token_type_ids and the model has a row for every one of them."""
    accepted = "token_type_ids" in inspect.signature(encoder.forward).parameters
    kinds = int(getattr(config, "type_vocab_size", 0) or 0)
    return accepted and tokenizer.emits_token_types and kinds > tokenizer.largest_token_type


def _max_length(
    architecture: Architecture, config: PretrainedConfig, tokenizer: LoadedTokenizer, sentence: SentenceModules, asked: int | None
) -> int:
    limits = [limit for limit in (architecture.longest_input(config), tokenizer.limit, sentence.max_length) if limit is not None]
    limit = min(limits)
    special = tokenizer.tokenizer.num_special_tokens_to_add()
    if limit <= special:
        raise CheckpointError(f"the checkpoint takes {limit} tokens at most and {special} of them are special; correct its configuration")
    if asked is None:
        return limit
    if asked > limit:
        raise UsageError(f"--max-length {asked} is more than the model takes, {limit} tokens; it can only be lowered")
    if asked <= special:
        raise UsageError(f"--max-length {asked} leaves no room for text: {special} tokens are special; expected at least {special + 1}")
    return asked
