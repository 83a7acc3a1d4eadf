"""The secrets: hashes of passwords, refresh tokens, tickets and codes, in tables beside the log.

Each is made so that nothing has to be undone. A credential is written before the event that names it, and means nothing until then;
a refresh token is worth what its login is, which stands in the log; a ticket is used up by the statement that reads it, and a code by
the event that it led to.

What is compared is the SHA-256 of 128 random bits or more, so nobody can guess one, and whoever reads the tables holds none.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from typing import Final, NamedTuple, TypeAlias

import asyncpg

from imcore.database import sweep_expired
from imcore.events.names import Connection, Pool

Source: TypeAlias = "Connection | Pool"

TOKEN_BYTES: Final = 16
CODE_ALPHABET: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # none that is taken for another
CODE_CHARACTERS: Final = 20  # 100 bits

KEEP_CREDENTIAL = "INSERT INTO credentials (credential, hash) VALUES ($1, $2)"
REHASH = "UPDATE credentials SET hash = $3 WHERE credential = $1 AND hash = $2"
FORGET_CREDENTIAL = "DELETE FROM credentials WHERE credential = $1"

KEEP_REFRESH = """
INSERT INTO refresh_tokens (family, hash, mid, sid, told, expires_at) VALUES ($1, $2, $3, $4, $5, now() + $6)
"""
# The token of today, or, for a moment, the one before it: an answer may have been lost on its way. Then the one that it brought is
# worth nothing. Of two that come with the same token each gets one, and the first of these is worth nothing.
ROTATE = """
UPDATE refresh_tokens SET hash = $3, before = $2, expires_at = now() + $4,
  turned_at = CASE WHEN hash = $2 THEN clock_timestamp() ELSE turned_at END
WHERE family = $1 AND (hash = $2 OR (before = $2 AND turned_at > clock_timestamp() - $5::interval)) AND expires_at > now()
RETURNING mid, sid, told
"""
FAMILY = "SELECT mid, sid, told FROM refresh_tokens WHERE family = $1 AND hash <> '' AND expires_at > now()"
TOLD = "SELECT told FROM refresh_tokens WHERE mid = $1 AND sid = $2 AND hash <> ''"
FORGET_FAMILIES = "DELETE FROM refresh_tokens WHERE mid = $1 AND sid = ANY($2::text[])"
# Worth nothing, and there until no access token of the guest can be about: then the sweep forgets what ended it.
END_GUEST = """
UPDATE refresh_tokens SET hash = '', before = NULL, expires_at = now() + interval '1 hour' WHERE mid = $1 AND sid = ANY($2::text[])
"""
# Worth nothing from here on. A refresh that began in time may wait for the row beyond it: so the row is taken before anything is said.
# Whoever has it now is not waited for, and has made it good for long when it lets go; who comes to it after this finds nothing that he
# could say. Whoever dies between this and FORGET_READ leaves it to the next who looks.
TAKE_EXPIRED = """
UPDATE refresh_tokens SET hash = '', before = NULL WHERE family = ANY (ARRAY(
  SELECT family FROM refresh_tokens WHERE expires_at <= now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))
RETURNING family, mid, sid
"""
# Logins that no refresh token is of: code that does not say that a login is over forgets the tokens alone. The row of a token is there
# before its login, and goes after it; so what is here never comes back to life.
STRAYS = """
SELECT l.mid, l.sid FROM logins l
WHERE (l.mid, l.sid) > ($1, $2) AND NOT EXISTS (SELECT FROM refresh_tokens r WHERE r.mid = l.mid AND r.sid = l.sid)
ORDER BY l.mid, l.sid LIMIT $3
"""
FORGET_READ = "DELETE FROM refresh_tokens WHERE family = ANY($1::bytea[])"
# Tables, and for how long what has expired is kept there.
SWEPT: Final = {"tickets": 0, "invitation_codes": 30, "activation_codes": 30}

KEEP_TICKET = "INSERT INTO tickets (hash, identity, origin, expires_at) VALUES ($1, $2, $3, now() + $4)"
USE_TICKET = "DELETE FROM tickets WHERE hash = $1 RETURNING identity, origin, expires_at > now() AS in_time"

KEEP_INVITATION = """
INSERT INTO invitation_codes (hash, uses, note, created_by, expires_at) VALUES ($1, $2, $3, $4, now() + $5)
RETURNING expires_at
"""
INVITATION = """
SELECT i.name, i.uses FROM invitation_codes i LEFT JOIN code_uses u ON u.code = i.name
WHERE i.hash = $1 AND i.uses > coalesce(u.used, 0) AND i.expires_at > now()
"""

KEEP_ACTIVATION = """
INSERT INTO activation_codes (mid, hash, expires_at) VALUES ($1, $2, now() + $3)
ON CONFLICT (mid) DO UPDATE SET hash = excluded.hash, expires_at = excluded.expires_at
"""
IS_ACTIVATION = "SELECT EXISTS (SELECT FROM activation_codes WHERE mid = $1 AND hash = $2 AND expires_at > now())"
FORGET_ACTIVATION = "DELETE FROM activation_codes WHERE mid = $1"


class Secret(NamedTuple):
    """What whoever it is for is told, and what is kept."""

    text: str
    hash: bytes


def digest(text: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(text.encode(errors="replace")).digest()


def secret() -> Secret:
    """128 random bits."""
    text = secrets.token_urlsafe(TOKEN_BYTES)
    return Secret(text, digest(text))


def code() -> Secret:
    """The same to be typed by people."""
    text = "".join(secrets.choice(CODE_ALPHABET) for _ in range(CODE_CHARACTERS))
    return Secret(text, digest(text))


def code_digest(text: str) -> bytes:
    """What is kept of a code, as people type it: in small letters, with spaces and dashes."""
    return digest("".join(sign for sign in text.upper() if sign not in " -"))


class Family(NamedTuple):
    """A login's refresh token: whose, and what its access tokens say beside that."""

    mid: int
    sid: str
    told: str


