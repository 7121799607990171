"""Where a checkpoint's files come from and what is refused in them: folders, the hub's cache, safetensors, pickles, shards."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkpoints
import pytest
import torch

from cls_exporter import ExportConfig
from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.checkpoint.folder import CheckpointFolder, inside
from cls_exporter.checkpoint.tensor_files import read_tensors
from cls_exporter.errors import CheckpointError, UnsupportedError
from cls_runtime.errors import UsageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "fedcba9876543210fedcba9876543210fedcba98"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoints.make_checkpoint(tmp_path / "model")


def row_of(folder: Path) -> torch.Tensor:
    checkpoint = load_checkpoint(str(folder))
    batch = checkpoint.tokenizer("the cat sat", return_tensors="pt")
    with torch.no_grad():
        row: torch.Tensor = checkpoint.model(**{name: batch[name] for name in checkpoint.inputs})[0]
    return row


def shard(folder: Path, suffix: str) -> Path:
    """Splits the weights into two files with an index, which is returned."""
    tensors = checkpoints.read_weights_of(folder)
    (folder / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = sorted(tensors)
    placed = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = folder / f"{stem}-0000{number}-of-00002.{suffix}"
        content = {name: tensors[name].clone() for name in part}
        if suffix == "safetensors":
            checkpoints.save_file(content, file)
        else:
            torch.save(content, file)
        placed.update(dict.fromkeys(part, file.name))
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return index


def test_a_pickle_of_tensors_is_read(folder: Path) -> None:
    expected = row_of(folder)
    tensors = checkpoints.read_weights_of(folder)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert torch.equal(row_of(folder), expected)


OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 2)}}, "param_groups": [{"lr": 1e-4}]}
# What training programs write: the state dict is `WEIGHTS`.
WEIGHTS = {"w": torch.ones(2, 2), "b": torch.ones(2)}
WRAPPED: dict[str, dict[str, Any]] = {
    "Lightning": {"state_dict": WEIGHTS, "epoch": 3, "optimizer_states": [OPTIMIZER], "callbacks": {"best": {"score": torch.tensor(0.9)}}},
    "a training loop": {"model_state_dict": WEIGHTS, "optimizer_state_dict": OPTIMIZER, "loss": torch.tensor(0.5)},
    "DeepSpeed": {"module": WEIGHTS, "optimizer": None, "param_shapes": [{"w": torch.Size([2, 2])}], "ds_version": "0.1"},
    "fairseq": {"args": None, "model": WEIGHTS, "last_optimizer_state": OPTIMIZER, "best": True},
    "a flat optimizer": {"model": WEIGHTS, "optim": {"exp_avg": WEIGHTS, "exp_avg_sq": WEIGHTS}},
    "states of random numbers": {"model": WEIGHTS, "rng": {"cpu": torch.zeros(16, dtype=torch.uint8)}, "scaler": {"scale": 1.0}},
    "twice": {"app": {"model": WEIGHTS, "epoch": 1}, "step": 7},
}


@pytest.mark.parametrize("program", WRAPPED)
def test_a_state_dict_within_what_a_training_program_writes(program: str, tmp_path: Path) -> None:
    torch.save(WRAPPED[program], tmp_path / "pytorch_model.bin")
    read = read_tensors(CheckpointFolder.of(tmp_path), "pytorch_model.bin")
    assert read.keys() == WEIGHTS.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in WEIGHTS.items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": WEIGHTS, "ema": WEIGHTS}, "holds 2 state dicts, under 'model', 'ema', and nothing says which is the model"),
        ({"a": {"b": WEIGHTS}, "a.b": WEIGHTS}, "holds 2 state dicts, under 'a.b', 'a.b'"),
        ({"state_dict": WEIGHTS, "teacher": {"model": WEIGHTS}}, "under 'state_dict', 'teacher.model'"),
        ({"a": {"b": {"c": WEIGHTS}}}, "holds more than named tensors"),
        ({"optimizer": WEIGHTS}, "holds more than named tensors"),
        ({**WEIGHTS, "epoch": 3}, "holds more than named tensors"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_state_dict_that_cannot_be_told(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_tensors(CheckpointFolder.of(tmp_path), "pytorch_model.bin")


def test_safetensors_win_over_a_pickle(folder: Path) -> None:
    expected = row_of(folder)
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    assert torch.equal(row_of(folder), expected)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_read(folder: Path, suffix: str) -> None:
    expected = row_of(folder)
    shard(folder, suffix)
    assert torch.equal(row_of(folder), expected)


class Attack:
    """What a malicious pickle does: run a program when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self.mark),))


