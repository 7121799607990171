"""How fast does this machine multiply matrices? Measured with an engine's own kernels, on matrices large enough to be their best case.

    rows [S, N] = table [ROWS, N] gathered by input_ids;  PRODUCTS times: rows = rows @ weights [N, N]

in float32, and in int8 as the exporter writes it: QuantizeLinear and DequantizeLinear around each factor, which the engines replace by
integer kernels. What a graph's multiply-adds take at this rate is a time that no arrangement of the same products comes under.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bench.results import MatrixRate
from cls_runtime.bench.turns import seconds_in_turns
from cls_runtime.engines.base import Engine, TokenBatch
from cls_runtime.engines.choice import ENGINES, engine_module
from cls_runtime.engines.devices import GPU_ENGINES, device_numbers
from cls_runtime.engines.hand_made_graphs import OUTPUT, graph_bundle, graph_file, initializer, node, write_graphs
from cls_runtime.errors import EngineError

WIDTH = 1024
PRODUCTS = 4
SEQUENCE = 512
TABLE_ROWS = 16
ARITHMETIC = ("fp32", "int8", "bf16", "tf32")
# Half of a uint8's range around its zero point; what is measured does not depend on it.
_SCALE = np.float32(4 / 127)


def matrix_rates(
    engines: Sequence[str], folder: Path, *, threads: Sequence[int], rounds: int, device: str | None = None
) -> tuple[MatrixRate, ...]:
    """The rate of each arithmetic that each of `engines` computes here, with each number of threads.

    Args:
        engines: installed engines.
        folder: an empty folder for the graphs.
        threads: numbers of CPU threads.
        rounds: samples of each.
        device: the GPUs of those that compute on GPUs.

    Raises:
        EngineError: an engine failed in fp32, which every engine computes.
    """
    graphs = {"fp32": _graph(_float_chain()), "int8": _graph(_int8_chain())}
    write_graphs(folder, graphs)
    bundle = graph_bundle(folder, graphs, width=WIDTH)
    rates: list[MatrixRate] = []
    for count in threads:
        loaded: dict[tuple[str, str], Engine] = {}
        try:
            for engine in engines:
                devices = device_numbers(device if engine in GPU_ENGINES else None, engine=engine)
                for arithmetic in (item for item in ARITHMETIC if item in ENGINES[engine].by_name):
                    try:
                        loaded[engine, arithmetic] = engine_module(engine).load(bundle, variant=arithmetic, threads=count, devices=devices)
                    except EngineError:
                        if arithmetic == "fp32":
                            raise
            with ThreadPoolExecutor(count) as pool:
                seconds = seconds_in_turns({key: _work(item, pool, count) for key, item in loaded.items()}, rounds=rounds)
        finally:
            for item in loaded.values():
                item.close()
        rates += [
            MatrixRate(
                engine=engine,
                arithmetic=arithmetic,
                threads=count,
                multiply_adds=count * PRODUCTS * SEQUENCE * WIDTH * WIDTH,
                seconds=taken,
            )
            for (engine, arithmetic), taken in seconds.items()
        ]
    return tuple(rates)


def joined(first: Sequence[MatrixRate], second: Sequence[MatrixRate]) -> tuple[MatrixRate, ...]:
    """The same rates, measured twice, with the samples of both; `first` may not be there yet."""
    return tuple(second) if not first else tuple(replace(a, seconds=a.seconds + b.seconds) for a, b in zip(first, second, strict=True))


def _work(engine: Engine, pool: ThreadPoolExecutor, threads: int) -> Callable[[], object]:
    """One batch on each thread at once, as the runtime does it."""
    batch = TokenBatch(np.arange(SEQUENCE, dtype=np.int32) % TABLE_ROWS, np.array([SEQUENCE], dtype=np.int32))
    return lambda: list(pool.map(lambda _: engine.run(batch, [OUTPUT]), range(threads)))


def _graph(parts: tuple[list[bytes], list[bytes]]) -> bytes:
    nodes, initializers = parts
    table = np.random.default_rng(0).standard_normal((TABLE_ROWS, WIDTH)).astype(np.float32)
    return graph_file(
        "matrix products",
        [
            node("Gather", ["table", "input_ids"], "gathered"),
            node("Reshape", ["gathered", "shape"], "rows0"),
            *nodes,
            node("Gather", [f"rows{PRODUCTS}", "first"], OUTPUT),
        ],
        [
            initializer("table", table),
            initializer("shape", np.array([-1, WIDTH], dtype=np.int64)),
            initializer("first", np.array([0], dtype=np.int64)),
            *initializers,
        ],
    )


def _signs() -> NDArray[np.int8]:
    """A matrix of ones and minus ones; divided by the square root of its size it leaves the length of a vector as it is."""
    return np.random.default_rng(1).choice(np.array([-1, 1], dtype=np.int8), (WIDTH, WIDTH))


def _float_chain() -> tuple[list[bytes], list[bytes]]:
    weights = (_signs() / np.sqrt(WIDTH)).astype(np.float32)
    nodes = [node("Gemm", [f"rows{index}", "weights"], f"rows{index + 1}") for index in range(PRODUCTS)]
    return nodes, [initializer("weights", weights)]


def _int8_chain() -> tuple[list[bytes], list[bytes]]:
    size = 64  # two neighbours add up to 128, as in an exported weight: a kernel that adds them in 16 bits does not saturate
    weight_scale = np.full(WIDTH, 1 / size / np.sqrt(WIDTH), dtype=np.float32)
    nodes: list[bytes] = []
    initializers: list[bytes] = []
    for index in range(PRODUCTS):
        # As the exporter writes it: constants of each product's own, and a bias. Shared constants confuse ONNX Runtime's optimizer
        # (1.31.1), and without a bias OpenVINO 2026.4.1 crashes.
        for name, value in (
            ("scale", np.array(_SCALE)),
            ("zero", np.array(128, dtype=np.uint8)),
            ("weights", _signs() * np.int8(size)),
            ("weight_scale", weight_scale),
            ("weight_zero", np.zeros(WIDTH, dtype=np.int8)),
            ("bias", np.ones(WIDTH, dtype=np.int32)),
            ("bias_scale", _SCALE * weight_scale),
            ("bias_zero", np.zeros(WIDTH, dtype=np.int32)),
        ):
            initializers.append(initializer(f"{name}{index}", value))
        nodes += [
            _node("QuantizeLinear", ["rows", "scale", "zero"], "quantized", index),
            _node("DequantizeLinear", ["quantized", "scale", "zero"], "values", index),
            _node("DequantizeLinear", ["weights", "weight_scale", "weight_zero"], "matrix", index, {"axis": 1}),
            _node("DequantizeLinear", ["bias", "bias_scale", "bias_zero"], "row", index, {"axis": 0}),
            node("Gemm", [f"values{index}", f"matrix{index}", f"row{index}"], f"rows{index + 1}"),
        ]
    return nodes, initializers


def _node(op_type: str, inputs: Sequence[str], output: str, index: int, attributes: Mapping[str, int] | None = None) -> bytes:
    """A node of the product `index`, whose number all its names carry."""
    return node(op_type, [f"{name}{index}" for name in inputs], f"{output}{index}", attributes)
