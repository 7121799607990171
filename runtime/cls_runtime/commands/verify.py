"""`cls-verify`: checks a bundle, with or without PyTorch, for people, for machines (`--json`) and for CI (`--junit`); or compares two."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from cls_runtime.bundle.files import write_whole
from cls_runtime.commands import shell
from cls_runtime.commands.bundle_options import add_bundle, add_bundle_options, bundle_name
from cls_runtime.commands.colors import Color
from cls_runtime.commands.comparison import comparison_document, comparison_lines
from cls_runtime.commands.engine_options import DEVICE_NEEDS_GPU_ENGINE, add_device, engine_name
from cls_runtime.commands.parsing import EXIT_CODES, command_parser
from cls_runtime.encoding.crew import check_threads
from cls_runtime.engines.choice import ENGINE_NAMES, VARIANT_NAMES
from cls_runtime.errors import CheckFailedError, ClsError, UsageError
from cls_runtime.quantities import duration
from cls_runtime.reading.text_files import read_texts
from cls_runtime.verifying.compare import compare_bundles
from cls_runtime.verifying.report import Check, VerifyReport
from cls_runtime.verifying.verification import verify

_EXAMPLES = [
    ("cls-verify models/my-model", "hashes, vectors, batches, truncation; without PyTorch"),
    ("cls-verify models/my-model --variant int8 --junit report.xml", "one variant, with a JUnit report for CI"),
    ("cls-verify models/my-model --against bert-base-uncased", "also compare with the PyTorch model"),
    ("cls-verify models/my-model --against ./checkpoint --texts mine.txt", "the same with your own texts"),
    ("cls-verify models/my-model --compare models/new-model", "how the vectors change with an upgrade"),
]
MAX_TEXTS = 10_000
_CHECK_FAILED = "a check failed, or the bundles of --compare are not interchangeable"
_NOTES = (
    "A check that cannot run here is skipped; it fails if --variant and --engine ask for exactly that check. With --quiet, "
    "only failed checks are printed."
)
_REQUIREMENTS = (
    shell.Requirement(
        options=("--against", "--junit"),
        need="the checks of one bundle, --compare makes none",
        is_met=lambda arguments: arguments.compare is None,
        instead=lambda arguments: f"--compare {arguments.compare}",
    ),
    DEVICE_NEEDS_GPU_ENGINE,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cls-verify` with `argv` (default: the process's arguments) and gives the exit code."""
    return shell.run_command(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "cls-verify",
        "Checks that a bundle is complete and unchanged, and that its vectors equal those of PyTorch. Without options it checks every "
        "variant on every installed CPU engine, with the texts and PyTorch vectors that the bundle contains.",
        examples=_EXAMPLES,
        exit_codes=[(code, _CHECK_FAILED if code == "1" else meaning) for code, meaning in EXIT_CODES],
        notes=_NOTES,
    )
    add_bundle(parser)
    parser.add_argument(
        "--variant", choices=VARIANT_NAMES, help="check only this precision; auto is the one that cls-embed uses (default: all)"
    )
    parser.add_argument(
        "--engine",
        choices=ENGINE_NAMES,
        type=engine_name,
        help="check only on this engine; auto is the one that cls-embed uses (default: all installed CPU engines)",
    )
    add_device(parser)
    parser.add_argument(
        "--against", metavar="MODEL", help="also compare with this hub id or checkpoint folder in PyTorch; needs cls-export[export]"
    )
    parser.add_argument(
        "--compare",
        metavar="BUNDLE",
        help="make no checks; show how the vectors change if that bundle replaces this one, and fail if they are not interchangeable",
    )
    parser.add_argument(
        "--texts",
        metavar="FILE",
        help="your own texts (.txt, .jsonl, .csv; at most 10,000) for the checks finite and batch invariance, --against and --compare "
        "(default: the texts in the bundle)",
    )
    add_bundle_options(parser)
    parser.add_argument("--junit", metavar="FILE", type=Path, help="write a JUnit XML report with one test case per check")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    shell.check_requirements(arguments, _REQUIREMENTS)
    check_threads()
    if arguments.compare is not None:
        return _compare(arguments, _texts(arguments.texts))
    with _junit_file(arguments) as write_junit:
        report = _verify(arguments)
        write_junit(report)
    if arguments.json:
        shell.print_json(report_document(report))
    if not report.passed:
        first = report.failures[0]
        raise CheckFailedError(f"{len(report.failures)} of {len(report.checks)} checks failed; {_title(first)}: {first.message}")
    if not (arguments.json or arguments.quiet):
        done = len(report.checks) - len(report.skipped)
        skipped = f", {len(report.skipped)} skipped" if report.skipped else ""
        shell.say(f"\n{done} checks passed{skipped} in {duration(report.seconds)}: {report.bundle} gives the vectors of {report.source}")
    return shell.EXIT_DONE


