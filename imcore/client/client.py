"""The client: a connection that comes back, around the core that decides what is said on it.

One task connects, converses and connects again (`_run`); within a conversation one task reads and one writes. The program's calls put
questions into the core and wait for their outcome; its loop takes events out of it. So everything that decides is in `core`, and here
are the sockets, the clock, the store and the waiting.

- **It comes back by itself**, for ever, after a random time that grows with each failure, or when the server says. It stops only where
  coming back would end the same way: a wrong token, another connection with its key.
- **Back-pressure.** When the program is slow the socket is not read, and the server goes on from the log later. But a program that
  waits for an answer is given it, whatever lies before it on the wire: then events are taken in beyond the mark, and where even that
  is too much they are let go and asked for again, on a new connection, when the program has dealt with the others.
- **A line that is dead is noticed**: what is silent is asked for a sign of life, and left when none comes.

The trap: in the loop an event counts as dealt with when the *next* is asked for. A loop that is cancelled, or ends with an error, in
the middle of an event sees that event again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Literal

import aiohttp

from imcore.client import carriers
from imcore.client.calls import Content, Download, Token, Verb, ask_for, new_id, refuse, to_json
from imcore.client.carriers import Carrier, HandshakeRefused
from imcore.client.core import Acked, Answered, Asked, Core, Entry, Farewell, Misunderstood, Observe, Opened, Statistics
from imcore.client.cursors import Change, Cursor, MemoryCursor
from imcore.client.envelope import from_envelope
from imcore.client.errors import (
    FINAL_CLOSES,
    FINAL_WORDS,
    CallTimeout,
    ClientError,
    ConnectionClosed,
    ForeignCursor,
    SendTimeout,
    TooLarge,
    Unauthenticated,
    UnknownOperation,
    closed,
)
from imcore.client.events import (
    Conversation,
    Happening,
    Inbox,
    Joined,
    Member,
    Members,
    Message,
    Page,
    Reset,
    Sent,
    Unread,
)
from imcore.client.verbs import VERBS, Subjects
from imcore.errors import ImcoreError
from imcore.protocol.packet import HEADER_BYTES, PACKET_BYTES_MAX, PAGE_ROWS_MAX, PUSH_OP_MIN, Op, check_room

log = logging.getLogger(__name__)

GOODBYE_S: Final = 2.0  # for the last ack, and for the last words of a connection that broke
RENEW_S: Final = 1.0  # at least between two tokens of one connection
MAY_BE_ZERO: Final = frozenset({"ack_s", "backoff_s", "backoff_max_s", "steady_s"})  # of the limits
TOKENS_MAX: Final = 3  # refused one after the other, before a client that can get new ones gives up
NOT_ENTERED: Final = "the client is not connected: use `async with connect(…) as im`"
JSON_FRAME_BYTES: Final = 64  # around a body: {"op":…,"seq":…,"body":…}


class State(StrEnum):
    """What a client is at."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"  # to connect again
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one client: how much it keeps, and how long it waits."""

    sends_max: int = 1_000  # sends without an outcome; further ones wait in `send`
    calls_max: int = 1_000  # calls of verbs without an outcome; further ones wait for their turn
    queue_events_max: int = 1_000  # events that wait for the program: from here on the socket is not read
    unacked_events_max: int = 10_000  # events that manual acks are due for: from here on the loop waits for one
    overflow_events_max: int = 4_000  # while a call waits for its answer: from here on events are let go, to come again
    packet_bytes_max: int = PACKET_BYTES_MAX  # the server's setting of this name: a larger one ends the connection
    call_s: float = 60.0  # how long a call of a verb may take, with all that is repeated of it
    connect_s: float = 10.0  # how long connecting may take, and getting a token
    auth_s: float = 30.0  # how long the answer to the auth may take: where many come, they wait for their turn
    answer_s: float = 10.0  # how long a sign of life may take
    heartbeat_s: float = 30.0  # after so long a silence the other side is asked for one
    ack_s: float = 1.0  # between two acks
    backoff_s: float = 1.0  # the first wait is between 0 and this; it doubles with each failure
    backoff_max_s: float = 60.0  # where the doubling ends
    steady_s: float = 60.0  # a connection that lived for so long begins the doubling anew


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a connection, or the attempt at one, ended."""

    error: ClientError
    close: int | None = None
    delay_s: float = 0.0
    is_final: bool = False
    is_wanted: bool = False  # we ended it ourselves, to go on at once
    is_timed: bool = False  # the delay was drawn by the server for us alone: ours on top would only be later


