"""Memory for a run's inputs: what arrives, how it grows, page locking where CUDA's runtime is there, and how a lack of memory is told."""

import gc
import types

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from packed_graphs import batch_of, packed_model, session_of

from cls_runtime.engines.cuda import memory
from cls_runtime.engines.cuda.memory import CudaRuntime, Device, InputBuffer, InputBuffers, is_out_of_memory
from cls_runtime.engines.packing import packed

CPU = Device("cpu")
NAMES = ("input_ids", "position_ids", "cu_seqlens", "cls_rows")


def run(session, buffer, feeds):
    binding = session.io_binding()
    buffer.bind(binding, feeds)
    binding.bind_output("sentence_embedding", "cpu")
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()[0]


def test_inputs_arrive_as_they_are_and_the_buffer_is_used_again():
    session, buffer = session_of(packed_model()), InputBuffer(CPU, least=64)
    for lengths in ((3, 9, 1), (40, 40), (1,), (7, 7, 7, 7)):
        feeds = packed(batch_of(*lengths), NAMES)
        np.testing.assert_array_equal(run(session, buffer, feeds), session.run(["sentence_embedding"], feeds)[0])


def test_a_buffer_grows_by_doubling_and_does_not_shrink():
    session, buffer = session_of(packed_model()), InputBuffer(CPU, least=64)
    sizes = []
    for texts in (1, 50, 2, 100, 1, 120):
        run(session, buffer, packed(batch_of(*[20] * texts), NAMES))
        sizes.append(buffer.size_bytes)
    assert sizes == sorted(sizes)
    assert all(size & (size - 1) == 0 for size in sizes)
    assert sizes[1] == sizes[2]


def test_int64_inputs_arrive_too():
    made = []
    binding = types.SimpleNamespace(bind_input=lambda *arguments: made.append(arguments))
    buffer = InputBuffer(CPU)
    ids = np.arange(12, dtype=np.int64).reshape(3, 4) << 33
    buffer.bind(binding, {"input_ids": ids, "attention_mask": ids.T})
    (first, second) = made
    assert first[:5] == ("input_ids", "cpu", 0, np.int64, (3, 4))
    assert second[4] == (4, 3)
    assert (second[5] - first[5]) % 256 == 0
    for arguments, array in ((first, ids), (second, ids.T)):
        there = (np.ctypeslib.ctypes.c_int64 * 12).from_address(arguments[5])
        assert list(there) == array.ravel().tolist()


def test_a_buffer_is_one_runs_at_a_time():
    buffers = InputBuffers(2, lambda: InputBuffer(CPU))
    with buffers.taken() as first, buffers.taken() as second:
        assert first is not second
        assert buffers._free.empty()  # a third would wait
    with buffers.taken() as again:
        assert again is first  # the last that was given back: its memory is there already


def test_a_buffer_comes_back_from_a_run_that_failed():
    buffers = InputBuffers(1, lambda: InputBuffer(CPU))
    with pytest.raises(ValueError, match="failed"), buffers.taken():
        raise ValueError("failed")
    with buffers.taken():
        pass


class Runtime:
    """CUDA's runtime, as ctypes gives it. `register_status` is what cudaHostRegister gives."""

    def __init__(self, register_status=0):
        self.calls = []
        self.locked = set()
        self.register_status = register_status

    def cudaSetDevice(self, number):  # noqa: N802
        self.calls.append(("device", number))
        return 0

    def cudaHostRegister(self, address, size, flags):  # noqa: N802
        assert flags.value == 1
        if not self.register_status:
            self.locked.add((address.value, size.value))
        return self.register_status

    def cudaHostUnregister(self, address):  # noqa: N802
        self.locked = {item for item in self.locked if item[0] != address.value}
        return 0

    def cudaGetLastError(self):  # noqa: N802
        self.calls.append(("forgotten",))
        return 0