@contextlib.contextmanager
def _junit_file(arguments: argparse.Namespace) -> Iterator[Callable[[VerifyReport], None]]:
    """What writes the report to `--junit FILE`. An older one never stays as if it were this run's: until then the file holds a failure."""
    path: Path | None = arguments.junit
    if path is None:
        yield lambda _: None
        return
    folders = [Path(arguments.bundle), *([] if arguments.against is None else [Path(arguments.against)])]
    shell.check_writable(path, "--junit", files=[] if arguments.texts is None else [arguments.texts], folders=folders)
    if path.is_file() or not path.exists():  # a pipe takes one report
        write_whole(path, junit_xml(_unfinished(arguments.bundle, "the checks were not finished")))
    try:
        yield lambda report: write_whole(path, junit_xml(report))
    except (ClsError, OSError) as error:
        write_whole(path, junit_xml(_unfinished(arguments.bundle, str(error))))
        raise


def _unfinished(bundle: str, reason: str) -> VerifyReport:
    check = Check(name="cls-verify", variant=None, engine=None, passed=False, message=reason, figures={}, seconds=0.0)
    return VerifyReport(bundle=Path(bundle), source="", fingerprint="", checks=(check,))


def _verify(arguments: argparse.Namespace) -> VerifyReport:
    texts = _texts(arguments.texts)
    with contextlib.redirect_stdout(sys.stderr) if arguments.json else contextlib.nullcontext():
        return verify(
            bundle_name(arguments),
            variants=None if arguments.variant is None else [arguments.variant],
            engines=None if arguments.engine is None else [arguments.engine],
            device=arguments.device,
            against=arguments.against,
            texts=texts,
            follow_links=arguments.follow_links,
            progress=None if arguments.json else _say_failure if arguments.quiet else _say_check,
        )


def _compare(arguments: argparse.Namespace, texts: list[str] | None) -> int:
    comparison = compare_bundles(
        bundle_name(arguments),
        arguments.compare,
        texts=texts,
        variant=arguments.variant or "auto",
        engine=arguments.engine or "auto",
        device=arguments.device,
        follow_links=arguments.follow_links,
    )
    if arguments.json:
        shell.print_json(comparison_document(comparison))
    elif not arguments.quiet:
        for line in comparison_lines(comparison):
            shell.say(line)
    if not comparison.interchangeable:
        raise CheckFailedError(f"{arguments.compare} does not give the vectors of {arguments.bundle}; {'; '.join(comparison.objections)}")
    if not (arguments.json or arguments.quiet):
        shell.say(f"\n{arguments.compare} gives the vectors of {arguments.bundle}: one can replace the other")
    return shell.EXIT_DONE


def _texts(name: str | None) -> list[str] | None:
    if name is None:
        return None
    texts = list(itertools.islice(read_texts([name]), MAX_TEXTS + 1))
    if len(texts) > MAX_TEXTS:
        raise UsageError(f"--texts {name} has more than {MAX_TEXTS:,} texts; take a sample")
    if not texts:
        raise UsageError(f"--texts {name} has no texts, expected at least one")
    return texts


def _title(check: Check) -> str:
    return " ".join(part for part in (check.variant, check.name, f"on {check.engine}" if check.engine else None) if part)


def _say_check(check: Check) -> None:
    where = f"{check.variant or 'all':<4}  {check.engine or '':<11}"
    outcome: tuple[str, Color] = ("skip", "yellow") if check.skipped else ("pass", "green") if check.passed else ("FAIL", "red")
    word, color = outcome
    shell.say(f"{word}  {where}  {check.name:<16}  {check.message}", color=color, colored=len(word))


def _say_failure(check: Check) -> None:
    if not check.passed and not check.skipped:
        _say_check(check)


def report_document(report: VerifyReport) -> dict[str, Any]:
    """The report as JSON's types."""
    return {
        "bundle": str(report.bundle),
        "source": report.source,
        "fingerprint": report.fingerprint,
        "passed": report.passed,
        "seconds": round(report.seconds, 3),
        "checks": [
            {
                "name": check.name,
                "variant": check.variant,
                "engine": check.engine,
                "passed": check.passed,
                "skipped": check.skipped,
                "message": check.message,
                "figures": dict(check.figures),
                "seconds": round(check.seconds, 3),
            }
            for check in report.checks
        ],
    }


def junit_xml(report: VerifyReport) -> bytes:
    """The report as JUnit XML: one suite, a test case for each check, its figures as properties."""
    suite = ET.Element(
        "testsuite",
        name=_xml_text(f"cls-verify {report.bundle.name}"),
        tests=str(len(report.checks)),
        failures=str(len(report.failures)),
        errors="0",
        skipped=str(len(report.skipped)),
        time=f"{report.seconds:.3f}",
    )
    for check in report.checks:
        where = ".".join(part for part in ("cls-verify", check.variant, check.engine) if part)
        case = ET.SubElement(suite, "testcase", classname=where, name=check.name, time=f"{check.seconds:.3f}")
        if check.figures:
            properties = ET.SubElement(case, "properties")
            for name, value in check.figures.items():
                ET.SubElement(properties, "property", name=name, value=repr(value))
        if check.skipped:
            ET.SubElement(case, "skipped", message=_xml_text(check.message))
        elif check.passed:
            ET.SubElement(case, "system-out").text = _xml_text(check.message)
        else:
            ET.SubElement(case, "failure", message=_xml_text(check.message)).text = _xml_text(check.message)
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    document: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _xml_text(text: str) -> str:
    """`text` without the characters that XML 1.0 forbids even when escaped."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


if __name__ == "__main__":
    sys.exit(main())
