"""A log at work on a database, the verbs that tests use, and what must be true of a log whatever happened to it."""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from imcore import commands, membership
from imcore.database import Connection, Pool, connect, create_pool
from imcore.errors import ImcoreError
from imcore.events.names import Names
from imcore.events.reader import Reader
from imcore.events.store import UNFENCED, Decision, Draft, Log, Outcome, Rows, recorded
from imcore.events.types import MESSAGE_OP, ROOM, Recorded
from imcore.permissions import person
from imcore.projections import INLINE
from imcore.projections.inline import InlineProjections
from imcore.projections.projection import fold

Answer = list[Recorded] | ImcoreError
PATIENCE_S = 60.0  # with an appender, where its timeout is not what is tested: the machine may be busy


class Told(NamedTuple):
    """What `done` was told of a draft."""

    outcome: Outcome
    duplicate: bool

    @property
    def event(self) -> Recorded:
        assert isinstance(self.outcome, Recorded), self.outcome
        return self.outcome

    @property
    def place(self) -> tuple[int, int]:
        """Position and seq."""
        return self.event.position, self.event.seq


class Nothing(Decision):
    """A decision that appends nothing; with it a batch of drafts takes the road of decisions."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__([], [])

    def decide(self, rows: Rows) -> tuple[()]:
        return ()


@dataclass
class Submitted:
    """Items on their way; each is told once, or the test fails."""

    count: int
    drafts: dict[int, Told] = field(default_factory=dict)
    answers: dict[int, Answer] = field(default_factory=dict)
    told: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0

    def on_draft(self, n: int) -> Callable[[Draft, Outcome, bool], None]:
        def done(item: Draft, outcome: Outcome, duplicate: bool) -> None:
            assert n not in self.drafts, "each is told once"
            self.drafts[n] = Told(outcome, duplicate)
            self._called()

        return done

    def on_decision(self, n: int) -> Callable[[Answer], None]:
        def done(outcome: Answer) -> None:
            assert n not in self.answers, "each is told once"
            self.answers[n] = outcome
            self._called()

        return done

    def _called(self) -> None:
        self.calls += 1
        if len(self.drafts) + len(self.answers) == self.count:
            self.told.set()

    async def all_told(self) -> list[Told | Answer]:
        await self.told.wait()
        assert self.count == self.calls, "each is told once"
        return [self.drafts[n] if n in self.drafts else self.answers[n] for n in range(self.count)]


def submit(log: Log, *items: Draft | Decision) -> Submitted:
    """Submit now, so that they share a batch where the log lets them."""
    submitted = Submitted(len(items))
    for n, item in enumerate(items):
        if isinstance(item, Draft):
            item.done = submitted.on_draft(n)
        else:
            item.done = submitted.on_decision(n)
        log.submit(item)
    return submitted


@dataclass(repr=False)  # Hypothesis would show all batches
class AtWork:
    """A log at work. `batches` is what it committed."""

    url: str
    log: Log
    pool: Pool
    reader: Reader
    batches: list[list[Recorded]]

    async def together(self, *items: Draft | Decision) -> list[Told | Answer]:
        """Submit at once and wait for what each was told."""
        return await submit(self.log, *items).all_told()

    async def tell(self, *drafts: Draft) -> list[Told]:
        """The same, for drafts alone."""
        told = await self.together(*drafts)
        assert all(isinstance(one, Told) for one in told)
        return told  # type: ignore[return-value]

    async def answers(self, *decisions: Decision) -> list[Answer]:
        """What decisions in one batch were told."""
        answers = await self.together(*decisions)
        assert not any(isinstance(one, Told) for one in answers)
        return answers  # type: ignore[return-value]

    async def tell_decided(self, *drafts: Draft) -> list[Told]:
        """Drafts on the road of decisions."""
        told = await self.together(*drafts, Nothing())
        return told[:-1]  # type: ignore[return-value]

    async def say(self, room: str, mid: int = 1, client_id: str | None = None, **keywords: Any) -> Told:
        (told,) = await self.tell(message(room, mid, client_id, **keywords))
        return told

    async def join(self, room: str, *mids: int) -> None:
        for mid in mids:
            await self.log.decide(membership.Join(room, person(mid), may_create=True))

    async def refused_names(self) -> list[str]:
        """Streams in which nothing happened."""
        return [row["name"] for row in await self.pool.fetch("SELECT name FROM streams WHERE seq = 0")]

    async def whole_log(self) -> list[Recorded]:
        return await whole_log(self.pool)


def message(
    room: str,
    mid: int = 1,
    client_id: str | None = None,
    *,
    body: str = '"hello"',
    op: int = MESSAGE_OP,
    is_member: bool = True,
    expected: int | None = None,
    key: str = "",
    fence: int = UNFENCED,
) -> Draft:
    """A message of a member, as a send makes it."""
    made = commands.send(room, mid, client_id or new_id(), body, op=op, is_member=is_member, key=key, fence=fence)
    if expected is not None:
        made.expected = expected
    return made


def new_id() -> str:
    """A client's own id."""
    return str(uuid.uuid4())


