"""An Encoder of what sentence-transformers' constructors are given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from cls_runtime.bundle.manifest import read_manifest
from cls_runtime.bundle.places import find_bundle, with_revision
from cls_runtime.encoder import Encoder
from cls_runtime.errors import UsageError
from cls_runtime.integrations.sentence_transformers.offline import cached_commit, require_cached

Name = str | os.PathLike[str]

_ENGINES = {None: "auto", "onnx": "onnxruntime", "openvino": "openvino"}
_PROVIDERS = {"CPUExecutionProvider": "onnxruntime", "CUDAExecutionProvider": "cuda"}
_VARIANTS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True, kw_only=True)
class LoadArguments:
    """The arguments of both constructors that say what is loaded and how, by their names in sentence-transformers."""

    modules: Any
    device: Any
    cache_folder: Any
    revision: str | None
    local_files_only: bool
    token: bool | str | None
    model_kwargs: Mapping[str, Any] | None
    processor_kwargs: Mapping[str, Any] | None
    config_kwargs: Mapping[str, Any] | None
    model_card_data: Any
    backend: str | None

    def encoder(self, model: Name | Encoder | None) -> Encoder:
        """The Encoder: `model` where it is one, else that bundle, loaded. Texts that are too long are cut without a warning.

        Raises:
            UsageError: an argument that a bundle cannot honour, or one beside an Encoder, which is loaded already.
            BundleError, EngineError, HubError, IntegrityError, MissingExtraError: as `Encoder.load`.
        """
        self._refuse()
        if isinstance(model, Encoder):
            given = [name for name in ("device", "revision", "model_kwargs", "backend") if getattr(self, name)]
            if given:
                raise UsageError(
                    f"{given[0]} says how a bundle is loaded, and an Encoder is given, which is loaded; pass it to Encoder.load"
                )
            return model
        if not isinstance(model, (str, os.PathLike)):
            raise UsageError(f"model_name_or_path is {model!r}, expected a bundle's folder, its name on the hub, or an Encoder")
        named = with_revision(model, self.revision)
        if self.local_files_only:
            named = cached_commit(named)
        engine, variant = self._engine(), self._variant(named)
        if self.local_files_only:
            require_cached(named, engine=engine, variant=variant)
        device = str(self.device) if engine == "cuda" and str(self.device).startswith("cuda:") else None
        return Encoder.load(named, engine=engine, variant=variant, device=device, on_overflow="truncate")

    def _refuse(self) -> None:
        if self.modules is not None:
            raise UsageError("modules are of PyTorch, expected a bundle; export the model with cls-export and pass its folder")
        if self.cache_folder is not None:
            raise UsageError("cache_folder cannot be set for one model; set HF_HUB_CACHE, which huggingface_hub reads, and leave it out")
        if self.token not in (None, True):
            raise UsageError("token cannot be set for one model; set HF_TOKEN, or log in with `hf auth login`, and leave it out")
        for name in ("processor_kwargs", "config_kwargs", "model_card_data"):
            if getattr(self, name):
                raise UsageError(
                    f"{name} changes the model, and a bundle is fixed; change the checkpoint, export it again, and leave it out"
                )
        for name in self.model_kwargs or {}:
            if name not in ("file_name", "provider", "dtype", "torch_dtype", "export"):
                raise UsageError(f"model_kwargs has {name!r}, expected file_name, provider or dtype; leave it out, or give an Encoder")
        if self._said("export"):
            raise UsageError("model_kwargs asks for an export, which needs PyTorch; run cls-export, and leave it out")
        if self.backend not in _ENGINES:
            raise UsageError(f"backend is {self.backend!r}, expected 'onnx', 'openvino', or None for the fastest that is installed")

    def _said(self, name: str) -> Any:
        return (self.model_kwargs or {}).get(name)

    def _engine(self) -> str:
        """What computes: what `device`, `backend` and the execution provider say, which must agree."""
        said = {"device": None, "backend": None if self.backend is None else _ENGINES[self.backend], "provider": None}
        if self.device is not None:
            kind = str(self.device).partition(":")[0]
            if kind not in ("cpu", "cuda"):
                raise UsageError(f"device is {str(self.device)!r}, expected 'cpu', 'cuda' or a GPU such as 'cuda:1'")
            said["device"] = "cuda" if kind == "cuda" else None
        if (provider := self._said("provider")) is not None:
            if provider not in _PROVIDERS:
                raise UsageError(f"model_kwargs has provider {provider!r}, expected one of {', '.join(_PROVIDERS)}")
            said["provider"] = _PROVIDERS[provider]
        engines = {engine for engine in said.values() if engine is not None}
        on_cpu = str(self.device).startswith("cpu")
        if "cuda" in engines and (on_cpu or "openvino" in engines or said["provider"] == "onnxruntime"):
            raise UsageError(f"device {self.device!r}, backend {self.backend!r} and provider {provider!r} do not agree; leave one out")
        if "cuda" in engines:  # by ONNX Runtime too, where backend is "onnx"
            return "cuda"
        if len(engines) > 1:
            raise UsageError(f"backend {self.backend!r} and provider {provider!r} do not agree; leave one out")
        return engines.pop() if engines else "auto"

    def _variant(self, named: Name) -> str:
        """The variant that a file or a dtype chooses, else `auto`."""
        dtypes = [str(found).removeprefix("torch.") for name in ("dtype", "torch_dtype") if (found := self._said(name)) is not None]
        if self._said("file_name") is not None:
            if dtypes:
                raise UsageError("model_kwargs has file_name and dtype, and both choose a precision; leave one out")
            return self._variant_of_file(named)
        if not dtypes or dtypes[0] == "auto":
            return "auto"
        if dtypes[0] not in _VARIANTS:
            raise UsageError(f"model_kwargs has dtype {dtypes[0]!r}, expected one of {', '.join(_VARIANTS)}, auto")
        return _VARIANTS[dtypes[0]]

    def _variant_of_file(self, named: Name) -> str:
        """The variant whose graph is in the file that `model_kwargs` names, with or without its folder."""
        asked = PurePosixPath(str(self._said("file_name")))
        files = {
            name: PurePosixPath(entry.files[0].path)
            for name, entry in read_manifest(find_bundle(named).folder).variants.items()
            if entry.files
        }
        for variant, path in files.items():
            if asked in (path, PurePosixPath(path.name)):
                return variant
        raise UsageError(
            f"model_kwargs has file_name {str(asked)!r}, this bundle has {', '.join(map(str, files.values()))}; name one of them"
        )
