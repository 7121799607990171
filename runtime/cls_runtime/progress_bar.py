"""A bar on standard error while something takes long, drawn by tqdm: where it is installed and on a terminal, unless asked for."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, TextIO

from cls_runtime.errors import MissingExtraError

REDRAW_SECONDS = 0.1


class ProgressBar:
    """A context manager around the work. Where no bar is drawn, what it is told goes nowhere.

        >>> with ProgressBar(unit="step", total=2) as bar:
        ...     bar.begin("Reading")
        ...     bar.begin("Writing")

    Args:
        unit: what is counted.
        total: how many there are; None where nobody knows.
        done_before: how many were done before.
        scaled: large counts as 45.2k.
        shown: False for no bar on a terminal either, as beside a JSON document.
        asked_for: draw it wherever it goes to, and refuse to do without tqdm.
        stream: where to; None for standard error.

    Raises:
        MissingExtraError: on entering it; `asked_for`, and tqdm is not installed.
    """

    def __init__(
        self,
        *,
        unit: str,
        total: int | None = None,
        done_before: int = 0,
        scaled: bool = False,
        shown: bool = True,
        asked_for: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shown = shown
        self._asked_for = asked_for
        self._options = {"unit": unit, "total": total, "initial": done_before, "unit_scale": scaled}
        self._begun = 0
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        if self._asked_for or (self._shown and self._stream.isatty()):
            try:
                from tqdm import tqdm
            except ImportError:
                if self._asked_for:
                    raise MissingExtraError("a progress bar needs tqdm, which is not installed; run: pip install tqdm") from None
                return self
            # A step at a time is too few for tqdm's own guess of how often to look at the clock.
            self._bar = tqdm(
                **self._options, file=self._stream, leave=self._asked_for, dynamic_ncols=True, miniters=1, mininterval=REDRAW_SECONDS
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def is_drawn(self) -> bool:
        """Whether there is a bar."""
        return self._bar is not None

    def begin(self, step: str) -> None:
        """Names the step that begins; the one that was begun before it is done."""
        if self._bar is not None:
            self._bar.set_description_str(step, refresh=False)
            self._bar.update(self._begun)
            self._bar.refresh()
        self._begun = 1

    def advance(self, count: int = 1, *, note: str = "", total: int | None = None) -> None:
        """Counts more as done; `note` stands behind the bar, `total` is a new guess of how many there are."""
        if self._bar is None:
            return
        if total is not None:
            self._bar.total = total
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
