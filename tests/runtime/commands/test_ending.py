"""How a command's process ends: signals in whatever it waits for, standard streams that are closed or full, and what cannot be imported."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads what a process does from /proc")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
LINES = {
    signal.SIGINT: "error: interrupted\n",
    signal.SIGTERM: "error: ended by SIGTERM\n",
    signal.SIGHUP: "error: ended by SIGHUP\n",
}
LONG = 300  # seconds: more than a slow machine takes, and than a process that hangs is worth waiting for
PATIENT = "import sys; from cls_runtime.commands.start import own_process; sys.exit(own_process(sys.argv.pop(1)))"


def command(name, *arguments):
    return [sys.executable, "-c", PATIENT, f"cls_runtime.commands.{name}", *map(str, arguments)]


def start(arguments, **options):
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def threads_of(process):
    """The state of each thread, and the CPU time that it has used."""
    stats = [path.read_text().rsplit(")", 1)[1].split() for path in Path(f"/proc/{process.pid}/task").glob("*/stat")]
    return [(stat[0], stat[11], stat[12]) for stat in stats]


def until(is_so, process):
    deadline = time.monotonic() + LONG
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def until_it_waits(process):
    """Returns when no thread has computed for a while and each is asleep."""
    seen = []

    def is_quiet():
        time.sleep(0.05)
        seen.append(threads_of(process))
        last = seen[-12:]
        return len(last) == 12 and all(state == "S" for state, _, _ in last[-1]) and all(item == last[0] for item in last)

    until(is_quiet, process)


@pytest.fixture
def place(tmp_path):
    """A folder with a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "pipe.txt")
    return tmp_path


WAITS = {
    "a pipe, to a file": ["embed", "BUNDLE", "pipe.txt", "-o", "out.npy"],
    "a pipe, to shards": ["embed", "BUNDLE", "pipe.txt", "-o", "out/"],
    "standard input, to a file": ["embed", "BUNDLE", "-", "-o", "out.npy"],
    "standard input, to shards": ["embed", "BUNDLE", "-", "-o", "out/"],
    "texts to verify with": ["verify", "BUNDLE", "--texts", "pipe.txt"],
    "texts to measure with": ["bench", "BUNDLE", "--texts", "pipe.txt"],
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("wait", WAITS)
def test_a_signal_ends_every_wait(golden_bundle, place, wait, number):
    name, *arguments = WAITS[wait]
    before = sorted(place.rglob("*"))
    process = start(command(name, *(golden_bundle if item == "BUNDLE" else item for item in arguments)), cwd=place, stdin=subprocess.PIPE)
    until_it_waits(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=LONG)
    assert (process.returncode, err, out) == (CODES[number], LINES[number], "")
    left = [path for path in sorted(place.rglob("*")) if path not in before]
    assert {path.name for path in left} <= {"out", "_job.json", ".cls-export.lock"}  # a job that has begun


def test_a_signal_that_the_parent_ignores_is_ignored(golden_bundle, place):
    def ignore():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    for out in ("out.npy", "out/"):
        process = start(command("embed", golden_bundle, "pipe.txt", "-o", out), cwd=place, preexec_fn=ignore)
        until_it_waits(process)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGHUP)
        until_it_waits(process)
        if out == "out.npy":
            (place / "pipe.txt").write_text("the cat\n")
        else:
            process.terminate()
        process.communicate(timeout=LONG)
        assert process.returncode == (0 if out == "out.npy" else 143)


STUCK = {
    "computing where no exception comes": "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)",
    "cleaning up for ever": """    try:
        time.sleep(1000)
    finally:
        hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)""",
    "an exception that is passed over": """    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass""",
    "a finalizer": """    class Slow:
        def __del__(self):
            time.sleep(1000)
    Slow()
    time.sleep(1000)""",
    "an exception made of another": """    try:
        time.sleep(1000)
    except BaseException:
        raise ImportError('numpy failed')""",
    "after it is done": "    atexit.register(time.sleep, 1000)",
    "another thread": """    threading.Thread(target=time.sleep, args=(1000,)).start()
    time.sleep(1000)""",
}


@pytest.fixture
def run_module(tmp_path):
    """Starts a module of these lines as a command's process; returns once it has said that it is ready."""

    def run(source, **options):
        (tmp_path / "stuck.py").write_text(source)
        path = os.pathsep.join([str(tmp_path), *sys.path])
        process = start([sys.executable, "-c", PATIENT, "stuck"], env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, **options)
        return process, process.stdout.readline()

    return run


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("where", STUCK)
def test_a_process_that_is_stuck_ends_too_and_leaves_nothing(run_module, tmp_path, where, twice):
    source = f"""import atexit, hashlib, pathlib, threading, time
from cls_runtime.bundle.files import whole_file
from cls_runtime.commands import ending, shell
from cls_runtime.commands.parsing import command_parser
ending.UNNOTICED_SECONDS = {1000 if twice and "computing" in where else 0.5}
ending.CLEANING_SECONDS = 0.5

def work():
{STUCK[where]}

def command(arguments):
    with whole_file(pathlib.Path("out.bin")) as file:
        file.write(b"half")
        file.flush()
        print("ready", flush=True)
        work()
    return 0

def main():
    return shell.run_command(command_parser("x", "x", examples=[("x", "x")], works_alone=True), command, [])
"""
    process, line = run_module(source)
    assert line == "ready\n"
    until_it_waits(process) if where == "after it is done" else time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    if twice:
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LONG)
    assert (process.returncode, err) == (130, "error: interrupted\n")
    left = {path.name for path in tmp_path.iterdir()} - {"stuck.py", "__pycache__"}
    assert left == ({"out.bin"} if where == "after it is done" else set())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("how", ["time.sleep(1000)", "\n    try: time.sleep(1000)\n    except BaseException: pass"])
