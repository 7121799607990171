"""Limits of memory, of what a cold start touches, and of what waiting costs. None of them is a time: see tests/test_recorded_figures.py."""

import json
import subprocess
import sys

import pytest

from cls_runtime.bundle.manifest import MANIFEST_NAME

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

FIRST_VECTOR = """
import json, sys
from os.path import realpath  # at the time: the bundle's folder is read through a descriptor

opened = []
sys.addaudithook(lambda event, details: opened.append(realpath(str(details[0]))) if event == "open" else None)
import onnxruntime

graphs = []
class Session(onnxruntime.InferenceSession):
    def __init__(self, path, *arguments, **options):
        graphs.append(realpath(path))
        super().__init__(path, *arguments, **options)
onnxruntime.InferenceSession = Session

from cls_runtime import Encoder
Encoder.load(sys.argv[1], engine="onnxruntime", variant="int8").encode(["hello"])
print(json.dumps({"graphs": graphs, "opened": opened}))
"""

MEMORY = """
import random, sys
from cls_runtime import Encoder
from cls_runtime.bench.resident import resident_bytes

random = random.Random(0)
words = "the cat dog sleeps runs a b c".split()
texts = (f"{number} " + " ".join(random.choices(words, k=random.randint(1, 100))) for number in range(200_000))
settled, done = 0, 0
with Encoder.load(sys.argv[1], threads=2, engine=sys.argv[2], on_overflow="truncate") as encoder:
    for block in encoder.stream(texts):
        done += len(block)
        if done >= 10_000:
            settled = settled or resident_bytes()
    print(settled / 2**20, resident_bytes() / 2**20)
"""

CLOSING = """
import sys
from cls_runtime import Encoder
from cls_runtime.bench.resident import resident_bytes

for _ in range(2):  # the first one also loads libraries, which stay
    encoder = Encoder.load(sys.argv[1], threads=2, engine=sys.argv[2], variant="fp32")
    encoder.encode(["hello"])
    loaded = resident_bytes()
    encoder.close()
print(loaded - resident_bytes())
"""

IDLE = """
import sys, time
from cls_runtime import Encoder

def cpu_share(of_seconds):
    start, cpu = time.perf_counter(), time.process_time()
    time.sleep(of_seconds)
    return (time.process_time() - cpu) / (time.perf_counter() - start)

with Encoder.load(sys.argv[1], threads=2, engine=sys.argv[2]) as encoder:
    encoder.encode([f"the cat {number}" for number in range(500)])
    time.sleep(0.2)
    print(cpu_share(1.0))
"""


@pytest.fixture(params=["onnxruntime", "openvino"])
def engine(request):
    """Each CPU engine that is installed; `make test-openvino` has both."""
    pytest.importorskip("openvino.properties" if request.param == "openvino" else request.param)
    return request.param


def run(program, *arguments):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)], check=True, capture_output=True, text=True
    ).stdout


def test_a_first_vector_opens_one_graph_and_hashes_none(make_bundle):
    """Of a bundle's files Python reads the small ones alone, and of one graph its form; a hash would take longer than all the rest."""
    folder = make_bundle(variants={"fp32": None, "int8": None})
    (folder / "golden.npz").touch()
    touched = json.loads(run(FIRST_VECTOR, folder))
    assert touched["graphs"] == [str(folder / "onnx" / "model_int8.onnx")]
    opened = {path.removeprefix(f"{folder}/") for path in touched["opened"] if path.startswith(f"{folder}/")}
    assert MANIFEST_NAME in opened
    assert {path for path in opened if not path.endswith(".json")} <= {"onnx/model_int8.onnx"}


@linux
@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(make_bundle, engine):
    """On a tiny model: what could grow with the corpus is what the runtime and the engine hold, not the weights.

    Measured, in MiB: ONNX Runtime 150 after 10,000 texts and after 200,000; OpenVINO 294 and 304; with a real model docs/guides/embed.md.
    This process is so small that the allocators' steps count, 4 MiB.
    """
    settled, last = map(float, run(MEMORY, make_bundle(max_length=128), engine).split())
    assert last < 1.05 * settled + 4


HUGE_TEXT = """
import re, sys, time
from cls_runtime import Encoder

def mebibytes(line):
    with open("/proc/self/status") as status:
        return int(re.search(line + r":\\s+(\\d+) kB", status.read())[1]) / 2**10

kinds = {"words": ("a ", 25_000_000), "dots": (".", 20_000_000), "one word": ("a", 50_000_000), "pair": ("a ", 20_000_000)}
unit, count = kinds[sys.argv[2]]
text = (unit * count, "b") if sys.argv[2] == "pair" else unit * count
with Encoder.load(sys.argv[1], threads=2, engine=sys.argv[3], on_overflow="truncate") as encoder:
    encoder.encode(["hello"])
    before = mebibytes("VmRSS")
    start = time.process_time()
    rows, report = encoder.encode_with_report([text, "the cat"])
    used = mebibytes("VmHWM") - before
    print(len(rows), used, time.process_time() - start, [(cut.index, cut.at_least) for cut in report.truncated])
"""


@linux
@pytest.mark.parametrize("kind", ["words", "dots", "one word", "pair"])
def test_a_huge_text_has_a_vector_in_bounded_memory_and_time(make_bundle, engine, kind):
    """Tokenized whole it takes 200 to 400 bytes a character, 4 to 11 GB, and half a minute. Measured: up to 28 MiB and 1 s of CPU."""
    rows, used, seconds, truncated = run(HUGE_TEXT, make_bundle(max_length=128), kind, engine).split(maxsplit=3)
    assert int(rows) == 2
    assert float(used) < 100
    assert float(seconds) < 15
    assert truncated.strip() == ("[]" if kind == "one word" else "[(0, True)]")


@linux
@pytest.mark.slow
def test_close_gives_the_weights_back(minilm_bundle, engine):
    """At least half of the graph's 91 MB."""
    size = (minilm_bundle / "onnx" / "model.onnx").stat().st_size
    assert float(run(CLOSING, minilm_bundle, engine)) > 0.5 * size


@pytest.mark.slow
def test_nothing_spins_when_there_is_nothing_to_do(bundle, engine):
    """The share of a CPU that the process takes while it waits, by its own CPU seconds, which neighbours do not add to.

    Measured: 0.00005. A thread that spins takes all of a free CPU, and took 0.25 of one beside six other programs on two CPUs.
    """
    assert float(run(IDLE, bundle, engine)) < 0.05
