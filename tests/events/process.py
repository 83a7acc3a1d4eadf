"""A process that appends what it is told to, until it is killed: `python process.py URL append SEED`.

Standard input holds one item a line, as JSON, and ends; what became of each is one line on standard output, written in the moment in
which `done` is told. Whatever has an unknown outcome, or was not taken, is asked again with the same id until the answer is definite.

`python process.py URL race MID` answers line by line: a line is an expected seq, the answer says whether this process got it.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from functools import partial

import orjson
import uvloop

from imcore import commands, failpoints, membership
from imcore.bus.postgres import PostgresBus
from imcore.database import connect
from imcore.errors import Conflict, ImcoreError, Overloaded, Unavailable
from imcore.events.store import HOLD_S, Decision, Draft, Log, Outcome
from imcore.events.types import MESSAGE_OP, Recorded
from imcore.permissions import SERVICE_ACTOR, person
from imcore.projections.inline import InlineProjections

RACED = "live://race"
WAVE_ITEMS_MAX = 40


def item_of(line: bytes) -> Draft | Decision:
    """What a line asks for."""
    asked = orjson.loads(line)
    room, mid = asked["room"], asked["mid"]
    match asked["verb"]:
        case "send":
            return commands.send(
                room, mid, asked["id"], asked["body"], op=MESSAGE_OP, is_member=asked["is_member"], key="k"
            )
        case "join":
            return membership.Join(room, person(mid), may_create=True)
        case "leave":
            return membership.Leave(room, person(mid))
        case "remove":
            return membership.RemoveMember(room, mid, SERVICE_ACTOR)
        case "create":
            return membership.CreateRoom(room, person(mid), members=[mid + 1])
    raise AssertionError(asked["verb"])


def say(**facts: object) -> None:
    os.write(1, orjson.dumps(facts) + b"\n")


class Wave:
    """Items that were submitted together. What became of each is said at once; `unsettled` are those that must be asked again."""

    def __init__(self, log: Log, lines: list[bytes]) -> None:
        self.unsettled: list[bytes] = []
        self.told = asyncio.Event()
        self._waiting = len(lines)
        for line in lines:
            item = item_of(line)
            if isinstance(item, Draft):
                item.done = partial(self._on_draft, line)
            else:
                item.done = partial(self._settle, line)
            log.submit(item)

    def _on_draft(self, line: bytes, item: Draft, outcome: Outcome, duplicate: bool) -> None:
        self._settle(line, [outcome] if isinstance(outcome, Recorded) else outcome, duplicate)

    def _settle(self, line: bytes, outcome: list[Recorded] | ImcoreError, duplicate: bool = False) -> None:
        if isinstance(outcome, Unavailable | Overloaded):
            self.unsettled.append(line)
        if isinstance(outcome, ImcoreError):
            say(line=line.decode(), code=outcome.code)
        else:
            say(line=line.decode(), code="ok", events=[list(event) for event in outcome], duplicate=duplicate)
        self._waiting -= 1
        if not self._waiting:
            self.told.set()


async def append_all(log: Log, lines: list[bytes], chance: random.Random) -> None:
    """In waves of random size; what is not settled goes into the next one."""
    left = lines
    while left:
        many = chance.randint(1, WAVE_ITEMS_MAX)
        wave, left = Wave(log, left[:many]), left[many:]
        await wave.told.wait()
        left = wave.unsettled + left


async def race(log: Log, me: int) -> None:
    """Append at the expected seq when the line comes, and say who won."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        draft = commands.send(RACED, me, None, "{}", op=MESSAGE_OP, is_member=False)  # type: ignore[arg-type]
        draft.expected = int(line)
        try:
            event = await log.appending(draft)
        except Conflict as conflict:
            say(won=False, actual=conflict.actual)
        else:
            say(won=True, seq=event.seq)


async def main(url: str, task: str, seed: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        bus = PostgresBus(lambda: connect(url, application_name="ringer"), lambda position: None)
        log = Log(
            lambda: connect(url, application_name="appender", hold_s=HOLD_S),
            InlineProjections(),
            lambda batch: bus.publish(batch[-1].position),
        )
        running = [tasks.create_task(log.run()), tasks.create_task(bus.run())]
        if task == "race":
            await race(log, seed)
        else:
            await append_all(log, sys.stdin.buffer.read().splitlines(), random.Random(seed))
        for one in running:
            one.cancel()


if __name__ == "__main__":
    failpoints.arm(os.environ.get("IMCORE_FAIL", ""))
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
