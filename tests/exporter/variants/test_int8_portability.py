"""int8 from CPU to CPU: the same checkpoint gives the same bytes, and the same bundle nearly the same vectors.

qemu-user emulates a CPU with SSE alone, whose kernels add up in another order and in other steps than any that people use today. It knows
no VNNI: `tests/runtime/engines/test_int8_kernels.py` and the exact evaluation in `test_int8.py` stand for it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import checkpoints
import numpy as np
import onnx_ir as ir
import pytest
import torch

from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.config import ExportConfig
from cls_exporter.gate.parity_texts import builtin_texts
from cls_exporter.graph.families import form_of
from cls_exporter.graph.pipeline import compile_graph
from cls_exporter.variants import CalibrationTexts, exact_run
from cls_exporter.variants.int8 import build_int8
from cls_exporter.variants.variant import Built
from cls_runtime import Encoder
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
from cls_runtime.bundle.parity import THRESHOLDS, cosines, parity_figures, shortfalls
from cls_runtime.verifying.vector_checks import recorded_margin

TEXTS = CalibrationTexts.of(builtin_texts("calibration")[::16])

ENCODE = """
import sys, numpy as np
from pathlib import Path
from cls_runtime import Encoder
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
with Encoder.load(sys.argv[1], variant="int8", engine="onnxruntime", threads=1, on_overflow="truncate") as encoder:
    np.save(sys.argv[2], encoder.encode(read_golden(Path(sys.argv[1], GOLDEN_NAME)).inputs[::3]))
"""

BUILD = """
import sys
import test_int8_portability as tests
tests.torch.set_num_threads(1)
print(*tests.digests(tests.built(tests.Path(sys.argv[1]), tests.ir.load(sys.argv[2]))))
"""


def emulated(code: str, *arguments: Path, cpu: str) -> str:
    """What a program in this environment prints on another CPU; skips without an emulator."""
    emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if emulator is None:
        pytest.skip("needs qemu-user: apt-get install qemu-user")
    # The interpreter itself, not a virtual environment's link or a shim that would start it natively.
    python = str(Path(sys.executable).resolve())
    path = os.pathsep.join([str(Path(__file__).parent), *(entry for entry in sys.path if entry)])
    # OpenBLAS takes instructions that the emulated CPU has not, on some machines, unless it is told which CPU this is.
    variables = ["-E", f"PYTHONPATH={path}", "-E", f"OPENBLAS_CORETYPE={cpu}"]
    command = [emulator, "-cpu", cpu, *variables, python, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small checkpoint with outlier channels, as trained ones have."""
    folder = checkpoints.make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "bert")
    weights = checkpoints.read_weights_of(folder)
    for name, tensor in weights.items():
        if name.endswith("LayerNorm.weight"):
            tensor[3] *= 12
    checkpoints.write_weights_of(folder, weights)
    return folder


@pytest.fixture(scope="module")
def graph(checkpoint, store):
    """Its compiled fp32 graph."""
    loaded = load_checkpoint(str(checkpoint), config=ExportConfig())
    return compile_graph(store.trace(loaded), form=form_of(loaded), layout="standard").model


def built(checkpoint: Path, graph: ir.Model) -> Built:
    return build_int8(graph, checkpoint=load_checkpoint(str(checkpoint), config=ExportConfig()), texts=TEXTS)


def digests(item: Built) -> list[str]:
    """SHA-256 of each form."""
    forms = (item.model, *item.engine_models.values())
    return [hashlib.sha256(ir.to_proto(form).SerializeToString(deterministic=True)).hexdigest() for form in forms]


@pytest.mark.slow
def test_noise_in_the_last_bits_changes_no_byte(checkpoint, graph, monkeypatch):
    """Every operand of every operator a little off, by more than another order of adding up makes it."""
    expected = digests(built(checkpoint, graph))
    tensor_of = exact_run._tensor
    touched = []

    def noisy(array: np.ndarray) -> torch.Tensor:
        tensor = tensor_of(array)
        if tensor.dtype != torch.float64:
            return tensor
        touched.append(True)
        return tensor * (1 + 4e-16 * torch.randn(tensor.shape, dtype=torch.float64))

    monkeypatch.setattr(exact_run, "_tensor", noisy)
    assert digests(built(checkpoint, graph)) == expected
    assert len(touched) > 1000


@pytest.mark.slow
def test_the_number_of_threads_changes_no_byte(checkpoint, graph, monkeypatch):
    expected = digests(built(checkpoint, graph))
    monkeypatch.setattr(exact_run, "available_cpus", lambda: 5)
    assert digests(built(checkpoint, graph)) == expected


@pytest.mark.slow
def test_a_cpu_without_avx_writes_the_same_bytes(checkpoint, graph, tmp_path):
    ir.save(graph, tmp_path / "graph.onnx")
    # Loaded from the file here too: it names its producer.
    expected = digests(built(checkpoint, ir.load(tmp_path / "graph.onnx")))
    assert emulated(BUILD, checkpoint, tmp_path / "graph.onnx", cpu="Nehalem").split()[-len(expected) :] == expected


@pytest.mark.slow
def test_a_bundle_passes_on_a_cpu_without_avx(minilm_int8_bundle, tmp_path):
    """All texts, measured between this, AVX2, exact integers and OpenVINO: mean cosine within 5e-6, p1 within 1.4e-4."""
    emulated(ENCODE, minilm_int8_bundle, tmp_path / "vectors.npy", cpu="Nehalem")
    vectors = np.load(tmp_path / "vectors.npy")
    golden = read_golden(minilm_int8_bundle / GOLDEN_NAME)
    texts, reference = golden.inputs[::3], golden.vectors["cls"][::3]  # an emulator is slow
    figures = parity_figures(reference, vectors)
    assert not shortfalls(figures, THRESHOLDS["int8"])
    with Encoder.load(minilm_int8_bundle, variant="int8", engine="onnxruntime", threads=1, on_overflow="truncate") as encoder:
        native = encoder.encode(texts)
    assert abs(figures.mean_cosine - parity_figures(reference, native).mean_cosine) < recorded_margin(figures)
    # Integer kernels agree bit for bit; a float that differs in its last bit may round to another integer. Lowest 0.99969 measured.
    assert cosines(native, vectors).min() > 0.9995
