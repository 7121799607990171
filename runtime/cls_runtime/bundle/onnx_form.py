"""The form of an ONNX file, read without an engine: which other files it names, and whether it may be run at all.

An engine follows what a graph says: it reads the files that tensors name, wherever they are, and a loop runs as long as the graph likes. So
a file is looked through before any engine sees it. Only protocol buffer fields are read, by the numbers in
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; weights are passed over without touching them.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from cls_runtime.errors import BundleError

# What an export writes: operators of ONNX itself and the ones that ONNX Runtime adds.
DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
# It names a file with a compiled graph, which some engines load.
FORBIDDEN_OPERATORS = frozenset({"EPContext"})
LOCATION = "location"

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # wire types
_Buffer = mmap.mmap | bytes
_Span = tuple[int, int]  # from, to
_Leaf = Callable[[_Buffer, _Span], set[str]]
_Fields = dict[int, Any]  # of another such dict, or of a _Leaf


def external_files(path: Path) -> set[str]:
    """Looks through an ONNX file; gives where its tensors' data is outside of it, as the tensors name those files.

    Raises:
        BundleError: it is no ONNX file, or has what no export writes: subgraphs, functions, operators that load files or are of foreign
            domains.
    """
    try:
        with path.open("rb") as file, _mapped(file.fileno()) as data:
            return _form(data)
    except IndexError:
        reason = "it is cut short"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise BundleError(f"{path} is not a graph that an export writes ({reason}); copy or export the bundle again")


@contextlib.contextmanager
def _mapped(descriptor: int) -> Iterator[_Buffer]:
    try:
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise ValueError("it is empty") from None
    with mapped:
        yield mapped


def _form(data: _Buffer) -> set[str]:
    whole = (0, len(data))
    if not any(number == _MODEL_GRAPH for number, _ in _messages(data, whole)):
        raise ValueError("it holds no graph")
    return _external(data, whole, _MODEL)


def _external(data: _Buffer, span: _Span, fields: _Fields) -> set[str]:
    """Where the tensors of a message say that their data is, as far as it is outside of the file."""
    external: set[str] = set()
    for number, part in _messages(data, span):
        meaning = fields.get(number)
        if isinstance(meaning, dict):
            external |= _external(data, part, meaning)
        elif meaning is not None:
            external |= meaning(data, part)
    return external


def _location(data: _Buffer, entry: _Span) -> set[str]:
    pair = {key: _string(data, part) for key, part in _messages(data, entry)}
    return {pair.get(2, "")} if pair.get(1) == LOCATION else set()


def _check_operator(data: _Buffer, span: _Span) -> set[str]:
    if (operator := _string(data, span)) in FORBIDDEN_OPERATORS:
        raise ValueError(f"it has the operator {operator}, which loads a file")
    return set()


def _check_domain(data: _Buffer, span: _Span) -> set[str]:
    if (domain := _string(data, span)) not in DOMAINS:
        raise ValueError(f"it has operators of the domain {domain[:40]!r}")
    return set()


def _refuse(reason: str) -> _Leaf:
    def refuse(_data: _Buffer, _span: _Span) -> NoReturn:
        raise ValueError(reason)

    return refuse


# What the fields of each message mean, by number: another message, or what is to be done with it. Others are passed over.
_SUBGRAPH = _refuse("it has a graph within a graph, which may run for ever")
_OWN_CODE = _refuse("it has functions or training steps of its own")
_TENSOR: _Fields = {13: _location}  # external_data
_SPARSE: _Fields = {1: _TENSOR, 2: _TENSOR}  # values, indices
_ATTRIBUTE: _Fields = {5: _TENSOR, 10: _TENSOR, 6: _SUBGRAPH, 11: _SUBGRAPH, 22: _SPARSE, 23: _SPARSE}  # t, tensors, g, graphs, sparse ones
_NODE: _Fields = {4: _check_operator, 5: _ATTRIBUTE, 7: _check_domain}  # op_type, attribute, domain
_GRAPH: _Fields = {1: _NODE, 5: _TENSOR, 15: _SPARSE}  # node, initializer, sparse_initializer
_MODEL_GRAPH = 7
_MODEL: _Fields = {_MODEL_GRAPH: _GRAPH, 20: _OWN_CODE, 25: _OWN_CODE}  # training_info, functions


def _messages(data: _Buffer, span: _Span) -> Iterator[tuple[int, _Span]]:
    """The fields of a message that have a length, by number; others are passed over."""
    place, end = span
    while place < end:
        # A byte is the rule: field numbers below 16, lengths below 128.
        tag = data[place]
        place += 1
        if tag > 0x7F:
            tag, place = _varint(data, place - 1)
        wire = tag & 7
        if wire == _LENGTH:
            length = data[place]
            place += 1
            if length > 0x7F:
                length, place = _varint(data, place - 1)
            if place + length > end:
                raise ValueError("it is cut short")
            yield tag >> 3, (place, place + length)
            place += length
        elif wire == _VARINT:
            _, place = _varint(data, place)
        elif wire == _EIGHT_BYTES:
            place += 8
        elif wire == _FOUR_BYTES:
            place += 4
        else:
            raise ValueError("it is no protocol buffer")
    if place != end:
        raise ValueError("it is cut short")


def _varint(data: _Buffer, place: int) -> tuple[int, int]:
    """A number of at most ten bytes, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("it is no protocol buffer")


def _string(data: _Buffer, span: _Span) -> str:
    return bytes(data[span[0] : span[1]]).decode("utf-8", "backslashreplace")
