"""What a person may read, once for connections and for HTTP: history, inbox, members, and the read mark.

Each function takes what it reads from (`Reads`), who asks, and gives the reply as JSON. The service (mid 0) may read every room. Who
is not in a room gets NoSuchRoom, whether there is such a room or not. Live rooms have no members: whoever lets somebody in there has
asked already, and asks before it calls `history`.

Pages are bounded in rows and in bytes. The order of reading matters for history: the head first, then the membership, then events up
to that head. A member then, joined no later than the page begins, was a member all the way; what is said after a removal is never in
the page, however the two race.

The trap: inbox and unread come from rows that follow the log. They are read only once the rows have reached the log's head as it was
when the request came, so that people read their own writes. If that takes longer than a second the answer is Unavailable, not an old
number.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import orjson

from imcore import commands, membership
from imcore.envelope import envelope
from imcore.errors import NoSuchRoom, Unavailable
from imcore.events.names import Pool
from imcore.events.reader import Reader
from imcore.events.store import UNFENCED, Log
from imcore.events.types import ROOM, SERVICE_MID, room_type
from imcore.permissions import Actor, Standing
from imcore.projections import queries

PAGE_BYTES_MAX: Final = 1 << 20  # of a reply; the rest is the next page
REACHED_S: Final = 1.0

# A person's mark in a room, and the messages of others after it. Own messages that the rows do not know yet are counted in the log.
MARK: Final = """
SELECT i.read_seq, s.messages - i.seen - (i.sent - i.sent_seen) - late.sent AS unread
FROM inbox i
JOIN checkpoints c ON c.projection = 'inbox'
JOIN members m ON m.mid = i.mid AND m.room = i.room AND m.since_seq = i.since_seq
JOIN streams s ON s.name = 'room:' || i.room
CROSS JOIN LATERAL (
  SELECT count(*) AS sent FROM events e
  WHERE s.position > c.position AND e.stream_id = s.id AND e.position > c.position
    AND e.seq > imcore_seq_at(s.id, s.seq, c.position) AND e.mid = i.mid AND e.op > 0) late
