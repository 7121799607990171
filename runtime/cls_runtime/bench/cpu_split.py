"""Which CPUs a server and the load generator get: apart where there are several, so that the one does not slow the other down."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from cls_runtime.engines.cpu import available_cpus


@dataclass(frozen=True, kw_only=True)
class CpuSplit:
    """CPUs by number, empty where the system does not pin. `words` say how it was done, for the report."""

    server: tuple[int, ...]
    generator: tuple[int, ...]
    words: str

    def threads(self, budget: int) -> int:
        """CPU threads for the server's engine, of a budget."""
        return min(budget, len(self.server)) if self.server else budget


def cpu_split(*, shared: bool = False) -> CpuSplit:
    """The last CPU for the generator and the others for the server; all for both with `shared`, or where there is only one."""
    if not hasattr(os, "sched_setaffinity"):
        return CpuSplit(server=(), generator=(), words="not pinned: this system cannot; the generator's CPU time is the server's loss")
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    if shared or min(len(cpus), available_cpus()) < 2:
        return CpuSplit(server=cpus, generator=cpus, words=f"the generator shares the server's {_count(cpus)}")
    return CpuSplit(
        server=cpus[:-1], generator=cpus[-1:], words=f"pinned apart: {_count(cpus[:-1])} for the server, another for the generator"
    )


def pin(pid: int, cpus: Sequence[int]) -> None:
    """Lets a process run on these CPUs only; one that has just been started has no other threads yet."""
    if cpus:
        os.sched_setaffinity(pid, cpus)


def _count(cpus: Sequence[int]) -> str:
    return "1 CPU" if len(cpus) == 1 else f"{len(cpus)} CPUs"