def stream(room: str) -> str:
    return ROOM + room


@asynccontextmanager
async def appending(
    url: str, committed: Callable[[list[Recorded]], None] | None = None, *, database: str | None = None, **limits: Any
) -> AsyncIterator[AtWork]:
    """A log at work; `url` is how it reaches the database `database` (which is `url`, if there is nothing between)."""
    batches: list[list[Recorded]] = []
    limits = {"append_timeout_s": PATIENCE_S, **limits}
    async with create_pool(database or url, connections_max=3) as pool:
        log = Log(
            lambda: connect(url, application_name="appender"),
            InlineProjections(),
            committed or batches.append,
            **limits,
        )
        async with running(log.run()):
            yield AtWork(database or url, log, pool, Reader(pool, log.names), batches)


@asynccontextmanager
async def running(coroutine: Coroutine[None, None, None]) -> AsyncIterator[asyncio.Task[None]]:
    """A task for as long as the block runs. If it fails, so does the test."""
    task = asyncio.create_task(coroutine)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = await connect(url, application_name="test")
    try:
        yield connection
    finally:
        await connection.close()


def choose_seed() -> random.Random:
    """Randomness for a test. The seed is printed, and IMCORE_TEST_SEED repeats it."""
    seed = int(os.environ.get("IMCORE_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"IMCORE_TEST_SEED={seed}")
    return random.Random(seed)


# --- what must be true of a log ------------------------------------------------------------------------------------------------


async def whole_log(pool: Pool) -> list[Recorded]:
    """All events, by SQL of our own."""
    names = Names()
    names.names.update({row["id"]: row["name"] for row in await pool.fetch("SELECT id, name FROM streams")})
    return [recorded(row, names) for row in await pool.fetch("SELECT * FROM events ORDER BY position")]


async def assert_sound(pool: Pool) -> list[Recorded]:
    """Dense positions, dense seqs in order of position, counts, heads, ids and inline rows that follow from the events. The events."""
    events = await whole_log(pool)
    assert list(range(1, len(events) + 1)) == [event.position for event in events], "positions are dense"
    assert len(events) == await pool.fetchval("SELECT position FROM log_head")

    heads: dict[str, tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
    for event in events:
        seq, messages, _ = heads[event.stream]
        heads[event.stream] = seq + 1, messages + (event.op > 0), event.position
        assert (seq + 1, messages + (event.op > 0)) == (event.seq, event.messages), event
    assert [event.time_ms for event in events] == sorted(event.time_ms for event in events)
    stored = await pool.fetch("SELECT name, seq, messages, position FROM streams")
    assert {name: head for name, *head in stored} == {name: [*heads[name]] for name, *_ in stored}
    assert set(heads) <= {name for name, *_ in stored}

    used = sorted((event.mid, event.client_id, event.position) for event in events if event.client_id is not None)
    assert len({(mid, client_id) for mid, client_id, _ in used}) == len(used), "an id is used once"
    kept = await pool.fetch("SELECT mid, client_id, position FROM client_ids")
    assert used == sorted((mid, str(client_id), position) for mid, client_id, position in kept)

    newest = {(event.mid, event.key): event.position for event in events if event.type == "session_opened"}
    assert newest == {(mid, key): opened for mid, key, opened in await pool.fetch("SELECT * FROM generations")}
    assert max(newest.values(), default=0) <= await pool.fetchval("SELECT opened FROM log_head")

    for projection in INLINE:
        split = len(projection.table.primary_key)
        found = await pool.fetch(f"SELECT * FROM {projection.table.name}")
        rows = [tuple(tuple(value) if isinstance(value, list) else value for value in row) for row in found]
        assert fold(projection, events) == {row[:split]: projection.row(*row[split:]) for row in rows}, projection.name
    return events
