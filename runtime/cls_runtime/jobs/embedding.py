"""Rows in, the same rows with vectors out: each distinct text computed once, as long as the table of repeats has room for it.

What comes out depends on the rows of the range alone, not on timing or on where a job was interrupted: the same range gives the same
bytes.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoder import Encoder
from cls_runtime.encoding.finishing import unquantized
from cls_runtime.encoding.quantizing import check_fits
from cls_runtime.encoding.report import Truncation
from cls_runtime.encoding.texts import Text
from cls_runtime.encoding.vector_options import VectorForm
from cls_runtime.errors import InvalidVectorError, TextError
from cls_runtime.jobs.repeats import RepeatTable
from cls_runtime.jobs.rows import Counts, EmbeddedBlock, RowBlock

# Rows that wait for their vectors; while there are this many, or this much, repeats are computed like other texts, which moves the rows on.
MAX_WAITING_ROWS = 2**14
MAX_WAITING_BYTES = 2**24
# An Encoder reads ahead by so many texts, whatever lies beside them. Once that is this much, it gets no more until all have their vectors.
MAX_HELD_BYTES = 2**26
_NO_TEXT = -1


def embed_blocks(encoder: Encoder, blocks: Iterable[RowBlock], form: VectorForm) -> Generator[EmbeddedBlock, None, None]:
    """Each block with its vectors, in order, in bounded memory. Close it (or exhaust it) to stop the work.

    Args:
        encoder: computes them.
        blocks: read as far ahead as may be held.
        form: what the vectors are; they come as float32 [n, form.dimensions], which its dtype can hold.

    Raises:
        TextError, TextTooLongError, InvalidVectorError: as `Encoder.encode`; `index` is the row's number.
        EngineError, UsageError: as `Encoder.encode`.
    """
    waiting = _Waiting(form.dimensions)
    source = iter(blocks)
    whole = form.width if form.output == encoder.manifest.sentence_output else None  # cut below: a stream would warn of it each time
    while not waiting.ended:
        first = waiting.computed  # the stream counts its texts from 0
        texts = waiting.fresh(source)
        rows = encoder.stream(texts, output=form.output, normalize=False, prompt=form.prompt, dimensions=whole)
        with contextlib.closing(rows):  # type: ignore[type-var]
            while True:
                try:
                    vectors = next(rows, None)
                    if vectors is None:
                        break
                    vectors = unquantized(vectors, form, first_index=waiting.computed - first, on_invalid="raise")
                    check_fits(vectors, form.dtype, first_index=waiting.computed - first, keep_invalid=False)
                except (TextError, InvalidVectorError) as error:
                    raise waiting.with_row(error, first) from None
                report = encoder.last_report
                cut = [replace(item, index=item.index + first) for item in report.truncated]
                waiting.fill(vectors, cut=cut, tokens=report.tokens)
                yield from waiting.complete()
        yield from waiting.complete()


@dataclass
class _Open:
    """A block whose vectors are not all there. `numbers` [n] says which computed text each row is."""

    block: RowBlock
    numbers: NDArray[np.int64]
    vectors: NDArray[np.float32]
    last: int
    duplicates: int
    truncated: int = 0
    tokens: int = 0
    held_bytes: int = 0
    cut: list[Truncation] = field(default_factory=list)


@dataclass
class _Waiting:
    """Blocks between reading and writing. `fresh` runs inside the Encoder's stream, a window or two ahead of `fill`.

    `ended` says that there are no more blocks.
    """

    width: int
    ended: bool = False
    _open: deque[_Open] = field(default_factory=deque)
    _given: int = 0
    _filled: int = 0
    _rows: int = 0
    _bytes: int = 0
    _first_rows: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._table = RepeatTable(self.width)

    @property
    def computed(self) -> int:
        """How many texts have their vectors."""
        return self._filled

    def fresh(self, blocks: Iterable[RowBlock]) -> Iterator[Text]:
        """The texts to compute, in order, of as many blocks as may be held; the n-th of all is number n."""
        for block in blocks:
            numbers = np.full(len(block.texts), _NO_TEXT, dtype=np.int64)
            texts: list[Text] = []
            duplicates = 0
            may_repeat = self._rows < MAX_WAITING_ROWS and self._bytes < MAX_WAITING_BYTES
            for place, text in enumerate(block.texts):
                if text is None:
                    continue
                number = self._table.find(text) if may_repeat else None
                if number is None:
                    number = self._given + len(texts)
                    self._table.add(text, number)
                    self._first_rows[number] = int(block.rows[place])
                    texts.append(text)
                else:
                    duplicates += 1
                numbers[place] = number
            self._admit(block, numbers, duplicates)
            self._given += len(texts)
            yield from texts
            if self._bytes >= MAX_HELD_BYTES:
                return
        self.ended = True

    def _admit(self, block: RowBlock, numbers: NDArray[np.int64], duplicates: int) -> None:
        vectors = np.empty((len(numbers), self.width), dtype=np.float32)
        vectors[numbers == _NO_TEXT] = np.nan
        admitted = _Open(block, numbers, vectors, last=int(numbers.max(initial=_NO_TEXT)), duplicates=duplicates)
        admitted.held_bytes = block.held_bytes
        known = np.flatnonzero((numbers != _NO_TEXT) & (numbers < min(self._filled, self._table.capacity)))
        vectors[known] = self._table.vectors(numbers[known])
        admitted.truncated = int(self._table.truncated(numbers[known]).sum())
        self._open.append(admitted)
        self._rows += len(numbers)
        self._bytes += admitted.held_bytes

    def fill(self, vectors: NDArray[np.float32], *, cut: Sequence[Truncation], tokens: int) -> None:
        """Takes the next vectors, [n, width]; `cut` are those of their texts that were truncated."""
        start, stop = self._filled, self._filled + len(vectors)
        truncated = np.zeros(len(vectors), dtype=bool)
        truncated[[item.index - start for item in cut]] = True
        self._table.store(start, vectors, truncated)
        for item in self._open:
            here = np.flatnonzero((item.numbers >= start) & (item.numbers < stop))
            item.vectors[here] = vectors[item.numbers[here] - start]
            item.truncated += int(truncated[item.numbers[here] - start].sum())
        self._open[0].tokens += tokens
        self._open[0].cut += [replace(item, index=self._first_rows[item.index]) for item in cut]
        for number in range(start, stop):
            del self._first_rows[number]
        self._filled = stop

    def complete(self) -> Iterator[EmbeddedBlock]:
        """The blocks at the front that have all their vectors."""
        while self._open and self._open[0].last < self._filled:
            item = self._open.popleft()
            self._rows -= len(item.numbers)
            self._bytes -= item.held_bytes
            counts = Counts(
                read=item.block.stop - item.block.start,
                rows=len(item.numbers),
                skipped=len(item.block.skipped),
                truncated=item.truncated,
                duplicates=item.duplicates,
                tokens=item.tokens,
            )
            yield EmbeddedBlock(item.block, item.vectors, counts, tuple(item.cut))

    def with_row(self, error: TextError | InvalidVectorError, first: int) -> TextError | InvalidVectorError:
        """The error with the row's number in place of the text's in a stream that began with number `first`."""
        row = None if error.index is None else self._first_rows.get(first + error.index)
        if row is None:
            return error
        message = str(error).replace(f"text {error.index} ", f"text {row} ", 1)
        return type(error)(message, index=row)
