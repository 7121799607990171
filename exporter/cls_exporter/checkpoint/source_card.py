"""What the source's own README.md states of itself in its front matter: its license and its languages. Nothing is guessed.

The front matter is YAML between two lines of three hyphens (https://huggingface.co/docs/hub/model-cards). Only the entries that count are
read, as texts: `no` is Norwegian there and not false.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.errors import CheckpointError

SOURCE_CARD = "README.md"
_CARD_BYTES = 16 * 2**20
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?^)---[ \t]*$", re.DOTALL | re.MULTILINE)
_ENTRY_CHARACTERS = 8192  # YAML is slow to read; a hundred languages have a tenth of it
_MOST_ITEMS = 200
_ITEM_CHARACTERS = 100
_NOTHING = ("", "~", "null")


@dataclass(frozen=True, kw_only=True)
class Stated:
    """`license`, `license_name` and `language` as the source states them; empty where it does not, or not as texts."""

    license: tuple[str, ...] = ()
    license_name: tuple[str, ...] = ()
    language: tuple[str, ...] = ()


def read_source_card(folder: CheckpointFolder) -> Stated:
    """What README.md in `folder` states; a file that is not there, that cannot be read safely or that is no card states nothing."""
    try:
        data = folder.read(SOURCE_CARD, limit_bytes=_CARD_BYTES)
        found = _FRONT_MATTER.match(data.decode("utf-8-sig").replace("\r\n", "\n"))
    except (CheckpointError, UnicodeDecodeError):
        return Stated()
    matter = "" if found is None else found[1]
    return Stated(license=_texts(matter, "license"), license_name=_texts(matter, "license_name"), language=_texts(matter, "language"))


def _texts(matter: str, key: str) -> tuple[str, ...]:
    """The one text of an entry, or all of its list."""
    entries = re.findall(rf"^{key}[ \t]*:.*\n(?:[ \t#-].*\n|\n)*", matter, re.MULTILINE)
    if len(entries) != 1 or len(entries[0]) > _ENTRY_CHARACTERS:
        return ()
    try:
        value: Any = yaml.load(entries[0], Loader=yaml.BaseLoader)[key]  # which makes texts, lists and mappings of them, nothing else
    except (yaml.YAMLError, RecursionError):
        return ()
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or len(items) > _MOST_ITEMS:
        return ()
    return tuple(items) if all(_is_sound(item) for item in items) else ()


def _is_sound(item: Any) -> bool:
    return isinstance(item, str) and item.isprintable() and len(item) <= _ITEM_CHARACTERS and item.strip().lower() not in _NOTHING
