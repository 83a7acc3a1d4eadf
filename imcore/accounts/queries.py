"""What is read of accounts and logins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from imcore.events.names import Connection, Pool

Source: TypeAlias = "Connection | Pool"

# For a login: whose name it is, and what the password is compared with.
BY_NAME: Final = """
SELECT a.mid, a.credential, c.hash FROM handles h JOIN accounts a ON a.mid = h.mid
LEFT JOIN credentials c ON c.credential = a.credential WHERE h.handle = $1 AND a.login = $2
"""
BY_MID: Final = """
SELECT a.mid, a.credential, c.hash FROM accounts a LEFT JOIN credentials c ON c.credential = a.credential WHERE a.mid = $1
"""
IS_TAKEN: Final = "SELECT EXISTS (SELECT FROM handles WHERE handle = $1)"
ACCOUNT: Final = """
SELECT mid, login, name, avatar, extra, role, state, reason, created_ms FROM accounts WHERE mid = $1
"""
ACCOUNTS: Final = """
SELECT mid, login, name, avatar, extra, role, state, reason, created_ms FROM accounts
WHERE mid > $1 AND ($2::text IS NULL OR state = $2) AND ($3 = '' OR strpos(login, $3) > 0 OR strpos(lower(name), $3) > 0)
ORDER BY mid LIMIT $4
"""
# Logins of one person that are not over: on one device, or on all. One that has expired is, whether its row is still there or not.
LOGINS: Final = """
SELECT l.sid, l.key, l.platform, l.address, l.since_ms FROM logins l LEFT JOIN logouts o ON o.mid = l.mid
WHERE l.mid = $1 AND ($3::text IS NULL OR l.key = $3) AND l.since > coalesce(o.ended, 0)
AND EXISTS (SELECT FROM refresh_tokens r WHERE r.mid = l.mid AND r.sid = l.sid AND r.expires_at > now())
ORDER BY l.since DESC LIMIT $2
"""
ARE_LOGINS: Final = "SELECT EXISTS (SELECT FROM logins)"
# What a new token of a login is to say, and up to where in the log that is true: one snapshot.
STANDING: Final = """
SELECT h.position, a.state, a.role, l.since > coalesce(o.ended, 0) AS is_on
FROM log_head h
LEFT JOIN accounts a ON a.mid = $1
LEFT JOIN logins l ON l.mid = $1 AND l.sid = $2
LEFT JOIN logouts o ON o.mid = $1
"""
# Rooms in which others are, and that one person owns; those first that nobody else does.
OWNED: Final = """
SELECT r.room FROM members m JOIN rooms r ON r.room = m.room
WHERE m.mid = $1 AND m.role = 'owner' AND r.dismissed = 0 AND r.members > 1
ORDER BY cardinality(r.owners), r.room LIMIT $2
"""
OWNED_MAX: Final = 100  # one that it owns alone is enough to refuse; of these some may be given away or left meanwhile

# A guest is told from others with a negative member id, who are believed (mode open) or known by another issuer's word, by its refresh
# token, which stays for an hour beyond its logout and until the sweep is done with it.
# Rooms that people are in, without those that stay as they are when a guest goes.
_MAY_LEAVE: Final = """FROM members m JOIN rooms r ON r.room = m.room
  WHERE r.dismissed = 0 AND NOT starts_with(m.room, 'direct://')"""
# From the logouts of guests, which are forgotten as early: few, and in order of mid. Who has another login than those is not over.
GUESTS_LOGGED_OUT: Final = f"""
SELECT o.mid FROM logouts o WHERE o.mid BETWEEN $1 AND $2 AND o.mid < 0
AND EXISTS (SELECT FROM refresh_tokens t WHERE t.mid = o.mid)
AND NOT EXISTS (SELECT FROM logins l WHERE l.mid = o.mid AND l.since > o.ended)
AND EXISTS (SELECT {_MAY_LEAVE} AND m.mid = o.mid)
ORDER BY o.mid LIMIT $3
"""
# People with a negative member id who are in rooms: a page in order of mid, which costs no more than it is long.
NEGATIVE: Final = "SELECT mid FROM room_counts WHERE mid > $1 AND mid < 0 ORDER BY mid LIMIT $2"
# Who of these is in rooms and has no login, but had one: the stream of a guest begins with it, that of others does not. LATERAL with a
# LIMIT is one look at an index of the log for each.
GUESTS_FORGOTTEN: Final = f"""
SELECT asked.mid FROM unnest($1::bigint[]) AS asked(mid) JOIN streams s ON s.name = 'user:' || asked.mid
CROSS JOIN LATERAL (SELECT e.type FROM events e WHERE e.stream_id = s.id ORDER BY e.seq LIMIT 1) AS first
WHERE first.type = 'logged_in'
AND NOT EXISTS (SELECT FROM logins l WHERE l.mid = asked.mid)
AND NOT EXISTS (SELECT FROM refresh_tokens t WHERE t.mid = asked.mid)
AND EXISTS (SELECT {_MAY_LEAVE} AND m.mid = asked.mid)
"""
# Rooms that these are in and may leave. Of those that one of them owns alone: who owns it next, in the order of membership.heir_order.
TO_LEAVE: Final = f"""
SELECT m.mid, m.room, CASE WHEN r.owners = ARRAY[m.mid] AND r.members > 1 THEN ARRAY(
  SELECT h.mid FROM members h LEFT JOIN accounts a ON a.mid = h.mid WHERE h.room = m.room AND h.mid <> m.mid
  ORDER BY coalesce(a.state = 'deactivated', false), h.mid < 0, h.role <> 'admin', h.since LIMIT $3) ELSE '{{}}' END AS heirs
{_MAY_LEAVE} AND m.mid = ANY($1::bigint[])
ORDER BY m.mid, m.room LIMIT $2
"""
HEIRS_MAX: Final = 8  # one is enough; some may leave meanwhile


class Known(NamedTuple):
    """An account to be logged in to: `hash` is None if there is none of its password."""

    mid: int
    credential: str
    hash: str | None


class Shown(NamedTuple):
    """An account."""

    mid: int
    login: str
    name: str
    avatar: str
    extra: str
    role: str
    state: str
    reason: str
    created_ms: int


class Device(NamedTuple):
    """A login that is not over."""

    sid: str
    key: str
    platform: str
    address: str
    since_ms: int


class Standing(NamedTuple):
    """What holds of a login at a position of the log. No `state`: there is no account. `is_on` None: no such login."""

    position: int
    state: str | None
    role: str | None
    is_on: bool | None


class Place(NamedTuple):
    """A room that somebody is in. `heirs` come next as its owner, if that one owns it alone and others are in it."""

    mid: int
    room: str
    heirs: Sequence[int]


async def by_name(source: Source, handle: str, login: str) -> Known | None:
    """Whose name this is."""
    row = await source.fetchrow(BY_NAME, handle, login)
    return None if row is None else Known(*row)


async def by_mid(source: Source, mid: int) -> Known | None:
    """The account of a member id."""
    row = await source.fetchrow(BY_MID, mid)
    return None if row is None else Known(*row)


async def is_taken(source: Source, handle: str) -> bool:
    """Does the name belong to somebody?"""
    return bool(await source.fetchval(IS_TAKEN, handle))


async def account(source: Source, mid: int) -> Shown | None:
    """One account."""
    row = await source.fetchrow(ACCOUNT, mid)
    return None if row is None else Shown(*row)


async def accounts(source: Source, after: int, state: str | None, search: str, limit: int) -> list[Shown]:
    """A page of accounts in order of mid."""
    return [Shown(*row) for row in await source.fetch(ACCOUNTS, after, state, search, limit)]


async def logins(source: Source, mid: int, limit: int, key: str | None = None) -> list[Device]:
    """The logins of a person that are not over, on the device of this key or on all; the newest first."""
    return [Device(*row) for row in await source.fetch(LOGINS, mid, limit, key)]


async def owned(source: Source, mid: int) -> list[str]:
    """Rooms in which others are and that this one owns, the first hundred of them if they are many; first those that it owns alone."""
    return [row["room"] for row in await source.fetch(OWNED, mid, OWNED_MAX)]


async def guests_logged_out(source: Source, least: int, most: int, limit: int) -> list[int]:
    """Guests of these member ids who have logged out and are in rooms still, in order of mid."""
    return [mid for (mid,) in await source.fetch(GUESTS_LOGGED_OUT, least, most, limit)]


async def negative(source: Source, after: int, limit: int) -> list[int]:
    """People with a negative member id who are in rooms, in order of mid."""
    return [mid for (mid,) in await source.fetch(NEGATIVE, after, limit)]


async def guests_forgotten(source: Source, mids: Sequence[int]) -> list[int]:
    """Which of these are guests of whom nothing is kept but that they are in rooms, and the log as far as it is."""
    return [mid for (mid,) in await source.fetch(GUESTS_FORGOTTEN, mids)]


async def to_leave(source: Source, mids: Sequence[int], limit: int) -> list[Place]:
    """Rooms that these people are in, a few: no direct ones, and none that was dismissed."""
    return [Place(*row) for row in await source.fetch(TO_LEAVE, mids, limit, HEIRS_MAX)]


async def are_logins(source: Source) -> bool:
    """Is anybody logged in?"""
    return bool(await source.fetchval(ARE_LOGINS))


async def standing(source: Source, mid: int, sid: str) -> Standing:
    """What holds of this login now."""
    row = await source.fetchrow(STANDING, mid, sid)
    assert row is not None, "the log has a head"
    return Standing(*row)
