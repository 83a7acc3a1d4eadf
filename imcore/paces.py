"""How often somebody may do something: so many at once after a pause, so many a second for long. Pure; the clock is an argument.

A pace is one number: the time at which everything that was taken so far will have been paid for. Who is idle owes nothing and need not
be remembered, so a table of many forgets those first, and is bounded.

The trap: who is refused and told "come back in 30 ms" comes back in 30 ms, together with everybody else who was told so. A `Line`
counts those who were refused as if they stood in line, and tells each when its turn would be: so they come back one after another.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

KEYS_MAX: Final = 50_000
ROUNDING_S: Final = 1e-6  # sums of fractions are never quite what they should be

K = TypeVar("K", bound=Hashable)


class Paces(Generic[K]):
    """One pace for each key: at most `burst` at once and `per_s` a second for long.

    Bounded: of more than `keys_max` keys those are forgotten that asked longest ago, and begin anew with a whole burst.
    """

    def __init__(self, per_s: float, burst: float, *, keys_max: int = KEYS_MAX) -> None:
        self.per_s = per_s
        self.refused = 0
        self._each_s = 1 / per_s
        self._most_s = (burst - 1) / per_s  # what may be owed before the next is taken
        self._keys_max = keys_max
        self._paid_at: dict[K, float] = {}  # in order of the last time that each asked

    def __len__(self) -> int:
        return len(self._paid_at)

    def take(self, key: K, now: float) -> float:
        """Take one: 0.0, or the seconds until there is one, and then nothing was taken."""
        paid_at = self._paid_at.pop(key, 0.0)
        if paid_at < now:
            paid_at = now
        wait_s = paid_at - now - self._most_s
        if wait_s <= ROUNDING_S:
            paid_at += self._each_s
            wait_s = 0.0
        else:
            self.refused += 1
        self._paid_at[key] = paid_at
        self._forget(now)
        return wait_s

    def left(self, key: K, now: float) -> tuple[int, float]:
        """How many could be taken at once now, and in how many seconds a whole burst could."""
        owed_s = max(0.0, self._paid_at.get(key, 0.0) - now)
        return max(0, int((self._most_s - owed_s) / self._each_s + 1 + ROUNDING_S)), owed_s

    def charge(self, key: K, now: float, count: float) -> None:
        """Take so many, whether they are there or not."""
        self._paid_at[key] = max(self._paid_at.pop(key, 0.0), now) + count * self._each_s
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Two at a time, so that a table that grew also shrinks."""
        paid_at = self._paid_at
        for _ in range(2):
            oldest = next(iter(paid_at))
            if len(paid_at) > self._keys_max or (paid_at[oldest] <= now and len(paid_at) > 1):
                del paid_at[oldest]


class Line:
    """Those who were refused lately, as if they stood in line to be served at `per_s`."""

    __slots__ = ("_at", "_length")

    def __init__(self) -> None:
        self._length = 0.0
        self._at = 0.0

    def length(self, now: float, per_s: float) -> float:
        """How many would still stand there."""
        self._length = max(0.0, self._length - (now - self._at) * per_s)
        self._at = now
        return self._length

    def join(self, now: float, per_s: float) -> float:
        """One more was refused: in how many seconds its turn would be."""
        length = self.length(now, per_s)
        self._length = length + 1
        return length / per_s
