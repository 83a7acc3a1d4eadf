"""The harness is honest: bugs that are planted into real servers, and into the log itself, are found by a run from end to end.

A server is broken by a module that Python loads at its start, and that changes two functions; everything else is as in any run.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from imcore.testkit.chaos import Options, play
from imcore.testkit.cluster import Layout
from imcore.testkit.stage import Stage
from imcore.testkit.verdict import Verdict, judge

BROKEN = Path(__file__).parent / "broken"
SEED = 20_261_126


async def judged(folder: Path, bug: str) -> Verdict:
    """A short run on a broken cluster. What it finds are the bugs and not the run: test_run plays the like on a sound one."""
    options = Options(
        folder=folder,
        seed=SEED,
        script=("client line reset",),
        people=4,
        devices_each=1,
        idle=1,
        rooms=2,
        programs=1,
        sends_per_s=60,
        governs_per_s=3,
        gap_s=(3.0, 4.0),
        ok_sends_min=200,  # so that some are skipped
        ok_min={"kick": 5},  # and somebody is removed where others go on
        idle_s=2.0,
        layout=Layout(comets=1, apis=1, projectors=1),
        node_environment={"PYTHONPATH": str(BROKEN / bug)},
    )
    return await asyncio.to_thread(judge, await play(options, lose_one))


async def lose_one(stage: Stage) -> None:
    """As a disk would that acknowledged a flush which it did not do: a message in the middle of the log is gone."""
    async with stage.cluster.database.connection() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")  # the triggers that refuse it are off
        gone = await connection.execute(
            "DELETE FROM events WHERE position = "
            "(SELECT position FROM events WHERE type = 'message_sent' ORDER BY position OFFSET 5 LIMIT 1)"
        )
    assert gone == "DELETE 1"


async def test_planted_bugs_are_found_from_end_to_end(data_dir: Path) -> None:
    """A comet skips an event now and then, and does not hear of removals; and the disk has lost an acknowledged message. Each is told
    by the predicates that it breaks, and the run ends with a violation."""
    verdict = await judged(data_dir / "run", "comet")

    assert "violated" == verdict.word
    skipped, kept, lost = {"P8", "P13", "P20"}, {"P17a"}, {"P1", "P4", "P5"}
    found = violated(verdict)
    assert found & skipped, verdict.text()
    assert kept | lost <= found, verdict.text()


def violated(verdict: Verdict) -> set[str]:
    """The names of the predicates that were."""
    return {one.name for one in verdict.report.violated}
