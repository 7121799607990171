"""`load_checkpoint`: MODEL -> everything that an export needs of it, or an error that says what would be wrong."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from cls_exporter.checkpoint.architectures import Architecture
from cls_exporter.checkpoint.configuration import Configuration, read_configuration
from cls_exporter.checkpoint.encoder import build_encoder
from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.heads import FoundHead, find_head
from cls_exporter.checkpoint.logits_activation import activation_notes, logits_activation
from cls_exporter.checkpoint.model import ClsModel, RowModules
from cls_exporter.checkpoint.placement import Placement
from cls_exporter.checkpoint.pooler import FoundPooler, TanhPooler, find_pooler
from cls_exporter.checkpoint.sentence_settings import TransformerSettings, read_transformer_settings
from cls_exporter.checkpoint.sentence_transformers import MODULES, read_sentence_modules
from cls_exporter.checkpoint.sentence_use import SentenceUse
from cls_exporter.checkpoint.source import encoder_folder, find_source
from cls_exporter.checkpoint.tokenizer import LoadedTokenizer, load_tokenizer
from cls_exporter.checkpoint.tokenizer_checks import check_vocabulary
from cls_exporter.checkpoint.weights import read_weights, sha256_of, some_of
from cls_exporter.config import ExportConfig
from cls_exporter.errors import CheckpointError, UnsupportedError
from cls_runtime.bundle.manifest import LogitsActivation, Pooler, Pooling, SourcePooling, TokenizerChoice
from cls_runtime.errors import UsageError

# A model with 16 heads and 8,192 positions needs half of it.
_ATTENTION_BYTES = 8 * 2**30


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read, understood and found exportable.

    Attributes:
        name: hub id, or the folder's last part; never a path.
        revision: the hub's commit; None for a local folder.
        folder: where its files are.
        stored_config: the object in its config.json.
        architecture: its line in the table of architectures.
        config: transformers' configuration.
        model: the PyTorch module, in eval mode, fp32, on the CPU.
        tokenizer: pads on the right; its backend carries no truncation or padding of its own.
        tokenizer_json: the text of the bundle's tokenizer.json.
        tokenizer_choice: what was asked for where tokenizer.json and transformers give texts other tokens.
        max_length: the longest input in tokens, special ones included.
        inputs: the graph's inputs, in order.
        pooler: whether the checkpoint's pooler was trained, whether or not it is exported.
        source_pooling: how the source makes a sentence vector.
        pooling: how the exported graph makes it.
        token_rows: whether the graph's `last_hidden_state` is every token's row.
        use: what the source says about texts and vectors: prompts, sizes, similarity.
        labels: of the classifier's outputs; empty without `logits`.
        logits_activation: what the source's users apply to the logits; None without them.
        unknown_settings: entries of sentence-transformers' files that nobody here knows, each with its file's name.
        weights_sha256: of the weight file, or of the list of files and hashes.
        tokenizer_sha256: of `tokenizer_json`.
        notes: what was recognised, renamed and left out, in words.
    """

    name: str
    revision: str | None
    folder: CheckpointFolder
    stored_config: Mapping[str, Any]
    architecture: Architecture
    config: PretrainedConfig
    model: ClsModel
    tokenizer: PreTrainedTokenizerFast
    tokenizer_json: str
    tokenizer_choice: TokenizerChoice | None
    max_length: int
    inputs: tuple[str, ...]
    pooler: Pooler
    source_pooling: SourcePooling
    pooling: Pooling
    token_rows: bool
    use: SentenceUse
    labels: tuple[str, ...]
    logits_activation: LogitsActivation | None
    unknown_settings: tuple[str, ...]
    weights_sha256: str
    tokenizer_sha256: str
    notes: tuple[str, ...]

    @property
    def has_sentence_modules(self) -> bool:
        """Whether it is a folder of sentence-transformers, which says what follows the encoder."""
        return self.folder.has(MODULES)


