"""How sentence-transformers uses a model: what it puts before texts, how many numbers of a vector it keeps, and how it compares two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from cls_exporter.checkpoint.config_fields import as_integer, is_integer
from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.weights import shown_name, some_of
from cls_exporter.errors import CheckpointError, UnsupportedError, shown
from cls_runtime.bundle.manifest import MAX_PROMPTS, SimilarityFunction

ROOT_SETTINGS = "config_sentence_transformers.json"
# Names that a SentenceTransformer has without a prompt of theirs; a CrossEncoder has none.
UNSAID_PROMPTS = ("query", "document")
# What a document's prompt is called in models that do not call it that.
_PASSAGES = ("passage", "corpus")
_PROMPT_CHARACTERS = 10_000
_CHARACTERS_OF_ALL = 250_000  # the names too: a manifest has an end
_SIZES = ("matryoshka_dimensions", "matryoshka_dims")


@dataclass(frozen=True, kw_only=True)
class SentenceUse:
    """What the source says about texts and vectors, as sentence-transformers does it. A source that says nothing has none of it.

    Attributes:
        prompts: by name, what goes before a text; an empty one is a name that is known.
        default_prompt_name: the one of them that goes before a text for which none is asked for.
        truncate_dim: how many numbers of a vector are kept, fewer than there are; None where all are.
        matryoshka_dims: the sizes that the vectors were trained to be cut to.
        similarity_fn_name: how two vectors are compared; None where it is not said, which is `cosine`.
    """

    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    truncate_dim: int | None = None
    matryoshka_dims: tuple[int, ...] = ()
    similarity_fn_name: SimilarityFunction | None = None

    @property
    def default_prompt(self) -> str:
        """What goes before a text for which no other prompt is asked for."""
        return "" if self.default_prompt_name is None else self.prompts[self.default_prompt_name]

    @property
    def has_prompts(self) -> bool:
        """Whether any of the prompts has a text."""
        return any(self.prompts.values())


def sizes_in_config(config: Mapping[str, Any], *, width: int) -> tuple[int, ...]:
    """The sizes that config.json says vectors of `width` numbers may be cut to; larger ones are of vectors before a Dense module.

    Raises:
        CheckpointError: they are no list of at most 100 positive integers.
    """
    key = next((key for key in _SIZES if config.get(key) is not None), None)
    if key is None:
        return ()
    listed = config[key]
    sizes = [as_integer(size) for size in listed] if isinstance(listed, list) else []
    if not isinstance(listed, list) or len(sizes) > MAX_PROMPTS or not all(is_integer(size, 1) for size in sizes):
        raise CheckpointError(f"config.json has {key} {shown(listed)}; expected a list of at most {MAX_PROMPTS} positive integers")
    return tuple(size for size in dict.fromkeys(sizes) if size <= width)


def read_use(folder: CheckpointFolder, config: Mapping[str, Any], *, width: int) -> SentenceUse:
    """What a SentenceTransformer's folder says, whose vectors have `width` numbers; `config` is the object in the encoder's config.json.

    Raises:
        CheckpointError: an entry is of no type that it can have, a prompt is too long or the default one is not there, or a size is none.
        UnsupportedError: vectors are compared in a way that no manifest can name.
    """
    settings = folder.json_object(ROOT_SETTINGS)
    prompts, default = _prompts(settings, unsaid=UNSAID_PROMPTS)
    return SentenceUse(
        prompts=prompts,
        default_prompt_name=default,
        truncate_dim=_truncate_dim(settings, width),
        matryoshka_dims=sizes_in_config(config, width=width),
        similarity_fn_name=_similarity(settings),
    )


def read_use_of_reranker(folder: CheckpointFolder) -> SentenceUse:
    """What a CrossEncoder's folder says: it puts its prompts before the first text of a pair, and reads nothing else.

    Raises:
        CheckpointError: as `read_use`.
    """
    prompts, default = _prompts(folder.json_object(ROOT_SETTINGS), unsaid=())
    return SentenceUse(prompts=prompts, default_prompt_name=default)


def notes_on(use: SentenceUse) -> tuple[str, ...]:
    """What the report says of it, but for the prompts' names."""
    notes = []
    if use.default_prompt:
        notes.append(f"the prompt {shown(use.default_prompt)} goes before every text by default")
    passage = next((name for name in _PASSAGES if use.prompts.get(name)), None)
    if passage is not None and "document" not in use.prompts:
        notes.append(f"encode_document adds no prompt, as in sentence-transformers; encode(texts, prompt_name={passage!r}) adds this one")
    if use.truncate_dim is not None:
        notes.append(f"vectors are cut to {use.truncate_dim} numbers by default (truncate_dim)")
    if use.matryoshka_dims:
        notes.append(f"vectors were trained to be cut to {some_of([str(size) for size in use.matryoshka_dims])} numbers")
    if use.similarity_fn_name not in (None, "cosine"):
        notes.append(f"vectors are compared by {use.similarity_fn_name} (similarity_fn_name)")
    return tuple(notes)


