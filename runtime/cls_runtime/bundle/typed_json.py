"""Frozen dataclasses as JSON and back: every field is checked for its type, and an error names the field's place.

Unknown fields are ignored, so that a later minor version may add some; a field that is missing and has no default is an error.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")


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
            raise ValueError(f"{where} is {raw!r}, expected one of {', '.join(map(repr, arguments))}")
        return raw
    if origin is tuple:
        if not isinstance(raw, list):
            raise ValueError(f"{where} is {type(raw).__name__}, expected a list")
        return tuple(_typed(item, arguments[0], f"{where}[{index}]") for index, item in enumerate(raw))
    if origin is Mapping:
        if not isinstance(raw, dict):
            raise ValueError(f"{where} is {type(raw).__name__}, expected an object")
        return types.MappingProxyType({key: _typed(item, arguments[1], f"{where}.{key}") for key, item in raw.items()})
    accepted = (int, float) if kind is float else kind
    if not isinstance(raw, accepted) or (isinstance(raw, bool) and kind is not bool):
        raise ValueError(f"{where} is {type(raw).__name__}, expected {kind.__name__}")
    return float(raw) if kind is float else raw


def _typed_dataclass(raw: Any, kind: type[T], where: str) -> T:
    if not isinstance(raw, dict):
        raise ValueError(f"{where} is {type(raw).__name__}, expected an object")
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        if item.name in raw:
            values[item.name] = _typed(raw[item.name], hints[item.name], f"{where}: {item.name}")
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where} has no field {item.name!r}; it is incomplete, make it again")
    return kind(**values)