WHERE i.mid = $1 AND i.room = $2
"""


@dataclass(frozen=True, slots=True)
class Reads:
    """Where answers come from. `reached(position, timeout_s)` waits until the rows hold that event; False if they do not in time."""

    pool: Pool
    reader: Reader
    log: Log
    reached: Callable[[int, float], Awaitable[bool]]
    live_types: frozenset[str]


async def history(
    reads: Reads, room: str, mid: int, *, before: int | None = None, after: int | None = None, limit: int
) -> bytes:
    """A page of the room's events in order of seq: those just before a seq, just after one, or the newest.

    A member sees the room from its join on, or from the beginning if the room shows its history. `more` says that there are
    events beyond the page, in the direction that was asked for. Raises NoSuchRoom.
    """
    head = (await reads.reader.stream_head(ROOM + room)).seq
    first = await _first_seq(reads, room, mid, head)
    is_back = after is None
    if after is not None:
        events = await reads.reader.read_on(ROOM + room, max(after, first - 1), limit + 1)
        events = [event for event in events if event.seq <= head]
    else:
        events = await reads.reader.read_back(ROOM + room, min(before or head + 1, head + 1), limit + 1)
        events = [event for event in events if event.seq >= first]
    taken, more = _page([envelope(event) for event in events], limit)
    if is_back:
        taken.reverse()
    return b'{"room":%b,"events":[%b],"head":%d,"more":%b}' % (
        orjson.dumps(room),
        b",".join(taken),
        head,
        b"true" if more else b"false",
    )


async def members(reads: Reads, room: str, actor: Actor, *, after: int | None = None, limit: int) -> bytes:
    """A page of the members of the room in order of mid, and who of them is online. `version` is a position at which all of it was so,
    or later: what changed after it, `changes` knows. Raises NoSuchRoom."""
    await check(reads, "rooms.members", room, actor)
    version = await reads.pool.fetchval(queries.HEAD)
    lines = await queries.members_page(reads.pool, room, after, limit + 1)
    reply: dict[str, object] = {"room": room, "version": version, "members": [line._asdict() for line in lines[:limit]]}
    if len(lines) > limit:
        reply["next"] = lines[limit - 1].mid
    return orjson.dumps(reply)


async def changes(reads: Reads, room: str, actor: Actor, *, after: int, limit: int) -> bytes:
    """What changed in the list of members after a version of it: each person once, as it is now, in order of the changes.

    `reload`: more than `limit` did, and the pages of the list are the shorter way. Raises NoSuchRoom.
    """
    await check(reads, "rooms.changes", room, actor)
    version = await reads.pool.fetchval(queries.HEAD)
    lines = await queries.changes(reads.pool, room, after, limit + 1)
    if len(lines) > limit or after > version:
        return orjson.dumps({"room": room, "version": version, "reload": True, "changes": []})
    shown = [line._asdict() for line in lines]
    return orjson.dumps({"room": room, "version": version, "reload": False, "changes": shown})


async def inbox(reads: Reads, mid: int, *, after: str = "", limit: int) -> bytes:
    """A page of the rooms that the person is in, in order of name, with what is unread in each and its newest message.

    Raises Unavailable when the rows do not follow the log.
    """
    await _follow(reads, (await reads.reader.head()).position)
    lines = await queries.inbox_page(reads.pool, mid, after, limit + 1)
    shown = [
        b'{"room":%b,"head":%d,"read":%d,"unread":%d,"role":%b,"last":%b}'
        % (
            orjson.dumps(line.room),
            line.head,
            line.read_seq,
            max(0, line.unread),
            orjson.dumps(line.role),
            b"null" if line.last is None else envelope(line.last),
        )
        for line in lines
    ]
    taken, more = _page(shown, limit)
    return b'{"rooms":[%b]%b}' % (
        b",".join(taken),
        b',"next":%b' % orjson.dumps(lines[len(taken) - 1].room) if more else b"",
    )


async def mark_read(reads: Reads, room: str, mid: int, seq: int, *, key: str = "", fence: int = UNFENCED) -> bytes:
    """The person has read the room up to `seq`, or up to its head if that comes before; a mark never goes back.

    Answered when the mark is committed: the mark in force, and what is unread after it. Raises NoSuchRoom, and Unavailable when the
    outcome is not known; marking again does no harm. TakenOver, if a session marks that is not the newest of its key (`fence`).
    """
    facts = await queries.read_facts(reads.pool, room, mid, seq)
    if facts is None:
        raise NoSuchRoom
    mark = await reads.pool.fetchrow(MARK, mid, room)
    if mark is not None and mark["read_seq"] >= facts.seq:
        position = (await reads.reader.head()).position
    else:
        draft = commands.mark_read(room, mid, facts.seq, facts.messages, facts.sent, key=key, fence=fence)
        position = (await reads.log.appending(draft)).position
    await _follow(reads, position)
    mark = await reads.pool.fetchrow(MARK, mid, room)
    if mark is None:
        raise NoSuchRoom  # it has left meanwhile
    return orjson.dumps({"room": room, "seq": mark["read_seq"], "unread": max(0, mark["unread"])})


async def check(reads: Reads, operation: str, room: str, actor: Actor) -> queries.Standings:
    """Pass who may do this in the room, as the rows are now, and say what it is to the room. Raises what the permission table says."""
    found = await queries.standings(reads.pool, room, actor.mid)
    if found is None:
        raise NoSuchRoom
    membership.check(operation, actor, found.room, standing_of(found))
    return found


def standing_of(found: queries.Standings) -> Standing:
    """What somebody is to a room now, as these rows say."""
    return membership.standing(found.member, found.ban, found.invitation, time.time_ns() // 1_000_000)


async def _first_seq(reads: Reads, room: str, mid: int, head: int) -> int:
    """From where on this person sees the room."""
    if room_type(room) in reads.live_types:
        return 1
    if mid == SERVICE_MID:
        if head == 0:
            raise NoSuchRoom
        return 1
    member = await queries.member(reads.pool, room, mid)
    if member is None:
        raise NoSuchRoom
    found = await queries.room(reads.pool, room)
    return 1 if found is not None and found.history == "all" else member.since_seq


async def _follow(reads: Reads, position: int) -> None:
    if not await reads.reached(position, REACHED_S):
        raise Unavailable("the inbox does not follow the log at the moment; ask again", retry_after_ms=1000)


def _page(rows: list[bytes], limit: int) -> tuple[list[bytes], bool]:
    """As many rows as fit into a page, at least one; and whether any were left."""
    size = 0
    for n, row in enumerate(rows[:limit]):
        size += len(row)
        if n and size > PAGE_BYTES_MAX:
            return rows[:n], True
    return rows[:limit], len(rows) > limit
