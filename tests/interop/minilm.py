"""The bundles of all-MiniLM-L6-v2 that the Makefile exports for other programs, and the texts that those are given."""

from __future__ import annotations

from pathlib import Path

from snippets import ROOT

from cls_runtime.bundle.golden import Golden


def bundle_in(layout: str) -> Path:
    """all-MiniLM-L6-v2 in fp32 alone: its CLS row in a layout, or `mean`, with its own pooling."""
    return ROOT / "build" / f"all-MiniLM-L6-v2-{layout}"


def sampled(golden: Golden) -> list[int]:
    """Every fifth text, and the longest: a limit's length, one less, one and many more."""
    return sorted({*range(0, len(golden.texts), 5), *sorted(range(len(golden.texts)), key=lambda index: len(golden.texts[index]))[-5:]})
