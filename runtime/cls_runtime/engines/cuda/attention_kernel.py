"""Which kernel computes attention on the GPU here: a process of its own runs the smallest packed graph, and ONNX Runtime says it.

    python -m cls_runtime.engines.cuda.attention_kernel

A process of its own, since ONNX Runtime writes the name to the standard streams itself, and only where a variable was set before it was
loaded. What the graph computes, with the tokens' rows t [T, H] of a table, in float16:

    sentence_embedding [B, H] = PackedMultiHeadAttention(t, t, t)[cls_rows]

All tokens of a text are the same, so the row of each text is the table's, whatever the attention's weights.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np

from cls_runtime.engines.base import EngineModule, TokenBatch
from cls_runtime.engines.hand_made_graphs import FLOAT, GRAPHS, INT32, MICROSOFT, OUTPUT, graph_bundle, graph_file, initializer, node
from cls_runtime.errors import ClsError, EngineError

VARIABLE = "ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO"
FAST = "FLASH_ATTENTION"
VARIANT = "fp16"
HEADS, HEAD_SIZE = 2, 64  # as most models have it
WIDTH = HEADS * HEAD_SIZE
_TOKENS = ((1, 3), (2, 5))  # a token's id, and how often a text has it
_LIMIT_S = 120.0
_NAME = re.compile(r"SdpaKernel=(\w+)")
_INPUTS = {
    "input_ids": (INT32, ("tokens",)),
    "cu_seqlens": (INT32, ("offsets",)),
    "cls_rows": (INT32, ("batch_size",)),
    "token_offset": (INT32, ("batch_size", "sequence_length")),
}


def attention_kernel(*, limit_s: float = _LIMIT_S) -> str:
    """ONNX Runtime's name of the kernel, such as `FLASH_ATTENTION` or `MATH`; empty where it does not say.

    Raises:
        EngineError: the graph does not run, or computes something else; the message has the process's last line.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            env={**os.environ, VARIABLE: "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"a packed graph did not run on the GPU within {limit_s:g} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1].removeprefix("error: ")
        raise EngineError(f"a packed graph does not run on the GPU: {last}")
    found = _NAME.search(done.stdout + done.stderr)
    return found[1] if found else ""


def graph_bytes() -> bytes:
    """The graph as an ONNX file, as it lies in `GRAPHS`."""
    return graph_file(
        "packed attention",
        [
            node("Gather", ["table", "input_ids"], "rows"),
            node(
                "PackedMultiHeadAttention",
                ["rows", "rows", "rows", "", "token_offset", "cu_seqlens"],
                "context",
                {"num_heads": HEADS},
                domain=MICROSOFT,
            ),
            node("Gather", ["context", "cls_rows"], "first"),
            node("Cast", ["first"], OUTPUT, {"to": FLOAT}),
        ],
        [initializer("table", table())],
        inputs=_INPUTS,
    )


def table() -> np.ndarray[tuple[int, int], np.dtype[np.float16]]:
    """The tokens' rows, float16 [4, H]."""
    numbers = (np.arange(4 * WIDTH) * 37 % 101 - 50) / 32  # exact in float16
    return numbers.reshape(4, WIDTH).astype(np.float16)


def run(engine: EngineModule) -> None:
    """Loads the graph in an engine and runs it once.

    Raises:
        ClsError: the engine cannot load it, or computes something else.
    """
    loaded = engine.load(graph_bundle(GRAPHS, [VARIANT], width=WIDTH), variant=VARIANT, threads=1)
    try:
        ids, lengths = (np.array(numbers, dtype=np.int32) for numbers in zip(*_TOKENS, strict=True))
        (rows,) = loaded.run(TokenBatch(np.repeat(ids, lengths), lengths), [OUTPUT])
        expected = table()[ids].astype(np.float32)
        off = np.abs(rows - expected).max() if rows.shape == expected.shape else np.inf
        if not off <= 1e-2:
            raise EngineError(f"packed attention is off by {off:.3g}, expected at most 0.01; install onnxruntime-gpu again")
    finally:
        loaded.close()


def main() -> int:
    """Does what the module's docstring says, on the first GPU."""
    from cls_runtime.engines.choice import engine_module

    try:
        run(engine_module("cuda"))
    except ClsError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
