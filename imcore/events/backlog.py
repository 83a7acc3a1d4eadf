"""How long what is submitted now would wait for its commit, and so how many may wait. Pure; the clock is an argument.

A message that waits for seconds is worse than one that is refused at once: its sender does not know, asks again, and makes the queue
longer. So the pace of the commits is watched, and `sends_max` is what can be committed within the longest wait. One batch may always
wait, however slow commits are, because a batch costs the same with one message in it as with a thousand.

Some room is kept for what is no message (ends of sessions, acks): they make the log truer and the queue shorter, and nobody would send
them again.

The trap: a batch that took everything says nothing of how fast a full one is. The pace is learned from batches that left somebody
waiting; from the others only that it is at least theirs.
"""

from __future__ import annotations

from typing import Final

from imcore.paces import Line

NEW_SHARE: Final = 0.2  # of the last batch in the pace
RETRY_S_MIN, RETRY_S_MAX = 0.1, 10.0
STANDSTILL_RETRY_S: Final = 1.0


class Backlog:
    """The limits of what waits. `sends_max` is how many may wait when a message comes, `events_max` when anything else does."""

    def __init__(
        self, *, events_max: int, reserve: int, bytes_max: int, batch_events_max: int, wait_max_s: float
    ) -> None:
        self.events_max = events_max
        self.wait_max_s = wait_max_s
        self._bytes_max = bytes_max
        self._batch_events_max = batch_events_max
        self._most = max(1, events_max - reserve)
        self._line = Line()
        self._standstill = False
        self.sends_max = self._most
        self.pace: float | None = None  # events a second
        self.refused = 0

    def committed(self, events: int, body_bytes: int, seconds: float, *, was_full: bool) -> None:
        """A batch is committed; `was_full`: there were more than it could take."""
        seen = events / max(seconds, 1e-6)
        if was_full:
            self.pace = seen if self.pace is None else self.pace + NEW_SHARE * (seen - self.pace)
        elif self.pace is not None:
            self.pace = max(self.pace, seen)
        most = self._most
        if self.pace is not None:
            most = min(most, max(self._batch_events_max, int(self.pace * self.wait_max_s)))
        if body_bytes > 0:
            most = min(most, max(1, self._bytes_max * events // body_bytes))
        self.sends_max = most

    def slow(self) -> None:
        """The batch in hand takes longer than anybody should wait: no more than the next one."""
        self.sends_max = min(self.sends_max, self._batch_events_max)

    def stand_still(self) -> None:
        """There is nowhere to commit to, and that for longer than anybody should wait: no message, until something is committed."""
        self._standstill = True
        self.sends_max = 0

    def go_on(self) -> None:
        """There is somewhere to commit to again; how fast, the next batch will tell."""
        self._standstill = False
        self.sends_max = min(self._most, self._batch_events_max)

    def expected_s(self, waiting: int) -> float:
        """How long who comes behind so many waits, as far as that is known."""
        return 0.0 if self.pace is None else waiting / self.pace

    def retry_ms(self, waiting: int, now: float) -> int:
        """A message is refused: when it would have its turn, behind those who wait and those who were refused before it."""
        self.refused += 1
        pace = self.pace or float(self._batch_events_max)
        wait_s = self.expected_s(waiting) + self._line.join(now, pace)
        if self._standstill:
            wait_s += STANDSTILL_RETRY_S
        return int(1_000 * min(max(RETRY_S_MIN, wait_s), RETRY_S_MAX))
