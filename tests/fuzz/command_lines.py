"""Command lines as nobody means them: every option of a command, with values that make no sense, in any number and order."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from golden_bundle import build_golden_bundle
from hypothesis import strategies as st

Main = Callable[[Sequence[str]], int]

VALUES = (
    "",
    "-",
    "--",
    "-1",
    "0",
    "1",
    "2",
    "1e30",
    "nan",
    "9" * 400,
    "auto",
    "cls",
    "fp32",
    "text",
    "doc.text",
    ";",
    "\udce9",
    "\x1b[2J",
    "x" * 3000,
    "../x",
    "/dev/null",
    "a\nb",
)
OPTIONS = {
    "cls-embed": (
        *(
            "--revision",
            "--column",
            "--delimiter",
            "--output",
            "--variant",
            "--engine",
            "--threads",
            "--on-overflow",
            "--on-error",
            "--id-column",
            "--keep",
            "--dtype",
            "--prompt-name",
            "--prompt",
            "--dimensions",
            "--ranges",
        ),
        *("--shard-rows", "--normalize", "--no-normalize", "--json", "--quiet", "--ray-workers", "--print-completion"),
    ),
    "cls-verify": ("--revision", "--variant", "--engine", "--texts", "--junit", "--json", "--quiet", "--compare"),
    "cls-doctor": ("--json", "--quiet", "--revision"),
    "cls-export": (
        "--max-length",
        "--layout",
        "--tokenizer",
        "--calibration",
        "--no-fp32",
        "--fp16",
        "--int8",
        "--json",
        "--revision",
        "--pooler",
        "--push-to-hub",
        "--public",
    ),
}


def _embed() -> Main:
    from cls_runtime.commands.embed import main

    return main


def _verify() -> Main:
    from cls_runtime.commands.verify import main

    return main


def _doctor() -> Main:
    from cls_runtime.commands.doctor import main

    return main


def _export() -> Main:
    from cls_exporter.command import main

    return main


COMMANDS: dict[str, Callable[[], Main]] = {"cls-embed": _embed, "cls-verify": _verify, "cls-doctor": _doctor, "cls-export": _export}

_HOME = tempfile.TemporaryDirectory(prefix="fuzz-")


@functools.cache
def _bundle() -> Path:
    return build_golden_bundle(Path(_HOME.name) / "bundle")


def arguments_of(command: str, folder: Path) -> st.SearchStrategy[list[str]]:
    """Arguments of a command; what it writes goes below `folder`, and no model is there to be exported."""
    texts = folder / "texts.txt"
    texts.write_text("the cat\na\n")
    options = st.lists(st.tuples(st.sampled_from(OPTIONS[command]), st.sampled_from(("", *VALUES))), max_size=3).map(
        lambda drawn: [word for option, value in drawn for word in ((option, value) if value else (option,))]
    )
    targets = [str(folder / name) for name in ("out.npy", "out", "no/where.npy", "texts.txt", "x" * 300, ".")]
    places = {
        "cls-embed": st.tuples(
            st.sampled_from([str(_bundle()), str(folder), "", "./none", "org/none", "org/name@v1"]),
            st.sampled_from([str(texts), "none.txt", "", "*.csv"]),
        ).map(list),
        "cls-verify": st.sampled_from([str(_bundle()), str(folder), "", "./none", "org/none", "org/name@v1"]).map(lambda path: [path]),
        "cls-doctor": st.sampled_from([str(_bundle()), str(folder), "", "./none", "org/none", "org/name@v1"]).map(lambda path: [path]),
        "cls-export": st.sampled_from(["./none", "", "/", str(folder), str(texts)]).map(lambda path: [path]),
    }
    written = st.sampled_from(targets).map(lambda target: ["-o", target]) if command in ("cls-embed", "cls-export") else st.just([])
    return st.tuples(places[command], written, options).map(lambda parts: [word for part in parts for word in part])
