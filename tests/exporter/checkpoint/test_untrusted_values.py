"""Values in a checkpoint's JSON files that make no sense, or would take the machine's memory: one line, before anything is made of them."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from checkpoints import add_sentence_modules, edit_json
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refusal_of

from cls_exporter import ExportConfig
from cls_exporter.checkpoint import load_checkpoint
from cls_runtime.errors import ClsError

CLS = {"pooling_mode_cls_token": True}
HUGE = "x" * 200_000
CONTROL = "\x1b]0;owned\x07\u202e\n"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as sentence-transformers lays it out; the tests change copies."""
    folder = checkpoints.make_checkpoint(tmp_path_factory.mktemp("plain") / "model")
    add_sentence_modules(folder, pooling=CLS)
    edit_json(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    root = {"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": "query", "truncate_dim": 16, "similarity_fn_name": "dot"}
    edit_json(folder / "config_sentence_transformers.json", root)
    edit_json(folder / "config.json", {"matryoshka_dims": [16, 8]})
    if not (folder / "special_tokens_map.json").exists():  # transformers 5 writes none, and reads it
        edit_json(folder / "special_tokens_map.json", {"cls_token": "[CLS]", "pad_token": "[PAD]"})
    return folder


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "model"))


SIZES = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size", "max_position_embeddings")
NUMBERS = (*SIZES, "type_vocab_size", "pad_token_id", "layer_norm_eps", "hidden_dropout_prob", "initializer_range")
NOT_NUMBERS: tuple[Any, ...] = ("32 ", "0x20", True, [32], {"size": 32}, HUGE, CONTROL, -2, 10**39)


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_that_is_none(folder: Path, field: str, value: Any) -> None:
    edit_json(folder / "config.json", {field: value})
    assert f"config.json of model has {field} " in refusal_of(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in SIZES for value in (0, 32.5, None)),
        *(("hidden_act", value) for value in ("glue", "", 7, None, ["gelu"], {"gelu": 1}, HUGE, CONTROL)),
        *(("layer_norm_eps", value) for value in (0, 1e9, None, "small")),
        *(("attention_probs_dropout_prob", value) for value in ("1.5", 1.5)),
        *(("id2label", value) for value in ([], "a", 5, {"0": ["a"]}, {"0": HUGE})),
        *(("num_labels", value) for value in (10**9, "two", -1)),
        *(("architectures", value) for value in ("BertModel", [1], 7)),
        ("initializer_range", 0),
        ("tie_word_embeddings", "yes"),
        ("label2id", [1]),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_field_that_makes_no_sense(folder: Path, field: str, value: Any) -> None:
    edit_json(folder / "config.json", {field: value})
    assert f"config.json of model has {field} " in refusal_of(folder)


# Numbers whose meaning is certain: the field, what stands there, and what is read.
MEANT: list[tuple[str, Any, Any]] = [
    ("max_position_embeddings", 64.0, 64),
    ("max_position_embeddings", "64", 64),
    ("hidden_size", "32", 32),
    ("num_hidden_layers", 2.0, 2),
    ("vocab_size", "126.0", 126),
    ("type_vocab_size", "2e0", 2),
    ("layer_norm_eps", "1e-12", 1e-12),
    ("layer_norm_eps", "0.000000000001", 1e-12),
    ("initializer_range", "0.02", 0.02),
    ("initializer_range", None, 0.02),
    ("hidden_dropout_prob", None, 0.1),
    ("attention_probs_dropout_prob", "0", 0.0),
    ("pad_token_id", "0", 0),
    ("pad_token_id", -1, -1),
    ("pad_token_id", None, None),
]


@pytest.mark.parametrize(("field", "value", "meant"), MEANT)
def test_a_number_written_another_way(folder: Path, field: str, value: Any, meant: Any) -> None:
    expected = load_checkpoint(str(folder))
    edit_json(folder / "config.json", {field: value})
    loaded = load_checkpoint(str(folder))
    assert getattr(loaded.config, field) == meant
    assert loaded.stored_config.get(field, meant) == meant  # what the bundle's config.json will say
    assert loaded.max_length == expected.max_length
    ids = checkpoints.torch.tensor([[2, 7, 0, 9, 3]])
    assert checkpoints.torch.equal(loaded.model(ids, checkpoints.torch.ones_like(ids))[0], expected.model(ids, ids**0)[0])


