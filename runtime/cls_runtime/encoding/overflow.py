"""What one call does about texts that are longer than the model takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from cls_runtime.encoding.report import OnOverflow
from cls_runtime.errors import UsageError

TruncationSide = Literal["left", "right"]


@dataclass(frozen=True)
class Overflow:
    """`action` is what a text that is too long leads to; `truncate_left` says that its end stays, not its beginning."""

    action: OnOverflow
    truncate_left: bool

    @property
    def refuses(self) -> bool:
        """Whether such a text is an error."""
        return self.action == "raise"

    def with_options(self, on_overflow: OnOverflow | None, truncation_side: TruncationSide | None) -> Overflow:
        """What a call with these options does, where None leaves one as it is here.

        Raises:
            UsageError: a value that there is not.
        """
        if on_overflow is None and truncation_side is None:
            return self
        for name, value, allowed in (
            ("on_overflow", on_overflow, get_args(OnOverflow)),
            ("truncation_side", truncation_side, get_args(TruncationSide)),
        ):
            if value is not None and (not isinstance(value, str) or value not in allowed):
                raise UsageError(f"{name} is {value!r}, expected one of {', '.join(allowed)}, or None for the Encoder's own")
        left = self.truncate_left if truncation_side is None else truncation_side == "left"
        return Overflow(on_overflow or self.action, left)
