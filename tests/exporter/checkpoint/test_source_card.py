"""What a source's README.md states in its front matter is read as it stands there, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.source_card import Stated, read_source_card

SILENT = Stated()


def stated(folder: Path, text: str | bytes | None = None) -> Stated:
    if text is not None:
        (folder / "README.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_source_card(CheckpointFolder.of(folder))


def test_the_real_models_card(minilm: Path) -> None:
    assert stated(minilm) == Stated(license=("apache-2.0",), language=("en",))


@pytest.mark.parametrize(
    ("matter", "expected"),
    [
        ("license: mit\n", Stated(license=("mit",))),
        ("license:   'mit'   # as of 2024\n", Stated(license=("mit",))),
        ("license:\n  - mit\n  - apache-2.0\n", Stated(license=("mit", "apache-2.0"))),
        ("license: other\nlicense_name: own-terms\nlicense_link: https://x.y\n", Stated(license=("other",), license_name=("own-terms",))),
        ("tags:\n- a\nlanguage:\n- en\n\n# and\n- no\npipeline_tag: x\n", Stated(language=("en", "no"))),
        ("language: [de, fr]\nlicense: 1.0\n", Stated(license=("1.0",), language=("de", "fr"))),
        ("language: no\nlicense: ~\nlicense_name: null\n", Stated(language=("no",))),
        ("license: !!python/object/apply:os.system [true]\n", Stated(license=("true",))),
        ("model-index:\n- name: x\n  license: inner\n", SILENT),
        ("licenses: mit\nmy_license: mit\n", SILENT),
        ("", SILENT),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_is_stated(matter: str, expected: Stated, end: str, tmp_path: Path) -> None:
    text = f"---\n{matter}---\n# A model\n\nlicense: in-the-text\n"
    assert stated(tmp_path, text.replace("\n", end)) == expected
    assert stated(tmp_path, "\ufeff" + text) == expected


@pytest.mark.parametrize(
    "matter",
    [
        "license: mit\nlicense: gpl-3.0\n",
        "license: {name: mit}\n",
        "license: [[mit]]\n",
        "license: [mit\n",
        "license: ''\n",
        "license: '  '\n",
        "license: *unknown\n",
        'license: "a\\nb"\n',
        'license: "\\e[2J"\n',
        "license: '" + "x" * 101 + "'\n",
        "license:" + " [" * 3000 + "]" * 3000 + "\n",
        "license: [" + "mit, " * 201 + "]\n",
        "license: [" + "mit, " * 5000 + "]\n",
        "license: |\n  " + "x" * 9000 + "\n",
    ],
    ids=lambda matter: matter[:30],
)
def test_what_is_no_text_is_not_stated(matter: str, tmp_path: Path) -> None:
    assert stated(tmp_path, f"---\n{matter}language: en\n---\n").license == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "license: mit\n",
        "# A\n---\nlicense: mit\n---\n",
        "---\nlicense: mit\n",
        "----\nlicense: mit\n----\n",
        b"---\nlicense: \xff\n---\n",
    ],
)
def test_what_has_no_front_matter_states_nothing(text: str | bytes, tmp_path: Path) -> None:
    assert stated(tmp_path, text) == SILENT


def test_a_file_that_is_none_states_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    assert stated(folder) == SILENT
    (tmp_path / "elsewhere.md").write_text("---\nlicense: mit\n---\n")
    (folder / "README.md").symlink_to(tmp_path / "elsewhere.md")
    assert stated(folder) == SILENT
    (folder / "README.md").unlink()
    os.mkfifo(folder / "README.md")  # it would wait for somebody who writes there
    assert stated(folder) == SILENT
    (folder / "README.md").unlink()
    with (folder / "README.md").open("wb") as file:
        file.write(b"---\nlicense: mit\n---\n")
        file.truncate(17 * 2**20)
    assert stated(folder) == SILENT


def test_aliases_do_not_grow(tmp_path: Path) -> None:
    lines = ["language: &a [x, x]", *(f"  - &{after} [*{name}, *{name}]" for name, after in zip("abcdefgh", "bcdefghi", strict=True))]
    assert stated(tmp_path, "---\n" + "\n".join(lines) + "\n---\n") == SILENT
    with pytest.raises(yaml.YAMLError):  # which is why: an alias may name what is in another entry
        yaml.load("language: *x", Loader=yaml.BaseLoader)
