"""ONNX Runtime on its CPU provider: one session whose weights all workers share, each `run` on its caller's thread."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from cls_runtime.bundle.folder import Bundle, path_for_libraries
from cls_runtime.bundle.manifest import Manifest
from cls_runtime.engines.base import Batching, Float32, TokenBatch
from cls_runtime.engines.installed import is_installed
from cls_runtime.engines.padding import of_texts, padded, padding_tokens
from cls_runtime.errors import BundleError, ClosedError, EngineError, InstallationWarning, MissingExtraError

if TYPE_CHECKING:
    import onnxruntime

PROVIDER = "CPUExecutionProvider"
WHEELS = ("onnxruntime", "onnxruntime-gpu")
TELEMETRY_VARIABLE = "ORT_DISABLE_TELEMETRY"
# From `full_tokens` on padding costs more than another batch. Measured with all-MiniLM-L6-v2 on two cores, 600 sentences of mean length 24,
# CPU seconds of the whole process, in turns: 128 is 1.05 (fp32) and 1.01 (int8) times as fast as 512, and 1.10 and 1.08 times as fast as
# batches filled to the budget.
BATCHING = Batching(token_budget=1024, full_tokens=128)


class OnnxRuntimeEngine:
    """A graph in ONNX Runtime. Made by `load`."""

    name = "onnxruntime"
    providers: tuple[str, ...] = (PROVIDER,)
    batching = BATCHING

    def __init__(self, session: onnxruntime.InferenceSession, *, workers: int) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._inputs = tuple(item.name for item in session.get_inputs())
        self.workers = workers

    def padding_tokens(self, batch: TokenBatch) -> int:
        """How many tokens of padding a run of this batch computes beside its own."""
        return padding_tokens(batch)

    def run(self, batch: TokenBatch, outputs: Sequence[str]) -> list[Float32]:
        """Runs one batch; float32 [B, width] for each graph output named in `outputs`, of `last_hidden_state` [T, width].

        Raises:
            EngineError: ONNX Runtime failed.
            ClosedError: `close` was called.
        """
        session = self._session
        if session is None:
            raise ClosedError("the engine is closed; load the bundle again")
        laid_out = padded(batch)
        feeds = {name: getattr(laid_out, name) for name in self._inputs}
        try:
            values = cast("list[Float32]", session.run(list(outputs), feeds))
        except Exception as error:  # its exceptions have no common base class
            raise EngineError(f"ONNX Runtime failed on a batch of shape {laid_out.shape}: {first_line(error)}") from error
        return of_texts(values, outputs, batch, laid_out.shape)

    def close(self) -> None:
        """Frees the session."""
        self._session = None


def load(bundle: Bundle, *, variant: str, threads: int, devices: Sequence[int] = ()) -> OnnxRuntimeEngine:  # noqa: ARG001  no GPU
    """Loads a variant's graph; see `EngineModule.load`."""
    return load_graph(bundle.graph(variant, engine="onnxruntime"), bundle.manifest, threads=threads)


def load_graph(graph: Path, manifest: Manifest, *, threads: int) -> OnnxRuntimeEngine:
    """Loads an ONNX file with the inputs and outputs of `manifest`, which need not name it; raises as `load` does."""
    ort = import_package()
    try:
        with path_for_libraries(graph) as path:
            session = ort.InferenceSession(str(path), _options(ort), providers=[PROVIDER])
    except (ort.capi.onnxruntime_pybind11_state.EPFail, MemoryError) as error:
        raise EngineError(f"ONNX Runtime cannot load {graph}: {first_line(error)}") from error
    except Exception as error:  # its exceptions have no common base class
        raise BundleError(
            f"{graph} is not a graph that ONNX Runtime reads ({first_line(error)}); copy or export the bundle again"
        ) from error
    check_signature(session, manifest, graph)
    return OnnxRuntimeEngine(session, workers=threads)


def _options(ort: ModuleType) -> onnxruntime.SessionOptions:
    options = ort.SessionOptions()
    # A run uses its caller's thread only: two such runs at once do more than one run on two threads.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A memory pattern is kept for each input shape, and texts come in many.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return options


def import_package() -> ModuleType:
    """The onnxruntime package; warns where both of its wheels are installed.

    Raises:
        MissingExtraError: it is not installed.
        EngineError: it is installed, but broken.
    """
    installed = [wheel for wheel in WHEELS if is_installed(wheel)]
    if len(installed) == 2:
        warnings.warn(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "run: pip uninstall -y onnxruntime onnxruntime-gpu && pip install cls-export[cpu] (or cls-export[gpu])",
            InstallationWarning,
            stacklevel=2,
        )
    try:
        with _without_telemetry():
            ort = import_module("onnxruntime")
    except ImportError as error:
        if installed:
            raise EngineError(f"{installed[0]} is installed but cannot be imported ({first_line(error)}); install it again") from error
        raise MissingExtraError("onnxruntime is not installed; run: pip install cls-export[cpu]") from None
    if not hasattr(ort, "InferenceSession"):  # uninstalling one of two wheels takes files of the other along
        raise EngineError("onnxruntime is installed but broken, it has no InferenceSession; run: pip install --force-reinstall onnxruntime")
    return ort


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Tells ONNX Runtime's first import, by the variable that it reads then and only then, to leave its telemetry off.

    From 1.32 on its wheels otherwise keep a database and a device's id in the user's cache folder and report sessions over the network,
    unasked. What the user has set stays, and the process's environment is afterwards what it was.
    """
    off = "onnxruntime" not in sys.modules and TELEMETRY_VARIABLE not in os.environ
    if off:
        os.environ[TELEMETRY_VARIABLE] = "1"
    try:
        yield
    finally:
        if off:
            os.environ.pop(TELEMETRY_VARIABLE, None)


def check_signature(session: onnxruntime.InferenceSession, manifest: Manifest, graph: Path) -> None:
    """Compares the inputs and outputs of a loaded graph with the manifest's.

    Raises:
        BundleError: they differ.
    """
    for kind, names, expected in (
        ("inputs", [item.name for item in session.get_inputs()], list(manifest.inputs)),
        ("outputs", [item.name for item in session.get_outputs()], [item.name for item in manifest.outputs]),
    ):
        if sorted(names) != sorted(expected):
            raise BundleError(f"{graph} has {kind} {', '.join(names)}, the manifest says {', '.join(expected)}; export the bundle again")


def first_line(error: BaseException) -> str:
    """An error's message on one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
