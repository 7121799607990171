"""CUDA graphs for small batches: a hundred kernels are recorded once for a shape, and then given to the GPU in one call.

ONNX Runtime keeps the graphs of a session by the thread that ran it. So one thread runs the session, which is its own: every run of it is
captured. That thread gets a batch only when it has nothing else to do; whoever comes meanwhile, or with a shape that has no graph, runs
without one. Graphs are not freed one by one, so there are at most `MOST_GRAPHS` of them, for the shapes that came first.

Whoever is the first with a shape waits for its capture: a program of one thread has then nothing of its own on a GPU meanwhile, which
would end the capture or be ended by it (`capture_lock.py`).
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np

from cls_runtime.engines.base import Float32
from cls_runtime.engines.cuda.capture_lock import PROCESS
from cls_runtime.engines.cuda.memory import Device, Feeds, InputBuffer
from cls_runtime.engines.cuda.shapes import Shape
from cls_runtime.engines.onnxruntime import first_line
from cls_runtime.errors import EngineWarning

if TYPE_CHECKING:
    import onnxruntime

MOST_GRAPHS = 32
# So many small batches come before there is a graph: a job of many texts has a few small ones too, and its memory is not doubled for them.
SMALL_BATCHES_FIRST = 8
# What a captured graph gives may differ from a plain run's rows by this share of their largest number, which is float16's rounding and no
# more. One that reads other memory than it should gives something else altogether.
ALIKE = 0.01

Sizes = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Key:
    """What a graph is for."""

    shape: Shape
    outputs: tuple[str, ...]


@dataclass
class _Capture:
    key: Key
    feeds: Feeds
    sizes: Sizes
    rows: Sequence[Float32]
    ended: threading.Event = field(default_factory=threading.Event)  # there is a graph, or will be none


@dataclass
class _Replay:
    key: Key
    feeds: Feeds
    undone: threading.Lock = field(default_factory=threading.Lock)  # held until there are rows, or will be none
    rows: list[Float32] | None = None


class _Desk:
    """What the graphs' thread and the engine's threads leave for each other."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.opened = False  # whether the thread has its session
        self.idle = False  # whether the thread waits for work
        self.replay: _Replay | None = None
        self.captures: deque[_Capture] = deque()
        self.captured: set[Key] = set()
        self.closed = False
        self.failure: str | None = None

    def next(self) -> _Replay | _Capture | None:
        """The thread's next work, of which a batch that somebody waits for comes first; None when it should end."""
        with self.changed:
            self.idle = True
            while not (self.closed or self.replay or self.captures):
                self.changed.wait()
            self.idle = False
            task: _Replay | _Capture | None = self.replay
            self.replay = None
            if task is None and not self.closed:
                task = self.captures.popleft()
            return task

    def give_up(self, failure: str) -> None:
        """No graphs from here on."""
        with self.changed:
            self.failure = failure
            self.close()

    def close(self) -> None:
        """No work from here on but what somebody waits for. Called with `changed` held."""
        self.closed = True
        for capture in self.captures:
            capture.ended.set()
        self.captures.clear()
        self.changed.notify_all()