def test_a_signal_while_a_command_is_imported(run_module, number, how):
    process, _ = run_module(f"import time; print('ready', flush=True)\nif True: {how}\ndef main(): return 0\n")
    process.send_signal(number)
    out, err = process.communicate(timeout=LONG)
    assert (process.returncode, out, err) == (CODES[number], "", LINES[number])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise MemoryError", "out of memory"),
        ("import missing_package", "ModuleNotFoundError: No module named 'missing_package'"),
        ("raise ImportError('two\\nlines')", "ImportError: two lines"),
        ("raise ImportError('x' * 10000)", f"ImportError: {'x' * 487}"),
        ("main", "NameError: name 'main' is not defined"),
    ],
)
def test_what_cannot_be_imported_is_one_line(run_module, source, reason):
    process, _ = run_module(source)
    out, err = process.communicate(timeout=LONG)
    assert (process.returncode, out) == (2, "")
    assert err == f"error: stuck cannot be imported ({reason}); give the process more memory, or install cls-export again\n"


EMBED, READ, DOCTOR = ("embed", "BUNDLE", "texts.txt", "-o", "out.npy"), ("embed", "BUNDLE", "-", "-o", "out.npy"), ("doctor",)
SHARDS = ("embed", "BUNDLE", "texts.txt", "-o", "out/")


@pytest.mark.parametrize(
    ("arguments", "streams", "code", "err"),
    [
        (EMBED, "<&-", 0, ""),
        (EMBED, ">&-", 0, ""),
        (EMBED, "2>&-", 0, ""),
        (EMBED, "<&- >&- 2>&-", 0, ""),
        (EMBED, ">/dev/full", 2, "error: standard output: No space left on device\n"),
        (EMBED, "2>/dev/full", 0, ""),
        (EMBED, ">/dev/full 2>/dev/full", 2, ""),
        (EMBED, "2</dev/null", 0, ""),
        (SHARDS, "2>&-", 0, ""),
        (SHARDS, "<&- >&- 2>&-", 0, ""),
        (READ, "<&-", 2, "error: standard input is closed; give a file, or something on standard input\n"),
        (READ, "<&- 2>&-", 2, ""),
        (DOCTOR, ">&-", 0, ""),
        (DOCTOR, "<&- >&- 2>&-", 0, ""),
        (DOCTOR, ">/dev/full", 2, "error: standard output: No space left on device\n"),
        (("doctor", "--json"), ">/dev/full", 2, "error: standard output: No space left on device\n"),
        (("doctor", "--help"), ">/dev/full", 2, "error: standard output: No space left on device\n"),
        (("doctor", "--version"), ">&-", 0, ""),
        (("doctor", "--wrong"), "2>/dev/full", 2, ""),
        (("doctor", "--wrong"), "2>&-", 2, ""),
        (("verify", "BUNDLE"), "2>&- >&-", 0, ""),
    ],
)
@pytest.mark.parametrize("buffered", ["", "1"])
def test_standard_streams_that_are_closed_or_full(golden_bundle, tmp_path, arguments, streams, code, err, buffered):
    (tmp_path / "texts.txt").write_text("the cat\n" * 3)
    words = command(*(golden_bundle if item == "BUNDLE" else item for item in arguments))
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {streams}', "sh", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LONG,
        env={**os.environ, "PYTHONUNBUFFERED": buffered},
    )
    assert (done.returncode, done.stderr) == (code, err)
    if arguments[0] == "embed" and arguments is not READ:
        made = [path for path in tmp_path.rglob("*") if path.suffix in (".npy", ".parquet")]
        assert len(made) == 1
        assert made[0].read_bytes()[:4] in (b"\x93NUM", b"PAR1")  # nothing else was written into it


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs a user of its own, whose processes are counted")
@pytest.mark.parametrize("arguments", [EMBED, SHARDS, ("verify", "BUNDLE"), ("doctor", "BUNDLE")])
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_few_threads_are_enough_or_one_line(golden_bundle, arguments, processes):
    """The user's limit, which root has not; of root's rights only those to read and write are left, and of files that all may read."""
    words = command(*(golden_bundle if item == "BUNDLE" else item for item in arguments))
    rights = "+dac_override,+dac_read_search"
    user = str(60_000 + os.getpid() % 4000)  # whose processes are these alone, also beside other tests
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        (Path(folder) / "texts.txt").write_text("".join(f"the cat {number}\n" for number in range(3000)))
        limited = ["bash", "-c", f'ulimit -u {processes}; exec "$@"', "bash", *words]
        done = subprocess.run(
            ["setpriv", "--reuid", user, "--clear-groups", "--inh-caps", rights, "--ambient-caps", rights, *limited],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=LONG,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        )
    said = [line for line in done.stderr.splitlines() if not line.startswith("<jemalloc>")]  # Arrow's own word on it
    if done.returncode:
        assert len(said) == 1
        assert re.fullmatch(r"error: .*threads are needed and \d+ can be started .*", said[0])
    else:
        assert said == []
