"""`cls_export.json`, the manifest of a bundle, as frozen dataclasses.

The file is the single description of a bundle: what it was made from, what its graph computes, and how close each variant is to PyTorch.
Format: docs/reference/bundle.md, schema version 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

from cls_runtime.bundle.files import read_regular
from cls_runtime.bundle.links import resolved
from cls_runtime.bundle.stand_ins import HEAD_BYTES, stand_in
from cls_runtime.bundle.typed_json import at_most, between, known, parsed, plain, shown, typed
from cls_runtime.bundle.variant import GRAPH_OUTPUTS, BundleFile, EngineParity, MultiplyAdds, Output, ParityFigures, Variant
from cls_runtime.errors import BundleError, UsageError, is_shortage
from cls_runtime.suggestions import did_you_mean

# What describes a variant is part of a manifest, and is found here too.
__all__ = (
    "GRAPH_OUTPUTS",
    "MANIFEST_NAME",
    "MAX_FILES",
    "MAX_LAYERS",
    "MAX_MANIFEST_BYTES",
    "MAX_PROMPTS",
    "MAX_TOKENS",
    "MAX_WIDTH",
    "SCHEMA_VERSION",
    "TOKENIZER_FILES",
    "BundleFile",
    "EngineParity",
    "LogitsActivation",
    "Manifest",
    "MultiplyAdds",
    "Output",
    "OutputSpec",
    "ParityFigures",
    "Pooler",
    "PoolerState",
    "Pooling",
    "SimilarityFunction",
    "Source",
    "SourcePooling",
    "TokenizerChoice",
    "Variant",
    "compute_fingerprint",
    "from_json",
    "graph_hashes",
    "read_manifest",
    "to_json",
)

MANIFEST_NAME = "cls_export.json"
SCHEMA_VERSION = 1
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")  # what decides the tokens; the second says on which side a text is cut
MAX_MANIFEST_BYTES = 4 * 2**20
# Far above every encoder that there is, and low enough that a reader can make arrays of these sizes.
MAX_WIDTH = 2**16
MAX_LAYERS = 2**10
MAX_TOKENS = 2**20
MAX_FILES = 1000
MAX_PROMPTS = 100

PoolerState = Literal["trained", "absent", "untrained"]
Pooling = Literal["cls", "mean"]
SimilarityFunction = Literal["cosine", "dot", "euclidean", "manhattan"]
LogitsActivation = Literal["identity", "sigmoid", "softmax", "tanh", "relu", "gelu"]
TokenizerChoice = Literal["file", "transformers"]

_GRAPH_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_VARIANTS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the bundle was made from. `name` is a hub id or a folder's last part, never a path."""

    name: str
    revision: str | None
    weights_sha256: str
    tokenizer_sha256: str


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """One graph output: its name, and the width of its last axis."""

    name: str
    width: int = field(metadata=between(1, MAX_WIDTH))


@dataclass(frozen=True, kw_only=True)
class Pooler:
    """Whether the checkpoint's pooler was trained, and how that was seen."""

    state: PoolerState
    evidence: str


