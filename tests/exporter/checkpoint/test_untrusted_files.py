"""Files of a checkpoint that are no plain files inside it, and weight files that are damaged or larger than they are: one line each."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from checkpoints import add_sentence_modules, edit_json
from refusals import refusal_of
from torch import Tensor

from cls_exporter.checkpoint import Checkpoint, load_checkpoint
from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.tensor_files import read_tensors
from cls_exporter.errors import CheckpointError
from cls_runtime.errors import ClsError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SECRET = "-----BEGIN PRIVATE KEY-----"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as sentence-transformers lays it out, with every file that is read; the tests change copies."""
    folder = checkpoints.make_checkpoint(tmp_path_factory.mktemp("plain") / "model")
    add_sentence_modules(folder, pooling={"pooling_mode_cls_token": True})
    for name in ("sentence_bert_config.json", "config_sentence_transformers.json", "special_tokens_map.json", "added_tokens.json"):
        edit_json(folder / name, {})
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.get)))
    return folder


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "model"))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the user's, which a WordPiece vocabulary could be read from."""
    path = tmp_path / "home" / "id_rsa"
    path.parent.mkdir()
    path.write_text("\n".join([SECRET, "[PAD]", "[CLS]", "[SEP]", "[MASK]", "c2VjcmV0"]) + "\n")
    return path


