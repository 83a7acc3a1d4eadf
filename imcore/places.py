"""How many of something may be under way in this process, of all and of each. Nothing waits: who comes when there are too many is
told so at once.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from imcore.errors import Overloaded, RateLimited

RETRY_MS_MIN: Final = 1_000
RETRY_MS_MAX: Final = 5_000

K = TypeVar("K", bound=Hashable)


def retry_ms(before_ms: int = RETRY_MS_MAX) -> int:
    """When who is refused may ask again, where nothing says when there will be room: not all at the same time. (When clients that are
    sent away come back is for `comet/returning`, who waits for the log for `events/backlog`.)"""
    return random.randrange(RETRY_MS_MIN, before_ms)


class Places(Generic[K]):
    """So many things under way. `what` names them and whose they are, such as "downloads of this address"."""

    def __init__(self, what: str) -> None:
        self._what = what
        # Whoever takes places says how many there are at most.
        self._by_key: Counter[K] = Counter()
        self.under_way = 0
        self.refused = 0

    @contextmanager
    def hold(self, key: K, most: int, most_each: int | None) -> Iterator[None]:
        """One of `most` places, and of this key one of `most_each` (None: of all), while the block runs. Raises Overloaded, RateLimited
        (too many of this key)."""
        if self.under_way >= most:
            self.refused += 1
            raise Overloaded(retry_after_ms=retry_ms())
        if most_each is not None and self._by_key[key] >= most_each:
            self.refused += 1
            raise RateLimited(f"too many {self._what} at once", retry_after_ms=1_000)
        self.under_way += 1
        self._by_key[key] += 1
        try:
            yield
        finally:
            self.under_way -= 1
            self._by_key[key] -= 1
            if not self._by_key[key]:
                del self._by_key[key]
