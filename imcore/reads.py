"""What a person may read, once for connections and for HTTP: messages, history, threads, mentions, inbox, members, and the read mark.

Each function takes what it reads from (`Reads`), who asks, and gives the reply as JSON. The service (mid 0) may read every room. Who
is not in a room gets NoSuchRoom, whether there is such a room or not. Live rooms have no members: whoever lets somebody in there has
asked already, and asks before it calls `history`.

Messages read as they are now: an edited one with its last words, a recalled one with none. What became of them is looked up after they
were read, so that what is recalled before the answer is made is not in it.

Pages are bounded in rows and in bytes. The order of reading matters for history: the head first, then the membership, then events up
to that head. A member then, joined no later than the page begins, was a member all the way; what is said after a removal is never in
the page, however the two race. What became of messages, and the reactions to them, are read last, each in one statement with whether
the membership is the same still (`check_still`). The same goes for pins and receipts.

The trap: inbox and unread come from rows that follow the log. They are read only once the rows have reached the log's head as it was
when the request came, so that people read their own writes. If that takes longer than a second the answer is Unavailable, not an old
number.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import orjson

from imcore import commands, membership
from imcore.envelope import edited, envelope
from imcore.errors import BadRequest, ImcoreError, NoSuchMessage, NoSuchRoom, Unavailable
from imcore.events import messages
from imcore.events.names import Pool
from imcore.events.reader import Reader
from imcore.events.store import UNFENCED, Log
from imcore.events.types import ROOM, SERVICE_MID, Recorded, room_type
from imcore.permissions import SEE_EVERYBODY, Actor, Standing, table
from imcore.projections import queries
from imcore.projections.amendments import Amendment
from imcore.protocol.packet import INT64_MAX
from imcore.roles import PRIVILEGED

PAGE_BYTES_MAX: Final = 1 << 20  # of a reply; the rest is the next page
REACHED_S: Final = 1.0
SPARSE: Final = 4  # places for each message of a page: from here on they are looked up one by one

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
    """Where answers come from. `reached(position, timeout_s)` waits until the rows hold that event; False if they do not in time.
    `presence_room_members_max` is up to which size members of a room see who of them is online. `searched` is the same as `reached` for
    what messages are found by, or None where they are not. `marked(room, mid, seq)` is told of read marks that went forward."""

    pool: Pool
    reader: Reader
    log: Log
    reached: Callable[[int, float], Awaitable[bool]]
    live_types: frozenset[str]
    presence_room_members_max: int
    searched: Callable[[int, float], Awaitable[bool]] | None = None
    marked: Callable[[str, int, int], None] = lambda room, mid, seq: None


async def history(
    reads: Reads,
    room: str,
    who: Actor,
    *,
    before: int | None = None,
    after: int | None = None,
    around: int | None = None,
    at: int | None = None,
    limit: int,
) -> bytes:
    """A page of the room's events in order of seq, as they read now: those just before a seq, just after one, on both sides of one
    (half of them before it), on both sides of a time, or the newest.

    A member sees the room from its join on, or from the beginning if the room shows its history. `more` says that there are
    events beyond the page, in the direction that was asked for; with `around` those before it, and `more_after` those behind it. A page
    with more beyond it has at least one event. Raises NoSuchRoom.
    """
    head = (await reads.reader.stream_head(ROOM + room)).seq
    sees = await _sees(reads, room, who, head, "messages.history")
    first = sees.first
    if at is not None:
        around = await reads.reader.seq_at(ROOM + room, at, first, head)
    older, newer = list[Recorded](), list[Recorded]()
    rows_before, rows_after = limit, limit
    if around is not None:
        rows_before = limit // 2
        rows_after = limit - rows_before
    if after is not None or around is not None:
        since = around - 1 if around is not None else after or 0
        newer = await reads.reader.read_on(ROOM + room, max(since, first - 1), rows_after + 1)
        newer = [event for event in newer if event.seq <= head]
    if after is None:
        # Half of one is none, and an empty page that says `more` gives a client nothing to go on from.
        rows_before = rows_before if newer else max(rows_before, 1)
        until = head + 1 if before is None and around is None else before or around or 0
        older = await reads.reader.read_back(ROOM + room, min(until, head + 1), rows_before + 1)
        older = [event for event in older if event.seq >= first]
    shown = iter(await _as_now(reads, room, [*older, *newer], who, sees))
    bytes_max = PAGE_BYTES_MAX if around is None else PAGE_BYTES_MAX // 2
    back, more_before = _page([next(shown) for _ in older], rows_before, bytes_max)
    on, more_after = _page(list(shown), rows_after, bytes_max)
    back.reverse()
    more = more_after if after is not None else more_before
    return b'{"room":%b,"events":[%b],"head":%d,"more":%b%b}' % (
        orjson.dumps(room),
        b",".join([*back, *on]),
        head,
        orjson.dumps(more),
        b"" if around is None else b',"more_after":%b' % orjson.dumps(more_after),
    )


async def message(reads: Reads, room: str, seq: int, who: Actor) -> Recorded:
    """A message that this person sees, as it was sent. Raises NoSuchRoom, and NoSuchMessage for a seq that is that of none."""
    found, _ = await _message(reads, room, seq, who, "messages.show", (await reads.reader.stream_head(ROOM + room)).seq)
    return found


async def _message(reads: Reads, room: str, seq: int, who: Actor, operation: str, head: int) -> tuple[Recorded, _Sees]:
    """The same, given the head of the room, which was read before; and how this person sees the room."""
    sees = await _sees(reads, room, who, head, operation)
    found = await reads.reader.read_seqs(ROOM + room, [seq]) if sees.first <= seq <= head else []
    if not found or not found[0].op:
        raise NoSuchMessage
    return found[0], sees


async def show(reads: Reads, room: str, seq: int, who: Actor) -> bytes:
    """A message as it reads now. Raises NoSuchRoom, NoSuchMessage."""
    head = (await reads.reader.stream_head(ROOM + room)).seq
    found, sees = await _message(reads, room, seq, who, "messages.show", head)
    (shown,) = await _as_now(reads, room, [found], who, sees)
    return shown


async def message_and_amendment(
    reads: Reads, room: str, seq: int, who: Actor, operation: str
) -> tuple[Recorded, Amendment | None]:
    """A message that this person sees, as it was sent, and what became of it. Raises NoSuchRoom, NoSuchMessage."""
    head = (await reads.reader.stream_head(ROOM + room)).seq
    found, sees = await _message(reads, room, seq, who, operation, head)
    return found, (await _amendments(reads, room, seq, seq, who, sees)).get(seq)


async def thread(reads: Reads, room: str, seq: int, who: Actor, *, after: int = 0, limit: int) -> bytes:
    """A page of the messages of a thread, in order, as they read now; `seq` is that of its first message, which is not among them.

    Raises NoSuchRoom, NoSuchMessage, and Unavailable when the rows do not follow the log.
    """
    head = (await reads.reader.stream_head(ROOM + room)).seq
    sees = await _sees(reads, room, who, head, "messages.thread")
    if not any(event.op for event in await reads.reader.read_seqs(ROOM + room, [seq])):
        raise NoSuchMessage
    await _follow(reads, (await reads.reader.head()).position)
    seqs = await queries.thread(reads.pool, room, seq, max(after, sees.first - 1), limit + 1)
    events = await reads.reader.read_seqs(ROOM + room, [one for one in seqs if one <= head])
    taken, more = _page(await _as_now(reads, room, events, who, sees), limit)
    next_ = b',"next":%d' % events[len(taken) - 1].seq if more else b""
    return b'{"room":%b,"thread":%d,"events":[%b]%b}' % (orjson.dumps(room), seq, b",".join(taken), next_)


async def edits(reads: Reads, room: str, seq: int, who: Actor, *, after: int = 0, limit: int) -> bytes:
    """A message as it was sent, and a page of its edits in order. Of one that was recalled they are without words.

    Raises NoSuchRoom, NoSuchMessage, and Unavailable when the rows do not follow the log.
    """
    head = (await reads.reader.stream_head(ROOM + room)).seq
    original, _ = await _message(reads, room, seq, who, "messages.edits", head)
    await _follow(reads, (await reads.reader.head()).position)
    seqs = await queries.edits(reads.pool, room, seq, after, limit + 1)
    events = [original, *await reads.reader.read_seqs(ROOM + room, [one for one in seqs if one <= head])]
    now = (await queries.amendments(reads.pool, room, seq, seq, mid=who.mid)).rows.get(seq)
    if now is not None and now.recalled:
        events = [messages.hidden(event, now.recalled_by, now.recalled) for event in events]
    first, *others = map(envelope, events)
    taken, more = _page(others, limit)
    next_ = b',"next":%d' % events[len(taken)].seq if more else b""
    return b'{"message":%b,"edits":[%b]%b}' % (first, b",".join(taken), next_)


async def pins(reads: Reads, room: str, who: Actor, *, after: int | None = None, limit: int) -> bytes:
    """A page of the pinned messages of a room, as far as this person sees them: the newest pin first, each with its message as it reads
    now. A message that the log does not hold any more is left out of its pin. Raises NoSuchRoom."""
    head = (await reads.reader.stream_head(ROOM + room)).seq
    sees = await _sees(reads, room, who, head, "pins.list")
    before = INT64_MAX if after is None else after
    lines, since = await queries.pins(reads.pool, room, sees.first, head, before, limit + 1, mid=who.mid)
    if lines:
        check_still(sees.since, since)
    events = await reads.reader.read_seqs(ROOM + room, [line.seq for line in lines])
    messages_of = dict(zip([event.seq for event in events], await _as_now(reads, room, events, who, sees), strict=True))
    shown = [
        b'{"seq":%d,"by":%d,"position":%d,"time":%d%b}'
        % (
            line.seq, line.by, line.position, line.time_ms,
            b',"message":%b' % messages_of[line.seq] if line.seq in messages_of else b"",
        )
        for line in lines
    ]  # fmt: skip
    taken, more = _page(shown, limit)
    next_ = b',"next":%d' % lines[len(taken) - 1].position if more else b""
    return b'{"room":%b,"pins":[%b]%b}' % (orjson.dumps(room), b",".join(taken), next_)


async def mentions(reads: Reads, mid: int, *, unread: bool = False, after: int | None = None, limit: int) -> bytes:
    """A page of the messages that name this person, or all of a room that it is in, newest first, as they read now; without its own,
    those that were recalled, and those from before it joined. With `unread` only those after its read mark in the room.

    Raises Unavailable when the rows do not follow the log.
    """
    await _follow(reads, (await reads.reader.head()).position)
    before = INT64_MAX if after is None else after
    found = await queries.mentions(reads.pool, mid, before, unread=unread, limit=limit + 1)
    taken, more = _page([as_now(one.message, one.amendment) for one in found], limit)
    next_ = b',"next":%d' % found[len(taken) - 1].message.position if more else b""
    return b'{"mentions":[%b]%b}' % (b",".join(taken), next_)


def as_now(event: Recorded, row: Amendment | None) -> bytes:
    """An event as it reads now, given what became of its message."""
    if row is None:
        return envelope(event)
    if row.recalled:
        return envelope(messages.hidden(event, row.recalled_by, row.recalled))
    if not event.op:
        return envelope(event)
    return edited(event, row.format, row.body, position=row.edited, time_ms=row.edited_ms, count=row.edits)


async def check_about(reads: Reads, room: str, who: Actor, what: messages.About, *, client_id: str) -> None:
    """Passes what a message may be about: messages of the room that its sender sees, a thread of which it need not see the first (who
    joined later sees the others, and may answer them), and members of it.

    A retry passes too, of whom was named and has left meanwhile: the log compares it with the first. Raises NoSuchMessage, BadRequest,
    and NoSuchRoom for who is not in the room.
    """
    seqs = {seq for seq in (what.reply_to, what.thread) if seq}
    people = set(what.mentions) - {messages.EVERYBODY_MID}
    if not seqs and not what.mentions:
        return
    is_live = room_type(room) in reads.live_types
    if is_live and what.mentions:
        raise BadRequest("mentions: a room of this type has no members")
    unseen = 0 if what.thread == what.reply_to else what.thread
    found = await queries.judge(reads.pool, room, who.mid, seqs, people, unseen)
    fault: ImcoreError
    if found is None or not (found.is_member or is_live or who.role == "service"):
        fault = NoSuchMessage() if is_live else NoSuchRoom()
    elif found.messages < len(seqs):
        fault = NoSuchMessage("reply_to is no message of this room that you see, or thread none at all")
    elif found.people < len(people):
        fault = BadRequest("mentions: not all of these are in the room")
    else:
        return
    if await queries.used(reads.pool, who.mid, client_id) is None:
        raise fault


async def _amendments(
    reads: Reads, room: str, first: int, last: int, who: Actor, sees: _Sees, others: Collection[int] = ()
) -> dict[int, Amendment]:
    """What became of messages of a room from one seq to another, and of others. Raises NoSuchRoom if who asks has gone since it was
    looked at, because it would be told what was said after that; Unavailable if it is back already."""
    found = await queries.amendments(reads.pool, room, first, last, others, mid=who.mid)
    if found.rows:
        check_still(sees.since, found.since)
    return found.rows


def check_still(before: int | None, now: int | None) -> None:
    """Pass who is in the room by the membership that was looked at `before`; `now` is the one that was read with what is to be shown.

    Who needs no membership has None before, and passes. Raises NoSuchRoom, and Unavailable for who is back already.
    """
    if before is None or now == before:
        return
    if now is None:
        raise NoSuchRoom
    raise Unavailable("you left the room and are in it again; ask again", retry_after_ms=1)


async def _as_now(reads: Reads, room: str, events: list[Recorded], who: Actor, sees: _Sees) -> list[bytes]:
    """Events of a room as they read now, and messages with the reactions to them: one query a page for each. What is looked up after
    the page was read is no older than it. Raises NoSuchRoom and Unavailable, as `_amendments` and `reactions_of` do."""
    targets = [messages.target(event) for event in events]
    own = [event.seq for event in events if event.op]
    others = {target for target, event in zip(targets, events, strict=True) if target and not event.op}
    if not own and not others:
        return [envelope(event) for event in events]
    first, last = (min(own), max(own)) if own else (0, -1)
    if last - first >= SPARSE * len(
        own
    ):  # a few of many, as pins and threads are: what became of all between is not read
        others, first, last = others | {*own}, 0, -1
    rows = await _amendments(reads, room, first, last, who, sees, others)
    shown = [as_now(event, rows.get(target)) for event, target in zip(events, targets, strict=True)]
    left = [seq for seq in own if (row := rows.get(seq)) is None or not row.recalled]
    reactions = await reactions_of(reads, room, left, who.mid, sees.since)
    if not reactions:
        return shown
    return [
        _with_reactions(one, reactions[event.seq]) if event.op and event.seq in reactions else one
        for one, event in zip(shown, events, strict=True)
    ]


def _with_reactions(shown: bytes, reactions: Sequence[ReactionCount]) -> bytes:
    said = [{"reaction": one.reaction, "count": one.people, "mine": one.mine} for one in reactions]
    return b'%b,"reactions":%b}' % (shown[:-1], orjson.dumps(said))


async def members(reads: Reads, room: str, actor: Actor, *, after: int | None = None, limit: int) -> bytes:
    """A page of the members of the room in order of mid, and who of them is online, of those who let whoever asks
    see it. `version` is a position at which all of it was so,
    or later: what changed after it, `changes` knows. Raises NoSuchRoom."""
    found = await check(reads, "rooms.members", room, actor)
    version = await reads.pool.fetchval(queries.HEAD)

    async def seen_by(viewer: int) -> list[queries.MemberLine]:
        most = reads.presence_room_members_max
        return await queries.members_page(reads.pool, room, after, limit + 1, viewer=viewer, room_members_max=most)

    if actor.role not in SEE_EVERYBODY:
        lines = await seen_by(actor.mid)
    else:
        lines = await seen_by(SERVICE_MID)
        if is_shown_as_anybody(actor, found):
            as_anybody = await seen_by(actor.mid)
            theirs = {line.mid for line in as_anybody if line.online}
            hidden = [line.mid for line in lines if line.online and line.mid not in theirs]
            if not hidden or not await sees_more(reads, "rooms.members", actor, hidden, room):
                lines = as_anybody
    shown = [line._asdict() for line in lines[:limit]]
    for line in shown:
        if not line["muted_until_ms"]:  # as nearly all are
            del line["muted_until_ms"]
    reply: dict[str, object] = {"room": room, "version": version, "members": shown}
    if len(lines) > limit:
        reply["next"] = lines[limit - 1].mid
    return orjson.dumps(reply)


async def changes(reads: Reads, room: str, actor: Actor, *, after: int, limit: int) -> bytes:
    """A page of what changed in the list of members after a version of it: each person once, as it is now, in order of the changes.

    `reload`: the log is not so long, so the version is of another one. Raises NoSuchRoom.
    """
    await check(reads, "rooms.changes", room, actor)
    version = await reads.pool.fetchval(queries.HEAD)
    lines = await queries.changes(reads.pool, room, after, limit + 1)
    if after > version:
        return orjson.dumps({"room": room, "version": version, "reload": True, "more": False, "changes": []})
    more = len(lines) > limit
    shown = [line._asdict() for line in lines[:limit]]
    if more:
        version = shown[-1]["position"]
    return orjson.dumps({"room": room, "version": version, "reload": False, "more": more, "changes": shown})


async def inbox(reads: Reads, mid: int, *, after: str = "", limit: int) -> bytes:
    """A page of the rooms that the person is in, in order of name, with what is unread in each and its newest message.

    Raises Unavailable when the rows do not follow the log.
    """
    await _follow(reads, (await reads.reader.head()).position)
    lines = await queries.inbox_page(reads.pool, mid, after, limit + 1)
    shown = [
        b'{"room":%b,"head":%d,"read":%d,"unread":%d,"mentions":%d,"role":%b,"last":%b}'
        % (
            orjson.dumps(line.room),
            line.head,
            line.read_seq,
            max(0, line.unread),
            line.mentions,
            orjson.dumps(line.role),
            b"null" if line.last is None else as_now(line.last, line.amendment),
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
        marked = commands.mark_read(room, mid, facts.seq, facts.messages, facts.sent, key=key, fence=fence)
        position = (await reads.log.appending(marked)).position
        reads.marked(room, mid, facts.seq)
    await _follow(reads, position)
    mark = await reads.pool.fetchrow(MARK, mid, room)
    if mark is None:
        raise NoSuchRoom  # it has left meanwhile
    return orjson.dumps({"room": room, "seq": mark["read_seq"], "unread": max(0, mark["unread"])})


# --- about messages ----------------------------------------------------------------------------------------------------------

# What others react to these messages with, and which of it this person does too: looked up for each reaction, of which there are few.
# (EXISTS would be answered by reading all reactions to the message.) With it, since when this person was a member then.
REACTIONS_OF: Final = """
SELECT (SELECT m.since FROM members m WHERE m.room = $1 AND m.mid = $3) AS since, c.seq, c.reactions, c.counts, ARRAY(
  SELECT (
    SELECT count(*) FROM reactions r
    WHERE r.room = c.room AND r.seq = c.seq AND r.reaction = named.reaction AND r.mid = $3) > 0
  FROM unnest(c.reactions) WITH ORDINALITY AS named(reaction, n) ORDER BY named.n) AS mine
