"""What a checkpoint that is refused is told with."""

from __future__ import annotations

from pathlib import Path

import pytest

from cls_exporter import ExportConfig
from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.errors import CheckpointError, UnsupportedError


def refusal_of(folder: Path, config: ExportConfig | None = None) -> str:
    """The message that loading ends with: one line of bounded length that a terminal does not act on."""
    with pytest.raises((CheckpointError, UnsupportedError)) as caught:
        load_checkpoint(str(folder), config=config)
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) < 2000
    assert caught.value.exit_code == 2
    return message
