"""When a client that is sent away is to come back: the one place where that is decided. No I/O; clock and randomness come in.

Each is told a random moment within a window. The window is as long as it takes until all who were told before are back, at
`returns_per_s`: a few come back at once, ten thousand spread themselves, and who is refused because too many come is told later the
more there are. Some reasons have a least window of their own: a drain, a limit that somebody else must free first. An error that says
when by itself (`retry_after_ms`) gives a place in a line, which nobody else has; it is left as it is.

The trap: a delay is no promise to be let in, and clients add what they like. So nobody is counted when they come; what was promised
runs off with the clock.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

from imcore.errors import GoingAway, ImcoreError, TooManyConnections, TryLater

SPREAD_MS: Final = 1_000  # the least window, where nothing else is said
# A limit is free again when another connection ends, or authenticates: not in this second.
SPREADS_MS: Final[Mapping[type[ImcoreError], int]] = {
    TooManyConnections: 5_000,
    TryLater: 2_000,
}
RETURN_MS_MAX: Final = 60_000


class Returns:
    """Gives those who are sent away a moment to come back. At no time are more than `per_s` a second expected."""

    def __init__(self, *, per_s: float, drain_spread_ms: int, chance: random.Random | None = None) -> None:
        self._per_s = per_s
        self._spreads_ms = {**SPREADS_MS, GoingAway: drain_spread_ms}
        self._chance = chance or random.Random()
        self._until = 0.0  # when all who were told something are back

    def expect(self, count: int, now: float) -> None:
        """So many are sent away now, so that the first of them is told as long a window as the last. Each is counted here, or by
        `delay_ms`, not twice."""
        self._until = max(now, self._until) + count / self._per_s

    def delay_ms(self, error: ImcoreError, now: float, *, is_counted: bool = False) -> int:
        """How long to wait before coming back after this; 0 for who is not to come back. `is_counted`: `expect` knows of it."""
        if not error.retry:
            return 0
        if error.retry_after_ms is not None:
            return error.retry_after_ms
        if not is_counted:
            self.expect(1, now)
        spread_ms = max(self._spreads_ms.get(type(error), SPREAD_MS), round((self._until - now) * 1000))
        return self._chance.randrange(min(spread_ms, RETURN_MS_MAX) + 1)
