"""Families with settings that few checkpoints have: traced, compiled and made fp16, at PyTorch's vectors, with every kernel on a GPU.

Of those that a family's graph is known for otherwise (`graph.families`), a few run always and all of them with the slow tests. Activations
are PyTorch's, so each kind that transformers has is tried with the newest transformers alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoints
import graphs
import numpy as np
import pytest
import torch
import transformers

from cls_exporter.checkpoint import Checkpoint, load_checkpoint
from cls_exporter.graph.families import FAMILIES, form_of
from cls_exporter.graph.pipeline import compile_graph
from cls_exporter.graph.trace import trace
from cls_exporter.variants.cuda_kernels import without_cuda_kernel
from cls_exporter.variants.fp16 import build_fp16

TEXTS = ["the cat sat on a mat", "x", "fast dog runs: hello, world 42!", "model " * 40]


@dataclass(frozen=True)
class Case:
    """A family with settings; `note` is what the report says of its speed, `slow` of the test."""

    model_type: str
    changes: dict[str, Any]
    note: str | None = None
    slow: bool = True

    @property
    def parameter(self) -> Any:
        name = f"{self.model_type} {json.dumps(self.changes)}"
        return pytest.param(self, id=name, marks=[pytest.mark.slow] if self.slow else [])


IS_NEWEST = transformers.__version__ >= "5"
CASES = [
    Case("albert", {"inner_group_num": 2}, slow=False),
    Case("albert", {"inner_group_num": 2, "num_hidden_groups": 2, "num_hidden_layers": 4}),
    Case("roformer", {"rotary_value": True}, note="with rotary_value the last layer's values are rotated", slow=False),
    Case("deberta-v2", {"conv_kernel_size": 3, "num_hidden_layers": 1, "conv_act": "mish"}, slow=False),
    Case("deberta-v2", {"conv_kernel_size": 3, "conv_groups": 2}),
    Case("deberta-v2", {"relative_attention": False, "position_biased_input": True, "pos_att_type": None}),
    Case("deberta-v2", {"pos_att_type": "c2p"}),
    Case("deberta-v2", {"share_att_key": False, "norm_rel_ebd": "none", "position_buckets": -1, "type_vocab_size": 2}),
    Case("deberta-v2", {"embedding_size": 16}),
    Case("distilbert", {"sinusoidal_pos_embds": True}),
    Case("electra", {"embedding_size": 32}),
    Case("ernie", {"use_task_id": True}),
    Case("modernbert", {"num_hidden_layers": 1}),
    Case("modernbert", {"global_attn_every_n_layers": 2, "local_attention": 1000}),
    Case("modernbert", {"attention_bias": True, "mlp_bias": True, "norm_bias": True}),
    Case("mpnet", {"relative_attention_num_buckets": 64}),
    Case("roformer", {"embedding_size": 16}),
    Case("bert", {"hidden_act": "prelu", "num_hidden_layers": 1}, slow=False),
]
# One of each kind: the others of ACT2FN trace to the same operators as one of these, or as gelu and relu, which families have anyway.
KINDS = (
    "gelu_10",
    "gelu_accurate",
    "hardswish",
    "laplace",
    "leaky_relu",
    "mish",
    "relu2",
    "relu6",
    "silu",
    "sqrtsoftplus",
    "tanh",
    "xielu",
)
ACTIVATIONS = [
    *(Case("bert", {"hidden_act": name, "num_hidden_layers": 1}) for name in KINDS),
    *(Case("modernbert", {"hidden_activation": name, "num_hidden_layers": 1}) for name in ("prelu", "mish")),
    *(Case("distilbert", {"activation": name, "num_hidden_layers": 1}) for name in ("prelu", "mish")),
    *(Case("deberta-v2", {"hidden_act": name, "num_hidden_layers": 1}) for name in ("prelu", "mish")),
]


@pytest.mark.parametrize("case", [case.parameter for case in (*CASES, *(ACTIVATIONS if IS_NEWEST else ()))])
def test_the_vectors_are_pytorchs(case: Case, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(checkpoints.make_checkpoint(tmp_path / "model", case.model_type, changes=case.changes)))
    compiled = compile_graph(trace(checkpoint), form=form_of(checkpoint), layout="standard")
    assert all(case.note is not None and case.note in note for note in compiled.notes)
    assert bool(compiled.notes) == (case.note is not None)
    half = build_fp16(compiled.model, checkpoint=checkpoint, texts=TEXTS)
    assert half.notes == ()
    assert without_cuda_kernel(half.model) == []
    feed, expected = batch_of(checkpoint)
    for model, tolerance in ((compiled.model, 1e-5), (half.model, 2e-2)):
        np.testing.assert_allclose(graphs.run(model, feed)["sentence_embedding"], expected, rtol=0, atol=tolerance)


def batch_of(checkpoint: Checkpoint) -> tuple[dict[str, graphs.Array], graphs.Array]:
    """The graph's inputs for a padded batch, and PyTorch's vectors of it."""
    batch = checkpoint.tokenizer(TEXTS, padding=True, truncation=True, max_length=checkpoint.max_length, return_tensors="pt")
    with torch.inference_mode():
        rows = checkpoint.model(*(batch[name] for name in checkpoint.inputs))[0]
    return {name: batch[name].numpy() for name in checkpoint.inputs}, rows.numpy()


@pytest.mark.parametrize(
    ("model_type", "changes", "layers", "products", "unusual"),
    [
        ("bert", {}, 2, 2, ()),
        ("bert", {"hidden_act": "laplace"}, 2, 2, ("hidden_act 'laplace'",)),
        ("albert", {"num_hidden_layers": 4, "inner_group_num": 2}, 8, 2, ("inner_group_num 2",)),
        ("roformer", {}, 2, 1, ()),
        ("roformer", {"rotary_value": True}, 2, 0, ("rotary_value True",)),
        ("deberta-v2", {"relative_attention": False}, 2, 0, ("relative_attention False",)),
        ("modernbert", {}, 3, 1, ()),
    ],
)
def test_a_checkpoints_form_follows_its_settings(
    model_type: str, changes: dict[str, Any], layers: int, products: int, unusual: tuple[str, ...]
) -> None:
    form = FAMILIES[model_type].form(checkpoints.small_config(model_type, changes=changes))
    assert (form.layers, form.reassociated_products, form.unusual) == (layers, products, unusual)


def test_code_of_the_checkpoints_own_is_unusual() -> None:
    form = FAMILIES["bert"].form(checkpoints.small_config("bert"), runs_code=True)
    assert "the cause is the checkpoint's own code" in form.missed("nothing was found")


@pytest.mark.parametrize("model_type", checkpoints.all_families())
def test_the_families_own_settings_are_usual(model_type: str) -> None:
    assert FAMILIES[model_type].form(checkpoints.small_config(model_type)).unusual == ()
