"""Whatever wires, servers and kills do: a program sees each message once, in order in each room, and each send is stored once.

Each seed is one history of cores and a server's parts (see world.py); `SIMULATION_SEEDS=4711` runs one, `SIMULATION_SEEDS=0:100000` a
range. That the world finds bugs is tested with bugs: each plant is a core that is wrong in one thing, and some seed must find it.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest

from client.world import World
from imcore.client.core import Answered, Asked, Core, Entry, Opened
from imcore.client.errors import ClientError
from imcore.client.events import Event

SEEDS = 250
SEEDS_A_PLANT_MAX = 1_500
HARDSHIPS = (
    "breaks",
    "calls",
    "calls carried out twice",
    "calls of unknown outcome",
    "events that the server lost",
    "farewell going_away",
    "gaps filled",
    "outcomes unknown",
    "overflows",
    "programs killed",
    "rate limited",
    "removed",
    "reset epoch",
    "reset new",
    "seen again after a crash",
    "sent again",
    "server killed",
)


def seeds() -> range:
    """Those that were asked for."""
    first, _, last = os.environ.get("SIMULATION_SEEDS", f"0:{SEEDS}").partition(":")
    return range(int(first), int(last) if last else int(first) + 1)


def test_whatever_happens_each_message_comes_once_and_each_send_is_stored_once() -> None:
    counts: Counter[str] = Counter()

    for seed in seeds():
        world = World(seed)
        world.run()
        counts += world.counts

    if len(seeds()) >= SEEDS:
        # A world in which nothing went wrong proves nothing.
        assert {name: counts[name] for name in HARDSHIPS if counts[name] < SEEDS // 25} == {}


class DropsNothing(Core):
    """What was received before is handed on again."""

    def _take(self, event: Event) -> None:
        place = self._places.get(event.place)
        if place is not None and 0 < event.seq <= place.seq:
            self._entries.append(Entry(event, self._era, event.position, event.place, event.seq))
            return
        super()._take(event)


class SeesNoHoles(Core):
    """The next event is the next one, whatever its seq."""

    def _find_hole(self, event: Event) -> None:
        self._hand_on(event, self._places[event.place])


class AcknowledgesOnArrival(Core):
    """What came is acknowledged before the program has dealt with it."""

    def acknowledge(self) -> None:
        self._settled = max(self._settled, self._received)
        super().acknowledge()


class AcknowledgesWhatCameOnTheLastConnection(Core):
    """A position counts as delivered on whatever connection it came."""

    def acknowledge(self) -> None:
        self._received = max(self._received, self._settled)
        super().acknowledge()


class ForgetsWhatWasUnderWay(Core):
    """A broken connection takes the sends with it."""

    def lost(self, code: int | None = None, reason: str = "") -> list[Answered]:
        self._under_way.clear()
        return super().lost(code, reason)


class RepeatsWhatMayHappenOnce(Core):
    """Every call is asked again."""

    def ask(self, op: int, body: object, **rest: Any) -> Asked:
        asked = super().ask(op, body, **rest)
        asked.may_repeat = True
        return asked


class AsksAllAtOnce(Core):
    """Nobody counts what is under way."""

    _reads_under_way = property(lambda self: 0, lambda self, value: None)


class TakesLaterForNever(Core):
    """ "Later" is an answer like any other."""

    def _ask_later(self, asked: Any, error: ClientError, now: float) -> None:
        return


class HandsOnItsOwn(Core):
    """What the device sent itself comes to the program too."""

    def _hand_on(self, event: Event, place: Any) -> None:
        key, self.key = self.key, ""
        super()._hand_on(event, place)
        self.key = key


class KeepsSeqsOfAnotherLog(Core):
    """The epoch changes, and it goes on counting."""

    def _begin_anew(self, opened: Opened) -> None:
        places = dict(self._places)
        super()._begin_anew(opened)
        self._places = places


class ForgetsNothing(Core):
    """The store forgets nothing when the log was replaced."""

    def settle(self, entry: Entry) -> list[Entry]:
        entry.forgets = False
        return super().settle(entry)


class StaysAfterLettingGo(Core):
    """What was let go is never fetched."""

    has_overflowed = property(lambda self: False, lambda self, value: None)

    def _may_keep(self, told: Any) -> bool:
        return self.backlog < self._backlog_max and super()._may_keep(told)


class HoldsForEver(Core):
    """What was held is dropped when the hole is filled."""

    def _go_on(self) -> None:
        self._held = self._held[:1]
        super()._go_on()


PLANTS: list[type[Core]] = [
    DropsNothing,
    SeesNoHoles,
    AcknowledgesOnArrival,
    AcknowledgesWhatCameOnTheLastConnection,
    ForgetsWhatWasUnderWay,
    RepeatsWhatMayHappenOnce,
    AsksAllAtOnce,
    TakesLaterForNever,
    HandsOnItsOwn,
    KeepsSeqsOfAnotherLog,
    ForgetsNothing,
    StaysAfterLettingGo,
    HoldsForEver,
]


@pytest.mark.parametrize("plant", PLANTS)
def test_a_core_that_is_wrong_in_one_thing_is_found(plant: type[Core]) -> None:
    for seed in range(SEEDS_A_PLANT_MAX):
        try:
            World(seed, plant).run()
        except AssertionError:
            return
    pytest.fail(f"{SEEDS_A_PLANT_MAX} worlds, and nobody found that {plant.__name__}: {plant.__doc__}")