def locking(monkeypatch, runtime, *, version="13.0"):
    opened = []
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: opened.append(name) or runtime)
    return CudaRuntime.found(types.SimpleNamespace(cuda_version=version), 1), opened


def test_host_memory_is_locked_as_long_as_it_is_there(monkeypatch):
    runtime = Runtime()
    found, opened = locking(monkeypatch, runtime)
    assert ".13" in opened[0] or "64_13" in opened[0]
    buffer = InputBuffer(CPU, runtime=found, least=64)
    buffer._reserve(64)
    assert runtime.locked == {(buffer._host.ctypes.data, 256)}
    buffer._reserve(200)
    assert runtime.locked == {(buffer._host.ctypes.data, 1024)}
    del buffer
    gc.collect()
    assert not runtime.locked


def test_the_gpu_is_the_threads_when_it_is_copied_to(monkeypatch):
    """Runs of a pool come from threads whose last run was on another GPU."""
    runtime = Runtime()
    found, _ = locking(monkeypatch, runtime)
    run(session_of(packed_model()), InputBuffer(CPU, runtime=found), packed(batch_of(3), NAMES))
    assert set(runtime.calls) == {("device", 1)}
    assert runtime.calls[0] == ("device", 1)


def test_the_gpu_is_the_threads_before_memory_is_locked(monkeypatch):
    """Otherwise CUDA sets up the first GPU, which may be somebody else's, for a thread that has run nothing yet."""
    runtime = Runtime()
    order = []
    monkeypatch.setattr(runtime, "cudaSetDevice", lambda number: order.append(f"device {number}") or 0)
    monkeypatch.setattr(runtime, "cudaHostRegister", lambda *_: order.append("locked") or 0)
    monkeypatch.setattr(runtime, "cudaHostUnregister", lambda _: 0)
    found, _ = locking(monkeypatch, runtime)
    InputBuffer(CPU, runtime=found)._reserve(8)
    assert order == ["device 1", "locked"]


def test_memory_that_cannot_be_locked_stays_ordinary_and_leaves_no_error_behind(monkeypatch):
    """ONNX Runtime asks for a thread's last CUDA error after each kernel."""
    runtime = Runtime(register_status=2)
    found, _ = locking(monkeypatch, runtime)
    buffer = InputBuffer(CPU, runtime=found)
    buffer._reserve(8)
    assert runtime.calls[-1] == ("forgotten",)
    assert buffer.size_bytes


def test_without_cudas_runtime_nothing_is_locked(monkeypatch):
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(memory.ctypes, "CDLL", absent)
    assert CudaRuntime.found(types.SimpleNamespace(cuda_version="13.0"), 0) is None
    assert CudaRuntime.found(types.SimpleNamespace(), 0) is None


def test_a_library_that_is_another_locks_nothing(monkeypatch):
    assert locking(monkeypatch, object())[0] is None


@pytest.mark.parametrize(
    "message",
    [
        "while running MatMul node. bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 402653184",
        "while running Gemm node. bfc_arena.cc:358 Available memory of 34699008 is smaller than requested bytes of 945041920",
        "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);",
        "cudaErrorMemoryAllocation",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
    ],
)
def test_a_lack_of_memory_is_told(message):
    assert is_out_of_memory(RuntimeError(message))


@pytest.mark.parametrize("message", ["CUDA failure 700: an illegal memory access was encountered", "Got invalid dimensions for input: T"])
def test_other_errors_are_not_taken_for_it(message):
    assert not is_out_of_memory(RuntimeError(message))


def test_it_is_told_by_what_onnx_runtimes_arena_really_says():
    """The CPU's arena is of the same kind as a GPU's."""
    size = numpy_helper.from_array(np.array([1 << 50]), "size")
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    graph = helper.make_graph([helper.make_node("ConstantOfShape", ["size"], ["y"])], "large", [], [output], [size])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="ConstantOfShape") as caught:
        session.run(None, {})
    assert is_out_of_memory(caught.value), str(caught.value)