@pytest.mark.parametrize(
    ("model_type", "field"),
    [("deberta-v2", "embedding_size"), ("deberta-v2", "pooler_hidden_size"), ("roformer", "embedding_size"), ("bert", "pruned_heads")],
)
def test_null_where_a_missing_field_says_as_much(tmp_path: Path, model_type: str, field: str) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", model_type)
    edit_json(folder / "config.json", {field: None})
    loaded = load_checkpoint(str(folder))
    assert field not in loaded.stored_config
    assert loaded.model.width == checkpoints.HIDDEN


@pytest.mark.parametrize(
    ("value", "meant"), [("16", 16), (16.0, 16), ("16.0", 16), (None, 64), (1e30, 64), ("1e30", 64), (10**30, 64)], ids=repr
)
def test_limits_of_the_tokenizer(folder: Path, value: Any, meant: int) -> None:
    edit_json(folder / "sentence_bert_config.json", {"max_seq_length": None})  # it would count in the place of the tokenizer's
    edit_json(folder / "tokenizer_config.json", {"model_max_length": value})
    assert load_checkpoint(str(folder)).max_length == meant


@pytest.mark.parametrize("value", ["sixteen", [16], True, 12.5, "12.5", 0, -1, {}, "", HUGE], ids=lambda value: repr(value)[:20])
def test_limits_of_the_tokenizer_that_are_none(folder: Path, value: Any) -> None:
    edit_json(folder / "tokenizer_config.json", {"model_max_length": value})
    message = refusal_of(folder)
    assert message.startswith("tokenizer_config.json in model has model_max_length ")
    assert message.endswith("; expected an integer above 0, or null")


