"""Who may open a connection now, who waits for a turn, and who is told to come back.

Opening is what a connection costs most at: a token is verified, a session committed, rooms and marks are read. So only so many are
opened at a time and so many a second; who comes beyond that stands in line, in order; and when the line is longer than can be served
in time, who comes is turned away before any of that work, with a delay. No I/O; the clock and a timer are arguments.

The delay is not a guess: it is when the turn of this one would be if all who were turned away lately stood in line too. So they come
back one after another, as fast as they can be served.

The trap: how fast that is cannot be seen while nobody waits (then it is how fast they come). It is measured while there is a line.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from imcore.paces import Line, Paces

KNOWN_S: Final = 0.5  # a line must be there so long before its pace is believed
WINDOW_S: Final = 4.0  # what was longer ago counts half
DELAY_S_MIN, DELAY_S_MAX = 1.0, 60.0
OVERDUE: Final = 2.0  # who has waited so many times the longest wait is sent away after all

Turn = Callable[[], None]


class Admission:
    """The line in front of the door. `ask` and `done` let through whoever's turn it is, in order, each once.

    Bounded by `waiting_max`, and by what can be served within `wait_max_s`: beyond either, `ask` turns away.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object],
        *,
        under_way_max: int,
        waiting_max: int,
        wait_max_s: float,
        per_s: float | None,
        burst: float,
    ) -> None:
        self._clock = clock
        self._later = later
        self._under_way_max = under_way_max
        self._waiting_max = waiting_max
        self._wait_max_s = wait_max_s
        self._per_s = per_s
        self._paces: Paces[None] | None = None if per_s is None else Paces(per_s, burst)
        self._waiting: dict[Hashable, tuple[float, Turn]] = {}
        self._turned_away = Line()
        self._since = 0.0  # the line is there since then
        self._through = 0.0  # and so many came through since
        self._is_timed = False
        self.under_way = 0
        self.admitted = 0
        self.queued = 0
        self.refused = 0

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._waiting)

    def refusal(self) -> float | None:
        """Would who asks now be turned away? Then it is, and this is for how many seconds."""
        waiting, now = len(self._waiting), self._clock()
        if waiting < self._under_way_max and waiting < self._waiting_max:
            return None  # not long enough to be worth measuring
        pace = self._pace(now)
        if waiting < self._waiting_max and (pace is None or waiting <= pace * self._wait_max_s):
            return None
        if pace is None:
            pace = float(self._under_way_max)
        self.refused += 1
        delay_s = waiting / pace + self._turned_away.join(now, pace)
        return min(max(DELAY_S_MIN, delay_s), DELAY_S_MAX)

    def ask(self, who: Hashable, turn: Turn) -> float | None:
        """`turn` is called when it is the turn of this one, now or later; `done` must follow it. Or it is turned away for so many
        seconds, and `turn` is not called."""
        if not self._waiting and self._may_pass():
            self._let_through(turn)
            return None
        delay_s = self.refusal()
        if delay_s is None:
            now = self._clock()
            if not self._waiting:
                self._since, self._through = now, 0.0
            self._waiting[who] = now, turn
            self.queued += 1
        return delay_s

    def stands(self, who: Hashable) -> bool:
        """Does it wait for its turn?"""
        return who in self._waiting

    def leave(self, who: Hashable) -> None:
        """It does not wait any more. For one that does not wait this does nothing."""
        self._waiting.pop(who, None)

    def done(self) -> None:
        """One that was let through is open, or failed."""
        self.under_way -= 1
        self.release()

    def release(self) -> None:
        """Let through those whose turn it is."""
        while self._waiting and self._may_pass():
            who = next(iter(self._waiting))
            _, turn = self._waiting.pop(who)
            self._through += 1
            self._let_through(turn)

    def overdue(self) -> list[Hashable]:
        """Those who have waited too long after all, because everything became slower. They still stand there."""
        since = self._clock() - OVERDUE * self._wait_max_s
        found = []
        for who, (asked_at, _) in self._waiting.items():
            if asked_at > since:
                break
            found.append(who)
        return found

    def _may_pass(self) -> bool:
        if self.under_way >= self._under_way_max:
            return False
        if self._paces is None:
            return True
        wait_s = self._paces.take(None, self._clock())
        if wait_s and not self._is_timed:
            self._is_timed = True
            self._later(wait_s, self._due)
        return wait_s == 0

    def _due(self) -> None:
        self._is_timed = False
        self.release()

    def _let_through(self, turn: Turn) -> None:
        self.under_way += 1
        self.admitted += 1
        turn()

    def _pace(self, now: float) -> float | None:
        """How many a second come through while others wait; what was configured until that is known, if anything was."""
        elapsed = now - self._since
        if elapsed > WINDOW_S:
            self._through /= 2
            self._since += elapsed / 2
            elapsed /= 2
        if elapsed < KNOWN_S or not self._waiting:
            return self._per_s
        return max(1.0, self._through / elapsed)
