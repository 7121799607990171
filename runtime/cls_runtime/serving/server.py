"""A server's life: the models are loaded and checked, then it binds; on a signal it drains, closes, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any

from cls_runtime.errors import UsageError
from cls_runtime.serving.application import Application, endpoint_names
from cls_runtime.serving.connections import Connections
from cls_runtime.serving.keys import ApiKeys
from cls_runtime.serving.limits import Limits
from cls_runtime.serving.listening import Acceptor, address_of, check_place, is_for_this_machine, listen
from cls_runtime.serving.models import ServedModels
from cls_runtime.serving.options import ServeOptions
from cls_runtime.serving.request_log import RequestLog
from cls_runtime.serving.service import Service

_ENDING = ("SIGINT", "SIGTERM", "SIGBREAK")
_LOOK_SECONDS = 0.5
_END_LOOK_SECONDS = 0.02
# A connection that has had no request for so long gets none any more; one that is on its way arrives sooner.
_QUIET_SECONDS = 1.0
# For the answers of requests that were ended.
_LAST_WORDS_SECONDS = 1.0
# For an engine to end the batch that it is computing.
_CLOSE_SECONDS = 5.0
# Python's own is ten times that.
_TURN_SECONDS = 0.0005
# Open files that are no connections.
_OTHER_FILES = 128


def serve(options: ServeOptions) -> int:
    """Serves until a signal, and gives the exit code.

    Raises:
        UsageError, BundleError, IntegrityError, HubError, MissingExtraError, EngineError: it cannot start.
    """
    check_place(options)
    ApiKeys(options.api_key_file)  # what is wrong with them is told before the models are loaded
    log = RequestLog(options.log_format, quiet=options.quiet)
    try:
        with _deaf_to_hangup(options):
            models = ServedModels.load(options)
        for line in models.lines():
            log.say("model", line, news=True)
        service = Service(options, models, endpoints=endpoint_names(), log=log)
        try:
            with _quick_turns():
                _run(Server(service).live())
        finally:
            stuck = not _closed_within(_CLOSE_SECONDS, service.close)
        if stuck:  # Python would wait for its threads
            log.say("stuck", "an engine does not finish its batch; the process exits without waiting for it")
            log.close()
            os._exit(0)
    finally:
        log.close()
    return 0


class Server:
    """A service that listens.

    Args:
        service: what answers.
        limits: what a connection may cost.
    """

    def __init__(self, service: Service, *, limits: Limits | None = None) -> None:
        self._service = service
        self._limits = limits
        self._log = service.log
        self._acceptor: Acceptor | None = None

    async def live(self) -> None:
        """Listens, until a signal comes and everything is answered.

        Raises:
            UsageError: it cannot listen there.
        """
        options, loop = self._service.options, asyncio.get_running_loop()
        loop.set_exception_handler(self._failed)
        self._ending = asyncio.Event()
        with _open_files() as most, self._signals(loop):
            limits = self._limits or Limits(connections=max(16, min(Limits.connections, most - _OTHER_FILES)))
            application = Application(self._service)
            self._connections = connections = Connections(application, limits, turning_away=application.turning_away)
            connections.look(loop.time())
            listeners = listen(options)
            self._acceptor = Acceptor(listeners, connections, uds=options.uds, say=lambda line: self._log.say("shortage", line))
            self._service.watch()
            looking = loop.create_task(self._look())
            address = address_of(options, listeners)
            if options.api_key_file is None and not is_for_this_machine(listeners):
                self._log.say("open", f"warning: anyone who reaches {address} can use it; set --api-key-file to require a key")
            self._log.say("listening", f"listening on {address}", news=True, address=address)
            try:
                await self._ending.wait()
                await self._end()
            finally:
                looking.cancel()
                self._service.unwatch()
                connections.abort()
                self._acceptor.remove_uds()
                self._acceptor = None

    def end(self) -> None:
        """Begins to end; on the event loop."""
        self._service.draining = self._connections.draining = True
        self._ending.set()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                self._connections.look(loop.time())
            except Exception as error:  # noqa: BLE001  one connection's, whatever it is; the others are looked after
                self._log.say("failure", f"connections could not be checked: {type(error).__name__}")

    async def _end(self) -> None:
        service, connections, loop = self._service, self._connections, asyncio.get_running_loop()
        options = service.options
        words = f"shutting down: {len(service.flights)} requests in progress, {len(connections.connections)} connections"
        self._log.say("draining", words, news=True)
        await asyncio.sleep(options.drain_delay_s)
        if self._acceptor is not None:
            await self._acceptor.stop()
        last = loop.time() + options.shutdown_timeout_s
        while connections.unfinished and loop.time() < last:
            await asyncio.sleep(_END_LOOK_SECONDS)
            connections.close_idle(since=loop.time() - _QUIET_SECONDS)
        service.closing = True
        cancelled = service.flights.cancel_all("shutdown")
        last = loop.time() + _LAST_WORDS_SECONDS
        while connections.unanswered and loop.time() < last:
            await asyncio.sleep(_END_LOOK_SECONDS)
        service.account()
        self._log.say(
            "ended",
            f"ended: {cancelled} requests were cancelled" if cancelled else "ended: every request was answered",
            news=not cancelled,
            cancelled=cancelled,
        )

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Says what went wrong outside of any request."""
        error = context.get("exception")
        self._log.say("failure", f"{context.get('message')}: {type(error).__name__}" if error else str(context.get("message")))

    @contextlib.contextmanager
    def _signals(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Answers the process's signals meanwhile; elsewhere than in the main thread there are none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        received: list[int] = []

        def ending(number: int, _frame: FrameType | None) -> None:
            if received:
                if self._acceptor is not None:
                    self._acceptor.remove_uds()
                with contextlib.suppress(OSError):
                    os.write(2, f"error: a second {signal.Signals(number).name} while requests were in progress\n".encode())
                os._exit(128 + number)
            received.append(number)
            loop.call_soon_threadsafe(self.end)

        def read_keys(_number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._read_keys)

        handlers: dict[int, Any] = {}
        for name in _ENDING:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                handlers[number] = ending
        if hasattr(signal, "SIGHUP"):
            if self._service.options.api_key_file is not None:
                handlers[signal.SIGHUP] = read_keys
            elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                handlers[signal.SIGHUP] = ending
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _read_keys(self) -> None:
        try:
            count = self._service.keys.read()
        except UsageError as error:
            self._log.say("keys", f"the old keys stay in use: {error}")
        else:
            self._log.say("keys", f"{count} keys loaded", news=True, keys=count)


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs it on an event loop that can wait for the sockets of `Acceptor`, on every system."""
    loop = asyncio.SelectorEventLoop()
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(coroutine)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _closed_within(seconds: float, close: Callable[[], None]) -> bool:
    """Closes what may be stuck in an engine; says whether that was done in time."""
    closing = threading.Thread(target=close, name="cls-close", daemon=True)
    closing.start()
    closing.join(seconds)
    return not closing.is_alive()


@contextlib.contextmanager
def _deaf_to_hangup(options: ServeOptions) -> Iterator[None]:
    """Lets SIGHUP pass meanwhile where it means to read the keys again: they are read behind this anyway."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if options.api_key_file is None or not in_main_thread or not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@contextlib.contextmanager
def _quick_turns() -> Iterator[None]:
    """Lets the event loop have its turn soon meanwhile: docs/adr/0011 has what that is worth.

    Threads that run Python give way to it sooner, and what there is already, modules and models, is no garbage that anybody looks for: a
    look through all of it took 60 to 190 ms, in which nothing was answered.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_SECONDS)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)


@contextlib.contextmanager
def _open_files() -> Iterator[int]:
    """Lets the process have as many open files as the system allows meanwhile; gives their number."""
    try:
        import resource
    except ImportError:  # Windows: `select` takes 512 sockets
        yield 512
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = Limits.connections + _OTHER_FILES
    most = wanted if hard == unlimited else min(wanted, hard)
    if soft == unlimited or soft >= most:
        yield most
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield most
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
