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

TEXTS = ["A short text.", "Two climbers were rescued by helicopter from the north face after their rope jammed in a crack."]
ENCODE = """
import sys, numpy as np
from cls_runtime import Encoder
with Encoder.load(sys.argv[1], variant="int8", engine="onnxruntime", threads=1) as encoder:
    np.save(sys.argv[2], encoder.encode(sys.argv[3:]))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_vectors_are_the_same_without_vnni(minilm, tmp_path):
    emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if emulator is None:
        pytest.skip("needs qemu-user: apt-get install qemu-user")
    bundle, vectors = tmp_path / "bundle", tmp_path / "vectors.npy"
    export(str(minilm), bundle, config=ExportConfig(precisions=("int8",), allow_pooling_mismatch=True))
    # The interpreter itself, not a virtual environment's link or a shim that would start it natively.
    python = str(Path(sys.executable).resolve())
    path = ":".join(entry for entry in sys.path if entry)
    command = [emulator, "-cpu", "Haswell", "-E", f"PYTHONPATH={path}", python, "-c", ENCODE, str(bundle), str(vectors), *TEXTS]
    subprocess.run(command, check=True, capture_output=True, timeout=500)
    with Encoder.load(bundle, variant="int8", engine="onnxruntime") as encoder:
        native = encoder.encode(TEXTS)
    # Bit for bit with session.x64quantprecision in the measured case; without it the cosine was 0.997.
    np.testing.assert_allclose(np.load(vectors), native, atol=1e-4)
