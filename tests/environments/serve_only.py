"""The server in an environment with `cls-export[cpu,serve]` and nothing else: `python serve_only.py BUNDLE`.

Run by `make test-runtime` in environments that have no test tools either, so it is plain unittest.
"""

from __future__ import annotations

import base64
import http.client
import importlib.util
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

import numpy as np

from cls_runtime import Encoder

BUNDLE = Path(sys.argv.pop(1)) if len(sys.argv) > 1 else sys.exit(__doc__)
HEAVY = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "fastapi", "pydantic", "uvloop")
TEXTS = ["A cat sleeps on the roof.", "", "日本語"]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def asked(path: Path, method: str, target: str, body: Any = None) -> tuple[int, bytes]:
    """A request of its own connection: the status and the body."""
    connection = UnixConnection(path)
    try:
        connection.request(method, target, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class ServeOnly(unittest.TestCase):
    def test_heavy_packages_are_not_installed(self) -> None:
        self.assertEqual([name for name in HEAVY if importlib.util.find_spec(name)], [])

    def test_it_starts_embeds_and_ends(self) -> None:
        script = Path(sys.executable).parent / "cls-serve"
        with tempfile.TemporaryDirectory() as folder:
            place, log = Path(folder, "socket"), Path(folder, "log")
            with open(log, "w", encoding="utf-8") as stream:
                command = [str(script), str(BUNDLE), "--uds", str(place), "--threads", "1"]
                server = subprocess.Popen(command, stdout=stream, stderr=stream)
            try:
                until = time.monotonic() + 60
                while not place.exists() and server.poll() is None and time.monotonic() < until:
                    time.sleep(0.02)
                self.assertTrue(place.exists(), log.read_text(encoding="utf-8"))
                self.assertEqual(asked(place, "GET", "/ready")[0], 200)
                status, body = asked(place, "POST", "/v1/embeddings", {"input": TEXTS, "encoding_format": "base64"})
                self.assertEqual(status, 200, body)
                rows = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in json.loads(body)["data"]]
                status, body = asked(place, "POST", "/embed", {"inputs": TEXTS})
                self.assertEqual((status, len(json.loads(body))), (200, len(TEXTS)))
                status, body = asked(place, "POST", "/v1/embeddings", {"input": []})
                self.assertEqual(status, 400, body)
                self.assertIn(b"cls_requests_total", asked(place, "GET", "/metrics")[1])
                self.assertEqual(asked(place, "GET", "/openapi.json")[0], 200)
                server.send_signal(signal.SIGTERM)
                self.assertEqual(server.wait(30), 0, log.read_text(encoding="utf-8"))
                self.assertNotIn("Traceback", log.read_text(encoding="utf-8"))
            finally:
                server.kill()
                server.wait()
        with Encoder.load(BUNDLE, threads=1) as encoder:
            np.testing.assert_allclose(np.stack(rows), encoder.encode(TEXTS), rtol=0, atol=1e-5)


if __name__ == "__main__":
    unittest.main()
