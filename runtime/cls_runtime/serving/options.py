"""What a server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LogFormat = Literal["text", "json"]

MEBIBYTE = 2**20


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
        threads: CPU threads of all bundles together; None for all that there are.
        max_inputs: texts of one request.
        max_body_bytes: bytes of one request's body.
        max_queue_ms: how long the work may take that waits before a request; more, and it is refused.
        deadline_s: how long a request may take from its first byte to its vectors.
        on_overflow: what to do with a text that is longer than the model takes, where the request does not say.
        prompt_name: the prompt of a request that names none; None for the model's default.
        api_key_file: a file with a key a line; None for no keys.
        cors_origins: origins whose pages may call the server; `*` for any.
        shutdown_timeout_s: how long requests may take to end once the server should.
        drain_delay_s: how long the server goes on accepting connections after it says that it is not ready.
        log_format: `text` or `json`.
    """

    bundles: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8080
    uds: Path | None = None
    model_names: tuple[str, ...] = ()
    variant: str = "auto"
    engine: str = "auto"
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
