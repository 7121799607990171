"""`export()`: a checkpoint becomes a bundle. The order of the steps is here, each step is a module of its own."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from cls_exporter.checkpoint import Checkpoint, load_checkpoint
from cls_exporter.checkpoint.reference import checkpoint_token_ids, checkpoint_vectors
from cls_exporter.config import ExportConfig, ExportReport
from cls_exporter.gate import parity_gate as gate
from cls_exporter.gate.parity_texts import builtin_texts, parity_texts
from cls_exporter.graph.families import FAMILIES
from cls_exporter.graph.graph_file import bundle_file, write_graph
from cls_exporter.graph.multiply_adds import multiply_add_formulas, multiply_adds
from cls_exporter.graph.pipeline import Compiled, compile_graph
from cls_exporter.graph.trace import trace
from cls_exporter.variants import CalibrationTexts, build_variant
from cls_exporter.variants.variant import FILE_NAMES, engine_file
from cls_exporter.writing.companions import write_companions
from cls_exporter.writing.publish import staged
from cls_runtime import __version__
from cls_runtime.bundle.golden import GOLDEN_NAME, Golden, write_golden
from cls_runtime.bundle.manifest import MANIFEST_NAME, Manifest, OutputSpec, Source, Variant, to_json
from cls_runtime.engines.choice import require_engine
from cls_runtime.engines.installed import installed_versions

REPORT_LENGTH = 128  # tokens of the text that `ExportReport.multiply_adds` is for
_TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "tokenizers")


def export(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    config: ExportConfig | None = None,
    revision: str | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Exports a checkpoint's CLS row as a bundle.

    The bundle appears under `output` in one rename, after every check has passed; when anything fails, nothing is left behind and an
    existing bundle stays as it was.

    Example:
        >>> report = export("bert-base-uncased", "models/bert-base-uncased")  # doctest: +SKIP
        >>> report.parity["fp32"].max_abs  # doctest: +SKIP
        1.7e-06

    Args:
        model: a hub id or a local folder.
        output: the bundle's folder.
        config: what to export; None is fp32 with the CLS row only.
        revision: a branch, tag or commit of the hub.
        force: replace an existing bundle.
        progress: called with each step in words.

    Raises:
        UsageError: `output` exists and `force` is false, or the options make no sense.
        CheckpointError: the checkpoint cannot be read, or its vectors would be silently wrong.
        UnsupportedError: its architecture or one of its modules is not supported.
        GraphError: an expected rewrite of the graph did not happen.
        ParityError: a variant misses its threshold; it is a `CheckFailedError` too.
        MissingExtraError: ONNX Runtime is not installed.
    """
    config = ExportConfig() if config is None else config
    require_engine("onnxruntime")
    steps = _Steps(progress)
    with staged(Path(output), force=force) as folder:
        steps.start("load", f"Loading {os.fspath(model)}")
        checkpoint = load_checkpoint(os.fspath(model), revision=revision, config=config)
        steps.start("trace", f"Tracing {checkpoint.architecture.model_type} with PyTorch")
        traced = trace(checkpoint)
        work = {"full": multiply_adds(traced, batch_size=1, sequence_length=REPORT_LENGTH)}
        steps.start("compile", "Making the graph compute the CLS row only")
        compiled = compile_graph(
            traced,
            family=FAMILIES[checkpoint.architecture.model_type],
            num_layers=int(checkpoint.config.num_hidden_layers),
            layout=config.layout,
        )
        work["exported"] = multiply_adds(compiled.model, batch_size=1, sequence_length=REPORT_LENGTH)
        steps.start("reference", "Computing PyTorch's vectors of the parity texts")
        write_companions(checkpoint, folder)
        golden = _golden(checkpoint)
        write_golden(folder / GOLDEN_NAME, golden)
        manifest = _manifest(checkpoint, compiled, config, folder)
        manifest = _with_variants(manifest, checkpoint, compiled, config, golden, folder, steps)
    steps.end()
    return ExportReport(
        path=Path(output),
        manifest=manifest,
        parity={name: variant.parity["cls"] for name, variant in manifest.variants.items()},
        rewrites=compiled.rewrites,
        multiply_adds=work,
        notes=checkpoint.notes,
        seconds=steps.seconds,
    )


