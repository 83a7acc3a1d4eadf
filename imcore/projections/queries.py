"""The read side: what comets and the API ask of the rows.

Each function is one statement, so what it returns is one state of the database; a pool or a connection will do. Rows of inline
projections are as of the head of the log. Asynchronous ones may be some milliseconds behind it (`Runner.reached` waits for
them), and what must be exact all the same is computed from the log where the rows end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias

import asyncpg

from imcore.events.names import Connection, Names, Pool
from imcore.events.store import recorded
from imcore.events.types import DIRECT, ROOM, SERVICE_MID, Recorded
from imcore.projections.amendments import Amendment
from imcore.projections.attachments import Attachment
from imcore.projections.bans import Ban
from imcore.projections.departures import Departure
from imcore.projections.invitations import Invitation
from imcore.projections.members import Member
from imcore.projections.rooms import Room
from imcore.projections.uploads import Uploaded

Source: TypeAlias = "Connection | Pool"

# The rooms of these people and the head of the log, in one snapshot: the memberships are those at exactly that position. A dismissed
# room is there still, with the position of its end.
MEMBERSHIPS: Final = """
SELECT h.position AS head, m.mid, m.room, m.since, m.since_seq, m.role, r.history, r.dismissed, r.dismissed_by
FROM log_head h LEFT JOIN (members m JOIN rooms r ON r.room = m.room) ON m.mid = ANY($1::bigint[])
"""

# In how many rooms that are dismissed these people are: from the few that are dismissed, not from the many that somebody is in.
DISMISSED_OF: Final = """
SELECT m.mid, count(*) AS rooms FROM rooms r JOIN members m ON m.room = r.room
WHERE r.dismissed > 0 AND m.mid = ANY($1::bigint[]) GROUP BY m.mid
"""

# What each device of these people has received.
DELIVERED: Final = "SELECT mid, key, position FROM deliveries WHERE mid = ANY($1::bigint[])"

# Which rooms these people are no longer in, of what happened after a position: of each a position of its own.
DEPARTED: Final = """
SELECT d.mid, d.room, d.position, d.by, d.removed FROM unnest($1::bigint[], $2::bigint[]) AS asked(mid, after)
JOIN departures d ON d.mid = asked.mid AND d.position > asked.after
"""
OPENED: Final = "SELECT mid, key, opened FROM sessions WHERE mid = ANY($1::bigint[])"

MEMBER: Final = """
SELECT m.role, m.since, m.since_seq, m.muted_until_ms, m.blocked, m.changed
FROM members m JOIN rooms r ON r.room = m.room WHERE m.room = $1 AND m.mid = $2 AND r.dismissed = 0
"""

ROOM_ROW: Final = f"SELECT {', '.join(Room._fields)} FROM rooms WHERE room = $1"

# What somebody is to a room: the room, and the membership, ban and invitation, each if there is one; and the head of the log, up to
# which all of it is so.
STANDING: Final = f"""
SELECT {", ".join(f"r.{name}" for name in Room._fields)},
  (SELECT position FROM log_head) AS head,
  {", ".join(f"m.{name} AS member_{name}" for name in Member._fields)},
  {", ".join(f"b.{name} AS ban_{name}" for name in Ban._fields)},
  {", ".join(f"i.{name} AS invitation_{name}" for name in Invitation._fields)}
FROM rooms r
LEFT JOIN members m ON m.room = r.room AND m.mid = $2
LEFT JOIN bans b ON b.room = r.room AND b.mid = $2
LEFT JOIN invitations i ON i.room = r.room AND i.mid = $2
WHERE r.room = $1
"""

# Public rooms in order of name, after one of them. What is looked for may be anywhere in the title, or begin the name: that is a walk
# over the public rooms until the page is full, so such pages are short.
DIRECTORY: Final = """
SELECT r.room, r.title, r.topic, r.members, r.approval, r.writers, r.created
FROM rooms r
WHERE r.public AND r.dismissed = 0 AND r.room > $1
  AND ($2 = '' OR position(lower($2) IN lower(r.title)) > 0 OR starts_with(lower(split_part(r.room, '://', 2)), lower($2)))
ORDER BY r.room
LIMIT $3
"""

# Who came, changed or went after a position, in that order: each person once, as it is now.
CHANGES: Final = """
SELECT * FROM (
  (SELECT m.changed AS position, m.mid, m.role, m.since, m.muted_until_ms FROM members m
   WHERE m.room = $1 AND m.changed > $2 ORDER BY m.changed LIMIT $3)
  UNION ALL
  (SELECT d.position, d.mid, NULL, NULL, NULL FROM departures d
   WHERE d.room = $1 AND d.position > $2 ORDER BY d.position LIMIT $3)) changed
