"""A load generator in a process of its own, where neither a server nor whoever waits for it takes its time.

    python -m cls_runtime.bench.load_process

It reads one document from standard input, says `{"started_at": ...}` when the first request is due, and then what became of all.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cls_runtime.bench.child_process import ChildProcess, child_process
from cls_runtime.bench.http_load import LoadGenerator
from cls_runtime.bench.load_streams import Address, LoadRecord, Stream, StreamRecord
from cls_runtime.bench.open_loop import Pace
from cls_runtime.errors import EngineError

_DIGITS = 6  # microseconds
_TRIES = 3


class RunningLoad:
    """Load that is being sent. `started_at` is `time.monotonic()` of its start."""

    def __init__(self, child: ChildProcess, document: dict[str, Any]) -> None:
        self._child = child
        child.say(document)
        self.started_at = float(child.answer()["started_at"])

    def record(self) -> LoadRecord:
        """Waits for the end, and gives what became of all requests."""
        return _record(self._child.answer())


@contextmanager
def running_load(
    address: Address, streams: Sequence[Stream], *, cpus: Sequence[int] = (), answer_limit_s: float = 60.0
) -> Iterator[RunningLoad]:
    """Starts a generator, and kills it if it is left before its end.

    Raises:
        EngineError: it cannot connect, or failed.
    """
    with child_process(__name__, cpus=cpus) as child:
        yield RunningLoad(child, {"address": address, "answer_limit_s": answer_limit_s, "streams": [_stated(stream) for stream in streams]})


def load(address: Address, streams: Sequence[Stream], *, cpus: Sequence[int] = (), answer_limit_s: float = 60.0) -> LoadRecord:
    """Sends all, waits for it, and gives what became of it; does so again, twice at most, where the machine stood still meanwhile.

    Raises:
        EngineError: as `running_load`.
    """
    for _ in range(_TRIES):
        with running_load(address, streams, cpus=cpus, answer_limit_s=answer_limit_s) as running:
            record = running.record()
        if not record.stood_still:
            break
    return record


def _stated(stream: Stream) -> dict[str, Any]:
    stated = {item.name: getattr(stream, item.name) for item in dataclasses.fields(stream)}
    pace = None if stream.pace is None else dataclasses.asdict(stream.pace)
    return {**stated, "pace": pace, "requests": [request.decode("latin-1") for request in stream.requests]}


def _stream(stated: dict[str, Any]) -> Stream:
    pace = stated["pace"] and Pace(**stated["pace"])
    return Stream(**{**stated, "pace": pace, "requests": [request.encode("latin-1") for request in stated["requests"]]})


def _plain(record: LoadRecord) -> dict[str, Any]:
    streams = [
        {
            "name": stream.name,
            "status": stream.status.tolist(),
            **{name: [round(value, _DIGITS) for value in getattr(stream, name)] for name in ("due_s", "late_s", "taken_s")},
        }
        for stream in record.streams.values()
    ]
    return {**dataclasses.asdict(dataclasses.replace(record, streams={})), "streams": streams}


def _record(told: dict[str, Any]) -> LoadRecord:
    streams = {
        stream["name"]: StreamRecord(
            stream["name"],
            due_s=array("d", stream["due_s"]),
            late_s=array("d", stream["late_s"]),
            taken_s=array("d", stream["taken_s"]),
            status=array("i", stream["status"]),
        )
        for stream in told["streams"]
    }
    return LoadRecord(**{**told, "streams": streams})


def main() -> None:
    """Does what the module's docstring says."""
    asked = json.loads(sys.stdin.readline())
    address = asked["address"]
    generator = LoadGenerator(
        address if isinstance(address, str) else (str(address[0]), int(address[1])),
        [_stream(stated) for stated in asked["streams"]],
        answer_limit_s=asked["answer_limit_s"],
    )
    gc.freeze()  # this process ends with the load; nothing that it holds is ever garbage
    gc.disable()
    try:
        record = generator.run(started=lambda: _say({"started_at": time.monotonic()}))
    except OSError as error:
        raise EngineError(str(error)) from None
    _say(_plain(record))


def _say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
