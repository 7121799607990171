"""Who is still at work: a lock that the file system carries, so that other containers see it, and that ends with its process.

Process ids say nothing about a process in another container or on another machine. Where the file system has no locks, whoever holds one
touches its file now and then, and a file that nobody has touched for a while is nobody's.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

HEARTBEAT_SECONDS = 30.0
STALE_SECONDS = 600.0
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds the lock file `path` while the block runs; it is made for that, and removed afterwards.

    Raises:
        BlockingIOError: another process or another caller holds it.
        OSError: the file cannot be made there.
    """
    descriptor, locked = _acquire(path)
    stop = threading.Event()
    if not locked:
        threading.Thread(target=_touch, args=(path, stop), name="cls-lock", daemon=True).start()
    try:
        yield
    finally:
        stop.set()
        with contextlib.suppress(OSError):  # while it is locked: whoever opened it meanwhile sees that it has gone
            if os.fstat(descriptor).st_size == 0:  # or somebody has written into it, and it is no longer only a lock
                path.unlink()
        os.close(descriptor)


def is_held(path: Path, *, stale_seconds: float = STALE_SECONDS) -> bool:
    """Whether a process holds the lock of the file `path`; True also where that cannot be found out, False where there is none."""
    try:
        descriptor = os.open(path, os.O_RDWR | _NO_LINKS)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return not lock(descriptor) and _age_seconds(descriptor) < stale_seconds
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Locks an open file until it is closed; False where there are no locks.

    Raises:
        BlockingIOError: another one has it locked.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a network file system without locks
        return False
    return True


def is_named(descriptor: int, path: Path) -> bool:
    """Whether an open file still is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except OSError:
        return False


def _acquire(path: Path) -> tuple[int, bool]:
    """The open lock file, and whether the file system locks it."""
    while True:
        try:
            descriptor, is_new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o666), True
        except FileExistsError:
            try:
                descriptor, is_new = os.open(path, os.O_RDWR | _NO_LINKS), False
            except FileNotFoundError:
                continue  # its holder has removed it just now
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(f"{path} is not a file")
            locked = lock(descriptor)
            if not locked and not is_new and _age_seconds(descriptor) < STALE_SECONDS:
                raise BlockingIOError(f"{path} was touched {_age_seconds(descriptor):.0f} s ago")
            if is_named(descriptor, path):
                os.utime(path)
                return descriptor, locked
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was removed between opening and locking


def _age_seconds(descriptor: int) -> float:
    return time.time() - os.fstat(descriptor).st_mtime


def _touch(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
