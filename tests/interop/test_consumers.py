"""Other programs load the bundle unchanged and give PyTorch's vectors. Run by `make interop`, which makes their environments.

The lines that are run are those of docs/integrations and those of each bundle's own card.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from interpreters import OFFLINE, Interpreters
from minilm import bundle_in, sampled
from numpy.typing import NDArray
from prompted import KINDS, TEXTS, bundle_of, expected_of
from snippets import CARD_PROGRAMS, EXAMPLE, FILES, ROOT, Case, card_cases, cases
from tokenizers import Tokenizer

from cls_runtime import Bundle
from cls_runtime.bundle.golden import Golden, read_golden

MAX_ABS = 5e-5  # contract's for fp32; measured 3.8e-6 with every consumer
CUT_DIFFERENTLY = 1e-3  # measured 3e-2 without the final [SEP]
LAYOUTS = ("standard", "mean", "native", "broadcast")
THEIR_ONNX_BACKEND = 'sentence-transformers 5, `backend="onnx"`'
CANNOT = {("native", THEIR_ONNX_BACKEND)}  # it reads last_hidden_state, whatever else there is
RUNS = [(program, environment) for program, environments in CARD_PROGRAMS.items() for environment in environments]


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def expected_vectors(bundle: Path, golden: Golden, indices: list[int], vectors: str) -> NDArray[np.float32]:
    """PyTorch's, of an output, `-normalized` or not; `as trained` is what its source makes of a sentence."""
    manifest = Bundle.open(bundle).manifest
    if vectors == "as trained":
        vectors = "sentence-normalized" if manifest.source_pooling.normalize else "sentence"
    rows = golden.vectors[manifest.recorded(vectors.removesuffix("-normalized"))][indices]
    return unit(rows) if vectors.endswith("-normalized") else rows


def over_length(bundle: Path, texts: list[str]) -> NDArray[np.bool_]:
    limit = Bundle.open(bundle).manifest.max_length
    return np.array([len(encoding.ids) > limit for encoding in Tokenizer.from_file(str(bundle / "tokenizer.json")).encode_batch(texts)])


def token_ids(bundle: Path, texts: list[str]) -> list[list[int]]:
    """As the model gets them: two long texts can be the same once they are cut."""
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.enable_truncation(Bundle.open(bundle).manifest.max_length)
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def run(case: Case, bundle: Path, texts: list[str], folder: Path, interpreters: Interpreters) -> dict[str, NDArray[np.float32]]:
    """What the snippet computes in its environment, in a folder where `models/` has the bundle by its name and by that in the pages."""
    (folder / "models").mkdir()
    for name in {EXAMPLE, bundle.name}:
        (folder / "models" / name).symlink_to(bundle)
    program = folder / ("program.mjs" if case.language == "js" else "program.py")
    program.write_text(case.program(texts), encoding="utf-8")
    if case.language == "js":
        (folder / "node_modules").symlink_to(ROOT / ".venv-interop" / case.environment / "node_modules")
        command, environment = [shutil.which("node") or "node", program.name], {**os.environ, **OFFLINE}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        interpreters[case.environment].run(program)
    return {name: np.fromfile(folder / FILES[name], "<f4").reshape(len(texts), -1) for name in case.results}


def check_on_golden_texts(case: Case, bundle: Path, folder: Path, interpreters: Interpreters) -> None:
    golden = read_golden(bundle / "golden.npz")
    indices = sampled(golden)
    texts = [golden.texts[index] for index in indices]
    expected = expected_vectors(bundle, golden, indices, case.vectors)
    too_long = over_length(bundle, texts)
    assert 0 < too_long.sum() < len(texts)
    differences = np.abs(run(case, bundle, texts, folder, interpreters)["vectors"] - expected).max(axis=1)
    held = ~too_long if case.over_length_differs else np.ones_like(too_long)
    assert (differences[held] <= MAX_ABS).all(), differences
    if case.over_length_differs:
        assert (differences[too_long] > CUT_DIFFERENTLY).all(), f"now cut as PyTorch does: say so where it says otherwise ({differences})"


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_pages_lines_give_pytorchs_vectors(case: Case, tmp_path: Path, interpreters: Interpreters) -> None:
    check_on_golden_texts(case, bundle_in(case.layout), tmp_path, interpreters)


def in_the_card(bundle: Path, layout: str, program: str, environment: str) -> Case | None:
    """The case of a program in a bundle's card, which has all programs but those that cannot."""
    found = {(case.place, case.environment): case for case in card_cases(bundle, layout)}
    assert [*found] == [run for run in RUNS if (layout, run[0]) not in CANNOT]
    return found.get((program, environment))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("program", "environment"), RUNS)
def test_the_cards_lines_give_the_sources_vectors(
    layout: str, program: str, environment: str, tmp_path: Path, interpreters: Interpreters
) -> None:
    case = in_the_card(bundle_in(layout), layout, program, environment)
    if case is not None:
        check_on_golden_texts(case, bundle_in(layout), tmp_path, interpreters)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("program", "environment"), RUNS)
def test_the_cards_lines_put_the_sources_prompts_before_a_text(
    kind: str, program: str, environment: str, tmp_path: Path, interpreters: Interpreters
) -> None:
    """On small models of sentence-transformers, whose own vectors are the expected ones."""
    bundle, expected = bundle_of(kind), expected_of(kind)
    case = in_the_card(bundle, kind, program, environment)
    assert case is not None
    got = run(case, bundle, TEXTS, tmp_path, interpreters)
    knows_prompts = program in ("cls_runtime", "sentence-transformers", THEIR_ONNX_BACKEND)
    assert list(got) == (["vectors", "queries"] if knows_prompts or KINDS[kind].include_prompt else ["vectors"])
    for name, rows in got.items():
        assert np.abs(rows - expected[name]).max() <= MAX_ABS, name


def test_the_expected_vectors_tell_texts_and_poolings_apart() -> None:
    """Or the tests above could not fail: no text's vector is near another's, none is near its normalized or its pooled one."""
    golden = {layout: read_golden(bundle_in(layout) / "golden.npz") for layout in ("standard", "mean")}
    assert golden["standard"].texts == golden["mean"].texts
    indices = sampled(golden["mean"])
    tokens = token_ids(bundle_in("mean"), [golden["mean"].texts[index] for index in indices])
    same = np.array([[one == other for other in tokens] for one in tokens])
    assert same.sum() < 2 * len(tokens)
    vectors = {
        (layout, name): expected_vectors(bundle_in(layout), golden[layout], indices, name)
        for layout in golden
        for name in ("sentence", "sentence-normalized", "pooler")
    }
    for rows in vectors.values():
        nearest = np.abs(rows[:, None] - rows[None]).max(axis=2)[~same]
        assert nearest.min() > 20 * MAX_ABS
    kinds = [key for key in vectors if key != ("mean", "pooler")]  # it is the same as the other's
    for first, second in itertools.combinations(kinds, 2):
        assert np.abs(vectors[first] - vectors[second]).max(axis=1).min() > 20 * MAX_ABS, (first, second)


def test_the_expected_vectors_tell_prompts_apart() -> None:
    for kind in KINDS:
        expected = expected_of(kind)
        assert np.abs(expected["vectors"] - expected["queries"]).max(axis=1).min() > 20 * MAX_ABS
        assert np.abs(expected["vectors"] - expected["bare"]).max(axis=1).min() > 20 * MAX_ABS or not KINDS[kind].default
