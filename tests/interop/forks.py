"""Runs programs one after another, each in a process of its own whose slow imports are done: a fork of the process that does them.

A script for a program's environment, of the standard library alone: `Forks` in interpreters.py speaks to it. Each line of its input is a
program's path, in JSON; each line of its answer is the exit code. What the program prints is in `output.txt` beside it.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import runpy
import sys
import traceback
from pathlib import Path


def import_as(program: Path) -> None:
    """Does a program's imports here; where one fails, the program itself will say so."""
    with contextlib.suppress(Exception):
        for statement in ast.parse(program.read_text(encoding="utf-8")).body:
            if isinstance(statement, (ast.Import, ast.ImportFrom)) and getattr(statement, "module", None) != "__future__":
                exec(compile(ast.Module([statement], []), str(program), "exec"), {})


def run(program: Path) -> int:
    """Runs a program in its folder, as `python program.py` does, and gives its exit code."""
    output = os.open(program.with_name("output.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(program.parent)
    sys.path.insert(0, str(program.parent))
    sys.argv = [program.name]
    code = 1
    try:
        runpy.run_path(program.name, run_name="__main__")
        code = 0
    except BaseException:  # noqa: BLE001  of a program, whatever it is
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def main() -> None:
    sys.path.pop(0)  # the folder of this script
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what an import prints is no answer
    for line in sys.stdin:
        program = Path(json.loads(line))
        import_as(program)
        child = os.fork()
        if not child:
            os._exit(run(program))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    main()