def load_checkpoint(model: str, *, revision: str | None = None, config: ExportConfig | None = None) -> Checkpoint:
    """Loads MODEL for an export.

    Example:
        >>> checkpoint = load_checkpoint("BAAI/bge-small-en-v1.5", config=ExportConfig(pooler=True))
        >>> checkpoint.model.output_names
        ('cls', 'pooler')

    Args:
        model: a hub id or a local folder.
        revision: a branch, tag or commit of the hub's repository.
        config: which outputs, how long a text, and what is allowed; None takes the defaults. Variants and calibration are not read.

    Raises:
        CheckpointError: the checkpoint cannot be read, or its vectors would be silently wrong.
        UnsupportedError: an architecture, a module or an option that is not supported.
        UsageError: a revision for a local folder, or a max_length that makes no sense.
    """
    asked = ExportConfig() if config is None else config
    trusted = asked.trust_remote_code
    source = find_source(model, revision=revision, trust_remote_code=trusted)
    folder = encoder_folder(source.folder)
    settings = read_transformer_settings(folder)
    configuration = read_configuration(folder, source.name, trust_remote_code=trusted, changes=settings.changes)
    sentence = read_sentence_modules(source.folder, settings, config=configuration.stored, hidden=configuration.hidden, asked=asked)
    tokenizer = load_tokenizer(folder, trust_remote_code=trusted, lowercase=settings.lowercase, choice=asked.tokenizer)
    weights = read_weights(folder)
    encoder, placement = build_encoder(configuration, weights.tensors)
    check_vocabulary(tokenizer.tokenizer, rows=encoder.get_input_embeddings().weight.shape[0], name=source.name)
    parts = _parts(placement, configuration, asked)
    head = parts.head
    labels = () if head is None else head.labels
    activation = logits_activation(source.folder, configuration.stored, labels=len(labels)) if labels else None
    takes_types = _takes_token_types(encoder, configuration.loaded, tokenizer)
    row_modules = RowModules(
        dense=sentence.dense, pooler=parts.pooler, pooler_output=asked.pooler, head=None if head is None else head.head
    )
    all_rows = sentence.pooling == "mean" or not sentence.pools_prompt
    module = ClsModel(
        encoder,
        row_modules,
        hidden=configuration.hidden,
        token_type_ids=takes_types,
        pooling=sentence.pooling,
        token_rows=asked.tokens or (all_rows and asked.layout == "standard"),
        include_prompt=sentence.pools_prompt,
    )
    return Checkpoint(
        name=source.name,
        revision=source.revision,
        folder=source.folder,
        stored_config=configuration.stored,
        architecture=configuration.architecture,
        config=configuration.loaded,
        model=module,
        tokenizer=tokenizer.tokenizer,
        tokenizer_json=tokenizer.serialized,
        tokenizer_choice=asked.tokenizer,
        max_length=_max_length(configuration, tokenizer, settings, asked.max_length),
        inputs=("input_ids", "attention_mask", *(["token_type_ids"] if takes_types else [])),
        pooler=parts.state,
        source_pooling=sentence.source_pooling,
        pooling=module.pooling,
        token_rows=module.token_rows,
        use=sentence.use,
        labels=labels,
        logits_activation=activation,
        unknown_settings=sentence.unknown,
        weights_sha256=sha256_of((*weights.files, *sentence.dense_files), root=source.folder.path),
        tokenizer_sha256=tokenizer.sha256,
        notes=placement.notes + parts.notes + activation_notes(activation) + sentence.notes + tokenizer.notes,
    )


@dataclass(frozen=True)
class _Parts:
    """What reads the CLS row, as far as it was asked for, and what was seen of the pooler in any case."""

    state: Pooler
    pooler: TanhPooler | None
    head: FoundHead | None
    notes: tuple[str, ...]


def _parts(placement: Placement, configuration: Configuration, asked: ExportConfig) -> _Parts:
    stored = _stored_pooler(placement, configuration)
    if asked.pooler:
        _check_pooler(stored, configuration.architecture, allowed=asked.allow_untrained_pooler)
    head = find_head(placement.rest, configuration, pooler_names=stored.names) if asked.logits else None
    is_read = asked.pooler or (head is not None and head.head.reads == "pooled")
    pooler = TanhPooler(*stored.weights) if is_read and stored.weights is not None else None
    used = (*(() if pooler is None else stored.names), *(() if head is None else head.names))
    notes = _left_out(placement, used)
    if asked.pooler:
        notes += _pooler_notes(stored, configuration.architecture)
    return _Parts(stored.state, pooler, head, notes + (() if head is None else head.notes))


