"""How many CPUs this process may use, and which instructions they have.

A container's limit is a quota, which `os.cpu_count()` does not see: an engine that starts a thread per host core is throttled by it.
Formats: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max), cgroup-v1/cpu (cpu.cfs_quota_us), man 5 proc (cgroup, cpuinfo).
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path, PurePosixPath

CGROUP_MOUNT = Path("/sys/fs/cgroup")
CGROUP_MEMBERSHIP = Path("/proc/self/cgroup")
CPU_INFO = Path("/proc/cpuinfo")
# Any of these computes bf16 products; a CPU without them could only emulate it, slower than fp32 and less exact.
BF16_FEATURES = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
# More than any machine has CPUs. An engine that is told to start many more of them takes the memory for it, or never comes back.
MOST_THREADS = 1024

# Those that matter for the speed of fp32, bf16 and int8 matrix products, as Linux names them.
_TELLING_FEATURES = (
    *("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)


def available_cpus() -> int:
    """CPUs that this process may keep busy: the smaller of its affinity mask and its container's quota, at least 1.

    A quota of 1.5 CPUs gives 2: a second thread, throttled now and then, does more than none.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cpu_quota()
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def cgroup_cpu_quota(*, mount: Path = CGROUP_MOUNT, membership: Path = CGROUP_MEMBERSHIP) -> float | None:
    """The CPU quota of this process's control group in CPUs (1.5 is one and a half), None where there is none.

    The tightest limit of the group and all its parents counts, in cgroup v2 and v1. In a container the path in `membership` is often the
    host's and not visible below `mount`; the limit is then in the part of the path that exists, at the least at the mount itself.
    """
    quotas: list[float] = []
    for line in _read(membership).splitlines() or ["0::/"]:
        hierarchy, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if hierarchy == "0":
            for root in (mount, mount / "unified"):
                quotas += [quota for folder in _group_and_parents(root, group) if (quota := _quota_v2(folder)) is not None]
        elif "cpu" in controllers.split(","):
            for root in (mount / controllers, mount / "cpu"):
                quotas += [quota for folder in _group_and_parents(root, group) if (quota := _quota_v1(folder)) is not None]
    return min(quotas, default=None)


def cpu_features(*, cpu_info: Path = CPU_INFO) -> frozenset[str] | None:
    """Instruction set flags as Linux names them (`avx2`, `avx512_vnni`, `asimddp`), None where the system does not tell."""
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", _read(cpu_info), re.MULTILINE)
    return frozenset(line.group(1).split()) if line else None


def telling(features: frozenset[str]) -> tuple[str, ...]:
    """Those of `features` that decide how fast a CPU multiplies matrices, in a fixed order."""
    return tuple(name for name in _TELLING_FEATURES if name in features)


def _group_and_parents(root: Path, group: str) -> list[Path]:
    parts = [part for part in PurePosixPath(group).parts if part not in ("/", "..")]
    return [root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]


def _quota_v2(folder: Path) -> float | None:
    fields = _read(folder / "cpu.max").split()
    return _ratio(*fields) if len(fields) == 2 else None


def _quota_v1(folder: Path) -> float | None:
    return _ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    """CPUs from microseconds of run time per microseconds of period; None for `max`, -1 (both mean no limit) or what is no number."""
    try:
        quota_us, period_us = int(quota), int(period)
    except ValueError:
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
