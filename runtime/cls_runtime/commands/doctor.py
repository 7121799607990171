"""`cls-doctor`: shows what is installed, what works, what `auto` picks, and how to fix the rest."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from cls_runtime import __version__
from cls_runtime.commands import shell
from cls_runtime.commands.bundle_options import add_bundle, add_bundle_options, bundle_name
from cls_runtime.commands.colors import Color
from cls_runtime.commands.parsing import EXIT_CODES, command_parser
from cls_runtime.doctor import Diagnosis, Package, diagnose
from cls_runtime.engines.cuda.checkup import Checkup
from cls_runtime.quantities import duration, several

_EXAMPLES = [
    ("cls-doctor", "this machine and this Python"),
    ("cls-doctor models/my-model", "also tries this bundle"),
    ("cls-doctor --json", "for a bug report"),
]
_MEANINGS = {"0": "an engine works, and BUNDLE if given", "2": "no engine works, BUNDLE cannot be used, or wrong usage"}
_NOTES = (
    "The first line says whether all is well; each problem is an error line at the end that says how to fix it. --quiet "
    "prints only these. --json is made for bug reports: it contains no paths except that of BUNDLE."
)
_REQUIREMENTS = (
    shell.Requirement(
        options=("--revision", "--follow-links"),
        need="a BUNDLE to try",
        is_met=lambda arguments: arguments.bundle is not None,
        instead=lambda _: "none",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cls-doctor` with `argv` (default: the process's arguments) and gives the exit code."""
    return shell.run_command(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "cls-doctor",
        "Shows what is installed, which engines work, which engine and variant auto picks and why, and how to fix what is broken. "
        "Engines are tried on a tiny graph, because an installed engine may not work. Writes no files.",
        examples=_EXAMPLES,
        works_alone=True,
        exit_codes=[(code, _MEANINGS.get(code, meaning)) for code, meaning in EXIT_CODES if code != "1"],
        notes=_NOTES,
    )
    add_bundle(parser, optional="; to try on this machine")
    add_bundle_options(parser)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    shell.check_requirements(arguments, _REQUIREMENTS)
    bundle = None if arguments.bundle is None else bundle_name(arguments)
    diagnosis = diagnose(bundle, follow_links=arguments.follow_links)
    if arguments.json:
        shell.print_json(diagnosis_document(diagnosis))
    else:
        shell.say(first_line(diagnosis), color=_color(diagnosis))
        for line in [] if arguments.quiet else ["", *diagnosis_lines(diagnosis)]:
            shell.say(line)
        for warning in diagnosis.warnings:
            shell.warn(warning)
    for problem in diagnosis.problems:
        shell.say_error(problem)
    return shell.EXIT_USAGE if diagnosis.problems else shell.EXIT_DONE


def first_line(diagnosis: Diagnosis) -> str:
    """Whether all is well, in a line."""
    if diagnosis.problems:
        return f"{several(len(diagnosis.problems), 'problem')}: {'; '.join(problem.partition(':')[0] for problem in diagnosis.problems)}"
    warned = f", {several(len(diagnosis.warnings), 'warning')}" if diagnosis.warnings else ""
    if diagnosis.bundle is not None:
        return f"OK: {diagnosis.bundle.path} works with {diagnosis.bundle.variant} on {diagnosis.bundle.engine}{warned}"
    working = [engine.name for engine in diagnosis.engines if engine.works]
    return f"OK: {len(working)} of {several(len(diagnosis.engines), 'engine')} can be used ({', '.join(working)}){warned}"


def _color(diagnosis: Diagnosis) -> Color:
    return "red" if diagnosis.problems else "yellow" if diagnosis.warnings else "green"


def diagnosis_document(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as JSON's types; the keys are its fields."""
    document: dict[str, Any] = {"usable": not diagnosis.problems, "cls_export": __version__, **dataclasses.asdict(diagnosis)}
    if diagnosis.bundle is not None:
        document["bundle"]["path"] = str(diagnosis.bundle.path)
    return document


def diagnosis_lines(diagnosis: Diagnosis) -> list[str]:
    """The diagnosis for people."""
    if diagnosis.cpu_features is None:
        features = "unknown on this system"
    else:
        features = ", ".join(diagnosis.cpu_features) or "none that cls-export uses"
    quota = "no quota" if diagnosis.cpu_quota is None else f"quota of {diagnosis.cpu_quota:g}"
    rows = [
        ("cls-export", __version__),
        ("python", diagnosis.python),
        ("system", diagnosis.system),
        ("cpus", f"{diagnosis.usable_cpus} usable of {diagnosis.host_cpus} ({quota}); this is the default number of threads"),
        ("cpu features", features),
    ]
    lines = ["Machine", *shell.table_lines(rows), "", "Packages"]
    lines += shell.table_lines([(package.name, package.version or _missing(package, diagnosis)) for package in diagnosis.packages])
    lines += ["", "Engines"]
    lines += shell.table_lines([(item.name, "works" if item.works else "does not work", item.detail) for item in diagnosis.engines])
    lines.append(f"  auto picks {diagnosis.auto}")
    if diagnosis.gpu is not None:
        lines += ["", "GPU", *shell.table_lines(_gpu_rows(diagnosis.gpu))]
    if diagnosis.bundle is not None:
        status = diagnosis.bundle
        lines += ["", f"Bundle {status.path}", f"  {'works' if status.usable else 'cannot be used'}: {status.detail}"]
        lines += [f"  {reason}" for reason in status.reasons]
        if status.seconds_to_first_vector is not None:
            lines.append(f"  {duration(status.seconds_to_first_vector)} to load it, with hash checks, and to encode a first text")
    return lines


def _gpu_rows(found: Checkup) -> list[tuple[str, str]]:
    rows = [("driver", f"{found.driver or 'of unknown version'}, for CUDA {found.cuda}")]
    for gpu in found.gpus:
        capability = ".".join(map(str, gpu.compute_capability))
        rows.append((f"cuda:{gpu.number}", f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB, compute capability {capability}"))
    if found.libraries is not None:
        rows.append(("CUDA", "; ".join(found.libraries) or "its libraries load"))
        rows.append(("cuDNN", "its library loads" if found.cudnn else "its library does not load; run: pip install 'cls-export[gpu]'"))
    computed = "computed by the fast kernel" if found.problem is None else found.problem
    rows.append(("attention", computed if found.attention is None else f"{found.attention or 'kernel unknown'}: {computed}"))
    return rows


def _missing(package: Package, diagnosis: Diagnosis) -> str:
    rivals = {"onnxruntime": "onnxruntime-gpu", "onnxruntime-gpu": "onnxruntime"}
    present = {item.name for item in diagnosis.packages if item.version is not None}
    if rivals.get(package.name) in present:
        return f"not installed ({rivals[package.name]} is; do not install both, they overwrite each other)"
    return "not installed" + (f" (pip install 'cls-export[{package.extra}]')" if package.extra else "")


if __name__ == "__main__":
    sys.exit(main())
