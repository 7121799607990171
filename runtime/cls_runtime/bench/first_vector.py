"""The process that `starts.py` times: imports, loads, encodes one text, says so; then encodes all texts and says how much memory it held.

    python -m cls_runtime.bench.first_vector BUNDLE VARIANT ENGINE THREADS [DEVICE] < texts.json

Its lines on standard output: `{"import_seconds": ..., "load_seconds": ...}` with the first vector, then `{"peak_bytes": ...}`.
"""

import time

STARTED = time.perf_counter()

import json  # noqa: E402  the clock starts before anything else does
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402

from cls_runtime.bench.resident import peak_bytes  # noqa: E402

FIRST_TEXT = "two dogs are running through the snow beside a frozen lake"


def main(arguments: Sequence[str]) -> None:
    """Does what the module's docstring says."""
    from cls_runtime import Encoder

    bundle, variant, engine, threads, *device = arguments
    imported = time.perf_counter()
    with Encoder.load(
        bundle, variant=variant, engine=engine, device=device[0] if device else None, threads=int(threads), on_overflow="truncate"
    ) as encoder:
        loaded = time.perf_counter()
        encoder.encode([FIRST_TEXT])
        _say({"import_seconds": imported - STARTED, "load_seconds": loaded - imported})
        encoder.encode(json.load(sys.stdin))
    _say({"peak_bytes": peak_bytes()})


def _say(document: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
