"""A machine on which nothing can be written, not even below the temporary folder: the commands that write no file work there."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

BWRAP = ("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--setenv", "HOME", "/nonexistent")


def read_only(folder):
    """The start of a command line that runs on a read-only root, where only `folder` can be written to."""
    line = [*BWRAP, *([] if folder is None else ["--bind", str(folder), str(folder)]), "--"]
    if shutil.which("bwrap") is None:
        pytest.skip("needs bwrap (bubblewrap)")
    if subprocess.run([*line, "true"], capture_output=True).returncode:
        pytest.skip("bwrap may not make namespaces here")
    return line


def run(prefix, *arguments):
    return subprocess.run([*prefix, sys.executable, "-B", "-m", "cls_runtime", *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "{bundle}"], ["verify", "{bundle}"]], ids=" ".join)
def test_what_writes_nothing_works_on_a_read_only_root(golden_bundle, arguments):
    prefix = read_only(None)
    probe = subprocess.run([*prefix, sys.executable, "-c", "import tempfile; tempfile.gettempdir()"], capture_output=True, text=True)
    assert "No usable temporary directory" in probe.stderr  # or the test would prove nothing
    finished = run(prefix, *(item.format(bundle=golden_bundle) for item in arguments))
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.startswith(("OK: ", "pass  "))


def test_vectors_go_to_the_only_folder_that_can_be_written(golden_bundle, tmp_path):
    (tmp_path / "texts.txt").write_text("the cat\na dog\n")
    finished = run(read_only(tmp_path), "embed", golden_bundle, tmp_path / "texts.txt", "-o", tmp_path / "out.npy")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert np.load(tmp_path / "out.npy").shape[0] == 2


def test_without_a_temporary_directory_the_doctor_works(golden_bundle):
    """The same where there is no bwrap: no folder that tempfile would try is there."""
    program = (
        "import sys, tempfile\n"
        "tempfile._candidate_tempdir_list = lambda: ['/nonexistent']\n"
        "from cls_runtime.commands.doctor import main\nsys.exit(main(sys.argv[1:]))"
    )
    environment = {**os.environ, "TMPDIR": "/nonexistent"}
    finished = subprocess.run([sys.executable, "-c", program, str(golden_bundle)], capture_output=True, text=True, env=environment)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.startswith("OK: ")
