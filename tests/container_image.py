"""What a container engine makes of a Dockerfile, made without one: its steps are taken one by one, in folders and in bubblewrap.

In place of the base image stands this machine's system, read-only, with this Python. An instruction or an option that is not known here is
an error, so that no step is left out unnoticed.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

# What the base image brings: from this machine, read-only.
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib64", "etc")
_PYTHON_AT = "/base-python"
_BASE_PATH = f"{_PYTHON_AT}:/usr/local/bin:/usr/bin:/bin"
_KEYWORDS = ("ARG", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "STOPSIGNAL", "USER", "WORKDIR")
# Where packages come from is this machine's to say, as it is an engine's host's.
_PASSED = re.compile(r"PIP_.*|.*_proxy|.*_PROXY|SSL_CERT_FILE")


@dataclass(frozen=True)
class Instruction:
    """A step: `COPY`, and what stands behind it on one line."""

    keyword: str
    value: str

    @property
    def words(self) -> list[str]:
        """What stands there in the exec form, `["a", "b"]`, or else split as a shell does."""
        return json.loads(self.value) if self.value.startswith("[") else shlex.split(self.value)


@dataclass(frozen=True)
class Stage:
    """`FROM base AS name`, and its steps."""

    name: str
    base: str
    steps: tuple[Instruction, ...]

    def last(self, keyword: str) -> Instruction | None:
        """The step of that kind that counts."""
        return next((step for step in reversed(self.steps) if step.keyword == keyword), None)


def instructions(text: str) -> Iterator[Instruction]:
    """The steps of a Dockerfile."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", " ", kept).splitlines():
        if line.strip():
            keyword, _, value = line.strip().partition(" ")
            if keyword not in _KEYWORDS:
                raise ValueError(f"{keyword} is no instruction that is known here")
            yield Instruction(keyword, value.strip())


def stages(text: str) -> dict[str, Stage]:
    """The stages of a Dockerfile by name, in order; arguments before the first stage are put in."""
    given: dict[str, str] = {}
    found: dict[str, Stage] = {}
    name = ""
    for step in instructions(text):
        if step.keyword == "FROM":
            base, keyword, name = _with(given, step.value).split()
            assert keyword == "AS", step
            found[name] = Stage(name, base, ())
        elif name:
            found[name] = replace(found[name], steps=(*found[name].steps, step))
        else:
            assert step.keyword == "ARG", step
            given |= dict([step.value.split("=", 1)])
    return found


def _with(values: Mapping[str, str], text: str) -> str:
    """With `${NAME}` replaced; a name that is not there is an error, but what a shell puts in at its own time stays."""
    return re.sub(r"\$\{(\w+)\}", lambda found: values[found.group(1)], text)


def ignored(path: str, patterns: Sequence[str]) -> bool:
    """Whether .dockerignore keeps a path of the context from the engine: the last pattern that it or a folder above it matches decides."""
    parts = path.split("/")
    above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    verdict = False
    for pattern in patterns:
        kept = pattern.startswith("!")
        glob = pattern.lstrip("!").rstrip("/")
        if any(_matches(place, glob) for place in above):
            verdict = not kept
    return verdict


def _matches(path: str, glob: str) -> bool:
    if glob.startswith("**/"):
        return any(fnmatch.fnmatchcase(part, glob[3:]) for part in path.split("/"))
    return len(path.split("/")) == len(glob.split("/")) and fnmatch.fnmatchcase(path, glob)


@dataclass(frozen=True)
class Image:
    """A folder that becomes a container's root, and how its program is started there."""

    root: Path
    environment: Mapping[str, str] = field(default_factory=lambda: {"PATH": _BASE_PATH})
    user: str = "0:0"
    folder: str = "/"
    entrypoint: tuple[str, ...] = ()
    healthcheck: tuple[str, ...] = ()
    stop_signal: str = "SIGTERM"

    def sandbox(self, *, writable: bool) -> list[str]:
        """bubblewrap's arguments for its root: the folder, and over it the system of this machine."""
        words = ["--bind" if writable else "--ro-bind", str(self.root), "/", "--proc", "/proc", "--dev", "/dev"]
        for name in _SYSTEM:
            if Path("/", name).is_dir() and not Path("/", name).is_symlink():
                words += ["--ro-bind", f"/{name}", f"/{name}"]
        if not sys.base_prefix.startswith("/usr"):
            words += ["--ro-bind", sys.base_prefix, sys.base_prefix]
        return words

    def in_folder(self, *, writable: bool) -> list[str]:
        """The same, with its variables and its working folder."""
        words = [*self.sandbox(writable=writable), "--clearenv", "--chdir", self.folder]
        for name, value in self.environment.items():
            words += ["--setenv", name, value]
        return words


def base_image(root: Path) -> Image:
    """The stand-in for python:slim: places for the system of this machine, and `python`."""
    for name in (*_SYSTEM, "proc", "dev", "tmp", "run"):
        here = Path("/", name)
        if here.is_symlink():
            (root / name).symlink_to(here.readlink())
        elif here.is_dir():
            (root / name).mkdir(parents=True)
    root.joinpath(sys.base_prefix.lstrip("/")).mkdir(parents=True, exist_ok=True)
    python = root / _PYTHON_AT.lstrip("/") / "python"
    python.parent.mkdir()
    program = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    python.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    python.chmod(0o755)
    return Image(root)