@dataclass(frozen=True, kw_only=True)
class SourcePooling:
    """How the source says that a sentence vector is made. `mode` is `cls`, `mean`, ... or None where it says nothing.

    With `include_prompt` false the tokens of a prompt are read by the model and left out of the mean.
    """

    mode: str | None
    mismatch_allowed: bool = False
    normalize: bool = False
    dense: tuple[str, ...] = ()
    include_prompt: bool = True


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that a reader of the bundle needs to know. See the module's docstring.

    `logits_activation` is what makes scores of the logits where the source is used as a reranker; the graph's logits are before it. None
    without logits, and in bundles of cls-export 0.1. `tokenizer` is the choice that was made between the source's tokenizer.json and what
    transformers makes of its folder; None where none was made, and in bundles of cls-export 0.1.

    `pooling` is what the graph's `sentence_embedding` is: row 0 of the last layer, or the mean of the rows of a text's tokens; `token_rows`
    says that its `last_hidden_state` is every token's row. What follows is how the source is used, by sentence-transformers' names:
    `prompts` go before a text, `default_prompt_name` names the one that always does, `truncate_dim` is how many numbers of a vector count
    where the source cuts them, `matryoshka_dims` are the sizes that it was trained to be cut to. Bundles of cls-export 0.1 have none of
    these, and pool by CLS.
    """

    source: Source
    architecture: str
    hidden_size: int = field(metadata=between(1, MAX_WIDTH))
    num_layers: int = field(metadata=between(1, MAX_LAYERS))
    max_length: int = field(metadata=between(1, MAX_TOKENS))
    layout: Literal["standard", "native", "broadcast"]
    inputs: tuple[str, ...] = field(metadata=known(_GRAPH_INPUTS, required=_GRAPH_INPUTS[:2], distinct=True))
    outputs: tuple[OutputSpec, ...] = field(
        metadata=known(
            tuple(dict.fromkeys(GRAPH_OUTPUTS.values())),
            name=lambda output: str(output.name),
            required=[GRAPH_OUTPUTS["cls"]],
            distinct=True,
        )
    )
    pooler: Pooler
    source_pooling: SourcePooling
    variants: Mapping[str, Variant] = field(metadata=known(_VARIANTS))
    files: tuple[BundleFile, ...]
    tool_versions: Mapping[str, str]
    labels: tuple[str, ...] = ()
    tokenizer: TokenizerChoice | None = None
    created: str = ""
    logits_activation: LogitsActivation | None = None
    pooling: Pooling = "cls"
    token_rows: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict, metadata=at_most(MAX_PROMPTS))
    default_prompt_name: str | None = None
    truncate_dim: int | None = None
    matryoshka_dims: tuple[int, ...] = field(default=(), metadata=at_most(MAX_PROMPTS))
    similarity_fn_name: SimilarityFunction | None = None
    schema_version: int = SCHEMA_VERSION
    fingerprint: str = field(default="")

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", compute_fingerprint(self))

    @cached_property
    def encoder_outputs(self) -> tuple[Output, ...]:
        """What `output=` of an `Encoder` may be with this bundle."""
        return cast("tuple[Output, ...]", ("sentence", *self.recorded_outputs) if self.pooling == "cls" else self.recorded_outputs)

    @cached_property
    def recorded_outputs(self) -> tuple[Output, ...]:
        """The same, each once, by the names under which figures and golden vectors are kept."""
        held = {output.name for output in self.outputs} - (set() if self.token_rows else {GRAPH_OUTPUTS["tokens"]})
        names = [self.sentence_output, *(name for name in GRAPH_OUTPUTS if name not in ("sentence", "cls"))]
        return cast("tuple[Output, ...]", tuple(name for name in names if GRAPH_OUTPUTS[name] in held))

    @property
    def sentence_output(self) -> Output:
        """The name under which the sentence's vector is recorded: `cls` where it is that row, as since cls-export 0.1, else `sentence`."""
        return "cls" if self.pooling == "cls" else "sentence"

    def recorded(self, output: str) -> Output:
        """The name under which `output` is recorded.

        Raises:
            UsageError: the bundle has no such output.
        """
        if output in self.encoder_outputs:
            return self.sentence_output if output == "sentence" else cast("Output", output)
        hint = f"; export it with --{output}" if output in ("pooler", "logits", "tokens") else ""
        if output == "cls":
            hint = f"; its vector is the {self.pooling} of the tokens' rows, export it with --pooling cls for the CLS row"
        known = f"{', '.join(self.encoder_outputs)}{did_you_mean(output, self.encoder_outputs)}"
        raise UsageError(f"output is {output!r}, this bundle has {known}{hint}")

    @property
    def default_prompt(self) -> str:
        """What goes before every text for which no other prompt is asked for."""
        return "" if self.default_prompt_name is None else self.prompts.get(self.default_prompt_name, "")

    @property
    def leaves_prompt_out(self) -> bool:
        """Whether the graph takes an `attention_mask` of 2 for the tokens of a prompt, which it reads and does not pool.

        The graph of a CLS model without prompts does not, whatever its source says: it is the one of cls-export 0.1.
        """
        return not self.source_pooling.include_prompt and (self.pooling != "cls" or any(self.prompts.values()))

    def width(self, output: str) -> int:
        """How many numbers a vector of `output` has; of `tokens`, each of them.

        Raises:
            UsageError: the bundle has no such output.
        """
        name = GRAPH_OUTPUTS[self.recorded(output)]
        return next(held.width for held in self.outputs if held.name == name)


def compute_fingerprint(manifest: Manifest) -> str:
    """Names what decides a text's vector: sha256 over the weights, every graph and what it reads, the tokenizer, the pooling, the limits.

    Two bundles with the same fingerprint give the same vectors (each variant within its tolerance), so their vectors may share an index.
    The reverse does not hold: a bundle with one variant more, or exported by another version, may give the same vectors too.

    What cls-export 0.1 does not know counts where it decides something, so that it refuses such a bundle and reads all others.
    """
    pooling = manifest.source_pooling
    decides = {
        "schema_version": manifest.schema_version,
        "weights": manifest.source.weights_sha256,
        "tokenizer": {file.path: file.sha256 for file in manifest.files if file.path in TOKENIZER_FILES},
        "architecture": manifest.architecture,
        "max_length": manifest.max_length,
        "inputs": list(manifest.inputs),
        "pooling": [pooling.mode, pooling.normalize, list(pooling.dense), pooling.include_prompt],
        "outputs": [[output.name, output.width] for output in manifest.outputs],
        "graphs": {name: graph_hashes(variant) for name, variant in manifest.variants.items()},
    }
    since = {
        "computed_pooling": "" if manifest.pooling == "cls" else manifest.pooling,
        "default_prompt": manifest.default_prompt,
        "truncate_dim": manifest.truncate_dim,
        "token_rows": manifest.token_rows,
    }
    decides |= {name: value for name, value in since.items() if value}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def graph_hashes(variant: Variant) -> dict[str, list[str]]:
    """The SHA-256 of a variant's graph and of what it reads, by the engine whose own form it is; "" for all others."""
    return {engine: [file.sha256 for file in files] for engine, files in {"": variant.files, **variant.engine_files}.items()}