def connect(
    url: str | Sequence[str],
    *,
    token: Token | None = None,
    mid: int | None = None,
    key: str = "",
    cursor: Cursor | None = None,
    rooms: Iterable[str] = (),
    accepts: Iterable[int] | None = None,
    platform: str = "python",
    acks: Literal["auto", "manual"] = "auto",
    live_types: Iterable[str] = ("live",),
    tls: ssl.SSLContext | None = None,
    limits: Limits | None = None,
    on_state: Callable[[State], object] | None = None,
    observe: Observe | None = None,
) -> Client:
    """A client of the server at `url`: `ws://` or `wss://…/ws`, `tcp://` or `tcps://host:port`, or several, tried in random order.

    To be entered with `async with`, which returns when it is connected and tries for as long as that takes; it raises ConnectionClosed
    (Unauthenticated above all) where trying again is pointless.

    - `token`: a signed token, or what gives one whenever it is needed. Without, `mid` says who this is (servers in open mode).
    - `key` names this device; left out, one is made and kept with the cursor.
    - `cursor`: where is kept how far the program has come.
    - `rooms`: joined, or entered if they are live, at every connect.
    - `accepts`: the operations of messages that are wanted; None is all of them. Holes are looked for only then.
    - `acks`: "auto", an event is dealt with when the loop asks for the next; "manual", when `ack` says so.
    - `live_types`: the types of live rooms, as the server's `live_room_types` has them.
    - `on_state` is called with each new state, and what it raises is logged; `observe` with each step of the protocol (docs/client.md).

    Raises ValueError for what is no address, no room, or no limit.
    """
    urls = (url,) if isinstance(url, str) else tuple(url)
    limits = limits or Limits()
    if not urls:
        raise ValueError("no address to connect to")
    if not limits.queue_events_max <= limits.overflow_events_max:
        raise ValueError("the bound of the queue may be no more than that of the overflow")
    for field in fields(limits):
        value = getattr(limits, field.name)
        if not (value >= 0 if field.name in MAY_BE_ZERO else value > 0):
            raise ValueError(f"limits.{field.name} is {value}, and must be more than 0")
    if acks not in ("auto", "manual"):
        raise ValueError(f"acks is {acks!r}, and may be 'auto' or 'manual'")
    for one in urls:
        carriers.check_url(one)
    rooms = tuple(rooms)
    for room in rooms:
        _checked(room)
    return Client(
        urls,
        token=token,
        mid=mid,
        key=key,
        cursor=MemoryCursor() if cursor is None else cursor,
        rooms=rooms,
        accepts=None if accepts is None else tuple(accepts),
        platform=platform,
        acks=acks,
        live_types=tuple(live_types),
        tls=tls,
        limits=limits,
        on_state=on_state,
        observe=observe,
    )