ORDER BY position
LIMIT $3
"""
HEAD: Final = "SELECT position FROM log_head"

# Bans that are in force, in order of mid.
BANS_PAGE: Final = """
SELECT mid, by, until_ms, reason FROM bans
WHERE room = $1 AND mid > $2 AND (until_ms = 0 OR until_ms > $4) ORDER BY mid LIMIT $3
"""
INVITATIONS_PAGE: Final = "SELECT mid, by, at_ms FROM invitations WHERE room = $1 AND mid > $2 ORDER BY mid LIMIT $3"
REQUESTS_PAGE: Final = "SELECT mid, text, at_ms FROM join_requests WHERE room = $1 AND mid > $2 ORDER BY mid LIMIT $3"
ASKED: Final = "SELECT at_ms FROM join_requests WHERE room = $1 AND mid = $2"
# To which rooms a person is invited, in order of name.
INVITED_PAGE: Final = """
SELECT i.room, r.title, r.topic, r.members, i.by, i.at_ms
FROM invitations i JOIN rooms r ON r.room = i.room
WHERE i.mid = $1 AND i.room > $2 AND r.dismissed = 0 ORDER BY i.room LIMIT $3
"""
BLOCKS_PAGE: Final = "SELECT mid, at_ms FROM blocks WHERE by = $1 AND mid > $2 ORDER BY mid LIMIT $3"


def _is_contact(viewer: str, mid: str) -> str:
    """Of two expressions: is there a direct room of the two that this `mid` opened, or has written in? Anybody can open one with
    anybody, so to be in it says nothing. The rows of inbox may be late; what came since stands in the log."""
    return f"""EXISTS (
  SELECT FROM rooms d
  JOIN members mine ON mine.room = d.room AND mine.mid = {viewer}
  JOIN members theirs ON theirs.room = d.room AND theirs.mid = {mid}
  WHERE d.room = '{DIRECT}://' || least({viewer}, {mid}) || '-' || greatest({viewer}, {mid}) AND d.dismissed = 0
    AND (d.creator = theirs.mid
      OR EXISTS (SELECT FROM inbox i WHERE i.mid = theirs.mid AND i.room = theirs.room AND i.sent > 0)
      OR EXISTS (
        SELECT FROM streams s
        LEFT JOIN checkpoints c ON c.projection = 'inbox'
        JOIN events e ON e.stream_id = s.id AND e.position > coalesce(c.position, 0)
          AND e.seq > imcore_seq_at(s.id, s.seq, coalesce(c.position, 0)) AND e.mid = theirs.mid AND e.op > 0
        WHERE s.name = '{ROOM}' || d.room AND s.position > coalesce(c.position, 0))))"""


# The members of a room in order of mid, and who of them is online, as far as $4 may see that (0 sees everybody): looked up for each of
# the page, where EXISTS would be answered by reading all sessions once. A direct room is not a small one.
MEMBERS_PAGE: Final = f"""
SELECT m.mid, m.role, m.since, present.mid IS NOT NULL AS online, m.muted_until_ms
FROM members m
JOIN rooms r ON r.room = m.room
LEFT JOIN visibility v ON v.mid = m.mid
LEFT JOIN blocks b ON b.by = m.mid AND b.mid = $4
LEFT JOIN LATERAL (
  SELECT o.mid FROM online o
  WHERE o.mid = m.mid AND ($4 IN (0, m.mid) OR b.by IS NULL AND (
    v.choice IS NULL AND r.members <= $5 AND NOT starts_with(m.room, '{DIRECT}://')
    OR v.choice IS DISTINCT FROM 'nobody' AND {_is_contact("$4", "m.mid")}))
  LIMIT 1) present ON true
WHERE m.room = $1 AND m.mid > $2
ORDER BY m.mid
LIMIT $3
"""

# The rooms of a person in order of name: where each is, what is unread, how often it is named in that, and the newest message that the
# person may see, with what became of it. A row of inbox that is not there yet, or is of an earlier membership, counts as that of one
# who has just joined. The rows of inbox are as of its checkpoint and the heads of streams as of now, so own messages between the two
# are counted in the log.
#
# It is 1,000 rooms for some, so what the heads tell is not looked up. Without a message after the mark nobody was named there; where
# all events after it are messages, none of them was recalled; and nothing became of a message that is the last event. Of the mentions
# those that were recalled are taken away again: to look for each of them among the recalls would cost more. The newest message is
# nearly always the last event, which is in one partition; a look by stream and seq is one into each.
#
# Where it says LIMIT 1 there is but one: so the planner looks up a room at a time. Left to itself it reads all amendments there are,
# and where most people have one room it takes a person's rows of inbox for one, and reads them all for each of its rooms.
INBOX_PAGE: Final = """
SELECT m.room, m.role, s.seq AS head, m.since_seq, coalesce(i.read_seq, m.since_seq) AS read_mark,
  later.messages - coalesce(i.sent - i.sent_seen, 0) - late.sent AS unread,
  named.mentions - gone.mentions AS mentioned,
  last.*, a.edits, a.edited, a.edited_ms, a.format AS format_now, a.body AS body_now, a.recalled, a.recalled_by
FROM members m
JOIN rooms r ON r.room = m.room
JOIN streams s ON s.name = 'room:' || m.room
LEFT JOIN checkpoints c ON c.projection = 'inbox'
LEFT JOIN LATERAL (
  SELECT i.* FROM inbox i WHERE i.mid = m.mid AND i.room = m.room AND i.since_seq = m.since_seq LIMIT 1) i ON true