def to_json(manifest: Manifest) -> str:
    """The manifest as the text of `cls_export.json`."""
    return json.dumps(plain(manifest), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> Manifest:
    """Parses the text of `cls_export.json`.

    Unknown fields are ignored (a later minor version may add some); a missing or mistyped one is an error.

    Raises:
        BundleError: broken JSON, another schema version, a missing or mistyped field, or a fingerprint that does not fit.
    """
    try:
        raw = parsed(text)
    except ValueError as error:
        raise BundleError(f"{MANIFEST_NAME} is not valid JSON ({error}); export the bundle again") from None
    if not isinstance(raw, dict) or "schema_version" not in raw:
        raise BundleError(f"{MANIFEST_NAME} has no schema_version; it is not a cls-export manifest")
    if raw["schema_version"] != SCHEMA_VERSION:
        raise BundleError(
            f"{MANIFEST_NAME} has schema version {shown(raw['schema_version'])}, this version of cls-export reads {SCHEMA_VERSION}; "
            "upgrade cls-export or export the bundle again"
        )
    try:
        manifest = typed(raw, Manifest, MANIFEST_NAME)
    except ValueError as error:
        raise BundleError(f"{error}; export the bundle again") from None
    _check_files(manifest)
    _check_use(manifest)
    if manifest.logits_activation is not None and "logits" not in manifest.encoder_outputs:
        raise BundleError(
            f"{MANIFEST_NAME} has logits_activation {shown(manifest.logits_activation)} and no output logits; export the bundle again"
        )
    expected = compute_fingerprint(manifest)
    if manifest.fingerprint != expected:
        raise BundleError(
            f"{MANIFEST_NAME} says fingerprint {shown(manifest.fingerprint[:12])}, its fields give {expected[:12]}; "
            "the manifest was edited or is of another version of cls-export, export the bundle again"
        )
    return manifest


def _check_use(manifest: Manifest) -> None:
    """Refuses what no source says of its vectors: a default prompt that is not there, sizes that they have not, rows that are not there."""
    width, default = manifest.width(manifest.sentence_output), manifest.default_prompt_name
    wrong = None
    if default is not None and default not in manifest.prompts:
        wrong = f"default_prompt_name {shown(default)}, which is none of its prompts"
    elif any(
        not 0 < size <= width for size in (*manifest.matryoshka_dims, width if manifest.truncate_dim is None else manifest.truncate_dim)
    ):
        wrong = f"sizes {shown((*manifest.matryoshka_dims, manifest.truncate_dim))} for vectors of {width} numbers"
    elif manifest.token_rows and GRAPH_OUTPUTS["tokens"] not in {output.name for output in manifest.outputs}:
        wrong = f"token_rows and no output {GRAPH_OUTPUTS['tokens']}"
    if wrong is not None:
        raise BundleError(f"{MANIFEST_NAME} has {wrong}; export the bundle again")


def _check_files(manifest: Manifest) -> None:
    """Refuses more files than a bundle has, and one path with two contents, of which a reader would check either."""
    held: dict[str, BundleFile] = {}
    groups = [manifest.files]
    for variant in manifest.variants.values():
        groups += [variant.files, *variant.engine_files.values()]
    files = [file for group in groups for file in group]
    if len(files) > MAX_FILES:
        raise BundleError(f"{MANIFEST_NAME} names {len(files):,} files, expected at most {MAX_FILES:,}; do not trust this bundle")
    for file in files:
        if held.setdefault(file.path, file) != file:
            raise BundleError(f"{MANIFEST_NAME} names {shown(file.path)} twice, with two hashes or sizes; export the bundle again")


def read_manifest(folder: Path, *, follow_links: bool = False) -> Manifest:
    """Reads `folder/cls_export.json`; with `follow_links` it may be a link to anywhere.

    Raises:
        BundleError: the file is missing, unreadable, too large, a link out of the folder, or not a manifest.
    """
    path = folder / MANIFEST_NAME
    try:
        resolved(path, folder, follow_links=follow_links)
        data = read_regular(path, max_bytes=MAX_MANIFEST_BYTES)
        if (words := stand_in(data[:HEAD_BYTES])) is not None:
            raise BundleError(f"{path} {words}")
        return from_json(data.decode("utf-8"))
    except (OSError, UnicodeDecodeError, RuntimeError) as error:  # RuntimeError: a link to itself, before Python 3.13
        if is_shortage(error):
            raise
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise BundleError(f"{path} {reason}; a bundle is a folder made by cls-export") from None
