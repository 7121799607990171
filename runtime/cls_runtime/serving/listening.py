"""Where a server listens: its sockets are bound late, accepted from as far as there is room, and closed with nobody left in the queue."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import ipaddress
import os
import socket
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from cls_runtime.errors import UsageError
from cls_runtime.serving.connection import Connection
from cls_runtime.serving.connections import Connections
from cls_runtime.serving.options import ServeOptions

BACKLOG = 4096
# Connections taken at once, so that the requests of those that are there have their turn.
_AT_ONCE = 64
_AGAIN_SECONDS = 0.25
_SAY_SECONDS = 10.0
_UDS_MODE = 0o660
_SO_ATTACH_FILTER = 26
_REMEDIES = {
    errno.EADDRINUSE: "somebody else listens there; stop that, or choose another --port",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose another --host, such as 127.0.0.1 or 0.0.0.0",
    errno.EACCES: "this user may not; choose a --port from 1024 on",
}
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # one instruction of a socket filter: keep 0 bytes


def check_place(options: ServeOptions) -> None:
    """Finds out whether the server could listen there, before a model is loaded.

    Raises:
        UsageError: somebody else does, or it is no place.
    """
    if options.uds is not None:
        _check_uds(options.uds)
        return
    for listener in _bound(options):
        listener.close()


def listen(options: ServeOptions) -> list[socket.socket]:
    """Listens.

    Raises:
        UsageError: as `check_place`.
    """
    listeners = [_bound_uds(options.uds)] if options.uds is not None else _bound(options)
    for listener in listeners:
        listener.listen(BACKLOG)
        listener.setblocking(False)
    return listeners


def address_of(options: ServeOptions, listeners: list[socket.socket]) -> str:
    """What a client calls the server."""
    if options.uds is not None:
        return f"unix:{options.uds}"
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"http://{host}:{listeners[0].getsockname()[1]}"


def is_for_this_machine(listeners: list[socket.socket]) -> bool:
    """Whether nobody else's programs can connect: on a unix socket, or an address of this machine's own."""
    return all(
        listener.family not in (socket.AF_INET, socket.AF_INET6)
        or ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback
        for listener in listeners
    )


def _bound(options: ServeOptions) -> list[socket.socket]:
    """A socket for each address that the host's name stands for, all on one port."""
    host, port = options.host, options.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host} is not an address of this machine ({error}); expected one such as 127.0.0.1 or 0.0.0.0") from None
    listeners: list[socket.socket] = []
    failures: list[OSError] = []
    for family, _, _, _, place in dict.fromkeys(found):
        taken = listeners[0].getsockname()[1] if listeners else port
        try:
            listeners.append(_bound_to(family, (place[0], taken, *place[2:])))
        except OSError as error:
            failures.append(error)
    in_use = any(error.errno == errno.EADDRINUSE for error in failures)
    if listeners and not in_use:
        return listeners
    for listener in listeners:
        listener.close()
    why = errno.EADDRINUSE if in_use else failures[0].errno or 0
    raise UsageError(f"cannot listen on {host} port {port}: {_REMEDIES.get(why) or failures[0].strerror}")


def _bound_to(family: int, place: tuple[object, ...]) -> socket.socket:
    # Named TCP: asyncio turns Nagle's delay off only where the socket says so.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # a port whose last server has just ended; elsewhere it would mean to share it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and place[0] != "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(place)
    except BaseException:
        listener.close()
        raise
    return listener


def _check_uds(path: Path) -> bool:
    """Whether a socket is left there by a server that has ended.

    Raises:
        UsageError: there is something else.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise UsageError("--uds: this system does not support unix sockets; use --host and --port")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.absolute().parent.is_dir():
            raise UsageError(f"--uds {path}: the folder {path.absolute().parent} does not exist; create it first") from None
        return False
    except OSError as error:
        raise UsageError(f"--uds {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"--uds {path} exists and is not a socket; choose another path, or remove it")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except FileNotFoundError:
            return False
        except OSError as error:
            if not isinstance(error, (BlockingIOError, TimeoutError)):
                raise UsageError(
                    f"--uds {path} is a socket, and it cannot be determined whether a server listens there ({error.strerror}); remove it"
                ) from None
    raise UsageError(f"--uds {path}: another server is listening there; stop it, or choose another path")


def _bound_uds(path: Path) -> socket.socket:
    if _check_uds(path):
        path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(_UDS_MODE)  # owner and group, such as a proxy's; nobody can connect before `listen`
    except OSError as error:
        listener.close()
        raise UsageError(f"--uds {path}: {error.strerror or error}") from None
    return listener


class Acceptor:
    """Takes connections from the listeners, on the running event loop.

    Args:
        listeners: as `listen` gives them.
        connections: what they become.
        uds: the path of a unix socket, which is removed in the end.
        say: takes a line about what is wrong with the machine.
    """

    def __init__(self, listeners: list[socket.socket], connections: Connections, *, uds: Path | None, say: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listeners = listeners
        self._connections = connections
        self._uds = None if uds is None else (uds, _identity(uds))
        self._say = say
        self._said = -_SAY_SECONDS
        self._making: dict[asyncio.Task[object], Connection] = {}
        for listener in listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    async def stop(self) -> None:
        """Ends the listening: nobody can connect any more, and whoever already has is served."""
        self.remove_uds()
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            _let_nobody_in(listener)
            with contextlib.suppress(OSError):
                while self._take(listener):
                    await asyncio.sleep(0)
            listener.close()
        self._listeners = []
        if self._making:
            await asyncio.wait(self._making)

    def remove_uds(self) -> None:
        """Removes the unix socket's file, if it is still this server's."""
        if self._uds is not None:
            (path, own), self._uds = self._uds, None
            with contextlib.suppress(OSError):
                if _identity(path) == own:
                    path.unlink()

    @property
    def _taken(self) -> int:
        """How many connections there are; one that is being made may be among them already, and counts once."""
        made = self._connections.connections
        return len(made) + sum(connection not in made for connection in self._making.values())

    def _accept(self, listener: socket.socket) -> None:
        """Takes some of those that wait; where there is no room, makes some and comes back later."""
        try:
            for taken in range(_AT_ONCE):
                if self._taken >= self._connections.limits.connections:
                    if taken:
                        return  # this is called again if there is another one
                    break
                if not self._take(listener):
                    return
            else:
                return
        except OSError as error:
            if self._loop.time() - self._said > _SAY_SECONDS:
                self._said = self._loop.time()
                self._say(f"no more connections can be taken at the moment ({error.strerror}); raise the limit of open files")
        self._connections.make_room(self._loop.time())
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(_AGAIN_SECONDS, self._resume, listener)

    def _take(self, listener: socket.socket) -> bool:
        """Takes one, if there is one."""
        try:
            accepted, _ = listener.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionError:
            return True
        accepted.setblocking(False)
        connection = self._connections.make()
        task = self._loop.create_task(self._loop.connect_accepted_socket(lambda: connection, accepted))
        self._making[task] = connection
        task.add_done_callback(self._made)
        return True

    def _made(self, task: asyncio.Task[object]) -> None:
        del self._making[task]
        if not task.cancelled():
            task.exception()  # a client that is gone already

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def _let_nobody_in(listener: socket.socket) -> None:
    """Drops what arrives for the listener, so that between the last `accept` and `close` nobody connects only to be reset."""
    if sys.platform != "linux" or listener.family == socket.AF_UNIX:  # a unix socket's path is gone already
        return
    program = ctypes.create_string_buffer(_DROP_ALL)
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))
