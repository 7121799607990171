"""A server that computes nothing: what a load generator measures of it is the generator's own cost, and what the sockets cost.

    python -m cls_runtime.bench.trivial_responder '{"delay_s": 0.0, "refuse_every": 0, "answer_bytes": 4096}'

It says `{"port": ...}` and answers every request with zeros, after a delay, and each so-manieth at once with 429.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cls_runtime.bench.child_process import child_process
from cls_runtime.bench.load_streams import Address


@contextmanager
def responder(*, cpus: Sequence[int] = (), delay_s: float = 0.0, refuse_every: int = 0, answer_bytes: int = 4096) -> Iterator[Address]:
    """Starts one, and gives its address.

    Raises:
        EngineError: it cannot be started.
    """
    options = {"delay_s": delay_s, "refuse_every": refuse_every, "answer_bytes": answer_bytes}
    with child_process(__name__, json.dumps(options), cpus=cpus) as child:
        yield "127.0.0.1", int(child.answer()["port"])


class _Protocol(asyncio.Protocol):
    """One connection; requests come one after another."""

    def __init__(self, state: _State) -> None:
        self._state = state
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or len(self._received) < end + 4 + _body_length(self._received[:end]):
            return
        self._received = b""
        state = self._state
        state.requests += 1
        if state.refuse_every and state.requests % state.refuse_every == 0:
            self._transport.write(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n")
        elif state.delay_s:
            asyncio.get_running_loop().call_later(state.delay_s, self._transport.write, state.answer)
        else:
            self._transport.write(state.answer)


class _State:
    """What all connections share."""

    def __init__(self, *, delay_s: float, refuse_every: int, answer_bytes: int) -> None:
        self.delay_s = delay_s
        self.refuse_every = refuse_every
        self.answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % answer_bytes + bytes(answer_bytes)
        self.requests = 0


def _body_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.split(b"\r\n", 1)[0]) if found else 0


async def _serve(state: _State) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Protocol(state), "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(json.dumps({"port": server.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    await server.serve_forever()


def main(arguments: Sequence[str]) -> None:
    """Does what the module's docstring says."""
    asyncio.run(_serve(_State(**json.loads(arguments[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
