"""Checkpoints as people have them: saved from wrappers, with poolers and classifiers under names of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import checkpoints
import pytest
import torch
from checkpoints import HIDDEN
from torch import Tensor, nn

from cls_exporter import ExportConfig
from cls_exporter.checkpoint import Checkpoint, load_checkpoint
from cls_exporter.checkpoint.pooler import judge_pooler
from cls_exporter.errors import CheckpointError, UnsupportedError

TEXTS = ["the cat sat on a mat", "x", "hello, world"]


def run(checkpoint: Checkpoint) -> dict[str, Tensor]:
    batch = checkpoint.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        rows = checkpoint.model(**{name: batch[name] for name in checkpoint.inputs})
    return dict(zip(checkpoint.model.output_names, rows, strict=True))


def normal(*shape: int, std: float = 0.1, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * std


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A BertModel with a trained pooler."""
    return checkpoints.make_checkpoint(tmp_path / "encoder", "bert")


@pytest.fixture
def masked_lm(tmp_path: Path) -> Path:
    """A BertForMaskedLM, which has no pooler."""
    return checkpoints.make_checkpoint(tmp_path / "masked_lm", "bert", kind="masked_lm")


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> str:
    checkpoints.write_weights_of(folder, change(checkpoints.read_weights_of(folder)))
    return str(folder)


@pytest.mark.parametrize("prefix", ["model.", "encoder.", "module.", "bert.", "module.model.bert.", "model.encoder."])
def test_prefixes_are_stripped_and_named(encoder: Path, prefix: str) -> None:
    expected = run(load_checkpoint(str(encoder), config=ExportConfig(pooler=True)))
    wrapped = rewrite(encoder, lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()})
    checkpoint = load_checkpoint(wrapped, config=ExportConfig(pooler=True))
    outputs = run(checkpoint)
    assert all(torch.equal(outputs[name], expected[name]) for name in ("cls", "pooler"))
    assert f"the encoder's weights are stored under the prefix {prefix!r}" in checkpoint.notes


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_a_wrapper_with_a_pooler_beside_the_masked_lm_head(masked_lm: Path, prefix: str) -> None:
    weight, bias = normal(HIDDEN, HIDDEN), normal(HIDDEN, seed=2)
    inner = prefix + "model." if prefix else ""

    def wrap(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            **{inner + name: tensor for name, tensor in tensors.items()},
            f"{prefix}pooler.weight": weight,
            f"{prefix}pooler.bias": bias,
        }

    checkpoint = load_checkpoint(rewrite(masked_lm, wrap), config=ExportConfig(pooler=True))
    outputs = run(checkpoint)
    assert torch.allclose(outputs["pooler"], torch.tanh(outputs["cls"] @ weight.T + bias), atol=1e-6)
    assert checkpoint.pooler.state == "trained"
    assert "pooler.weight and pooler.bias were read as the pooler: a Linear with tanh on the CLS row" in checkpoint.notes
    assert "left out, parts of a training objective: predictions" in checkpoint.notes


