"""The write side of the log: one appender a process, group commit inside the head lock.

While a batch is being committed the next one gathers, so the more there is to do the larger the batches are (1 event: 0.4 ms;
100: 2 ms; 500: 8 ms). Positions are taken under the lock of one row that is held over the flush to disk: lock order is commit
order is the order in which readers see events, and a rollback leaves no hole.

Two roads lead in. A *draft* is a fact that stands on its own, or behind a guard that the database checks in the same statement
(membership, mute, the client's own id, an expected seq): one round trip a batch. A *decision* looks at rows first (who is the
owner? is the room there?) and answers with drafts; its batch is a transaction of several statements under the same lock, in
which the inline projections are read, folded and written.

What would wait too long is refused when it is submitted (`Backlog`), not when it has waited. While Postgres is away for longer than
that, messages are refused at once; what nobody waits for (the end of a session, an ack) waits.

The trap: an error from the database is not a failure. The batch may have been committed before the connection broke, so
everybody in it is told `Unavailable`: outcome unknown, ask again with the same id.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Final, Protocol, Self, TypeVar

import asyncpg

from imcore import failpoints
from imcore.database import DATABASE_ERRORS, heed_cancellation
from imcore.errors import (
    Conflict,
    DatabaseUnavailable,
    Forbidden,
    IdConflict,
    ImcoreError,
    Muted,
    NoSuchRoom,
    Overloaded,
    SlowMode,
    TakenOver,
    Unavailable,
)
from imcore.events.backlog import Backlog
from imcore.events.names import Connection, Names, OwnConnection
from imcore.events.types import JSON, ROOM, Fact, Recorded, SessionOpened

log = logging.getLogger(__name__)

BATCH_EVENTS_MAX: Final = 1_000
BATCH_BYTES_MAX: Final = 4 * 2**20
PENDING_EVENTS_MAX: Final = 20_000
PENDING_BYTES_MAX: Final = 64 * 2**20
SEND_WAIT_MAX_S: Final = 2.0
PARTITION_MARGIN_EVENTS: Final = 1_000_000
APPEND_TIMEOUT_S: Final = 10.0
# The connection to append with is opened with this: Postgres ends it when a process holds the head's lock and says nothing for so long.
HOLD_S: Final = 5.0
RECONNECT_S: Final = 0.2

NO_GUARD, MEMBER, NOT_DISMISSED = 0, 1, 2
ANY_SEQ: Final = -1
UNFENCED: Final = 2**63 - 1
# What imcore_append refuses for.
USED_ID, NOT_MEMBER, IS_MUTED, WRONG_SEQ, OVERTAKEN, ADMINS_WRITE, TOO_SOON, IS_BLOCKED, ALL_MUTED = range(1, 10)
SESSION_OPENED: Final = SessionOpened.type

Outcome = Recorded | ImcoreError
Key = tuple[str, tuple[str | int, ...]]  # of an inline projection's row: its projection, its key
Rows = dict[Key, object | None]
R = TypeVar("R")

# Numbers and UUIDs travel as the text of an array: one join here and one parse there, where the driver would look at each element
# three times (3 µs an event).
APPEND = """
SELECT * FROM imcore_append($1, $2::text::integer[], $3::text::integer[], $4::text::integer[], $5::text::bigint[], $6,
  $7::text::uuid[], $8::text::integer[], $9, $10::text::bigint[], $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
  NULL, $21, $22, $23)
"""
# For what was looked at under the lock already, fences too.
APPEND_AT = APPEND.replace("NULL, $21, $22, $23)", "$21)")
# The same with keys and bodies joined by a sign that is in none of them, which is nearly always so.
APPEND_JOINED = APPEND.replace("$6,", "string_to_array($6, E'\\x1f'),").replace("$9,", "string_to_array($9, E'\\x1f'),")
SEPARATOR = "\x1f"
# As in imcore_append: to look up 1,000 ids Postgres would rather read all of 100,000 (19 ms, under the lock, instead of 1 ms).
BEGIN = """
BEGIN; SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;
SET LOCAL plan_cache_mode = force_generic_plan
"""
LOCK = "SELECT position, clock_timestamp(), opened FROM log_head FOR UPDATE"
HEADS = "SELECT id, seq, messages FROM streams WHERE id = ANY($1::bigint[])"
USED_IDS = """
SELECT i.n::integer, c.position FROM unnest($1::bigint[], $2::uuid[]) WITH ORDINALITY AS i(mid, client_id, n)
JOIN client_ids c ON c.client_id = i.client_id AND c.mid = i.mid
"""
NEWEST = """
SELECT g.mid, g.key, g.opened FROM generations g JOIN unnest($1::bigint[], $2::text[]) AS asked(mid, key)
  ON g.mid = asked.mid AND g.key = asked.key
