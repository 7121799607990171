"""Other programs load the bundle unchanged and give PyTorch's vectors. Run by `make interop`, which makes their environments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from snippets import ROOT, VECTORS_FILE, Case, cases
from tokenizers import Tokenizer

from cls_runtime import Bundle
from cls_runtime.bundle.golden import Golden, read_golden

MAX_ABS = 5e-5  # contract's for fp32; measured 3.8e-6 with every consumer
CUT_DIFFERENTLY = 1e-3  # measured 3e-2 without the final [SEP]


def bundle_in(layout: str) -> Path:
    """all-MiniLM-L6-v2 in fp32 alone, which the Makefile exports."""
    return ROOT / "build" / f"all-MiniLM-L6-v2-{layout}"


def sampled(golden: Golden) -> list[int]:
    """Every fifth text, and the longest: a limit's length, one less, one and many more."""
    return sorted({*range(0, len(golden.texts), 5), *sorted(range(len(golden.texts)), key=lambda index: len(golden.texts[index]))[-5:]})


def expected_vectors(golden: Golden, indices: list[int], vectors: str) -> NDArray[np.float32]:
    rows = golden.vectors[vectors.removesuffix("-normalized")][indices]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) if vectors.endswith("-normalized") else rows


def over_length(bundle: Path, texts: list[str]) -> NDArray[np.bool_]:
    limit = Bundle.open(bundle).manifest.max_length
    return np.array([len(encoding.ids) > limit for encoding in Tokenizer.from_file(str(bundle / "tokenizer.json")).encode_batch(texts)])


def token_ids(bundle: Path, texts: list[str]) -> list[list[int]]:
    """As the model gets them: two long texts can be the same once they are cut."""
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.enable_truncation(Bundle.open(bundle).manifest.max_length)
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def run(case: Case, bundle: Path, texts: list[str], folder: Path, *, width: int) -> NDArray[np.float32]:
    """The vectors that the snippet computes in its environment, in a folder where `models/all-MiniLM-L6-v2` is the bundle."""
    home = ROOT / ".venv-interop" / case.environment
    python = Path(sys.executable) if case.environment == "development" else home / "bin" / "python"
    (folder / "models").mkdir()
    (folder / "models" / "all-MiniLM-L6-v2").symlink_to(bundle)
    if case.language == "js":
        (folder / "node_modules").symlink_to(home / "node_modules")
        program, command = folder / "program.mjs", shutil.which("node") or "node"
    else:
        program, command = folder / "program.py", str(python)
    program.write_text(case.program(texts), encoding="utf-8")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([command, program.name], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return np.fromfile(folder / VECTORS_FILE, "<f4").reshape(len(texts), width)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_snippet_gives_pytorchs_vectors(case: Case, tmp_path: Path) -> None:
    bundle = bundle_in(case.layout)
    golden = read_golden(bundle / "golden.npz")
    indices = sampled(golden)
    texts = [golden.texts[index] for index in indices]
    expected = expected_vectors(golden, indices, case.vectors)
    too_long = over_length(bundle, texts)
    assert 0 < too_long.sum() < len(texts)
    differences = np.abs(run(case, bundle, texts, tmp_path, width=expected.shape[1]) - expected).max(axis=1)
    held = ~too_long if case.over_length_differs else np.ones_like(too_long)
    assert (differences[held] <= MAX_ABS).all(), differences
    if case.over_length_differs:
        assert (differences[too_long] > CUT_DIFFERENTLY).all(), f"now cut as PyTorch does: say so in docs/integrations.md ({differences})"


def test_the_expected_vectors_tell_texts_and_poolings_apart() -> None:
    """Or the test above could not fail: no text's vector is near another's, none is near its normalized or its pooled one."""
    bundle = bundle_in("standard")
    golden = read_golden(bundle / "golden.npz")
    indices = sampled(golden)
    cls, unit, pooler = (expected_vectors(golden, indices, name) for name in ("cls", "cls-normalized", "pooler"))
    tokens = token_ids(bundle, [golden.texts[index] for index in indices])
    same = np.array([[one == other for other in tokens] for one in tokens])
    assert same.sum() < 2 * len(tokens)
    nearest = np.abs(cls[:, None] - cls[None]).max(axis=2)[~same]
    assert nearest.min() > 20 * MAX_ABS
    assert np.abs(cls - unit).max(axis=1).min() > 20 * MAX_ABS
    assert np.abs(cls - pooler).max(axis=1).min() > 20 * MAX_ABS
