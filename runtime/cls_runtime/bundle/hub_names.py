"""How people name a model of the hub: its id, the id with a revision, the address of its page, its folder in the hub's cache."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from cls_runtime.errors import UsageError

_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<place>[^?#]*)([?#].*)?")
_OTHER_PAGES = ("datasets", "spaces", "collections", "papers", "docs", "blog", "api")
# What follows the id in the address of a page, and of a file of a revision.
_VIEWS, _FILES = ("tree", "commit", "commits"), ("blob", "resolve", "raw")
_CACHED = "models--"
# As huggingface_hub has it, which also has none with two dots or two dashes in a row.
_ID = re.compile(r"(?:\w(?:[\w.-]{0,94}\w)?/)?\w(?:[\w.-]{0,94}\w)?", re.ASCII)
_EXPECTED = "expected https://huggingface.co/ORG/NAME, /tree/REVISION behind it or not"


@dataclass(frozen=True, kw_only=True)
class HubName:
    """A hub id, and the branch, tag or commit where one was named with it."""

    id: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.id if self.revision is None else f"{self.id}@{self.revision}"

    def at(self, revision: str | None, *, named_by: str) -> HubName:
        """The same at `revision`, the value of the option `named_by`, where that names one.

        Raises:
            UsageError: the name has another revision already.
        """
        if None not in (revision, self.revision) and revision != self.revision:
            raise UsageError(f"{self} names the revision {self.revision}, and {named_by} {revision} another; leave one of them out")
        return self if revision is None else HubName(id=self.id, revision=revision)


def is_hub_id(name: str) -> bool:
    """Whether a repository of the hub may be called so.

    >>> is_hub_id("org/name"), is_hub_id("models/my model"), is_hub_id("a/b/c")
    (True, False, False)
    """
    return _ID.fullmatch(name) is not None and "--" not in name and ".." not in name and not name.endswith(".git")


def hub_name(model: str) -> HubName | None:
    """What `model` names on the hub; None where it looks like a path.

    >>> hub_name("https://huggingface.co/org/name/tree/v2/")
    HubName(id='org/name', revision='v2')
    >>> hub_name("org/name@v2")
    HubName(id='org/name', revision='v2')

    Raises:
        UsageError: it is an address, but of no model's page, or a revision is missing behind an @.
    """
    address = _ADDRESS.fullmatch(model)
    if address is not None:
        return _of_page(model, [unquote(part) for part in address["place"].split("/") if part])
    if re.match(r"(?!hf:)\w+://", model):
        raise UsageError(f"{model} is no address of a model on the hub; {_EXPECTED}, or a hub id, or a folder")
    name, at, revision = model.removeprefix("hf://").partition("@")
    name = name.rstrip("/")
    if not name or name[0] in "./~" or "\\" in model or name.count("/") > 1:
        return None
    revision = revision.rstrip("/")
    if at and not revision:
        raise UsageError(f"{model} names no revision behind the @; expected a branch, a tag or a commit there")
    return HubName(id=name, revision=revision or None)


def _of_page(model: str, parts: list[str]) -> HubName:
    view = next((index for index in (1, 2) if index < len(parts) and parts[index] in _VIEWS + _FILES), None)
    name, rest = parts[:view], [] if view is None else parts[view:]
    name = [part.removesuffix(".git") for part in name]
    if not 1 <= len(name) <= 2 or name[0] in _OTHER_PAGES or len(rest) == 1:
        raise UsageError(f"{model} is no address of a model on the hub; {_EXPECTED}")
    if len(rest) > 2 and rest[0] in _VIEWS:
        raise UsageError(
            f"{model} is the address of a folder in a repository; {_EXPECTED}, of a repository that holds the checkpoint itself"
        )
    return HubName(id="/".join(name), revision=rest[1] if rest else None)


def cached_id(folder: Path) -> str | None:
    """The hub id of a repository's folder in the hub's cache, `models--org--name` with its snapshots; None for any other folder.

    >>> cached_id(Path("models--org--name"))  # there is no such folder
    """
    if not folder.name.startswith(_CACHED) or not (folder / "snapshots").is_dir():
        return None
    return folder.name.removeprefix(_CACHED).replace("--", "/", 1)