def no_tokenizer_json(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def as_pickle(folder: Path) -> None:
    torch.save(checkpoints.read_weights_of(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def as_shard(folder: Path) -> None:
    placed = dict.fromkeys(checkpoints.read_weights_of(folder), "model-00001-of-00001.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))


def with_dense(folder: Path) -> None:
    add_sentence_modules(folder, pooling={"pooling_mode_cls_token": True}, modules=[("Dense", "2_Dense")])
    edit_json(folder / "2_Dense" / "config.json", {"in_features": 32, "out_features": 8, "bias": False})
    checkpoints.write_weights_of(folder / "2_Dense", {"linear.weight": torch.ones(8, 32)})


SENTENCEPIECE = b"\x0a\x08\x0a\x01a\x15\0\0\x80?" * 3  # three pieces, "a" with the score 1
# Each file that is read, and what has to be done first for it to be read.
READ: dict[str, Callable[[Path], None]] = {
    "config.json": lambda folder: None,
    "tokenizer.json": lambda folder: None,
    "tokenizer_config.json": lambda folder: None,
    "special_tokens_map.json": lambda folder: None,
    "added_tokens.json": lambda folder: None,
    "vocab.txt": no_tokenizer_json,
    "vocab.json": lambda folder: (folder / "vocab.json").write_text("{}"),
    "merges.txt": lambda folder: (folder / "merges.txt").write_text("#version: 0.2"),
    "spm.model": lambda folder: (folder / "spm.model").write_bytes(SENTENCEPIECE),
    "model.safetensors.index.json": as_shard,
    "2_Dense/config.json": with_dense,
    "2_Dense/model.safetensors": with_dense,
    "model.safetensors": lambda folder: None,
    "pytorch_model.bin": as_pickle,
    "modules.json": lambda folder: None,
    "1_Pooling/config.json": lambda folder: None,
    "sentence_bert_config.json": lambda folder: None,
    "config_sentence_transformers.json": lambda folder: None,
}


def put_pipe(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def put_folder(path: Path, outside: Path) -> None:
    path.mkdir()


def put_sparse(path: Path, outside: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


INSTEAD: dict[str, Callable[[Path, Path], None]] = {
    "is a pipe": put_pipe,
    "is a folder": put_folder,
    "has 1099511627776 bytes": put_sparse,
    "link to a file outside": lambda path, outside: path.symlink_to(outside),
    "link to a file outside the": lambda path, outside: path.symlink_to("/dev/zero"),
    "No such file": lambda path, outside: path.symlink_to("nowhere"),
    "symbolic links": lambda path, outside: path.symlink_to(path.name),
}


@pytest.mark.parametrize("words", INSTEAD)
@pytest.mark.parametrize("name", READ)
def test_what_is_no_file_inside_the_folder(folder: Path, tmp_path: Path, name: str, words: str) -> None:
    READ[name](folder)
    outside = tmp_path / "outside"
    shutil.move(folder / name, outside)  # the very file that is right, so that only its place is wrong
    INSTEAD[words](folder / name, outside)
    message = refusal_of(folder)
    assert f"{Path(name).name} in " in message
    assert words in message


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"7" * 64 + b"\nsize 90868376\n"
STAND_INS = {
    "is a Git LFS pointer, not the file; run git lfs pull": POINTER,
    "is a saved web page (HTML), not the file": b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>",
    "is empty; fetch it again": b"",
}


@pytest.mark.parametrize("words", STAND_INS)
@pytest.mark.parametrize("name", READ)
def test_what_lies_where_the_file_was_not_fetched(folder: Path, name: str, words: str) -> None:
    READ[name](folder)
    (folder / name).write_bytes(STAND_INS[words])
    message = refusal_of(folder)
    assert f"{Path(name).name} in " in message
    assert words in message


CUT = {
    **dict.fromkeys(("tokenizer.json", "vocab.json"), "is not a readable vocabulary (it is cut short after "),
    **dict.fromkeys(("config.json", "modules.json", "1_Pooling/config.json"), "cannot be read as JSON (it is cut short after "),
    "spm.model": "spm.model in model is not a readable vocabulary (it is cut short); fetch the checkpoint again",
    "model.safetensors": "model.safetensors is damaged or not safetensors (ValueError: it is cut short after ",
    "pytorch_model.bin": "pytorch_model.bin cannot be loaded as tensors only (ValueError: it is cut short: ",
}


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_is_cut_short(folder: Path, name: str) -> None:
    READ[name](folder)
    if name == "vocab.json":
        (folder / name).write_text('{"a": 1}')
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) - 2])
    assert CUT[name] in refusal_of(folder)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("kept", [slice(-2), slice(5000), slice(100)], ids=str)
def test_a_pickle_that_is_cut_short(folder: Path, is_zip: bool, kept: slice) -> None:
    torch.save(checkpoints.read_weights_of(folder), folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes((folder / "pytorch_model.bin").read_bytes()[kept])
    message = refusal_of(folder)
    assert "it is cut short" in message or "unexpected EOF" in message


def test_json_in_place_of_a_list_of_tokens(folder: Path) -> None:
    (folder / "vocab.txt").write_text('{"[PAD]": 0, "[UNK]": 1')
    assert "vocab.txt in model is not a readable vocabulary (it holds JSON; expected one token per line)" in refusal_of(folder)


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (b"a" * 5_000, "a line has 5,000 bytes; expected a token of at most 4,000"),
        (b"a\n" * 2**21, "lines; expected at most 2,097,152, one token per line"),
    ],
)
def test_a_list_of_what_no_tokens_are(folder: Path, tail: bytes, words: str) -> None:
    (folder / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes() + tail)
    message = refusal_of(folder)
    assert "vocab.txt in model is not a readable vocabulary (" in message
    assert words in message


def test_a_list_of_tokens_that_ends_within_a_line(folder: Path) -> None:
    content = (folder / "vocab.txt").read_bytes()
    (folder / "vocab.txt").write_bytes(content.rstrip(b"\n"))
    assert isinstance(load_checkpoint(str(folder)), Checkpoint)  # an editor leaves the last line's end out
    edit_json(folder / "config.json", {"vocab_size": 30522})
    assert "vocab.txt in model is not a readable vocabulary (it is cut short: it ends within a line, after " in refusal_of(folder)


def test_a_folder_that_is_a_link_to_elsewhere(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "1_Pooling", tmp_path / "elsewhere")
    (folder / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    assert "link to a file outside the checkpoint's folder" in refusal_of(folder)


def test_a_link_within_the_folder_and_a_folder_behind_a_link(folder: Path, tmp_path: Path) -> None:
    (folder / "vocab.txt").rename(folder / "1_Pooling" / "vocab.txt")
    (folder / "vocab.txt").symlink_to("1_Pooling/vocab.txt")
    (tmp_path / "link").symlink_to(folder)
    assert isinstance(load_checkpoint(str(tmp_path / "link")), Checkpoint)


@pytest.mark.parametrize(
    ("target", "is_read"),
    [
        ("../../blobs/config", True),
        ("../../../blobs/ab/" + "ab" * 32, True),  # which huggingface_hub 2 shares among repositories
        ("../../../blobs/ab/" + "cd" * 32, False),
        ("../../../models--other/blobs/config", False),
        ("../../../../config", False),
    ],
)
def test_links_within_the_hubs_cache(plain: Path, tmp_path: Path, target: str, is_read: bool) -> None:
    snapshot = Path(shutil.copytree(plain, tmp_path / "hub" / "models--someone--model" / "snapshots" / COMMIT))
    blob = Path(os.path.normpath(snapshot / target))
    blob.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(snapshot / "config.json", blob)
    (snapshot / "config.json").symlink_to(target)
    if is_read:
        assert isinstance(load_checkpoint(str(snapshot)), Checkpoint)
    else:
        assert "config.json in " in refusal_of(snapshot)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "..\\x", "c:/x", "x" * 300, "a\0b", "a\nb", ""])
def test_shards_of_other_names(folder: Path, name: str) -> None:
    tensors = checkpoints.read_weights_of(folder)
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(tensors, name)}))
    assert "model" in refusal_of(folder)


