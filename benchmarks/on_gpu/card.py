"""What a GPU is and how much of its memory is in use, by PyTorch; and its driver's version, by nvidia-smi."""

from __future__ import annotations

import subprocess

from on_gpu.results import Card

from cls_runtime import __version__
from cls_runtime.bench.machine import this_host
from cls_runtime.bench.resident import resident_bytes
from cls_runtime.engines.installed import installed_versions

PACKAGES = ("onnxruntime-gpu", "onnxruntime", "torch", "sentence-transformers", "transformers", "tokenizers", "numpy")


def this_card(*, device: str) -> Card:
    """The first GPU, or of `cpu` the CPU."""
    if device == "cpu":
        return Card(name=this_host().cpu)
    import torch

    facts = torch.cuda.get_device_properties(0)
    return Card(
        name=facts.name,
        memory_bytes=facts.total_memory,
        compute_capability=f"{facts.major}.{facts.minor}",
        driver=_driver(),
        cuda=str(torch.version.cuda),
    )


def held_bytes(*, device: str) -> int:
    """Memory of the first GPU that is in use, by anyone; of `cpu` what this process holds."""
    if device == "cpu":
        return resident_bytes()
    import torch

    free, total = torch.cuda.mem_get_info(0)
    return total - free


def versions() -> dict[str, str]:
    """Of what is installed and decides a figure."""
    return {"cls-export": __version__, **installed_versions(PACKAGES)}


def _driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return ""