def _stored_pooler(placement: Placement, configuration: Configuration) -> FoundPooler:
    rest = placement.rest
    if configuration.architecture.head == "context":
        # DeBERTa's pooler.dense belongs to its classifier; it has another activation than a pooler.
        rest = {name: tensor for name, tensor in rest.items() if not name.startswith("pooler.dense.")}
    initializer_range = float(getattr(configuration.loaded, "initializer_range", 0.02))
    return find_pooler(rest, hidden=configuration.hidden, initializer_range=initializer_range)


def _check_pooler(stored: FoundPooler, architecture: Architecture, *, allowed: bool) -> None:
    if stored.weights is None and not architecture.has_pooler:
        raise UnsupportedError(
            f"--pooler: {architecture.model_type} models have no pooler; export without --pooler, the CLS row is the vector"
        )
    if stored.weights is None:
        raise CheckpointError(
            "--pooler: the checkpoint has no pooler weights (a masked-LM checkpoint has none); transformers would draw random "
            "ones at each load; export without --pooler, or export a checkpoint with a trained pooler"
        )
    if stored.state.state == "untrained" and not allowed:
        raise CheckpointError(
            f"--pooler: the checkpoint's pooler was never trained ({stored.state.evidence}); its vectors mean nothing; export without "
            "--pooler, or add --allow-untrained-pooler to export it anyway"
        )


def _left_out(placement: Placement, used: Sequence[str]) -> tuple[str, ...]:
    unused = sorted(set(placement.rest) - set(used))
    return (f"left out, not requested: {some_of(unused)}",) if unused else ()


def _pooler_notes(stored: FoundPooler, architecture: Architecture) -> tuple[str, ...]:
    notes = []
    if stored.names[0] == "pooler.weight" and architecture.model_type != "albert":
        notes.append("pooler.weight and pooler.bias were read as the pooler: a Linear with tanh on the CLS row")
    if stored.weights is not None and not bool(stored.weights[1].any()):
        notes.append(f"check that the pooler was trained: {stored.state.evidence}")
    return tuple(notes)


def _takes_token_types(encoder: nn.Module, config: PretrainedConfig, tokenizer: LoadedTokenizer) -> bool:
    """Whether the tokenizer emits token_type_ids and the model has a row for every one of them."""
    accepted = "token_type_ids" in inspect.signature(encoder.forward).parameters
    kinds = int(getattr(config, "type_vocab_size", 0) or 0)
    return accepted and tokenizer.emits_token_types and kinds > tokenizer.largest_token_type


def _max_length(configuration: Configuration, tokenizer: LoadedTokenizer, settings: TransformerSettings, asked: int | None) -> int:
    architecture, config = configuration.architecture, configuration.loaded
    limits: tuple[int | None, ...] = (tokenizer.limit, architecture.longest_input(config))
    if settings.max_length is not None:  # sentence-transformers takes it in the place of both, and computes what has positions
        limits = (settings.max_length, architecture.positions(config))
    limit = min(limit for limit in limits if limit is not None)
    special = tokenizer.tokenizer.num_special_tokens_to_add()
    if limit <= special:
        raise CheckpointError(f"the checkpoint takes at most {limit} tokens, of which {special} are special; correct its configuration")
    if asked is not None and asked > limit:
        raise UsageError(f"--max-length {asked} is more than the model's {limit} tokens; it can only be lowered")
    _check_attention(configuration, limit if asked is None else asked)
    if asked is None:
        return limit
    if asked <= special:
        raise UsageError(f"--max-length {asked} leaves no room for text: {special} tokens are special; expected at least {special + 1}")
    return asked


def _check_attention(configuration: Configuration, tokens: int) -> None:
    """PyTorch needs a matrix [A, S, S] for the longest texts; where no weight holds the positions, config.json may say any S."""
    size_bytes = 4 * int(configuration.loaded.num_attention_heads) * tokens**2
    if size_bytes > _ATTENTION_BYTES:
        raise CheckpointError(
            f"the checkpoint takes texts of {tokens} tokens, for which attention needs {size_bytes / 2**30:.0f} GiB of memory in PyTorch, "
            f"expected at most {_ATTENTION_BYTES // 2**30}; lower it with --max-length, or correct max_position_embeddings in config.json"
        )
