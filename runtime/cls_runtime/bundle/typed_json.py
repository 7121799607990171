"""Frozen dataclasses as JSON and back: every field is checked for its type, and an error names the field's place.

Unknown fields are ignored, so that a later minor version may add some; a field that is missing and has no default is an error. A field may
say more than its type: `field(metadata=between(1, 100))`.
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")

_RULE = "rule"
_MAX_INTEGER = 2**63 - 1
_MAX_CHARACTERS = 2**16  # of a text that is a field


def between(low: float, high: float) -> dict[str, Any]:
    """Metadata of a field whose number is at least `low` and at most `high`."""
    return {_RULE: lambda value: None if low <= value <= high else f"{shown(value)}, expected {low:,} to {high:,}"}


def at_most(count: int) -> dict[str, Any]:
    """Metadata of a field that has at most so many items."""
    return {_RULE: lambda value: None if len(value) <= count else f"{len(value):,} items, expected at most {count:,}"}


def known(
    names: Collection[str], *, name: Callable[[Any], str] = str, required: Iterable[str] = (), distinct: bool = False
) -> dict[str, Any]:
    """Metadata of a field whose items, or keys, are among `names`.

    Args:
        names: what there may be.
        name: an item's name.
        required: what there must be.
        distinct: nothing may be there twice.
    """

    def objection(value: Iterable[Any]) -> str | None:
        found = [name(item) for item in value]
        if unknown := [item for item in found if item not in names]:
            return f"{shown(unknown[0])}, expected one of {', '.join(names)}"
        if missing := [item for item in required if item not in found]:
            return f"{shown(found)}, expected {missing[0]} among them"
        if distinct and len(set(found)) < len(found):
            return f"{shown(found)}, expected each once"
        return None

    return {_RULE: objection}


def parsed(text: str) -> Any:
    """The value of a JSON text, of what JSON has: no NaN, no infinity, no key twice, and strings that are text.

    Raises:
        ValueError: it is not such a text; one line says why.
    """
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats)
        # Also of fields that nobody knows, since what is read may be written again.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"it has a lone surrogate U+{ord(error.object[error.start]):04X}, which is no character") from None
    return value


def shown(value: Any) -> str:
    """A value for an error's line: quoted, printable, and short however large it is.

    >>> shown(10**400)
    '100000000000000000...0000000000000000000'
    """
    return reprlib.repr(value)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} is there twice")
    return value


def plain(value: Any) -> Any:
    """`value` in JSON's types: dataclasses and mappings become dicts, tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


def typed(raw: Any, kind: type[T], where: str) -> T:
    """`raw` (from JSON) as a value of the dataclass `kind`; `where` names the place for the error.

    Raises:
        ValueError: a field is missing or has another type.
    """
    return _typed_dataclass(raw, kind, where)


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
            raise ValueError(f"{where} is {shown(raw)}, expected one of {', '.join(map(repr, arguments))}")
        return raw
    if origin is tuple:
        if not isinstance(raw, list):
            raise ValueError(f"{where} is {type(raw).__name__}, expected a list")
        return tuple(_typed(item, arguments[0], f"{where}[{index}]") for index, item in enumerate(raw))
    if origin is Mapping:
        if not isinstance(raw, dict):
            raise ValueError(f"{where} is {type(raw).__name__}, expected an object")
        return types.MappingProxyType({key: _typed(item, arguments[1], f"{where}.{_key(key)}") for key, item in raw.items()})
    return _typed_plain(raw, kind, where)


def _typed_plain(raw: Any, kind: Any, where: str) -> Any:
    """The same for `kind` str, int, float or bool."""
    accepted = (int, float) if kind is float else kind
    if not isinstance(raw, accepted) or (isinstance(raw, bool) and kind is not bool):
        raise ValueError(f"{where} is {type(raw).__name__}, expected {kind.__name__}")
    if isinstance(raw, int) and abs(raw) > _MAX_INTEGER:
        raise ValueError(f"{where} is {shown(raw)}, expected a number of 64 bits")
    if isinstance(raw, str) and len(raw) > _MAX_CHARACTERS:
        raise ValueError(f"{where} has {len(raw):,} characters, expected at most {_MAX_CHARACTERS:,}")
    return float(raw) if kind is float else raw


def _key(key: str) -> str:
    """A key as part of a place."""
    return key if key.isprintable() and len(key) <= 40 else shown(key)


def _typed_dataclass(raw: Any, kind: type[T], where: str) -> T:
    if not isinstance(raw, dict):
        raise ValueError(f"{where} is {type(raw).__name__}, expected an object")
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        if item.name in raw:
            value = _typed(raw[item.name], hints[item.name], f"{where}: {item.name}")
            if _RULE in item.metadata and (objection := item.metadata[_RULE](value)) is not None:
                raise ValueError(f"{where}: {item.name} is {objection}")
            values[item.name] = value
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where} has no field {item.name!r}; it is incomplete, make it again")
    return kind(**values)
