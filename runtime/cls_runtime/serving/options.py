"""The options of a server."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cls_runtime.engines.devices import Device, check_device
from cls_runtime.errors import UsageError

LogFormat = Literal["text", "json"]

MEBIBYTE = 2**20
_DAY = 86_400
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")
# The longest path of a unix socket, Linux's; other systems have a few bytes less and say so.
_UDS_BYTES = 107


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of `cls-serve`; its `--help` describes each of them.

    Attributes:
        bundles: folders, or names on the hub; the first answers requests that name no model.
        host: the address to listen on.
        port: the port; 0 for a free one.
        uds: a unix socket to listen on, in place of host and port.
        model_names: the names of a single bundle, or one name per bundle; `*` also accepts any name.
        variant: the precision of all bundles, or `auto`.
        engine: the inference engine of all bundles, or `auto`.
        device: with engine `cuda`, the GPUs of all bundles, as in `Encoder.load`; None for the first.
        threads: CPU threads that all bundles share; None for the CPUs the process may use.
        max_inputs: texts per request.
        max_body_bytes: size of a request's body.
        max_queue_ms: how long a request may have to wait for earlier ones; if longer, it is refused.
        deadline_s: how long a request may take, from its headers to the end of its answer.
        on_overflow: what to do with texts longer than the model takes, unless the request says.
        prompt_name: the prompt of requests that name none; None for the model's default.
        api_key_file: a file with one key per line; None for no keys.
        cors_origins: origins whose pages may call the server; `*` for any.
        shutdown_timeout_s: how long requests have to finish after a signal.
        drain_delay_s: how long the server keeps accepting requests after a signal.
        log_format: `text` or `json`.
        quiet: log only warnings, and requests that fail through the server's fault.
        follow_links: read the bundles' files wherever links in their folders lead.

    Raises:
        UsageError: an invalid value.
    """

    bundles: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8080
    uds: Path | None = None
    model_names: tuple[str, ...] = ()
    variant: str = "auto"
    engine: str = "auto"
    device: Device | None = None
    threads: int | None = None
    max_inputs: int = 2048
    max_body_bytes: int = 16 * MEBIBYTE
    max_queue_ms: float = 2000.0
    deadline_s: float = 30.0
    on_overflow: Literal["truncate", "raise"] = "truncate"
    prompt_name: str | None = None
    api_key_file: Path | None = None
    cors_origins: tuple[str, ...] = ()
    shutdown_timeout_s: float = 25.0
    drain_delay_s: float = 0.0
    log_format: LogFormat = "text"
    quiet: bool = False
    follow_links: bool = False

    def __post_init__(self) -> None:
        if not self.bundles:
            raise UsageError("no BUNDLE given, expected at least one folder made by cls-export; name it, or set CLS_SERVE_BUNDLE")
        if self.uds is not None and len(bytes(self.uds)) > _UDS_BYTES:
            raise UsageError(f"--uds has {len(bytes(self.uds))} bytes, a unix socket's path has at most {_UDS_BYTES}; choose a shorter one")
        for name in (*self.model_names, *self.cors_origins):
            if not name.strip() or not name.isprintable():
                raise UsageError(f"--model-name and --cors-origin take printable names, found {name!r}")
        for origin in self.cors_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise UsageError(f"--cors-origin is {origin!r}, expected scheme://host[:port] without a path, or *")
        check_device(self.device, engine=self.engine)
        if self.threads is not None:
            _check("--threads", self.threads, least=1, most=4096)
        _check("--port", self.port, least=0, most=65_535)
        _check("--max-inputs", self.max_inputs, least=1, most=10**6)
        _check("--max-body", self.max_body_bytes, least=1024, most=2**30, unit=" bytes")
        _check("--max-queue-ms", self.max_queue_ms, least=1, most=_DAY * 1000)
        _check("--deadline", self.deadline_s, least=0.001, most=_DAY, unit=" s")
        _check("--shutdown-timeout", self.shutdown_timeout_s, least=0, most=_DAY, unit=" s")
        _check("--drain-delay", self.drain_delay_s, least=0, most=_DAY, unit=" s")


def _check(option: str, value: float, *, least: float, most: float, unit: str = "") -> None:
    if not (math.isfinite(value) and least <= value <= most):
        raise UsageError(f"{option} is {value:,}{unit}, expected {least:,} to {most:,}{unit}")