CROSS JOIN LATERAL (
  SELECT greatest(m.since_seq, coalesce(i.read_seq, 0)) AS mark,
    s.messages - coalesce(
      i.seen, (SELECT e.messages FROM events e WHERE e.stream_id = s.id AND e.seq = m.since_seq), 0) AS messages) later
CROSS JOIN LATERAL (
  SELECT count(*) AS sent FROM events e
  WHERE s.position > coalesce(c.position, 0) AND e.stream_id = s.id AND e.position > coalesce(c.position, 0)
    AND e.seq > greatest(m.since_seq, imcore_seq_at(s.id, s.seq, coalesce(c.position, 0))) AND e.mid = m.mid AND e.op > 0) late
CROSS JOIN LATERAL (
  SELECT count(*) AS mentions FROM mentions n
  WHERE later.messages > 0 AND n.mid = ANY(ARRAY[m.mid, 0]) AND n.room = m.room AND n.by <> m.mid AND n.seq > later.mark) named
CROSS JOIN LATERAL (
  SELECT count(*) AS mentions FROM amendments a
  JOIN mentions n ON n.mid = ANY(ARRAY[m.mid, 0]) AND n.room = a.room AND n.seq = a.seq AND n.by <> m.mid
  WHERE named.mentions > 0 AND s.seq - later.mark > later.messages
    AND a.room = m.room AND a.seq > later.mark AND a.recalled > 0) gone
LEFT JOIN LATERAL (
  (SELECT e.* FROM events e
   WHERE e.position = s.position AND e.op > 0 AND (r.history = 'all' OR s.seq > m.since_seq))
  UNION ALL
  (SELECT e.* FROM events e
   WHERE e.stream_id = s.id AND e.seq > CASE r.history WHEN 'all' THEN 0 ELSE m.since_seq END AND e.op > 0 AND s.messages > 0
   ORDER BY e.seq DESC LIMIT 1)
  LIMIT 1) last ON true
LEFT JOIN LATERAL (
  SELECT a.* FROM amendments a WHERE s.seq > last.seq AND a.room = m.room AND a.seq = last.seq LIMIT 1) a ON true
WHERE m.mid = $1 AND m.room > $2 AND r.dismissed = 0
ORDER BY m.room
LIMIT $3
"""

# The pins of a room between two seqs, the newest first; and since when somebody was a member then. There are never more than
# reacting.PINS_MAX.
PINS: Final = """
SELECT (SELECT m.since FROM members m WHERE m.room = $1 AND m.mid = $6) AS since, seq, position, by, time_ms
FROM pins WHERE room = $1 AND seq BETWEEN $2 AND $3 AND position < $4 ORDER BY position DESC LIMIT $5
"""
# What became of the messages of a room between two seqs, and of these; and since when somebody was a member then.
AMENDMENTS: Final = """
SELECT (SELECT m.since FROM members m WHERE m.room = $1 AND m.mid = $5) AS since,
  seq, edits, edited, edited_ms, format, body, recalled, recalled_by
FROM amendments
WHERE room = $1 AND (seq BETWEEN $2 AND $3 OR seq = ANY($4::bigint[]))
"""
# Which messages were recalled, of those between two seqs of each of these rooms.
RECALLS: Final = """
SELECT a.room, a.seq, a.recalled_by, a.recalled
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS asked(room, first, last)
JOIN amendments a ON a.room = asked.room AND a.seq BETWEEN asked.first AND asked.last AND a.recalled > 0
"""
THREAD: Final = "SELECT seq FROM threads WHERE room = $1 AND thread = $2 AND seq > $3 ORDER BY seq LIMIT $4"
EDITS: Final = "SELECT seq FROM edits WHERE room = $1 AND target = $2 AND seq > $3 ORDER BY seq LIMIT $4"

# Where somebody is named, in the rooms that it is in, newest first: looked up in each of the rooms, because those of everybody are
# rows of all rooms there are. $2: before which position; $3: only what is after the read mark.
MENTIONS: Final = """
SELECT named.room, e.*, a.edits, a.edited, a.edited_ms, a.format AS format_now, a.body AS body_now
FROM (
  SELECT n.room, n.seq, n.position
  FROM members m
  JOIN rooms r ON r.room = m.room AND r.dismissed = 0
  LEFT JOIN LATERAL (
    SELECT i.read_seq FROM inbox i WHERE i.mid = m.mid AND i.room = m.room AND i.since_seq = m.since_seq LIMIT 1) i ON true
  CROSS JOIN LATERAL (
    SELECT n.room, n.seq, n.position FROM mentions n
    WHERE n.mid = ANY(ARRAY[m.mid, 0]) AND n.room = m.room AND n.position < $2 AND n.by <> m.mid
      AND n.seq > CASE WHEN $3 THEN greatest(m.since_seq, coalesce(i.read_seq, 0)) ELSE m.since_seq END
      AND NOT EXISTS (SELECT FROM amendments a WHERE a.room = n.room AND a.seq = n.seq AND a.recalled > 0)
    ORDER BY n.seq DESC LIMIT $4) n
  WHERE m.mid = $1
  ORDER BY n.position DESC LIMIT $4) named