"""
ORIGINALS = "SELECT * FROM events WHERE position = ANY($1::bigint[])"


def row_of(rows: Rows, kind: type[R], name: str, *key: str | int) -> R | None:
    """The row of this key of a projection, which a decision has named; None if there is none."""
    row = rows[name, key]
    assert row is None or isinstance(row, kind)
    return row


def _resolve(future: asyncio.Future[R], outcome: R | ImcoreError) -> None:
    if future.done():
        return
    if isinstance(outcome, ImcoreError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _ignore_all(outcome: list[Recorded] | ImcoreError) -> None:
    """For decisions whose outcome nobody waits for."""


def ignore(draft: Draft, outcome: Outcome, duplicate: bool) -> None:
    """For drafts whose outcome nobody waits for."""


class Draft:
    """A fact on its way into the log, and who wants to know how it went.

    `done(draft, outcome, duplicate)` is called once, after the commit: with the Recorded (of the first append, if this client
    id was used before for the same message: `duplicate`), or with the error that refused it. It must not block or raise.

    `fence`, of what a session sends: up to this position of the log there is no newer session of (mid, key), as far as whoever
    submits it has read. If there is one when it is appended, it is refused with TakenOver.
    """

    __slots__ = (
        "body",
        "client_id",
        "done",
        "expected",
        "fence",
        "format",
        "guard",
        "key",
        "mid",
        "op",
        "origin",
        "stream",
        "tag",
        "type",
        "version",
    )

    def __init__(
        self,
        stream: str,
        type_: str,
        body: str,
        mid: int,
        *,
        key: str = "",
        client_id: str | None = None,
        version: int = 1,
        op: int = 0,
        format_: int = JSON,
        guard: int = NO_GUARD,
        expected: int = ANY_SEQ,
        fence: int = UNFENCED,
        origin: object = None,
        tag: int = 0,
        done: Callable[[Draft, Outcome, bool], None] = ignore,
    ) -> None:
        self.stream = stream
        self.type = type_
        self.body = body
        self.mid = mid
        self.key = key
        self.client_id = client_id
        self.version = version
        self.op = op
        self.format = format_
        self.guard = guard
        self.expected = expected
        self.fence = fence
        self.origin = origin
        self.tag = tag
        self.done = done


def draft(
    stream: str,
    fact: Fact,
    mid: int,
    *,
    key: str = "",
    fence: int = UNFENCED,
    done: Callable[[Draft, Outcome, bool], None] = ignore,
) -> Draft:
    """A draft of a fact."""
    body = fact.model_dump_json()
    return Draft(stream, fact.type, body, mid, version=fact.version, key=key, fence=fence, done=done)


class Decision(ABC):
    """A command that looks at rows before it says what happens.

    `decide(rows)` sees the rows of `keys` as they are at this place in the log (after everything before it, in this batch too)
    and gives the drafts to append, or raises the error that refuses; `done` is then told all of their places, or the error.
    `streams` are those that its drafts may go to; those of new rooms are only made if `creates`, else their absence refuses with
    NoSuchRoom. `decide` must be pure: it may run in a transaction that is rolled back. `now_ms` is the time of that place, which its
    events will have. `fenced` says whose session asks for it, as a draft's `fence` does.
    """

    __slots__ = ("creates", "done", "fence", "keys", "now_ms", "sender", "streams")

    def __init__(self, keys: Sequence[Key], streams: Sequence[str], *, creates: bool = False) -> None:
        self.keys = keys
        self.streams = streams
        self.creates = creates
        self.now_ms = 0
        self.sender: tuple[int, str] = 0, ""
        self.fence = UNFENCED
        self.done: Callable[[list[Recorded] | ImcoreError], None] = _ignore_all

    def fenced(self, mid: int, key: str, fence: int) -> Self:
        """The same, refused with TakenOver if a newer session of (mid, key) was opened after position `fence`."""
        self.sender, self.fence = (mid, key), fence
        return self

    @abstractmethod
    def decide(self, rows: Rows) -> Sequence[Draft]:
        """What happens, given these rows."""


class Inline(Protocol):
    """Projections that are written in the append's own transaction.

    `load` and `save` run inside it; `apply` folds one event into the loaded rows; `guard_keys` are the rows that a draft's guard
    looks at, `refusal` is what those rows say, and `passed` changes them when the draft is appended. imcore_append says and does the
    same for a batch of drafts.
    """

    types: frozenset[str]  # of the events that change its rows: only decisions append them

    def guard_keys(self, draft: Draft) -> Sequence[Key]:
        """The rows that decide whether this guarded draft may pass."""

    def refusal(self, rows: Rows, draft: Draft, now_ms: int) -> ImcoreError | None:
        """Why a guarded draft may not pass, or None."""

    def passed(self, rows: Rows, draft: Draft, now_ms: int) -> None:
        """A guarded draft is appended."""

    async def load(self, connection: Connection, keys: set[Key]) -> Rows:
        """The rows of these keys; None for those that are not there."""

    def apply(self, rows: Rows, recorded: Recorded) -> None:
        """Fold one event into the rows."""

    async def save(self, connection: Connection, before: Rows, after: Rows) -> None:
        """Write what changed."""


class Log:
    """The appender of this process.

    Guarantees. Events of this process get positions in the order in which they were submitted, but for those refused. When
    `done` says a Recorded, the event is committed with its WAL flushed. `committed` then gets each batch, in order, once. May a
    submitted draft be lost? Only with an error told to its `done`.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[OwnConnection]],
        inline: Inline,
        committed: Callable[[list[Recorded]], None],
        *,
        batch_events_max: int = BATCH_EVENTS_MAX,
        pending_events_max: int = PENDING_EVENTS_MAX,
        pending_reserve_events: int = 0,
        pending_bytes_max: int = PENDING_BYTES_MAX,
        send_wait_max_s: float = SEND_WAIT_MAX_S,
        append_timeout_s: float = APPEND_TIMEOUT_S,
    ) -> None:
        self._connect = connect
        self._inline = inline
        self._committed = committed
        self._batch_events_max = batch_events_max
        self._append_timeout_s = append_timeout_s
        self.pending_events_max = pending_events_max
        self.backlog = Backlog(
            events_max=pending_events_max,
            reserve=pending_reserve_events,
            bytes_max=pending_bytes_max,
            batch_events_max=batch_events_max,
            wait_max_s=send_wait_max_s,
        )
        self._sends_max = self.backlog.sends_max
        # Bounded by the backlog: submit raises Overloaded when it is full.
        self._pending: deque[Draft | Decision] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._untold: Iterable[Draft | Decision] = ()  # of the batch in hand; who an error from the database concerns
        self._unsettled: Callable[[], None] | None = None  # a batch that is committed, and nobody told
        self._taken_bytes = 0  # of bodies, in the last batch
        self._moved_at = 0.0  # since then what waits has waited, at the most
        self._began_at: float | None = None  # of the batch in hand
        self._away_at: float | None = None  # there is no connection since then
        self._looking: asyncio.TimerHandle | None = None
        self._partitions_upto = 0
        self.names = Names()
        self.position = 0  # the last position that this process appended
        self.appended = 0
        self.batches = 0
        self.batch_s = 0.0  # how long the last batch took, from lock to commit

    # --- submitting ------------------------------------------------------------------------------------------------------

    def submit(self, item: Draft | Decision) -> None:
        """Append it with the next batch; its `done` is told the outcome.

        Raises Overloaded when too many are waiting already: nothing was stored, and nothing will be.
        """
        if len(self._pending) >= self._sends_max:
            self._check_room(item, 1)
        if self._closing:
            raise Overloaded("the server is stopping", retry_after_ms=1000)
        assert item.__class__ is not Draft or item.op or item.type not in self._inline.types, (
            "only a decision changes inline rows"
        )
        self._pending.append(item)
        if not self._wake.is_set():
            self._awaken()

    def _awaken(self) -> None:
        self._idle.clear()
        self._wake.set()

    def _check_room(self, item: Draft | Decision, count: int) -> None:
        """Is there room for so many like this one? Raises Overloaded."""
        waiting = len(self._pending)
        is_message = isinstance(item, Decision) or item.op > 0
        if waiting + count > (self._sends_max if is_message else self.pending_events_max):
            now = asyncio.get_running_loop().time()
            raise Overloaded(retry_after_ms=self.backlog.retry_ms(waiting, now))

    async def append(self, drafts: Iterable[Draft]) -> list[Outcome]:
        """Append drafts and wait for what became of each, in the same order. One's refusal is not its neighbour's.

        Raises Overloaded before any is taken when they do not fit.
        """
        items = list(drafts)
        if not items:
            return []
        # From an empty queue many may go together, even if they are more than may wait behind others.
        if self._pending or not self._sends_max or len(items) > self.pending_events_max:
            self._check_room(items[0], len(items))
        if self._closing:
            raise Overloaded("the server is stopping", retry_after_ms=1000)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        outcomes: dict[int, Outcome] = {}

        def done(item: Draft, outcome: Outcome, duplicate: bool) -> None:
            outcomes[id(item)] = outcome
            if len(outcomes) == len(items) and not future.done():
                future.set_result(None)

        for item in items:
            assert item.op or item.type not in self._inline.types, "only a decision changes inline rows"
            item.done = done
        self._pending.extend(items)
        self._awaken()
        await future
        return [outcomes[id(item)] for item in items]

    def appending(self, item: Draft) -> asyncio.Future[Recorded]:
        """Append one draft; the future is its place, or raises what refused it. Raises Overloaded at once."""
        future: asyncio.Future[Recorded] = asyncio.get_running_loop().create_future()
        item.done = lambda _, outcome, __: _resolve(future, outcome)
        self.submit(item)
        return future

    async def decide(self, decision: Decision) -> list[Recorded]:
        """Run a decision at its place in the log and wait for the events it made.

        Raises the error that refused it, Overloaded, or Unavailable when the outcome is unknown.
        """
        future: asyncio.Future[list[Recorded]] = asyncio.get_running_loop().create_future()
        decision.done = partial(_resolve, future)
        self.submit(decision)
        return await future

    @property
    def pending(self) -> int:
        """How many wait to be appended."""
        return len(self._pending)

    async def drain(self) -> None:
        """Take nothing more, and return when everything that was taken is settled."""
        self._closing = True
        await self._idle.wait()

    def stop(self) -> None:
        """Take nothing more, and refuse what waits: it is meant for a log that is no more. Certainly none of it was stored."""
        self._closing = True
        waiting, self._pending = self._pending, deque()
        self._tell(waiting, Overloaded("the server begins anew", retry_after_ms=1000))

    # --- the appender ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Append for ever: the task that owns the appending connection. Ends when cancelled, with everything pending told."""
        loop = asyncio.get_running_loop()
        connection: OwnConnection | None = None
        self._moved_at = loop.time()
        self._look()
        try:
            while True:
                if not self._wake.is_set():
                    await self._wake.wait()
                    self._moved_at = loop.time()
                if connection is None or connection.is_closed():
                    self._settle_last()
                    connection = await self._reconnect()
                batch = self._take()
                if not batch:
                    self._settle_last()
                    if not self._pending:
                        self._wake.clear()
                        self._idle.set()
                    continue
                started = self._began_at = loop.time()
                was_full = bool(self._pending)
                self._untold = batch
                try:
                    async with asyncio.timeout(self._append_timeout_s):
                        await self._append(connection, batch)
                        await self._grow(connection)
                except DATABASE_ERRORS as error:
                    self._settle_last()
                    log.warning("a batch of %d events has an unknown outcome", len(batch), exc_info=error)
                    self._tell(self._untold, Unavailable())
                    self._untold = ()
                    connection.terminate()
                    heed_cancellation()
                else:
                    self._moved_at = loop.time()
                    self.backlog.committed(len(batch), self._taken_bytes, self._moved_at - started, was_full=was_full)
                    self._sends_max = self.backlog.sends_max
                self._untold, self._began_at = (), None
                self.batch_s = loop.time() - started
                self.batches += 1
        finally:
            self._closing = True
            if self._looking is not None:
                self._looking.cancel()
            self._settle_last()
            self._tell(self._untold, Unavailable("the server is stopping"))
            self._tell(self._pending, Overloaded("the server is stopping"))
            self._pending.clear()
            self._idle.set()
            if connection is not None:
                connection.terminate()

    async def _reconnect(self) -> OwnConnection:
        """A connection to append with. Until there is one, what waits too long is refused: it was certainly not stored."""
        self._away_at = asyncio.get_running_loop().time()
        while True:
            connection: OwnConnection | None = None
            try:
                connection = await self._connect()
                async with asyncio.timeout(self._append_timeout_s / 2):
                    await self._make_partitions(connection)
                ready, connection = connection, None
                self._away_at = None
                self.backlog.go_on()
                self._sends_max = self.backlog.sends_max
                return ready
            except DATABASE_ERRORS as error:
                heed_cancellation()
                log.warning("cannot connect to append: %s", error)
            finally:
                if connection is not None:
                    connection.terminate()
            self._refuse_late()
            await asyncio.sleep(RECONNECT_S)

    def _look(self) -> None:
        """From time to time: does it take too long?"""
        loop = asyncio.get_running_loop()
        now, wait_max_s = loop.time(), self.backlog.wait_max_s
        if self._away_at is not None:
            if now - self._away_at > wait_max_s:
                self.backlog.stand_still()
            self._refuse_late()
        elif self._began_at is not None and now - self._began_at > wait_max_s:
            self.backlog.slow()
        self._sends_max = self.backlog.sends_max
        self._looking = loop.call_later(wait_max_s / 4, self._look)

    def _refuse_late(self) -> None:
        """While there is no connection: whoever waits too long for an answer is refused. What nobody waits for stays, until the end."""
        now = asyncio.get_running_loop().time()
        if now <= self._moved_at + self._append_timeout_s / 2:
            return
        waiting, self._pending = self._pending, deque()
        if not self._closing:
            self._pending.extend(item for item in waiting if isinstance(item, Draft) and item.done is ignore)
        told = [item for item in waiting if self._closing or isinstance(item, Decision) or item.done is not ignore]
        for item in told:  # each with a time of its own to come back
            self._tell([item], Overloaded("the database is not there", retry_after_ms=self.backlog.retry_ms(0, now)))
        if not self._pending:
            self._wake.clear()
            self._idle.set()

    @staticmethod
    def _tell(items: Iterable[Draft | Decision], error: ImcoreError) -> None:
        for item in items:
            if isinstance(item, Decision):
                item.done(error)
            else:
                item.done(item, error, False)

    def _take(self) -> list[Draft | Decision]:
        """The next batch, in order.

        It ends before an item that the checks could not judge beside an earlier one of the batch: a second draft with the same
        client id, one with an expected seq behind another of its stream, or one of an older session behind the opening of a newer.
        """
        pending, batch = self._pending, list[Draft | Decision]()
        ids, opened, size = set[tuple[int, str]](), set[tuple[int, str]](), 0
        streams: set[str] | None = None
        while pending and len(batch) < self._batch_events_max and size < BATCH_BYTES_MAX:
            item = pending[0]
            if isinstance(item, Draft):
                if item.client_id is not None:
                    if (item.mid, item.client_id) in ids:
                        break
                    ids.add((item.mid, item.client_id))
                if item.expected != ANY_SEQ:
                    if streams is None:
                        streams = {stream for taken in batch for stream in _streams(taken)}
                    if item.stream in streams:
                        break
                if item.type == SESSION_OPENED:
                    opened.add((item.mid, item.key))
                elif opened and item.fence != UNFENCED and (item.mid, item.key) in opened:
                    break
                if streams is not None:
                    streams.add(item.stream)
                size += len(item.body)
            elif streams is not None:
                streams.update(_streams(item))
            batch.append(pending.popleft())
        self._taken_bytes = size
        return batch

    async def _append(self, connection: Connection, batch: list[Draft | Decision]) -> None:
        ids = await self._intern(connection, batch)
        drafts = [item for item in batch if type(item) is Draft and item.stream in ids]
        if len(drafts) == len(batch):
            await self._append_drafts(connection, drafts, ids)
            return
        self._settle_last()
        known = [item for item in batch if all(stream in ids for stream in _streams(item))]
        self._untold = known
        if len(known) < len(batch):
            self._tell([item for item in batch if not all(stream in ids for stream in _streams(item))], NoSuchRoom())
        if len(drafts) < len(known):
            await self._append_decided(connection, known, ids)
        elif drafts:
            await self._append_drafts(connection, drafts, ids)

    async def _intern(self, connection: Connection, batch: list[Draft | Decision]) -> dict[str, int]:
        """Numbers for the streams of the batch. What only members may do makes no stream: a room that nobody joined is no room."""
        ids = self.names.ids
        new, old = set[str](), set[str]()
        for item in batch:
            if type(item) is Draft:
                if item.stream not in ids:
                    (old if item.guard == MEMBER else new).add(item.stream)
            else:
                assert isinstance(item, Decision)
                for stream in item.streams:
                    if stream not in ids:
                        (new if item.creates or not stream.startswith(ROOM) else old).add(stream)
        if new or old:
            self._settle_last()
        if new:
            await self.names.intern(connection, new)
        if new or old:
            await self.names.find(connection, {stream for item in batch for stream in _streams(item)})
        return self.names.ids

    async def _append_drafts(self, connection: Connection, drafts: list[Draft], ids: dict[str, int]) -> None:
        """The fast road: one round trip. While Postgres works on it, those of the batch before are told."""
        columns, slots, ranks, said = _columns(drafts, ids)
        query, columns = _joined(columns, len(drafts))
        asking = asyncio.ensure_future(
            connection.fetchrow(query, *columns)
            if failpoints.armed is None
            else _append_watched(connection, query, columns)
        )
        try:
            await asyncio.sleep(0)  # now it is on its way
            self._settle_last()
            row = await asking
        finally:
            asking.cancel()  # for who is cancelled before the last line
        assert row is not None, "a function returns a row"
        if failpoints.armed is not None:
            await failpoints.arrive("after_commit")
        base, at, seqs, messages, refused, codes, facts = row
        self._check_order(base)
        if refused is None:
            self._untold = ()
            self._unsettled = partial(self._settle, drafts, base, at, slots, ranks, said, seqs, messages)
            return
        verdicts = dict(zip(refused, zip(codes, facts, strict=True), strict=True))
        accepted, duplicates, slots, ranks, said = _accepted(drafts, verdicts, slots)
        self._untold = [item for item, _ in duplicates]
        if accepted:
            self._settle(accepted, base, at, slots, ranks, said, seqs, messages)
        if duplicates:
            await self._tell_duplicates(connection, duplicates)

    def _check_order(self, base: int) -> None:
        """What this process appended is there. Whoever connects looks whether the log went back; this is for who forgot to."""
        if base < self.position:
            raise DatabaseUnavailable(f"the log went back: it ended at {base}, and {self.position} was appended")

    def _settle_last(self) -> None:
        """Tell those of the last batch, if nobody has yet. It is committed; telling it waits until the next one is on its way, so that
        Postgres is not kept waiting for it. It must not wait for anything else."""
        settle, self._unsettled = self._unsettled, None
        if settle is not None:
            settle()

    def _settle(
        self,
        accepted: list[Draft],
        base: int,
        at: datetime,
        slots: list[int],
        ranks: list[int],
        said: list[int],
        seqs: list[int],
        messages: list[int],
    ) -> None:
        """Tell each draft its place, and the process its batch."""
        if failpoints.armed is not None:
            failpoints.reach("before_reply")
        time_ms = int(at.timestamp() * 1000)
        position = base
        batch: list[Recorded] = []
        new = tuple.__new__  # half of the cost of calling the class, and this runs for every event
        for item, slot, rank, count in zip(accepted, slots, ranks, said, strict=True):
            position += 1
            batch.append(
                new(
                    Recorded,
                    (
                        position,
                        item.stream,
                        seqs[slot - 1] + rank,
                        messages[slot - 1] + count,
                        item.type,
                        item.version,
                        item.mid,
                        item.key,
                        item.client_id,
                        item.op,
                        item.format,
                        time_ms,
                        item.body,
                    ),
                )
            )
        self.position = position
        self.appended += len(batch)
        for item, recorded in zip(accepted, batch, strict=True):
            item.done(item, recorded, False)
        self._committed(batch)

    async def _tell_duplicates(self, connection: Connection, duplicates: list[tuple[Draft, int]]) -> None:
        """A retry gets the place of the first append; another message under a used id is refused."""
        rows = await connection.fetch(ORIGINALS, [position for _, position in duplicates])
        await self.names.resolve(connection, {row["stream_id"] for row in rows})
        originals = {row["position"]: recorded(row, self.names) for row in rows}
        for item, position in duplicates:
            first = originals.get(position)
            if first is None:
                item.done(item, IdConflict("this id was used before, for a message that is no longer kept"), False)
            elif _said(first) == _said(item):
                item.done(item, first, True)
            else:
                item.done(item, IdConflict(), False)

    async def _append_decided(self, connection: Connection, items: list[Draft | Decision], ids: dict[str, int]) -> None:
        """The road for batches with decisions: a transaction that reads rows, decides in order, appends, and writes the rows."""
        inline = self._inline
        settled: list[Callable[[], None]] = []
        async with _transaction(connection):
            head = await connection.fetchrow(LOCK)
            assert head is not None, "a migrated database has a head"
            if failpoints.armed is not None:
                await failpoints.arrive("after_update_head")
            base, at, opened = head
            self._check_order(base)
            now_ms = int(at.timestamp() * 1000)
            keys = {key for item in items if isinstance(item, Decision) for key in item.keys}
            keys.update(
                key for item in items if isinstance(item, Draft) and item.guard for key in inline.guard_keys(item)
            )
            rows = await inline.load(connection, keys)
            before = dict(rows)
            used = await self._used_ids(connection, [item for item in items if isinstance(item, Draft)])
            heads = await _heads(connection, items, ids)
            newest = await _newest(connection, items, opened)
            drafts: list[Draft] = []
            expected: list[Recorded] = []

            def take(item: Draft) -> Recorded:
                seq, messages = heads[item.stream]
                heads[item.stream] = seq, messages = seq + 1, messages + (item.op > 0)
                event = Recorded(
                    base + len(drafts) + 1, item.stream, seq, messages, item.type, item.version, item.mid, item.key,
                    item.client_id, item.op, item.format, now_ms, item.body,
                )  # fmt: skip
                drafts.append(item)
                expected.append(event)
                inline.apply(rows, event)
                if item.type == SESSION_OPENED:
                    newest[item.mid, item.key] = event.position
                return event

            duplicates: list[tuple[Draft, int]] = []
            for item in items:
                if item.fence < newest.get(_sender(item), 0):
                    overtaken = TakenOver()
                    settled.append(
                        _telling(item, overtaken) if isinstance(item, Draft) else _answering(item, overtaken)
                    )
                    continue
                if isinstance(item, Draft):
                    refusal: ImcoreError | None = None
                    if id(item) in used:
                        duplicates.append((item, used[id(item)]))
                        continue
                    if item.guard:
                        refusal = inline.refusal(rows, item, now_ms)
                    if refusal is None and item.expected not in (ANY_SEQ, heads[item.stream][0]):
                        refusal = Conflict(item.stream, item.expected, heads[item.stream][0])
                    if refusal is not None:
                        settled.append(_telling(item, refusal))
                        continue
                    if item.guard:
                        inline.passed(rows, item, now_ms)
                    settled.append(_telling(item, take(item)))
                else:
                    item.now_ms = now_ms
                    try:
                        settled.append(_answering(item, [take(made) for made in item.decide(rows)]))
                    except ImcoreError as error:
                        settled.append(_answering(item, error))
            if drafts:
                columns, *_ = _columns(drafts, ids, judged=True)
                # The time goes in as well: what was folded must be what is in the log.
                row = await connection.fetchrow(APPEND_AT, *columns[:20], at)
                assert row is not None, "a function returns a row"
                assert row["base"] == base, "the head is locked"
                assert row["refused"] is None, "everything was checked above"
                await inline.save(connection, before, rows)
            if failpoints.armed is not None:
                await failpoints.arrive("before_commit")
        if failpoints.armed is not None:
            await failpoints.arrive("after_commit")
            failpoints.reach("before_reply")
        self._untold = [item for item, _ in duplicates]
        if expected:
            self.position = expected[-1].position
            self.appended += len(expected)
        for tell in settled:
            tell()
        if expected:
            self._committed(expected)
        if duplicates:
            await self._tell_duplicates(connection, duplicates)

    async def _used_ids(self, connection: Connection, drafts: list[Draft]) -> dict[int, int]:
        asking = [item for item in drafts if item.client_id is not None]
        if not asking:
            return {}
        rows = await connection.fetch(USED_IDS, [item.mid for item in asking], [item.client_id for item in asking])
        return {id(asking[n - 1]): position for n, position in rows}

    async def _grow(self, connection: Connection) -> None:
        if self.position + PARTITION_MARGIN_EVENTS > self._partitions_upto:
            self._settle_last()
            await self._make_partitions(connection)

    async def _make_partitions(self, connection: Connection) -> None:
        """Partitions are made ahead, so that no append waits for one."""
        head = await connection.fetchval("SELECT position FROM log_head")
        self._partitions_upto = head + 2 * PARTITION_MARGIN_EVENTS
        await connection.execute("SELECT imcore_make_partitions($1)", self._partitions_upto)


