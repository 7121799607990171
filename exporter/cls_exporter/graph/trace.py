"""A checkpoint's PyTorch module as an ONNX graph, before any pass."""

from __future__ import annotations

import onnx_ir as ir
import torch

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.checkpoint.quiet import quiet
from cls_exporter.checkpoint.trial import example_inputs
from cls_exporter.errors import GraphError, one_line
from cls_runtime.bundle.manifest import GRAPH_OUTPUTS

OPSET = 20  # the first with Gelu; every engine of the contract reads it
BATCH, SEQUENCE = "batch_size", "sequence_length"


def trace(checkpoint: Checkpoint) -> ir.Model:
    """Traces `checkpoint.model` with torch's dynamo exporter.

    Returns:
        A model with int64 inputs [batch_size, sequence_length] and float32 outputs [batch_size, width], those of `tokens` [batch_size,
        sequence_length, H]; all rows of the last layer are still computed. Every value has a shape in the symbols `batch_size` and
        `sequence_length`.

    Raises:
        GraphError: torch cannot export the module.
    """
    arguments = example_inputs(checkpoint)
    try:
        with quiet("torch.onnx", "onnxscript"), torch.no_grad():  # packages and axis names that nothing here depends on
            program = torch.onnx.export(
                checkpoint.model,
                arguments,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=_dynamic_shapes(len(arguments)),
                input_names=list(checkpoint.inputs),
                output_names=[GRAPH_OUTPUTS[name] for name in checkpoint.model.output_names],
                verbose=False,
            )
    except Exception as error:  # torch raises many kinds, all of them for the same reason
        cause = error.__cause__ or error  # torch's own message is an instruction how to report it
        raise GraphError(f"torch cannot export {checkpoint.name} as a graph ({type(cause).__name__}: {one_line(cause)})") from error
    if program is None:
        raise GraphError(f"torch gave no graph for {checkpoint.name}")
    return program.model


def _dynamic_shapes(inputs: int) -> tuple[dict[int, str], ...]:
    return tuple({0: BATCH, 1: SEQUENCE} for _ in range(inputs))