class Client(Subjects):
    """A device that stays connected. Made by `connect`; used inside of `async with`, by one event loop."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        token: Token | None,
        mid: int | None,
        key: str,
        cursor: Cursor,
        rooms: Sequence[str],
        accepts: Sequence[int] | None,
        platform: str,
        acks: Literal["auto", "manual"],
        live_types: Sequence[str],
        tls: ssl.SSLContext | None,
        limits: Limits,
        on_state: Callable[[State], object] | None,
        observe: Observe | None,
    ) -> None:
        self._urls = urls
        self._token = token
        self._cursor = cursor
        self._acks = acks
        self._tls = tls
        self._limits = limits
        self._on_state = on_state
        self._state = State.CONNECTING
        self._chance = random.random
        self._core = Core(
            key=key,
            mid=mid,
            rooms=rooms,
            accepts=accepts,
            platform=platform,
            live_types=live_types,
            chance=self._chance,
            backlog_max=limits.overflow_events_max,
        )
        self._core.observe = observe
        self._task: asyncio.Task[None] | None = None
        self._ended: Exception | None = None  # why there is nothing more to come
        self._is_closing = False
        self._is_iterating = False
        self._is_owing = False  # the loop waits for acks
        self._outcomes: dict[Asked, asyncio.Future[Any]] = {}  # sends are bounded by _may_send
        self._may_send = asyncio.Semaphore(limits.sends_max)
        self._may_call = asyncio.Semaphore(limits.calls_max)
        self._has_begun = asyncio.Event()  # connected once, or stopped
        self._arrived = asyncio.Event()  # something for the program
        self._wake = asyncio.Event()  # something for the task that writes
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._tokens_refused = 0
        self._kept_mid: int | None = None
        # Of the connection there is, in the loop's time:
        self._opened_at: float | None = None
        self._began_at = self._heard_at = self._said_at = self._acked_at = 0.0
        self._beat_at: float | None = None  # a sign of life was asked for, and nothing came since
        self._beat_s = limits.heartbeat_s
        self._is_paused = False
        self._farewell: Farewell | None = None

    # --- life ----------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Client:
        """Connect. Returns when the server knows us; raises where it never will."""
        if self._task is not None or self._is_closing:
            raise RuntimeError("a client is entered once: call `connect` again")
        core = self._core
        try:
            kept = await self._cursor.load()
            if kept.mid is not None and core.mid is not None and kept.mid != core.mid:
                raise ForeignCursor(f"this cursor is that of member {kept.mid}, not of {core.mid}")
            key = core.key or kept.key or f"py-{uuid.uuid4().hex}"
            if key != kept.key:
                await self._cursor.keep(Change(key=key))
        except BaseException:
            await self._cursor.close()
            raise
        self._kept_mid = kept.mid
        core.begin(key, kept.mid, kept.cursor, kept.seen)
        self._task = asyncio.create_task(self._run(), name="imcore client")
        try:
            await self._has_begun.wait()
        except BaseException:
            await self.close()
            raise
        if self._ended is not None:
            await self.close()
            raise self._ended
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Say what was dealt with, and go."""
        try:
            if (
                kind is None and self._acks == "auto"
            ):  # the loop ended of its own will: with the event that it took last
                await self._settle(self._core.given)
        finally:
            await self.close()
            await self._cursor.close()  # it was opened again for the last event, if somebody had closed before

    async def close(self) -> None:
        """Acknowledge what is dealt with, and end. What has no outcome yet ends with ConnectionClosed. Doing it again does nothing."""
        if self._is_closing:
            return
        self._is_closing = True
        task = self._task
        try:
            if task is not None and not task.done():
                await self._say_goodbye(task)
        finally:  # also when nobody waits for the goodbye any more
            try:
                self._core.leaving()
            finally:
                self._stop(ConnectionClosed("the client was closed", code="closed"))
                try:
                    if task is not None:
                        task.cancel()
                        await asyncio.wait([task])
                finally:
                    await self._cursor.close()

    async def _say_goodbye(self, task: asyncio.Task[None]) -> None:
        """Acknowledge what is dealt with, if that is still told."""
        self._acked_at = 0.0
        self._wake.set()
        try:
            async with asyncio.timeout(GOODBYE_S):
                while self._core.has_news and not task.done():
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            log.debug("x the last ack was not answered")

    @property
    def mid(self) -> int | None:
        """Who this is; None before the first connection, if nobody said so."""
        return self._core.mid

    @property
    def key(self) -> str:
        """Which device."""
        return self._core.key

    @property
    def state(self) -> State:
        """What it is at."""
        return self._state

    @property
    def position(self) -> int:
        """Everything up to this place in the log is dealt with; 0 before the first event of this process."""
        return self._core.position

    @property
    def statistics(self) -> Statistics:
        """What happened so far: a copy."""
        return replace(self._core.counts)

    # --- messages and events ---------------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[Message]:
        """The messages of others, each once, in order in each room; other events count as dealt with."""
        return _Messages(self)

    def events(self) -> AsyncIterator[Happening]:
        """Everything: messages, joins and leaves (`Event`), `Removed`, and `Reset` when something was missed that will not come."""
        return _Events(self)

    async def ack(self, event: Happening) -> None:
        """This event is dealt with, and so is all that the loop gave before it. Stored when it returns."""
        await self._settle(self._core.given_upto(event))

    async def _next(self, *, only_messages: bool) -> Happening:
        if self._is_iterating:
            raise RuntimeError("one loop at a time: two would share the events between them")
        self._is_iterating = True
        core = self._core
        try:
            if self._is_closing:
                raise StopAsyncIteration
            if self._task is None:
                raise RuntimeError(NOT_ENTERED)
            if self._acks == "auto":
                await self._settle(core.given)
            while not self._is_closing:
                entry = core.next() if self._may_take() else None
                if entry is None:
                    if self._ended is not None:
                        raise self._ended
                    self._arrived.clear()
                    await self._arrived.wait()
                    continue
                self._look_at_backlog()
                happening = entry.happening
                if happening is None or (only_messages and not isinstance(happening, Message)):
                    if isinstance(happening, Reset) and happening.reason != "new":
                        log.warning(
                            "! missed, and not to come (%s): %s", happening.reason, happening.room or "all rooms"
                        )
                    await self._settle([entry])
                else:
                    return happening
            raise StopAsyncIteration
        finally:
            self._is_iterating = False

    def _may_take(self) -> bool:
        """Is it bounded what the program has and has not dealt with? With automatic acks that is one event."""
        if self._core.unsettled < self._limits.unacked_events_max:
            return True
        if not self._is_owing:
            self._is_owing = True
            log.warning("%d events are due to be acked: no more are given until some are", self._core.unsettled)
        return False

    async def _settle(self, entries: Sequence[Entry]) -> None:
        """These are dealt with: stored, and to be acknowledged."""
        settled = [done for entry in entries for done in self._core.settle(entry)]
        if not settled:
            return
        if self._is_owing:
            self._is_owing = False
            self._arrived.set()
        seen: dict[str, int] = {}
        cursor, forgets = None, False
        for done in settled:
            if done.forgets:
                seen, forgets = {}, True
            if done.cursor is not None:
                cursor = done.cursor
            if done.seq:
                seen[done.place] = done.seq
        if self._core.has_news:
            self._wake.set()
        if seen or forgets or cursor is not None:
            await self._cursor.keep(Change(cursor=cursor, seen=seen, forgets=forgets))

    # --- requests ------------------------------------------------------------------------------------------------------------

    async def send(
        self,
        room: str,
        body: object,
        *,
        id: str | uuid.UUID | None = None,
        op: int = PUSH_OP_MIN,
        reply_to: int | None = None,
        thread: int | None = None,
        mentions: Iterable[int] | Literal["all"] = (),
        is_text: bool = False,
        timeout_s: float | None = None,
    ) -> Sent:
        """Store a message in the room and have it delivered. Returns when it is stored for good.

        Over broken connections and "later"s of the server it is sent again, with its id, until the outcome is known, so it is stored
        once. With an `id` of your own (a UUID) you may also repeat the call, even in another process.

        `reply_to` is the seq of the message that it answers, `thread` that of the first message of its thread; `mentions` names people
        of the room, or "all". A body of bytes arrives as bytes; with `is_text` a string is text to old clients too, and no JSON.

        Raises Refused (NoSuchRoom, Muted, …) when the server will not take it, SendTimeout when there is no outcome in time,
        ConnectionClosed when the client ends first, and TypeError for a body that is no JSON.
        """
        id = str(uuid.uuid4() if id is None else id).lower()
        request: dict[str, object] = {"room": _checked(room), "id": id, "body": body, "op": op}
        if isinstance(body, bytes):
            request |= {"body": b64encode(body).decode(), "format": "base64"}
        elif is_text:
            request["format"] = "text"
        if reply_to is not None:
            request["reply_to"] = reply_to
        if thread is not None:
            request["thread"] = thread
        if mentions:
            request["mentions"] = "all" if mentions == "all" else list(mentions)
        self._check_size(request)
        try:
            async with asyncio.timeout(timeout_s):
                async with self._may_send:
                    reply = await self._ask(Op.SEND, request, room=room, id=id)
        except TimeoutError:
            assert timeout_s is not None
            raise SendTimeout(id, timeout_s) from None
        return Sent(room, id, reply["position"], reply["seq"], reply.get("duplicate", False))

    async def join(self, room: str) -> Joined:
        """Become a member of the room; enter it, if it is live (again after each reconnect). Raises NoSuchRoom, Forbidden."""
        reply = await self._ask(Op.JOIN, {"room": _checked(room)})
        self._core.joined(room)
        return Joined(room, reply["position"], reply["seq"], reply.get("duplicate", False))

    async def leave(self, room: str) -> None:
        """Stop being a member of the room, or being in it. Raises NoSuchRoom."""
        await self._ask(Op.LEAVE, {"room": _checked(room)})
        self._core.left(room)

    async def history(
        self,
        room: str,
        *,
        before: int | None = None,
        after: int | None = None,
        around: int | None = None,
        at: int | None = None,
        limit: int | None = None,
    ) -> Page:
        """A page of the room's events: the last before a seq, the first after a seq, those around one, those around a time (`at`, in
        milliseconds since 1970), or the newest; messages as they read now. Raises NoSuchRoom."""
        request = {"room": _checked(room), "before": before, "after": after, "limit": limit}
        if around is not None:
            request["around"] = around
        if at is not None:
            request["at"] = at
        page = await self._ask(Op.HISTORY, request)
        events = [from_envelope(one) for one in page["events"]]
        return Page(room, events, page["head"], page["more"], page.get("more_after", False))

    async def mark_read(self, room: str, seq: int) -> Unread:
        """The person has read the room up to this seq, on whatever device. Raises NoSuchRoom."""
        reply = await self._ask(Op.READ, {"room": _checked(room), "seq": seq})
        return Unread(room, reply["seq"], reply["unread"])

    async def members(self, room: str, *, after: int | None = None, limit: int | None = None) -> Members:
        """A page of the room's members. Raises NoSuchRoom."""
        reply = await self._ask(Op.MEMBERS, {"room": _checked(room), "after": after, "limit": limit})
        members = [
            Member(one["mid"], one["role"], one["since"], one["online"], one.get("muted_until_ms", 0))
            for one in reply["members"]
        ]
        return Members(room, members, reply.get("next"))

    async def present(self, room: str) -> frozenset[int]:
        """Who of the room's members is online now, on whatever device: a page of members after the other is asked for, so in a large
        room this is many requests, and the answer is of a moment. Raises NoSuchRoom."""
        present: set[int] = set()
        after: int | None = None
        while True:
            page = await self.members(room, after=after, limit=PAGE_ROWS_MAX)
            present.update(one.mid for one in page.members if one.online)
            if page.next is None:
                return frozenset(present)
            after = page.next

    async def inbox(self, *, after: str = "", limit: int | None = None) -> Inbox:
        """A page of the rooms that this person is a member of, with what is unread in each."""
        reply = await self._ask(Op.INBOX, {"after": after, "limit": limit})
        rooms = [
            Conversation(
                one["room"],
                one["head"],
                one["read"],
                one["unread"],
                one["role"],
                None if one["last"] is None else from_envelope(one["last"]),
                one.get("mentions", 0),
            )
            for one in reply["rooms"]
        ]
        return Inbox(rooms, reply.get("next"))

    # --- verbs ---------------------------------------------------------------------------------------------------------------

    async def call(
        self,
        verb: str,
        args: Mapping[str, object] | None = None,
        *,
        retry: bool | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """Ask for a verb by its name; the answer's JSON. `im.rooms.create(…)` and its like are the same, typed.

        It is asked again over broken connections: what reads, what is as good twice as once, and what the server keeps the answer of,
        which carries an idempotency key and happens once. Of the few others (signals, what this client does not know) the outcome is
        unknown when the connection breaks before the answer: that raises Unavailable, unless `retry` is true. (False: never again.)
        Without `timeout_s` it waits for `limits.call_s`.

        Raises Refused (NoSuchRoom, Forbidden, …), CallTimeout, ConnectionClosed when the client ends first, and TypeError for what is
        no JSON.
        """
        known = VERBS.get(verb, Verb(verb, doors=("connection",)))
        given = dict(args or {})
        return await self._call(known, given, retry, timeout_s)

    async def perform(self, verb: Verb, args: dict[str, object], *, retry: bool = False) -> Any:
        """`call` for a verb that is known."""
        return await self._call(verb, args, retry or None, None)

    async def upload(self, verb: Verb, args: dict[str, object], content: Content, media_type: str) -> Any:
        """Raises UnknownOperation: over a connection everything is JSON."""
        raise UnknownOperation(f"{verb.name} goes over HTTP only: see imcore.client.Http")

    def download(self, verb: Verb, args: dict[str, object]) -> AbstractAsyncContextManager[Download]:
        """Raises UnknownOperation: over a connection everything is JSON."""
        raise UnknownOperation(f"{verb.name} goes over HTTP only: see imcore.client.Http")

    async def _call(self, verb: Verb, args: dict[str, object], retry: bool | None, timeout_s: float | None) -> Any:
        if "connection" not in verb.doors:
            raise UnknownOperation(f"{verb.name} goes over HTTP only: see imcore.client.Http")
        request: dict[str, object] = {"verb": verb.name, "args": args}
        may_repeat = verb.may_repeat(args)
        if not may_repeat and verb.takes_key and retry is not False:
            request["idempotency_key"] = new_id()
            may_repeat = True
        may_repeat = may_repeat if retry is None else retry
        self._check_size(request)
        timeout_s = self._limits.call_s if timeout_s is None else timeout_s
        room = args.get(verb.says) if verb.says else None
        try:
            async with asyncio.timeout(timeout_s):
                async with self._may_call:
                    reply = await self._ask(
                        Op.CALL, request, room=room if isinstance(room, str) else "", may_repeat=may_repeat
                    )
        except TimeoutError:
            raise CallTimeout(verb.name, timeout_s) from None
        answer = reply["answer"]
        if verb.name == "presence.watch":
            self._core.watched(answer["people"])
        elif verb.name == "presence.unwatch":
            mids = args.get("mids")
            self._core.unwatched([mid for mid in mids if isinstance(mid, int)] if isinstance(mids, Sequence) else ())
        return answer

    def _check_size(self, request: object) -> None:
        bytes_long = len(to_json(request)) + max(HEADER_BYTES, JSON_FRAME_BYTES)
        if bytes_long > self._limits.packet_bytes_max:
            raise TooLarge(f"the packet would be {bytes_long} bytes long, {self._limits.packet_bytes_max} is the limit")

    async def _ask(self, op: Op, body: object, *, room: str = "", id: str = "", may_repeat: bool = True) -> Any:
        """The reply, on whatever connection it comes. Who stops waiting has asked no more."""
        if self._ended is not None:
            raise self._ended
        if self._task is None:
            raise RuntimeError(NOT_ENTERED)
        asked = self._core.ask(int(op), body, room=room, id=id, may_repeat=may_repeat)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._outcomes[asked] = future
        self._wake.set()
        self._look_at_backlog()
        try:
            return await future
        finally:
            self._core.forget(asked)
            self._outcomes.pop(asked, None)

    # --- connecting, and again -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Be connected, until that is pointless or somebody ends it."""
        limits = self._limits
        failures = 0
        round_: list[str] = []
        try:
            while True:
                if not round_:
                    round_ = random.sample(self._urls, len(self._urls))
                ending = await self._attempt(round_.pop())
                lived_s = 0.0 if self._opened_at is None else time.monotonic() - self._opened_at
                if ending.is_final:
                    self._stop(ending.error)
                    return
                if lived_s >= limits.steady_s or ending.is_timed:
                    failures = 0
                if ending.is_wanted:
                    continue
                if round_ and self._opened_at is None and not ending.delay_s:
                    continue  # the others first
                ceiling_s = min(limits.backoff_max_s, limits.backoff_s * 2 ** min(failures, 30))
                delay_s = ending.delay_s + (0.0 if ending.is_timed else self._chance() * ceiling_s)
                failures += 1
                self._become(State.WAITING)
                log.warning("x %s; again in %.1f s", ending.error, delay_s)
                await asyncio.sleep(delay_s)
                await self._may_read.wait()  # a program that takes nothing needs no connection either
        except Exception as error:
            log.exception("! the client ends")
            self._stop(error)

    async def _attempt(self, url: str) -> _Ending:
        core = self._core
        self._opened_at = None
        self._farewell = None
        self._become(State.CONNECTING)
        core.connecting()
        ending = _Ending(ConnectionClosed("cancelled", code="cancelled"))
        try:
            ending = await self._try(url)
        finally:
            for unknown in core.lost(ending.close, ending.error.code):
                self._answer(unknown)
        return ending

    async def _try(self, url: str) -> _Ending:
        limits = self._limits
        at = "asking for a token"
        try:
            async with asyncio.timeout(limits.connect_s):
                token = await ask_for(self._token)
                at = url
                carrier = await carriers.connect(url, self._tls)
        except HandshakeRefused as refused:
            is_final = refused.status < 500 and refused.status not in (408, 425, 429)
            return _Ending(
                closed("handshake_refused", f"{url}: {refused}"), delay_s=refused.retry_after_s, is_final=is_final
            )
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            return _Ending(closed("unreachable", f"{at}: {str(error) or type(error).__name__}"))
        except ClientError as error:  # of what gives tokens, and asks a server for them itself
            return _Ending(error, delay_s=(error.retry_after_ms or 0) / 1000, is_final=not error.retry)
        try:
            self._core.connected(carriers.codec_for(url))
            return await self._converse(carrier, token)
        finally:
            await _close(carrier)

    async def _converse(self, carrier: Carrier, token: str | None) -> _Ending:
        """Read and write until one of the two finds that it is over."""
        now = asyncio.get_running_loop().time()
        self._began_at = self._heard_at = self._said_at = now
        self._acked_at = 0.0
        self._beat_at = None
        self._look_at_backlog()
        reading = asyncio.create_task(self._read(carrier))
        writing = asyncio.create_task(self._write(carrier, self._core.auth(token)))
        renewing = asyncio.create_task(self._renew())
        try:
            await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done() and isinstance(writing.exception(), ConnectionError):
                await asyncio.wait({reading}, timeout=GOODBYE_S)  # why it broke may be there to read
            for task in (reading, writing):
                if task.done() and task.exception() is None:
                    return self._judge(task.result())
            for task in (reading, writing):
                if task.done() and (error := task.exception()) is not None:
                    if isinstance(error, (OSError, aiohttp.ClientError)):
                        return self._judge(_Ending(closed("broken", f"the connection broke: {error}")))
                    raise error
            raise AssertionError("one of them is done")
        finally:
            for one in (reading, writing, renewing):
                one.cancel()
            await asyncio.gather(reading, writing, renewing, return_exceptions=True)

    def _judge(self, ending: _Ending) -> _Ending:
        """What follows from how it ended, and from what the server said before."""
        farewell = self._farewell
        if farewell is not None:
            error = farewell.error
            if farewell.close is not None and isinstance(error, ConnectionClosed):
                error.close = farewell.close
            return _Ending(
                error,
                farewell.close if farewell.close is not None else ending.close,
                farewell.delay_s,
                is_final=not error.retry and not self._may_get_token(error),
                is_timed=farewell.close is not None and farewell.delay_s > 0,
            )
        if ending.close is not None and ending.close in FINAL_CLOSES:
            error = closed(FINAL_CLOSES[ending.close], FINAL_WORDS.get(ending.close, ""), ending.close)
            return replace(ending, error=error, is_final=not self._may_get_token(error))
        return ending

    def _may_get_token(self, error: ClientError) -> bool:
        """Was it the token that was refused, and is another to be had?"""
        if not isinstance(error, Unauthenticated) or not callable(self._token):
            return False
        self._tokens_refused += 1
        refuse(self._token)
        return self._tokens_refused < TOKENS_MAX

    # --- one connection ----------------------------------------------------------------------------------------------------------

    async def _read(self, carrier: Carrier) -> _Ending:
        loop = asyncio.get_running_loop()
        core = self._core
        while True:
            if not self._may_read.is_set():
                self._is_paused = True
                try:
                    await self._may_read.wait()
                finally:
                    self._is_paused = False
                    self._heard_at = loop.time()
                    self._beat_at = None
            data = await carrier.read()
            if not data:
                return _Ending(closed("broken", "the connection was closed"), carrier.close_code)
            now = loop.time()
            self._heard_at = now
            self._beat_at = None
            ending = None
            try:
                steps = core.receive(data, now)
            except ImcoreError as error:
                ending = _Ending(closed("broken", f"the server speaks another protocol: {error.detail}"))
                steps = error.steps if isinstance(error, Misunderstood) else []
            for step in steps:
                await self._act(step)
            if ending is not None:
                return ending
            self._look_at_backlog()
            if core.backlog or self._is_closing:
                self._arrived.set()
            self._wake.set()

    async def _renew(self) -> None:
        """Give the connection the next token before this one is over, if what gives tokens knows when that is (`good_for_s`). Where
        that fails, the server ends the connection in time, and the next one has the next token."""
        while callable(self._token) and (left_s := getattr(self._token, "good_for_s", None)) is not None:
            await asyncio.sleep(max(RENEW_S, left_s))
            try:
                await self.call("account.renew", {"token": await ask_for(self._token)}, retry=True)
            except (ClientError, OSError, aiohttp.ClientError) as error:
                log.warning("% the token could not be renewed: %s", error)
                return

    async def _act(self, step: Opened | Answered | Acked | Farewell) -> None:
        match step:
            case Answered():
                self._answer(step)
            case Acked(cursor=cursor, seen=seen):
                await self._keep(Change(cursor=cursor, seen=seen))
            case Farewell():
                if self._farewell is None:
                    self._farewell = step
                else:  # the auth reply said more than the disconnect after it
                    self._farewell = Farewell(
                        self._farewell.error, step.close, max(step.delay_s, self._farewell.delay_s)
                    )
            case Opened():
                await self._open(step)

    def _answer(self, answered: Answered) -> None:
        """Tell whoever waits for it."""
        future = self._outcomes.get(answered.asked)
        if future is not None and not future.done():
            if answered.error is None:
                future.set_result(answered.body)
            else:
                future.set_exception(answered.error)

    async def _open(self, opened: Opened) -> None:
        if self._kept_mid not in (None, opened.mid):
            error = ForeignCursor(f"this cursor is that of member {self._kept_mid}, not of {opened.mid}")
            self._farewell = Farewell(error, None, 0.0)
            raise ConnectionError("not our cursor")
        await self._keep(Change(key=opened.key, mid=opened.mid, cursor=opened.cursor if opened.store else None))
        self._kept_mid = opened.mid
        self._tokens_refused = 0
        self._opened_at = time.monotonic()
        self._beat_s = min(self._limits.heartbeat_s, opened.heartbeat_s / 2)
        self._has_begun.set()
        self._become(State.CONNECTED)
        log.info("= connected, from position %d on%s", opened.position, f" ({opened.reason})" if opened.reason else "")

    async def _keep(self, change: Change) -> None:
        """A cursor that cannot be stored is an old cursor: more comes again. The loop's own changes raise there."""
        try:
            await self._cursor.keep(change)
        except Exception:
            log.exception("! the cursor cannot be stored")

    async def _write(self, carrier: Carrier, first: bytes) -> _Ending:
        loop = asyncio.get_running_loop()
        core, limits = self._core, self._limits
        await self._say(carrier, [first])
        while True:
            self._wake.clear()
            now = loop.time()
            if core.has_overflowed and not core.backlog:
                core.leaving()
                return _Ending(closed("overflow", "what was let go is fetched again"), is_wanted=True)
            if self._is_dead(now):
                return _Ending(closed("no_answer", "the other side does not answer"))
            if core.has_news and now - self._acked_at >= limits.ack_s:
                self._acked_at = now
                core.acknowledge()
            packets = core.take(now)
            if packets:
                self._said_at = loop.time()
                await self._say(carrier, packets)
                continue
            due = self._due()
            try:
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _say(self, carrier: Carrier, packets: list[bytes]) -> None:
        try:
            async with asyncio.timeout(self._limits.answer_s):
                await carrier.write(packets)
        except TimeoutError:
            raise ConnectionError("the other side takes nothing") from None

    def _is_dead(self, now: float) -> bool:
        """Asks for a sign of life when it is time for one. True when one was asked for, and did not come."""
        limits, core = self._limits, self._core
        if self._farewell is not None:
            return now - self._heard_at > GOODBYE_S
        if not core.is_open:
            return now - self._began_at > limits.auth_s
        if self._beat_at is not None and not self._is_paused:
            return now - self._beat_at > limits.answer_s
        silent_s = 0.0 if self._is_paused else now - self._heard_at
        patience_s = min(self._beat_s, limits.answer_s / 2) if core.awaits_answer else self._beat_s
        if silent_s >= patience_s or now - self._said_at >= self._beat_s:
            self._beat_at = self._said_at = now
            core.heartbeat()
        return False

    def _due(self) -> float:
        """When to look again, if nothing happens."""
        limits, core = self._limits, self._core
        if self._farewell is not None:
            return self._heard_at + GOODBYE_S + 0.01
        if not core.is_open:
            return self._began_at + limits.auth_s + 0.01
        times = [self._said_at + self._beat_s]
        if self._beat_at is not None:
            times.append(self._beat_at + limits.answer_s + 0.01)
        elif not self._is_paused:
            patience_s = min(self._beat_s, limits.answer_s / 2) if core.awaits_answer else self._beat_s
            times.append(self._heard_at + patience_s)
        if core.has_news:
            times.append(self._acked_at + limits.ack_s)
        due = core.due()
        if due is not None:
            times.append(due)
        return min(times)

    def _look_at_backlog(self) -> None:
        """May more be read? While somebody waits for an answer, always."""
        core = self._core
        if core.backlog < self._limits.queue_events_max or core.awaits:
            self._may_read.set()
        else:
            self._may_read.clear()
        if core.has_overflowed and not core.backlog:
            self._wake.set()

    # --- the end ---------------------------------------------------------------------------------------------------------------

    def _become(self, state: State) -> None:
        if state != self._state or state is State.CONNECTING:
            self._state = state
            if self._on_state is not None:
                try:
                    self._on_state(state)
                except Exception:  # whoever looks on stops nobody
                    log.exception("! on_state failed")

    def _stop(self, error: Exception) -> None:
        """There is nothing more to come, for whoever waits."""
        if self._ended is None:
            self._ended = error
            self._become(State.CLOSED)
        for future in self._outcomes.values():
            if not future.done():
                future.set_exception(self._ended)
        self._has_begun.set()
        self._arrived.set()


class _Messages(AsyncIterator[Message]):
    def __init__(self, client: Client) -> None:
        self._client = client

    async def __anext__(self) -> Message:
        happening = await self._client._next(only_messages=True)
        assert isinstance(happening, Message)
        return happening


class _Events(AsyncIterator[Happening]):
    def __init__(self, client: Client) -> None:
        self._client = client

    async def __anext__(self) -> Happening:
        return await self._client._next(only_messages=False)


def _checked(room: str) -> str:
    """The room's name. Raises ValueError: a name that cannot be one is a mistake of the program, not of the server's."""
    try:
        return check_room(room)
    except ImcoreError as error:
        raise ValueError(error.detail) from None


async def _close(carrier: Carrier) -> None:
    try:
        async with asyncio.timeout(GOODBYE_S):
            await carrier.close()
    except TimeoutError:
        log.debug("x the other side did not say goodbye")
