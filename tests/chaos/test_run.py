"""Real processes, real sockets, and somebody who breaks them: a short run of every kind of fault, in which every promise holds.

The long ones are `make chaos SECONDS=300` and `make soak`. A run is made once and looked at from many sides.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.playing import played
from conftest import temporary_folder
from imcore.testkit import faults
from imcore.testkit.chaos import Options, possible
from imcore.testkit.cluster import Layout
from imcore.testkit.verdict import Verdict

SEED = 41
RECOVERED_S = 60  # the next fault may be there before; what is promised of a quiet moment is Q1
KICKS_MIN = 20


@pytest.fixture(scope="module")
def mixed() -> Iterator[Verdict]:
    """The short mix, played to its end and judged."""
    with temporary_folder() as folder:
        options = Options(
            folder=folder / "run",
            seed=SEED,
            script=faults.SHORT,
            sends_per_s=100,
            gap_s=(0.3, 1.2),
            hold=0.7,
            ok_sends_min=1_000,
            idle_s=2.0,
            layout=Layout(comets=2, apis=1, projectors=1),
        )
        yield asyncio.run(played(options))


def test_every_promise_holds_in_a_short_mix_of_faults(mixed: Verdict) -> None:
    """With a thousand acknowledged sends and more, and every fault felt: otherwise it would prove nothing."""
    assert not mixed.violations, mixed.text()
    assert not mixed.void, mixed.text()


@pytest.mark.parametrize("name", faults.SHORT)
def test_sends_are_acknowledged_again_soon_after(name: str, mixed: Verdict) -> None:
    """Whatever was broken, when it is healed the service is back without anybody's help."""
    (wound,) = (one for one in mixed.played.wounds if one.fault == name)

    assert wound.bitten, wound
    assert wound.recovered_ms is not None
    assert wound.recovered_ms < RECOVERED_S * 1000, wound


def test_programs_were_given_each_event_once_in_order_whatever_was_killed(mixed: Verdict) -> None:
    """A program was killed too, and its next life went on with the cursors on the disk."""
    assert not mixed.loops.faults
    assert mixed.loops.lives > mixed.loops.devices > 0
    assert mixed.loops.events > 1_000


def test_a_run_keeps_what_is_needed_to_play_it_again(mixed: Verdict) -> None:
    """The seed, the options, the histories, what the nemesis did, every log, and the report in three forms."""
    folder = mixed.played.options.folder
    told = json.loads((folder / "report.json").read_bytes())

    assert SEED == told["seed"] == json.loads((folder / "run.json").read_text())["seed"]
    assert "held" == told["verdict"]
    assert {"report.txt", "report.svg", "nemesis.jsonl", "history-nemesis.jsonl", "comet-1.log", "program-1.log"} <= {
        one.name for one in folder.iterdir()
    }
    assert f"--seed {SEED}" in (folder / "report.txt").read_text()
    assert (folder / "report.svg").read_text().startswith("<svg")


SPECIAL = tuple(fault.name for fault in faults.FAULTS if fault.needs)


@pytest.mark.skipif(
    any(possible().values()) and os.environ.get("CI") != "true",
    reason=f"not on this machine: {', '.join(f'{need} ({why})' for need, why in possible().items() if why)}",
)
async def test_disks_that_are_slow_or_fail_or_are_full_and_clocks_that_jump(data_dir: Path) -> None:
    """Acknowledgements wait for the disk, a flush that failed takes Postgres down and not one message, and nobody orders by a clock."""
    options = Options(
        folder=data_dir / "run",
        seed=SEED,
        script=SPECIAL,
        people=6,
        rooms=3,
        idle=1,
        sends_per_s=60,
        gap_s=(0.5, 1.0),
        hold=0.7,
        ok_sends_min=300,
        idle_s=2.0,
        layout=Layout(comets=2, apis=1, projectors=1),
    )
    verdict = await played(options)

    assert "held" == verdict.word, verdict.text()
    assert set(SPECIAL) == set(verdict.tallies)


async def test_kicks_and_takeovers_in_the_middle_of_sentences(data_dir: Path) -> None:
    """Twenty times a second somebody is kicked out of a busy room, and devices connect twice: whoever is out is out to the seq."""
    options = Options(
        folder=data_dir / "run",
        seed=SEED,
        script=("take over", "take over"),
        people=6,
        devices_each=2,
        idle=0,
        rooms=2,
        programs=1,
        sends_per_s=300,
        governs_per_s=20,
        gap_s=(3.0, 4.0),
        ok_sends_min=500,
        ok_min={"kick": KICKS_MIN},
        idle_s=2.0,
        layout=Layout(comets=2, apis=1, projectors=1),
    )
    verdict = await played(options)

    assert "held" == verdict.word, verdict.text()
    assert verdict.report.operations["kick"]["ok"] >= KICKS_MIN
    assert verdict.report.result("P17b").checked >= KICKS_MIN
    assert verdict.report.result("P18").checked
