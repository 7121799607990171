"""The runtime in an environment with `cls-export[cpu]` and nothing else: `python runtime_only.py BUNDLE`.

Run by `make test-runtime` in environments that have no test tools either, so it is plain unittest.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

from cls_runtime import Encoder

BUNDLE = Path(sys.argv.pop(1)) if len(sys.argv) > 1 else sys.exit(__doc__)
HEAVY = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript")


def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).parent / command
    return subprocess.run([str(script), *arguments], capture_output=True, text=True, timeout=600, check=False)


class RuntimeOnly(unittest.TestCase):
    def test_heavy_packages_are_not_installed(self) -> None:
        self.assertEqual([name for name in HEAVY if importlib.util.find_spec(name)], [])

    def test_base_install_asks_for_numpy_and_tokenizers_only(self) -> None:
        requires = importlib.metadata.requires("cls-export") or []
        base = sorted(line.split(">")[0] for line in requires if "extra ==" not in line)
        self.assertEqual(base, ["numpy", "tokenizers"])

    def test_encodes(self) -> None:
        with Encoder.load(BUNDLE) as encoder:
            rows = encoder.encode(["A cat sleeps on the roof.", "", "A cat sleeps on the roof."])
            pooled = encoder.encode(["one text"], output="pooler")
        self.assertEqual((rows.shape, rows.dtype, pooled.shape), ((3, 384), np.float32, (1, 384)))
        self.assertTrue(np.isfinite(rows).all())
        self.assertTrue(np.array_equal(rows[0], rows[2]))
        self.assertFalse(np.allclose(rows[0], rows[1]))

    def test_the_classes_of_sentence_transformers_need_no_more(self) -> None:
        from cls_runtime import MissingExtraError
        from cls_runtime.integrations.sentence_transformers import SentenceTransformer

        model = SentenceTransformer(BUNDLE, device="cpu")
        rows = model.encode(["A cat sleeps on the roof.", "one text"], normalize_embeddings=True)
        self.assertEqual((rows.shape, rows.dtype, model.encode("one text").shape), ((2, 384), np.float32, (384,)))
        self.assertEqual(model.encode(["one text", "another"], precision="ubinary").shape, (2, 48))
        self.assertAlmostEqual(float(model.similarity(rows, rows)[1, 1]), 1, places=5)
        with self.assertRaisesRegex(MissingExtraError, "pip install torch"):
            model.encode(["one text"], convert_to_tensor=True)

    def test_nothing_is_written_into_the_home_folder(self) -> None:
        program = "import sys; from cls_runtime import Encoder; Encoder.load(sys.argv[1]).encode(['one text'])"
        with tempfile.TemporaryDirectory() as home:
            places = {name: str(Path(home, name)) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
            for place in places.values():
                Path(place).mkdir()
            command = [sys.executable, "-I", "-c", program, str(BUNDLE)]
            done = subprocess.run(command, env={**os.environ, **places}, timeout=600, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual([str(path) for path in Path(home).rglob("*") if path.is_file()], [])

    def test_verify_finds_pytorchs_vectors_without_pytorch(self) -> None:
        done = run("cls-verify", str(BUNDLE))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_embed_writes_the_same_vectors(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            texts, vectors = Path(folder, "texts.txt"), Path(folder, "vectors.npy")
            texts.write_text("first\nsecond line\n", encoding="utf-8")
            done = run("cls-embed", str(BUNDLE), str(texts), "-o", str(vectors))
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            rows = np.load(vectors, allow_pickle=False)
        with Encoder.load(BUNDLE) as encoder:
            np.testing.assert_allclose(rows, encoder.encode(["first", "second line"]), rtol=0, atol=1e-5)

    def test_doctor_is_content(self) -> None:
        done = run("cls-doctor", str(BUNDLE))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("onnxruntime", done.stdout)

    def test_export_names_the_pip_command(self) -> None:
        done = run("cls-export", "bert-base-uncased")
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        self.assertIn("pip install", done.stderr)
        self.assertIn("cls-export[export", done.stderr)

    def test_serve_names_the_pip_command(self) -> None:
        done = run("cls-serve", str(BUNDLE))
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        self.assertIn("pip install", done.stderr)
        self.assertIn("serve]", done.stderr)

    def test_verify_against_a_model_names_the_pip_command(self) -> None:
        done = run("cls-verify", str(BUNDLE), "--against", "bert-base-uncased")
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        self.assertIn("pip install", done.stderr)


if __name__ == "__main__":
    unittest.main()
