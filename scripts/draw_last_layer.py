"""Draws the last layer of a real graph before and after the passes, as docs/images/last_layer_{before,after}.svg.

    python scripts/draw_last_layer.py [--output docs/images]

The model is a random bert with two layers: what is drawn depends on the architecture, not on the weights. A box is an operator with the
shape of what it makes; green has one row a text, amber one for every token, and constants are in the box of the operator that reads them.
"""

from __future__ import annotations

import argparse
import html
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from tokenizers import Tokenizer, models, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.graph.families import form_of
from cls_exporter.graph.pipeline import compile_graph
from cls_exporter.graph.trace import trace

HIDDEN, HEADS, INNER = 384, 12, 1536
LETTERS = {"batch_size": "B", "sequence_length": "S"}
ONE_ROW, ALL_ROWS = "#d3ecd9", "#fbe3b9"
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 172, 40, 18, 26, 44
WORK = ("MatMul", "Gemm")


@dataclass(frozen=True)
class Box:
    """An operator in the picture: its column and row, and what is written in it."""

    node: ir.Node
    column: int
    row: int

    @property
    def left(self) -> int:
        """Pixels from the left edge."""
        return MARGIN + self.column * (WIDTH + GAP_X)

    @property
    def top(self) -> int:
        """Pixels from the top edge, the title's line left free."""
        return MARGIN + 34 + self.row * (HEIGHT + GAP_Y)


def graphs() -> tuple[ir.Model, ir.Model]:
    """The traced graph of a small bert, and the compiled one."""
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=8,
            hidden_size=HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            intermediate_size=INNER,
            max_position_embeddings=64,
        )
        BertModel(config).save_pretrained(folder)
        tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}, unk_token="[UNK]"))
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
        fast: Any = PreTrainedTokenizerFast
        fast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]").save_pretrained(folder)
        checkpoint = load_checkpoint(folder)
        traced = trace(checkpoint)
    before = traced.clone()
    return before, compile_graph(traced, form=form_of(checkpoint), layout="native").model


def last_layer(model: ir.Model) -> list[ir.Node]:
    """The operators behind the first layer's last LayerNormalization, in the graph's order."""
    norms = [node for node in model.graph if node.op_type == "LayerNormalization"]
    start = norms[-3]  # two in the last layer; the one before them ends the layer before
    reached = {id(start)}
    found = [start]
    for node in model.graph:
        producers = [value.producer() for value in node.inputs if value is not None]
        if any(producer is not None and id(producer) in reached for producer in producers):
            reached.add(id(node))
            found.append(node)
    return [node for node in found if node.op_type not in ("Shape", "Concat")]


def placed(nodes: Sequence[ir.Node]) -> list[Box]:
    """A row below the lowest producer, in the producer's column where that is free."""
    boxes: dict[int, Box] = {}
    taken: set[tuple[int, int]] = set()
    for node in nodes:
        above = [boxes[id(value.producer())] for value in node.inputs if value is not None and id(value.producer()) in boxes]
        row = 1 + max((box.row for box in above), default=-1)
        column = above[0].column if above else 0
        while (column, row) in taken:
            column += 1
        boxes[id(node)] = Box(node, column, row)
        taken.add((column, row))
    return list(boxes.values())


def shape_text(value: ir.Value) -> str:
    """A shape in the documentation's letters."""
    parts = [str(dim) if isinstance(dim, int) else LETTERS.get(str(dim.value), str(dim.value)) for dim in value.shape or ()]
    return f"[{', '.join(parts)}]"


def colour(value: ir.Value) -> str:
    """Amber where a value has something for every token, green where it is for one; weights of one query over all tokens are for one."""
    shape = shape_text(value).strip("[]").split(", ")
    if "S" not in shape or (shape[-1] == "S" and shape[-2] in ("1", str(HEADS))):
        return ONE_ROW
    return ALL_ROWS


def label(node: ir.Node) -> str:
    """The operator, and the shape of the weights that it reads."""
    weights = [value for value in node.inputs if value is not None and value.const_value is not None and len(value.shape or ()) > 1]
    return f"{node.op_type} {shape_text(weights[0])}" if weights and node.op_type in WORK else node.op_type


def edge(source: Box, target: Box) -> str:
    """A curve between two boxes; one that skips rows of its own column goes around them on the left."""
    if source.column == target.column and target.row > source.row + 1:
        x, y1, y2 = source.left, source.top + HEIGHT // 2, target.top + HEIGHT // 2
        return f"M{x} {y1} C{x - 48} {y1 + 40} {x - 48} {y2 - 40} {x} {y2}"
    x1, y1, x2, y2 = source.left + WIDTH // 2, source.top + HEIGHT, target.left + WIDTH // 2, target.top
    bend = (y2 - y1) // 2
    return f"M{x1} {y1} C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2}"


def svg(boxes: Sequence[Box], title: str) -> str:
    """The picture as SVG, readable on light and dark pages."""
    width = max(box.left for box in boxes) + WIDTH + MARGIN
    height = max(box.top for box in boxes) + HEIGHT + MARGIN
    at = {id(box.node): box for box in boxes}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        '<g font-family="Helvetica, Arial, sans-serif" font-size="13" text-anchor="middle">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{MARGIN}" y="{MARGIN + 8}" text-anchor="start" font-size="15" font-weight="bold">{html.escape(title)}</text>',
    ]
    for box in boxes:
        for value in box.node.inputs:
            source = at.get(id(value.producer())) if value is not None else None
            if source is not None:
                parts.append(f'<path d="{edge(source, box)}" fill="none" stroke="#7a7f87" stroke-width="1.2"/>')
    for box in boxes:
        output = box.node.outputs[0]
        weight = ' font-weight="bold"' if box.node.op_type in (*WORK, "Softmax") else ""
        centre = box.left + WIDTH // 2
        parts.append(
            f'<rect x="{box.left}" y="{box.top}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{colour(output)}" stroke="#8b9099"/>'
        )
        parts.append(f'<text x="{centre}" y="{box.top + 17}"{weight}>{html.escape(label(box.node))}</text>')
        parts.append(f'<text x="{centre}" y="{box.top + 33}" font-size="11.5" fill="#444">{html.escape(shape_text(output))}</text>')
    return "\n".join([*parts, "</g></svg>"]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the two pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent.parent / "docs" / "images")
    folder = parser.parse_args(argv).output
    folder.mkdir(parents=True, exist_ok=True)
    titles = {"before": "The last layer as traced", "after": "The last layer after the passes"}
    for (name, title), model in zip(titles.items(), graphs(), strict=True):
        path = folder / f"last_layer_{name}.svg"
        path.write_text(svg(placed(last_layer(model)), title), encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