@asynccontextmanager
async def _transaction(connection: Connection) -> AsyncIterator[None]:
    """A transaction that is committed at the end, or left to die with its connection, which every error ends (see `run`).

    asyncpg's own would send a rollback and wait for the answer: for ever, if it was silence that ended the transaction.
    """
    await connection.execute(BEGIN)
    yield
    ended = await connection.execute("COMMIT")
    assert ended == "COMMIT", f"an error in a transaction was swallowed: {ended}"


async def _append_watched(connection: Connection, query: str, columns: tuple[object, ...]) -> asyncpg.Record | None:
    """Append drafts, with the places between lock and commit that one statement does not have, if somebody watches them."""
    if not failpoints.watches("after_update_head", "before_commit"):
        return await connection.fetchrow(query, *columns)
    async with _transaction(connection):
        await connection.execute(LOCK)
        await failpoints.arrive("after_update_head")
        row = await connection.fetchrow(query, *columns)
        await failpoints.arrive("before_commit")
    return row


def recorded(row: asyncpg.Record, names: Names) -> Recorded:
    """An event as the log holds it."""
    client_id = row["client_id"]
    return Recorded(
        row["position"],
        names.names[row["stream_id"]],
        row["seq"],
        row["messages"],
        row["type"],
        row["version"],
        row["mid"],
        row["key"],
        None if client_id is None else str(client_id),
        row["op"],
        row["format"],
        int(row["recorded_at"].timestamp() * 1000),
        row["body"],
    )


