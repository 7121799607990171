"""What a benchmark ran on: the machine, its CPU, and the versions that decide the speed. No host name, no user, no path."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from cls_runtime import __version__
from cls_runtime.bench.results import Host
from cls_runtime.engines.cpu import available_cpus, cgroup_cpu_quota, cpu_features, telling
from cls_runtime.engines.installed import installed_versions

CPU_INFO, MEMORY_INFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
_PACKAGES = ("numpy", "tokenizers", "onnxruntime", "onnxruntime-gpu", "openvino", "cls-export-native")


def this_host() -> Host:
    """The machine as it is now."""
    features = cpu_features()
    return Host(
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cpu=_field(CPU_INFO, r"^model name\s*:\s*(.+)$") or platform.processor() or platform.machine(),
        cpu_features=() if features is None else telling(features),
        cpus=os.cpu_count() or 1,
        usable_cpus=available_cpus(),
        cpu_quota=cgroup_cpu_quota(),
        memory_bytes=int(kib) * 1024 if (kib := _field(MEMORY_INFO, r"^MemTotal:\s*(\d+) kB$")) else None,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        versions={"cls-export": __version__, **installed_versions(_PACKAGES)},
    )


def _field(path: Path, pattern: str) -> str | None:
    try:
        field = re.search(pattern, path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return " ".join(field.group(1).split()) if field else None
