"""Commands where names are not UTF-8, the locale knows no letters but ASCII's, the working directory is gone, or the disk is full."""

import os
import shutil
import subprocess
import sys

import pytest

from cls_runtime.commands import doctor, embed, verify

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names are bytes there")

LATIN = os.fsdecode("caf\xe9".encode("latin-1"))
COMMANDS = {
    "vectors": (embed, "{place}/bundle {place}/in.txt -o {place}/out.npy"),
    "shards": (embed, "{place}/bundle {place} -o {place}/_out --keep text"),
    "verify": (verify, "{place}/bundle --junit {place}/report.xml"),
    "verify texts": (verify, "{place}/bundle --texts {place}/in.txt --json"),
    "doctor": (doctor, "{place}/bundle"),
}

ADVICE = "the finished shards stay; make room, and run the same command again to continue"


@pytest.fixture
def furnish(golden_bundle):
    """Makes a folder with a bundle and an input."""

    def furnish(place):
        place.mkdir()
        shutil.copytree(golden_bundle, place / "bundle")
        (place / "in.txt").write_text("the cat\ndog\n")
        return place

    return furnish


@pytest.mark.parametrize("name", COMMANDS)
def test_folders_whose_names_are_not_utf_8(furnish, tmp_path, capsys, name):
    module, arguments = COMMANDS[name]
    place = furnish(tmp_path / LATIN)
    assert module.main([word.format(place=place) for word in arguments.split()]) == 0
    assert capsys.readouterr().err == ""


# Run in a place of its own with a bundle and an input in `at`: a line of the shell before, the arguments, exit code and error.
ODD = {
    "the locale C": ("export LC_ALL=C PYTHONCOERCECLOCALE=0 PYTHONUTF8=0", "embed {at}/bundle {at}/in.txt -o {at}/out.npy", 0, ""),
    "nowhere, and needed": (
        "cd gone && rmdir ../gone",
        "embed {at}/bundle {at}/in.txt -o out.npy",
        2,
        "error: the working directory was removed; change to one that is there, or give absolute paths\n",
    ),
    "nowhere, and not needed": ("cd gone && rmdir ../gone", "embed {at}/bundle {at}/in.txt -o {at}/out.npy", 0, ""),
    "no room for vectors": ("ulimit -f 0", "embed {at}/bundle {at}/in.txt -o {at}/out.npy", 2, "error: {at}/out.npy: File too large\n"),
    "no room for a report": ("ulimit -f 0", "verify {at}/bundle --junit {at}/out.xml", 2, "error: {at}/out.xml: File too large\n"),
    "no room for a shard": (
        "ulimit -f 0",
        "embed {at}/bundle {at}/in.txt -o {at}/out",
        2,
        f"error: {{at}}/out/part-000000000000.parquet: File too large; {ADVICE}\n",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_a_command_in_an_odd_place(furnish, tmp_path, name):
    before, arguments, code, err = ODD[name]
    at = furnish(tmp_path / "bücher")
    (tmp_path / "gone").mkdir()
    program = "import sys, cls_runtime.commands.start as s; sys.exit(s.own_process(sys.argv.pop(1)))"
    module, *rest = arguments.format(at=at).split()
    done = subprocess.run(
        ["sh", "-c", f"trap '' XFSZ; {before}; exec \"$@\"", "sh", sys.executable, "-c", program, f"cls_runtime.commands.{module}", *rest],
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr.decode()) == (code, err.format(at=at))
