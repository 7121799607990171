"""A virtual environment with a pip that knows dependency groups, for scripts that try a wheel where nothing else is installed."""

from __future__ import annotations

import subprocess
from pathlib import Path


def fresh_environment(python: str, folder: Path) -> str:
    """Makes one in `folder` with the interpreter `python`; the path of its Python.

    Raises:
        subprocess.CalledProcessError: the interpreter cannot make one, or pip cannot be had.
    """
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    own = str(folder / "bin" / "python")
    subprocess.run([own, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1"], check=True)
    return own
