"""The options of `cls-embed --engine ray`: which Ray, and what a worker gets of it."""

from __future__ import annotations

import argparse

from cls_runtime.commands import shell
from cls_runtime.jobs.options import RayOptions

RAY = "ray"
RAY_REQUIREMENTS = (
    shell.Requirement(
        options=("--ray-address", "--ray-workers", "--ray-gpus"),
        need="--engine ray",
        is_met=lambda arguments: arguments.engine == RAY,
        instead=lambda arguments: f"--engine {arguments.engine}",
    ),
    shell.Requirement(
        options=("--device",),
        need="GPUs of this machine, use --ray-gpus on Ray",
        is_met=lambda arguments: arguments.engine != RAY,
        instead=lambda arguments: f"--engine {arguments.engine}",
    ),
)


def add_ray_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--ray-address`, `--ray-workers` and `--ray-gpus`."""
    ray = parser.add_argument_group("Ray (--engine ray)")
    ray.add_argument(
        "--ray-address", metavar="ADDRESS", help="the address of a running cluster (default: start a local one and stop it afterwards)"
    )
    ray.add_argument(
        "--ray-workers", metavar="N", type=int, help="workers at a time, each with its own Encoder (default: as many as the CPUs allow)"
    )
    ray.add_argument(
        "--ray-gpus",
        metavar="SHARE",
        type=float,
        help="the share of a GPU per worker, such as 0.5 (default: 0, which is the CPU)",
    )


def engine_of(arguments: argparse.Namespace) -> str:
    """The engine that computes; on Ray a worker's, which is `cuda` where it has a share of a GPU."""
    if arguments.engine != RAY:
        return str(arguments.engine)
    return "cuda" if arguments.ray_gpus else "auto"


def ray_options(arguments: argparse.Namespace) -> RayOptions | None:
    """Which Ray; None to compute on this machine."""
    if arguments.engine != RAY:
        return None
    return RayOptions(address=arguments.ray_address, workers=arguments.ray_workers, gpus=arguments.ray_gpus or RayOptions.gpus)