def test_a_pickle_that_runs_code_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weights": Attack(tmp_path / "attacked")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin cannot be loaded as tensors only"):
        load_checkpoint(str(folder))
    assert not (tmp_path / "attacked").exists()


def test_a_pickle_of_something_else_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save([1, 2, 3], folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds more than named tensors"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/passwd", "a/../../evil.safetensors", "C:\\evil.safetensors"])
def test_a_shard_outside_the_folder_is_refused(folder: Path, name: str) -> None:
    index = shard(folder, "safetensors")
    content = json.loads(index.read_text())
    content["weight_map"][next(iter(content["weight_map"]))] = name
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="leaves the checkpoint's folder"):
        load_checkpoint(str(folder))


def test_missing_shards_and_tensors_are_named(folder: Path) -> None:
    index = shard(folder, "safetensors")
    content = json.loads(index.read_text())
    name = sorted(content["weight_map"])[0]
    checkpoints.edit_json(index, {"weight_map": {**content["weight_map"], "ghost.weight": content["weight_map"][name]}})
    with pytest.raises(CheckpointError, match=r"the shards of model.safetensors.index.json lack ghost.weight"):
        load_checkpoint(str(folder))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names the shard model-00002-of-00002.safetensors, which is not in model"):
        load_checkpoint(str(folder))
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="has no weight_map"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("size_bytes", [7, 100, -100])
def test_damaged_safetensors(folder: Path, size_bytes: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size_bytes])
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged or not safetensors"):
        load_checkpoint(str(folder))


def test_a_damaged_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02garbage")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin cannot be loaded"):
        load_checkpoint(str(folder))


