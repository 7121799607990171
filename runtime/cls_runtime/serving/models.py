"""The bundles that a server has, by name: loaded, checked, and warm, with one budget of threads."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from cls_runtime.encoder import Encoder
from cls_runtime.encoding.prompts import known_prompts
from cls_runtime.engines.needed_files import graph_files
from cls_runtime.errors import UsageError
from cls_runtime.quantities import several, size
from cls_runtime.serving.options import ServeOptions
from cls_runtime.serving.refusal import Refusal

# What an endpoint asks of a model: vectors, which every bundle has; a classifier's logits; a score of a pair, which is one logit.
Need = Literal["vectors", "logits", "score"]

ANY_NAME = "*"
WARM_UP = "ready?"
# The bound on the queue is one of time (`admission`); these are beyond what it lets in.
_MOST_TEXTS, _MOST_CHARACTERS = 2**31, 2**40


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A bundle, loaded, and what clients call it; the first of `names` is the one that answers carry."""

    names: tuple[str, ...]
    encoder: Encoder
    loaded_at: int

    @property
    def name(self) -> str:
        """The name in answers."""
        return self.names[0]

    @property
    def fingerprint(self) -> str:
        """Its bundle's."""
        return self.encoder.manifest.fingerprint

    @property
    def document(self) -> dict[str, Any]:
        """What it is, as JSON's types."""
        about, manifest = self.encoder.info, self.encoder.manifest
        return {
            "names": list(self.names),
            "variant": about.variant,
            "engine": about.engine,
            "threads": about.threads,
            "graph_bytes": sum(file.size_bytes for file in graph_files(manifest, variant=about.variant, engine=about.engine)),
            "outputs": list(self.encoder.outputs),
            "hidden_size": manifest.hidden_size,
            "max_length": manifest.max_length,
            "fingerprint": self.fingerprint,
        }

    @property
    def line(self) -> str:
        """The same in a line."""
        about = self.document
        others = f" (also {', '.join(self.names[1:])})" if len(self.names) > 1 else ""
        return (
            f"{self.name}{others}: {about['variant']} on {about['engine']}, graph of {size(about['graph_bytes'])}, "
            f"{', '.join(about['outputs'])}, {about['hidden_size']} dimensions, at most {about['max_length']} tokens, "
            f"{several(about['threads'], 'thread')}, fingerprint {self.fingerprint}"
        )

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Of a classifier, what its logits stand for, by transformers' names where the bundle has none; empty where it has no logits."""
        manifest = self.encoder.manifest
        if "logits" not in self.encoder.outputs:
            return ()
        count = manifest.width("logits")
        return tuple(manifest.labels) if len(manifest.labels) == count else tuple(f"LABEL_{index}" for index in range(count))

    def has(self, need: Need) -> bool:
        """Whether it can do what an endpoint asks of it."""
        return need == "vectors" or (len(self.labels) == 1 if need == "score" else bool(self.labels))


