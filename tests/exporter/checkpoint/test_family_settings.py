"""Settings of single families that end an export before anything is traced, and a model that PyTorch cannot compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from checkpoints import edit_json
from refusals import refusal_of
from torch import nn

from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.checkpoint.configuration import read_configuration
from cls_exporter.checkpoint.family_settings import check_family_settings
from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.modernbert_words import in_older_words
from cls_exporter.checkpoint.trial import check_computes, example_inputs
from cls_exporter.errors import CheckpointError, UnsupportedError


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        *((family, {"type_vocab_size": 0}, "type_vocab_size 0") for family in ("bert", "roberta", "electra", "albert", "roformer")),
        ("ernie", {"use_task_id": True, "task_type_vocab_size": 0}, "task_type_vocab_size 0"),
        ("mpnet", {"relative_attention_num_buckets": 8}, "relative_attention_num_buckets 8; transformers computes 32"),
        ("deberta-v2", {"conv_kernel_size": 2}, "conv_kernel_size 2; expected an odd one"),
        ("modernbert", {"hidden_size": 36}, "expected heads of an even size"),
        ("roformer", {"num_attention_heads": 32}, "expected heads of an even size"),
        ("roberta", {"add_cross_attention": True}, "add_cross_attention, which is a decoder's"),
        (
            "modernbert",
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "the rope_type 'dynamic', with other angles for longer texts",
        ),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "longrope"}}}, "the rope_type 'longrope'"),
        ("modernbert", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "transformers 5 passes over"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_setting_with_which_there_is_no_graph(model_type: str, changes: dict[str, Any], message: str) -> None:
    rotations = ("rope_scaling", "rope_parameters")  # read as they are stored
    config = checkpoints.small_config(model_type, changes={name: value for name, value in changes.items() if name not in rotations})
    with pytest.raises((CheckpointError, UnsupportedError), match=message) as caught:
        check_family_settings(config, {"model_type": model_type, **changes}, name="model")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        *((family, {}) for family in checkpoints.all_families()),
        ("ernie", {"task_type_vocab_size": 0}),
        ("deberta-v2", {"conv_kernel_size": 3}),
        ("mpnet", {"relative_attention_num_buckets": 64}),
        ("modernbert", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    ],
)
def test_other_settings_are_taken(model_type: str, changes: dict[str, Any]) -> None:
    config = checkpoints.small_config(model_type, changes={name: value for name, value in changes.items() if name != "rope_scaling"})
    check_family_settings(config, {"model_type": model_type, **changes}, name="model")


def test_loading_asks(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", "mpnet")
    edit_json(folder / "config.json", {"relative_attention_num_buckets": 31})
    assert "relative_attention_num_buckets 31" in refusal_of(folder)


NEWER = {
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 500.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 9.0},
    },
}
OLDER = {"global_attn_every_n_layers": 2, "global_rope_theta": 500.0, "local_rope_theta": 9.0}


def test_modernberts_words_of_either_major_are_followed(tmp_path: Path) -> None:
    """transformers 4 does not know the newer ones, and would compute another model without a word."""
    rows = []
    for name, words, others in (("newer", NEWER, OLDER), ("older", OLDER, NEWER)):
        folder = checkpoints.make_checkpoint(tmp_path / name, "modernbert")
        edit_json(folder / "config.json", words, remove=tuple(others))
        checkpoint = load_checkpoint(str(folder))
        with torch.inference_mode():
            rows.append(checkpoint.model(*example_inputs(checkpoint))[0])
    plain = load_checkpoint(str(checkpoints.make_checkpoint(tmp_path / "plain", "modernbert")))
    with torch.inference_mode():
        rows.append(plain.model(*example_inputs(plain))[0])
    assert torch.equal(rows[0], rows[1])
    assert not torch.allclose(rows[0], rows[2], atol=1e-3)


def test_modernberts_newer_words_replace_others(tmp_path: Path) -> None:
    """As sentence-transformers' settings may: transformers 4 would pass over them there too."""
    folder = checkpoints.make_checkpoint(tmp_path / "model", "modernbert")
    configuration = read_configuration(CheckpointFolder.of(folder), "model", trust_remote_code=False, changes=NEWER)
    older: Any = configuration.loaded
    if hasattr(older, "layer_types"):
        assert (older.layer_types, older.rope_parameters) == (NEWER["layer_types"], NEWER["rope_parameters"])
    else:
        assert {name: getattr(older, name) for name in OLDER} == OLDER


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["sliding_attention", "full_attention"]}, "layer_types"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "yarn"}}}, "for sliding_attention"),
    ],
)
def test_what_transformers_4_has_no_words_for_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=f"config.json of model has .*{message}.*; export with transformers 5"):
        in_older_words({**NEWER, **changes}, name="model")


def test_what_pytorch_cannot_compute_is_one_line(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(checkpoints.make_checkpoint(tmp_path / "model")))
    check_computes(checkpoint)
    with torch.no_grad():
        embeddings: Any = checkpoint.model.encoder.embeddings
        embeddings.token_type_embeddings = nn.Embedding(2, 7)
    with pytest.raises(CheckpointError, match=r"config.json of model describes a model that PyTorch cannot compute \(RuntimeError: .*\)"):
        check_computes(checkpoint)
