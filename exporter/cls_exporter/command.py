"""`cls-export`: arguments, summary and `--json` around `cls_exporter.exporting`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from cls_exporter.config import ExportConfig, ExportReport, Layout, PoolingChoice, Precision
from cls_runtime.bundle import manifest as manifests
from cls_runtime.bundle.hub_names import cached_id, hub_name
from cls_runtime.bundle.manifest import EngineParity, Manifest, TokenizerChoice, Variant
from cls_runtime.commands import shell
from cls_runtime.commands.ending import nothing_to_clean
from cls_runtime.commands.parsing import EXIT_CODES, command_parser
from cls_runtime.errors import MissingExtraError, UsageError
from cls_runtime.progress_bar import ProgressBar
from cls_runtime.quantities import duration, size

_EXAMPLES = [
    ("cls-export bert-base-uncased", "fp32, from the hub to models/bert-base-uncased"),
    ("cls-export bert-base-uncased --int8", "fp32 and int8 in one bundle"),
    ("cls-export bert-base-uncased --fp16", "fp32 and half precision, for GPUs"),
    ("cls-export ./my-checkpoint -o bundles/mine --pooler", "a local checkpoint, with pooler_output"),
    ("cls-export ./my-classifier --logits --json", "a sequence classifier; prints a JSON report"),
    ("cls-export bert-base-uncased --push-to-hub me/bert-bundle", "also upload it to a private repository"),
]
_CHECK_FAILED = "a check failed: the vectors differ too much from those of PyTorch"
_NOTES = "DIR appears when every check has passed. If the export fails or is interrupted, an existing DIR stays unchanged."
_REQUIREMENTS = (
    shell.Requirement(
        options=("--calibration",),
        need="--int8, whose scales it determines",
        is_met=lambda arguments: arguments.int8,
        instead=lambda _: "no --int8",
    ),
    shell.Requirement(
        options=("--public",),
        need="--push-to-hub",
        is_met=lambda arguments: arguments.push_to_hub is not None,
        instead=lambda _: "no --push-to-hub",
    ),
)
_POOLINGS = {"cls": "the CLS row", "mean": "the mean of the tokens' rows"}
_SHOWN_PROMPTS = 8
_TOKENIZERS = {"file": "tokenizer.json, unchanged", "transformers": "converted by transformers"}
_NEEDED = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "sympy", "onnxruntime")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cls-export` with `argv` (default: the process's arguments) and gives the exit code."""
    return shell.run_command(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "cls-export",
        "Exports a BERT checkpoint to a bundle: an ONNX graph that computes only the CLS row, the tokenizer, and a report that compares "
        "its vectors with those of PyTorch.",
        examples=_EXAMPLES,
        exit_codes=[(code, _CHECK_FAILED if code == "1" else meaning) for code, meaning in EXIT_CODES],
        variables=[
            ("HF_TOKEN", "the token for the hub, unless you ran hf auth login"),
            ("HF_HUB_OFFLINE", "set to 1: use only the hub's cache"),
        ],
        notes=_NOTES,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a hub id such as bert-base-uncased, id@revision, the address of a model's page on the hub, or a folder with a checkpoint",
    )
    parser.add_argument("-o", dest="output", metavar="DIR", type=_folder, help="the bundle's folder (default: models/<last part of MODEL>)")
    parser.add_argument(
        "--revision", metavar="REV", help="the branch, tag or commit of MODEL on the hub; a commit may be abbreviated (default: main)"
    )
    parser.add_argument("--force", action="store_true", help="replace DIR if it is a bundle and contains nothing else")
    hub = parser.add_argument_group("upload")
    hub.add_argument(
        "--push-to-hub",
        metavar="REPO",
        help="then upload the bundle to REPO on the hub in one commit; a new REPO is private. An earlier bundle in REPO is replaced; a "
        "REPO with other files needs --force, which keeps them",
    )
    hub.add_argument("--public", action="store_true", help="make REPO public")
    outputs = parser.add_argument_group("outputs")
    outputs.add_argument(
        "--pooling",
        choices=get_args(PoolingChoice),
        default="auto",
        help="the sentence vector: cls is the CLS row, mean the mean of all tokens' rows (default: auto, as the model was trained, or cls "
        "if the checkpoint does not say)",
    )
    outputs.add_argument("--tokens", action="store_true", help="last_hidden_state has every token's row, not only the CLS row")
    outputs.add_argument("--pooler", action="store_true", help="add pooler_output (dense layer and tanh on the CLS row)")
    outputs.add_argument("--logits", action="store_true", help="add the logits of a sequence classifier")
    outputs.add_argument(
        "--layout",
        choices=get_args(Layout),
        default="standard",
        help="standard works everywhere, native leaves last_hidden_state out, broadcast is for programs that can only mean-pool "
        "(default: standard)",
    )
    outputs.add_argument("--max-length", metavar="N", type=int, help="the maximum text length in tokens (default: the checkpoint's)")
    variants = parser.add_argument_group("variants (fp32 is always written, except with --no-fp32)")
    variants.add_argument("--fp16", action="store_true", help="add a half-precision variant, for GPUs")
    variants.add_argument("--int8", action="store_true", help="add an int8 variant, for CPUs")
    variants.add_argument("--no-fp32", action="store_true", help="leave the fp32 variant out")
    variants.add_argument(
        "--calibration", metavar="FILE", type=Path, help="your own texts to set the scales of int8, one per line (default: built-in texts)"
    )
    allowed = parser.add_argument_group("checkpoints that are refused by default")
    allowed.add_argument(
        "--tokenizer",
        choices=get_args(TokenizerChoice),
        help="the tokenizer that the model was trained with, if tokenizer.json (file) and the tokenizer that transformers loads give "
        "different tokens",
    )
    allowed.add_argument(
        "--allow-pooling-mismatch", action="store_true", help="export another pooling than the model was trained with, CLS by default"
    )
    allowed.add_argument("--allow-untrained-pooler", action="store_true", help="export a pooler whose weights were never trained")
    allowed.add_argument("--trust-remote-code", action="store_true", help="run Python code that comes with the checkpoint")
    return parser