class ServedModels:
    """All of them; the first that can answers a request that names none."""

    def __init__(self, models: Sequence[ServedModel], *, any_name: bool = False) -> None:
        self.all = tuple(models)
        self._any_name = any_name
        self._by_name = {name: model for model in self.all for name in model.names}

    @classmethod
    def load(cls, options: ServeOptions) -> ServedModels:
        """Loads all bundles, holds their files to their hashes, and computes a text with each.

        Raises:
            BundleError, IntegrityError, HubError, MissingExtraError, EngineError, UsageError: as `Encoder.load`; `UsageError`
                also for names that do not go with the bundles.
        """
        given = [name for name in options.model_names if name != ANY_NAME]
        if len(options.bundles) > 1 and given and len(given) != len(options.bundles):
            raise UsageError(f"--model-name: {len(given)} for {len(options.bundles)} bundles; give one for each, in their order, or none")
        models: list[ServedModel] = []
        try:
            for place, bundle in enumerate(options.bundles):
                encoder = Encoder.load(
                    bundle,
                    variant=options.variant,
                    engine=options.engine,
                    device=options.device,
                    threads=options.threads,
                    on_overflow=options.on_overflow,
                    check_hashes=True,
                    max_waiting_texts=_MOST_TEXTS,
                    max_waiting_characters=_MOST_CHARACTERS,
                    shares_threads_of=models[0].encoder if models else None,
                    follow_links=options.follow_links,
                )
                names = given if len(options.bundles) == 1 else given[place : place + 1]
                models.append(ServedModel(tuple(dict.fromkeys(names)) or names_of(encoder), encoder, int(time.time())))
                _check_prompt(options.prompt_name, encoder)
                output = encoder.outputs[0]
                encoder.encode([WARM_UP], output=output, prompt_name=options.prompt_name if output == "sentence" else None)
            models = with_own_names(models)
        except BaseException:
            for model in models:
                model.encoder.close()
            raise
        return cls(with_names_of_their_own(models), any_name=ANY_NAME in options.model_names)

    def find(self, name: str | None, *, needs: Need = "vectors") -> ServedModel:
        """The model of that name; without a name, or with one that is free to be any, the first that has what is needed.

        Raises:
            Refusal: there is none, or it has not what is needed; it names those there are.
        """
        model = self._by_name.get(name) if name else None
        if model is None and name and not self._any_name:
            raise Refusal(
                "unknown_model",
                f"the model {name[:200]!r} is not served here, found {', '.join(self.names)}; name one of these or leave model out",
                param="model",
                code="model_not_found",
            )
        if model is None:
            model = next((model for model in self.all if model.has(needs)), None)
        if model is None or not model.has(needs):
            raise self._lacking(needs, self.all if model is None else (model,))
        return model

    def _lacking(self, needs: Need, asked: Sequence[ServedModel]) -> Refusal:
        """Why none of those that were asked can answer, and which could."""
        found = ", ".join(f"{model.name} has {len(model.labels) or 'no'} logit{'s' * (len(model.labels) != 1)}" for model in asked)
        able = ", ".join(model.name for model in self.all if model.has(needs))
        return Refusal(
            "unsupported",
            f"{found}, expected {'one, the score' if needs == 'score' else 'a classifier'}; "
            + (f"name {able}" if able else "serve a bundle exported with --logits"),
            param="model" if able else None,
        )

    @property
    def names(self) -> list[str]:
        """What all are called in answers."""
        return [model.name for model in self.all]

    def lines(self) -> list[str]:
        """What a server says of them when it starts, and of the memory that they take."""
        return [*(model.line for model in self.all), f"{size(resident_bytes())} of memory in use"]

    def close(self) -> None:
        """Closes every Encoder."""
        for model in self.all:
            model.encoder.close()


def names_of(encoder: Encoder) -> tuple[str, ...]:
    """What a bundle is called where nobody says: its folder's name (on the hub its own), and its checkpoint's."""
    bundle = encoder.bundle
    own = bundle.folder.absolute().name if bundle.fetched is None else bundle.name.partition("@")[0]
    return tuple(dict.fromkeys(name for name in (own, encoder.manifest.source.name) if name))


def with_names_of_their_own(models: Sequence[ServedModel]) -> list[ServedModel]:
    """The same without names that stand for another one: what a model is called first is its own, of other names the first one's."""
    owners = {model.name: model for model in models}
    for model in models:
        for name in model.names:
            owners.setdefault(name, model)
    return [replace(model, names=tuple(name for name in model.names if owners[name] is model)) for model in models]


def resident_bytes() -> int:
    """The memory of this process that is resident; where the system does not say, the most that ever was."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        try:
            import resource
        except ImportError:  # Windows
            return 0
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def _check_prompt(name: str | None, encoder: Encoder) -> None:
    """Holds the prompt of requests that name none to those that a bundle has.

    Raises:
        UsageError: it has no such prompt.
    """
    prompts = known_prompts(encoder.manifest)
    if name is not None and name not in prompts and encoder.outputs[0] == "sentence":
        raise UsageError(f"--prompt-name is {name!r}, {encoder.bundle.name} has {', '.join(prompts)}; name one of these or leave it out")


def with_own_names(models: Sequence[ServedModel]) -> list[ServedModel]:
    """The same, each name with one model: another name than the first is left out where a second model has it too.

    Raises:
        UsageError: two bundles have the same first name.
    """
    owners: dict[str, ServedModel] = {}
    for model in models:
        if (other := owners.setdefault(model.name, model)) is not model:
            raise UsageError(
                f"two bundles are called {model.name!r}, {other.encoder.bundle.folder} and {model.encoder.bundle.folder}; "
                "give each a --model-name"
            )
    count = Counter(name for model in models for name in set(model.names))
    return [replace(model, names=(model.name, *(name for name in model.names[1:] if count[name] == 1))) for model in models]
