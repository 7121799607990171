"""The passes' order, and what a traced graph must have become."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import checkpoints
import graphs
import numpy as np
import onnx_ir as ir
import pytest
from exports import ExportStore

from cls_exporter import gate, variants
from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.errors import GraphError
from cls_exporter.graph import passes, pipeline
from cls_exporter.graph.families import FAMILIES, Form
from cls_exporter.graph.multiply_adds import multiply_adds
from cls_exporter.graph.passes.output_layout import OutputLayout
from cls_exporter.graph.passes.rewriting import Rewritten

PASS_FILES = sorted(path.stem for path in Path(passes.__path__[0]).glob("*.py") if path.stem not in ("__init__", "rewriting"))


def passes_in(name: str) -> dict[str, type[ir.passes.InPlacePass]]:
    module = importlib.import_module(f"cls_exporter.graph.passes.{name}")
    return {
        key: item
        for key, item in inspect.getmembers(module, inspect.isclass)
        if issubclass(item, ir.passes.InPlacePass) and item.__module__ == module.__name__
    }


@pytest.mark.parametrize("name", PASS_FILES)
def test_every_pass_has_a_test_file_a_place_and_numbered_rules(name: str) -> None:
    kinds = passes_in(name)
    assert "".join(part.capitalize() for part in name.split("_")) in kinds
    assert (Path(__file__).parent / "passes" / f"test_{name}.py").is_file()
    for kind in kinds.values():
        assert kind in (*pipeline.PASSES, OutputLayout) or name in used_elsewhere()
        assert "    1. " in (kind.__doc__ or "")


def used_elsewhere() -> set[str]:
    """Passes that belong to one variant only, or to what the gate runs: the modules of `variants` and of `gate` name them."""
    folders = [Path(package.__file__).parent for package in (variants, gate)]
    source = "".join(path.read_text(encoding="utf-8") for folder in folders for path in folder.glob("*.py"))
    return {name for name in PASS_FILES if f"cls_exporter.graph.passes.{name} import" in source}


@pytest.fixture
def traced_bert(store: ExportStore) -> ir.Model:
    return store.trace(load_checkpoint(str(store.checkpoint("bert", "encoder"))))


def bert_form(**changes: object) -> Form:
    return FAMILIES["bert"].form(checkpoints.small_config("bert", changes=changes))


def compile_bert(traced: ir.Model, form: Form | None = None) -> pipeline.Compiled:
    return pipeline.compile_graph(traced, form=bert_form() if form is None else form, layout="standard")


def test_a_traced_graph_is_compiled(traced_bert: ir.Model) -> None:
    size = {"batch_size": 2, "sequence_length": 16}
    full = multiply_adds(traced_bert, **size)
    compiled = compile_bert(traced_bert)
    assert set(compiled.rewrites) == {kind.__name__ for kind in (*pipeline.PASSES, OutputLayout)}
    assert compiled.rewrites["SingleQueryAttention"] == 2
    assert compiled.notes == ()
    assert [value.name for value in compiled.model.graph.outputs] == ["last_hidden_state", "sentence_embedding"]
    assert multiply_adds(compiled.model, **size) < full


def test_an_attention_mask_that_nothing_reads_stays_an_input(traced_bert: ir.Model) -> None:
    mask, types = (next(value for value in traced_bert.graph.inputs if value.name == name) for name in ("attention_mask", "token_type_ids"))
    mask.replace_all_uses_with(types)
    compiled = compile_bert(traced_bert)
    inputs = {value.name: list(value.uses()) for value in compiled.model.graph.inputs}
    assert list(inputs) == ["input_ids", "attention_mask", "token_type_ids"]
    assert inputs["attention_mask"] == []


@pytest.mark.parametrize("missing", ["RowSelection", "SingleQueryAttention"])
def test_a_pass_that_stops_to_match_is_an_error(traced_bert: ir.Model, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = next(kind for kind in pipeline.PASSES if kind.__name__ == missing)
    monkeypatch.setattr(kind, "call", lambda _, model: Rewritten.of(model, 0))
    expected = {"RowSelection": r"bert: 0 of 2 attention layers compute one query row, expected 1 of 2"}
    with pytest.raises(GraphError, match=expected.get(missing, r"bert: 0 products of the last attention were reassociated, expected 2")):
        compile_bert(traced_bert)


@pytest.mark.parametrize("missing", ["RowSelection", "SingleQueryAttention"])
def test_where_a_setting_explains_it_the_graph_is_right_and_the_report_says_that_it_is_slower(
    traced_bert: ir.Model, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, feed = traced_bert.clone(), graphs.feed_for(traced_bert, batch=3, length=7)
    kind = next(kind for kind in pipeline.PASSES if kind.__name__ == missing)
    monkeypatch.setattr(kind, "call", lambda _, model: Rewritten.of(model, 0))
    compiled = compile_bert(traced_bert, bert_form(hidden_act="laplace"))
    rows = graphs.run(compiled.model, feed)["sentence_embedding"]
    np.testing.assert_allclose(rows, graphs.run(expected, feed)["sentence_embedding"], rtol=0, atol=1e-5)
    assert all(note.startswith("slower than usual: ") for note in compiled.notes)
    found = "0 products of the last attention were reassociated, expected 2; the cause is hidden_act 'laplace'"
    assert any(found in note for note in compiled.notes)


def test_a_layer_that_was_not_traced_is_an_error(traced_bert: ir.Model) -> None:
    with pytest.raises(GraphError, match=r"1 of 2 attention layers compute one query row, expected 1 of 3"):
        compile_bert(traced_bert, bert_form(num_hidden_layers=3))


def test_a_decomposed_layer_normalization_is_an_error(traced_bert: ir.Model) -> None:
    for node in list(traced_bert.graph):
        if node.op_type == "LayerNormalization":
            node.op_type = "Identity"
            node.resize_inputs(1)
            node.attributes.clear()
    with pytest.raises(GraphError, match="bert: 0 LayerNormalization operators in 2 layers, the tracer decomposed them"):
        compile_bert(traced_bert)


def test_a_graph_that_is_not_valid_is_an_error(traced_bert: ir.Model) -> None:
    gelu = next(node for node in traced_bert.graph if node.op_type == "Gelu")
    gelu.op_type = "NoSuchOperator"
    with pytest.raises(GraphError, match="the exported graph is not valid ONNX: .*NoSuchOperator"):
        compile_bert(traced_bert)
