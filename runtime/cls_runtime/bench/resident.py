"""Resident memory of a process: now, and the most that this one ever had."""

from __future__ import annotations

import os
import sys


def resident_bytes(pid: int | None = None) -> int:
    """What a process holds now, by default this one; 0 where it has gone, or where there is no /proc."""
    try:
        with open(f"/proc/{pid or 'self'}/statm", encoding="ascii") as sizes:
            return int(sizes.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def peak_bytes() -> int:
    """The most memory that this process held at once; 0 where the system does not say.

    Linux keeps a process's own peak in VmHWM; what getrusage gives there includes the process that started this one.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
