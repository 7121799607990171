"""Which products an int8 graph may leave in float32 where every row counts."""

from __future__ import annotations

import pytest
from exports import ExportStore

from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.config import ExportConfig
from cls_exporter.graph.families import form_of
from cls_exporter.graph.passes.token_rows import batched_products
from cls_exporter.graph.pipeline import compile_graph
from cls_exporter.variants import CalibrationTexts
from cls_exporter.variants.kept_products import keepings


def parts(names: frozenset[str]) -> set[str]:
    """The last words of weights' names, without their layers."""
    return {name.split(".layer.")[1].split(".", 1)[1].removesuffix(".weight") for name in names}


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_each_set_holds_the_one_before_and_leaves_something(pooling: str, store: ExportStore) -> None:
    checkpoint = load_checkpoint(str(store.checkpoint("bert", "encoder")), config=ExportConfig(pooling=pooling))  # type: ignore[arg-type]
    form = form_of(checkpoint)
    model = compile_graph(store.trace(checkpoint), form=form, layout="standard").model
    sets = keepings(model, form)
    if pooling == "cls":
        assert sets == (frozenset(),)
        return
    assert [parts(names) for names in sets] == [set(), {"output.dense"}, {"output.dense", "intermediate.dense"}]
    assert [len(names) for names in sets] == [0, form.layers, 2 * form.layers]
    assert len(sets[-1]) < len(batched_products(model))


def test_beginnings_follow_their_texts() -> None:
    texts = CalibrationTexts.of(["one two three four", "five six", "seven eight nine ten", "eleven"])
    both = texts.with_beginnings()
    assert list(both.open()) == [
        "one two three four",
        "one",
        "five six",
        "five six",
        "seven eight nine ten",
        "seven eight nine",
        "eleven",
        "eleven",
    ]
    assert (both.count, both.sha256) == (8, texts.sha256)