def _folder(name: str) -> Path:
    if not name:
        raise argparse.ArgumentTypeError("expected a folder, found an empty name")
    return Path(name)


def _run(arguments: argparse.Namespace) -> int:
    shell.check_requirements(arguments, _REQUIREMENTS)
    _require_working_directory()
    output = arguments.output or default_output(arguments.model)
    config = _config(arguments)
    _require_packages()
    with nothing_to_clean():  # PyTorch and transformers take seconds
        from cls_exporter.exporting import export
        from cls_exporter.writing.hub_upload import check_target, upload

    target = None
    if arguments.push_to_hub is not None:
        target = check_target(arguments.push_to_hub, public=arguments.public, force=arguments.force)
    steps = export_steps(config) + (target is not None)
    bar = ProgressBar(unit="step", total=steps, shown=not (arguments.json or arguments.quiet))
    # Libraries print on standard output while they trace; it belongs to the summary or the JSON document.
    with bar, contextlib.redirect_stdout(sys.stderr):
        report = export(arguments.model, output, config=config, revision=arguments.revision, force=arguments.force, progress=bar.begin)
        uploaded = None
        if target is not None:
            bar.begin(f"Uploading to {target.repository}")
            uploaded = upload(report.path, target)
    if arguments.json:
        shell.print_json(report_document(report) | ({} if uploaded is None else {"hub": dataclasses.asdict(uploaded)}))
    elif not arguments.quiet:
        for line in summary_lines(report):
            shell.say(line)
        if uploaded is not None:
            shell.say(f"Uploaded to {uploaded.url}, {'public' if uploaded.public else 'private'}, commit {uploaded.commit}")
    return shell.EXIT_DONE


def export_steps(config: ExportConfig) -> int:
    """How often an export says what it does next: load, check, trace, compile, reference, for each variant write and compare, native."""
    return 5 + 2 * len(config.precisions) + ("int8" in config.precisions)


def default_output(model: str) -> Path:
    """`models/<last part of MODEL>`.

    Raises:
        UsageError: MODEL has no last part, such as `/`, or is an address that is no model's.
    """
    folder = Path(model)
    if folder.is_dir():
        named = cached_id(folder) or folder.resolve().name
    else:
        on_hub = hub_name(model)
        named = model if on_hub is None else on_hub.id
    name = named.rstrip("/").rsplit("/", 1)[-1]
    if not model or not name:
        raise UsageError(f"MODEL {model!r}: expected a hub id such as bert-base-uncased, or a folder with a checkpoint")
    return Path("models") / name


def _config(arguments: argparse.Namespace) -> ExportConfig:
    wanted = {"fp32": not arguments.no_fp32, "fp16": arguments.fp16, "int8": arguments.int8}
    precisions: tuple[Precision, ...] = tuple(name for name in get_args(Precision) if wanted[name])
    if not precisions:
        raise UsageError("--no-fp32 leaves nothing to write; add --fp16 or --int8")
    return ExportConfig(
        pooling=arguments.pooling,
        tokens=arguments.tokens,
        pooler=arguments.pooler,
        logits=arguments.logits,
        precisions=precisions,
        layout=arguments.layout,
        max_length=arguments.max_length,
        tokenizer=arguments.tokenizer,
        calibration=arguments.calibration,
        allow_pooling_mismatch=arguments.allow_pooling_mismatch,
        allow_untrained_pooler=arguments.allow_untrained_pooler,
        trust_remote_code=arguments.trust_remote_code,
    )