JOIN events e ON e.position = named.position
LEFT JOIN amendments a ON a.room = named.room AND a.seq = named.seq
ORDER BY named.position DESC
"""

# Whether what a message is about can be so: the room, from where on its sender sees it, how many of the seqs are messages that it sees
# (or $5, of which any message will do), and how many of the people are in the room.
ABOUT: Final = """
SELECT m.mid IS NOT NULL AS is_member,
  (SELECT count(*) FROM events e WHERE e.stream_id = s.id AND e.seq = ANY($3::bigint[]) AND e.op > 0
    AND (e.seq = $5 OR e.seq >= CASE WHEN r.history = 'joined' THEN coalesce(m.since_seq, 0) ELSE 0 END)) AS messages,
  (SELECT count(*) FROM members p WHERE p.room = $1 AND p.mid = ANY($4::bigint[])) AS people
FROM streams s
LEFT JOIN members m ON m.room = $1 AND m.mid = $2
LEFT JOIN rooms r ON r.room = $1
WHERE s.name = 'room:' || $1
"""
USED: Final = """
SELECT e.position, e.seq, s.name, e.version, e.body FROM client_ids c
JOIN events e ON e.position = c.position JOIN streams s ON s.id = e.stream_id
WHERE c.client_id = $2 AND c.mid = $1
"""

# What a read mark at this seq covers: all messages up to it, and the person's own since the join. Counted on from the mark before
# it, of this membership, so each message is looked at once a reader.
READ_FACTS: Final = """
SELECT mark.seq, coalesce(upto.messages, 0) AS messages, coalesce(i.sent_seen, 0) + own.messages AS sent
FROM members m
JOIN rooms r ON r.room = m.room AND r.dismissed = 0
JOIN streams s ON s.name = 'room:' || m.room
CROSS JOIN LATERAL (SELECT least($3::bigint, s.seq) AS seq) mark
LEFT JOIN inbox i ON i.mid = m.mid AND i.room = m.room AND i.since_seq = m.since_seq
LEFT JOIN LATERAL (
  SELECT e.messages FROM events e WHERE e.stream_id = s.id AND e.seq <= mark.seq ORDER BY e.seq DESC LIMIT 1) upto ON true
CROSS JOIN LATERAL (
  SELECT count(*) AS messages FROM events e
  WHERE e.stream_id = s.id AND e.seq > coalesce(i.read_seq, m.since_seq) AND e.seq <= mark.seq AND e.mid = m.mid AND e.op > 0) own
WHERE m.room = $1 AND m.mid = $2
"""

ATTACHMENT: Final = """
SELECT room, mid, name, media_type, size, sha256, width, height, position, stored_at_ms FROM attachments WHERE id = $1
"""
# The files of a room that somebody may see, the newest first: those after a position (a join), and one's own of before. Two ranges of
# two indexes: in one, whoever joined late and stored little would read all files of before to find its own.
ATTACHMENTS_PAGE: Final = """
SELECT id, room, mid, name, media_type, size, sha256, width, height, position, stored_at_ms FROM (
  (SELECT * FROM attachments WHERE room = $1 AND position < $2 AND position > $3 ORDER BY position DESC LIMIT $5)
  UNION ALL
  (SELECT * FROM attachments WHERE room = $1 AND mid = $4 AND position < $2 AND position <= $3 ORDER BY position DESC LIMIT $5)) seen
ORDER BY position DESC
LIMIT $5
"""
UPLOADED: Final = "SELECT day, bytes FROM uploads WHERE mid = $1"

# Sessions on comets that nobody declared dead.
SESSIONS_OF: Final = """
SELECT mid, key, platform, rooms, node, address, opened_at FROM online WHERE mid = ANY($1::bigint[]) ORDER BY mid, key
"""
# Open sessions with the position of each opening, of sessions on comets that nobody declared dead.
DEVICES: Final = """
SELECT s.mid, s.key, s.opened, s.platform, s.opened_at_ms FROM sessions s JOIN nodes n ON n.node = s.node
WHERE s.mid = ANY($1::bigint[]) ORDER BY s.mid, s.key
"""
SEEN: Final = "SELECT mid, at_ms FROM seen WHERE mid = ANY($1::bigint[])"

# Whether each of these may see each of those: what they have in common, as the one who is to be seen chose. The rooms of the two are
# joined in order of their index; of who chose nobody, or blocked the one who asks, nothing is looked at.
SIGHTS: Final = f"""
SELECT asked.viewer, asked.mid,
  CASE WHEN v.choice = 'nobody' OR b.by IS NOT NULL THEN false WHEN common.small THEN true
    ELSE {_is_contact("asked.viewer", "asked.mid")} END AS sees
FROM unnest($1::bigint[], $2::bigint[]) AS asked(viewer, mid)
LEFT JOIN visibility v ON v.mid = asked.mid
LEFT JOIN blocks b ON b.by = asked.mid AND b.mid = asked.viewer
CROSS JOIN LATERAL (
  SELECT coalesce(bool_or(r.members <= $3), false) AS small
  FROM members mine
  JOIN members theirs ON theirs.mid = asked.mid AND theirs.room = mine.room
  JOIN rooms r ON r.room = mine.room
  WHERE mine.mid = asked.viewer AND NOT starts_with(mine.room, '{DIRECT}://') AND r.dismissed = 0
    AND v.choice IS NULL AND b.by IS NULL) common
