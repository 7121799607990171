"""What a round takes of the requests that wait: in turn, bounded by time, and every text once."""

import dataclasses
import math
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls_runtime.encoding.chunks import Window
from cls_runtime.encoding.overflow import Overflow
from cls_runtime.encoding.pace import HALF_LIFE_S, LONE_ROUND_SECONDS, ROUND_SECONDS, SHARE_SECONDS, Pace, guessed_tokens
from cls_runtime.encoding.request import Request
from cls_runtime.encoding.request_queue import COMPANY_S, RequestQueue

MAX_LENGTH = 64
FULL_TOKENS = 128  # what makes a batch of the engine fast
LOOP = SimpleNamespace(create_future=lambda: None)


def request(texts, *, output="sentence_embedding", deadline=None, side="right", action="warn"):
    window = Window([f"{number} " + "a " * length for number, length in enumerate(texts)], range(len(texts)))
    overflow = Overflow(action, side == "left")
    return Request.of(window, output, width=8, overflow=overflow, loop=LOOP, deadline=deadline, max_length=MAX_LENGTH)


def queue_of(*requests, tokens_per_second=10_000.0, workers=1):
    pace = Pace()
    pace.tokens_per_second = tokens_per_second
    queue = RequestQueue(pace, workers=workers, full_tokens=FULL_TOKENS)
    for each in requests:
        queue.add(each)
    return queue


def take(queue, workers=1, now=None):
    return queue.take(workers, time.monotonic() if now is None else now)[0]


def counts(queue):
    return queue.texts, queue.characters, queue.held_texts, queue.held_characters, queue.tokens, queue.turn_tokens, queue.running_tokens


def requests_of(taken):
    return [share.request for share in taken.shares]


@pytest.mark.parametrize(("waiting", "workers", "tokens"), [(30, 1, 300), (1000, 1, 1000), (1000, 2, 500), (10_000, 1, 2000)])
def test_where_much_waits_a_round_is_a_tenth_of_it_within_bounds(waiting, workers, tokens):
    """Of requests of 10 guessed tokens, at 10,000 a second: 400 make a usual round, 2,000 the longest."""
    requests = [request([16]) for _ in range(waiting)]
    assert {each.left for each in requests} == {10}
    assert tokens <= take(queue_of(*requests, workers=workers)).tokens < tokens + 10


def test_short_requests_are_taken_together_oldest_first():
    requests = [request([1]) for _ in range(5)]
    queue = queue_of(*requests)
    taken = take(queue)
    assert requests_of(taken) == requests
    assert all(share.places is None for share in taken.shares)
    assert not queue
    queue.done(taken)
    assert counts(queue) == (0,) * 7


def test_a_round_is_what_a_worker_does_in_its_time():
    queue = queue_of(*(request([20]) for _ in range(200)))
    taken = take(queue)
    most = ROUND_SECONDS * 10_000
    assert most <= taken.tokens <= most + 13
    assert queue


class Watched(RequestQueue):
    """Keeps what whoever reads the counts meanwhile finds, what waits first."""

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        for waiting in ("tokens", "turn_tokens"):
            self.seen.append(getattr(self, waiting, 0) + getattr(self, "running_tokens", 0))


@pytest.mark.parametrize("texts", [[[16]], [[16], [3], [60]], [[20] * 200], [[20] * 200, [5]]])
def test_at_no_moment_of_taking_nothing_seems_to_be_left(texts, monkeypatch):
    monkeypatch.setattr(Watched, "seen", [], raising=False)
    queue = Watched(Pace(), workers=1, full_tokens=FULL_TOKENS)
    for lengths in texts:
        queue.add(request(lengths))
    queue.seen.clear()
    while queue:
        take(queue)
    assert queue.seen
    assert min(queue.seen) > 0


def test_a_slow_engine_takes_one_text_at_least():
    queue = queue_of(request([60]), tokens_per_second=1.0)
    assert [share.count for share in take(queue).shares] == [1]


def test_of_a_long_request_that_is_alone_a_round_is_longer():
    bulk = request([20] * 3000)
    taken = take(queue_of(bulk), workers=2)
    most = LONE_ROUND_SECONDS * 10_000
    assert taken.alone
    assert most - max(bulk.costs) < taken.tokens <= most + 1


