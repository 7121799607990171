"""A page's code blocks in a reader's folder: programs, sessions and scripts run in order, servers on a free port until the page ends."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from code_blocks import Block, Typed, command_lines, first_missing, typed
from stand_ins import BUNDLE, UPGRADE

ROOT = Path(__file__).resolve().parent.parent
PAGES_PORT = "8080"
BLOCK_SECONDS = 300
ENDING_SECONDS = 30
# What a page shows and no test runs: what installs and builds. Their targets and extras are looked up (tests/test_docs.py).
NOT_TYPED = ("make", "pip")
_MARK = "@@runner@@"
_SERVES = re.compile(r"^ *(?:\$ )?cls-serve [^\n]*(?<!&)& *(?:#.*)?$", re.MULTILINE)
# curl waits for a server that an earlier line has started. Bash lives until all that it has started has ended.
_PRELUDE = """
curl() {
  case "$*" in *:PORT*) for _ in $(seq 600); do (: < /dev/tcp/127.0.0.1/PORT) 2> /dev/null && break; sleep 0.1; done ;; esac
  command curl "$@"
}
finish() { printf '\\n%s end %s\\n' "MARK" "$1"; : > "DONE"; until wait; do :; done; }
trap : TERM
trap 'finish $?' EXIT
"""


class PageRun:
    """A page's folder, and what its blocks have started.

    `with PageRun(folder, stand_ins=...) as page` fills the new `folder` and ends what runs when it is left.
    """

    def __init__(self, folder: Path, *, stand_ins: Path) -> None:
        self.folder = folder / "reader"
        self._aside = folder
        shutil.copytree(stand_ins, self.folder)
        self._given = {BUNDLE, UPGRADE}
        self._count = 0
        self._port = 0
        self._servers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> PageRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_servers()

    def run(self, block: Block) -> None:
        """Runs a block.

        Raises:
            AssertionError: it fails, or prints something else than the page shows.
        """
        self._make_room(block)
        if block.language == "python":
            self._program(block)
        else:
            self._shell(block)

    def _make_room(self, block: Block) -> None:
        """A page that exports a bundle itself finds none of ours in its place."""
        for path in sorted(self._given):
            if path in exported_by(block):
                shutil.rmtree(self.folder / path)
                self._given.remove(path)

    def _program(self, block: Block) -> None:
        program = self._aside / f"line_{block.line}.py"
        program.write_text(self._here(block.text), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-W", "error", program],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BLOCK_SECONDS,
        )
        assert done.returncode == 0, f"{block}\n{block.text}\n{done.stdout}{done.stderr}"

    def _shell(self, block: Block) -> None:
        lines = [line for line in map(without_installation, typed(block)) if line.command.strip()]
        if not lines:
            return
        if _SERVES.search(block.text):
            self._end_servers()
            with contextlib.closing(socket.socket()) as free:
                free.bind(("127.0.0.1", 0))
                self._port = free.getsockname()[1]
        self._count += 1
        output, done = self._aside / f"output_{self._count}", self._aside / f"done_{self._count}"
        process = self._started(self._script(lines, done, stops=block.language == "sh"), output)
        self._servers.append(process)
        deadline = time.monotonic() + BLOCK_SECONDS
        while not done.exists():
            going_on = process.poll() is None and time.monotonic() < deadline
            assert going_on or done.exists(), f"{block} does not end\n{output.read_text()}"
            time.sleep(0.02)
        if _SERVES.search(block.text):
            self._wait_for_server(block, output)
        printed = output.read_text(encoding="utf-8", errors="replace")
        for line, text, code in zip(lines, *_results(printed), strict=True):
            refused = any(shown.startswith("error: ") for shown in line.shown)
            assert (code != 0) == refused, f"{block}: exit code {code}\n{line.command}\n{text}"
            missing = first_missing(line.shown, text)
            assert missing is None, f"{block}: {line.command}\nshows, and did not print there:\n{missing}\nprinted:\n{text}"

    def _script(self, lines: Sequence[Typed], done: Path, *, stops: bool) -> str:
        prelude = _PRELUDE.replace("PORT", str(self._port)).replace("MARK", _MARK).replace("DONE", str(done))
        between = f"\nprintf '\\n%s end %s\\n' '{_MARK}' $?\n"
        commands = [self._here(line.command).rstrip("\n") for line in lines]
        return f"{prelude}{'set -e' if stops else ''}\n{between.join(commands)}\n"

    def _started(self, script: str, output: Path) -> subprocess.Popen[bytes]:
        with output.open("ab") as file:
            return subprocess.Popen(
                ["bash", "-c", script],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_for_server(self, block: Block, output: Path) -> None:
        deadline = time.monotonic() + BLOCK_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=5):
                return
            alive = self._servers[-1].poll() is None and time.monotonic() < deadline
            assert alive, f"{block}: the server does not listen\n{output.read_text()}"
            time.sleep(0.05)

    def _end_servers(self) -> None:
        for process in self._servers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(ENDING_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._servers.clear()

    def _here(self, text: str) -> str:
        return re.sub(rf"\b{PAGES_PORT}\b", str(self._port), text) if self._port else text

    def _environment(self) -> dict[str, str]:
        """The commands of this environment, and no network."""
        nowhere = "http://127.0.0.1:9"
        changes = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
        changes |= {"http_proxy": nowhere, "https_proxy": nowhere, "no_proxy": "127.0.0.1,localhost"}
        return {**os.environ, **changes, **({"CLS_SERVE_PORT": str(self._port)} if self._port else {})}


def exported_by(block: Block) -> set[str]:
    """The folders that a block's exports write: `-o DIR`, or models/ and the model's last part; in a program every `models/...`."""
    if block.language == "python":
        return set(re.findall(r"models/[\w.-]+", block.text)) if re.search(r"\bexport\(", block.text) else set()
    found = set()
    for command, *words in command_lines(block):
        if command == "cls-export" and "--help" not in words:
            named = [after for word, after in itertools.pairwise(words) if word == "-o"]
            model = next((word for word in words if not word.startswith("-")), "")
            found.add(named[0] if named else f"models/{model.split('/')[-1].split('@')[0]}")
    return found


def without_installation(line: Typed) -> Typed:
    """The commands of a line or of a script that are not make's or pip's."""
    kept = [
        part
        for part in line.command.replace("\\\n", " ").splitlines()
        if not part.strip().startswith(tuple(f"{name} " for name in NOT_TYPED))
    ]
    return line if len(kept) == len(line.command.splitlines()) else Typed("\n".join(kept), line.shown)


def _results(printed: str) -> tuple[list[str], list[int]]:
    """What each command printed, and its exit code."""
    parts = re.split(rf"\n{re.escape(_MARK)} end (\d+)\n", printed)
    return parts[0:-1:2], [int(code) for code in parts[1::2]]