"""

# Who is in the room and online, and whom the asker may see of them: a room of this size is one that they have in common, if it is not
# for the two of them.
ROOM_DEVICES: Final = f"""
SELECT s.mid, s.key, s.opened, s.platform, s.opened_at_ms
FROM members m
LEFT JOIN visibility v ON v.mid = m.mid
LEFT JOIN blocks b ON b.by = m.mid AND b.mid = $2
JOIN sessions s ON s.mid = m.mid
JOIN nodes n ON n.node = s.node
WHERE m.room = $1 AND ($3 OR m.mid = $2 OR b.by IS NULL AND (
  v.choice IS NULL AND NOT starts_with($1, '{DIRECT}://')
  OR v.choice IS DISTINCT FROM 'nobody' AND {_is_contact("$2", "m.mid")}))
ORDER BY s.mid, s.key
"""
# How many members are online, of those who let everybody see them ($2: of all). The people who are online are looked up among the
# members, so a room of 100,000 costs what is online and not what is in it.
ROOM_ONLINE: Final = """
SELECT count(*) FROM (SELECT DISTINCT s.mid FROM sessions s JOIN nodes n ON n.node = s.node) present
JOIN members m ON m.room = $1 AND m.mid = present.mid
LEFT JOIN visibility v ON v.mid = present.mid
WHERE $2 OR v.choice IS NULL
"""
ONLINE_TOTAL: Final = "SELECT count(DISTINCT address) AS addresses, count(*) AS connections FROM online"
ONLINE_ROOMS: Final = """
SELECT room, count(*) AS sessions FROM online CROSS JOIN unnest(rooms) AS room
WHERE rooms && $1::text[] AND room = ANY($1::text[]) AND node <> $2
GROUP BY room
"""
ONLINE_TOP: Final = """
SELECT room, count(*) AS sessions FROM online CROSS JOIN unnest(rooms) AS room
WHERE starts_with(room, $1 || '://')
GROUP BY room
ORDER BY sessions DESC, room
LIMIT $2
"""


class Membership(NamedTuple):
    """A membership with what a comet must know of its room."""

    since: int
    since_seq: int
    role: str
    history: str


class Standings(NamedTuple):
    """What somebody is to a room, with the log at `head`."""

    head: int
    room: Room
    member: Member | None
    ban: Ban | None
    invitation: Invitation | None


class RoomLine(NamedTuple):
    """A line of the directory of public rooms."""

    room: str
    title: str
    topic: str
    members: int
    approval: bool
    writers: str
    created: int


class ChangeLine(NamedTuple):
    """What became of somebody in a room's list of members, by the event at `position`; without a role it is no member any more."""

    position: int
    mid: int
    role: str | None
    since: int | None
    muted_until_ms: int | None


class BanLine(NamedTuple):
    """A line of a room's list of bans."""

    mid: int
    by: int
    until_ms: int
    reason: str


class InvitationLine(NamedTuple):
    """A line of a room's list of open invitations."""

    mid: int
    by: int
    at_ms: int


class RequestLine(NamedTuple):
    """A line of a room's list of open requests to join."""

    mid: int
    text: str
    at_ms: int


class InvitedLine(NamedTuple):
    """A line of a person's list of open invitations."""

    room: str
    title: str
    topic: str
    members: int
    by: int
    at_ms: int


class BlockLine(NamedTuple):
    """A line of a person's list of those whose direct messages it does not take."""

    mid: int
    at_ms: int


class MemberLine(NamedTuple):
    """A line of a room's list of members. `since` is the position of the join."""

    mid: int
    role: str
    since: int
    online: bool
    muted_until_ms: int = 0


class InboxLine(NamedTuple):
    """A line of a person's list of rooms. `head` is the room's last seq, `mentions` counts the unread messages that name the person,
    and `last` is the newest that it may see, with what became of it."""

    room: str
    role: str
    head: int
    since_seq: int
    read_seq: int
    unread: int
    mentions: int
    last: Recorded | None
    amendment: Amendment | None


class Named(NamedTuple):
    """A message that names somebody, with what became of it."""

    message: Recorded
    amendment: Amendment | None


class ReadFacts(NamedTuple):
    """What a read mark at `seq` covers: `messages` of the room, `sent` by the person since the join."""

    seq: int
    messages: int
    sent: int


class OnlineSession(NamedTuple):
    """An open session on a comet that is alive."""

    key: str
    platform: str
    rooms: tuple[str, ...]
    node: str
    address: str
    opened_at: datetime


class Device(NamedTuple):
    """An open session as presence knows it. `opened` is the position of its opening."""

    key: str
    opened: int
    platform: str
    since_ms: int


class OnlineTotal(NamedTuple):
    """Distinct client addresses, and connections."""

    addresses: int
    connections: int


async def memberships(source: Source, mids: Collection[int]) -> tuple[int, dict[int, dict[str, Membership]]]:
    """The head of the log, and the memberships of these people at exactly that position. Everybody asked for is there."""
    head, found, _ = await memberships_and_ends(source, mids)
    return head, found


