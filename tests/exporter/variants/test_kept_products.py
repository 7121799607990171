"""Which products an int8 graph leaves in float32 where every row counts."""

from __future__ import annotations

import pytest
from exports import ExportStore

from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.config import ExportConfig
from cls_exporter.graph.families import form_of
from cls_exporter.graph.passes.token_rows import batched_products
from cls_exporter.graph.pipeline import compile_graph
from cls_exporter.variants import CalibrationTexts
from cls_exporter.variants.kept_products import kept_products


@pytest.mark.parametrize(
    ("pooling", "kept"),
    [("cls", []), ("mean", ["0.attention.output", "0.output", *(f"1.{part}" for part in ("q", "k", "v", "o", "i", "f"))])],
)
def test_what_adds_to_the_residual_and_the_last_layer(pooling: str, kept: list[str], store: ExportStore) -> None:
    checkpoint = load_checkpoint(str(store.checkpoint("bert", "encoder")), config=ExportConfig(pooling=pooling))  # type: ignore[arg-type]
    form = form_of(checkpoint)
    model = compile_graph(store.trace(checkpoint), form=form, layout="standard").model
    names = kept_products(model, form)
    assert len(names) == len(kept)
    of_first = {name for name in names if ".layer.0." in name}
    assert {name.split(".layer.0.")[1].removesuffix(".dense.weight") for name in of_first} == {
        name.removeprefix("0.") for name in kept if name.startswith("0.")
    }
    left = [str(node.inputs[1].name) for node in batched_products(model) if node.inputs[1].name not in names]  # type: ignore[union-attr]
    if pooling == "mean":
        assert [name.split(".layer.")[1][0] for name in left] == ["0"] * 4


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