class CudaGraphs:
    """The CUDA graphs of one engine. `open_session` makes a session that captures what it runs; it is called in the graphs' thread."""

    def __init__(self, open_session: Callable[[], onnxruntime.InferenceSession], *, device: Device, name: str) -> None:
        self._name = name
        self._asked: set[Key] = set()
        self._begun = False
        self._small_batches = 0
        self._told = False
        self._desk = _Desk()
        self._thread = threading.Thread(target=_work, args=(self._desk, open_session, device), name="cuda-graphs", daemon=True)
        # A thread that still ran a session while the interpreter goes away would abort the process.
        weakref.finalize(self, _end, weakref.ref(self), self._desk, self._thread)

    @property
    def count(self) -> int:
        """How many graphs there are."""
        return len(self._desk.captured)

    def run(self, shape: Shape, feeds: Feeds, outputs: Sequence[str]) -> list[Float32] | None:
        """The rows of a batch by its shape's graph; None where it has none, or the thread is not free. Called within a run.

        Warns, once, where graphs had to be given up.
        """
        desk, key = self._desk, Key(shape, tuple(outputs))
        with desk.changed:
            if desk.closed or not desk.idle or desk.replay is not None or key not in desk.captured:
                failure = None if self._told else desk.failure
                self._told = self._told or failure is not None
                task = None
            else:
                failure, task = None, _Replay(key, feeds)
                task.undone.acquire()
                desk.replay = task
                desk.changed.notify_all()
        if failure is not None:
            warnings.warn(f"{self._name} runs small batches without CUDA graphs and takes longer: {failure}", EngineWarning, stacklevel=4)
        if task is None:
            return None
        with task.undone:
            return task.rows

    def offer(self, shape: Shape, feeds: Feeds, outputs: Sequence[str], sizes: Sizes, rows: Sequence[Float32]) -> None:
        """Makes a graph for batches of this shape, if there is to be one. `rows` are what a plain run gave for `feeds`.

        Not called within a run. The first of all has the session loaded meanwhile, which takes long, and a later batch is captured.
        """
        desk, key = self._desk, Key(shape, tuple(outputs))
        with desk.changed:
            self._small_batches += 1
            full = len(self._asked) >= MOST_GRAPHS or self._small_batches <= SMALL_BATCHES_FIRST
            if desk.closed or full or key in self._asked:
                return
            first, self._begun = not self._begun, True
            if not first and not desk.opened:
                return
            if not first:
                self._asked.add(key)
                capture = _Capture(key, feeds, sizes, rows)
                desk.captures.append(capture)
                desk.changed.notify_all()
        if not first:
            capture.ended.wait()
            return
        try:
            self._thread.start()
        except RuntimeError as error:
            desk.give_up(f"no thread can be started ({error})")

    def close(self) -> None:
        """Ends the thread, after what it is at, and frees the graphs."""
        _tell_to_end(self._desk)
        _wait_for(self._thread)


class _Graph:
    """One shape's graph: memory of its own for inputs and outputs, at addresses that stay."""

    def __init__(self, session: onnxruntime.InferenceSession, task: _Capture, *, device: Device, number: int) -> None:
        import onnxruntime

        self._session = session
        self._inputs = InputBuffer(device, least=1)
        self._binding = session.io_binding()
        self._inputs.bind(self._binding, task.feeds)
        self._outputs = []
        for name in task.key.outputs:
            rows = onnxruntime.OrtValue.ortvalue_from_shape_and_type(task.sizes[name], np.float32, device.kind, device.number)
            self._binding.bind_ortvalue_output(name, rows)
            self._outputs.append(rows)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(number))

    def run(self, feeds: Feeds) -> list[Float32]:
        """The rows for these inputs; the first call also captures."""
        self._inputs.fill(feeds)
        self._session.run_with_iobinding(self._binding, self._options)
        return [cast("Float32", np.array(rows.numpy())) for rows in self._outputs]


def _work(desk: _Desk, open_session: Callable[[], onnxruntime.InferenceSession], device: Device) -> None:
    """The graphs' thread."""
    graphs: dict[Key, _Graph] = {}
    session = graph = None
    try:
        with PROCESS.load():
            session = open_session()
        with desk.changed:
            desk.opened = True
    except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions have no common base class
        desk.give_up(first_line(error))
    while session is not None and (task := desk.next()) is not None:
        try:
            if isinstance(task, _Replay):
                task.rows = graphs[task.key].run(task.feeds)
                continue
            with PROCESS.capture():
                graph = _Graph(session, task, device=device, number=len(graphs) + 1)
                rows = graph.run(task.feeds)
            if not all(_alike(ours, plain) for ours, plain in zip(rows, task.rows, strict=True)):
                desk.give_up(f"a captured graph of {task.key.shape.tokens} tokens gave other vectors than a plain run")
                continue
            graphs[task.key] = graph
            with desk.changed:
                desk.captured.add(task.key)
        except Exception as error:  # noqa: BLE001  as above
            desk.give_up(first_line(error))
        finally:
            if isinstance(task, _Replay):
                task.undone.release()
            else:
                task.ended.set()
    with PROCESS.run():
        graph = session = None
        graphs.clear()


def _alike(rows: Float32, plain: Float32) -> bool:
    difference = np.abs(rows - plain)
    return bool(np.all(difference <= ALIKE * np.abs(plain).max(initial=0.0)))


def _end(graphs: weakref.ref[CudaGraphs], desk: _Desk, thread: threading.Thread) -> None:
    """Ends the thread when the graphs are dropped, or at the interpreter's exit, which then has to wait for it."""
    _tell_to_end(desk)
    if graphs() is not None:
        _wait_for(thread)


def _tell_to_end(desk: _Desk) -> None:
    with desk.changed:
        desk.close()


def _wait_for(thread: threading.Thread) -> None:
    if thread.ident is not None and thread is not threading.current_thread():
        thread.join()
