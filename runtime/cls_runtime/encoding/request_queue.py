"""Requests that wait for `aencode`, and which of their texts the next round takes. Its owner's lock guards all of it.

Short requests, of one share or one text, wait in one lane, long ones in another, so that the short ones of a round are handed out when
they are done and not when a share of a long one is. The lanes take turns. In a lane the request that has waited longest is first; a long
one whose share was taken goes to the end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from cls_runtime.encoding.pace import Pace
from cls_runtime.encoding.request import Kind, Request, Share

# How long after a request has waited beside another one shares are small.
COMPANY_S = 1.0

_Lane = dict[Kind, OrderedDict[Request, None]]


@dataclass(eq=False, slots=True)
class Round:
    """What one worker computes together: shares of requests of one kind.

    Attributes:
        tokens: their guessed tokens.
        long: whether they are of long requests.
        alone: whether it is of a request beside which none was.
        batch_tokens: the most tokens of a batch; None for the budget.
        number: how many requests had come when it was taken.
    """

    shares: list[Share]
    tokens: int
    long: bool
    alone: bool
    batch_tokens: int | None
    number: int


class RequestQueue:
    """The requests of which some texts are not taken, and counts of them. A batch of `full_tokens` tokens is large enough to be fast.

    Attributes:
        texts: texts that wait.
        characters: their characters.
        held_texts: texts that wait or are in a round.
        held_characters: their characters.
        tokens: guessed tokens of the texts that wait.
        turn_tokens: those of the next share of each request.
        running_tokens: those of the texts that are in a round.
        came: requests that were ever queued.
    """

    def __init__(self, pace: Pace, *, workers: int, full_tokens: int) -> None:
        self._pace = pace
        self._workers = workers
        self._full_tokens = full_tokens
        self._lanes: tuple[_Lane, _Lane] = ({}, {})
        self._requests = 0
        self._company_until = 0.0
        self._last_was_long = False
        self._running_long = 0
        self.texts = self.characters = self.held_texts = self.held_characters = 0
        self.tokens = self.turn_tokens = self.running_tokens = self.came = 0

    def __bool__(self) -> bool:
        return self._requests > 0

    def add(self, request: Request) -> None:
        """Queues a request."""
        size = sum(request.sizes)
        if self.held_texts:
            self._company_until = request.since + COMPANY_S
        self.came += 1
        self.texts += request.count
        self.characters += size
        self.held_texts += request.count
        self.held_characters += size
        self.tokens += request.left
        self._place(request)

    def remove(self, request: Request) -> None:
        """Takes what waits of a request out, all places of which are free at once."""
        if request.taken == request.count:
            return
        rest = range(request.taken, request.count) if request.order is None else request.order[request.taken :]
        size = sum(request.sizes[place] for place in rest)
        self.texts -= len(rest)
        self.characters -= size
        self.held_texts -= len(rest)
        self.held_characters -= size
        self.tokens -= request.left
        self._displace(request)
        request.taken, request.left = request.count, 0

    def waiting(self) -> list[Request]:
        """All requests that wait."""
        return [request for lane in self._lanes for of_kind in lane.values() for request in of_kind]

    def take(self, workers: int, now: float) -> tuple[Round | None, list[Request]]:
        """The next round, for one of so many idle workers; None where nothing is left. Beside it, the requests whose deadline has passed.

        It holds at most what takes `ROUND_SECONDS`, of short requests a part of all that waits, up to `DEEP_ROUND_SECONDS`, and where
        several workers are idle, a part for each of them that makes a batch full; of a request that is alone, what takes
        `LONE_ROUND_SECONDS`, the batches of which all workers share.
        """
        expired: list[Request] = []
        while self._requests:
            if self._requests > 1:
                self._company_until = now + COMPANY_S
            long = self._long_is_next()
            alone = long and self._requests == 1 and now >= self._company_until
            parts = max(1, min(workers, self.tokens // self._full_tokens))
            most = self._pace.round_tokens if long else self._pace.deep_round_tokens(self.tokens // self._workers)
            limit = self._pace.lone_round_tokens if alone else min(most, -(-self.tokens // parts))
            share_tokens = self._pace.share_tokens if now < self._company_until else limit
            lane = self._lanes[long]
            kind = next(iter(lane))
            of_kind = lane[kind]
            shares: list[Share] = []
            taken = 0
            for _ in range(len(of_kind)):
                request = next(iter(of_kind))
                if request.deadline is not None and request.deadline <= now:
                    self.remove(request)
                    request.ended = True
                    expired.append(request)
                    continue
                if not request.taken:
                    request.queue_s = now - request.since
                # A short one is not worth a second turn.
                share = self._share(request, min(share_tokens, limit - taken) if long else request.left)
                shares.append(share)
                taken += share.tokens
                if taken >= limit:
                    break
            if kind in lane:  # the other kinds are next
                lane[kind] = lane.pop(kind)
            if shares:
                self._last_was_long = long
                self._running_long += long
                batch_tokens = max(self._full_tokens, self._pace.round_tokens) if alone else None
                return Round(shares, taken, long, alone, batch_tokens, self.came), expired
        return None, expired

    def done(self, finished: Round) -> None:
        """Frees the places of a round's texts."""
        self._running_long -= finished.long
        self.running_tokens -= finished.tokens
        for share in finished.shares:
            self.held_texts -= share.count
            self.held_characters -= share.characters

    def give_back(self, request: Request, places: Sequence[int]) -> None:
        """Lets the texts of a request at these places, which were taken, wait again, before its others."""
        if request.ended:
            return
        if request.taken < request.count:
            self._displace(request)
        order = list(range(request.count) if request.order is None else request.order)
        order[request.taken - len(places) : request.taken] = places
        request.order = order
        request.taken -= len(places)
        size, tokens = sum(request.sizes[place] for place in places), sum(request.costs[place] for place in places)
        request.left += tokens
        self.texts += len(places)
        self.characters += size
        self.held_texts += len(places)
        self.held_characters += size
        self.tokens += tokens
        self._place(request)

    def _long_is_next(self) -> bool:
        """Lanes take turns, and while short requests wait, one worker at most computes shares of long ones."""
        short, long = self._lanes
        if not short or not long:
            return not short
        return not self._running_long and not self._last_was_long

    def _share(self, request: Request, most: int) -> Share:
        """Takes the next texts of a request, of at most so many guessed tokens, but one at least."""
        start = stop = request.taken
        tokens = 0
        while stop < request.count:
            cost = request.costs[stop if request.order is None else request.order[stop]]
            if stop > start and tokens + cost > most:
                break
            tokens += cost
            stop += 1
        self.running_tokens += tokens  # first: who reads the counts without the lock finds the texts here or there
        self._displace(request)
        places: Sequence[int] | None = None
        if stop - start < request.count:
            places = sorted(request.order[start:stop]) if request.order is not None else range(start, stop)
        size = sum(request.sizes) if places is None else sum(request.sizes[place] for place in places)
        request.taken, request.left = stop, request.left - tokens
        self.texts -= stop - start
        self.characters -= size
        self.tokens -= tokens
        if stop < request.count:
            self._place(request)
        return Share(request, places, stop - start, size, tokens)

    def _place(self, request: Request) -> None:
        """Puts a request at the end of its lane."""
        left, share = request.left, self._pace.share_tokens
        long = left > share and request.count - request.taken > 1
        if long and request.order is None:  # so that a small share has texts of about one length
            request.order = sorted(range(request.count), key=request.costs.__getitem__, reverse=True)
        request.long = long
        request.turn = max(share, request.costs[request.next_place]) if long else left
        self.turn_tokens += request.turn
        self._requests += 1
        self._lanes[long].setdefault(request.kind, OrderedDict())[request] = None

    def _displace(self, request: Request) -> None:
        self.turn_tokens -= request.turn
        self._requests -= 1
        lane, kind = self._lanes[request.long], request.kind
        del lane[kind][request]
        if not lane[kind]:
            del lane[kind]
