"""Many processes on one log: real ones, killed, retrying, and rolled back, while somebody follows."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from events.at_work import assert_sound, connected, running
from events.process import RACED
from imcore.bus.postgres import PostgresBus
from imcore.bus.tail import Tail
from imcore.database import connect, create_pool
from imcore.events.names import Names
from imcore.events.reader import Reader
from imcore.events.types import ROOM, Recorded
from imcore.projections import members
from waiting import eventually

PROGRAM = Path(__file__).with_name("process.py")
PROCESSES = 4
ITEMS = 350  # of each process
KILLS = 5
TERMINATIONS = 5
ROLLBACK_CHANCE = 0.04

# Some batches fail after everything was written, some only at the commit.
INTERFERE = f"""
CREATE FUNCTION interfere() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF random() < {ROLLBACK_CHANCE} THEN RAISE EXCEPTION 'interference'; END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER interfere AFTER UPDATE ON log_head FOR EACH ROW EXECUTE FUNCTION interfere();
CREATE CONSTRAINT TRIGGER interfere_late AFTER UPDATE ON log_head DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION interfere();
"""
# One process's connection to append with, any.
TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'appender' AND datname = current_database() ORDER BY random() LIMIT 1
"""


@asynccontextmanager
async def process(url: str, task: str, seed: int, *, fail: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    """One appending process; killed when the block ends before it does."""
    one = await asyncio.create_subprocess_exec(
        *(sys.executable, PROGRAM, url, task, str(seed)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[2]), "IMCORE_FAIL": fail},
    )
    try:
        yield one
    finally:
        if one.returncode is None:
            one.kill()
        assert one.stdin is not None
        one.stdin.close()
        await one.communicate()


def items_of(chance: random.Random, number: int) -> list[str]:
    """What one process is to do: sends of members that stay and of members that come and go, and the coming and going.

    The last tenth is the same for all of them: the same ids, sent by four processes.
    """
    shared = random.Random(0)
    items: list[dict[str, object]] = []
    for n in range(ITEMS):
        is_shared = n >= ITEMS - ITEMS // 10
        dice = shared if is_shared else chance
        item: dict[str, object] = {"verb": "send", "is_member": True, "body": orjson.dumps({"n": n}).decode()}
        item["id"] = f"{0 if is_shared else number:08x}-0000-4000-8000-{n:012x}"
        match dice.randrange(10):
            case 0:
                verb = dice.choice(["join", "join", "leave", "remove", "create"])
                item |= {"verb": verb, "room": f"group://{dice.randrange(4)}", "mid": dice.randint(10, 14)}
                if verb == "create":
                    item |= {"room": f"group://new-{dice.randrange(40)}"}
            case 1 | 2 | 3:
                item |= {"room": f"group://{dice.randrange(4)}", "mid": dice.randint(10, 14)}
            case 4:
                item |= {"room": f"live://{dice.randrange(30)}", "mid": dice.randint(10, 14), "is_member": False}
            case _:
                item |= {"room": f"group://{dice.randrange(4)}", "mid": 1}
        items.append(item)
    return [orjson.dumps(item).decode() for item in items]


@dataclass
class Crowd:
    """Four processes, whoever kills them, and what they said."""

    url: str
    chance: random.Random
    kill_at: list[int]
    terminate_at: list[int]
    lines: int = 0
    kills: int = 0
    answers: dict[str, list[dict[str, object]]] = field(default_factory=lambda: defaultdict(list))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(1, PROCESSES + 1):
                tasks.create_task(self._slot(number))

    async def _slot(self, number: int) -> None:
        """One process; killed, it comes again and repeats what it got no answer to, and some of what it did."""
        left = items_of(self.chance, number)
        done: list[str] = []
        while left:
            again = self.chance.sample(done, min(len(done), 20))
            async with process(self.url, "append", self.chance.randrange(2**32)) as one:
                assert one.stdin is not None
                assert one.stdout is not None
                one.stdin.write("\n".join(again + left).encode())
                one.stdin.close()
                while line := await one.stdout.readline():
                    answer = orjson.loads(line)
                    self.answers[answer["line"]].append(answer)
                    await self._interfere(one)
                assert await one.wait() in (0, -9)
            settled = {line for line, answers in self.answers.items() if answers[-1]["code"] not in UNSETTLED}
            done += [line for line in left if line in settled]
            left = [line for line in left if line not in settled]

    async def _interfere(self, one: asyncio.subprocess.Process) -> None:
        self.lines += 1
        if self.kill_at and self.lines >= self.kill_at[0]:
            with suppress(
                ProcessLookupError
            ):  # it has just ended by itself: then the next that says something is killed
                one.kill()
                self.kill_at.pop(0)
                self.kills += 1
        if self.terminate_at and self.lines >= self.terminate_at[0]:
            self.terminate_at.pop(0)
            async with connected(self.url) as connection:
                await connection.execute(TERMINATE)