def test_short_requests_that_wait_are_divided_over_idle_workers():
    queue = queue_of(*(request([20]) for _ in range(30)))
    whole = queue.tokens
    assert FULL_TOKENS * 2 < whole < ROUND_SECONDS * 10_000
    first, second = take(queue, workers=2), take(queue, workers=1)
    assert first.tokens + second.tokens == whole
    assert abs(first.tokens - second.tokens) <= 2 * 12
    assert not queue


def test_no_worker_gets_less_than_a_full_batch():
    queue = queue_of(*(request([20]) for _ in range(12)))
    assert FULL_TOKENS < queue.tokens < 2 * FULL_TOKENS
    take(queue, workers=8)
    assert not queue


def test_beside_another_request_a_long_ones_share_is_small_also_a_moment_later():
    bulk = request([20] * 500)
    queue = queue_of(bulk)
    assert take(queue).tokens > 10 * SHARE_SECONDS * 10_000
    queue.add(request([1]))
    most = SHARE_SECONDS * 10_000 + 1
    rounds = [take(queue) for _ in range(3)]
    assert sorted(len(each.shares[0].request.sizes) for each in rounds) == [1, 500, 500]
    assert all(each.tokens <= most for each in rounds)
    assert take(queue, now=time.monotonic() + COMPANY_S / 2).tokens <= most
    assert take(queue, now=time.monotonic() + 2 * COMPANY_S).tokens > 10 * most


def test_short_and_long_requests_take_turns():
    bulks = [request([20] * 400), request([20] * 400)]
    queue = queue_of(*bulks)
    seen = []
    for _ in range(6):
        queue.add(request([1]))
        taken = take(queue)
        seen.append(taken.long)
        queue.done(taken)
    assert seen == [True, False, True, False, True, False]


def test_while_short_requests_wait_one_worker_at_most_computes_long_ones():
    queue = queue_of(request([20] * 400), request([20] * 400))
    for _ in range(4):
        queue.add(request([1], output=f"output {_}"))  # each a round of its own
    assert [take(queue).long for _ in range(4)] == [True, False, False, False]


def test_long_requests_take_turns_with_each_other():
    first, second = request([20] * 400), request([20] * 400)
    queue = queue_of(first, second)
    taken = take(queue)
    assert requests_of(taken) == [first, second]
    assert all(share.tokens <= SHARE_SECONDS * 10_000 + 1 for share in taken.shares)


def test_a_share_has_texts_of_about_one_length_and_its_places_in_order():
    bulk = request([1 + number % 40 for number in range(400)])
    queue = queue_of(bulk, request([1]))
    (share,) = take(queue).shares
    assert list(share.places) == sorted(share.places)
    costs = [bulk.costs[place] for place in share.places]
    assert min(costs) == max(bulk.costs)


@pytest.mark.parametrize("other", [{"output": "logits"}, {"side": "left"}, {"action": "raise"}])
def test_only_requests_of_one_kind_share_a_round(other):
    queue = queue_of(request([1]), request([1], **other), request([1], action="truncate"))
    assert [len(take(queue).shares) for _ in range(2)] == [2, 1]


def test_what_is_too_late_is_not_taken_and_its_places_are_free():
    now = time.monotonic()
    late, fine = request([1] * 3, deadline=now - 1), request([1], deadline=now + 60)
    queue = queue_of(late, fine)
    taken, expired = queue.take(1, now)
    assert (requests_of(taken), expired, late.ended) == ([fine], [late], True)
    assert queue.held_texts == 1
    queue = queue_of(request([1], deadline=now - 1))
    taken, expired = queue.take(1, now)
    assert (taken, len(expired), counts(queue)) == (None, 1, (0,) * 7)