# The tokenizer


@pytest.mark.parametrize("tokenizer_class", ["BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", "RoFormerTokenizer"])
@pytest.mark.parametrize("key", ["vocab_file", "vocab", "tokenizer_file", "merges_file", "init_inputs", "spm_file", "chat_template_file"])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_a_file_of_the_users_is_no_vocabulary(folder: Path, secret: Path, file: str, key: str, tokenizer_class: str) -> None:
    no_tokenizer_json(folder)
    edit_json(folder / "tokenizer_config.json", {"tokenizer_class": tokenizer_class, "unk_token": SECRET})
    edit_json(folder / file, {key: [str(secret)] if key == "init_inputs" else str(secret)})
    assert f"{key}' '" in refusal_of(folder).replace("['", "'")


@pytest.mark.parametrize(
    "entry",
    [
        {"sp_model_kwargs": {"model_file": "SECRET"}},
        {"name_or_path": "SECRET"},
        {"special_tokens_map_file": "SECRET"},
        {"fast_tokenizer_files": ["SECRET"]},
        {"chat_template": "SECRET"},
        {"mecab_kwargs": {"mecab_option": "-r SECRET"}},
        {"VOCAB_FILE": "SECRET"},
        {"gguf_file": "SECRET"},
        {"subfolder": "SECRET"},
        {"cache_dir": "SECRET"},
        {"tokenizer_object": "SECRET"},
        {"_spm_precompiled_charsmap": "SECRET"},
    ],
    ids=lambda entry: next(iter(entry)),
)
def test_other_entries_are_refused_or_without_effect(folder: Path, secret: Path, entry: dict[str, Any]) -> None:
    expected = load_checkpoint(str(folder)).tokenizer_json
    edit_json(folder / "tokenizer_config.json", json.loads(json.dumps(entry).replace("SECRET", str(secret))))
    if next(iter(entry)) in ("sp_model_kwargs", "gguf_file"):
        assert f"{next(iter(entry))}' " in refusal_of(folder)
    else:
        assert load_checkpoint(str(folder)).tokenizer_json == expected