def _prompts(settings: Mapping[str, Any], *, unsaid: tuple[str, ...]) -> tuple[dict[str, str], str | None]:
    """The prompts, and the name of the default one where it names any; null is an empty prompt."""
    listed = settings.get("prompts")
    listed = {} if listed is None else listed
    if not isinstance(listed, dict) or not all(text is None or isinstance(text, str) for text in listed.values()):
        raise CheckpointError(f"{ROOT_SETTINGS} has prompts {shown(listed)}; expected an object of names and texts")
    prompts = {name: text or "" for name, text in listed.items()}
    _check_sizes(prompts)
    default = settings.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in {*prompts, *unsaid}):
        raise CheckpointError(
            f"{ROOT_SETTINGS} has default_prompt_name {shown(default)}, which is not one of its prompts "
            f"({some_of(sorted(prompts)) or 'none'}); expected one of them or null"
        )
    return prompts, default if default in prompts else None


def _check_sizes(prompts: Mapping[str, str]) -> None:
    if len(prompts) > MAX_PROMPTS:
        raise CheckpointError(f"{ROOT_SETTINGS} has {len(prompts):,} prompts; expected at most {MAX_PROMPTS}; leave some out of a copy")
    for name, text in prompts.items():
        if len(text) > _PROMPT_CHARACTERS:
            raise CheckpointError(
                f"{ROOT_SETTINGS} has a prompt {shown_name(name)} of {len(text):,} characters; expected at most {_PROMPT_CHARACTERS:,}; "
                "shorten it or leave it out of a copy"
            )
    total = sum(len(name) + len(text) for name, text in prompts.items())
    if total > _CHARACTERS_OF_ALL:
        raise CheckpointError(
            f"{ROOT_SETTINGS} has prompts of together {total:,} characters; expected at most {_CHARACTERS_OF_ALL:,}; leave some out of a "
            "copy"
        )


def _truncate_dim(settings: Mapping[str, Any], width: int) -> int | None:
    """None where it cuts nothing."""
    size = as_integer(settings.get("truncate_dim"))
    if size is None:
        return None
    if not is_integer(size, 1):
        raise CheckpointError(
            f"{ROOT_SETTINGS} has truncate_dim {shown(settings['truncate_dim'])}; expected a positive integer or null; correct it in a copy"
        )
    return int(size) if size < width else None


def _similarity(settings: Mapping[str, Any]) -> SimilarityFunction | None:
    name: SimilarityFunction | None = settings.get("similarity_fn_name")
    if name is not None and name not in get_args(SimilarityFunction):
        raise UnsupportedError(
            f"{ROOT_SETTINGS} compares vectors by similarity_fn_name {shown(name)}; supported are "
            f"{', '.join(get_args(SimilarityFunction))}; set it to one of them or to null in a copy"
        )
    return name