def test_the_turn_of_a_request_is_one_share_of_it():
    bulk, single = request([20] * 400), request([4])
    queue = queue_of(bulk, single)
    assert queue.tokens == bulk.left + single.left
    assert queue.turn_tokens == SHARE_SECONDS * 10_000 + 1 + single.left


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 200), min_size=1, max_size=40), st.sampled_from(["cls", "logits"]), st.sampled_from(["left", "right"])
        ),
        max_size=12,
    ),
    st.lists(st.sampled_from(["take", "add", "finish", "stop", "remove"]), max_size=60),
    st.floats(1, 1e6),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_every_text_is_taken_once_and_the_counts_always_fit(asked_for, steps, tokens_per_second, workers, random):
    queue = queue_of(tokens_per_second=tokens_per_second)
    given = [request(texts, output=output, side=side) for texts, output, side in asked_for]
    coming, added, removed, under_way, done = list(given), [], [], [], []
    for step in [*steps, *["add"] * len(given), *["take", "finish"] * sum(each.count for each in given)]:
        if step == "add" and coming:
            added.append(coming.pop())
            queue.add(added[-1])
        elif step == "take" and (taken := take(queue, workers)):
            assert len({share.request.kind for share in taken.shares}) == 1
            assert len({id(share.request) for share in taken.shares}) == len(taken.shares)
            under_way.append(taken)
        elif step == "finish" and under_way:
            queue.done(under_way[0])
            done.append(under_way.pop(0))
        elif step == "stop" and under_way and under_way[0].alone:
            stopped = under_way.pop(0)
            (share,) = stopped.shares
            part, others = share.split(random.sample(range(share.count), k=random.randint(1, share.count)))
            assert sorted([*part.places, *others]) == list(range(share.request.count) if share.places is None else share.places)
            queue.done(stopped)
            if share.request not in removed:
                queue.give_back(share.request, others)
            done.append(dataclasses.replace(stopped, shares=[part]))
        elif step == "remove" and added:
            removed.append(random.choice(added))
            queue.remove(removed[-1])
            removed[-1].ended = True
        held = [share for each in under_way for share in each.shares]
        waiting = [(each, [place for place in range(each.count) if place not in places_of(each, done + under_way)]) for each in added]
        waiting = [(each, places) for each, places in waiting if each not in removed]
        assert queue.texts == sum(len(places) for _, places in waiting)
        assert queue.held_texts == queue.texts + sum(share.count for share in held)
        assert queue.characters == sum(each.sizes[place] for each, places in waiting for place in places)
        assert queue.tokens == sum(each.costs[place] for each, places in waiting for place in places)
        assert queue.running_tokens == sum(share.tokens for share in held)
        assert bool(queue) == bool(queue.texts)
        assert (queue.turn_tokens > 0) == bool(queue)
        assert set(map(id, queue.waiting())) == {id(each) for each, places in waiting if places}
    assert counts(queue) == (0,) * 7
    for each in given:
        places = places_of(each, done)
        assert sorted(places) == list(range(each.count)) or each in removed


def places_of(asked_for, rounds):
    """The places of a request's texts that these rounds hold."""
    shares = [share for each in rounds for share in each.shares if share.request is asked_for]
    found = [place for share in shares for place in (range(share.request.count) if share.places is None else share.places)]
    assert len(found) == len(set(found))
    return found


def test_a_guess_grows_with_the_text_and_less_beyond_what_the_model_takes():
    guesses = [guessed_tokens(count, 256) for count in (0, 4, 100, 1024, 2048, 2**16, 2**30)]
    assert guesses == sorted(guesses)
    assert (guesses[0], guesses[2], guesses[3]) == (2, 27, 258)
    assert guesses[-1] == guesses[-2] < 258 + 2**11


def test_the_pace_follows_what_is_measured():
    pace = Pace()
    for _ in range(100):
        pace.add(300, 0.1)
    assert math.isclose(pace.tokens_per_second, 3000, rel_tol=0.01)
    pace.add(int(1000 * HALF_LIFE_S), HALF_LIFE_S)
    assert 1000 < pace.tokens_per_second < 2500
    assert pace.round_tokens > pace.share_tokens >= 1


def test_a_pace_gets_over_a_round_during_which_the_machine_stood_still():
    """Such a round is known as what it was, and no more than 3 s of rounds later the pace is that of the others again."""
    pace = Pace()
    for _ in range(50):
        pace.add(1000, 0.1)
    before = pace.tokens_per_second
    pace.add(1000, 30.0)
    assert pace.tokens_per_second < before / 2
    for _ in range(30):
        pace.add(1000, 0.1)
    assert pace.tokens_per_second > 0.85 * before


def test_a_pace_is_that_of_an_engine_that_is_slow():
    pace = Pace()
    for _ in range(20):
        pace.add(1000, 20.0)
    assert pace.tokens_per_second == pytest.approx(50, rel=0.01)
