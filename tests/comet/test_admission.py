"""Who comes in now, who waits, and who is told to come back, and when. The clock is the test's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from imcore.comet.admission import DELAY_S_MAX, DELAY_S_MIN, OVERDUE, Admission


@dataclass
class Door:
    """An admission, a clock, its timers, and who came in."""

    under_way_max: int = 2
    waiting_max: int = 1_000
    wait_max_s: float = 5.0
    per_s: float | None = None
    burst: float = 1.0
    now: float = 1_000.0
    inside: list[int] = field(default_factory=list)
    timers: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.admission = Admission(
            lambda: self.now,
            lambda delay_s, call: self.timers.append((self.now + delay_s, call)),
            under_way_max=self.under_way_max,
            waiting_max=self.waiting_max,
            wait_max_s=self.wait_max_s,
            per_s=self.per_s,
            burst=self.burst,
        )

    def ask(self, who: int) -> float | None:
        return self.admission.ask(who, lambda: self.inside.append(who))

    def sleep(self, seconds: float) -> None:
        """Let time pass, timers included."""
        until = self.now + seconds
        while due := [one for one in self.timers if one[0] <= until]:
            first = min(due, key=lambda one: one[0])
            self.timers.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = until


def test_so_many_are_opened_at_a_time_and_the_others_wait_in_order() -> None:
    door = Door(under_way_max=2)

    assert [None] * 5 == [door.ask(who) for who in range(5)]
    assert [0, 1] == door.inside
    assert (2, 3) == (door.admission.under_way, door.admission.waiting)
    door.admission.done()
    assert [0, 1, 2] == door.inside
    for _ in range(4):
        door.admission.done()

    assert [0, 1, 2, 3, 4] == door.inside
    assert (0, 0) == (door.admission.under_way, door.admission.waiting)
    assert (5, 3, 0) == (door.admission.admitted, door.admission.queued, door.admission.refused)


def test_so_many_are_opened_a_second() -> None:
    door = Door(under_way_max=1_000, per_s=10, burst=3)
    for who in range(10):
        door.ask(who)
    assert [0, 1, 2] == door.inside

    door.sleep(0.35)
    assert [0, 1, 2, 3, 4, 5] == door.inside
    door.sleep(1.0)
    assert list(range(10)) == door.inside


def test_nobody_overtakes_the_line() -> None:
    door = Door(under_way_max=1)
    for who in range(3):
        door.ask(who)
    door.admission.leave(1)
    door.ask(3)

    for _ in range(3):
        door.admission.done()

    assert [0, 2, 3] == door.inside, "who left has no turn"
    door.admission.leave(7)


@pytest.mark.parametrize("waiting", [4, 5, 6])
def test_a_full_line_turns_away(waiting: int) -> None:
    door = Door(under_way_max=1, waiting_max=5)
    door.ask(0)

    told = [door.ask(who) for who in range(1, waiting + 1)]

    assert [None] * min(waiting, 5) == told[:5]
    assert [5.0] * (waiting - 5) == told[5:], "nothing was measured yet: one a second"
    assert (min(waiting, 5), max(0, waiting - 5)) == (door.admission.waiting, door.admission.refused)


def test_a_line_that_cannot_be_served_in_time_turns_away_though_there_is_room() -> None:
    """The pace is what is seen: 10 a second here, so that 50 are served in 5 s and the next is not."""
    door = Door(under_way_max=1, wait_max_s=5)
    for who in range(61):
        door.ask(who)
    for _ in range(11):
        door.sleep(0.1)
        door.admission.done()
    assert 49 == door.admission.waiting

    told = [door.ask(who) for who in range(100, 104)]

    assert None is told[0]
    assert all(delay_s == pytest.approx(5.1, abs=0.2) for delay_s in told[2:])


def test_those_who_are_turned_away_are_told_to_come_one_after_another() -> None:
    """At the pace at which they can be served; after a while the door is open again."""
    door = Door(under_way_max=1, waiting_max=10)
    for who in range(11):
        door.ask(who)
    for who in range(11, 21):
        door.sleep(0.1)
        door.admission.done()
        assert None is door.ask(who)

    told = [door.ask(100 + n) for n in range(50)]

    delays = [delay_s for delay_s in told if delay_s is not None]
    assert 50 == len(delays) == door.admission.refused
    assert sorted(delays) == delays
    assert delays[-1] - delays[0] == pytest.approx(50 / 10, rel=0.15)
    for _ in range(11):
        door.admission.done()
    assert None is door.ask(1_000)


def test_a_delay_has_an_end() -> None:
    door = Door(under_way_max=1, waiting_max=1)
    for who in range(2):
        door.ask(who)
    door.sleep(3)

    told = [door.ask(who) for who in range(2, 1_000)]

    assert (DELAY_S_MIN, DELAY_S_MAX) == (told[0], told[-1])


def test_who_waits_although_everything_stands_still_is_found() -> None:
    door = Door(under_way_max=1, wait_max_s=5)
    for who in range(3):
        door.ask(who)
        door.sleep(1)

    assert [] == door.admission.overdue()
    door.sleep(5 * OVERDUE - 2)
    assert [1] == door.admission.overdue()
    door.sleep(1)
    assert [1, 2] == door.admission.overdue()
