"""What the doctor finds out about GPUs, with stand-ins for the driver, for ONNX Runtime and for the process that runs a packed graph."""

import dataclasses
import itertools
import os
import subprocess
import types

import numpy as np
import onnx
import pytest
from fake_driver import H100, T4, FakeDriver, pretend_driver
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from cls_runtime import EngineError, MissingExtraError
from cls_runtime.engines import packing
from cls_runtime.engines.cuda import attention_kernel, checkup, driver
from cls_runtime.engines.cuda.load import PROVIDER


@pytest.fixture
def machine(monkeypatch):
    """A machine with GPUs, the GPU wheel and its libraries, whose packed graph runs on the fast kernel; what is told to it differs."""

    def make(*, gpus=(H100,), providers=(PROVIDER,), complaints=(), cudnn=True, kernel="FLASH_ATTENTION"):
        pretend_driver(monkeypatch, FakeDriver(gpus) if gpus is not None else None)
        ort = types.SimpleNamespace(get_available_providers=lambda: [*providers, "CPUExecutionProvider"])
        monkeypatch.setattr(checkup, "import_package", lambda: ort)
        monkeypatch.setattr(checkup, "preload", lambda given: complaints)
        monkeypatch.setattr(checkup, "_loads", lambda library: cudnn)
        monkeypatch.setattr(checkup, "driver_version", lambda: "580.65.06")
        monkeypatch.setattr(checkup, "attention_kernel", kernel if callable(kernel) else lambda: kernel)

    return make


def test_all_is_well(machine):
    machine(gpus=[H100, T4])
    found = checkup.check_up()
    assert (found.driver, found.cuda, found.libraries, found.cudnn) == ("580.65.06", "13.0", (), True)
    assert [str(gpu) for gpu in found.gpus] == ["0 (NVIDIA H100 80GB HBM3, 79 GiB)", "1 (Tesla T4, 15 GiB)"]
    assert (found.attention, found.problem) == ("FLASH_ATTENTION", None)


@pytest.mark.parametrize("gpus", [None, ()])
def test_without_a_gpu_there_is_nothing_to_find_out(machine, gpus):
    machine(gpus=gpus, kernel=lambda: pytest.fail("a process was started"))
    assert checkup.check_up() is None


def test_a_wheel_without_cuda_is_not_tried(machine):
    machine(providers=(), kernel=lambda: pytest.fail("a process was started"))
    found = checkup.check_up()
    assert (found.libraries, found.cudnn, found.attention) == (None, None, None)
    assert "the installed onnxruntime has no CUDAExecutionProvider" in found.problem
    assert found.gpus


def test_no_onnx_runtime_is_told(machine, monkeypatch):
    machine()

    def missing():
        raise MissingExtraError("onnxruntime is not installed; run: pip install cls-export[cpu]")

    monkeypatch.setattr(checkup, "import_package", missing)
    found = checkup.check_up()
    assert (found.attention, found.problem) == (None, "onnxruntime is not installed; run: pip install cls-export[cpu]")


@pytest.mark.parametrize(
    ("gpu", "kernel", "problem"),
    [
        (H100, "MATH", "MATH computes attention, expected FLASH_ATTENTION; long texts take longer"),
        (H100, "", "onnxruntime does not say which kernel computes attention"),
        (T4, "EFFICIENT_ATTENTION", "FLASH_ATTENTION needs a compute capability of 8.0, Tesla T4 has 7.5"),
    ],
)
def test_another_kernel_is_told_with_the_reason(machine, gpu, kernel, problem):
    machine(gpus=[gpu], kernel=kernel)
    found = checkup.check_up()
    assert found.attention == kernel
    assert problem in found.problem


def test_a_graph_that_does_not_run_is_told(machine):
    def fails():
        raise EngineError("a packed graph does not run on the GPU: no memory")

    machine(kernel=fails, complaints=("Failed to load libcublas.so.13: no such file",), cudnn=False)
    found = checkup.check_up()
    assert (found.attention, found.problem) == (None, "a packed graph does not run on the GPU: no memory")
    assert (found.libraries, found.cudnn) == (("Failed to load libcublas.so.13: no such file",), False)


def test_a_library_is_looked_for_by_the_linker():
    assert not checkup._loads("libof_no_machine.so.9")


# ---------------------------------------------------------------- the process that runs a packed graph


def process(monkeypatch, *, code=0, out="", err=""):
    """The child process that a test sees in the place of one."""
    seen = {}

    def run(command, **options):
        seen.update(options, command=command)
        return subprocess.CompletedProcess(command, code, out, err)

    monkeypatch.setattr(attention_kernel.subprocess, "run", run)
    return seen


