"""The plan and the results of `verify`, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cls_runtime.verifying.vector_checks import Figures


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A check that has not run yet. `variant` and `engine` are None for checks of the whole bundle.

    `objection` says why it cannot run on this machine; `required` whether that is a failure.
    """

    name: str
    variant: str | None = None
    engine: str | None = None
    objection: str | None = None
    required: bool = True


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of a check. `variant` and `engine` are None for checks of the whole bundle. A skipped check has not failed."""

    name: str
    variant: str | None
    engine: str | None
    passed: bool
    message: str
    figures: Figures
    seconds: float
    skipped: bool = False


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """The results of all checks, in order."""

    bundle: Path
    source: str
    fingerprint: str
    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def skipped(self) -> tuple[Check, ...]:
        """The checks that did not run; each message says why."""
        return tuple(check for check in self.checks if check.skipped)

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.failures

    @property
    def seconds(self) -> float:
        """The time of all checks."""
        return sum(check.seconds for check in self.checks)
