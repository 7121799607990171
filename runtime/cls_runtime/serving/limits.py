"""`Limits`: what a connection may cost a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a connection may cost.

    Attributes:
        head_bytes: of a request line and its headers.
        head_s: from a head's first byte to its last.
        idle_s: without a request. Longer than the usual load balancers wait, or they send into a connection that is being closed.
        linger_s: for what a client still sends after it was refused.
        discard_bytes: of a refused body that are read, so that the connection can be used again.
        pipelined: requests that wait on one connection.
        unread_s: in which a client must take `unread_bytes` of an answer.
        unread_bytes: see `unread_s`.
        connections: at once.
        young_s: a connection that had a request, or was made, this short a time ago is not closed to make room for another.
    """

    head_bytes: int = 2**16
    head_s: float = 20.0
    idle_s: float = 75.0
    linger_s: float = 5.0
    discard_bytes: int = 2**20
    pipelined: int = 64
    unread_s: float = 30.0
    unread_bytes: int = 2**15
    connections: int = 2**14
    young_s: float = 1.0