async def memberships_and_ends(
    source: Source, mids: Collection[int]
) -> tuple[int, dict[int, dict[str, Membership]], dict[int, dict[str, Departure]]]:
    """The same, and the rooms of these people that were dismissed."""
    found: dict[int, dict[str, Membership]] = {mid: {} for mid in mids}
    ended: dict[int, dict[str, Departure]] = {mid: {} for mid in mids}
    rows = await source.fetch(MEMBERSHIPS, list(mids))
    for _, mid, room, since, since_seq, role, history, dismissed, by in rows:
        if dismissed:
            ended[mid][room] = Departure(dismissed, by, removed=True)
        elif mid is not None:
            found[mid][room] = Membership(since, since_seq, role, history)
    return rows[0]["head"], found, ended


async def delivered(source: Source, mids: Collection[int]) -> dict[tuple[int, str], int]:
    """Up to which position each device of these people has received everything, by (mid, key)."""
    rows = await source.fetch(DELIVERED, list(mids))
    return {(row["mid"], row["key"]): row["position"] for row in rows}


async def departed(source: Source, after: Mapping[int, int]) -> dict[int, dict[str, Departure]]:
    """The rooms that each of these people left or was removed from after a position, and is not in again."""
    found: dict[int, dict[str, Departure]] = {mid: {} for mid in after}
    for mid, room, *row in await source.fetch(DEPARTED, list(after), list(after.values())):
        found[mid][room] = Departure(*row)
    return found


async def opened(source: Source, mids: Collection[int]) -> dict[tuple[int, str], int]:
    """The position of the opening of each open session of these people, by (mid, key)."""
    rows = await source.fetch(OPENED, list(mids))
    return {(row["mid"], row["key"]): row["opened"] for row in rows}


async def member(source: Source, room: str, mid: int) -> Member | None:
    """The membership, or None; of a dismissed room nobody has one."""
    row = await source.fetchrow(MEMBER, room, mid)
    return None if row is None else Member(*row)


async def room(source: Source, name: str) -> Room | None:
    """The room, dismissed or not, or None."""
    row = await source.fetchrow(ROOM_ROW, name)
    return None if row is None else _room(row)


async def dismissed_of(source: Source, mids: Collection[int]) -> dict[int, int]:
    """In how many dismissed rooms these people are; nobody who is in none."""
    return {row["mid"]: row["rooms"] for row in await source.fetch(DISMISSED_OF, list(mids))}


async def standings(source: Source, room: str, mid: int) -> Standings | None:
    """The room, dismissed or not, and what somebody is to it; None if there is no such room."""
    row = await source.fetchrow(STANDING, room, mid)
    if row is None:
        return None
    head, *columns = tuple(row)[len(Room._fields) :]
    rest = iter(columns)
    member, ban, invitation = (
        [next(rest) for _ in kind._fields] for kind in (Member, Ban, Invitation)
    )  # a row that is not there is nothing but None
    return Standings(
        head,
        _room(row),
        None if member[0] is None else Member(*member),
        None if ban[0] is None else Ban(*ban),
        None if invitation[0] is None else Invitation(*invitation),
    )


async def directory_page(source: Source, after_room: str, search: str, limit: int) -> list[RoomLine]:
    """The next public rooms in order of name; "" begins. `search` is in the title, or begins the name."""
    return [RoomLine(*row) for row in await source.fetch(DIRECTORY, after_room, search, limit)]


async def changes(source: Source, room: str, after: int, limit: int) -> list[ChangeLine]:
    """Who came into the room's list of members, changed or went after a position, in that order, at most so many."""
    return [ChangeLine(*row) for row in await source.fetch(CHANGES, room, after, limit)]


async def bans_page(source: Source, room: str, after_mid: int | None, limit: int, now_ms: int) -> list[BanLine]:
    """The next bans that are in force, in order of mid; None begins."""
    return [BanLine(*row) for row in await source.fetch(BANS_PAGE, room, _after(after_mid), limit, now_ms)]


async def invitations_page(source: Source, room: str, after_mid: int | None, limit: int) -> list[InvitationLine]:
    """The next open invitations to a room, in order of mid; None begins."""
    return [InvitationLine(*row) for row in await source.fetch(INVITATIONS_PAGE, room, _after(after_mid), limit)]


async def requests_page(source: Source, room: str, after_mid: int | None, limit: int) -> list[RequestLine]:
    """The next open requests to join a room, in order of mid; None begins."""
    return [RequestLine(*row) for row in await source.fetch(REQUESTS_PAGE, room, _after(after_mid), limit)]


async def asked(source: Source, room: str, mid: int) -> int:
    """Since when somebody asks to be let into the room; 0 if it does not."""
    at_ms: int | None = await source.fetchval(ASKED, room, mid)
    return at_ms or 0


async def invited_page(source: Source, mid: int, after_room: str, limit: int) -> list[InvitedLine]:
    """The next rooms that a person is invited to, in order of name; "" begins."""
    return [InvitedLine(*row) for row in await source.fetch(INVITED_PAGE, mid, after_room, limit)]


