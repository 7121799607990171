"""The store of small exports: what it gives is what making it anew would give."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import checkpoints
import onnx_ir as ir
import pytest
from exports import ExportStore, every_output

from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.graph.trace import trace


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["bert", "modernbert"])  # modernbert's graph has arrays that are none of its weights
def test_a_graph_with_other_weights_is_what_a_trace_of_them_gives(model_type: str, store: ExportStore, tmp_path: Path) -> None:
    config = every_output(model_type, "encoder")
    source = store.checkpoint(model_type, "encoder")
    store.trace(load_checkpoint(str(source), config=config))
    other = Path(shutil.copytree(source, tmp_path / "other"))
    weights = checkpoints.read_weights_of(other)
    checkpoints.write_weights_of(other, {name: tensor * 1.5 for name, tensor in weights.items()})
    checkpoint = load_checkpoint(str(other), config=config)
    stored, traced = store.trace(checkpoint), trace(checkpoint)
    assert contents(stored) == contents(traced)


def contents(model: ir.Model) -> tuple[list[tuple[str, int]], list[bytes]]:
    """Operators with the number of their inputs, and arrays; names carry numbers that a second trace may count otherwise."""
    arrays = [value.const_value.numpy() for value in model.graph.initializers.values() if value.const_value is not None]
    return [(node.op_type, len(node.inputs)) for node in model.graph], [array.tobytes() for array in arrays]


def test_what_several_ask_for_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    make_checkpoint = checkpoints.make_checkpoint

    def counted(folder: Path, *arguments: str, **options: object) -> Path:
        made.append(folder)
        return make_checkpoint(folder, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoints, "make_checkpoint", counted)
    stores = [ExportStore(tmp_path) for _ in range(3)]  # as many workers
    with ThreadPoolExecutor(3) as workers:
        folders = set(workers.map(lambda store: store.checkpoint("bert", "encoder"), stores))
    assert made == list(folders)


def test_what_could_not_be_made_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(folder: Path, *arguments: str, **options: object) -> Path:
        (folder / "config.json").touch()
        raise OSError("no space left on device")

    store = ExportStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "make_checkpoint", half)
        with pytest.raises(OSError, match="no space"):
            store.checkpoint("bert", "encoder")
    assert load_checkpoint(str(store.checkpoint("bert", "encoder"))).name == "small-bert"
