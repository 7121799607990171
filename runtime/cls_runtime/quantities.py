"""Durations, sizes, counts and rates as people write them, for every summary, table and log line."""

from __future__ import annotations

_MINUTE_S, _HOUR_S = 60, 3600
_SIZES = (("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12))


def duration(seconds: float) -> str:
    """A time span: seconds below a minute, then minutes and seconds, then hours and minutes.

    >>> [duration(seconds) for seconds in (0.004, 0.38, 4.22, 13.9, 134, 3900)]
    ['0.004 s', '0.4 s', '4.2 s', '14 s', '2 min 14 s', '1 h 05 min']
    """
    whole = round(seconds)
    if whole >= _HOUR_S:
        minutes = round(seconds / _MINUTE_S)
        return f"{minutes // _MINUTE_S} h {minutes % _MINUTE_S:02d} min"
    if whole >= _MINUTE_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S:02d} s"
    return f"{_digits(seconds)} s"


def size(size_bytes: float) -> str:
    """A number of bytes, in units of 1000.

    >>> [size(count) for count in (1, 297, 4_260, 514_204, 2_105_000, 93_374_495)]
    ['1 byte', '297 bytes', '4.3 kB', '514 kB', '2.1 MB', '93.4 MB']
    """
    if round(size_bytes) < 1000:
        return several(round(size_bytes), "byte")
    scaled = ((unit, size_bytes / factor) for unit, factor in _SIZES)
    unit, value = next(((unit, value) for unit, value in scaled if round(value) < 1000), (_SIZES[-1][0], size_bytes / _SIZES[-1][1]))
    return f"{value:,.0f} {unit}" if round(value, 1) >= 100 else f"{value:.1f} {unit}"


def several(count: int, noun: str) -> str:
    """A count with its noun, an `s` behind all but one.

    >>> several(1, "text"), several(12_500, "text")
    ('1 text', '12,500 texts')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def rate(count: float, seconds: float, noun: str) -> str:
    """How many of `noun` in a second.

    >>> rate(500, 2.03, "texts"), rate(3, 2, "texts")
    ('246 texts/s', '1.5 texts/s')
    """
    return f"{_digits(count / max(seconds, 1e-9))} {noun}/s"


def _digits(value: float) -> str:
    """Whole above 10, else one decimal; below 0.1 one significant digit, down to thousandths."""
    if round(value, 1) >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.1 else f"{float(f'{value:.1g}'):.3f}".rstrip("0").rstrip(".")