class Builder:
    """Makes the stages of a Dockerfile in a folder, each once."""

    def __init__(self, dockerfile: Path, *, context: Path, folder: Path) -> None:
        self._stages = stages(dockerfile.read_text(encoding="utf-8"))
        self._context = context
        self._ignore = [line for line in (context / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
        self._folder = folder
        self._made: dict[str, Image] = {}

    def image(self, name: str, **arguments: str) -> Image:
        """The image of a stage; `arguments` are those of --build-arg. With arguments it is made anew."""
        if name in self._made and not arguments:
            return self._made[name]
        stage = self._stages[name]
        root = self._folder / f"{name}-{len(list(self._folder.iterdir()))}"
        root.mkdir()
        root.chmod(0o755)
        if stage.base in self._stages:
            image = replace(self.image(stage.base), root=root)
            shutil.copytree(self.image(stage.base).root, root, symlinks=True, dirs_exist_ok=True)
        else:
            image = base_image(root)
        given: dict[str, str] = {}
        for step in stage.steps:
            if step.keyword == "ARG":
                argument, _, default = step.value.partition("=")
                given[argument] = arguments.get(argument, default)
            else:
                image = self._taken(image, step, given)
        if not arguments:
            self._made[name] = image
        return image

    def _taken(self, image: Image, step: Instruction, given: Mapping[str, str]) -> Image:
        """The image after a step."""
        if step.keyword == "COPY":
            self._copy(image, _with(given, step.value).split())
        elif step.keyword == "RUN":
            self._run(image, step, given)
        elif step.keyword == "ENV":
            return replace(image, environment={**image.environment, **dict(word.split("=", 1) for word in step.words)})
        elif step.keyword == "USER":
            return replace(image, user=step.value)
        elif step.keyword == "WORKDIR":
            image.root.joinpath(step.value.lstrip("/")).mkdir(parents=True, exist_ok=True)
            return replace(image, folder=step.value)
        elif step.keyword == "ENTRYPOINT":
            return replace(image, entrypoint=tuple(step.words))
        elif step.keyword == "HEALTHCHECK":
            return replace(image, healthcheck=tuple(json.loads(step.value.partition(" CMD ")[2])))
        elif step.keyword == "STOPSIGNAL":
            return replace(image, stop_signal=step.value)
        else:
            assert step.keyword == "EXPOSE", step
        return image

    def _copy(self, image: Image, words: list[str]) -> None:
        options = [word for word in words if word.startswith("--")]
        *sources, target = [word for word in words if not word.startswith("--")]
        origin = self._context
        for option in options:
            name, _, value = option.partition("=")
            assert name == "--from", option
            origin = self.image(value).root
        place = image.root / (target.lstrip("/") if target.startswith("/") else f"{image.folder}/{target}".lstrip("/"))
        for name in sources:
            source = origin / name.lstrip("/")
            if not source.exists() or (origin == self._context and ignored(name, self._ignore)):
                raise FileNotFoundError(f"COPY {name}: not in the context")
            if source.is_dir():
                leave_out = self._left_out if origin == self._context else None
                shutil.copytree(source, place, symlinks=True, ignore=leave_out, dirs_exist_ok=True)
            else:
                into = place / source.name if target.endswith("/") else place
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, into)

    def _left_out(self, folder: str, names: list[str]) -> list[str]:
        relative = Path(folder).relative_to(self._context)
        return [name for name in names if ignored((relative / name).as_posix(), self._ignore)]

    def _run(self, image: Image, step: Instruction, given: Mapping[str, str]) -> None:
        command = step.words if step.value.startswith("[") else ["/bin/sh", "-c", step.value]
        passed = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
        built = replace(image, environment={**passed, **given, "HOME": "/tmp", **image.environment})
        done = subprocess.run(
            ["bwrap", *built.in_folder(writable=True), "--tmpfs", "/tmp", "--die-with-parent", *as_user(image.user, command)],
            capture_output=True,
            text=True,
            timeout=1200,
        )
        if done.returncode != 0:
            raise RuntimeError(f"RUN {step.value}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def as_user(user: str, command: Sequence[str]) -> list[str]:
    """The end of a bubblewrap command line: the command as this user and group.

    Root takes that user's ids, as an engine does. Who is not root is that user in a namespace of users of its own.
    """
    uid, gid = user.split(":")
    if os.geteuid() != 0:
        return ["--unshare-user", "--uid", uid, "--gid", gid, "--", *command]
    if user == "0:0":
        return ["--", *command]
    drop = ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs", "--inh-caps=-all", "--"]
    return ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--", *drop, *command]


def no_sandbox() -> str | None:
    """Why nothing can be run in bubblewrap here; None where it can."""
    if shutil.which("bwrap") is None:
        return "needs bubblewrap: apt-get install bubblewrap"
    words = ["bwrap", "--ro-bind", "/", "/", "--unshare-net", "--unshare-pid", "--proc", "/proc", *as_user("10001:10001", ["/bin/true"])]
    done = subprocess.run(words, capture_output=True, text=True)
    return None if done.returncode == 0 else f"bubblewrap makes no namespaces here: {done.stderr.strip()}"
