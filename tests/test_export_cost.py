"""What an export costs, counted: how often the model is traced and computed, and how much memory a large one takes.

Issue 3 asks for bert-base's shape in 90 s and 6 GB on two cores with all checks. Seconds belong to a machine, and no test holds them; what
they are spent on is the same everywhere.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cls_graph_speed
import onnxruntime
import pytest
import torch
from checkpoints import make_checkpoint

from cls_exporter import export
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Traces, tokens that PyTorch computes, sessions of ONNX Runtime and tokens that they compute, as they come."""
    from transformers import BertModel  # takes seconds, which every worker that collects this file would pay

    counts: Counter[str] = Counter()
    trace, forward = torch.onnx.export, BertModel.forward

    class Session(onnxruntime.InferenceSession):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            counts["sessions"] += 1
            super().__init__(*arguments, **options)

        def run(self, outputs: Any, feeds: Any, *options: Any) -> Any:
            counts["engine's tokens"] += feeds["input_ids"].size
            return super().run(outputs, feeds, *options)

    def counted_trace(*arguments: Any, **options: Any) -> Any:
        counts["traces"] += 1
        return trace(*arguments, **options)

    def counted_forward(self: BertModel, input_ids: torch.Tensor, **options: Any) -> Any:
        if not torch.compiler.is_compiling():
            counts["PyTorch's tokens"] += input_ids.numel()
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(torch.onnx, "export", counted_trace)
    monkeypatch.setattr(BertModel, "forward", counted_forward)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return counts


def test_an_export_traces_once_and_computes_each_text_as_often_as_it_is_checked(counted: Counter[str], tmp_path: Path) -> None:
    """PyTorch computes the parity texts once, without padding; the engine once in batches, and some alone or in odd ones: 1.59 times."""
    export(str(make_checkpoint(tmp_path / "checkpoint")), tmp_path / "bundle")
    golden = read_golden(tmp_path / "bundle" / GOLDEN_NAME)
    assert golden.token_ids is not None
    tokens = sum(map(len, golden.token_ids))
    tried = 3 * 16  # one small batch, before anything is traced
    assert (counted["traces"], counted["PyTorch's tokens"]) == (1, tried + tokens)
    assert 0 < counted["sessions"] <= 2  # for the texts, and for the odd batches
    assert tokens < counted["engine's tokens"] < 2 * tokens


BERT_BASE = """
import sys
from cls_exporter import export
from cls_runtime.bench.resident import peak_bytes

export(sys.argv[1], sys.argv[2])
print(peak_bytes())
"""


@pytest.mark.slow
def test_the_export_of_bert_base_stays_within_6_gb(tmp_path: Path) -> None:
    """Its weights are 0.44 GB; measured: a peak of 2.76 GB."""
    checkpoint = cls_graph_speed.random_checkpoint(tmp_path / "bert-base", "bert-base")
    done = subprocess.run([sys.executable, "-c", BERT_BASE, str(checkpoint), str(tmp_path / "bundle")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 6e9
