import pytest

from cls_runtime.quantities import duration, rate, several, size

DURATIONS = {
    0: "0 s",
    0.00004: "0 s",
    0.0123: "0.01 s",
    0.0999: "0.1 s",
    0.004: "0.004 s",
    0.38: "0.4 s",
    9.94: "9.9 s",
    9.96: "10 s",
    13.9: "14 s",
    59.4: "59 s",
    59.6: "1 min 00 s",
    134: "2 min 14 s",
    3599.4: "59 min 59 s",
    3599.6: "1 h 00 min",
    3900: "1 h 05 min",
    100_000: "27 h 47 min",
}
SIZES = {
    0: "0 bytes",
    1: "1 byte",
    297: "297 bytes",
    999: "999 bytes",
    1000: "1.0 kB",
    4_260: "4.3 kB",
    99_940: "99.9 kB",
    99_960: "100 kB",
    514_204: "514 kB",
    999_400: "999 kB",
    999_600: "1.0 MB",
    2_105_000: "2.1 MB",
    93_374_495: "93.4 MB",
    25_300_000_000: "25.3 GB",
    3 * 10**15: "3,000 TB",
}


@pytest.mark.parametrize("seconds", DURATIONS)
def test_durations(seconds):
    assert duration(seconds) == DURATIONS[seconds]


@pytest.mark.parametrize("size_bytes", SIZES)
def test_sizes(size_bytes):
    assert size(size_bytes) == SIZES[size_bytes]


def test_counts_and_rates():
    assert [several(count, "text") for count in (0, 1, 12_500)] == ["0 texts", "1 text", "12,500 texts"]
    assert [rate(count, 2, "texts") for count in (0, 3, 500, 25_000)] == ["0 texts/s", "1.5 texts/s", "250 texts/s", "12,500 texts/s"]
    assert rate(0, 0, "texts") == "0 texts/s"