def _columns(
    drafts: list[Draft], ids: dict[str, int], *, judged: bool = False
) -> tuple[tuple[object, ...], list[int], list[int], list[int]]:
    """The batch as imcore_append takes it, and slot, rank and messages of each. `judged`: guards and seqs were looked at."""
    slot_of: dict[str, int] = {}
    kind_of: dict[tuple[str, int, int, int, int], int] = {}
    slots: list[int] = []
    ranks: list[int] = []
    said: list[int] = []
    kinds: list[int] = []
    events: list[int] = []
    last: list[int] = []
    messages: list[int] = []
    fences: list[int] = []
    fences_from: list[int] = []
    fence = -1
    for n, item in enumerate(drafts, 1):
        stream = item.stream
        slot = slot_of.get(stream)
        if slot is None:
            slot = slot_of[stream] = len(events) + 1
            events.append(0)
            last.append(0)
            messages.append(0)
        events[slot - 1] += 1
        last[slot - 1] = n
        if item.op > 0:
            messages[slot - 1] += 1
        slots.append(slot)
        ranks.append(events[slot - 1])
        said.append(messages[slot - 1])
        if item.fence != fence:  # a hundred items in a row have the same
            fence = item.fence
            fences.append(fence)
            fences_from.append(n)
        kinds.append(kind_of.setdefault((item.type, item.version, item.op, item.format, item.guard), len(kind_of) + 1))
    types, versions, ops, formats, guards = zip(*kind_of, strict=True)
    client_ids = [item.client_id or "NULL" for item in drafts]
    expected = [item.expected for item in drafts]
    if judged:
        guards, expected = (NO_GUARD,) * len(guards), [ANY_SEQ] * len(drafts)
    any_expected = expected.count(ANY_SEQ) < len(expected)
    columns = (
        any_expected or any(guards) or client_ids.count("NULL") < len(client_ids),
        _array(slots),
        _array(ranks),
        _array(said),
        _array([item.mid for item in drafts]),
        [item.key for item in drafts],
        _array(client_ids),
        _array(kinds),
        [item.body for item in drafts],
        _array("NULL" if seq == ANY_SEQ else seq for seq in expected) if any_expected else None,
        types,
        versions,
        ops,
        formats,
        guards,
        [ids[stream] for stream in slot_of],
        [stream[5:] for stream in slot_of],  # the room, where the stream is one
        events,
        last,
        messages,
        min(fences),
        fences_from,
        fences,
    )
    return columns, slots, ranks, said


