r"""Text from files, names and other programs' errors, as a line that a terminal shows and does not obey.

>>> printable("a\x1b[2Jb\u202ec")
'a\\x1b[2Jb\\u202ec'
"""

from __future__ import annotations

import re

MAX_CHARACTERS = 2000
_END_CHARACTERS = 400
# Controls (C0, DEL, C1), what turns the direction of text around or is invisible, other line ends, and halves of surrogate pairs.
_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)


def printable(text: str) -> str:
    """`text` as one line: what a terminal would obey is written as Python writes it, and the middle of a long text is left out."""
    if len(text) > MAX_CHARACTERS:
        text = f"{text[: MAX_CHARACTERS - _END_CHARACTERS]} ... {text[-_END_CHARACTERS:]}"
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