async def blocks_page(source: Source, by: int, after_mid: int | None, limit: int) -> list[BlockLine]:
    """The next people whose direct messages somebody does not take, in order of mid; None begins."""
    return [BlockLine(*row) for row in await source.fetch(BLOCKS_PAGE, by, _after(after_mid), limit)]


async def attachment(source: Source, id_: str) -> Attachment | None:
    """The file, or None."""
    row = await source.fetchrow(ATTACHMENT, id_)
    return None if row is None else Attachment(*row)


async def attachments_page(
    source: Source, room: str, before: int, since: int, mid: int, limit: int
) -> list[tuple[str, Attachment]]:
    """The files of a room before a position, the newest first, with their ids: those after the position `since`, and those of `mid`."""
    rows = await source.fetch(ATTACHMENTS_PAGE, room, before, since, mid, limit)
    return [(row["id"], Attachment(*list(row)[1:])) for row in rows]


async def uploaded(source: Source, mid: int) -> Uploaded | None:
    """What the person stored on the last day on which it stored anything."""
    row = await source.fetchrow(UPLOADED, mid)
    return None if row is None else Uploaded(*row)


async def members_page(
    source: Source,
    room: str,
    after_mid: int | None,
    limit: int,
    *,
    viewer: int = SERVICE_MID,
    room_members_max: int = 0,
) -> list[MemberLine]:
    """The next members of a room in order of mid; None begins. Who is online is told as far as the viewer may see it, of members as
    such in rooms with no more than so many; the service sees everybody."""
    rows = await source.fetch(MEMBERS_PAGE, room, _after(after_mid), limit, viewer, room_members_max)
    return [MemberLine(*row) for row in rows]


async def inbox_page(source: Source, mid: int, after_room: str, limit: int) -> list[InboxLine]:
    """The next rooms of a person in order of name; "" begins."""
    rows = await source.fetch(INBOX_PAGE, mid, after_room, limit)
    return [
        InboxLine(
            row["room"],
            row["role"],
            row["head"],
            row["since_seq"],
            row["read_mark"],
            row["unread"],
            row["mentioned"],
            None if row["position"] is None else _message(row, row["room"]),
            _amendment(row),
        )
        for row in rows
    ]


async def read_facts(source: Source, room: str, mid: int, seq: int) -> ReadFacts | None:
    """What a read mark at `seq` covers, or at the room's head if that comes before; None for who is no member.

    Exact whatever the lag of the inbox: for a mark that goes forward. One that does not go forward changes nothing anyway.
    """
    row = await source.fetchrow(READ_FACTS, room, mid, seq)
    return None if row is None else ReadFacts(*row)


async def sessions_of(source: Source, mids: Collection[int]) -> dict[int, list[OnlineSession]]:
    """The open sessions of these people; everybody asked for is there."""
    found: dict[int, list[OnlineSession]] = {mid: [] for mid in mids}
    for mid, key, platform, rooms, node, address, opened_at in await source.fetch(SESSIONS_OF, list(mids)):
        found[mid].append(OnlineSession(key, platform, tuple(rooms), node, address, opened_at))
    return found


async def devices(source: Source, mids: Collection[int]) -> dict[int, list[Device]]:
    """The open sessions of these people on comets that are not dead; everybody asked for is there."""
    return _devices(await source.fetch(DEVICES, list(mids)), mids)


async def seen(source: Source, mids: Collection[int]) -> dict[int, int]:
    """When each of these people was last heard of, in milliseconds since 1970; who never was is left out."""
    return {row["mid"]: row["at_ms"] for row in await source.fetch(SEEN, list(mids))}


async def sights(
    source: Source, pairs: Collection[tuple[int, int]], room_members_max: int
) -> dict[tuple[int, int], bool]:
    """May the first of each pair see whether the second is online? By what they share, a direct room that the second opened or wrote
    in, or one with no more members than so many, and as the second chose. Nobody is asked of oneself."""
    if not pairs:
        return {}
    viewers, mids = zip(*pairs, strict=True)
    rows = await source.fetch(SIGHTS, viewers, mids, room_members_max)
    return {(row["viewer"], row["mid"]): row["sees"] for row in rows}


async def room_devices(source: Source, room: str, viewer: int, *, sees_all: bool) -> dict[int, list[Device]]:
    """The members of a small room who are online, of those whom the viewer may see, and their sessions."""
    return _devices(await source.fetch(ROOM_DEVICES, room, viewer, sees_all))


async def room_online(source: Source, room: str, *, sees_all: bool) -> int:
    """How many members of the room are online, without those who hide from somebody."""
    found: int = await source.fetchval(ROOM_ONLINE, room, sees_all)
    return found


def _devices(rows: Sequence[asyncpg.Record], mids: Collection[int] = ()) -> dict[int, list[Device]]:
    found: dict[int, list[Device]] = {mid: [] for mid in mids}
    for mid, *device in rows:
        found.setdefault(mid, []).append(Device(*device))
    return found


async def online_total(source: Source) -> OnlineTotal:
    """How many are connected."""
    row = await source.fetchrow(ONLINE_TOTAL)
    assert row is not None, "an aggregate returns a row"
    return OnlineTotal(*row)


