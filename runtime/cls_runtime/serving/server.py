"""A server's life: the models are loaded and checked, then it binds; on a signal it drains, closes, and ends."""

from __future__ import annotations

import asyncio
import signal
import socket
from types import FrameType

import uvicorn

from cls_runtime.serving.application import ENDPOINTS, Application
from cls_runtime.serving.models import ServedModels
from cls_runtime.serving.options import ServeOptions
from cls_runtime.serving.service import Service

# Longer than the idle time of the usual load balancers, which else send a request into a connection that is being closed.
KEEP_ALIVE_SECONDS = 75
BACKLOG = 4096


def serve(options: ServeOptions) -> int:
    """Serves until a signal, and gives the exit code.

    Raises:
        UsageError, BundleError, IntegrityError, HubError, MissingExtraError, EngineError: it cannot start.
    """
    models = ServedModels.load(options)
    service = Service(options, models, endpoints=sorted({endpoint.path for endpoint in ENDPOINTS}))
    try:
        asyncio.run(_run(service))
    finally:
        service.close()
    return 0


async def _run(service: Service) -> None:
    options = service.options
    config = uvicorn.Config(
        Application(service),
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(options.shutdown_timeout_s),
        backlog=BACKLOG,
    )
    listener = socket.create_server((options.host, options.port), backlog=BACKLOG, reuse_port=False)
    # asyncio does so where a socket says that it is TCP's, which this one does not. An answer's head and body would wait for each other.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = _Server(config, service)
    service.watch()
    await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn's server, which says that it is draining before it stops accepting."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to end."""
        self._service.draining = True
        super().handle_exit(signal.SIGTERM if sig == signal.SIGINT else sig, frame)