async def _heads(
    connection: Connection, items: list[Draft | Decision], ids: dict[str, int]
) -> dict[str, tuple[int, int]]:
    names = {ids[stream]: stream for item in items for stream in _streams(item)}
    rows = await connection.fetch(HEADS, list(names))
    return {names[row["id"]]: (row["seq"], row["messages"]) for row in rows}


async def _newest(connection: Connection, items: list[Draft | Decision], opened: int) -> dict[tuple[int, str], int]:
    """The newest sessions of the senders, if any was opened that not all of them know of."""
    asking = {_sender(item) for item in items if item.fence < opened}
    if not asking:
        return {}
    mids, keys = zip(*asking, strict=True)
    return {(mid, key): newest for mid, key, newest in await connection.fetch(NEWEST, mids, keys)}


def _said(one: Draft | Recorded) -> tuple[str, int, int, int, str]:
    """What makes a message with a used id the same message."""
    return one.stream, one.version, one.op, one.format, one.body


def _sender(item: Draft | Decision) -> tuple[int, str]:
    return (item.mid, item.key) if isinstance(item, Draft) else item.sender


def _streams(item: Draft | Decision) -> Sequence[str]:
    return (item.stream,) if isinstance(item, Draft) else item.streams


def _joined(columns: tuple[object, ...], drafts: int) -> tuple[str, tuple[object, ...]]:
    """Keys and bodies as one text each, if they can be told apart in it: half of what the driver costs for them."""
    if drafts > 1:
        keys, bodies = SEPARATOR.join(columns[5]), SEPARATOR.join(columns[8])  # type: ignore[arg-type]
        if keys.count(SEPARATOR) == bodies.count(SEPARATOR) == drafts - 1:
            return APPEND_JOINED, (*columns[:5], keys, *columns[6:8], bodies, *columns[9:])
    return APPEND, columns