class _Steps:
    """Announces each step and keeps its wall-clock seconds."""

    def __init__(self, progress: Callable[[str], None] | None) -> None:
        self._progress = progress
        self._begin = self._last = time.perf_counter()
        self._name: str | None = None
        self.seconds: dict[str, float] = {}

    def start(self, name: str, words: str) -> None:
        self._close()
        self._name = name
        if self._progress is not None:
            self._progress(words)

    def end(self) -> None:
        self._close()
        self.seconds["total"] = time.perf_counter() - self._begin

    def _close(self) -> None:
        now = time.perf_counter()
        if self._name is not None:
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + now - self._last
        self._name, self._last = None, now


def _golden(checkpoint: Checkpoint) -> Golden:
    texts = parity_texts(checkpoint.tokenizer, max_length=checkpoint.max_length)
    return Golden(texts=texts, vectors=checkpoint_vectors(checkpoint, texts), token_ids=checkpoint_token_ids(checkpoint, texts))


def _manifest(checkpoint: Checkpoint, compiled: Compiled, config: ExportConfig, folder: Path) -> Manifest:
    """The manifest without variants."""
    outputs = [OutputSpec(name=str(value.name), width=int(value.shape[-1])) for value in compiled.model.graph.outputs]  # type: ignore[index, arg-type]
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return Manifest(
        source=Source(
            name=checkpoint.name,
            revision=checkpoint.revision,
            weights_sha256=checkpoint.weights_sha256,
            tokenizer_sha256=checkpoint.tokenizer_sha256,
        ),
        architecture=checkpoint.architecture.model_type,
        hidden_size=int(checkpoint.config.hidden_size),
        num_layers=int(checkpoint.config.num_hidden_layers),
        max_length=checkpoint.max_length,
        layout=config.layout,
        inputs=checkpoint.inputs,
        outputs=tuple(outputs),
        pooler=checkpoint.pooler,
        source_pooling=checkpoint.source_pooling,
        variants={},
        files=tuple(bundle_file(folder, path) for path in paths),
        tool_versions={"cls-export": __version__, **installed_versions(_TOOLS)},
        labels=checkpoint.labels,
        created=dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
    )


def _with_variants(
    manifest: Manifest,
    checkpoint: Checkpoint,
    compiled: Compiled,
    config: ExportConfig,
    golden: Golden,
    folder: Path,
    steps: _Steps,
) -> Manifest:
    """Builds each variant, holds it to PyTorch, and gives the manifest with all of them; it is in `folder` too."""
    calibration = (
        CalibrationTexts.of(builtin_texts("calibration")) if config.calibration is None else CalibrationTexts.of_file(config.calibration)
    )
    for precision in config.precisions:
        steps.start(precision, f"Writing the {precision} graph")
        built = build_variant(precision, compiled.model, checkpoint=checkpoint, parity=golden.texts, calibration=calibration)
        first, *copies = FILE_NAMES[precision]
        files = write_graph(built.model, folder, first)
        engine_files = {engine: write_graph(form, folder, engine_file(precision, engine)) for engine, form in built.engine_models.items()}
        for copy in copies:
            shutil.copyfile(folder / first, folder / copy)
        variant = Variant(
            files=files,
            recipe=built.recipe,
            parity={},
            batch_invariance_max_abs=0.0,
            cpu_features=built.cpu_features,
            multiply_adds=multiply_add_formulas(built.model),
        )
        steps.start("parity", f"Holding {precision} to PyTorch on {len(golden.texts)} texts")
        for other in engine_files.values():
            _write(folder, manifest, precision, dataclasses.replace(variant, files=other))
            gate.hold(folder, variant=precision, golden=golden, tried=built.tried)
        manifest = _write(folder, manifest, precision, variant)
        measured = gate.hold(folder, variant=precision, golden=golden, tried=built.tried)
        variant = dataclasses.replace(
            variant,
            engine_files=engine_files,
            parity=measured.parity,
            batch_invariance_max_abs=measured.batch_invariance_max_abs,
            batch_invariance_min_cosine=measured.batch_invariance_min_cosine,
        )
        manifest = _write(folder, manifest, precision, variant)
    return manifest


def _write(folder: Path, manifest: Manifest, precision: str, variant: Variant) -> Manifest:
    """Puts `variant` into the manifest, and the manifest into the bundle."""
    copies = tuple(bundle_file(folder, name) for name in FILE_NAMES[precision][1:])
    files = tuple(file for file in manifest.files if file.path not in {copy.path for copy in copies})
    manifest = dataclasses.replace(manifest, variants={**manifest.variants, precision: variant}, files=(*files, *copies))
    (folder / MANIFEST_NAME).write_text(to_json(manifest), encoding="utf-8")
    return manifest