class Code(NamedTuple):
    """An invitation code: its name in the log, and how many may register with it."""

    name: str
    uses: int


class Expired(NamedTuple):
    """A login that was not refreshed in time."""

    family: bytes
    mid: int
    sid: str


# --- passwords -----------------------------------------------------------------------------------------------------------------


async def keep_credential(source: Source, hash_: str) -> str:
    """Keep the hash of a password; the name by which an event may make it somebody's."""
    name = secrets.token_hex(16)
    await source.execute(KEEP_CREDENTIAL, name, hash_)
    return name


async def rehash(source: Source, credential: str, before: str, hash_: str) -> None:
    """The same password, hashed anew; unless somebody else did so meanwhile."""
    await source.execute(REHASH, credential, before, hash_)


async def forget_credential(source: Source, credential: str) -> None:
    """It is nobody's any more."""
    await source.execute(FORGET_CREDENTIAL, credential)


# --- refresh tokens ------------------------------------------------------------------------------------------------------------


async def keep_refresh(source: Source, mid: int, sid: str, told: str, expires_in_s: float) -> str:
    """A refresh token for a login."""
    family, turning = secret(), secret()
    await source.execute(KEEP_REFRESH, family.hash, turning.hash, mid, sid, told, timedelta(seconds=expires_in_s))
    return f"{family.text}.{turning.text}"


async def rotate(source: Source, token: str, expires_in_s: float, grace_s: float) -> tuple[Family, str] | Family | None:
    """Whose token this is, and the one that takes its place. A family alone: the token was used before, and longer than `grace_s` ago,
    so two have it. None: it is no token, or has expired."""
    family, _, turning = token.partition(".")
    fresh = secret()
    row = await source.fetchrow(
        ROTATE,
        digest(family),
        digest(turning),
        fresh.hash,
        timedelta(seconds=expires_in_s),
        timedelta(seconds=grace_s),
    )
    if row is not None:
        return Family(*row), f"{family}.{fresh.text}"
    row = await source.fetchrow(FAMILY, digest(family))
    return None if row is None else Family(*row)


async def told(source: Source, mid: int, sid: str) -> str | None:
    """What the device said of itself at this login; None if it is over."""
    said: str | None = await source.fetchval(TOLD, mid, sid)
    return said


async def forget_families(source: Source, mid: int, sids: list[str]) -> None:
    """These logins are over."""
    await source.execute(FORGET_FAMILIES if mid > 0 else END_GUEST, mid, sids)


async def take_expired(source: Source, limit: int) -> list[Expired]:
    """Logins that were not refreshed in time, the oldest of them; from here on nobody refreshes them."""
    return [Expired(*row) for row in await source.fetch(TAKE_EXPIRED, limit)]


async def strays(source: Source, after: tuple[int, str], limit: int) -> list[tuple[int, str]]:
    """Logins (mid, sid) that no refresh token is of, in their order."""
    return [(mid, sid) for mid, sid in await source.fetch(STRAYS, *after, limit)]


async def forget_read(source: Source, expired: list[Expired]) -> None:
    """The log knows that these are over."""
    await source.execute(FORGET_READ, [one.family for one in expired])


async def sweep(source: Source) -> None:
    """Forget tickets and codes that nobody can use any more."""
    for table, kept_days in SWEPT.items():
        await sweep_expired(source, table, kept_days=kept_days)


# --- tickets -------------------------------------------------------------------------------------------------------------------


async def keep_ticket(source: Source, identity: str, origin: str, expires_in_s: float) -> str:
    """A ticket for this identity, for a page of this origin."""
    ticket = secret()
    await source.execute(KEEP_TICKET, ticket.hash, identity, origin, timedelta(seconds=expires_in_s))
    return ticket.text


async def use_ticket(source: Source, ticket: str, origin: str) -> str | None:
    """The identity of a ticket, which is used up by asking, whatever comes of it. None: no ticket, too late, another origin."""
    row: asyncpg.Record | None = await source.fetchrow(USE_TICKET, digest(ticket))
    return row["identity"] if row is not None and row["in_time"] and row["origin"] == origin else None


# --- codes ---------------------------------------------------------------------------------------------------------------------


async def keep_invitation(source: Source, *, uses: int, note: str, by: int, expires_in_s: float) -> tuple[str, int]:
    """An invitation code, and when it expires in milliseconds since 1970."""
    made = code()
    expires_at = await source.fetchval(KEEP_INVITATION, made.hash, uses, note, by, timedelta(seconds=expires_in_s))
    return made.text, int(expires_at.timestamp() * 1000)


async def invitation(source: Source, text: str) -> Code | None:
    """The code that this is; None if it is none, used up or expired. Whether it may be used is decided in the log."""
    row = await source.fetchrow(INVITATION, code_digest(text))
    return None if row is None else Code(*row)


async def keep_activation(source: Source, mid: int, expires_in_s: float) -> str:
    """The code that activates this account."""
    made = code()
    await source.execute(KEEP_ACTIVATION, mid, made.hash, timedelta(seconds=expires_in_s))
    return made.text


async def is_activation(source: Source, mid: int, text: str) -> bool:
    """Is this the code of this account, and in time?"""
    return bool(await source.fetchval(IS_ACTIVATION, mid, code_digest(text)))


async def forget_activation(source: Source, mid: int) -> None:
    """The account needs none any more."""
    await source.execute(FORGET_ACTIVATION, mid)