# Where a text's positions begin in a model that counts them from pad_token_id, and in MPNet, which does not.
@pytest.mark.parametrize(
    ("model_type", "padding", "max_length"),
    [
        *(("roberta", padding, 63 - padding) for padding in (-1, 0, 1, 5)),
        ("camembert", "1", 62),
        ("xlm-roberta", 1.0, 62),
        *(("mpnet", padding, 62) for padding in (None, -1, 0, 1, 5, 70)),
    ],
)
def test_positions_that_padding_takes(tmp_path: Path, model_type: str, padding: Any, max_length: int) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", model_type)
    edit_json(folder / "config.json", {"pad_token_id": padding})
    checkpoint = load_checkpoint(str(folder))
    assert checkpoint.max_length == max_length
    ids = checkpoints.torch.full((1, max_length), 7)
    assert checkpoint.model(ids, checkpoints.torch.ones_like(ids))[0].isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):  # there is no further position
        checkpoint.model(ids.new_full((1, max_length + 1), 7), ids.new_ones((1, max_length + 1)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 50_000_000}, "config.json makes it [50000000, 32]"),
        ({"vocab_size": 2**31 - 1, "hidden_size": 2**20}, "config.json makes it"),
        ({"intermediate_size": 2**30}, "config.json makes it [1073741824, 32]"),
        ({"max_position_embeddings": 2**30}, "config.json makes it [1073741824, 32]"),
        ({"type_vocab_size": 2**30}, "config.json makes it [1073741824, 32]"),
        ({"num_hidden_layers": 200}, "num_hidden_layers 200 and the weights hold"),
        ({"num_hidden_layers": 100_000}, "num_hidden_layers 100000; expected an integer from 1 to 256"),
        ({"num_hidden_layers": 3}, "the weights lack 16 of"),
        ({"num_attention_heads": 5}, "hidden_size 32 and num_attention_heads 5"),
        ({"pad_token_id": 10**9}, "pad_token_id 1000000000 and vocab_size"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_sizes_that_the_weights_do_not_have(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_json(folder / "config.json", changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert message in refusal_of(folder)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 200 * 2**10 or sys.platform != "linux"


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("roformer", {"max_position_embeddings": 10**9}, "this model's table of positions is computed"),
        ("roformer", {"rotary_value": "no"}, "rotary_value 'no'; expected true or false"),
        ("modernbert", {"max_position_embeddings": 2**31 - 1}, "lower it with --max-length"),
        ("modernbert", {"global_attn_every_n_layers": 0}, "global_attn_every_n_layers 0"),
        ("modernbert", {"local_attention": "8 tokens"}, "local_attention '8 tokens'"),
        ("modernbert", {"rope_parameters": 7}, "rope_parameters 7"),
        ("modernbert", {"global_rope_theta": "high"}, "global_rope_theta 'high'"),
        ("modernbert", {"layer_types": ["nonsense", 1, None]}, "layer_types"),
        ("deberta-v2", {"pos_att_type": 7}, "pos_att_type 7"),
        ("deberta-v2", {"norm_rel_ebd": None}, "norm_rel_ebd None; expected a text"),
        ("albert", {"pruned_heads": "all"}, "pruned_heads 'all'; expected an object or null"),
        ("deberta-v2", {"position_buckets": 2**30}, "config.json makes it"),
        ("deberta-v2", {"relative_attention": "true"}, "relative_attention 'true'"),
        ("albert", {"embedding_size": 2**29}, "config.json makes it"),
        ("albert", {"num_hidden_layers": 10**6}, "num_hidden_layers 1000000"),
        ("albert", {"num_hidden_groups": 200}, "num_hidden_groups 200"),
        ("albert", {"inner_group_num": 200}, "inner_group_num 200"),
        ("electra", {"embedding_size": "2,4"}, "embedding_size '2,4'"),
        ("mpnet", {"relative_attention_num_buckets": 10**9}, "config.json makes it"),
        ("distilbert", {"n_heads": 0}, "n_heads 0"),
        ("distilbert", {"dim": [32]}, "dim [32]"),
        ("roberta", {"pad_token_id": None}, "no pad_token_id"),
        ("xlm-roberta", {"pad_token_id": None}, "no pad_token_id"),
        ("roberta", {"pad_token_id": 63}, "all of which padding takes"),
        ("roberta", {"pad_token_id": -2}, "pad_token_id -2; expected an integer from -1"),
        ("camembert", {"pad_token_id": 10**6}, "pad_token_id 1000000 and vocab_size"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_fields_of_single_architectures(tmp_path: Path, model_type: str, changes: dict[str, Any], message: str) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", model_type)
    edit_json(folder / "config.json", changes)
    assert message in refusal_of(folder)


def test_a_lower_length_makes_do_where_positions_are_many(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", "modernbert")
    edit_json(folder / "config.json", {"max_position_embeddings": 2**20})
    assert load_checkpoint(str(folder), config=ExportConfig(max_length=64)).max_length == 64


def test_what_has_nothing_to_do_with_vectors_is_not_acted_on(folder: Path) -> None:
    changes = {"chunk_size_feed_forward": 10**9, "num_labels": 2**20, "configuration_files": ["config.4.0.0.json"], "problem_type": "?"}
    expected = load_checkpoint(str(folder))
    edit_json(folder / "config.json", {**changes, "attn_implementation": "someone/kernels", "_attn_implementation": "someone/kernels"})
    loaded = load_checkpoint(str(folder))
    assert (loaded.max_length, loaded.inputs) == (expected.max_length, expected.inputs)
    assert loaded.config.chunk_size_feed_forward == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling_mode": 7}, "pools by 7, which is not known"),
        ({"pooling_mode": [1]}, "pools by [1], which is not known"),
        ({"pooling_mode": []}, "pools by [], which is not known"),
        ({"pooling_mode": "CLS"}, "pools by 'CLS', which is not known"),
        ({"pooling_mode": {"cls": True}}, "which is not known"),
        ({"pooling_mode": HUGE}, "which is not known"),
        ({"pooling_mode": CONTROL}, "which is not known"),
        ({"pooling_mode": "mean"}, "has pooling_mode 'mean', but its older entries say ['cls']"),
        ({"pooling_mode": ["cls", "max"]}, "but its older entries say ['cls']"),
        ({"pooling_mode_mean_tokens": "false"}, "pooling_mode_mean_tokens 'false'; expected true or false"),
        ({"pooling_mode_cls_token": 1}, "pooling_mode_cls_token 1; expected true or false"),
        ({"pooling_mode_cls_token": None}, "pooling_mode_cls_token None; expected true or false"),
        ({"pooling_mode_other_tokens": True}, "which is not known"),
        ({"include_prompt": "no"}, "include_prompt 'no'; expected true or false"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_poolings(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_json(folder / "1_Pooling" / "config.json", changes)
    assert message in refusal_of(folder, ExportConfig(allow_pooling_mismatch=True))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config_sentence_transformers.json", {"prompts": []}, "has prompts []"),
        ("config_sentence_transformers.json", {"prompts": "query: "}, "has prompts 'query: '"),
        ("config_sentence_transformers.json", {"prompts": {"query": 7}}, "has prompts {'query': 7}"),
        ("config_sentence_transformers.json", {"prompts": {"query": ["a"]}}, "has prompts"),
        ("config_sentence_transformers.json", {"prompts": {"a": "b"}, "default_prompt_name": "c"}, "which is not one of its prompts (a)"),
        ("config_sentence_transformers.json", {"default_prompt_name": 7}, "default_prompt_name 7, which is not one"),
        ("config_sentence_transformers.json", {"default_prompt_name": ["a"]}, "default_prompt_name ['a'], which is not one"),
        (
            "config_sentence_transformers.json",
            {"prompts": {CONTROL: HUGE}, "default_prompt_name": CONTROL},
            "of 200,000 characters; expected",
        ),
        (
            "config_sentence_transformers.json",
            {"prompts": {str(number): "" for number in range(101)}},
            "has 101 prompts; expected at most 100",
        ),
        ("config_sentence_transformers.json", {"prompts": {HUGE: "", HUGE[1:]: ""}}, "of together 399,999 characters; expected at most"),
        ("config_sentence_transformers.json", {"prompts": {str(n): "x" * 10_000 for n in range(26)}}, "of together 260,042 characters"),
        *(
            ("config_sentence_transformers.json", {"truncate_dim": value}, "truncate_dim")
            for value in ([HUGE, CONTROL], True, False, 0, -1, 12.5, 2**31, 10**39, "", "many", {}, [8])
        ),
        *(
            ("config_sentence_transformers.json", {"similarity_fn_name": value}, "similarity_fn_name")
            for value in (CONTROL, HUGE, "Cosine", "", 7, True, ["cosine"], {"cosine": 1})
        ),
        ("sentence_bert_config.json", {"do_lower_case": "false"}, "do_lower_case 'false'; expected true or false"),
        *(
            ("sentence_bert_config.json", {"max_seq_length": value}, "max_seq_length")
            for value in (True, 0, -1, 12.5, 1e30, "many", "", [32])
        ),
        ("sentence_bert_config.json", {"transformer_task": [CONTROL]}, "transformer_task"),
        ("sentence_bert_config.json", {"processing_kwargs": {CONTROL: HUGE}}, "processing_kwargs"),
        ("modules.json", [], "is not a list of modules"),
        ("modules.json", {}, "is not a list of modules"),
        ("modules.json", [7], "is not a list of modules"),
        ("modules.json", [{"path": 7, "type": "x"}], "is not a list of modules"),
        ("modules.json", [{"path": "", "type": 7}], "has an entry without type or path"),
        ("modules.json", [{"path": "", "type": CONTROL}], "custom module"),
        ("modules.json", [{"path": "", "type": f"sentence_transformers.{HUGE}"}], "expected a Transformer"),
        ("modules.json", [{"path": HUGE, "type": "sentence_transformers.models.Transformer"}], "which is not a file's name"),
        ("modules.json", [{"path": "a\0b", "type": "sentence_transformers.models.Transformer"}], "which is not a file's name"),
        ("modules.json", [{"path": "/etc", "type": "sentence_transformers.models.Transformer"}], "leaves the checkpoint's folder"),
        ("modules.json", [{"path": "", "type": "sentence_transformers.models.Transformer"}] * 100_000, "lists 100000 modules"),
        (
            "modules.json",
            [{"path": "", "type": "sentence_transformers.models.Transformer"}]
            + [{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}] * 2,
            "the module 'Pooling' twice",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_sentence_transformers_says(folder: Path, file: str, content: Any, message: str) -> None:
    (folder / file).write_text(json.dumps(content))
    assert message in refusal_of(folder)


@pytest.mark.parametrize(
    "changes",
    [
        *({"out_features": value} for value in ("eight", 8.5, -8, 0, True, None, 2**40, [8])),
        *({"in_features": value} for value in ("16", 16, -1, [32])),
        *({"activation_function": value} for value in (7, ["torch.nn.modules.activation.Tanh"], "os.system", HUGE, CONTROL, None)),
        *({"bias": value} for value in ("false", 0, None)),
        {"use_residual": "false"},
    ],
    ids=lambda value: str(value)[:40],
)
def test_dense_modules(folder: Path, changes: dict[str, Any]) -> None:
    add_sentence_modules(folder, pooling=CLS, modules=[("Dense", "2_Dense")])
    edit_json(folder / "2_Dense" / "config.json", {"in_features": 32, "out_features": 8, "bias": False, **changes})
    checkpoints.write_weights_of(folder / "2_Dense", {"linear.weight": checkpoints.torch.ones(8, 32)})
    assert "the Dense module in 2_Dense" in refusal_of(folder)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool", "float8_e4m3fn"])
def test_a_dense_module_of_no_floats(folder: Path, dtype: str) -> None:
    add_sentence_modules(folder, pooling=CLS, modules=[("Dense", "2_Dense")])
    edit_json(folder / "2_Dense" / "config.json", {"in_features": 32, "out_features": 8, "bias": False})
    checkpoints.write_weights_of(folder / "2_Dense", {"linear.weight": checkpoints.torch.ones(8, 32).to(getattr(checkpoints.torch, dtype))})
    assert f"the weight 'linear.weight' is {dtype}; supported are float32" in refusal_of(folder)


def test_a_dense_module_with_numbers_written_another_way(folder: Path) -> None:
    add_sentence_modules(folder, pooling=CLS, modules=[("Dense", "2_Dense")])
    edit_json(folder / "2_Dense" / "config.json", {"in_features": "32", "out_features": 8.0, "bias": False})
    checkpoints.write_weights_of(folder / "2_Dense", {"linear.weight": checkpoints.torch.ones(8, 32)})
    assert load_checkpoint(str(folder)).model.width == 8


BAD_JSON = {
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "invalid UTF-8": b'{"a": "\xff"}',
    "half a character": b'{"a": ["\\ud800"]}',
    "half a character as a key": b'{"\\udfff": 1}',
    "a key twice": b'{"a": 1, "a": 2}',
    "a key twice inside": b'{"b": [{"a": 1, "a": 1}]}',
    "deep nesting": b"[" * 200_000,
    "deep nesting of objects": b'{"a":' * 200_000,
    "400 digits": b'{"a": 1' + b"0" * 400 + b"}",
    "5000 digits": b'{"a": 1' + b"0" * 5000 + b"}",
    "1e999": b'{"a": 1e999}',
    "NaN": b'{"a": NaN}',
    "-Infinity": b'{"a": -Infinity}',
    "blank space": b" \n",
    "zeros": b"\0" * 64,
    "null": b"null",
    "a string": b'"config"',
}


@pytest.mark.parametrize("kind", BAD_JSON)
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "special_tokens_map.json", "1_Pooling/config.json"])
def test_json_that_is_none(folder: Path, file: str, kind: str) -> None:
    (folder / file).write_bytes(BAD_JSON[kind])
    message = refusal_of(folder)
    assert Path(file).name in message
    assert "cannot be read as JSON" in message or "expected a JSON object" in message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([HUGE, "../x", 10**39, 1e30, -1, 0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FILES = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)


def places_of(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value in a JSON document, the whole included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(deeper for key, item in inner for deeper in places_of(item, (*place, key)))]


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = replaced(value[place[0]], place[1:], new)
    return copy


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_value_anywhere_gives_a_checkpoint_or_a_refusal(plain: Path, data: st.DataObject) -> None:
    file = plain / data.draw(st.sampled_from(FILES))
    stored = file.read_bytes()
    content = json.loads(stored)
    place = data.draw(st.sampled_from(places_of(content)))
    try:
        file.write_text(json.dumps(replaced(content, place, data.draw(JSON))), encoding="utf-8")
        message = outcome(plain)
    finally:
        file.write_bytes(stored)
    assert "\n" not in message
    assert len(message) < 2000


def outcome(folder: Path) -> str:
    """The message of a refusal; nothing where the checkpoint loads."""
    try:
        load_checkpoint(str(folder))
    except ClsError as error:
        return str(error)
    return ""
