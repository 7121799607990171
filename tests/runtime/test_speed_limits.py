"""Limits of time and memory on real weights."""

import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

FIRST_VECTOR = "import sys; from cls_runtime import Encoder; Encoder.load(sys.argv[1], engine='onnxruntime').encode(['hello'])"

MEMORY = """
import random, sys
from pathlib import Path
from cls_runtime import Encoder

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

random = random.Random(0)
texts = (" ".join(random.choices(["cat", "dog", "sleeps", "unbelievable"], k=random.randint(1, 100))) for _ in range(10**9))
with Encoder.load(sys.argv[1], threads=2, variant="fp32", engine="onnxruntime") as encoder:
    for count, _ in enumerate(encoder.stream(texts)):
        if count == 3:
            before = resident_mb()
        if count == 12:
            break
    print(before, resident_mb())
"""


def test_first_vector_within_a_second(minilm_bundle):
    """Process start to first vector; the best of three, since other processes share the machine. Measured: 0.4 s."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", FIRST_VECTOR, str(minilm_bundle)], check=True, timeout=60)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_corpus(bundle):
    """On the tiny model: what could grow with the corpus is what the runtime holds, not the weights."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY, str(bundle)], check=True, capture_output=True, text=True, timeout=250
    )
    before, after = map(float, done.stdout.split())
    assert after < 1.05 * before + 2
