"""The nemesis: repeatable by its seed, fair to every fault, and healed on every way out."""

from __future__ import annotations

import random
from collections import Counter
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
    healed: list[str] = []
    kinds = [fault(name, healed) for name in "abcd"]
    nemesis = Nemesis(None, kinds, seed, folder / f"{random.random()}", gap_s=NOW)
    while len(nemesis.wounds) < rounds:
        await nemesis.run(0.02)
    return nemesis.wounds[:rounds], healed


async def test_a_seed_repeats_the_faults_their_order_and_their_choices(tmp_path: Path) -> None:
    first, _ = await played(tmp_path, 7, 3)
    again, _ = await played(tmp_path, 7, 3)
    other, _ = await played(tmp_path, 8, 3)

    assert [wound.target for wound in first] == [wound.target for wound in again]
    assert [wound.target for wound in first] != [wound.target for wound in other]


async def test_every_fault_comes_before_one_comes_again_and_each_is_healed(tmp_path: Path) -> None:
    healed: list[str] = []
    nemesis = Nemesis(None, [fault(name, healed) for name in "abcd"], 7, tmp_path / "journal", gap_s=NOW)

    await nemesis.run(0.3)

    names = [wound.fault for wound in nemesis.wounds]
    assert names == healed
    assert max(Counter(names).values()) - min(Counter(names)[name] for name in "abcd") <= 1
    assert all(wound.begun_ns < wound.healed_ns for wound in nemesis.wounds)


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