def test_unknown_entries_are_noted(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", {"cut_twice": True, "vocab_file": None, "name_or_path": "/home/someone/model"})
    assert "left out of tokenizer_config.json, not known to change tokens: cut_twice" in load_checkpoint(str(folder)).notes


@pytest.mark.parametrize(
    "changes",
    [
        {"do_lower_case": "false"},
        {"tokenizer_class": 7},
        {"tokenizer_class": "No\nSuch" * 500},
        {"model_input_names": "input_ids"},
        {"model_input_names": [1]},
        {"unk_token": ["[UNK]"]},
        {"unk_token": {"content": 7}},
        {"unk_token": "x" * 5000},
        {"padding_side": 7},
        {"padding_side": "up"},
        {"added_tokens_decoder": []},
        {"added_tokens_decoder": {"a": {"content": "x"}}},
        {"added_tokens_decoder": {"0": "x"}},
        {"additional_special_tokens": "abc"},
        {"additional_special_tokens": [None]},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_settings_of_other_types(folder: Path, changes: dict[str, Any]) -> None:
    edit_json(folder / "tokenizer_config.json", changes)
    assert "tokenizer" in refusal_of(folder)


@pytest.mark.parametrize("content", [b"\xff\xfe", b'{"a": "b"}', b'{"a": -1}', b'{"a": true}', b"[]"])
def test_added_tokens(folder: Path, content: bytes) -> None:
    (folder / "added_tokens.json").write_bytes(content)
    assert "added_tokens.json in model" in refusal_of(folder)


def test_a_panic_of_the_tokenizer_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})

    def fail(*_: object, **__: object) -> None:
        raise panic("no entry found for key")

    monkeypatch.setattr("cls_exporter.checkpoint.tokenizer._load", fail)
    assert "the tokenizer of model cannot be loaded (PanicException: no entry found for key)" in refusal_of(folder)
    monkeypatch.setattr("cls_exporter.checkpoint.tokenizer._load", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        load_checkpoint(str(folder))


# Weights


def changed(content: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    name = "embeddings.word_embeddings.weight"
    return {**content, name: change(content[name])}


def set_first(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        copy[0, 0] = value
        return copy

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_first(float("nan")), "holds NaN or infinite numbers"),
        (set_first(float("-inf")), "holds NaN or infinite numbers"),
        (lambda tensor: tensor.double() * 1e300, "holds NaN or infinite numbers"),
        (lambda tensor: tensor.long(), "is int64; supported are"),
        (lambda tensor: tensor.to(torch.int8), "is int8; supported are"),
        (lambda tensor: tensor.bool(), "is bool; supported are"),
        (lambda tensor: tensor.to(torch.complex64), "is complex64; supported are"),
        (lambda tensor: tensor.to(torch.float8_e4m3fn), "is float8_e4m3fn; supported are"),
        (lambda tensor: tensor.to_sparse(), "is sparse, quantized or without numbers"),
        (lambda tensor: tensor.to_sparse_csr(), "is sparse, quantized or without numbers"),
        (lambda tensor: tensor.to("meta"), "is sparse, quantized or without numbers"),
        (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "is sparse, quantized or without numbers"),
        (lambda tensor: torch.nested.nested_tensor([tensor[0], tensor[1]]), "is sparse, quantized or without numbers"),
        (lambda tensor: torch.zeros(1).as_strided((10**6, 10**6), (0, 0)), "larger than what is stored"),
        (lambda tensor: tensor[:1].clone().expand(tensor.shape), "larger than what is stored"),
        (lambda tensor: tensor[:, :5], "config.json makes it"),
        (lambda tensor: tensor[0, 0], "config.json makes it [126, 32]"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of PyTorch's prototypes, which only make the files
def test_tensors_that_are_no_weights(folder: Path, change: Callable[[Tensor], Tensor], message: str) -> None:
    content = changed(checkpoints.read_weights_of(folder), change)
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    assert message in refusal_of(folder)


@pytest.mark.parametrize("is_zip", [True, False])
def test_parameters_and_transposed_tensors_are_read(folder: Path, is_zip: bool) -> None:
    content: dict[str, Tensor] = {name: torch.nn.Parameter(tensor) for name, tensor in checkpoints.read_weights_of(folder).items()}
    content = changed(content, lambda tensor: tensor.detach().t().contiguous().t())
    expected = load_checkpoint(str(folder)).model.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    loaded = load_checkpoint(str(folder)).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def rewritten(path: Path, *, compression: int = zipfile.ZIP_STORED, replace: tuple[bytes, bytes] = (b"", b"")) -> None:
    """Writes a pickle's zip file anew, with other bytes in its data.pkl."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for member in old.infolist():
            content = old.read(member)
            if member.filename.endswith("data.pkl"):
                assert replace[0] in content
                content = content.replace(*replace)
            new.writestr(member.filename, content)
    path.write_bytes(buffer.getvalue())


def test_a_storage_that_claims_more_than_the_file_is_not_read_beyond_it(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.arange(1000.0)}, path)
    number = pickle.dumps(1000, protocol=2)[2:-1]
    rewritten(path, replace=(number, b"J" + struct.pack("<i", 10**6)))
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin"):
        read_tensors(CheckpointFolder.of(tmp_path), path.name)


def test_a_compressed_pickle_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(10**6)}, path)
    rewritten(path, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="it is compressed"):
        read_tensors(CheckpointFolder.of(tmp_path), path.name)


@pytest.mark.parametrize(
    "content",
    [{"a": [torch.ones(2)]}, {"a": 7}, {7: torch.ones(2)}, [torch.ones(2)], torch.ones(2), {"x" * 600: torch.ones(2)}],
    ids=lambda content: repr(content)[:30],
)
def test_pickles_of_other_things(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin holds"):
        read_tensors(CheckpointFolder.of(tmp_path), "pytorch_model.bin")


def safetensors_of(header: Any, *, size: int = 16, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + b"\0" * size


ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "content",
    [
        safetensors_of({"a": ENTRY}, length=2**63),
        safetensors_of({"a": ENTRY}, length=2**27),
        safetensors_of({"a": {**ENTRY, "data_offsets": [0, 2**40]}}),
        safetensors_of({"a": {**ENTRY, "data_offsets": [16, 0]}}),
        safetensors_of({"a": {**ENTRY, "shape": [2**62, 4]}}),
        safetensors_of({"a": {**ENTRY, "shape": [-4]}}),
        safetensors_of({"a": {**ENTRY, "shape": [4.0]}}),
        safetensors_of({"a": {**ENTRY, "shape": "4"}}),
        safetensors_of({"a": {**ENTRY, "dtype": "F33"}}),
        safetensors_of({"a": {**ENTRY, "dtype": 7}}),
        safetensors_of({"a": ENTRY, "b": ENTRY}),
        safetensors_of({"a": ENTRY}, size=64),
        safetensors_of({"a": ENTRY}, size=8),
        safetensors_of([ENTRY]),
        safetensors_of(b"[" * 100_000),
        safetensors_of(b"\xff" * 100),
        safetensors_of({"__metadata__": 7, "a": ENTRY}),
        safetensors_of({"x" * 600: ENTRY}),
    ],
    ids=lambda content: repr(content[8:60]),
)
def test_safetensors_that_lie(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model.safetensors"):
        read_tensors(CheckpointFolder.of(tmp_path), "model.safetensors")


def write_weights(path: Path, kind: str) -> None:
    content = {"a": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(2, dtype=torch.float16)}
    if kind == "safetensors":
        checkpoints.save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_any_damage_of_a_weight_file_gives_tensors_or_a_refusal(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "pytorch_model.bin")
    write_weights(path, kind)
    whole = path.read_bytes()
    draw = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 1, 4))):
            damaged[draw.randrange(len(damaged))] = draw.choice((0, 255, draw.randrange(256)))
        path.write_bytes(damaged[: draw.choice((len(damaged), len(damaged), draw.randrange(len(damaged))))])
        try:
            tensors = read_tensors(CheckpointFolder.of(tmp_path), path.name)
        except ClsError as error:
            refused += "\n" not in str(error) and len(str(error)) < 2000
        else:
            refused += all(tensor.numel() < 10**4 for tensor in tensors.values())
    assert refused == 300
