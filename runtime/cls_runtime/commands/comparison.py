"""What `cls-verify --compare` prints: a comparison of two bundles for people and as JSON's types."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cls_runtime.commands import shell
from cls_runtime.verifying.compare import ComparedBundle, Comparison


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON's types; the keys are `Comparison`'s fields, and `interchangeable`."""
    document = asdict(comparison)
    for side in ("first", "second"):
        document[side]["bundle"] = str(document[side]["bundle"])
    return {"interchangeable": comparison.interchangeable, "same_fingerprint": not comparison.differences, **document}


def comparison_lines(comparison: Comparison) -> list[str]:
    """The comparison in words, one line for each thing that may differ."""
    first, second, texts = comparison.first, comparison.second, comparison.texts
    rows = [
        ("from", _about(first)),
        ("to", _about(second)),
        ("fingerprint", f"{first.fingerprint[:12]} -> {second.fingerprint[:12]}" if comparison.differences else "equal"),
        *(("", difference) for difference in comparison.differences),
        ("widths", _widths(first, second)),
        ("truncation", _truncation(comparison)),
        ("tokens", f"{comparison.other_tokens} of {texts} texts get different tokens"),
    ]
    for output, figures in comparison.figures.items():
        words = f"mean cosine {figures.mean_cosine:.8f}, lowest {figures.min_cosine:.8f}, largest difference {figures.max_abs:.2g}"
        rows.append((output, words))
    rows.append(("neighbours", _neighbours(comparison)))
    return shell.table_lines(rows)


def _about(compared: ComparedBundle) -> str:
    on = f"{compared.variant} on {compared.engine}"
    return f"{compared.bundle}: {compared.source}, {on}, texts up to {compared.max_length} tokens"


def _widths(first: ComparedBundle, second: ComparedBundle) -> str:
    names = dict.fromkeys([*first.widths, *second.widths])
    words = []
    for name in names:
        ours, theirs = first.widths.get(name), second.widths.get(name)
        words.append(f"{name} {ours}" if ours == theirs else f"{name} {ours or 'absent'} -> {theirs or 'absent'}")
    return ", ".join(words)


def _truncation(comparison: Comparison) -> str:
    first, second = comparison.first, comparison.second
    cut = (
        f"{first.truncated} texts are cut"
        if first.truncated == second.truncated
        else f"{first.truncated} -> {second.truncated} texts are cut"
    )
    return f"{cut}, {comparison.other_truncation} of them differently"


def _neighbours(comparison: Comparison) -> str:
    shared = comparison.neighbours
    if shared is None:
        return "not compared: the widths differ, there are too few texts, or vectors are not finite"
    return (
        f"of each text's {shared.neighbours} nearest, {shared.mean:.1%} stay, {shared.worst:.0%} for the worst text; "
        f"{shared.mixed:.1%} with an index of the first and queries of the second"
    )
