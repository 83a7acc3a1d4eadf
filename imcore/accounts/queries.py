"""What is read of accounts and logins."""

from __future__ import annotations

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
# Rooms in which others are, and that one person owns and nobody else.
OWNED_ALONE: Final = """
SELECT r.room FROM members m JOIN rooms r ON r.room = m.room
WHERE m.mid = $1 AND m.role = 'owner' AND r.dismissed = 0 AND r.members > 1 AND cardinality(r.owners) = 1
ORDER BY r.room LIMIT $2
"""
OWNED_MAX: Final = 50  # one is enough to refuse; of these some may be given away or left meanwhile


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


async def owned_alone(source: Source, mid: int) -> list[str]:
    """Rooms in which others are and whose only owner this is, some of them if they are many."""
    return [row["room"] for row in await source.fetch(OWNED_ALONE, mid, OWNED_MAX)]


async def are_logins(source: Source) -> bool:
    """Is anybody logged in?"""
    return bool(await source.fetchval(ARE_LOGINS))


async def standing(source: Source, mid: int, sid: str) -> Standing:
    """What holds of this login now."""
    row = await source.fetchrow(STANDING, mid, sid)
    assert row is not None, "the log has a head"
    return Standing(*row)