FROM reaction_counts c WHERE c.room = $1 AND c.seq = ANY($2::bigint[])
"""


class ReactionCount(NamedTuple):
    """How many react to a message so, and whether who asks is one of them."""

    reaction: str
    people: int
    mine: bool


async def reactions_of(
    reads: Reads, room: str, seqs: Sequence[int], mid: int, since: int | None
) -> dict[int, list[ReactionCount]]:
    """The reactions to these messages, in the order in which they came up; messages without any are left out. One query.

    Whoever calls has checked that the person sees them, by the membership `since` if that takes one. Raises NoSuchRoom if it has gone
    since then, because it would be told what others did after that; Unavailable if it is back already.
    """
    if not seqs:
        return {}
    rows = await reads.pool.fetch(REACTIONS_OF, room, list(seqs), mid)
    if rows:
        check_still(since, rows[0]["since"])
    return {
        seq: [ReactionCount(*one) for one in zip(reactions, counts, mine, strict=True)]
        for _, seq, reactions, counts, mine in rows
    }


class Sight(NamedTuple):
    """What somebody sees of a room: from this seq on. `members` is how many are in it, `shows_all` whether newcomers see everything.
    `since` is the membership by which it sees that (the position of its join), None where that takes none."""

    first: int
    members: int
    shows_all: bool
    since: int | None


async def sight(reads: Reads, operation: str, room: str, actor: Actor, *, is_audited: bool = True) -> Sight:
    """What somebody sees of the room, if the table allows the operation there (`check`). Raises NoSuchRoom, Forbidden, Muted."""
    if room_type(room) in reads.live_types:
        raise BadRequest("a room of this type has no members")
    found = await check(reads, operation, room, actor, is_audited=is_audited)
    shows_all = found.room.history == "all"
    first, since = _seen_by(found)
    return Sight(first, found.room.members, shows_all, since)


async def message_at(reads: Reads, room: str, seq: int, *, first: int = 1) -> Recorded:
    """The message as it was sent. Raises NoSuchMessage if there is none at that place, or it is before `first`."""
    events = await reads.reader.read_on(ROOM + room, seq - 1, 1) if seq >= first else []
    if not events or events[0].seq != seq or events[0].op == 0:
        raise NoSuchMessage
    return events[0]


async def follow(reads: Reads, position: int) -> None:
    """Wait until the rows hold this event. Raises Unavailable when they do not follow the log."""
    await _follow(reads, position)


async def check(reads: Reads, operation: str, room: str, actor: Actor, *, is_audited: bool = True) -> queries.Standings:
    """Pass who may do this in the room, as the rows are now, and say what it is to the room. Raises what the permission table says.

    Whom only a privilege on the platform lets pass has it still, and is seen to use it: that is in the log before the answer is made.
    Not so with `is_audited` false, for what a decision follows on that says it itself.
    """
    found = await queries.standings(reads.pool, room, actor.mid)
    if found is None:
        raise NoSuchRoom
    is_privileged = membership.check(operation, actor, found.room, standing_of(found))
    if is_privileged and is_audited:
        await reads.log.decide(membership.LookIn(operation, room, actor))
    return found


def is_shown_as_anybody(actor: Actor, found: queries.Standings) -> bool:
    """Is it a moderator or an admin whom its own standing lets look? Who is no member looked by privilege, as `check` has audited."""
    return actor.role in PRIVILEGED and found.member is not None


async def sees_more(reads: Reads, operation: str, actor: Actor, mids: Sequence[int], room: str = "") -> bool:
    """May who asks be shown more of these people than they show to it? By what it is on the platform at this place in the log, where
    that is audited; no, if it is no more than anybody by then."""
    return bool(await reads.log.decide(membership.SeeMore(operation, actor, mids, room)))


def standing_of(found: queries.Standings) -> Standing:
    """What somebody is to a room now, as these rows say."""
    return membership.standing(found.member, found.ban, found.invitation, time.time_ns() // 1_000_000)


class _Sees(NamedTuple):
    """From which seq on somebody sees a room, and by which membership (the position of its join); None where that takes none."""

    first: int
    since: int | None


async def _sees(reads: Reads, room: str, who: Actor, head: int, operation: str) -> _Sees:
    """What this person sees of the room. Raises what the permission table says, and NoSuchRoom for a room that is not there.
    What is seen by privilege only is audited (`check`)."""
    if room_type(room) in reads.live_types:
        table().check(operation, who, "member")
        return _Sees(1, None)
    if who.role == "service":
        table().check(operation, who)
        if head == 0:
            raise NoSuchRoom
        return _Sees(1, None)
    return _seen_by(await check(reads, operation, room, who))


def _seen_by(found: queries.Standings) -> _Sees:
    if found.member is None:
        return _Sees(1, None)
    return _Sees(1 if found.room.history == "all" else found.member.since_seq, found.member.since)


async def _follow(reads: Reads, position: int) -> None:
    if not await reads.reached(position, REACHED_S):
        raise Unavailable("the inbox does not follow the log at the moment; ask again", retry_after_ms=1000)


def _page(rows: list[bytes], limit: int, bytes_max: int = PAGE_BYTES_MAX) -> tuple[list[bytes], bool]:
    """As many rows as fit into a page, at least one; and whether any were left."""
    size = 0
    for n, row in enumerate(rows[:limit]):
        size += len(row)
        if n and size > bytes_max:
            return rows[:n], True
    return rows[:limit], len(rows) > limit
