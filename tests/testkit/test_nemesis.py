"""The nemesis: repeatable by its seed, fair to every fault, and healed on every way out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from imcore.testkit import faults
from imcore.testkit.history import Record
from imcore.testkit.nemesis import Fault, Inject, Nemesis, Wound

NOW = (0.0, 0.0)


def fault(name: str, healed: list[str], *, fails: bool = False) -> Fault:
    @asynccontextmanager
    async def inject(stage: Any, wound: Wound, random: random.Random) -> AsyncIterator[float]:
        wound.target = f"{name} {random.random()}"
        try:
            if fails:
                raise OSError("not today")
            yield 0.001
        finally:
            healed.append(name)

    made: Inject = inject
    return Fault(name, "F0", made)


async def played(folder: Path, seed: int, rounds: int) -> tuple[list[Wound], list[str]]:
    """So many wounds, however long that takes, and what was healed; one more is begun and broken off."""
    healed: list[str] = []
    enough = asyncio.Event()

    def look(what: Record) -> None:
        if len(nemesis.wounds) > rounds:
            enough.set()

    kinds = [fault(name, healed) for name in "abcd"]
    nemesis = Nemesis(None, kinds, seed, folder / f"{random.random()}", gap_s=NOW, write=look)
    running = asyncio.create_task(nemesis.run(3_600))
    await enough.wait()
    running.cancel()
    await asyncio.wait([running])
    return nemesis.wounds, healed


async def test_a_seed_repeats_the_faults_their_order_and_their_choices(tmp_path: Path) -> None:
    first, _ = await played(tmp_path, 7, 3)
    again, _ = await played(tmp_path, 7, 3)
    other, _ = await played(tmp_path, 8, 3)

    assert [wound.target for wound in first[:3]] == [wound.target for wound in again[:3]]
    assert [wound.target for wound in first[:3]] != [wound.target for wound in other[:3]]


async def test_every_fault_comes_before_one_comes_again_and_each_is_healed(tmp_path: Path) -> None:
    """Also the one in which it was broken off."""
    wounds, healed = await played(tmp_path, 7, 11)

    names = [wound.fault for wound in wounds]
    assert names == healed
    assert [set("abcd")] * 3 == [set(names[start : start + 4]) for start in (0, 4, 8)]
    assert all(wound.begun_ns < wound.healed_ns for wound in wounds[:11])


async def test_a_run_ends_when_its_time_is_over_with_everything_healed(tmp_path: Path) -> None:
    healed: list[str] = []
    nemesis = Nemesis(None, [fault("a", healed)], 7, tmp_path / "journal", gap_s=NOW)

    await nemesis.run(0.02)

    assert ["a"] * len(nemesis.wounds) == healed


async def test_what_cannot_be_inflicted_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    healed: list[str] = []
    records: list[Record] = []
    kinds = [fault("a", healed, fails=True), fault("b", healed)]
    nemesis = Nemesis(None, kinds, 7, tmp_path / "journal", gap_s=NOW, write=records.append)

    await nemesis.script(["a", "b"])

    assert ["a", "b"] == healed
    assert ["OSError('not today')", ""] == [wound.failed for wound in nemesis.wounds]
    assert [("invoke", "b"), ("ok", "b")] == [(one.type, one.v.name) for one in records]  # type: ignore[union-attr]


def test_a_short_run_is_made_of_faults_that_need_nothing_special() -> None:
    """It is part of every run of the tests, on every machine."""
    assert all(not faults.BY_NAME[name].needs for name in faults.SHORT)
    assert len(faults.BY_NAME) == len(faults.FAULTS)
