"""The runtime needs neither PyTorch nor the exporter's packages, and an engine only when one is used."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from native_bundle import add_native
from native_library import needs_native

from cls_runtime.bundle.manifest import read_manifest
from cls_runtime.engines.choice import choose

HEAVY = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "huggingface_hub", "cls_exporter")
ENGINES = ("onnxruntime", "openvino", "cls_export_native")

PROBE = """
import sys
{statements}
print(*[name for name in {names!r} if name in sys.modules])
"""
USE = """
from cls_runtime import Encoder
with Encoder.load({folder!r}, threads=2, token_budget=8) as encoder:
    encoder.encode(["the cat", "a", ("a", "pair")])
"""


def loaded(statements, names):
    code = PROBE.format(statements=statements, names=names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_import_loads_no_heavy_package_and_no_engine():
    assert loaded("import cls_runtime", (*HEAVY, *ENGINES, "numpy", "tokenizers")) == []


def test_what_checks_vectors_loads_no_engine_and_no_pytest():
    """Whoever asks whether vectors are the model's may have got them from elsewhere."""
    statements = (
        "from cls_runtime import assert_same_vectors, compare_bundles, require_compatible, verify\nassert_same_vectors([[1.0]], [[1.0]])"
    )
    assert loaded(statements, (*HEAVY, *ENGINES, "pytest", "_pytest")) == []


def test_encoding_loads_no_heavy_package(bundle):
    assert loaded(USE.format(folder=str(bundle)), HEAVY) == []


def test_encoding_loads_no_event_loop(bundle):
    """asyncio and ssl are a tenth of a cold start, and whoever calls `aencode` has them."""
    assert loaded(USE.format(folder=str(bundle)), ("asyncio", "ssl")) == []


@pytest.mark.parametrize("name", ["onnx", "huggingface_hub"])
def test_the_probe_sees_what_is_loaded(bundle, name):
    """The two tests above can fail: the same probe finds a package that was imported."""
    pytest.importorskip(name)
    assert name in loaded(f"import {name}\n" + USE.format(folder=str(bundle)), HEAVY)


def test_the_probe_sees_the_engine_and_no_other(bundle):
    (engine,) = loaded(USE.format(folder=str(bundle)), ENGINES)
    assert engine == choose(read_manifest(bundle)).engine


@needs_native
def test_the_native_engine_loads_no_other(bundle, tmp_path):
    folder = add_native(Path(shutil.copytree(bundle, tmp_path / "native")))
    use = USE.format(folder=str(folder)).replace("threads=2", 'threads=2, engine="native"')
    assert loaded(use, (*HEAVY, *ENGINES)) == ["cls_export_native"]


def test_nothing_global_changes(bundle):
    changed = """
import logging, os, random, threading
import numpy, multiprocessing
before = (dict(os.environ), logging.root.level, list(logging.root.handlers), random.getstate(), numpy.random.get_state()[1].tolist(),
          multiprocessing.get_start_method(allow_none=True), sys.getswitchinterval(), threading.active_count())
"""
    after = """
after = (dict(os.environ), logging.root.level, list(logging.root.handlers), random.getstate(), numpy.random.get_state()[1].tolist(),
         multiprocessing.get_start_method(allow_none=True), sys.getswitchinterval(), threading.active_count())
if before != after: sys.modules["changed"] = sys
"""
    assert loaded(changed + USE.format(folder=str(bundle)) + after, ("changed",)) == []
    assert loaded(changed + "os.environ['A_NEW_ONE'] = '1'" + after, ("changed",)) == ["changed"]
