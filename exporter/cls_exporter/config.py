"""What an export is asked for, and what it reports, as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from cls_runtime.bundle.manifest import Manifest, ParityFigures, TokenizerChoice
from cls_runtime.errors import UsageError

Layout = Literal["standard", "native", "broadcast"]
PoolingChoice = Literal["auto", "cls", "mean"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Options of one export.

    Attributes:
        pooling: what makes a sentence's vector of the last layer: `cls` (row 0), `mean` (of the tokens' rows), or `auto`, what the
            checkpoint was trained with, and `cls` where it does not say.
        tokens: output 0, `last_hidden_state`, is every token's row, whatever the pooling.
        pooler: add the `pooler_output` output; needs trained pooler weights.
        logits: add the `logits` output; needs a sequence classifier.
        precisions: the variants to write, at least one of `fp32`, `fp16`, `int8`.
        layout: `standard`, `native` (no `last_hidden_state`) or `broadcast` (the sentence's vector expanded to every token).
        max_length: lowers the longest text, in tokens; None takes the checkpoint's own limit.
        tokenizer: which one counts where tokenizer.json (`file`) and what `transformers` makes of the folder give texts other tokens; None
            refuses such a checkpoint.
        calibration: a text file (one text a line) for int8's scales; None takes the built-in texts.
        allow_pooling_mismatch: export another pooling than the model was trained with: that of `pooling`, or with `auto` the CLS row.
        allow_untrained_pooler: export a pooler that was never trained.
        trust_remote_code: run the checkpoint's own Python code.

    Raises:
        UsageError: an unknown pooling, precision, layout or tokenizer, no precision at all, or `tokens` in a layout without them.
    """

    pooling: PoolingChoice = "auto"
    tokens: bool = False
    pooler: bool = False
    logits: bool = False
    precisions: tuple[Precision, ...] = ("fp32",)
    layout: Layout = "standard"
    max_length: int | None = None
    tokenizer: TokenizerChoice | None = None
    calibration: Path | None = None
    allow_pooling_mismatch: bool = False
    allow_untrained_pooler: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.precisions, str):
            raise UsageError(f"precisions is the string {self.precisions!r}, expected a tuple such as ('fp32', 'int8')")
        unknown = [name for name in self.precisions if name not in get_args(Precision)]
        if unknown or not self.precisions:
            raise UsageError(f"precisions {self.precisions!r}: expected one or more of {', '.join(get_args(Precision))}")
        if len(set(self.precisions)) != len(self.precisions):
            raise UsageError(f"precisions {self.precisions!r} names a precision twice")
        if self.layout not in get_args(Layout):
            raise UsageError(f"layout {self.layout!r}: expected one of {', '.join(get_args(Layout))}")
        if self.pooling not in get_args(PoolingChoice):
            raise UsageError(f"pooling {self.pooling!r}: expected one of {', '.join(get_args(PoolingChoice))}")
        if self.tokens and self.layout != "standard":
            raise UsageError(f"tokens are output 0 of layout 'standard'; layout {self.layout!r} has none; choose one of the two")
        if self.tokenizer not in (None, *get_args(TokenizerChoice)):
            raise UsageError(f"tokenizer {self.tokenizer!r}: expected None or one of {', '.join(get_args(TokenizerChoice))}")
        if self.max_length is not None and self.max_length < 1:
            raise UsageError(f"max_length {self.max_length}: expected at least 1 token")
        if self.calibration is not None and "int8" not in self.precisions:
            raise UsageError("calibration texts are only used for int8; add the int8 precision or leave calibration out")


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export did.

    Attributes:
        path: the bundle's folder.
        manifest: the bundle's manifest, with every figure.
        parity: the sentence vector's parity figures, by variant.
        rewrites: how often each graph pass fired.
        multiply_adds: of the fp32 graph for one text of 128 tokens: `full` before the passes, `exported` after them.
        notes: what was recognised in the checkpoint, what was left out and what is slower than usual, in words.
        seconds: wall-clock time of each step, and `total`.
    """

    path: Path
    manifest: Manifest
    parity: Mapping[str, ParityFigures]
    rewrites: Mapping[str, int]
    multiply_adds: Mapping[str, int]
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
