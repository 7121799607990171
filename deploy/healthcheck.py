"""Checks that this container's server accepts requests: exit code 0 if /ready answers 200, else 1 and one line that says why.

Reads CLS_SERVE_UDS, or CLS_SERVE_HOST and CLS_SERVE_PORT, as the server does. It imports little, because it runs every few seconds.
"""

import os
import socket
import sys

TIMEOUT_SECONDS = 4.0
# Nobody can connect to an address that stands for all of a machine's.
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def connected() -> socket.socket:
    """A connection to the server."""
    if path := os.environ.get("CLS_SERVE_UDS"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(path)
        return connection
    host = os.environ.get("CLS_SERVE_HOST") or "127.0.0.1"
    return socket.create_connection((_ANY.get(host, host), int(os.environ.get("CLS_SERVE_PORT") or "8080")), TIMEOUT_SECONDS)


def main() -> str | None:
    """Gives the reason why it does not accept requests; None if it does."""
    try:
        with connected() as connection:
            connection.sendall(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            answer = connection.recv(4096)
    except (OSError, ValueError) as error:
        return f"no answer: {error}"
    return None if answer.split(b" ", 2)[1:2] == [b"200"] else f"not ready: {answer[:200]!r}"


if __name__ == "__main__":
    sys.exit(main())