def _array(values: Iterable[object]) -> str:
    """The text of an array of numbers or UUIDs."""
    return "{" + ",".join(map(str, values)) + "}"


def _telling(item: Draft, outcome: Outcome) -> Callable[[], None]:
    return lambda: item.done(item, outcome, False)


def _answering(item: Decision, outcome: list[Recorded] | ImcoreError) -> Callable[[], None]:
    return lambda: item.done(outcome)


def restricted(code: int, wait_ms: int = 0) -> ImcoreError:
    """What a member is told whom the rules of the room keep from sending."""
    if code == ADMINS_WRITE:
        return Forbidden("only admins write in this room")
    if code == TOO_SOON:
        return SlowMode(retry_after_ms=wait_ms)
    if code == IS_BLOCKED:
        return Forbidden("this person takes no messages from you")
    assert code == ALL_MUTED, f"imcore_append refuses for {code}"
    return Muted("everybody is muted in this room")


def _accepted(
    drafts: list[Draft], verdicts: dict[int, tuple[int, int]], slots: list[int]
) -> tuple[list[Draft], list[tuple[Draft, int]], list[int], list[int], list[int]]:
    """What is left when the refused are told: the accepted and their places, counted again as imcore_append counts them."""
    accepted: list[Draft] = []
    duplicates: list[tuple[Draft, int]] = []
    kept_slots: list[int] = []
    ranks: list[int] = []
    said: list[int] = []
    events: dict[int, int] = {}
    messages: dict[int, int] = {}
    for n, (item, slot) in enumerate(zip(drafts, slots, strict=True), 1):
        if n in verdicts:
            code, fact = verdicts[n]
            if code == USED_ID:
                duplicates.append((item, fact))
            elif code == NOT_MEMBER:
                item.done(item, NoSuchRoom(), False)
            elif code == IS_MUTED:
                item.done(item, Muted(), False)
            elif code == OVERTAKEN:
                item.done(item, TakenOver(), False)
            elif code == WRONG_SEQ:
                item.done(item, Conflict(item.stream, item.expected, fact), False)
            else:
                item.done(item, restricted(code, fact), False)
            continue
        accepted.append(item)
        events[slot] = events.get(slot, 0) + 1
        messages[slot] = messages.get(slot, 0) + (item.op > 0)
        kept_slots.append(slot)
        ranks.append(events[slot])
        said.append(messages[slot])
    return accepted, duplicates, kept_slots, ranks, said
