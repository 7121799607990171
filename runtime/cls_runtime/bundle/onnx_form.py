"""The form of an ONNX file, read without an engine: which other files it names, and whether it may be run at all.

An engine follows what a graph says: it reads the files that tensors name, wherever they are, and a loop runs as long as the graph likes. So
a file is looked through before any engine sees it. Only protocol buffer fields are read, by the numbers in
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; weights are passed over without touching them.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path

from cls_runtime.errors import BundleError

# What an export writes: operators of ONNX itself and the ones that ONNX Runtime adds.
DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
# It names a file with a compiled graph, which some engines load.
FORBIDDEN_OPERATORS = frozenset({"EPContext"})
LOCATION = "location"

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # wire types
_Buffer = mmap.mmap | bytes
_Span = tuple[int, int]  # from, to

# Fields by message: those that lead to tensors, nodes and subgraphs.
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_SPARSE_TENSORS = (1, 2)
_TENSOR_EXTERNAL = 13


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
    graphs = []
    for number, span in _messages(data, (0, len(data))):
        if number == _MODEL_GRAPH:
            graphs.append(span)
        elif number in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            raise ValueError("it has functions or training steps of its own")
    if not graphs:
        raise ValueError("it holds no graph")
    external: set[str] = set()
    for graph in graphs:
        for number, span in _messages(data, graph):
            if number == _GRAPH_INITIALIZER:
                external |= _external(data, span)
            elif number == _GRAPH_SPARSE:
                external |= _external_of_sparse(data, span)
            elif number == _GRAPH_NODE:
                external |= _external_of_node(data, span)
    return external


def _external_of_node(data: _Buffer, node: _Span) -> set[str]:
    external: set[str] = set()
    for number, span in _messages(data, node):
        if number == _NODE_OPERATOR and (operator := _string(data, span)) in FORBIDDEN_OPERATORS:
            raise ValueError(f"it has the operator {operator}, which loads a file")
        if number == _NODE_DOMAIN and (domain := _string(data, span)) not in DOMAINS:
            raise ValueError(f"it has operators of the domain {domain[:40]!r}")
        if number == _NODE_ATTRIBUTE:
            external |= _external_of_attribute(data, span)
    return external


def _external_of_attribute(data: _Buffer, attribute: _Span) -> set[str]:
    external: set[str] = set()
    for number, span in _messages(data, attribute):
        if number in _ATTRIBUTE_GRAPHS:
            raise ValueError("it has a graph within a graph, which may run for ever")
        if number in _ATTRIBUTE_TENSORS:
            external |= _external(data, span)
        elif number in _ATTRIBUTE_SPARSE:
            external |= _external_of_sparse(data, span)
    return external


def _external_of_sparse(data: _Buffer, sparse: _Span) -> set[str]:
    return {name for number, span in _messages(data, sparse) if number in _SPARSE_TENSORS for name in _external(data, span)}


def _external(data: _Buffer, tensor: _Span) -> set[str]:
    """Where a tensor says that its data is; nothing for one that has it."""
    named: set[str] = set()
    for number, span in _messages(data, tensor):
        if number == _TENSOR_EXTERNAL:
            entry = {key: _string(data, part) for key, part in _messages(data, span)}
            if entry.get(1) == LOCATION:
                named.add(entry.get(2, ""))
    return named


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
