"""What an ONNX file says of itself, before any engine sees it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle_builder import tiny_graph
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from cls_runtime import BundleError
from cls_runtime.bundle.onnx_form import external_files


def tiny() -> onnx.ModelProto:
    return tiny_graph(("sentence_embedding",), type_ids=False, change_weights=lambda weights: weights)


def outside(tensor: onnx.TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)


def sparse(location: str) -> onnx.SparseTensorProto:
    values, indices = numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.zeros(1, np.int64), "i")
    outside(values, location)
    return helper.make_sparse_tensor(values, indices, [4])


def body() -> onnx.GraphProto:
    """A loop's body that wants another round."""
    condition = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    inputs = [helper.make_tensor_value_info("round", TensorProto.INT64, []), condition]
    return helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])], "body", inputs, [helper.make_tensor_value_info("on", TensorProto.BOOL, [])]
    )


def add_node(model: onnx.ModelProto, operator: str, domain: str = "", **attributes: object) -> None:
    model.graph.node.append(helper.make_node(operator, ["input_ids"], ["odd"], domain=domain, **attributes))


def add_function(model: onnx.ModelProto) -> None:
    model.functions.append(
        helper.make_function("ai.onnx", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 17)])
    )


EXTERNAL: dict[str, Callable[[onnx.ModelProto], object]] = {
    "of a weight": lambda model: outside(model.graph.initializer[0], "x.data"),
    "of a weight that is small": lambda model: outside(model.graph.initializer[-1], "x.data"),
    "of a constant": lambda model: add_node(model, "Constant", value=external_tensor("x.data")),
    "of one of several tensors": lambda model: add_node(
        model, "Constant", odd=[numpy_helper.from_array(np.ones(1)), external_tensor("x.data")]
    ),
    "of a sparse weight": lambda model: model.graph.sparse_initializer.append(sparse("x.data")),
    "of a sparse constant": lambda model: add_node(model, "Constant", sparse_value=sparse("x.data")),
}


def external_tensor(location: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "c")
    outside(tensor, location)
    return tensor


REFUSED: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "an endless loop": (lambda model: add_node(model, "Loop", body=body()), "a graph within a graph, which may run for ever"),
    "a choice": (lambda model: add_node(model, "If", then_branch=body(), else_branch=body()), "a graph within a graph"),
    "several graphs": (lambda model: add_node(model, "Odd", graphs=[body()]), "a graph within a graph"),
    "a function": (add_function, "functions or training steps of its own"),
    "training steps": (lambda model: model.training_info.add(), "functions or training steps of its own"),
    "a compiled graph": (
        lambda model: add_node(model, "EPContext", "com.microsoft", ep_cache_context="x"),
        "EPContext, which loads a file",
    ),
    "a foreign domain": (lambda model: add_node(model, "Shell", "evil"), "operators of the domain 'evil'"),
    "a long domain": (lambda model: add_node(model, "Shell", "e" * 10_000), f"the domain '{'e' * 40}'"),
}


def written(model: onnx.ModelProto, folder: Path) -> Path:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def test_a_graph_with_its_weights_names_no_file(tmp_path: Path) -> None:
    assert external_files(written(tiny(), tmp_path)) == set()


@pytest.mark.parametrize("case", EXTERNAL)
def test_every_place_of_a_tensor_is_looked_at(case: str, tmp_path: Path) -> None:
    model = tiny()
    EXTERNAL[case](model)
    assert external_files(written(model, tmp_path)) == {"x.data"}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_export_writes_is_refused(case: str, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    model = tiny()
    change(model)
    with pytest.raises(BundleError, match=message) as caught:
        external_files(written(model, tmp_path))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04\x95\x0b",
        b"ORTM" * 9,
        b"\xff" * 300,
        b"PK\x03\x04" + bytes(60),
        b"\x3a\xff\xff\xff\xff\x0f",
        b"\x0b",
        b"\x3a",
        b"\x3a\x80",
    ],
    ids=["empty", "a pickle", "ORT's own format", "noise", "a zip", "longer than the file", "a group", "no length", "half a number"],
)
def test_what_is_no_onnx_file_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="is not a graph that an export writes"):
        external_files(tmp_path / "model.onnx")


@given(seed=st.integers(0, 2**32), changes=st.integers(1, 8))
def test_damage_is_refused_or_read_but_never_another_error(seed: int, changes: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    generator = random.Random(seed)
    data = bytearray(DAMAGEABLE)
    for _ in range(changes):
        data[generator.randrange(len(data))] = generator.randrange(256)
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    path.write_bytes(data[: generator.randrange(len(data)) or None] if seed % 3 == 0 else data)
    with contextlib.suppress(BundleError):
        external_files(path)


DAMAGEABLE = tiny().SerializeToString()
