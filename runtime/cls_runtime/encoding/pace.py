"""How fast an engine is, as the last rounds of requests were, and how much of them fits into a stretch of time."""

from __future__ import annotations

from cls_runtime.encoding.tokenizer import LONG_CHARACTERS

# What one worker takes on at a time: so much and no more is waited for, and neighbours in a batch are about equally long.
ROUND_SECONDS = 0.040
# Where much waits a round may take such a part of it, which adds little to the wait: the more texts are put in order of their length
# together, the less padding there is. So much and no more.
DEEP_PART = 0.1
DEEP_ROUND_SECONDS = 0.2
# One request's share of it while others wait.
SHARE_SECONDS = 0.003
# Of a request that is alone, more texts are put in order of their length together; its round ends early when another request comes.
LONE_ROUND_SECONDS = 0.3

# What counts as known before the first round, and half of what is known by so many seconds of rounds later.
FIRST_TOKENS_PER_SECOND = 20_000.0
FIRST_SECONDS = 0.05
HALF_LIFE_S = 1.0

CHARACTERS_PER_TOKEN = 4
# A character that becomes no token is tokenized all the same, in about a sixteenth of the time that its share of a token would take.
CUT_CHARACTERS_PER_TOKEN = 64


def guessed_tokens(characters: int, most: int) -> int:
    """A guess at the work that a text of so many characters is, in tokens, of which the model takes at most `most`."""
    if characters <= CHARACTERS_PER_TOKEN * most:
        return 2 + characters // CHARACTERS_PER_TOKEN
    return 2 + most + min(characters, LONG_CHARACTERS[0]) // CUT_CHARACTERS_PER_TOKEN


class Pace:
    """The guessed tokens that one worker does in a second. Its owner's lock guards it."""

    def __init__(self) -> None:
        self._seconds = FIRST_SECONDS
        self._tokens = FIRST_TOKENS_PER_SECOND * FIRST_SECONDS
        self.tokens_per_second = FIRST_TOKENS_PER_SECOND

    def add(self, tokens: float, seconds: float) -> None:
        """Counts a round; of one that took longer than the half-life, as much as fits into that, at its pace.

        A machine that stood still for half a minute during a round would count as slow for many rounds, and refuse what it can do.
        """
        weight = min(1.0, HALF_LIFE_S / seconds) if seconds else 1.0
        tokens, seconds = tokens * weight, seconds * weight
        kept = 0.5 ** (seconds / HALF_LIFE_S)
        self._seconds = kept * self._seconds + seconds
        self._tokens = kept * self._tokens + tokens
        self.tokens_per_second = self._tokens / self._seconds

    @property
    def round_tokens(self) -> int:
        """How many make a round."""
        return 1 + int(ROUND_SECONDS * self.tokens_per_second)

    def deep_round_tokens(self, waiting: int) -> int:
        """How many make a round where so many wait for this worker."""
        return max(self.round_tokens, min(int(DEEP_PART * waiting), int(DEEP_ROUND_SECONDS * self.tokens_per_second)))

    @property
    def lone_round_tokens(self) -> int:
        """How many make a round of a request that is alone."""
        return 1 + int(LONE_ROUND_SECONDS * self.tokens_per_second)

    @property
    def share_tokens(self) -> int:
        """How many make a request's share."""
        return 1 + int(SHARE_SECONDS * self.tokens_per_second)
