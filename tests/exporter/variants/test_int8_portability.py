"""int8 on a CPU without VNNI, emulated: the engine's options keep its kernels from saturating."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cls_exporter import ExportConfig, export
from cls_runtime import Encoder
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
from cls_runtime.bundle.parity import THRESHOLDS, cosines, parity_figures, shortfalls
from cls_runtime.verifying.vector_checks import RECORDED_COSINE_MARGIN

ENCODE = """
import sys, numpy as np
from pathlib import Path
from cls_runtime import Encoder
from cls_runtime.engines import onnxruntime
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
onnxruntime.cpu_features = lambda: frozenset({"avx2"})  # the emulator shows the host's /proc/cpuinfo
texts = [text for text in read_golden(Path(sys.argv[1], GOLDEN_NAME)).inputs if isinstance(text, str) and len(text) < 150]
with Encoder.load(sys.argv[1], variant="int8", engine="onnxruntime", threads=1) as encoder:
    np.save(sys.argv[2], encoder.encode(texts))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_parity_holds_without_vnni(minilm, tmp_path):
    emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if emulator is None:
        pytest.skip("needs qemu-user: apt-get install qemu-user")
    bundle, vectors = tmp_path / "bundle", tmp_path / "vectors.npy"
    export(str(minilm), bundle, config=ExportConfig(precisions=("int8",), allow_pooling_mismatch=True))
    # The interpreter itself, not a virtual environment's link or a shim that would start it natively.
    python = str(Path(sys.executable).resolve())
    path = ":".join(entry for entry in sys.path if entry)
    command = [emulator, "-cpu", "Haswell", "-E", f"PYTHONPATH={path}", python, "-c", ENCODE, str(bundle), str(vectors)]
    subprocess.run(command, check=True, capture_output=True, timeout=500)
    golden = read_golden(bundle / GOLDEN_NAME)
    places = [place for place, text in enumerate(golden.inputs) if isinstance(text, str) and len(text) < 150]
    assert len(places) > 60
    emulated = np.load(vectors)
    figures = parity_figures(golden.vectors["cls"][places], emulated)
    assert not shortfalls(figures, THRESHOLDS["int8"])
    with Encoder.load(bundle, variant="int8", engine="onnxruntime", threads=1) as encoder:
        native = encoder.encode([golden.inputs[place] for place in places])
    # Integer kernels agree bit for bit; a float that differs in its last bit may round to another integer (lowest cosine 0.99978 measured).
    # Without session.x64quantprecision it was 0.997.
    assert cosines(native, emulated).min() > 0.9995
    assert abs(figures.mean_cosine - parity_figures(golden.vectors["cls"][places], native).mean_cosine) < RECORDED_COSINE_MARGIN