SAID = "Operator=PackedMultiHeadAttention Node= DataType=fp16 QKV=1x8x128 SdpaKernel=FLASH_ATTENTION\n"


@pytest.mark.parametrize(("out", "kernel"), [(SAID, "FLASH_ATTENTION"), (SAID.replace("FLASH_ATTENTION", "MATH") * 2, "MATH"), ("", "")])
def test_the_name_is_read_from_what_onnx_runtime_prints(monkeypatch, out, kernel):
    seen = process(monkeypatch, out=out)
    assert attention_kernel.attention_kernel() == kernel
    assert seen["env"] == {**os.environ, "ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO": "1"}
    assert attention_kernel.VARIABLE not in os.environ


def test_what_goes_wrong_in_it_is_one_line(monkeypatch):
    process(monkeypatch, code=2, err="a warning\nerror: engine cuda: CUDAExecutionProvider did not come up\n")
    with pytest.raises(EngineError, match="^a packed graph does not run on the GPU: engine cuda: CUDAExecutionProvider did not come up$"):
        attention_kernel.attention_kernel()


def test_one_that_hangs_is_ended(monkeypatch):
    def run(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(attention_kernel.subprocess, "run", run)
    with pytest.raises(EngineError, match="did not run on the GPU within 3 s"):
        attention_kernel.attention_kernel(limit_s=3)


def test_it_really_starts_and_tells_what_this_machine_lacks():
    """No pretence: without a GPU the process's own line comes back; with one a kernel's name does."""
    try:
        assert attention_kernel.attention_kernel()
    except EngineError as error:
        assert "a packed graph does not run on the GPU: engine cuda" in str(error)  # noqa: PT017


class PackedMultiHeadAttention(OpRun):
    """Attention within each text, in the plainest way."""

    op_domain = "com.microsoft"

    def _run(self, query, key, value, bias, token_offset, offsets, num_heads=None):
        assert bias is None
        assert token_offset.shape[0] == len(offsets) - 1
        rows = np.zeros_like(value)
        size = query.shape[1] // num_heads
        for start, end in itertools.pairwise(offsets):
            for head in range(num_heads):
                part = np.s_[start:end, head * size : (head + 1) * size]
                scores = np.exp(query[part].astype(np.float64) @ key[part].T.astype(np.float64) / np.sqrt(size))
                rows[part] = scores / scores.sum(1, keepdims=True) @ value[part]
        return (rows,)


class OnTheReference:
    """An engine that runs the graph in ONNX's reference implementation, `off` by so much."""

    name, workers, providers, closed = "reference", 1, (), False

    def __init__(self, off=0.0):
        self.off = off

    def load(self, bundle, *, variant, threads, devices=()):
        self.evaluator = ReferenceEvaluator(str(bundle.graph(variant, engine="cuda")), new_ops=[PackedMultiHeadAttention])
        return self

    def run(self, batch, outputs):
        rows = self.evaluator.run(outputs, packing.packed(batch, self.evaluator.input_names))
        return [rows[0] + np.float32(self.off)]

    def close(self):
        self.closed = True


def test_the_graph_is_a_valid_one_and_computes_what_it_says():
    model = onnx.load_from_string(attention_kernel.graph_bytes())
    onnx.checker.check_model(model)
    assert {item.name for item in model.graph.input} <= set(packing.INPUTS)
    assert {(item.domain, item.version) for item in model.opset_import} == {("", 17), ("com.microsoft", 1)}
    (attention,) = [node for node in model.graph.node if node.domain == "com.microsoft"]
    assert list(attention.input) == ["rows", "rows", "rows", "", "token_offset", "cu_seqlens"]
    engine = OnTheReference()
    attention_kernel.run(engine)
    assert engine.closed


@pytest.mark.parametrize("off", [0.1, float("nan")])
def test_a_gpu_that_computes_something_else_is_told(off):
    engine = OnTheReference(off)
    with pytest.raises(EngineError, match="packed attention is off by .*, expected at most 0.01"):
        attention_kernel.run(engine)
    assert engine.closed


@pytest.mark.gpu
def test_this_gpus_kernel_is_the_fast_one():
    try:
        (gpu, *_) = driver.gpus()
    except EngineError as error:
        pytest.skip(str(error))
    if gpu.compute_capability < (8, 0):
        pytest.skip(f"{gpu} has no kernel of that kind")
    found = checkup.check_up()
    assert (found.attention, found.problem) == ("FLASH_ATTENTION", None), dataclasses.asdict(found)
