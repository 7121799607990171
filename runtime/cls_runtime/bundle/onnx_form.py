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

from cls_runtime.bundle.protocol_buffers import Buffer, Span, messages, text_of
from cls_runtime.errors import BundleError, is_shortage

# What an export writes: operators of ONNX itself and the ones that ONNX Runtime adds.
DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
# It names a file with a compiled graph, which some engines load.
FORBIDDEN_OPERATORS = frozenset({"EPContext"})
LOCATION = "location"

_Leaf = Callable[[Buffer, Span], set[str]]
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
        if is_shortage(error):
            raise
        reason = str(error)
    raise BundleError(f"{path} is not a graph that an export writes ({reason}); copy or export the bundle again")


@contextlib.contextmanager
def _mapped(descriptor: int) -> Iterator[Buffer]:
    try:
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise ValueError("it is empty") from None
    with mapped:
        yield mapped


def _form(data: Buffer) -> set[str]:
    whole = (0, len(data))
    if not any(number == _MODEL_GRAPH for number, _ in messages(data, whole)):
        raise ValueError("it holds no graph")
    return _external(data, whole, _MODEL)


def _external(data: Buffer, span: Span, fields: _Fields) -> set[str]:
    """Where the tensors of a message say that their data is, as far as it is outside of the file."""
    external: set[str] = set()
    for number, part in messages(data, span):
        meaning = fields.get(number)
        if isinstance(meaning, dict):
            external |= _external(data, part, meaning)
        elif meaning is not None:
            external |= meaning(data, part)
    return external


def _location(data: Buffer, entry: Span) -> set[str]:
    pair = {key: text_of(data, part) for key, part in messages(data, entry)}
    return {pair.get(2, "")} if pair.get(1) == LOCATION else set()


def _check_operator(data: Buffer, span: Span) -> set[str]:
    if (operator := text_of(data, span)) in FORBIDDEN_OPERATORS:
        raise ValueError(f"it has the operator {operator}, which loads a file")
    return set()


def _check_domain(data: Buffer, span: Span) -> set[str]:
    if (domain := text_of(data, span)) not in DOMAINS:
        raise ValueError(f"it has operators of the domain {domain[:40]!r}")
    return set()


def _refuse(reason: str) -> _Leaf:
    def refuse(_data: Buffer, _span: Span) -> NoReturn:
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
