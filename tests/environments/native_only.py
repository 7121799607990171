"""The runtime in an environment with `cls-export[native]` and no engine of others: `python native_only.py BUNDLE`.

Run by `make test-native`, as plain unittest; the bundle was exported with `--int8` and `--pooler`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

from cls_runtime import Encoder

BUNDLE = Path(sys.argv.pop(1)) if len(sys.argv) > 1 else sys.exit(__doc__)
OTHERS = ("onnxruntime", "openvino", "torch", "transformers", "onnx", "ziglang")
MOST_BYTES = 30_000_000
TEXTS = ["A cat sleeps on the roof.", "", "A cat sleeps on the roof.", "one " * 200]


def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).parent / command
    return subprocess.run([str(script), *arguments], capture_output=True, text=True, timeout=600, check=False)


class NativeOnly(unittest.TestCase):
    def test_no_engine_of_others_is_installed(self) -> None:
        self.assertEqual([name for name in OTHERS if importlib.util.find_spec(name)], [])

    def test_the_kernels_have_the_version_of_the_runtime_and_ask_for_nothing(self) -> None:
        self.assertEqual(importlib.metadata.version("cls-export-native"), importlib.metadata.version("cls-export"))
        self.assertEqual(importlib.metadata.requires("cls-export-native") or [], [])
        self.assertIn("cls-export-native; extra == 'native'", importlib.metadata.requires("cls-export") or [])

    def test_both_distributions_are_small(self) -> None:
        files = [file for name in ("cls-export", "cls-export-native") for file in importlib.metadata.files(name) or []]
        paths = [Path(str(file.locate())) for file in files]
        self.assertLessEqual(sum(path.stat().st_size for path in paths if path.exists()), MOST_BYTES)

    def test_encodes_the_same_bits_alone_and_in_a_batch(self) -> None:
        with Encoder.load(BUNDLE) as encoder:
            rows = encoder.encode(TEXTS)
            alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
            pooled = encoder.encode(["one text"], output="pooler")
            engine = encoder.info.engine
        self.assertEqual(engine, "native")
        self.assertEqual((rows.shape, rows.dtype, pooled.shape), ((len(TEXTS), 384), np.float32, (1, 384)))
        self.assertTrue(np.isfinite(rows).all())
        self.assertEqual(rows.tobytes(), alone.tobytes())
        self.assertFalse(np.allclose(rows[0], rows[1]))

    def test_each_variant_loads(self) -> None:
        found = {}
        for variant in ("fp32", "int8"):
            with Encoder.load(BUNDLE, variant=variant) as encoder:
                found[variant] = encoder.encode(TEXTS)
        cosines = np.sum(found["fp32"] * found["int8"], axis=1) / np.prod([np.linalg.norm(rows, axis=1) for rows in found.values()], axis=0)
        self.assertGreater(cosines.min(), 0.995)
        self.assertLess(cosines.min(), 1 - 1e-7)

    def test_verify_finds_pytorchs_vectors(self) -> None:
        done = run("cls-verify", str(BUNDLE))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_doctor_is_content(self) -> None:
        done = run("cls-doctor", str(BUNDLE))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("native", done.stdout)

    def test_embed_writes_the_same_vectors(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            texts, vectors = Path(folder, "texts.txt"), Path(folder, "vectors.npy")
            texts.write_text("first\nsecond line\n", encoding="utf-8")
            done = run("cls-embed", str(BUNDLE), str(texts), "-o", str(vectors))
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            rows = np.load(vectors, allow_pickle=False)
        with Encoder.load(BUNDLE) as encoder:
            self.assertEqual(rows.tobytes(), encoder.encode(["first", "second line"]).tobytes())

    def test_another_engine_names_the_pip_command(self) -> None:
        done = run("cls-verify", str(BUNDLE), "--engine", "onnxruntime")
        self.assertNotEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("cls-export[cpu]", done.stderr)


if __name__ == "__main__":
    unittest.main()
