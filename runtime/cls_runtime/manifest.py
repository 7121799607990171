"""`cls_export.json`, the manifest of a bundle, as frozen dataclasses.

The file is the single description of a bundle: what it was made from, what its graph computes, and how close each variant is to PyTorch.
Format: docs/bundle-format.md, schema version 1.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from cls_runtime.errors import BundleError

MANIFEST_NAME = "cls_export.json"
SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 16 * 2**20

PoolerState = Literal["trained", "absent", "untrained"]
T = TypeVar("T")


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
    width: int


@dataclass(frozen=True, kw_only=True)
class Pooler:
    """Whether the checkpoint's pooler was trained, and how that was seen."""

    state: PoolerState
    evidence: str


@dataclass(frozen=True, kw_only=True)
class SourcePooling:
    """How the source says that a sentence vector is made. `mode` is `cls`, `mean`, ... or None where it says nothing."""

    mode: str | None
    mismatch_allowed: bool = False
    normalize: bool = False
    dense: tuple[str, ...] = ()
    include_prompt: bool = True


@dataclass(frozen=True, kw_only=True)
class ParityFigures:
    """How close vectors are to PyTorch's fp32 vectors over `texts` texts: cosines and the largest absolute difference."""

    texts: int
    mean_cosine: float
    p1_cosine: float
    min_cosine: float
    max_abs: float
    worst_text: int


@dataclass(frozen=True, kw_only=True)
class BundleFile:
    """A file of the bundle: POSIX path relative to its folder, hash and size."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One precision of the graph.

    `files[0]` is the ONNX file, the others its external data. `engines` are those that the file is meant for.
    `parity` has one entry per output name of the `Encoder` (`cls`, `pooler`, `logits`); `batch_invariance_max_abs` is
    the largest difference of a text's vector between alone and in a batch, `batch_invariance_min_cosine` the lowest cosine.
    """

    files: tuple[BundleFile, ...]
    recipe: Mapping[str, Any]
    parity: Mapping[str, ParityFigures]
    batch_invariance_max_abs: float
    cpu_features: tuple[str, ...] = ()
    batch_invariance_min_cosine: float = 1.0
    engines: tuple[str, ...] = ("onnxruntime", "openvino", "cuda", "tensorrt")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that a reader of the bundle needs to know. See the module's docstring."""

    source: Source
    architecture: str
    hidden_size: int
    num_layers: int
    max_length: int
    layout: Literal["standard", "native", "broadcast"]
    inputs: tuple[str, ...]
    outputs: tuple[OutputSpec, ...]
    pooler: Pooler
    source_pooling: SourcePooling
    variants: Mapping[str, Variant]
    files: tuple[BundleFile, ...]
    tool_versions: Mapping[str, str]
    labels: tuple[str, ...] = ()
    created: str = ""
    schema_version: int = SCHEMA_VERSION
    fingerprint: str = field(default="")

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", compute_fingerprint(self))


def compute_fingerprint(manifest: Manifest) -> str:
    """Names the vector space: sha256 over what decides a text's vector, precision aside.

    Two bundles with the same fingerprint give the same vectors (within a variant's tolerance), so their vectors may share an index.
    """
    decides = {
        "schema_version": manifest.schema_version,
        "weights": manifest.source.weights_sha256,
        "tokenizer": [file.sha256 for file in manifest.files if file.path == "tokenizer.json"],
        "architecture": manifest.architecture,
        "max_length": manifest.max_length,
        "inputs": list(manifest.inputs),
        "dense": list(manifest.source_pooling.dense),
        "outputs": [[output.name, output.width] for output in manifest.outputs],
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def to_json(manifest: Manifest) -> str:
    """The manifest as the text of `cls_export.json`."""
    return json.dumps(_plain(manifest), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> Manifest:
    """Parses the text of `cls_export.json`.

    Unknown fields are ignored (a later minor version may add some); a missing or mistyped one is an error.

    Raises:
        BundleError: broken JSON, another schema version, a missing or mistyped field, or a fingerprint that does not fit.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST_NAME} is not valid JSON ({error}); export the bundle again") from None
    if not isinstance(raw, dict) or "schema_version" not in raw:
        raise BundleError(f"{MANIFEST_NAME} has no schema_version; it is not a cls-export manifest")
    if raw["schema_version"] != SCHEMA_VERSION:
        raise BundleError(
            f"{MANIFEST_NAME} has schema version {raw['schema_version']!r}, this version of cls-export reads {SCHEMA_VERSION}; "
            "upgrade cls-export or export the bundle again"
        )
    manifest: Manifest = _typed(raw, Manifest, MANIFEST_NAME)
    expected = compute_fingerprint(manifest)
    if manifest.fingerprint != expected:
        raise BundleError(
            f"{MANIFEST_NAME} says fingerprint {manifest.fingerprint[:12]}, its fields give {expected[:12]}; "
            "the manifest was edited, export the bundle again"
        )
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Reads `folder/cls_export.json`.

    Raises:
        BundleError: the file is missing, unreadable, too large or not a manifest.
    """
    path = folder / MANIFEST_NAME
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path} has {size_bytes} bytes, a manifest has at most {MAX_MANIFEST_BYTES}; it is not a manifest")
        return from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise BundleError(f"{path} {reason}; a bundle is a folder made by cls-export") from None


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _typed(raw: Any, kind: Any, where: str) -> Any:
    """`raw` (from JSON) as a value of type `kind`; `where` names the place for the error."""
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if kind is Any:
        return raw
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _typed_dataclass(raw, kind, where)
    if origin in (typing.Union, types.UnionType):
        if raw is None and type(None) in arguments:
            return None
        return _typed(raw, next(item for item in arguments if item is not type(None)), where)
    if origin is Literal:
        if raw not in arguments:
            raise BundleError(f"{where} is {raw!r}, expected one of {', '.join(map(repr, arguments))}")
        return raw
    if origin is tuple:
        if not isinstance(raw, list):
            raise BundleError(f"{where} is {type(raw).__name__}, expected a list")
        return tuple(_typed(item, arguments[0], f"{where}[{index}]") for index, item in enumerate(raw))
    if origin is Mapping:
        if not isinstance(raw, dict):
            raise BundleError(f"{where} is {type(raw).__name__}, expected an object")
        return types.MappingProxyType({key: _typed(item, arguments[1], f"{where}.{key}") for key, item in raw.items()})
    accepted = (int, float) if kind is float else kind
    if not isinstance(raw, accepted) or (isinstance(raw, bool) and kind is not bool):
        raise BundleError(f"{where} is {type(raw).__name__}, expected {kind.__name__}")
    return float(raw) if kind is float else raw


def _typed_dataclass(raw: Any, kind: type[T], where: str) -> T:
    if not isinstance(raw, dict):
        raise BundleError(f"{where} is {type(raw).__name__}, expected an object")
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        if item.name in raw:
            values[item.name] = _typed(raw[item.name], hints[item.name], f"{where}: {item.name}")
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise BundleError(f"{where} has no field {item.name!r}; the manifest is incomplete, export the bundle again")
    return kind(**values)
