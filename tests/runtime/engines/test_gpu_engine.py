"""The engine of one GPU: what is bound, what comes back."""

import types

import numpy as np

from cls_runtime.engines.cuda.engine import GpuEngine
from cls_runtime.engines.cuda.load import PROVIDER
from cls_runtime.engines.padding import PaddedBatch


class Binding:
    """Records what is bound."""

    def __init__(self):
        self.inputs, self.outputs = {}, []

    def bind_cpu_input(self, name, array):
        self.inputs[name] = array

    def bind_output(self, name, device):
        self.outputs.append((name, device))

    def copy_outputs_to_cpu(self):
        return [np.zeros((1, 8), dtype=np.float32) for _ in self.outputs]


def test_only_the_outputs_asked_for_come_back():
    bindings = []

    class Session:
        def get_providers(self):
            return [PROVIDER]

        def get_inputs(self):
            return [types.SimpleNamespace(name="input_ids"), types.SimpleNamespace(name="attention_mask")]

        def io_binding(self):
            bindings.append(Binding())
            return bindings[-1]

        def run_with_iobinding(self, binding):
            assert binding is bindings[-1]

    ids = np.zeros((1, 3), dtype=np.int64)
    (rows,) = GpuEngine(Session(), name="cuda").run(PaddedBatch(ids, np.ones_like(ids), None), ["sentence_embedding"])
    assert rows.shape == (1, 8)
    assert list(bindings[0].inputs) == ["input_ids", "attention_mask"]
    assert bindings[0].outputs == [("sentence_embedding", "cpu")]
