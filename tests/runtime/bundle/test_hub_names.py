"""What names a model of the hub, what is a path, and what is neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from cls_runtime.bundle.hub_names import HubName, cached_id, hub_name
from cls_runtime.errors import UsageError


@pytest.mark.parametrize(
    ("model", "name", "revision"),
    [
        ("bert-base-uncased", "bert-base-uncased", None),
        ("org/name", "org/name", None),
        ("org/name/", "org/name", None),
        ("org/name@v2", "org/name", "v2"),
        ("name@refs/pr/3", "name", "refs/pr/3"),
        ("hf://org/name@v2", "org/name", "v2"),
        ("https://huggingface.co/org/name.git", "org/name", None),
        ("https://huggingface.co/org/name", "org/name", None),
        ("http://www.huggingface.co/org/name/", "org/name", None),
        ("huggingface.co/bert-base-uncased", "bert-base-uncased", None),
        ("https://hf.co/org/name?library=transformers#usage", "org/name", None),
        ("https://huggingface.co/org/name/tree/main", "org/name", "main"),
        ("https://huggingface.co/name/tree/refs%2Fpr%2F3/", "name", "refs/pr/3"),
        ("https://huggingface.co/org/name/blob/v2/onnx/model.onnx", "org/name", "v2"),
        ("https://huggingface.co/org/name/resolve/main/config.json?download=true", "org/name", "main"),
        ("https://huggingface.co/org/name/commit/0123456", "org/name", "0123456"),
    ],
)
def test_names_of_the_hub(model: str, name: str, revision: str | None) -> None:
    assert hub_name(model) == HubName(id=name, revision=revision)


@pytest.mark.parametrize("model", ["", "./name", "/some/where", "~/model", "a/b/c", "a\\b", "a/b/c@v2", "@v2"])
def test_paths(model: str) -> None:
    assert hub_name(model) is None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("https://huggingface.co/datasets/org/name", "is no address of a model on the hub"),
        ("https://huggingface.co/", "is no address of a model on the hub"),
        ("https://huggingface.co/org/name/discussions/3", "is no address of a model on the hub"),
        ("https://huggingface.co/org/name/tree", "is no address of a model on the hub"),
        ("https://huggingface.co/org/name/tree/main/part", "is the address of a folder in a repository"),
        ("https://example.com/org/name", "is no address of a model on the hub"),
        ("s3://bucket/model", "is no address of a model on the hub"),
        ("org/name@", "names no revision behind the @"),
    ],
)
def test_what_names_no_model(model: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        hub_name(model)


def test_folders_of_the_cache(tmp_path: Path) -> None:
    for name, model in (("models--org--name", "org/name"), ("models--name", "name"), ("models--org--a--b", "org/a--b"), ("model", None)):
        assert cached_id(tmp_path / name) is None
        (tmp_path / name / "snapshots").mkdir(parents=True)
        assert cached_id(tmp_path / name) == model
