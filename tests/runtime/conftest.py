"""Bundles that need neither PyTorch nor the exporter."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bundle_builder import build_bundle
from golden_bundle import build_golden_bundle
from watched_engine import WatchedEngine

from cls_runtime import Bundle, Encoder, EncoderOptions


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny fp32 bundle with all outputs. Read-only by agreement: damage `own_bundle`."""
    return build_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle with prompts, one of them before every text, unit vectors, and a size to cut them to. Read-only by agreement."""
    prompts = {"query": "the cat, ", "document": "a dog: "}
    folder = tmp_path_factory.mktemp("bundle") / "trained"
    return build_golden_bundle(folder, normalize=True, prompts=prompts, default_prompt_name="document", matryoshka_dims=(4,))


@pytest.fixture
def own_bundle(bundle: Path, tmp_path: Path) -> Path:
    """A copy of `bundle` for one test."""
    return Path(shutil.copytree(bundle, tmp_path / "own"))


@pytest.fixture
def encoder(bundle: Path) -> Iterator[Encoder]:
    """An Encoder of `bundle` with two threads."""
    with Encoder.load(bundle, threads=2, token_budget=64) as encoder:
        yield encoder


@pytest.fixture
def watched_engine(bundle: Path) -> WatchedEngine:
    """What `watched` computes on, with two threads."""
    return WatchedEngine(Bundle.open(bundle), threads=2)


@pytest.fixture
def watched(bundle: Path, watched_engine: WatchedEngine) -> Iterator[Encoder]:
    """As `encoder`, on `watched_engine`."""
    with Encoder.of(Bundle.open(bundle), watched_engine, EncoderOptions(token_budget=64)) as encoder:
        yield encoder


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """`build_bundle` into a folder of this test's own."""
    made = 0

    def make(**options: object) -> Path:
        nonlocal made
        made += 1
        return build_bundle(tmp_path / f"made{made}", **options)

    return make
