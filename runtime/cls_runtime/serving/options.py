"""What a server is told when it starts."""

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
    """The options of `cls-serve`, whose `--help` says what each of them does.

    Attributes:
        bundles: folders, or names on the hub; the first answers a request that names no model.
        host: the address to listen on.
        port: the port; 0 for a free one.
        uds: a unix socket to listen on, in place of host and port.
        model_names: what a single bundle is called; of several, a name each. `*` besides them takes any name.
        variant: the precision of all bundles, or `auto`.
        engine: the inference engine of all bundles, or `auto`.
        device: with engine `cuda`, the GPUs of all bundles, as of `Encoder.load`; None for the first.
        threads: CPU threads of all bundles together; None for all that there are.
        max_inputs: texts of one request.
        max_body_bytes: bytes of one request's body.
        max_queue_ms: how long the work may take that waits before a request; more, and it is refused.
        deadline_s: how long a request may take from its headers to the last of its answer that is handed to the system.
        on_overflow: what to do with a text that is longer than the model takes, where the request does not say.
        prompt_name: the prompt of a request that names none; None for the model's default.
        api_key_file: a file with a key a line; None for no keys.
        cors_origins: origins whose pages may call the server; `*` for any.
        shutdown_timeout_s: how long requests may take to end once the server should.
        drain_delay_s: how long the server goes on accepting connections after it says that it is not ready.
        log_format: `text` or `json`.
        quiet: log only warnings, and requests that fail through the server's fault.
        follow_links: read the bundles' files wherever links in their folders lead.

    Raises:
        UsageError: a value makes no sense.
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
            raise UsageError("no BUNDLE is given, expected at least one folder made by cls-export; name it, or set CLS_SERVE_BUNDLE")
        if self.uds is not None and len(bytes(self.uds)) > _UDS_BYTES:
            raise UsageError(f"--uds has {len(bytes(self.uds))} bytes, a unix socket's path has at most {_UDS_BYTES}; choose a shorter one")
        for name in (*self.model_names, *self.cors_origins):
            if not name.strip() or not name.isprintable():
                raise UsageError(f"--model-name and --cors-origin take names that can be printed, found {name!r}")
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
