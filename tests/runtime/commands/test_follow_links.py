"""`--follow-links` of every command that has it: a tree of links loads with it, and not without."""

import pytest
from bundle_layouts import in_the_cache, linked

from cls_runtime.commands import doctor, embed, verify

COMMANDS = {
    "cls-embed to an array": lambda bundle, out: embed.main([bundle, f"{out}.txt", "-o", f"{out}.npy", *FOLLOW]),
    "cls-embed to shards": lambda bundle, out: embed.main([bundle, f"{out}.txt", "-o", out, *FOLLOW]),
    "cls-verify": lambda bundle, out: verify.main([bundle, *FOLLOW]),
    "cls-verify --compare": lambda bundle, out: verify.main([bundle, "--compare", bundle, *FOLLOW]),
    "cls-doctor": lambda bundle, out: doctor.main([bundle, *FOLLOW]),
}
FOLLOW = []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_tree_of_links(golden_bundle, tmp_path, capsys, monkeypatch, command):
    if command == "cls-embed to shards":
        pytest.importorskip("pyarrow")
    (tmp_path / "out.txt").write_text("the cat\n")
    farm = linked(golden_bundle, tmp_path / "farm")
    assert COMMANDS[command](str(farm), str(tmp_path / "out")) != 0
    said = capsys.readouterr()
    assert "is a link that leaves the bundle" in said.out + said.err
    assert "--follow-links" in said.out + said.err
    monkeypatch.setattr(f"{__name__}.FOLLOW", ["--follow-links"])
    assert COMMANDS[command](str(farm), str(tmp_path / "out")) == 0, capsys.readouterr().err


def test_a_snapshot_in_the_hubs_cache_needs_no_option(golden_bundle, tmp_path):
    assert verify.main([str(in_the_cache(golden_bundle, tmp_path))]) == 0