def test_no_weights_says_what_is_there(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    with pytest.raises(CheckpointError, match=r"has no weights to read \(found tf_model.h5\); expected model.safetensors"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("content", ["{", "[1, 2]", "\x00", "[" * 100_000])
def test_broken_config_json(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config.json in model (cannot be read as JSON|holds a list)"):
        load_checkpoint(str(folder))


def test_missing_config_json(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"model has no config.json"):
        load_checkpoint(str(folder))


def test_a_configuration_that_makes_no_model(folder: Path) -> None:
    checkpoints.edit_json(folder / "config.json", {"hidden_size": 30})
    with pytest.raises(CheckpointError, match=r"config.json"):
        load_checkpoint(str(folder))


def test_an_adapter_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedError, match="is an adapter"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_custom_code_needs_permission(folder: Path, file: str) -> None:
    checkpoints.edit_json(folder / file, {"auto_map": {"AutoModel": "modeling.MyModel"}})
    with pytest.raises(CheckpointError, match=rf"Python code of its own \(auto_map in {file}\).*--trust-remote-code"):
        load_checkpoint(str(folder))


def test_custom_code_runs_when_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (folder / "modeling_doubled.py").write_text(
        textwrap.dedent("""
            from transformers import BertModel

            class DoubledBertModel(BertModel):
                def forward(self, input_ids=None, attention_mask=None, token_type_ids=None):
                    output = super().forward(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
                    return (output.last_hidden_state * 2,)
        """)
    )
    expected = 2 * row_of(folder)
    checkpoints.edit_json(folder / "config.json", {"auto_map": {"AutoModel": "modeling_doubled.DoubledBertModel"}})
    checkpoint = load_checkpoint(str(folder), config=ExportConfig(trust_remote_code=True))
    batch = checkpoint.tokenizer("the cat sat", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(checkpoint.model(**batch)[0], expected)


def test_paths_that_do_not_exist(tmp_path: Path) -> None:
    for path in (str(tmp_path / "nothing"), "./nothing", "~/nothing-here", "a/b/c", ""):
        with pytest.raises(CheckpointError, match="does not exist; expected a hub id or a folder"):
            load_checkpoint(path)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file; expected a hub id or the folder"):
        load_checkpoint(str(tmp_path / "file"))


@pytest.mark.parametrize(("stored", "named"), [(b"caf\xe9", r"caf\xe9"), ("müller".encode(), "müller")], ids=["Latin-1", "UTF-8"])
@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin", "shards"])
def test_folders_of_any_name(folder: Path, stored: bytes, named: str, weights: str) -> None:
    expected = row_of(folder)
    if weights == "pytorch_model.bin":
        torch.save(checkpoints.read_weights_of(folder), folder / weights)
        (folder / "model.safetensors").unlink()
    elif weights == "shards":
        shard(folder, "safetensors")
    moved = folder.rename(folder.with_name(os.fsdecode(stored)))
    assert torch.equal(row_of(moved), expected)
    assert load_checkpoint(str(moved)).name == named


def test_a_revision_of_a_local_folder_makes_no_sense(folder: Path) -> None:
    with pytest.raises(UsageError, match="is a local folder, --revision main names a commit"):
        load_checkpoint(str(folder), revision="main")


def test_names_stay_inside() -> None:
    assert inside(Path("/models/m"), "1_Pooling", named_by="modules.json") == Path("/models/m/1_Pooling")
    assert inside(Path("/models/m"), "", named_by="modules.json") == Path("/models/m")
    for name in ("..", "a/../..", "/etc", "..\\up", "c:/x"):
        with pytest.raises(CheckpointError, match=r"modules.json names"):
            inside(Path("/models/m"), name, named_by="modules.json")


def test_the_name_is_never_a_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert load_checkpoint(".").name == "model"
    assert load_checkpoint(f"{folder}/").name == "model"


def test_hashes(folder: Path) -> None:
    checkpoint = load_checkpoint(str(folder))
    assert checkpoint.weights_sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert checkpoint.tokenizer_sha256 == hashlib.sha256(checkpoint.tokenizer_json.encode()).hexdigest()
    shard(folder, "safetensors")
    sharded = load_checkpoint(str(folder)).weights_sha256
    moved = folder.rename(folder.parent / "elsewhere")
    assert load_checkpoint(str(moved)).weights_sha256 == sharded != checkpoint.weights_sha256


# The hub. A child process, because huggingface_hub reads HF_HOME and HF_HUB_OFFLINE when it is imported.

LOAD_FROM_HUB = """
    import json, sys
    from cls_exporter.checkpoint import load_checkpoint
    from cls_runtime.errors import ClsError
    results = []
    for model, revision in json.loads(sys.argv[1]):
        try:
            checkpoint = load_checkpoint(model, revision=revision)
            results.append([checkpoint.name, checkpoint.revision, checkpoint.weights_sha256, checkpoint.max_length])
        except ClsError as error:
            results.append([type(error).__name__, str(error), error.exit_code])
    print(json.dumps(results))
"""


def lay_out_cache(home: Path, repository: str, commit: str, source: Path, *, refs: tuple[str, ...] = ("main",)) -> None:
    """A hub cache as huggingface_hub lays it out: blobs, snapshots of links to them, refs."""
    root = home / "hub" / f"models--{repository.replace('/', '--')}"
    for path in sorted(source.rglob("*")):
        if path.is_file():
            blob = root / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, blob)
            link = root / "snapshots" / commit / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    (root / "refs").mkdir(exist_ok=True)
    for name in refs:
        (root / "refs" / name).write_text(commit)


def load_from_hub(home: Path, *models: tuple[str, str | None]) -> list[list[object]]:
    """Loads each (model, revision) in a process that is offline and has `home` as its cache."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(LOAD_FROM_HUB), json.dumps(models)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=home)
    assert done.returncode == 0, done.stderr
    results: list[list[object]] = json.loads(done.stdout)
    return results


FromHub = tuple[dict[tuple[str, str | None], list[object]], dict[str, str]]
# The model and the revision that are asked for, and which commit of which repository that is.
IN_THE_CACHE: dict[tuple[str, str | None], tuple[str, str]] = {
    ("someone/small-bert", None): ("someone/small-bert", COMMIT),
    ("someone/small-bert/", None): ("someone/small-bert", COMMIT),
    ("someone/small-bert@main", None): ("someone/small-bert", COMMIT),
    ("someone/small-bert", COMMIT[:7]): ("someone/small-bert", COMMIT),
    ("https://huggingface.co/someone/small-bert", None): ("someone/small-bert", COMMIT),
    ("hub/models--someone--small-bert", None): ("someone/small-bert", COMMIT),
    ("small-bert", None): ("small-bert", COMMIT),
    ("small-bert", "experiment"): ("small-bert", OTHER_COMMIT),
    ("small-bert", OTHER_COMMIT): ("small-bert", OTHER_COMMIT),
    ("small-bert@experiment", "experiment"): ("small-bert", OTHER_COMMIT),
    ("https://huggingface.co/small-bert/blob/experiment/config.json", None): ("small-bert", OTHER_COMMIT),
    ("hub/models--small-bert/", None): ("small-bert", COMMIT),
    ("hub/models--small-bert", "experiment"): ("small-bert", OTHER_COMMIT),
    ("hub/models--small-bert", OTHER_COMMIT[:8]): ("small-bert", OTHER_COMMIT),
}
NOT_THERE = (("someone/absent", None), ("someone/small-bert", "v2"), ("someone/small-bert", "fedcba9"), ("bad id!", None))


@pytest.fixture(scope="module")
def from_hub(tmp_path_factory: pytest.TempPathFactory) -> FromHub:
    """What loading each of `IN_THE_CACHE` and `NOT_THERE` gives, in one process; and the SHA-256 of each commit's weights."""
    work = tmp_path_factory.mktemp("hub")
    home = work / "home"
    plain, pickled = checkpoints.make_checkpoint(work / "plain"), checkpoints.make_checkpoint(work / "pickled", seed=1)
    torch.save(checkpoints.read_weights_of(pickled), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    lay_out_cache(home, "someone/small-bert", COMMIT, plain)
    lay_out_cache(home, "small-bert", COMMIT, plain)
    lay_out_cache(home, "small-bert", OTHER_COMMIT, pickled, refs=("experiment",))
    stored = {COMMIT: plain / "model.safetensors", OTHER_COMMIT: pickled / "pytorch_model.bin"}
    asked = (*IN_THE_CACHE, *NOT_THERE)
    loaded = dict(zip(asked, load_from_hub(home, *asked), strict=True))
    return loaded, {commit: hashlib.sha256(path.read_bytes()).hexdigest() for commit, path in stored.items()}


def test_hub_ids_come_from_the_cache(from_hub: FromHub) -> None:
    loaded, sha256 = from_hub
    assert {asked: loaded[asked] for asked in IN_THE_CACHE} == {
        asked: [name, commit, sha256[commit], checkpoints.MAX_POSITIONS] for asked, (name, commit) in IN_THE_CACHE.items()
    }


@pytest.mark.parametrize(("model", "revision"), NOT_THERE)
def test_what_the_cache_lacks_is_one_clear_error_offline(model: str, revision: str | None, from_hub: FromHub) -> None:
    kind, message, exit_code = from_hub[0][model, revision]
    assert (kind, exit_code) == ("CheckpointError", 2)
    assert str(message).startswith(f"{model} at revision {revision} cannot" if revision else f"{model} cannot be fetched from the hub")
    assert "HF_HUB_OFFLINE" in str(message)
    assert "\n" not in str(message)


def test_a_short_hash_that_the_cache_lacks_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    commits = [SimpleNamespace(commit_id=commit) for commit in (COMMIT, OTHER_COMMIT)]
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_commits", lambda self, model: commits)
    asked: list[str | None] = []

    def download(model: str, *, revision: str | None, **_: object) -> str:
        asked.append(revision)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for revision in ("fedcba9", "0000000", "v2", None):
        with pytest.raises(CheckpointError, match="cannot be fetched from the hub"):
            load_checkpoint("someone/no-such-model", revision=revision)
    assert asked == [OTHER_COMMIT, "0000000", "v2", None]


def test_folders_of_the_cache_without_the_snapshot(folder: Path, tmp_path: Path) -> None:
    lay_out_cache(tmp_path, "someone/bert", COMMIT, folder, refs=("branch",))
    repository = tmp_path / "hub" / "models--someone--bert"
    assert load_checkpoint(str(repository)).revision == COMMIT  # the only one
    shutil.copytree(repository / "snapshots" / COMMIT, repository / "snapshots" / OTHER_COMMIT, symlinks=True)
    has = rf"it has {COMMIT}, {OTHER_COMMIT}\); name one of these with --revision"
    with pytest.raises(CheckpointError, match=rf"models--someone--bert is a folder of the hub's cache and has no main snapshot \({has}"):
        load_checkpoint(str(repository))
    for revision in ("v2", "0000000", "../../x"):
        with pytest.raises(CheckpointError, match=rf"no snapshot of revision {re.escape(revision)} \({has}"):
            load_checkpoint(str(repository), revision=revision)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_snapshot_whose_links_dangle(folder: Path, tmp_path: Path, name: str) -> None:
    lay_out_cache(tmp_path, "someone/bert", COMMIT, folder)
    repository = tmp_path / "hub" / "models--someone--bert"
    (repository / "snapshots" / COMMIT / name).resolve().unlink()
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)} in {COMMIT} is not downloaded \(it is a link into the hub's cache"):
        load_checkpoint(str(repository))


def test_two_revisions_are_one_too_many() -> None:
    with pytest.raises(UsageError, match="org/name@v1 names the revision v1, and --revision v2 another"):
        load_checkpoint("org/name@v1", revision="v2")


def test_only_the_files_that_are_needed_are_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import filter_repo_objects

    from cls_exporter.checkpoint import source

    needed = ["config.json", "model.safetensors", "modules.json", "sentence_bert_config.json", "sentencepiece.bpe.model", "tokenizer.json"]
    needed += ["vocab.txt", "1_Pooling/config.json", "2_Dense/model.safetensors", "README.md"]
    frameworks = ["tf_model.h5", "flax_model.msgpack", "rust_model.ot", "model.onnx", "onnx/model.onnx", "onnx/config.json"]
    others = ["openvino/openvino_model.bin", "0_Transformer/tf_model.h5", "docs/README.md", "training_args.bin"]
    stored = [*needed, *frameworks, *others, "pytorch_model.bin", "train.py"]
    asked: list[list[str]] = []

    def download(model: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append(sorted(filter_repo_objects(stored, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    source.find_source("someone/model", revision=None, trust_remote_code=False)
    assert asked == [sorted(needed)]
    (folder / "model.safetensors").unlink()
    source.find_source("someone/model", revision=None, trust_remote_code=True)
    assert asked[1:] == [sorted([*needed, "train.py"]), ["pytorch_model.bin"]]
