"""`cls-doctor`: says what is installed, what works, what `auto` would take, and how to mend the rest."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from cls_runtime import __version__
from cls_runtime.commands import shell
from cls_runtime.commands.bundle_options import add_bundle, add_bundle_options, bundle_name
from cls_runtime.doctor import Diagnosis, Package, diagnose
from cls_runtime.engines.cuda.checkup import Checkup

_EXAMPLES = [
    ("cls-doctor", "this machine and this Python"),
    ("cls-doctor models/my-model", "also: what would run this bundle, and does it"),
    ("cls-doctor --json", "for a bug report"),
]
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
    parser = shell.command_parser(
        "cls-doctor",
        "Says what is installed, which engines work, what auto would pick and why, and how to mend what is broken. "
        "Ends with 0 if an engine (and BUNDLE) works, else with 2 and a line for each problem.",
        examples=_EXAMPLES,
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
        for line in diagnosis_lines(diagnosis):
            shell.say(line)
        for warning in diagnosis.warnings:
            shell.warn(warning)
    for problem in diagnosis.problems:
        shell.say_error(problem)
    return shell.EXIT_USAGE if diagnosis.problems else shell.EXIT_DONE


def diagnosis_document(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as JSON's types; the keys are its fields."""
    document: dict[str, Any] = {"usable": not diagnosis.problems, "cls_export": __version__, **dataclasses.asdict(diagnosis)}
    if diagnosis.bundle is not None:
        document["bundle"]["path"] = str(diagnosis.bundle.path)
    return document


def diagnosis_lines(diagnosis: Diagnosis) -> list[str]:
    """The diagnosis for people."""
    if diagnosis.cpu_features is None:
        features = "unknown (this system does not tell)"
    else:
        features = ", ".join(diagnosis.cpu_features) or "none that matter"
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
    lines.append(f"  auto takes {diagnosis.auto}")
    if diagnosis.gpu is not None:
        lines += ["", "GPU", *shell.table_lines(_gpu_rows(diagnosis.gpu))]
    if diagnosis.bundle is not None:
        status = diagnosis.bundle
        lines += ["", f"Bundle {status.path}", f"  {'works' if status.usable else 'cannot be used'}: {status.detail}"]
        lines += [f"  {reason}" for reason in status.reasons]
        if status.seconds_to_first_vector is not None:
            lines.append(f"  {status.seconds_to_first_vector:.2f} s to load it, hashes included, and to encode a first text")
    return lines


def _gpu_rows(found: Checkup) -> list[tuple[str, str]]:
    rows = [("driver", f"{found.driver or 'of an unknown version'}, for CUDA {found.cuda}")]
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
        return f"not installed ({rivals[package.name]} is; never install both, they overwrite each other)"
    return "not installed" + (f" (pip install 'cls-export[{package.extra}]')" if package.extra else "")


if __name__ == "__main__":
    sys.exit(main())