def test_a_wrapper_gives_a_pooler_to_a_family_without_one(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", "distilbert", kind="masked_lm")
    weight, bias = normal(HIDDEN, HIDDEN), normal(HIDDEN, seed=2)
    rewrite(folder, lambda tensors: {**tensors, "pooler.weight": weight, "pooler.bias": bias})
    outputs = run(load_checkpoint(str(folder), config=ExportConfig(pooler=True)))
    assert torch.allclose(outputs["pooler"], torch.tanh(outputs["cls"] @ weight.T + bias), atol=1e-6)


@pytest.mark.parametrize("name", ["fc", "classifier", "head"])
@pytest.mark.parametrize("labels", [1, 4])
def test_a_wrapper_with_a_classifier_on_the_cls_row(masked_lm: Path, name: str, labels: int) -> None:
    weight, bias = normal(labels, HIDDEN), normal(labels, seed=2)
    wrapped = rewrite(
        masked_lm,
        lambda tensors: {**{f"model.{key}": item for key, item in tensors.items()}, f"{name}.weight": weight, f"{name}.bias": bias},
    )
    checkpoint = load_checkpoint(wrapped, config=ExportConfig(logits=True))
    outputs = run(checkpoint)
    assert torch.allclose(outputs["logits"], outputs["cls"] @ weight.T + bias, atol=1e-6)
    assert f"logits: {name}.weight was read as a Linear on the CLS row ({labels} outputs), without pooler" in checkpoint.notes
    without = load_checkpoint(wrapped)
    assert without.model.output_names == ("cls",)
    assert f"left out, not requested: {name}.bias, {name}.weight" in without.notes


def test_a_wrapper_with_pooler_and_classifier_gives_both(masked_lm: Path) -> None:
    parts = {"pooler.weight": normal(HIDDEN, HIDDEN), "pooler.bias": normal(HIDDEN), "fc.weight": normal(3, HIDDEN)}
    checkpoint = load_checkpoint(rewrite(masked_lm, lambda tensors: {**tensors, **parts}), config=ExportConfig(pooler=True, logits=True))
    outputs = run(checkpoint)
    assert list(outputs) == ["cls", "pooler", "logits"]
    assert torch.allclose(outputs["logits"], outputs["cls"] @ parts["fc.weight"].T, atol=1e-6)


def test_a_classifier_that_may_read_pooler_or_row_is_not_guessed(encoder: Path) -> None:
    rewrite(encoder, lambda tensors: {**tensors, "classifier.weight": normal(2, HIDDEN), "classifier.bias": normal(2)})
    with pytest.raises(CheckpointError, match=r"classifier.weight may read the pooler .* or the CLS row .*config.json says BertModel"):
        load_checkpoint(str(encoder), config=ExportConfig(logits=True))


def test_logits_without_a_classifier_are_refused(masked_lm: Path) -> None:
    with pytest.raises(CheckpointError, match="--logits needs a sequence classifier, but the checkpoint has no weights of one"):
        load_checkpoint(str(masked_lm), config=ExportConfig(logits=True))
    checkpoints.edit_json(masked_lm / "config.json", {"architectures": ["BertForSequenceClassification"]})
    with pytest.raises(CheckpointError, match="says BertForSequenceClassification but the weights lack its classifier"):
        load_checkpoint(str(masked_lm), config=ExportConfig(logits=True))


def test_two_classifiers_are_refused(masked_lm: Path) -> None:
    rewrite(masked_lm, lambda tensors: {**tensors, "fc.weight": normal(2, HIDDEN), "head.weight": normal(2, HIDDEN)})
    with pytest.raises(CheckpointError, match=r"several classifiers \(fc, head\)"):
        load_checkpoint(str(masked_lm), config=ExportConfig(logits=True))


def test_a_token_classifier_gives_no_logits(masked_lm: Path) -> None:
    rewrite(masked_lm, lambda tensors: {**tensors, "classifier.weight": normal(2, HIDDEN), "classifier.bias": normal(2)})
    checkpoints.edit_json(masked_lm / "config.json", {"architectures": ["BertForTokenClassification"]})
    with pytest.raises(UnsupportedError, match="BertForTokenClassification, whose classifier is not one of whole sequences"):
        load_checkpoint(str(masked_lm), config=ExportConfig(logits=True))


def test_labels_come_from_the_configuration_and_must_fit(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", kind="classifier", labels=3)
    checkpoints.edit_json(folder / "config.json", {"id2label": {"0": "no", "1": "maybe", "2": "yes"}})
    assert load_checkpoint(str(folder), config=ExportConfig(logits=True)).labels == ("no", "maybe", "yes")
    checkpoints.edit_json(folder / "config.json", {"id2label": {"0": "no", "1": "yes"}})
    with pytest.raises(CheckpointError, match=r"has 3 outputs but id2label in config.json names 2"):
        load_checkpoint(str(folder), config=ExportConfig(logits=True))
    checkpoints.edit_json(folder / "config.json", {"id2label": {"0": "no", "1": "1", "2": 1}})
    with pytest.raises(CheckpointError, match=r"gives outputs 1 and 2 one name, 1; their logits could not be told apart"):
        load_checkpoint(str(folder), config=ExportConfig(logits=True))
    assert load_checkpoint(str(folder)).labels == ()


def test_a_classifier_of_another_width_is_refused(masked_lm: Path) -> None:
    rewrite(masked_lm, lambda tensors: {**tensors, "fc.weight": normal(2, 2 * HIDDEN), "fc.bias": normal(2)})
    with pytest.raises(CheckpointError, match=re.escape(f"fc.weight is [2, {2 * HIDDEN}]")):
        load_checkpoint(str(masked_lm), config=ExportConfig(logits=True))


def test_pretraining_checkpoint(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", kind="pretraining")
    checkpoint = load_checkpoint(str(folder), config=ExportConfig(pooler=True))
    assert "left out, parts of a training objective: predictions, seq_relationship" in checkpoint.notes
    assert list(run(checkpoint)) == ["cls", "pooler"]


def test_gamma_and_beta_are_weight_and_bias(encoder: Path) -> None:
    expected = run(load_checkpoint(str(encoder)))["cls"]

    def age(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        return {re.sub("LayerNorm.(weight|bias)$", lambda match: old[match.group()], name): item for name, item in tensors.items()}

    checkpoint = load_checkpoint(rewrite(encoder, age))
    assert torch.equal(run(checkpoint)["cls"], expected)
    assert any("gamma and beta" in note for note in checkpoint.notes)


@pytest.mark.parametrize(
    ("inner", "wrapped"),
    [
        ("^", "_orig_mod."),
        ("^", "module._orig_mod."),
        (r"(?<=encoder\.layer\.\d\.)", "_checkpoint_wrapped_module."),
        (r"(?<=encoder\.layer\.\d\.)", "_fsdp_wrapped_module._checkpoint_wrapped_module."),
        (r"^|(?<=encoder\.layer\.\d\.)", "_fsdp_wrapped_module."),
    ],
)
def test_names_that_pytorch_puts_into_names(encoder: Path, inner: str, wrapped: str) -> None:
    expected = run(load_checkpoint(str(encoder)))["cls"]
    checkpoint = load_checkpoint(rewrite(encoder, lambda tensors: {re.sub(inner, wrapped, name): item for name, item in tensors.items()}))
    assert torch.equal(run(checkpoint)["cls"], expected)
    assert "prefixes that training programs add to names were removed" in checkpoint.notes


@pytest.mark.parametrize("other", ["_orig_mod.embeddings.LayerNorm.weight", "embeddings.LayerNorm.gamma"])
def test_a_weight_under_two_names_is_refused(encoder: Path, other: str) -> None:
    rewrite(encoder, lambda tensors: {**tensors, other: normal(HIDDEN)})
    with pytest.raises(CheckpointError, match=r"hold embeddings.LayerNorm.weight twice \(one is "):
        load_checkpoint(str(encoder))


def test_buffers_of_old_versions_are_left_out(encoder: Path) -> None:
    rewrite(encoder, lambda tensors: {**tensors, "embeddings.position_ids": torch.arange(64)[None]})
    notes = load_checkpoint(str(encoder)).notes
    assert "left out, constants that the model computes itself: embeddings.position_ids" in notes


DECODERS = {
    **dict.fromkeys(("bert", "ernie", "roformer", "deberta-v2"), "cls.predictions.decoder"),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "mpnet"), "lm_head.decoder"),
    "distilbert": "vocab_projector",
    "electra": "generator_lm_head",
    "albert": "predictions.decoder",
    "modernbert": "decoder",
}


@pytest.mark.parametrize("model_type", checkpoints.families(always=("bert", "electra", "modernbert")))
def test_word_embeddings_stored_as_the_tied_decoder_only(model_type: str, tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", model_type, kind="masked_lm")
    expected = run(load_checkpoint(str(folder)))["cls"]
    decoder = f"{DECODERS[model_type]}.weight"

    def keep_the_decoder(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        words = next(name for name in tensors if name.endswith(("word_embeddings.weight", "tok_embeddings.weight")))
        return {**{name: tensor for name, tensor in tensors.items() if name != words}, decoder: tensors[words]}

    checkpoint = load_checkpoint(rewrite(folder, keep_the_decoder))
    assert torch.equal(run(checkpoint)["cls"], expected)
    assert any(f"is stored as {decoder}, which config.json ties it to" in note for note in checkpoint.notes)
    checkpoints.edit_json(folder / "config.json", {"tie_word_embeddings": False})
    with pytest.raises(CheckpointError, match=r"lack 1 of the encoder's [0-9]+ tensors: embeddings.\w+.weight"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("counter", [torch.tensor(7), torch.tensor([7], dtype=torch.int32), torch.tensor(True)], ids=repr)
def test_counters_are_no_weights(encoder: Path, counter: Tensor) -> None:
    rewrite(encoder, lambda tensors: {**tensors, "norm.num_batches_tracked": counter})
    assert "left out, counters of the training: norm.num_batches_tracked" in load_checkpoint(str(encoder)).notes


@pytest.mark.parametrize("beside", [torch.tensor(0.07), torch.tensor([1, 2])], ids=repr)
def test_what_is_no_counter_needs_a_place(encoder: Path, beside: Tensor) -> None:
    rewrite(encoder, lambda tensors: {**tensors, "logit_scale": beside})
    with pytest.raises(CheckpointError, match=r"no place in this architecture: logit_scale"):
        load_checkpoint(str(encoder))


@pytest.mark.parametrize("base", [".base_layer", ""])
@pytest.mark.parametrize("part", ["lora_A", "lora_B.default", "lora_embedding_A"])
def test_a_leftover_adapter_is_named(encoder: Path, part: str, base: str) -> None:
    query = "encoder.layer.0.attention.self.query"

    def adapt(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        moved = {name.replace(query, query + base): tensor for name, tensor in tensors.items()}
        return {**{f"base_model.model.{name}": tensor for name, tensor in moved.items()}, f"{query}.{part}.weight": normal(4, HIDDEN)}

    with pytest.raises(UnsupportedError, match=r"of an adapter \(LoRA\) that was not merged: .*merge_and_unload\(\)"):
        load_checkpoint(rewrite(encoder, adapt))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("name", ["encoder.layer.0.attention.self.query.weight", "pooler.dense.weight", "classifier.weight"])
def test_weights_that_are_no_floats_are_refused_by_name(name: str, dtype: torch.dtype, encoder: Path) -> None:
    def store(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors = {**tensors, "classifier.weight": normal(2, HIDDEN), "classifier.bias": normal(2)}
        return {key: item.to(dtype) if key == name else item for key, item in tensors.items()}

    checkpoints.edit_json(encoder / "config.json", {"architectures": ["BertForSequenceClassification"]})
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(UnsupportedError, match=f"the weight '{re.escape(name)}' is {kind}; supported are float32"):
        load_checkpoint(rewrite(encoder, store), config=ExportConfig(logits=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "auto", None])
def test_half_precision_weights_are_computed_in_fp32(encoder: Path, dtype: str | None) -> None:
    rewrite(encoder, lambda tensors: {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()})
    checkpoints.edit_json(encoder / "config.json", {"torch_dtype": dtype, "dtype": dtype})
    checkpoint = load_checkpoint(str(encoder), config=ExportConfig(pooler=True))
    assert {parameter.dtype for parameter in checkpoint.model.parameters()} == {torch.float32}
    assert run(checkpoint)["cls"].dtype == torch.float32


def test_tensors_without_a_place_are_listed(encoder: Path) -> None:
    rewrite(encoder, lambda tensors: {**tensors, "adapter.down.weight": normal(4, HIDDEN), "adapter.up.weight": normal(HIDDEN, 4)})
    with pytest.raises(CheckpointError, match=r"2 tensors that have no place .*: adapter.down.weight, adapter.up.weight; "):
        load_checkpoint(str(encoder))


def test_a_missing_encoder_weight_is_named(encoder: Path) -> None:
    name = "encoder.layer.1.attention.self.query.weight"
    rewrite(encoder, lambda tensors: {key: item for key, item in tensors.items() if key != name})
    with pytest.raises(CheckpointError, match=f"lack 1 of the encoder's [0-9]+ tensors: {re.escape(name)}"):
        load_checkpoint(str(encoder))


def test_an_extra_layer_is_not_dropped(encoder: Path) -> None:
    checkpoints.edit_json(encoder / "config.json", {"num_hidden_layers": 1})
    with pytest.raises(CheckpointError, match=r"no place in this architecture: encoder.layer.1.attention"):
        load_checkpoint(str(encoder))


def test_two_encoders_are_refused(encoder: Path) -> None:
    rewrite(encoder, lambda tensors: {prefix + name: item for name, item in tensors.items() for prefix in ("query.", "passage.")})
    with pytest.raises(CheckpointError, match=r"hold 2 encoders, under the prefixes 'passage.', 'query.'"):
        load_checkpoint(str(encoder))


def test_weights_of_another_size_are_refused(encoder: Path) -> None:
    checkpoints.edit_json(encoder / "config.json", {"intermediate_size": 64})
    with pytest.raises(CheckpointError, match=r"intermediate.dense.weight is \[48, 32\] but config.json makes it \[64, 32\]"):
        load_checkpoint(str(encoder))


def test_no_pooler_weights(masked_lm: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no pooler weights .*random ones at each load") as caught:
        load_checkpoint(str(masked_lm), config=ExportConfig(pooler=True))
    assert caught.value.exit_code == 2
    assert load_checkpoint(str(masked_lm)).pooler.state == "absent"


def test_half_a_pooler_and_two_poolers_are_refused(encoder: Path) -> None:
    rewrite(encoder, lambda tensors: {key: item for key, item in tensors.items() if key != "pooler.dense.bias"})
    with pytest.raises(CheckpointError, match=r"the pooler lacks pooler.dense.bias"):
        load_checkpoint(str(encoder))
    rewrite(encoder, lambda tensors: {**tensors, "pooler.weight": normal(HIDDEN, HIDDEN), "pooler.bias": normal(HIDDEN)})
    with pytest.raises(CheckpointError, match=r"two poolers, pooler.dense.weight and pooler.weight"):
        load_checkpoint(str(encoder))


def test_a_pooler_of_another_width_is_refused(masked_lm: Path) -> None:
    rewrite(masked_lm, lambda tensors: {**tensors, "pooler.weight": normal(16, HIDDEN), "pooler.bias": normal(16)})
    with pytest.raises(CheckpointError, match=r"pooler.weight is \[16, 32\] and its bias \[16\]; expected \[32, 32\]"):
        load_checkpoint(str(masked_lm), config=ExportConfig(pooler=True))


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta", "camembert", "mpnet", "albert", "ernie"])
def test_an_untrained_pooler_needs_permission(model_type: str, tmp_path: Path) -> None:
    folder = str(checkpoints.make_checkpoint(tmp_path / "model", model_type, trained=False))
    with pytest.raises(CheckpointError, match=r"never trained \(weight std 0.0[12].*bias exactly zero.*--allow-untrained-pooler"):
        load_checkpoint(folder, config=ExportConfig(pooler=True))
    assert load_checkpoint(folder).pooler.state == "untrained"
    allowed = load_checkpoint(folder, config=ExportConfig(pooler=True, allow_untrained_pooler=True))
    assert allowed.pooler.state == "untrained"
    assert "initializer_range 0.02" in allowed.pooler.evidence
    assert list(run(allowed)) == ["cls", "pooler"]


@pytest.mark.parametrize("hidden", [32, 128, 384])
@pytest.mark.parametrize("seed", range(20))
def test_every_freshly_initialized_pooler_is_seen(hidden: int, seed: int) -> None:
    drawn = normal(hidden, hidden, std=0.02, seed=seed)
    assert judge_pooler(drawn, torch.zeros(hidden), initializer_range=0.02).state == "untrained"
    assert judge_pooler(drawn.half().float(), torch.zeros(hidden), initializer_range=0.02).state == "untrained"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        bare = nn.Linear(hidden, hidden)
    assert judge_pooler(bare.weight.detach(), bare.bias.detach(), initializer_range=0.02).state == "untrained"


def test_signs_of_training() -> None:
    drawn = normal(384, 384, std=0.02)
    zero = torch.zeros(384)
    one_moved = zero.clone()
    one_moved[7] = 1e-9
    assert judge_pooler(drawn, one_moved, initializer_range=0.02).state == "trained"
    assert judge_pooler(drawn * 1.2, zero, initializer_range=0.02).state == "trained"
    assert judge_pooler(drawn + 0.001, zero, initializer_range=0.02).state == "trained"
    heavy_tailed = drawn * (1 + (normal(384, 384, std=1, seed=3) > 2) * 3)
    assert judge_pooler(heavy_tailed * 0.02 / heavy_tailed.std(), zero, initializer_range=0.02).state == "trained"


def test_the_real_pooler_counts_as_trained(minilm: Path) -> None:
    checkpoint = load_checkpoint(str(minilm), config=ExportConfig(pooler=True, allow_pooling_mismatch=True))
    assert checkpoint.pooler.state == "trained"
    assert "not as initialized" in checkpoint.pooler.evidence
    assert any(note.startswith("check that the pooler was trained: ") for note in checkpoint.notes)