def _require_working_directory() -> None:
    """Without one PyTorch's libraries end the process."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UsageError("the working directory no longer exists, and PyTorch needs one; change to another") from None


def _require_packages() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"exporting needs {', '.join(missing)}, which cannot be found; run: pip install 'cls-export[export,cpu]'")


def report_document(report: ExportReport) -> dict[str, Any]:
    """The report as JSON's types; the keys are `ExportReport`'s fields."""
    return {
        "path": str(report.path),
        "manifest": json.loads(manifests.to_json(report.manifest)),
        "parity": {variant: dataclasses.asdict(figures) for variant, figures in report.parity.items()},
        "rewrites": dict(report.rewrites),
        "multiply_adds": dict(report.multiply_adds),
        "notes": list(report.notes),
        "seconds": dict(report.seconds),
    }


def summary_lines(report: ExportReport) -> list[str]:
    """The report in words: what was exported, files and sizes, parity, time, what to do next."""
    manifest = report.manifest
    outputs = ", ".join(f"{output.name} ({output.width} wide)" for output in manifest.outputs)
    shape = f"{manifest.num_layers} layers, hidden size {manifest.hidden_size}, texts up to {manifest.max_length} tokens"
    lines = [
        f"Exported {manifest.source.name} to {report.path}",
        f"  model     {manifest.architecture}: {shape}",
        f"  outputs   {outputs}",
        f"  pooler    {_pooler(report)}",
    ]
    lines += [f"  {name:9} {words}" for name, words in (("pooling", _pooling(manifest)), ("prompts", _prompts(manifest))) if words]
    if manifest.tokenizer is not None:
        lines.append(f"  tokenizer {_TOKENIZERS[manifest.tokenizer]}, as requested")
    full, exported = report.multiply_adds.get("full", 0), report.multiply_adds.get("exported", 0)
    if full and exported and round(100 * (1 - exported / full)) > 0:  # nothing is saved where all rows are needed
        lines.append(f"  work      {1 - exported / full:.0%} fewer multiply-adds than the full encoder, for a text of 128 tokens")
    lines += [f"  note      {note}" for note in report.notes]
    files = _files(report)
    total = size(sum(size_bytes for _, size_bytes in files))
    lines += ["", f"Files ({total})", *shell.table_lines([(path, size(size_bytes)) for path, size_bytes in files])]
    lines += ["", "Difference from the fp32 vectors of PyTorch", *shell.table_lines(_parity_rows(report))]
    steps = ", ".join(f"{name} {duration(seconds)}" for name, seconds in report.seconds.items() if name != "total")
    total = duration(report.seconds.get("total", sum(report.seconds.values())))
    lines += ["", f"Took {total}" + (f" ({steps})" if steps else "")]
    return [*lines, f"Next: cls-embed {report.path} texts.txt -o vectors.npy"]


def _pooler(report: ExportReport) -> str:
    """The pooler's state, with its evidence unless a note tells it already."""
    pooler = report.manifest.pooler
    told = any(pooler.evidence in note for note in report.notes)
    return pooler.state if told else f"{pooler.state} ({pooler.evidence})"


def _pooling(manifest: Manifest) -> str:
    """What a sentence's vector is made of, where it is not the CLS row as a matter of course."""
    source, made_of = manifest.source_pooling, _POOLINGS[manifest.pooling]
    if source.mismatch_allowed:
        return f"trained with {source.mode} pooling; exported with {made_of}, as requested"
    if manifest.pooling == "cls":
        return ""
    return f"{made_of}, as trained" if source.mode else f"{made_of}, as requested; the checkpoint does not say how it was trained"


def _prompts(manifest: Manifest) -> str:
    """The names of those that have a text, a few of many, and which is the default."""
    names = [name for name, text in manifest.prompts.items() if text]
    more = f" and {len(names) - _SHOWN_PROMPTS} more" if len(names) > _SHOWN_PROMPTS else ""
    default = f"; {manifest.default_prompt_name} by default" if manifest.default_prompt else ""
    return f"{', '.join(names[:_SHOWN_PROMPTS])}{more}{default}"


def _files(report: ExportReport) -> list[tuple[str, int]]:
    """Every file of the bundle with its size, the manifest included."""
    files = [path for path in report.path.rglob("*") if path.is_file()]
    return sorted((path.relative_to(report.path).as_posix(), path.stat().st_size) for path in files)


def _parity_rows(report: ExportReport) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("variant", "output", "texts", "mean cosine", "lowest cosine", "largest difference", "alone vs. batched")
    ]
    held: dict[str, Variant | EngineParity] = {}
    for name, variant in report.manifest.variants.items():
        held |= {name: variant, **{f"{name} {engine}": own for engine, own in variant.engine_parity.items()}}
    for name, form in held.items():
        for output, figures in form.parity.items():
            cosines = (f"{figures.mean_cosine:.8f}", f"{figures.min_cosine:.8f}")
            rows.append((name, output, str(figures.texts), *cosines, f"{figures.max_abs:.1e}", f"{form.batch_invariance_max_abs:.1e}"))
    return rows


if __name__ == "__main__":
    sys.exit(main())
