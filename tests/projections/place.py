"""A log with its inline projections on a database, and the verbs that tests use to write history."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from imcore.database import connect, create_pool
from imcore.errors import ImcoreError
from imcore.events.names import Connection, Pool
from imcore.events.reader import Reader
from imcore.events.store import Decision, Draft, Key, Log, Rows, draft
from imcore.events.types import (
    MESSAGE_OP,
    MESSAGE_PUSHED,
    MESSAGE_SENT,
    ROOM,
    SERVICE_MID,
    SESSION,
    TEXT,
    USER,
    Fact,
    MemberJoined,
    ReadMarked,
    Recorded,
)
from imcore.projections import ASYNCHRONOUS, INLINE, queries
from imcore.projections.inline import InlineProjections
from imcore.projections.projection import AnyProjection, fold
from imcore.projections.projection import Key as RowKey
from imcore.projections.runner import Runner


class Said(Decision):
    """Facts that are appended whatever the rows say."""

    __slots__ = ("drafts",)

    def __init__(self, drafts: Sequence[Draft]) -> None:
        keys: list[Key] = []
        for made in drafts:
            event = Recorded(1, made.stream, 1, 0, made.type, 1, made.mid, "", None, made.op, 0, 0, made.body)
            for projection in INLINE:
                if made.type in projection.types:
                    keys += [(projection.name, key) for key in projection.keys(event)]
        super().__init__(keys, [made.stream for made in drafts], creates=True)
        self.drafts = drafts

    def decide(self, rows: Rows) -> Sequence[Draft]:
        return self.drafts


@dataclass
class Place:
    """A log at work. `batches` is what it committed."""

    url: str
    pool: Pool
    log: Log
    reader: Reader
    events: list[Recorded] = field(default_factory=list)

    async def connect(self) -> Connection:
        return await connect(self.url)

    async def happen(self, *drafts: Draft) -> list[Recorded]:
        """Append facts, all or none, whatever they are."""
        return await self.log.decide(Said(drafts))

    async def in_room(self, fact: Fact, mid: int = SERVICE_MID) -> Recorded:
        (event,) = await self.happen(draft(ROOM + fact.room, fact, mid))  # type: ignore[attr-defined]
        return event

    async def join(self, room: str, *mids: int, role: str = "member") -> list[Recorded]:
        return await self.happen(
            *(
                draft(ROOM + room, MemberJoined.model_validate({"room": room, "mid": mid, "role": role}), mid)
                for mid in mids
            )
        )

    async def send(self, room: str, mid: int, count: int = 1) -> list[Recorded]:
        """Messages of a person, or of the service."""
        return await self.submit(*(message(room, mid) for _ in range(count)))

    async def submit(self, *drafts: Draft) -> list[Recorded]:
        outcomes = await self.log.append(drafts)
        return [outcome for outcome in outcomes if not isinstance(outcome, ImcoreError)]

    async def in_session(self, mid: int, fact: Fact, by: int | None = None) -> Recorded:
        (event,) = await self.submit(draft(f"{SESSION}{mid}", fact, mid if by is None else by))
        return event

    async def mark(self, room: str, mid: int, seq: int) -> Recorded | None:
        """What the command does: the facts, then the event."""
        facts = await queries.read_facts(self.pool, room, mid, seq)
        if facts is None:
            return None
        fact = ReadMarked(room=room, mid=mid, seq=facts.seq, messages=facts.messages, sent=facts.sent)
        (event,) = await self.submit(draft(f"{USER}{mid}", fact, mid))
        return event

    async def whole_log(self) -> list[Recorded]:
        events: list[Recorded] = []
        while page := await self.reader.read(len(events), 1_000):
            events += page
        return events

    async def rows(self, projection: AnyProjection) -> dict[RowKey, object]:
        """What the table holds."""
        rows: dict[RowKey, object] = {}
        for record in await self.pool.fetch(f"SELECT * FROM {projection.table.name}"):
            split = len(projection.table.primary_key)
            values = (tuple(value) if isinstance(value, list) else value for value in record[split:])
            rows[tuple(record[:split])] = projection.row(*values)
        return rows

    async def assert_rows_are_the_fold(self, *projections: AnyProjection) -> None:
        events = await self.whole_log()
        for projection in projections or (*INLINE, *ASYNCHRONOUS):
            assert await self.rows(projection) == fold(projection, events), projection.name

    def runner(
        self,
        projections: Sequence[AnyProjection] = ASYNCHRONOUS,
        *,
        recent: Callable[[int, int], Sequence[Recorded] | None] | None = None,
        lead: bool = True,
        page_events_max: int = 5_000,
        quiet_s: float = 0.05,
        stuck_s: float = 15,
        rest: float = 0,
    ) -> Runner:
        return Runner(
            self.connect, self.reader, projections, recent=recent, lead=lead, page_events_max=page_events_max,
            page_gap_s=0.005, quiet_s=quiet_s, stuck_s=stuck_s, rest=rest,
        )  # fmt: skip


def message(room: str, mid: int, body: str = "hello") -> Draft:
    type_ = MESSAGE_PUSHED if mid == SERVICE_MID else MESSAGE_SENT
    return Draft(ROOM + room, type_, body, mid, op=MESSAGE_OP, format_=TEXT)


@asynccontextmanager
async def place(url: str) -> AsyncIterator[Place]:
    """A log at work on this database."""
    async with create_pool(url) as pool:
        events: list[Recorded] = []
        log = Log(lambda: connect(url), InlineProjections(), events.extend)
        async with running(log.run()):
            yield Place(url, pool, log, Reader(pool, log.names), events)


@asynccontextmanager
async def running(coroutine: object) -> AsyncIterator[asyncio.Task[None]]:
    """A task for as long as the block runs. If it fails, so does the block's test."""
    task: asyncio.Task[None] = asyncio.create_task(coroutine)  # type: ignore[arg-type]
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
