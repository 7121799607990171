"""OpenVINO on the CPU: one compiled graph, a stream of one thread for each worker, and an infer request for each `run` under way.

It reads the bundle's ONNX file itself. The precision is always named: left alone, OpenVINO computes an fp32 graph in bf16 wherever the CPU
has it.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cls_runtime.bundle.folder import Bundle, path_for_libraries
from cls_runtime.bundle.manifest import Manifest
from cls_runtime.engines.base import Batching, Float32, TokenBatch
from cls_runtime.engines.cpu import BF16_FEATURES, cpu_features
from cls_runtime.engines.padding import of_texts, padded
from cls_runtime.errors import BundleError, ClosedError, EngineError, MissingExtraError

if TYPE_CHECKING:
    import openvino

DEVICE = "CPU"
# Kernels that OpenVINO keeps, some for each shape that it has met; its own default of 5000 lets memory grow with the shapes.
KERNELS_KEPT = 128
# It prepares kernels for each shape that it meets, which takes longer than to run them, and keeps some. So batches are filled to the
# budget: for 1,500 sentences 1.06 times as fast as 512 tokens and then all of a length, and 1.25 times as fast as 128.
BATCHING = Batching(token_budget=1024, full_tokens=128, keeps_shapes=True)
WIDTH_STEP = 8
TELEMETRY = "openvino_telemetry"
_FIRST_USE = threading.Lock()


class OpenVinoEngine:
    """A graph in OpenVINO. Made by `load`."""

    name = "openvino"
    batching = BATCHING

    def __init__(self, compiled: openvino.CompiledModel, *, workers: int, providers: tuple[str, ...], max_length: int) -> None:
        self.workers = workers
        self.providers = providers
        self._max_length = max_length
        self._inputs = tuple(port.any_name for port in compiled.inputs)
        self._ports = {name: port for port in compiled.outputs for name in port.names}
        self._closed = False
        # A request computes one batch at a time. They wait here between runs, and None wakes those that wait when the engine closes.
        self._requests: queue.SimpleQueue[openvino.InferRequest | None] = queue.SimpleQueue()
        for _ in range(workers):
            self._requests.put(compiled.create_infer_request())

    def padding_tokens(self, batch: TokenBatch) -> int:
        """How many tokens of padding a run of this batch computes beside its own."""
        rows, width = self._shape(batch)
        return rows * width - batch.tokens

    def run(self, batch: TokenBatch, outputs: Sequence[str]) -> list[Float32]:
        """Runs one batch; float32 [B, width] for each graph output named in `outputs`, of `last_hidden_state` [T, width].

        Raises:
            EngineError: OpenVINO failed.
            ClosedError: `close` was called.
        """
        rows, width = self._shape(batch)
        laid_out = padded(batch, rows=rows, width=width)
        feeds = {name: getattr(laid_out, name) for name in self._inputs}
        request = self._requests.get()
        if request is None:
            self._requests.put(None)
            raise ClosedError("the engine is closed; load the bundle again")
        try:
            request.infer(feeds, share_inputs=True)
            # A copy: the tensor is the request's own, and the next batch overwrites it.
            values = [np.array(request.get_tensor(self._ports[name]).data) for name in outputs]
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed on a batch of shape {laid_out.shape}: {_reason(error)}") from error
        finally:
            self._requests.put(request)
        return of_texts(values, outputs, batch, laid_out.shape)

    def close(self) -> None:
        """Waits for the batches that run, and frees the graph."""
        if self._closed:
            return
        self._closed = True
        for _ in range(self.workers):
            self._requests.get()
        self._ports.clear()
        self._requests.put(None)

    def _shape(self, batch: TokenBatch) -> tuple[int, int]:
        budget = self.batching.token_budget if batch.token_budget is None else batch.token_budget
        return rounded_up(batch.texts, max(batch.longest, 1), max_length=self._max_length, token_budget=budget)


def rounded_up(rows: int, width: int, *, max_length: int, token_budget: int) -> tuple[int, int]:
    """The shape [B, S] in which so many texts of so many tokens at most run: one of few.

    As they are where they fill the budget, since texts of one length then always come in that number. Others as the next of 1, 2, 3, 4, 6,
    8, 12, 16, 24, ... rows, by the next multiple of `WIDTH_STEP` that the model takes, where the budget has room for each.

    >>> rounded_up(5, 33, max_length=512, token_budget=1024), rounded_up(34, 30, max_length=512, token_budget=1024)
    ((6, 40), (34, 30))
    """
    if rows >= max(1, token_budget // width):
        return rows, width
    wider = max(width, min(-(-width // WIDTH_STEP) * WIDTH_STEP, max_length))
    if rows * wider <= token_budget:
        width = wider
    power = 1 << (rows - 1).bit_length()
    more = power * 3 // 4 if rows <= power * 3 // 4 else power
    return min(more, token_budget // width), width


def load(bundle: Bundle, *, variant: str, threads: int, devices: Sequence[int] = ()) -> OpenVinoEngine:  # noqa: ARG001  no GPU
    """Loads a variant's graph; see `EngineModule.load`. `bf16` is the fp32 graph, computed in bf16.

    In a thread that ends with it: OpenVINO gives the thread that loads a graph a stack for its signal handlers (sigaltstack), and takes it
    away with the graph, in whichever thread the last reference goes. The next signal would then crash the thread that loaded it.
    """
    ov = _import()
    with ThreadPoolExecutor(1, thread_name_prefix="cls-openvino-load") as thread:
        try:
            loading = thread.submit(_load, ov, bundle, variant=variant, threads=threads)
        except RuntimeError as error:
            raise EngineError(f"no thread can be started ({error}); allow the process more threads") from error
        return loading.result()


def _load(ov: ModuleType, bundle: Bundle, *, variant: str, threads: int) -> OpenVinoEngine:
    core = ov.Core()
    if variant == "bf16":
        _check_bf16(core)
    graph = bundle.graph("fp32" if variant == "bf16" else variant, engine="openvino")
    try:
        # ONNX's reader by name: left to guess, OpenVINO tries every format that it knows, and their parsers write to standard error.
        reader = ov.frontend.FrontEndManager().load_by_framework("onnx")
        with path_for_libraries(graph) as path:
            model = reader.convert(reader.load(str(path)))
        if not model.inputs:  # what is no protocol buffer at all may read as an empty one
            raise RuntimeError("it is empty")
    except Exception as error:  # its readers' exceptions have no common base class
        if "outside the base directory" in str(error):
            raise EngineError(
                f"OpenVINO does not follow the links of {graph} to its weights; use --engine onnxruntime (engine='onnxruntime' in Python), "
                "or copy the bundle with its links resolved"
            ) from error
        raise BundleError(f"{graph} is not a graph that OpenVINO reads ({_reason(error)}); copy or export the bundle again") from error
    _check_signature(model, bundle.manifest, graph)
    precision = "bf16" if variant == "bf16" else "f32"
    try:
        compiled = core.compile_model(model, DEVICE, _options(precision, threads=threads))
    except (RuntimeError, MemoryError) as error:
        raise EngineError(f"OpenVINO cannot load {graph}: {_reason(error)}") from error
    return OpenVinoEngine(compiled, workers=threads, providers=(f"{DEVICE} {precision}",), max_length=bundle.manifest.max_length)


def _options(precision: str, *, threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": precision,
        # Two batches at once, on a thread each, do more than one batch on two threads.
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads,
        # Pinned threads of two processes meet on one core; where to run is the scheduler's to say.
        "ENABLE_CPU_PINNING": False,
        "CPU_RUNTIME_CACHE_CAPACITY": KERNELS_KEPT,
    }


def _check_bf16(core: openvino.Core) -> None:
    """Refuses a CPU that would only emulate bf16; OpenVINO itself offers it on every AVX512 CPU."""
    offered = core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    features = cpu_features()
    if "BF16" not in offered or (features is not None and not features & BF16_FEATURES):
        raise EngineError(
            "variant bf16 needs a CPU that computes bf16 (avx512_bf16 or amx_bf16 on x86, bf16 on ARM), which this one lacks; "
            "use fp32 or int8"
        )


def _check_signature(model: openvino.Model, manifest: Manifest, graph: Path) -> None:
    for kind, ports, expected in (
        ("inputs", model.inputs, manifest.inputs),
        ("outputs", model.outputs, tuple(item.name for item in manifest.outputs)),
    ):
        # One tensor may be two of the graph's outputs, and then has both names; others have names of OpenVINO's own beside the graph's.
        names = [name for port in ports for name in port.names]
        if len(ports) != len(expected) or not set(expected) <= set(names):
            raise BundleError(f"{graph} has {kind} {', '.join(names)}, the manifest says {', '.join(expected)}; export the bundle again")


def _import() -> ModuleType:
    missing = MissingExtraError("openvino is not installed; run: pip install cls-export[openvino]")
    try:
        with _without_telemetry():
            ov = import_module("openvino")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "openvino":
            raise missing from None
        raise EngineError(f"openvino is installed but cannot be imported ({_reason(error)}); install it again") from error
    if not hasattr(ov, "Core"):  # a folder of that name on the path imports too, as an empty package
        raise missing
    with _FIRST_USE:
        # The first conversion of a type fills a table, for which OpenVINO lets go of the interpreter's lock: two threads whose first runs
        # come together wait for each other for ever (openvino 2026.4).
        ov.Type.i64.to_dtype()
    return ov


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hides OpenVINO's telemetry from its first import, which then takes a stand-in of its own.

    Otherwise that import reports itself over the network unasked, leaves a thread behind, and a file in the home folder.
    """
    hide = "openvino" not in sys.modules and TELEMETRY not in sys.modules
    if hide:
        sys.modules[TELEMETRY] = cast("ModuleType", None)  # an import of what is None here fails as if it were not installed
    try:
        yield
    finally:
        if hide:
            del sys.modules[TELEMETRY]


def _reason(error: BaseException) -> str:
    """The telling line of OpenVINO's message, whose first lines name places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or [type(error).__name__])[-1]
