"""A `NativeModel` as JSON and arrays by name, and back: an array, and an object that is there twice, stand in the JSON as their names.

A name is the place where the object is met first: `layers.0.up.integers`, `layers.0`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.typed_json import shown
from cls_runtime.engines.native.weights import NativeModel

_FREE_FORM = "recipe"  # any JSON: it says how the weights were made, and nothing that a kernel reads


def described(model: NativeModel) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What the model is without its arrays, in JSON's types, and its arrays by name, each once."""
    names: dict[int, str] = {}
    arrays: dict[str, NDArray[Any]] = {}

    def plain(value: Any, name: str) -> Any:
        if isinstance(value, np.ndarray) or dataclasses.is_dataclass(value):
            if id(value) in names:
                return names[id(value)]
            names[id(value)] = name
        if isinstance(value, np.ndarray):
            arrays[name] = value
            return name
        if dataclasses.is_dataclass(value):
            fields = [item.name for item in dataclasses.fields(value)]
            return {field: plain(getattr(value, field), _joined(name, field)) for field in fields if field != _FREE_FORM}
        if isinstance(value, Mapping):
            return {key: plain(value[key], _joined(name, key)) for key in sorted(value)}
        if isinstance(value, tuple):
            return [plain(item, _joined(name, index)) for index, item in enumerate(value)]
        return value

    return {**plain(model, ""), _FREE_FORM: dict(model.recipe)}, arrays


def model_of(description: Any, arrays: Mapping[str, NDArray[Any]]) -> tuple[NativeModel, frozenset[str]]:
    """The model that `described` has made these of, and the names of the arrays that it has.

    Raises:
        ValueError: a field is missing, unknown or of another type, or an array is missing or of another type.
    """
    reader = _Reader(arrays)
    model = reader.value(description, NativeModel, "")
    assert isinstance(model, NativeModel)
    return model, frozenset(reader.used)


def _joined(name: str, part: str | int) -> str:
    return f"{name}.{part}" if name else str(part)


class _Reader:
    """Makes values of JSON by their types; one object for each name.

    Attributes:
        used: names of the arrays that the values have.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays
        self._objects: dict[str, Any] = {}
        self._hints: dict[type[Any], dict[str, Any]] = {}
        self.used: set[str] = set()

    def value(self, raw: Any, kind: Any, name: str) -> Any:
        """`raw` as a value of type `kind`; `name` is its place."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return self._object(raw, kind, name)
        if origin in (typing.Union, types.UnionType):
            if raw is None and type(None) in arguments:
                return None
            kinds = [item for item in arguments if item is not type(None)]
            return self._array(raw, kinds, name) if typing.get_origin(kinds[0]) is np.ndarray else self.value(raw, kinds[0], name)
        if origin is np.ndarray:
            return self._array(raw, [kind], name)
        if origin is Literal:
            if raw not in arguments:
                raise ValueError(f"{name} is {shown(raw)}, expected one of {', '.join(arguments)}")
            return raw
        if origin is tuple:
            if not isinstance(raw, list):
                raise ValueError(f"{name} is {shown(raw)}, expected a list")
            return tuple(self.value(item, arguments[0], _joined(name, index)) for index, item in enumerate(raw))
        if origin is Mapping:
            return self._mapping(raw, arguments, name)
        return _number(raw, kind, name)

    def _object(self, raw: Any, kind: type[Any], name: str) -> Any:
        if isinstance(raw, str):
            if not isinstance(self._objects.get(raw), kind):
                raise ValueError(f"{name} is {shown(raw)}, which names no {kind.__name__} before it")
            return self._objects[raw]
        if not isinstance(raw, dict):
            raise ValueError(f"{name or 'the model'} is {shown(raw)}, expected an object")
        if kind not in self._hints:
            self._hints[kind] = typing.get_type_hints(kind)
        hints = self._hints[kind]
        if unknown := sorted(set(raw) - set(hints)):
            raise ValueError(f"{name or 'the model'} has a field {shown(unknown[0])}, which this version does not know")
        values: dict[str, Any] = {}
        for field in dataclasses.fields(kind):
            if field.name in raw:
                values[field.name] = self.value(raw[field.name], hints[field.name], _joined(name, field.name))
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise ValueError(f"{name or 'the model'} has no field {field.name!r}")
        made = kind(**values)
        self._objects[name] = made
        return made

    def _mapping(self, raw: Any, arguments: tuple[Any, ...], name: str) -> Any:
        if not isinstance(raw, dict):
            raise ValueError(f"{name} is {shown(raw)}, expected an object")
        keys, kind = arguments
        if typing.get_origin(keys) is Literal and (unknown := sorted(set(raw) - set(typing.get_args(keys)))):
            raise ValueError(f"{name} has {shown(unknown[0])}, expected {', '.join(typing.get_args(keys))}")
        places = {key: _joined(name, key if key.isidentifier() else shown(key)) for key in sorted(raw)}
        return types.MappingProxyType({key: self.value(raw[key], kind, place) for key, place in places.items()})

    def _array(self, raw: Any, kinds: list[Any], name: str) -> NDArray[Any]:
        if not isinstance(raw, str) or raw not in self._arrays:
            raise ValueError(f"{name} is {shown(raw)}, expected the name of an array")
        array = self._arrays[raw]
        expected = [np.dtype(typing.get_args(typing.get_args(kind)[1])[0]) for kind in kinds]
        if array.dtype not in expected:
            raise ValueError(f"{name} is an array of {array.dtype}, expected {' or '.join(map(str, expected))}")
        self.used.add(raw)
        return array


def _number(raw: Any, kind: Any, name: str) -> Any:
    if kind is Any:
        return raw
    accepted = (int, float) if kind is float else kind
    if not isinstance(raw, accepted) or (isinstance(raw, bool) and kind is not bool):
        raise ValueError(f"{name} is {shown(raw)}, expected {kind.__name__}")
    if isinstance(raw, int) and abs(raw) >= 2**31:
        raise ValueError(f"{name} is {shown(raw)}, expected a number of 32 bits")
    return float(raw) if kind is float else raw