async def online_rooms(source: Source, rooms: Sequence[str]) -> dict[str, int]:
    """How many sessions have entered each of these rooms; 0 where there is none."""
    return await online_elsewhere(source, rooms, "")


async def online_elsewhere(source: Source, rooms: Sequence[str], node: str) -> dict[str, int]:
    """The same, without the sessions on this node."""
    counts = dict.fromkeys(rooms, 0)
    counts.update((row["room"], row["sessions"]) for row in await source.fetch(ONLINE_ROOMS, list(rooms), node))
    return counts


async def online_top(source: Source, type_: str, limit: int) -> list[tuple[str, int]]:
    """The rooms of this type with the most sessions in them, and how many."""
    return [(row["room"], row["sessions"]) for row in await source.fetch(ONLINE_TOP, type_, limit)]


class Amended(NamedTuple):
    """What became of messages, by seq; those that are as they were are left out. `since` is the join of who asked for it, as the rows
    were then: None if it was no member. Without any amendment it is None too."""

    rows: dict[int, Amendment]
    since: int | None


async def amendments(
    source: Source, room: str, first: int, last: int, others: Collection[int] = (), *, mid: int
) -> Amended:
    """What became of the messages of a room from one seq to another, and of others, and whether `mid` was a member of it then."""
    rows = await source.fetch(AMENDMENTS, room, first, last, list(others), mid)
    return Amended({seq: Amendment(*row) for _, seq, *row in rows}, rows[0]["since"] if rows else None)


async def recalls(source: Source, asked: Collection[tuple[str, int, int]]) -> dict[tuple[str, int], tuple[int, int]]:
    """Which messages were recalled, of those from one seq to another of each of these rooms: by whom, and at which position."""
    rooms, first, last = zip(*asked, strict=True) if asked else ((), (), ())
    rows = await source.fetch(RECALLS, rooms, first, last)
    return {(room, seq): (by, position) for room, seq, by, position in rows}


async def thread(source: Source, room: str, thread: int, after: int, limit: int) -> list[int]:
    """The next seqs of a thread, without that of its first message."""
    return [row["seq"] for row in await source.fetch(THREAD, room, thread, after, limit)]


async def edits(source: Source, room: str, target: int, after: int, limit: int) -> list[int]:
    """The next seqs of the edits of a message."""
    return [row["seq"] for row in await source.fetch(EDITS, room, target, after, limit)]


async def mentions(source: Source, mid: int, before: int, *, unread: bool, limit: int) -> list[Named]:
    """The last messages before a position that name this person, or all of a room that it is in, newest first."""
    rows = await source.fetch(MENTIONS, mid, before, unread, limit)
    return [Named(_message(row, row["room"]), _amendment(row)) for row in rows]


class PinLine(NamedTuple):
    """A pinned message: the position of the pin, by whom, since when."""

    seq: int
    position: int
    by: int
    time_ms: int


class Pins(NamedTuple):
    """Pins, and since when who asked for them was a member, as the rows were then: None if it was none, or if there are no pins."""

    lines: list[PinLine]
    since: int | None


async def pins(source: Source, room: str, first: int, last: int, before: int, limit: int, *, mid: int) -> Pins:
    """The last pins of a room before a position, of messages from one seq to another, the newest first; and whether `mid` was a member
    of it then."""
    rows = await source.fetch(PINS, room, first, last, before, limit, mid)
    return Pins([PinLine(*line) for _, *line in rows], rows[0]["since"] if rows else None)


class Judged(NamedTuple):
    """Is the sender a member; how many of the seqs are messages that it may name; how many of the people are members?"""

    is_member: bool
    messages: int
    people: int


async def judge(
    source: Source, room: str, mid: int, seqs: Collection[int], people: Collection[int], unseen: int = 0
) -> Judged | None:
    """Whether what a message is about can be so; None where there is no such room. `unseen` is one of the seqs that its sender need not
    see."""
    row = await source.fetchrow(ABOUT, room, mid, list(seqs), list(people), unseen)
    return None if row is None else Judged(*row)


class Used(NamedTuple):
    """The message that was sent under an id."""

    position: int
    seq: int
    stream: str
    version: int
    body: str


async def used(source: Source, mid: int, client_id: str) -> Used | None:
    """The message that this person sent under this id, or None."""
    row = await source.fetchrow(USED, mid, client_id)
    return None if row is None else Used(*row)


def _amendment(row: asyncpg.Record) -> Amendment | None:
    """What became of the message of a row, whose own columns have the names of the event's."""
    if row["edits"] is None:
        return None
    recalled = (row.get("recalled") or 0, row.get("recalled_by") or 0)
    return Amendment(row["edits"], row["edited"], row["edited_ms"], row["format_now"], row["body_now"], *recalled)


def _after(mid: int | None) -> int:
    return -(2**63) if mid is None else mid  # a member id may be negative


def _room(row: asyncpg.Record) -> Room:
    values = dict(zip(Room._fields, tuple(row), strict=False))
    return Room(**{**values, "owners": tuple(values["owners"])})


def _message(row: asyncpg.Record, room: str) -> Recorded:
    names = Names()
    names.names[row["stream_id"]] = ROOM + room
    return recorded(row, names)
