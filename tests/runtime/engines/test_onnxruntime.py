"""How ONNX Runtime is imported, and where it finds its graph."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cls_runtime import Bundle, Encoder
from cls_runtime.engines import onnxruntime as engine
from cls_runtime.engines.choice import engine_module


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names are bytes there")
@pytest.mark.parametrize(("name", "package"), [("onnxruntime", "onnxruntime"), ("openvino", "openvino.properties")])
def test_a_bundle_in_a_folder_whose_name_is_not_utf_8(bundle, tmp_path, name, package):
    """Without `Bundle.read`, which has such a folder by its descriptor anyway."""
    pytest.importorskip(package)
    there = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(bundle, there)
    loaded = engine_module(name).load(Bundle.open(there), variant="fp32", threads=1)
    with Encoder.of(Bundle.open(there), loaded) as encoder, Encoder.load(bundle, engine=name, threads=1) as plain:
        np.testing.assert_array_equal(encoder.encode(["the cat"]), plain.encode(["the cat"]))


WATCHED = """
import os, sys
sys.path.insert(0, {stand_ins!r})
before = dict(os.environ)
from cls_runtime.engines.onnxruntime import import_package
import_package()
import onnxruntime
print(onnxruntime.seen, dict(os.environ) == before)
"""


@pytest.mark.parametrize(("set_by_user", "seen"), [(None, "1"), ("0", "0")])
def test_telemetry_is_off_at_the_import_and_the_environment_is_as_it_was(tmp_path, set_by_user, seen):
    """ONNX Runtime 1.32 reads the variable when it is imported, and only then (strace in an empty network namespace)."""
    (tmp_path / "onnxruntime.py").write_text("import os\nInferenceSession = None\nseen = os.environ.get('ORT_DISABLE_TELEMETRY')\n")
    environment = {name: value for name, value in os.environ.items() if name != engine.TELEMETRY_VARIABLE}
    environment |= {} if set_by_user is None else {engine.TELEMETRY_VARIABLE: set_by_user}
    code = WATCHED.format(stand_ins=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [seen, "True"]
