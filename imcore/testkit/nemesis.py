"""The nemesis: one fault after another, each begun and healed, all chosen by a seed.

A fault is an asynchronous context: what is before its `yield` breaks something, what is after heals it, and it heals on every way
out. It yields a `Wound`, which says what was hit. After the run each wound is held against the history: did a connection end, was
an outcome unknown, did a client come back, or did the fault see by itself that it had an effect (`Wound.saw`)? One that did nothing
was not a test of anything, and is counted as not bitten.

The schedule is a shuffled deck, not a die: in a long run every fault comes equally often, in a short one as many different ones as
there is time for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from imcore.testkit import history
from imcore.testkit.history import Record, Type

log = logging.getLogger(__name__)

BITES_WITHIN_S: Final = 3.0  # after the heal: a client may learn only then that its line is dead


@dataclass
class Wound:
    """One fault, as it was inflicted. Times are of the monotonic clock, in nanoseconds, as in histories."""

    fault: str
    target: str = ""
    begun_ns: int = 0
    healed_ns: int = 0
    saw: list[str] = field(default_factory=list)  # effects that the fault saw itself
    failed: str = ""  # it could not be inflicted, and why
    bitten: bool = False
    recovered_ms: float | None = None  # from the heal to the first acknowledged send after it

    def as_json(self) -> dict[str, Any]:
        """For the files of the report."""
        return dict(vars(self))


Inject = Callable[["Any", Wound, random.Random], AbstractAsyncContextManager[float]]


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault. `inject(stage, wound, random)` yields how many seconds it is held."""

    name: str
    matrix: str  # its numbers in the fault matrix
    inject: Inject
    needs: tuple[str, ...] = ()  # programs and rights without which it cannot be
    bites: bool = True  # clients cannot but notice
    harmless: bool = False  # no send may fail because of it
    severs: bool = False  # a process that lives may seem dead to the others, or hear late that it is
    ends: bool = False  # processes of imcore, or programs, are others after it


class Nemesis:
    """Inflicts faults until it is told to stop. `wounds` is what it did."""

    def __init__(
        self,
        stage: Any,
        faults: Sequence[Fault],
        seed: int,
        journal: Path,
        *,
        gap_s: tuple[float, float] = (1.0, 4.0),
        hold: float = 1.0,
        write: Callable[[Record], None] | None = None,
    ) -> None:
        self._stage, self._faults, self._journal, self._record = stage, faults, journal, write
        self._random = random.Random(f"nemesis {seed}")
        self._gap_s, self._hold = gap_s, hold
        self.wounds: list[Wound] = []

    async def run(self, seconds: float) -> None:
        """Go on for so long; everything is healed when this returns."""
        deadline = time.monotonic() + seconds
        deck: list[Fault] = []
        while True:
            gap_s = self._random.uniform(*self._gap_s)
            left_s = deadline - time.monotonic()
            await asyncio.sleep(max(0.0, min(gap_s, left_s)))
            if gap_s >= left_s:
                return
            if not deck:
                deck = list(self._faults)
                self._random.shuffle(deck)
            await self.inflict(deck.pop())

    async def script(self, names: Iterable[str]) -> None:
        """These faults, in this order."""
        by_name = {fault.name: fault for fault in self._faults}
        for name in names:
            await asyncio.sleep(self._random.uniform(*self._gap_s))
            await self.inflict(by_name[name])

    async def inflict(self, fault: Fault) -> Wound:
        """Begin it, hold it, heal it."""
        wound = Wound(fault.name, begun_ns=time.monotonic_ns())
        # A generator of its own, so that what one fault draws changes nothing for the next.
        own = random.Random(self._random.getrandbits(64))
        self.wounds.append(wound)
        is_noted = False
        log.info("begin %s", fault.name)
        try:
            async with fault.inject(self._stage, wound, own) as hold_s:
                log.info("  hit %s", wound.target)
                self._write("begun", wound)
                self._note(fault, wound, "invoke", wound.begun_ns)
                is_noted = True
                await asyncio.sleep(hold_s * self._hold)
        except Exception as error:
            # What cannot be broken today is not a reason to end the run: it is counted, and a kind that never bit voids it.
            log.exception("%s could not be inflicted or healed", fault.name)
            wound.failed = repr(error)
        wound.healed_ns = time.monotonic_ns()
        if is_noted:
            self._note(fault, wound, "ok", wound.healed_ns)
        log.info("healed %s %s", fault.name, "; ".join(wound.saw))
        self._write("healed", wound)
        return wound

    def _note(self, fault: Fault, wound: Wound, type_: Type, at_ns: int) -> None:
        if self._record is not None:
            told = history.Fault(fault.name, wound.target, fault.bites, fault.harmless)
            self._record(Record(at_ns, "nemesis", 0, "", 0, len(self.wounds), type_, "nemesis", told))

    def _write(self, what: str, wound: Wound) -> None:
        with self._journal.open("a") as journal:
            journal.write(json.dumps({"what": what, "t": time.monotonic_ns(), **wound.as_json()}) + "\n")


@dataclass(frozen=True, slots=True)
class Tally:
    """What was done of one kind."""

    injected: int
    bitten: int
    failed: int


def tally(wounds: Iterable[Wound]) -> dict[str, Tally]:
    """By kind, in the order of their names."""
    injected: Counter[str] = Counter()
    bitten: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for wound in wounds:
        injected[wound.fault] += 1
        bitten[wound.fault] += wound.bitten
        failed[wound.fault] += bool(wound.failed)
    return {name: Tally(injected[name], bitten[name], failed[name]) for name in sorted(injected)}