UNSETTLED = ("unavailable", "overloaded")


async def test_four_processes_killed_and_rolled_back_leave_one_sound_log(
    database_url: str, chance: random.Random
) -> None:
    """And whoever follows it meanwhile gets every event once, in order."""
    total = PROCESSES * ITEMS
    crowd = Crowd(
        database_url,
        chance,
        kill_at=sorted(chance.sample(range(50, total * 3 // 4), KILLS)),
        terminate_at=sorted(chance.sample(range(50, total * 3 // 4), TERMINATIONS)),
    )
    followed: list[Recorded] = []
    async with create_pool(database_url, connections_max=2) as pool:
        await prepare(database_url)
        tail = Tail(0, Reader(pool, Names()).read, followed.extend, quiet_s=0.5)
        bus = PostgresBus(lambda: connect(database_url, application_name="test"), tail.ring)
        async with running(tail.run()), running(bus.run()):
            await crowd.run()
            events = await assert_sound(pool)

            async def caught_up() -> bool:
                return tail.position == len(events)

            await eventually(caught_up)
        assert events == followed
        assert KILLS == crowd.kills
        assert_told_the_truth(crowd, events)
        assert_senders_were_members(events)


async def prepare(url: str) -> None:
    """Member 1 is everywhere and stays."""
    async with process(url, "append", 0) as one:
        joins = [{"verb": "join", "room": f"group://{room}", "mid": 1} for room in range(4)]
        await one.communicate(b"\n".join(orjson.dumps(join) for join in joins))
    async with connected(url) as connection:
        await connection.execute(INTERFERE)


def assert_told_the_truth(crowd: Crowd, events: list[Recorded]) -> None:
    """Every place that was told is in the log, the same whenever it was told; what could be appended was, if not at once."""
    by_id = {(event.mid, event.client_id): event for event in events if event.client_id is not None}
    unknown = 0
    for line, answers in crowd.answers.items():
        item = orjson.loads(line)
        unknown += sum(answer["code"] in UNSETTLED for answer in answers)
        for answer in answers:
            for told in answer.get("events", ()):  # type: ignore[attr-defined]
                assert events[told[0] - 1] == Recorded(*told)
        if item["verb"] == "send":
            codes = {answer["code"] for answer in answers}
            stored = by_id.get((item["mid"], item["id"]))
            if item["mid"] == 1 or not item["is_member"]:
                assert "ok" in codes, item
            if "ok" in codes:
                assert stored is not None
                assert {stored.position} == {answer["events"][0][0] for answer in answers if answer["code"] == "ok"}  # type: ignore[index]
                assert item["body"] == stored.body
    assert unknown, "some outcomes were unknown, else this shows nothing"


def assert_senders_were_members(events: list[Recorded]) -> None:
    """At the position of a message to a group its sender has an open membership."""
    rows: dict[tuple[str | int, ...], members.Member | None] = {}
    for event in events:
        if event.type in members.TYPES:
            for key in members.keys(event):
                rows[key] = members.apply(key, rows.get(key), event)
        elif event.op and event.room.startswith("group://"):
            assert rows.get((event.room, event.mid)) is not None, event


async def test_of_two_processes_that_expect_the_same_seq_exactly_one_wins(database_url: str) -> None:
    """200 times; the other one is told what it did not know."""
    wins = [0, 0]
    async with (
        process(database_url, "race", 1) as one,
        process(database_url, "race", 2) as two,
        create_pool(database_url) as pool,
    ):
        for seq in range(200):
            # Who hears it first wins more often, on a busy machine always.
            for racer in (one, two) if seq % 2 else (two, one):
                assert racer.stdin is not None
                racer.stdin.write(b"%d\n" % seq)
            answers = [await answer_of(racer) for racer in (one, two)]
            (winner,) = [n for n in (0, 1) if answers[n]["won"]]
            assert {"won": True, "seq": seq + 1} == answers[winner]
            assert {"won": False, "actual": seq + 1} == answers[1 - winner]
            wins[winner] += 1
        events = await assert_sound(pool)
    assert [ROOM + RACED] * 200 == [event.stream for event in events]
    assert wins == [sum(event.mid == mid for event in events) for mid in (1, 2)]
    assert min(wins) > 0, "both won sometimes, else it was no race"


async def answer_of(racer: asyncio.subprocess.Process) -> dict[str, object]:
    assert racer.stdout is not None
    answer: dict[str, object] = orjson.loads(await racer.stdout.readline())
    return answer
