"""`export()`: a checkpoint becomes a bundle. The order of the steps is here, each step is a module of its own."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import time
from collections.abc import Callable
from pathlib import Path

from cls_exporter.checkpoint import Checkpoint, load_checkpoint
from cls_exporter.checkpoint.reference import checkpoint_token_ids, checkpoint_vectors
from cls_exporter.checkpoint.sentence_oracle import check_against_sentence_transformers
from cls_exporter.checkpoint.source_card import read_source_card
from cls_exporter.checkpoint.trial import check_computes
from cls_exporter.config import ExportConfig, ExportReport, Layout
from cls_exporter.gate import parity_gate as gate
from cls_exporter.gate.parity_texts import builtin_texts, parity_texts
from cls_exporter.gate.prompted_batch import PromptedBatch, prompted_batch
from cls_exporter.graph.families import form_of
from cls_exporter.graph.graph_file import bundle_file
from cls_exporter.graph.multiply_adds import multiply_adds
from cls_exporter.graph.pipeline import Compiled, compile_graph
from cls_exporter.graph.trace import trace
from cls_exporter.native_variants import with_native_forms
from cls_exporter.variants import CalibrationTexts, build_variant
from cls_exporter.variants.variant import PACKED_ENGINE, Written, write_variant
from cls_exporter.writing.companions import write_companions
from cls_exporter.writing.model_card import write_model_card
from cls_exporter.writing.publish import staged
from cls_exporter.writing.reading_back import check_read_back, check_sentence_files
from cls_runtime import __version__
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import GOLDEN_NAME, Golden, write_golden
from cls_runtime.bundle.manifest import MANIFEST_NAME, BundleFile, Manifest, OutputSpec, Source, Variant, to_json
from cls_runtime.bundle.overwriting import refuse_replacing
from cls_runtime.bundle.token_sample import sampled_positions
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
    """Exports a checkpoint's sentence vectors as a bundle: its CLS row, or the mean of its tokens' rows where it was trained so.

    The bundle appears under `output` in one rename, after every check has passed; when anything fails, nothing is left behind and an
    existing bundle stays as it was.

    Example:
        >>> report = export("BAAI/bge-small-en-v1.5", "models/exported")
        >>> report.parity["fp32"].max_abs
        1.7e-06

    Args:
        model: a hub id or a local folder.
        output: the bundle's folder.
        config: what to export; None is fp32 with the sentence's vector as it was trained.
        revision: a branch, tag or commit of the hub.
        force: replace an existing bundle.
        progress: called with each step in words.

    Raises:
        UsageError: `output` exists and `force` is false, it is or holds what is read, or the options make no sense.
        CheckpointError: the checkpoint cannot be read, or its vectors would be silently wrong.
        UnsupportedError: its architecture or one of its modules is not supported.
        GraphError: an expected rewrite of the graph did not happen, and no setting of the checkpoint explains it.
        ParityError: a variant misses its threshold; it is a `CheckFailedError` too.
        MissingExtraError: ONNX Runtime is not installed.
    """
    config = ExportConfig() if config is None else config
    require_engine("onnxruntime")
    read = [Path(model), *([] if config.calibration is None else [Path(config.calibration)])]
    refuse_replacing(Path(output), what=f"output {os.fspath(output)}", read=read)
    calibration = _calibration(config)
    steps = _Steps(progress)
    with staged(Path(output), force=force) as folder:
        steps.start("load", f"Loading {os.fspath(model)}")
        checkpoint = load_checkpoint(os.fspath(model), revision=revision, config=config)
        who = "sentence-transformers" if checkpoint.has_sentence_modules else "PyTorch"
        steps.start("check", f"Checking the checkpoint with {who}")
        check_computes(checkpoint)
        lowered, own_tokens = config.max_length is not None, config.tokenizer == "file"
        agreed = check_against_sentence_transformers(checkpoint, lowered=lowered, own_tokens=own_tokens)
        steps.start("trace", f"Tracing {checkpoint.architecture.model_type} with PyTorch")
        traced = trace(checkpoint)
        work = {"full": multiply_adds(traced, batch_size=1, sequence_length=REPORT_LENGTH)}
        needed = "only the CLS row" if checkpoint.model.one_row else "its outputs"
        steps.start("compile", f"Rewriting the graph to compute {needed}")
        compiled = compile_graph(traced, form=form_of(checkpoint), layout=config.layout)
        notes = checkpoint.notes + agreed + compiled.notes
        work["exported"] = multiply_adds(compiled.model, batch_size=1, sequence_length=REPORT_LENGTH)
        steps.start("reference", "Computing reference vectors with PyTorch")
        write_companions(checkpoint, folder)
        check_read_back(checkpoint, folder)
        check_sentence_files(checkpoint, folder)
        golden = _golden(checkpoint)
        write_golden(folder / GOLDEN_NAME, golden)
        prompted = prompted_batch(checkpoint, golden)
        bundle = Bundle(folder, _manifest(checkpoint, compiled, folder, layout=config.layout))
        copies: list[BundleFile] = []
        variants: dict[str, Variant] = {}
        for name in config.precisions:
            steps.start(name, f"Writing the {name} graph")
            built = build_variant(
                name, compiled.model, checkpoint=checkpoint, parity=golden.texts, calibration=calibration, whole=compiled.whole
            )
            written = write_variant(name, built, folder)
            copies += written.copies
            notes += built.notes
            steps.start("parity", f"Comparing {name} with PyTorch on {len(golden.texts)} texts")
            variants[name] = _held(name, written, bundle, golden, prompted, pad_id=checkpoint.tokenizer.pad_token_id)
        if "int8" in config.precisions:
            steps.start("native", "Writing native weights and comparing them with PyTorch")
            native = with_native_forms(variants, checkpoint, bundle, golden, prompted, calibration=calibration)
            variants, notes = dict(native.variants), notes + native.notes
        # Without the fingerprint of the manifest that had no variants: it is computed again.
        manifest = dataclasses.replace(bundle.manifest, variants=variants, files=(*bundle.manifest.files, *copies), fingerprint="")
        _write_manifest(folder, manifest)
        write_model_card(folder, manifest, read_source_card(checkpoint.folder), name=Path(os.path.abspath(output)).name)  # noqa: PTH100
    steps.end()
    return ExportReport(
        path=Path(output),
        manifest=manifest,
        parity={name: variant.parity[manifest.sentence_output] for name, variant in manifest.variants.items()},
        rewrites=compiled.rewrites,
        multiply_adds=work,
        notes=notes,
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


def _calibration(config: ExportConfig) -> CalibrationTexts:
    if config.calibration is None:
        return CalibrationTexts.of(builtin_texts("calibration"))
    return CalibrationTexts.of_file(config.calibration)


def _golden(checkpoint: Checkpoint) -> Golden:
    texts = parity_texts(checkpoint.tokenizer, max_length=checkpoint.max_length)
    token_ids = checkpoint_token_ids(checkpoint, texts)
    positions = tuple(tuple(sampled_positions(len(ids)).tolist()) for ids in token_ids) if checkpoint.token_rows else None
    return Golden(texts=texts, vectors=checkpoint_vectors(checkpoint, texts), token_ids=token_ids, row_positions=positions)


def _manifest(checkpoint: Checkpoint, compiled: Compiled, folder: Path, *, layout: Layout) -> Manifest:
    """What is true before there is a variant; the files are those that are in `folder`."""
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
        layout=layout,
        inputs=checkpoint.inputs,
        outputs=tuple(outputs),
        pooler=checkpoint.pooler,
        source_pooling=checkpoint.source_pooling,
        variants={},
        files=tuple(bundle_file(folder, path) for path in paths),
        tool_versions={"cls-export": __version__, **installed_versions(_TOOLS)},
        logits_activation=checkpoint.logits_activation,
        labels=checkpoint.labels,
        tokenizer=checkpoint.tokenizer_choice,
        pooling=checkpoint.pooling,
        token_rows=checkpoint.token_rows,
        prompts=checkpoint.use.prompts,
        default_prompt_name=checkpoint.use.default_prompt_name,
        truncate_dim=checkpoint.use.truncate_dim,
        matryoshka_dims=checkpoint.use.matryoshka_dims,
        similarity_fn_name=checkpoint.use.similarity_fn_name,
        created=dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
    )


def _held(name: str, written: Written, bundle: Bundle, golden: Golden, prompted: PromptedBatch | None, *, pad_id: int) -> Variant:
    """Holds every form of a variant to PyTorch, and gives its entry in the manifest: the figures are those of its own form."""
    built = written.built
    measured, *_ = [
        gate.hold(
            bundle.folder / graph,
            bundle,
            golden,
            variant=name,
            packed=engine == PACKED_ENGINE,
            pad_id=pad_id,
            prompted=prompted,
            tried=built.tried,
        )
        for engine, graph in written.graphs.items()
    ]
    return Variant(
        files=written.files,
        recipe=built.recipe,
        parity=measured.parity,
        batch_invariance_max_abs=measured.batch_invariance.max_abs,
        cpu_features=built.cpu_features,
        batch_invariance_min_cosine=measured.batch_invariance.min_cosine,
        engine_files=written.engine_files,
        multiply_adds=written.multiply_adds,
    )


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the last file of a bundle, and opens it as every reader will."""
    (folder / MANIFEST_NAME).write_text(to_json(manifest), encoding="utf-8")
    Bundle.open(folder)
