"""Every family's checkpoint as a native model gives PyTorch's vectors; what the kernels do not compute has a reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import HIDDEN, add_sentence_modules, edit_json, make_checkpoint
from safetensors.torch import save_file
from torch import nn

from cls_exporter.checkpoint import Checkpoint, load_checkpoint
from cls_exporter.checkpoint.reference import checkpoint_token_ids, checkpoint_vectors
from cls_exporter.config import ExportConfig
from cls_exporter.gate.prompted_batch import token_batch
from cls_exporter.native import NotNativeError, check_follows, float_model
from cls_exporter.native.families import FAMILIES
from cls_runtime.bundle.token_sample import sampled_positions
from cls_runtime.bundle.variant import GRAPH_OUTPUTS
from cls_runtime.engines.base import Float32
from cls_runtime.engines.native import sizes, weights_file
from cls_runtime.engines.native.reference import ReferenceEngine
from cls_runtime.engines.native.weights import NativeModel

TEXTS = ("the cat sat on the mat", "hello", "", "a dog runs fast on the mat of text " * 9, "world model vector [PAD] of <pad> text")
TOLERANCE = 5e-5  # of the contract; measured below 2e-6
CASES: Mapping[str, dict[str, Any]] = {
    "cls": {},
    "mean": {"pooling": "mean", "allow_pooling_mismatch": True},
    "tokens": {"tokens": True},
    "pooler": {"pooler": True, "allow_untrained_pooler": True},
}


def loaded(folder: Path, case: Mapping[str, Any]) -> Checkpoint:
    return load_checkpoint(str(folder), config=ExportConfig(**case))


def native_vectors(model: NativeModel, checkpoint: Checkpoint, folder: Path) -> dict[str, Float32]:
    """Through the file, all texts in one batch."""
    path = folder / "weights.safetensors"
    weights_file.write(model, path)
    batch = token_batch(checkpoint_token_ids(checkpoint, TEXTS))
    names = checkpoint.model.output_names
    outputs = ReferenceEngine(weights_file.read(path)).run(batch, [GRAPH_OUTPUTS[name] for name in names])
    rows: dict[str, Float32] = dict(zip(names, outputs, strict=True))
    if "tokens" in rows:
        parts = np.split(rows["tokens"], batch.offsets[1:-1])
        rows["tokens"] = np.concatenate([part[sampled_positions(len(part))] for part in parts])
    return rows


def largest_difference(checkpoint: Checkpoint, model: NativeModel, folder: Path) -> float:
    expected = checkpoint_vectors(checkpoint, TEXTS)
    found = native_vectors(model, checkpoint, folder)
    assert found.keys() == expected.keys()
    return max(float(np.abs(found[name] - rows).max()) for name, rows in expected.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_vectors_of_pytorch(tmp_path: Path, family: str) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", family)
    for name, case in CASES.items():
        if name == "pooler" and family in ("distilbert", "electra", "roformer", "modernbert"):
            continue  # they have none
        checkpoint = loaded(folder, case)
        model = float_model(checkpoint)
        assert (model.layers[-1].one_row is not None) == (name in ("cls", "pooler") and family not in ("roformer", "modernbert"))
        assert largest_difference(checkpoint, model, tmp_path) < TOLERANCE, name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_logits_of_pytorch(tmp_path: Path, family: str) -> None:
    changes = {"classifier_pooling": "cls"} if family == "modernbert" else None
    folder = make_checkpoint(tmp_path / "checkpoint", family, kind="classifier", labels=3, changes=changes)
    checkpoint = loaded(folder, {"logits": True})
    model = float_model(checkpoint)
    assert model.widths["logits"] == 3
    assert largest_difference(checkpoint, model, tmp_path) < TOLERANCE


SETTINGS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "heads of ten numbers": ("bert", {"hidden_size": 40, "num_attention_heads": 4, "intermediate_size": 72}),
    "rotated heads of six numbers": ("roformer", {"hidden_size": 24, "num_attention_heads": 4, "embedding_size": 20}),
    "one layer": ("bert", {"num_hidden_layers": 1}),
    "the tanh GELU": ("bert", {"hidden_act": "gelu_new"}),
    "relu": ("distilbert", {"activation": "relu"}),
    "silu, gated": ("modernbert", {"hidden_activation": "silu", "classifier_pooling": "cls"}),
    "biases, gated": ("modernbert", {"attention_bias": True, "mlp_bias": True, "norm_bias": True}),
    "tasks": ("ernie", {"use_task_id": True, "task_type_vocab_size": 3}),
    "two groups of layers": ("albert", {"num_hidden_layers": 4, "num_hidden_groups": 2}),
    "two layers within": ("albert", {"num_hidden_layers": 2, "inner_group_num": 2}),
    "embeddings as wide as the layers": ("electra", {"embedding_size": HIDDEN}),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_settings_of_a_family_are_followed(tmp_path: Path, name: str, pooling: str) -> None:
    family, changes = SETTINGS[name]
    folder = make_checkpoint(tmp_path / "checkpoint", family, changes=changes)
    checkpoint = loaded(folder, {"pooling": pooling, "allow_pooling_mismatch": True})
    assert largest_difference(checkpoint, float_model(checkpoint), tmp_path) < TOLERANCE


def test_shared_layers_are_one(tmp_path: Path) -> None:
    checkpoint = loaded(make_checkpoint(tmp_path / "checkpoint", "albert", changes={"num_hidden_layers": 3}), {"tokens": True})
    first, *others = float_model(checkpoint).layers
    assert len(others) == 2
    assert all(layer is first for layer in others)


def test_dense_modules_make_the_sentence(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint")
    dense = {"in_features": HIDDEN, "out_features": 20, "bias": True, "activation_function": "torch.nn.modules.activation.Sigmoid"}
    add_sentence_modules(folder, pooling={"pooling_mode_mean_tokens": True}, modules=[("Dense", "2_Dense")])
    edit_json(folder / "2_Dense" / "config.json", dense)
    linear = nn.Linear(HIDDEN, 20)
    save_file({f"linear.{name}": value.detach() for name, value in linear.state_dict().items()}, folder / "2_Dense" / "model.safetensors")
    checkpoint = loaded(folder, {})
    model = float_model(checkpoint)
    assert model.widths["sentence"] == 20
    assert largest_difference(checkpoint, model, tmp_path) < TOLERANCE


REASONS: Mapping[str, tuple[str, dict[str, Any], str]] = {
    "disentangled attention": ("deberta-v2", {}, "layers of deberta-v2"),
    "an activation": ("bert", {"hidden_act": "quick_gelu"}, "QuickGELUActivation"),
    "rotated values": ("roformer", {"rotary_value": True}, "rotary_value"),
    "a window of one token": ("modernbert", {"local_attention": 1}, "local_attention 1"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_the_kernels_do_not_compute_has_a_reason(tmp_path: Path, name: str) -> None:
    family, changes, reason = REASONS[name]
    checkpoint = loaded(make_checkpoint(tmp_path / "checkpoint", family, changes=changes), {})
    with pytest.raises(NotNativeError, match=reason):
        float_model(checkpoint)


def test_sizes_beyond_the_kernels_are_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = loaded(make_checkpoint(tmp_path / "checkpoint"), {})
    monkeypatch.setattr(sizes, "MAX_LENGTH", checkpoint.max_length - 1)
    with pytest.raises(NotNativeError, match=r"a model of these sizes \(max_length is "):
        float_model(checkpoint)


def test_code_of_the_checkpoints_own_is_a_reason(tmp_path: Path) -> None:
    checkpoint = loaded(make_checkpoint(tmp_path / "checkpoint"), {})
    assert isinstance(checkpoint.stored_config, dict)
    checkpoint.stored_config["auto_map"] = {"AutoModel": "modeling.Model"}
    with pytest.raises(NotNativeError, match="own"):
        float_model(checkpoint)


def test_a_model_that_was_read_wrongly_is_not_followed(tmp_path: Path) -> None:
    checkpoint = loaded(make_checkpoint(tmp_path / "checkpoint"), {})
    model = float_model(checkpoint)
    check_follows(model, checkpoint, TEXTS)
    encoder: Any = checkpoint.model.encoder
    encoder.encoder.layer[1].output.dense.bias.data[3] += 0.1
    with pytest.raises(NotNativeError, match="sentence would have"):
        check_follows(model, checkpoint, TEXTS)
