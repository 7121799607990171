"""cls-export with onnxruntime-gpu on a machine without a GPU: `python gpu_without_gpu.py BUNDLE [--both-wheels]`.

The CPU provider of that wheel computes for those who ask for it by name, and for nobody else. Run by `make test-gpu-extra`, as plain
unittest; with `--both-wheels` in a copy of the environment into which `onnxruntime` was installed over `onnxruntime-gpu`.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
import tempfile
import unittest
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np

from cls_runtime import ClsError, Encoder, EngineError, InstallationWarning, UsageError
from cls_runtime.engines.cuda.driver import LIBRARY as DRIVER

BOTH_WHEELS = "--both-wheels" in sys.argv
if BOTH_WHEELS:
    sys.argv.remove("--both-wheels")
BUNDLE = Path(sys.argv.pop(1)) if len(sys.argv) > 1 else sys.exit(__doc__)
TEXTS = ["A cat sleeps on the roof.", ""]


def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).parent / command
    return subprocess.run([str(script), *arguments], capture_output=True, text=True, timeout=600, check=False)


def has_gpu() -> bool:
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


@unittest.skipIf(BOTH_WHEELS, "one wheel only")
@unittest.skipIf(has_gpu(), f"this machine has an NVIDIA driver ({DRIVER}); run pytest -m gpu")
class OneWheel(unittest.TestCase):
    def test_the_gpu_wheel_is_the_only_engine(self) -> None:
        self.assertTrue(metadata.version("onnxruntime-gpu"))
        for other in ("onnxruntime", "openvino"):
            with self.assertRaises(metadata.PackageNotFoundError):
                metadata.version(other)

    def test_the_extra_gpu_names_what_brings_cudas_libraries(self) -> None:
        """They are not in this environment: gigabytes that nothing here would load."""
        self.assertIn("onnxruntime-gpu[cuda,cudnn]>=1.21; extra == 'gpu'", metadata.requires("cls-export") or [])
        self.assertLessEqual({"cuda", "cudnn"}, set(metadata.metadata("onnxruntime-gpu").get_all("Provides-Extra") or []))
        brought = [line for line in metadata.requires("onnxruntime-gpu") or [] if "extra" in line]
        for library in ("nvidia-cuda-runtime", "nvidia-cudnn"):
            self.assertTrue(any(line.startswith(library) for line in brought), brought)

    def test_the_cpu_provider_computes_when_it_is_asked_for(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Encoder.load(BUNDLE, engine="onnxruntime") as encoder:
                rows = encoder.encode(TEXTS)
        self.assertEqual(encoder.info.providers, ("CPUExecutionProvider",))
        self.assertEqual((rows.shape, rows.dtype), ((2, 384), np.float32))
        self.assertTrue(np.isfinite(rows).all())

    def test_its_vectors_are_pytorchs(self) -> None:
        done = run("cls-verify", str(BUNDLE), "--engine", "onnxruntime")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_auto_does_not_fall_back_to_it(self) -> None:
        with self.assertRaisesRegex(UsageError, "engine='cuda', or engine='onnxruntime' for the CPU") as caught:
            Encoder.load(BUNDLE)
        self.assertNotIn("\n", str(caught.exception))

    def test_asking_for_a_gpu_is_one_line_that_says_what_is_missing(self) -> None:
        for device in (None, 1, "all"):
            with self.subTest(device=device), self.assertRaisesRegex(EngineError, "engine cuda needs an NVIDIA GPU.*no NVIDIA driver"):
                Encoder.load(BUNDLE, engine="cuda", device=device)
        for options in ([], ["--device", "1"], ["--device", "all"]):
            with self.subTest(options=options), tempfile.TemporaryDirectory() as folder:
                texts, vectors = Path(folder, "texts.txt"), Path(folder, "vectors.npy")
                texts.write_text("first\n", encoding="utf-8")
                done = run("cls-embed", str(BUNDLE), str(texts), "-o", str(vectors), "--engine", "cuda", *options)
                self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
                (line,) = done.stderr.splitlines()
                self.assertTrue(line.startswith("error: engine cuda needs an NVIDIA GPU"), line)
                self.assertFalse(vectors.exists())

    def test_doctor_tells_the_same(self) -> None:
        done = run("cls-doctor", str(BUNDLE), "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        found = json.loads(done.stdout)
        engines = {engine["name"]: engine for engine in found["engines"]}
        self.assertEqual([name for name in engines if engines[name]["works"]], ["onnxruntime"])
        self.assertIn(DRIVER, engines["cuda"]["detail"])
        self.assertTrue(found["auto"].startswith("none: "), found["auto"])
        self.assertEqual(found["bundle"]["engine"], "onnxruntime")
        self.assertEqual(found["warnings"], [])


@unittest.skipUnless(BOTH_WHEELS, "both wheels only")
class BothWheels(unittest.TestCase):
    def test_doctor_finds_both_and_says_how_to_mend_it(self) -> None:
        done = run("cls-doctor")
        for wheel in ("onnxruntime", "onnxruntime-gpu"):
            self.assertRegex(done.stdout, rf"(?m)^  {wheel} +{re.escape(metadata.version(wheel))}$")
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
        self.assertIn("onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files", line)
        self.assertIn("pip uninstall -y onnxruntime onnxruntime-gpu", line)

    def test_loading_warns_of_it(self) -> None:
        with self.assertWarnsRegex(InstallationWarning, "both installed"):
            Encoder.load(BUNDLE, engine="onnxruntime").close()

    def test_cuda_is_an_error_whichever_wheels_files_are_there(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InstallationWarning)
            with self.assertRaisesRegex(ClsError, "engine cuda needs .*(pip uninstall -y onnxruntime onnxruntime-gpu|no NVIDIA driver)"):
                Encoder.load(BUNDLE, engine="cuda")


if __name__ == "__main__":
    unittest.main()
