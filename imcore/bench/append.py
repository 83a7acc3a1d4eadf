"""The log without a server around it: how many events a second one process can append.

An embedded Postgres on an empty folder, the real appender, guarded drafts with a client's own id as sends make them,
spread over rooms. A fixed number of drafts is always in flight, ten batches, so that every batch is full and the
appender never waits for us.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import uvloop

from imcore.bench.processes import Usage, usage
from imcore.database import connect
from imcore.database.embedded import embedded
from imcore.database.migrations import upgrade
from imcore.errors import ImcoreError
from imcore.events.store import MEMBER, Draft, Inline, Key, Log, Outcome, Rows
from imcore.events.types import MESSAGE_OP, MESSAGE_SENT, ROOM, MemberJoined, Recorded

if TYPE_CHECKING:
    from imcore.database import Connection

BODY: Final = '{"text":"hello, this is a message of ordinary length for a chat. hello, this is a message"}'

# Members of the rooms, as the projection would have written them: this measures appends, not joins.
MEMBERS: Final = """
INSERT INTO members (room, mid, role, since, since_seq, muted_until_ms)
SELECT room, mid, 'member', 1, 1, 0 FROM unnest($1::text[], $2::bigint[]) AS m(room, mid)
"""


class Appended(NamedTuple):
    """What was appended in the measured time, how long it took from submission to commit, what it cost."""

    events: int
    seconds: float
    p50_ms: float
    p99_ms: float
    usage: Usage
    refused: int


def measure(folder: Path, *, seconds: float, warm_up_s: float, batch_events: int, rooms: int) -> Appended:
    """Append for so long and say how it went. Raises what the database raises."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(append_events(folder, seconds, warm_up_s, batch_events, rooms))


async def append_events(folder: Path, seconds: float, warm_up_s: float, batch_events: int, rooms: int) -> Appended:
    """The same, for a caller with an event loop."""
    async with embedded(folder) as url:
        await upgrade(url)
        feed = _Feed([f"group://bench-{n}" for n in range(rooms)], batch_events)
        log = Log(partial(connect, url), _NoInline(), feed.committed, batch_events_max=batch_events)
        async with asyncio.TaskGroup() as group:
            appender = group.create_task(log.run())
            await _make_rooms(url, log, feed.rooms)
            feed.start(log)
            await asyncio.sleep(warm_up_s)
            before, started, events = _usage(folder), time.monotonic(), feed.events
            feed.waits_s.clear()
            await asyncio.sleep(seconds)
            taken_s = time.monotonic() - started
            used, done = _usage(folder).since(before), feed.events - events
            feed.is_over = True
            await log.drain()
            appender.cancel()
    waits = sorted(feed.waits_s) or [0.0]
    return Appended(
        done, taken_s, waits[len(waits) // 2] * 1000, waits[len(waits) * 99 // 100] * 1000, used, feed.refused
    )


class _Feed:
    """Submits a new message for each that is settled."""

    def __init__(self, rooms: Sequence[str], batch_events: int) -> None:
        self.rooms = rooms
        self.in_flight = 10 * batch_events
        self.events = 0
        self.refused = 0
        self.is_over = False
        self.waits_s: list[float] = []
        self._streams = [ROOM + room for room in rooms]
        self._random = random.Random()
        self._next = 0
        self._log: Log | None = None

    def start(self, log: Log) -> None:
        self._log = log
        for _ in range(self.in_flight):
            self._submit()

    def committed(self, batch: list[Recorded]) -> None:
        self.events += len(batch)

    def _submit(self) -> None:
        assert self._log is not None, "started"
        room = self._next % len(self.rooms)
        self._next += 1
        self._log.submit(
            Draft(
                self._streams[room],
                MESSAGE_SENT,
                BODY,
                room + 1,
                client_id=f"{self._random.getrandbits(128):032x}",
                op=MESSAGE_OP,
                guard=MEMBER,
                # A sample is enough: a clock is read for every 16th.
                origin=time.monotonic() if not self._next % 16 else None,
                done=self._done,
            )
        )

    def _done(self, draft: Draft, outcome: Outcome, duplicate: bool) -> None:
        if isinstance(outcome, ImcoreError) or duplicate:
            self.refused += 1
        elif isinstance(draft.origin, float):
            self.waits_s.append(time.monotonic() - draft.origin)
        if not self.is_over:
            self._submit()


async def _make_rooms(url: str, log: Log, rooms: Sequence[str]) -> None:
    connection = await connect(url)
    try:
        await connection.execute(MEMBERS, list(rooms), list(range(1, len(rooms) + 1)))
    finally:
        await connection.close()
    # A guarded draft makes no stream; the join that stands before it in life does.
    joins = [MemberJoined(room=room, mid=mid) for mid, room in enumerate(rooms, 1)]
    outcomes = await log.append(
        Draft(ROOM + join.room, join.type, join.model_dump_json(), join.mid, version=join.version) for join in joins
    )
    for outcome in outcomes:
        if isinstance(outcome, ImcoreError):
            raise outcome


def _usage(folder: Path) -> Usage:
    # Our own process stands for the server; it has no children but Postgres, which is counted apart.
    return usage(os.getpid(), folder)


class _NoInline(Inline):
    """Drafts alone take the road on which no projection is asked; this shows it."""

    types = frozenset[str]()

    def guard_keys(self, draft: Draft) -> Sequence[Key]:
        raise AssertionError("drafts alone are checked by the database")

    def refusal(self, rows: Rows, draft: Draft, now_ms: int) -> ImcoreError | None:
        raise AssertionError("drafts alone are checked by the database")

    def passed(self, rows: Rows, draft: Draft, now_ms: int) -> None:
        raise AssertionError("drafts alone are checked by the database")

    async def load(self, connection: Connection, keys: set[Key]) -> Rows:
        raise AssertionError("drafts alone load no rows")

    def apply(self, rows: Rows, recorded: Recorded) -> None:
        raise AssertionError("drafts alone change no rows")

    async def save(self, connection: Connection, before: Rows, after: Rows) -> None:
        raise AssertionError("drafts alone change no rows")
