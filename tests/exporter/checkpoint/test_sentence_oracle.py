"""sentence-transformers folders against sentence-transformers: they give its tokens and vectors, or are refused by name."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkpoints
import pytest
import torch
from checkpoints import HIDDEN, MAX_POSITIONS, add_sentence_modules, edit_json

from cls_exporter import ExportConfig, export, exporting
from cls_exporter.checkpoint import Checkpoint, load_checkpoint, sentence_model
from cls_exporter.checkpoint.reference import checkpoint_token_ids, checkpoint_vectors
from cls_exporter.checkpoint.sentence_oracle import check_against_sentence_transformers
from cls_exporter.checkpoint.sentence_use import SentenceUse
from cls_exporter.errors import CheckpointError, UnsupportedError
from cls_runtime.bundle.manifest import Pooling

library = pytest.importorskip("sentence_transformers")

CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
ACTIVATIONS = "torch.nn.modules.activation"
TRANSFORMER, ROOT, POOLING = "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json"
TEXTS = ["The CAT sat, on a mat!", "a [SEP] b", "x", "hello world " * 60]
AGREES = f"sentence-transformers {library.__version__} gives the same tokens and vectors"


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """(family) -> a CLS model of it; the tokenizer takes 32 tokens and the model 64."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = checkpoints.make_checkpoint(tmp_path_factory.mktemp(family) / "model", family)
            add_sentence_modules(made[family], pooling=CLS)
            edit_json(made[family] / "tokenizer_config.json", {"model_max_length": 32})
        return made[family]

    return make


@pytest.fixture
def folder(families: Callable[[str], Path], tmp_path: Path) -> Path:
    return shutil.copytree(families("bert"), tmp_path / "model")


@pytest.fixture
def reranker(tmp_path: Path) -> Path:
    """A CrossEncoder's folder, with one label."""
    folder = checkpoints.make_checkpoint(tmp_path / "model", kind="classifier", labels=1)
    add_sentence_modules(folder, pooling=None)
    edit_json(folder / TRANSFORMER, {"transformer_task": "sequence-classification"})
    edit_json(folder / ROOT, {"model_type": "CrossEncoder"})
    return folder


def transformer(**entries: Any) -> dict[str, dict[str, Any]]:
    return {TRANSFORMER: entries}


def root(**entries: Any) -> dict[str, dict[str, Any]]:
    return {ROOT: entries}


TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
FOLLOWED: dict[str, Mapping[str, Mapping[str, Any]]] = {
    "nothing said": {},
    "max_seq_length null": transformer(max_seq_length=None),
    "max_seq_length below the tokenizer's": transformer(max_seq_length=24),
    "max_seq_length above the tokenizer's": transformer(max_seq_length=48),
    "model_max_length": transformer(tokenizer_args={"model_max_length": 12}),
    "model_max_length before max_seq_length": transformer(processor_kwargs={"model_max_length": 12}, max_seq_length=48),
    "the older name before the newer": transformer(processor_kwargs={"model_max_length": 14}, tokenizer_args={"model_max_length": 12}),
    "the older name, empty, before the newer": transformer(processor_kwargs={"model_max_length": 14}, tokenizer_args={}),
    "other arguments of the tokenizer": transformer(
        tokenizer_args={"use_fast": True, "padding_side": "left", "clean_up_tokenization_spaces": True, "trust_remote_code": True}
    ),
    "an argument that tokenizer_config.json has": transformer(tokenizer_args={"unk_token": "[UNK]"}),
    "a layer less": transformer(config_args={"num_hidden_layers": 1}),
    "another epsilon": transformer(config_kwargs={"layer_norm_eps": 0.5}),
    "another activation": transformer(config_kwargs={"hidden_act": "relu", "output_hidden_states": True}),
    "the older name of config_kwargs first": transformer(config_kwargs={"hidden_act": "tanh"}, config_args={"hidden_act": "relu"}),
    "no decoder": transformer(config_kwargs={"is_decoder": False}),
    "how weights are stored": transformer(model_args={"torch_dtype": "float16", "attn_implementation": "flash_attention_2"}),
    "how weights are stored, the newer names": transformer(model_kwargs={"dtype": "bfloat16", "device_map": "auto"}),
    "arguments that sentence-transformers replaces": transformer(model_kwargs={"trust_remote_code": True, "revision": "abc", "token": "t"}),
    "empty arguments": transformer(model_args={}, tokenizer_args={}, config_args={}, processing_kwargs={}),
    "do_lower_case of a tokenizer that does": transformer(do_lower_case=True),
    "do_lower_case null": transformer(do_lower_case=None),
    "the newer schema": {
        **transformer(transformer_task="feature-extraction", modality_config=TEXT_ONLY, module_output_name="token_embeddings"),
        **root(model_type="SentenceTransformer", similarity_fn_name="cosine", prompts={"query": "", "document": ""}),
        POOLING: {"pooling_mode": "cls"},
    },
    "prompts": root(prompts={"query": "query: "}, default_prompt_name=None),
    "a default prompt": root(prompts={"query": "query: ", "passage": "the "}, default_prompt_name="passage"),
    "a default prompt without a text": root(prompts={"passage": "the ", "other": None}, default_prompt_name="document"),
    "cut vectors": root(truncate_dim=8),
    "vectors that are cut to more than they have": root(truncate_dim=8 * HIDDEN),
    "mean": {POOLING: MEAN},
    "mean of the newer schema": {POOLING: {"pooling_mode": "mean"}},
    "mean without the prompt": {POOLING: {**MEAN, "include_prompt": False}, **root(prompts={"a": "the cat "}, default_prompt_name="a")},
    "CLS without the prompt": {POOLING: {"include_prompt": False}, **root(prompts={"a": "the cat "}, default_prompt_name="a")},
    "another similarity": root(similarity_fn_name="dot"),
}
REFUSED: dict[str, tuple[Mapping[str, Mapping[str, Any]], str]] = {
    "true": (transformer(max_seq_length=True), "max_seq_length True; expected a positive integer"),
    "a limit of a half": (transformer(tokenizer_args={"model_max_length": 12.5}), "model_max_length 12.5; expected a positive integer"),
    "no limit at all": (transformer(tokenizer_args={"model_max_length": None}), "model_max_length None; expected a positive integer"),
    "special tokens cut": (transformer(tokenizer_args={"split_special_tokens": True}), "split_special_tokens True in tokenizer_args"),
    "case kept": (transformer(processor_kwargs={"do_lower_case": False}), "do_lower_case False in processor_kwargs"),
    "a slow tokenizer": (transformer(tokenizer_args={"use_fast": False}), "use_fast False in tokenizer_args"),
    "a decoder": (transformer(config_args={"is_decoder": True}), "is a decoder (is_decoder is True"),
    "a field that nobody knows": (transformer(config_kwargs={"later": 1}), "later 1 in config_kwargs"),
    "another architecture": (transformer(config_kwargs={"model_type": "roberta"}), "model_type 'roberta' in config_kwargs"),
    "an epsilon that is none": (
        transformer(config_kwargs={"layer_norm_eps": "small"}),
        "with what sentence-transformers replaces of it has layer_norm_eps",
    ),
    "layers that the weights lack": (transformer(config_kwargs={"num_hidden_layers": 3}), "the weights lack 16 of the encoder's"),
    "other files": (transformer(model_kwargs={"gguf_file": "model.gguf"}), "gguf_file 'model.gguf' in model_kwargs"),
    "pickles that run code": (transformer(model_kwargs={"weights_only": False}), "weights_only False in model_kwargs"),
    "pickles before safetensors": (transformer(model_args={"use_safetensors": False}), "use_safetensors False in model_args"),
    "weights of another shape": (transformer(model_args={"ignore_mismatched_sizes": True}), "ignore_mismatched_sizes True in model_args"),
    "arguments that are a list": (transformer(model_args=["float16"]), "has model_args ['float16']; expected an object"),
    "queries cut shorter": (transformer(query_length=8), "query_length 8"),
    "lowercasing before a cased tokenizer": (
        {**transformer(do_lower_case=True), "tokenizer.json": {"normalizer": None}},
        "lowercases texts before this tokenizer",
    ),
    "another tokenizer": (transformer(tokenizer_name_or_path="elsewhere"), "tokenizer_name_or_path 'elsewhere'"),
    "another output": (
        transformer(
            modality_config={"text": {"method": "forward", "method_output_name": "pooler_output"}}, module_output_name="token_embeddings"
        ),
        "makes vectors in another way",
    ),
    "texts as messages": (
        transformer(modality_config={**TEXT_ONLY, "message": {}}, module_output_name="token_embeddings"),
        "makes vectors in another way",
    ),
    "processing": (transformer(processing_kwargs={"text": {"max_length": 8}}), "changes how texts are tokenized"),
    "an entry that nobody knows": (transformer(later=1), "later in sentence_bert_config.json is not known"),
    "a pooling's entry that nobody knows": ({POOLING: {"later": 1}}, "later in config.json in 1_Pooling is not known"),
    "a model of another kind": (root(model_type="SparseEncoder"), "model_type 'SparseEncoder'"),
    "no vectors at all": (root(truncate_dim=0), "truncate_dim 0; expected a positive integer"),
    "a similarity that nobody knows": (root(similarity_fn_name="maxsim"), "similarity_fn_name 'maxsim'; supported are cosine, dot"),
    "another pooling": ({POOLING: {**MEAN, "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}}, "pools this model by max"),
}


def checked(folder: Path, config: ExportConfig | None = None) -> tuple[Checkpoint, tuple[str, ...]]:
    """What an export does before it traces anything."""
    checkpoint = load_checkpoint(str(folder), config=config)
    return checkpoint, check_against_sentence_transformers(checkpoint, lowered=config is not None and config.max_length is not None)


def changed(folder: Path, changes: Mapping[str, Mapping[str, Any]]) -> Path:
    for file, entries in changes.items():
        edit_json(folder / file, entries, remove=list(CLS) if "pooling_mode" in entries else [])
    return folder


def assert_like_the_library(folder: Path, checkpoint: Checkpoint) -> None:
    """The tokens and the vectors are those of sentence-transformers loaded from that folder, by nothing of the exporter's."""
    arguments = {"dtype": torch.float32, "torch_dtype": None, "attn_implementation": "eager", "device_map": None}
    model = library.SentenceTransformer(str(folder), device="cpu", model_kwargs=arguments)
    tokens = [tuple(model.preprocess([text])["input_ids"][0].tolist()) for text in TEXTS]
    assert list(checkpoint_token_ids(checkpoint, TEXTS)) == tokens
    rows = torch.from_numpy(checkpoint_vectors(checkpoint, TEXTS, prompt=checkpoint.use.default_prompt)[checkpoint.model.sentence_output])
    if checkpoint.source_pooling.normalize:
        rows = torch.nn.functional.normalize(rows)
    rows = rows[:, : checkpoint.use.truncate_dim]
    assert torch.allclose(rows, model.encode(TEXTS, batch_size=1, convert_to_tensor=True), atol=1e-5)


@pytest.mark.parametrize("case", FOLLOWED)
def test_what_is_followed(folder: Path, case: str) -> None:
    checkpoint, notes = checked(changed(folder, FOLLOWED[case]))
    assert notes[0] == AGREES
    assert_like_the_library(folder, checkpoint)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(folder: Path, case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises((CheckpointError, UnsupportedError)) as caught:
        checked(changed(folder, changes))
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("family", ["roberta", "modernbert", "deberta-v2", "mpnet", "distilbert"])
@pytest.mark.parametrize("limit", [None, 24, 48, 200])
def test_limits_of_every_kind_of_positions(families: Callable[[str], Path], tmp_path: Path, family: str, limit: int | None) -> None:
    folder = shutil.copytree(families(family), tmp_path / "model")
    checkpoint, notes = checked(changed(folder, transformer(max_seq_length=limit)))
    positions = {"roberta": 62, "mpnet": 62, "distilbert": MAX_POSITIONS}.get(family, 200)
    assert checkpoint.max_length == min(limit or 32, positions)
    assert notes == (AGREES,)
    if limit != 200 or positions == 200:  # sentence-transformers ends with an error beyond the positions
        assert_like_the_library(folder, checkpoint)


@pytest.mark.parametrize(("value", "meant"), [("48", 48), (48.0, 48), ("48.0", 48)])
def test_limits_written_another_way(folder: Path, value: Any, meant: int) -> None:
    assert checked(changed(folder, transformer(max_seq_length=value)))[0].max_length == meant
    assert checked(changed(folder, transformer(tokenizer_args={"model_max_length": value}, max_seq_length=None)))[0].max_length == meant


def test_an_entry_that_it_reads_without_effect(folder: Path) -> None:
    checkpoint, notes = checked(changed(folder, root(later=1)))
    assert notes == (AGREES, "unknown settings, without effect in sentence-transformers: later in config_sentence_transformers.json")
    assert_like_the_library(folder, checkpoint)


def test_null_instead_of_arguments_is_nothing(folder: Path) -> None:
    _, notes = checked(changed(folder, transformer(model_args=None, tokenizer_args=None, config_args=None)))
    assert notes[0].startswith("not compared with sentence-transformers: version")  # it ends with a TypeError there


def test_what_follows_the_encoder(folder: Path) -> None:
    add_sentence_modules(folder, pooling=CLS, modules=[("Dense", "2_Dense"), ("Dropout", "3_Dropout"), ("Normalize", "4_Normalize")])
    entries = {"in_features": HIDDEN, "out_features": 8, "bias": False, "activation_function": f"{ACTIVATIONS}.Tanh"}
    edit_json(folder / "2_Dense" / "config.json", entries)
    edit_json(folder / "3_Dropout" / "config.json", {"dropout": 0.5})
    edit_json(folder / "4_Normalize" / "config.json", {})
    checkpoints.write_weights_of(folder / "2_Dense", {"linear.weight": torch.randn(8, HIDDEN, generator=torch.Generator().manual_seed(3))})
    checkpoint, notes = checked(folder)
    assert notes == (AGREES,)
    assert_like_the_library(folder, checkpoint)
    edit_json(folder / "2_Dense" / "config.json", {"later": 1})
    assert load_checkpoint(str(folder)).unknown_settings == ("later in the Dense module in 2_Dense",)
    edit_json(folder / "4_Normalize" / "config.json", {"module_input_name": "token_embeddings"})
    with pytest.raises(UnsupportedError, match="config.json in 4_Normalize does not read and write sentence_embedding"):
        checked(folder)


@pytest.mark.parametrize(("trained", "asked"), [(MEAN, "cls"), (CLS, "mean"), ({**CLS, "pooling_mode_max_tokens": True}, "mean")])
def test_another_pooling_is_compared_by_what_the_modules_make_of_it(folder: Path, trained: dict[str, Any], asked: Pooling) -> None:
    changed(folder, {POOLING: trained})
    mismatch = ExportConfig(pooling=asked, allow_pooling_mismatch=True)
    assert checked(folder, mismatch)[1] == (AGREES,)
    damaged = load_checkpoint(str(folder), config=mismatch)
    damaged.model.encoder.embeddings.word_embeddings.weight.mul_(1.01)
    with pytest.raises(CheckpointError, match="gives another vector of"):
        check_against_sentence_transformers(damaged, lowered=False)


def test_a_text_that_was_lowered_by_the_caller(folder: Path) -> None:
    assert checked(folder, ExportConfig(max_length=10))[1] == (AGREES,)
    checkpoint = load_checkpoint(str(folder), config=ExportConfig(max_length=10))
    with pytest.raises(CheckpointError, match="reads a limit of 32 tokens from this folder, cls-export reads 10; correct the folder"):
        check_against_sentence_transformers(checkpoint, lowered=False)


# What a reading of the folder could get wrong, each on the checkpoint that was read.
def other_tokenizer(checkpoint: Checkpoint) -> Checkpoint:
    tokenizer = checkpoints.make_tokenizer("bert")
    tokenizer.backend_tokenizer.normalizer = None
    return dataclasses.replace(checkpoint, tokenizer=tokenizer)


def other_weights(checkpoint: Checkpoint) -> Checkpoint:
    checkpoint.model.encoder.embeddings.word_embeddings.weight.mul_(1.01)
    return checkpoint


def unit_length(checkpoint: Checkpoint) -> Checkpoint:
    return dataclasses.replace(checkpoint, source_pooling=dataclasses.replace(checkpoint.source_pooling, normalize=True))


def other_pooling(checkpoint: Checkpoint) -> Checkpoint:
    checkpoint.model.pooling = "mean"
    return checkpoint


def cut_vectors(checkpoint: Checkpoint) -> Checkpoint:
    return dataclasses.replace(checkpoint, use=dataclasses.replace(checkpoint.use, truncate_dim=16))


def other_prompt(checkpoint: Checkpoint) -> Checkpoint:
    return dataclasses.replace(checkpoint, use=SentenceUse(prompts={"query": "query: "}))


def other_default(checkpoint: Checkpoint) -> Checkpoint:
    return dataclasses.replace(checkpoint, use=dataclasses.replace(checkpoint.use, default_prompt_name="passage"))


def prompt_left_out(checkpoint: Checkpoint) -> Checkpoint:
    checkpoint.model.include_prompt = False
    return checkpoint


def other_rows(checkpoint: Checkpoint) -> Checkpoint:
    checkpoint.model.forward = shifted(checkpoint.model.forward)
    checkpoint.model.token_rows = True
    return checkpoint


def shifted(forward: Callable[..., tuple[torch.Tensor, ...]]) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Of the rows of tokens alone."""

    def changed_rows(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows, *others = forward(*inputs)
        return (rows.roll(1, dims=1), *others)

    return changed_rows


def longer_texts(checkpoint: Checkpoint) -> Checkpoint:
    return dataclasses.replace(checkpoint, max_length=40)


def wider_rows(checkpoint: Checkpoint) -> Checkpoint:
    checkpoint.model.dense = torch.nn.Sequential(torch.nn.Linear(HIDDEN, 2 * HIDDEN))
    return checkpoint


@pytest.mark.parametrize(
    ("misread", "message"),
    [
        (other_tokenizer, r"makes 9 tokens with \['the', .* from 1 on of 'The CAT sat on the mat\.', cls-export makes "),
        (other_weights, "gives another vector of '.*' than cls-export: .*; correct the folder"),
        (unit_length, "gives another vector of"),
        (other_pooling, "gives another vector of '.*' than cls-export: mean_cosine"),
        (cut_vectors, "gives vectors of 32 numbers, cls-export of 16"),
        (other_prompt, "reads the prompts {'.*'passage': 'the '.* \\(default None\\), cls-export reads {.*'query: '} \\(default None\\)"),
        (other_default, "\\(default None\\), cls-export reads .* \\(default 'passage'\\)"),
        (prompt_left_out, r"gives another vector of '.*' with the prompt 'query: ' than cls-export"),
        (other_rows, r"gives another vector of '.*' than cls-export"),
        (longer_texts, "reads a limit of 32 tokens from this folder, cls-export reads 40"),
        (wider_rows, "gives vectors of 32 numbers, cls-export of 64"),
    ],
)
def test_a_misreading_is_seen(folder: Path, misread: Callable[[Checkpoint], Checkpoint], message: str) -> None:
    changed(folder, root(prompts={"query": "query: ", "passage": "the "}))
    with pytest.raises(CheckpointError, match=message) as caught:
        check_against_sentence_transformers(misread(load_checkpoint(str(folder))), lowered=False)
    assert str(caught.value).isprintable()


def test_tokens_that_the_caller_knows_to_be_others(folder: Path) -> None:
    checkpoint = other_tokenizer(load_checkpoint(str(folder)))
    (note,) = check_against_sentence_transformers(checkpoint, lowered=False, own_tokens=True)
    assert note.endswith("gives the same vectors for texts with the same tokens")
    with pytest.raises(CheckpointError, match="gives another vector of"):
        check_against_sentence_transformers(other_weights(checkpoint), lowered=False, own_tokens=True)


def test_rerankers(reranker: Path) -> None:
    logits = ExportConfig(logits=True)
    assert checked(reranker, logits)[1] == (AGREES,)
    assert checked(reranker)[1] == (AGREES.removesuffix(" and vectors"),)  # nothing of it is exported that it gives
    checkpoint = load_checkpoint(str(reranker), config=logits)
    with pytest.raises(CheckpointError, match="applies Sigmoid to the logits, cls-export reads identity"):
        check_against_sentence_transformers(dataclasses.replace(checkpoint, logits_activation="identity"), lowered=False)
    checkpoint.model.head.module[0].bias.add_(0.1)
    with pytest.raises(CheckpointError, match=r"gives another vector of \('The CAT"):
        check_against_sentence_transformers(checkpoint, lowered=False)


def test_weights_where_only_the_exporter_looks(folder: Path) -> None:
    weights = checkpoints.read_weights_of(folder)
    checkpoints.write_weights_of(folder, {f"wrapped.inner.{name}": tensor for name, tensor in weights.items()})
    note = "not compared with sentence-transformers: it does not find all weights in this folder and initializes the others at random"
    assert checked(folder)[1] == (note,)


def test_where_it_is_not_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    missing = "it is not installed; pip install sentence-transformers"
    assert checked(folder)[1] == (f"not compared with sentence-transformers: {missing}",)
    changed(folder, root(later=1))
    with pytest.raises(UnsupportedError, match=rf"later in config_sentence_transformers.json is not known, .*asked \({missing}\)"):
        checked(folder)


def test_a_plain_folder_is_none_of_its(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    (folder / "modules.json").unlink()
    assert checked(folder)[1] == ()
    with pytest.raises(UnsupportedError, match="^later in sentence_bert_config.json is not known"):
        checked(changed(folder, transformer(later=1)))


def test_only_checked_files_are_read(folder: Path) -> None:
    os.mkfifo(folder / "README.md")  # it would wait for somebody who writes there
    (folder / "modeling_own.py").write_text("raise SystemExit")
    assert checked(folder)[1] == (AGREES,)


def test_the_environment_is_afterwards_what_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def imported(name: str) -> Any:
        monkeypatch.setenv("KMP_INIT_AT_FORK", "FALSE")  # as scikit-learn's import does
        return sys.modules[name]

    monkeypatch.delenv("KMP_INIT_AT_FORK", raising=False)
    monkeypatch.setattr(sentence_model, "importlib", SimpleNamespace(import_module=imported))
    before = dict(os.environ)
    assert checked(folder)[1] == (AGREES,)
    assert dict(os.environ) == before


def test_an_export_asks_before_it_traces(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "trace", lambda checkpoint: pytest.fail("traced"))
    with pytest.raises(UnsupportedError, match="^later in"):
        export(changed(folder, transformer(later=1)), tmp_path / "bundle")
