"""When requests are due, and where an answer ends: what a load generator's figures stand on."""

from __future__ import annotations

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls_runtime.bench.cpu_split import cpu_split
from cls_runtime.bench.http_messages import AnswerReader, request_bytes
from cls_runtime.bench.open_loop import Pace, due_times

ANSWERS = {
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello": (200, False),
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n": (429, True),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n": (200, False),
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n\r\n\r\n0\r\nx-trailer: 1\r\n\r\n": (200, False),
    b"HTTP/1.1 204 No Content\r\nx-request-id: 1\r\n\r\n": (204, False),
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\n{}": (413, False),
}


def test_random_times_have_the_rate_and_the_spread_of_a_poisson_process():
    times = due_times(Pace(rate=1000, seconds=20, seed=3))
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] < 20
    assert len(times) == pytest.approx(20_000, rel=0.05)
    assert statistics.pstdev(gaps) == pytest.approx(statistics.fmean(gaps), rel=0.05)  # as an exponential distribution's are
    assert times == due_times(Pace(rate=1000, seconds=20, seed=3))
    assert times != due_times(Pace(rate=1000, seconds=20, seed=4))


def test_even_times_have_one_distance():
    assert due_times(Pace(rate=10, seconds=0.5, even=True)) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(("answer", "expected"), ANSWERS.items())
@given(data=st.data())
def test_an_answer_ends_at_its_last_byte_however_it_arrives(answer, expected, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(answer) - 1), max_size=6)))
    pieces = [answer[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    reader = AnswerReader()
    for _ in range(2):  # one after another on the same connection
        assert [reader.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert (reader.status, reader.closes) == expected
    assert not reader.end_of_input()


def test_an_answer_without_a_length_ends_with_its_connection():
    reader = AnswerReader()
    assert not reader.feed(b"HTTP/1.1 200 OK\r\n\r\nhello")
    assert not reader.feed(b" there")
    assert reader.end_of_input()
    assert (reader.status, reader.closes) == (200, True)


def test_a_connection_that_ends_within_an_answer_has_not_ended_it():
    reader = AnswerReader()
    assert not reader.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello")
    assert not reader.end_of_input()


def test_a_request_has_its_length():
    assert request_bytes("POST", "/embed", body='{"inputs": "ü"}'.encode(), headers={"x-request-id": "1"}) == (
        b"POST /embed HTTP/1.1\r\nhost: localhost\r\nx-request-id: 1\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n"
        b'{"inputs": "\xc3\xbc"}'
    )


def test_generator_and_server_have_cpus_of_their_own_where_there_are_two(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3, 1, 2}, raising=False)
    monkeypatch.setattr("os.sched_setaffinity", lambda pid, cpus: None, raising=False)
    monkeypatch.setattr("cls_runtime.bench.cpu_split.available_cpus", lambda: 3)
    split = cpu_split()
    assert (split.server, split.generator) == ((1, 2), (3,))
    assert split.threads(8) == 2
    assert split.words.startswith("pinned apart: 2 CPUs")
    assert cpu_split(shared=True).generator == (1, 2, 3)
    monkeypatch.setattr("cls_runtime.bench.cpu_split.available_cpus", lambda: 1)  # a container's quota
    assert cpu_split().server == cpu_split().generator == (1, 2, 3)
    monkeypatch.delattr("os.sched_setaffinity")
    assert (cpu_split().server, cpu_split().threads(8)) == ((), 8)
