"""Which tokens of a text or a pair stay where there are more than the model takes, as transformers decides it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def kept_positions(sequence_ids: Sequence[int | None], max_length: int, *, truncate_left: bool = False) -> NDArray[np.intp]:
    """The positions that stay when an encoded text or pair is cut to `max_length` tokens, in order.

    Special tokens (None in `sequence_ids`) stay. Of a pair the longer text is cut until both are equally long, then both are:
    transformers' `longest_first`.

    >>> kept_positions([None, 0, 0, 0, None], 4).tolist()
    [0, 1, 2, 4]
    >>> kept_positions([None, 0, 0, 0, None, 1, None], 6).tolist()
    [0, 1, 2, 4, 5, 6]
    """
    owner = np.array([-1 if sequence is None else sequence for sequence in sequence_ids])
    first, second = np.flatnonzero(owner == 0), np.flatnonzero(owner == 1)
    room = max_length - int((owner == -1).sum())
    first_room, second_room = _longest_first(len(first), len(second), room)
    kept = [np.flatnonzero(owner == -1)]
    for positions, count in ((first, first_room), (second, second_room)):
        kept.append(positions[len(positions) - count :] if truncate_left else positions[:count])
    return np.sort(np.concatenate(kept))


def is_settled(sequence_ids: Sequence[int | None], complete: Sequence[bool], max_length: int) -> bool:
    """Whether `kept_positions` keeps what it would keep of the whole texts, if those that are not `complete` have more tokens.

    >>> is_settled([None, 0, 0, 0, None], [False], 4), is_settled([None, 0, 0, None], [False], 4)
    (True, False)
    """
    first, second = sequence_ids.count(0), sequence_ids.count(1)
    room = max_length - sequence_ids.count(None)
    if first + second <= room:
        return False
    # Each text keeps the more the longer it is and the less the longer the other is, so the two extremes decide.
    many = first + second + max_length
    most_first = many if not complete[0] else first
    most_second = many if not complete[-1] and len(complete) == 2 else second
    rooms = _longest_first(first, most_second, room)
    return rooms == _longest_first(most_first, second, room) and rooms[0] <= first and rooms[1] <= second


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text fit into `room`. The odd token goes to the text that was longer, on a tie to the second."""
    shorter, longer = min(first, second), max(first, second)
    if shorter + longer > room:
        longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room - room // 2
    return (longer, shorter) if first > second else (shorter, longer)
