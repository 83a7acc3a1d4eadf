"""Which tokens are worth nothing any more, though their signature is good: asked at every door, and never waited for.

A token says up to where in the log it knew its person (`as_of`) and of which login it is (`sid`). A logout, a suspension, a change of
role is an event; from its position on, tokens that knew less are refused. So two numbers are compared and one set is looked into, and
no clock decides.

What is known is read from the rows before any door opens, and then followed: a comet takes it from the log, with everything else,
before it delivers what comes after; a process without one looks at the rows twice a second. What is older than any token can be is
forgotten: the end of a login after the most that `access_token_s` may be (it may have been more before the last start), the end of all
tokens of a person after the most that `imcore token` gives one. Who is suspended is known as long as that lasts.

The trap: the token of another issuer has no `as_of`. It is compared by its time of issue, to the second, and only for as long as this
remembers; a suspension holds against it always.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import asyncpg

from imcore.auth import LOGIN_TOKEN_S_MAX, PERSON_TOKEN_S_MAX, Identity
from imcore.database import DATABASE_ERRORS, heed_cancellation
from imcore.errors import Unauthenticated
from imcore.events.names import Pool
from imcore.events.types import (
    USER,
    AccountDeactivated,
    AccountSuspended,
    Fact,
    LoggedOut,
    PlatformRoleChanged,
    Recorded,
    SuspensionLifted,
    UnknownType,
)

log = logging.getLogger(__name__)

LOOK_S: Final = 0.5
LOOK_TIMEOUT_S: Final = 5.0
MARGIN_S: Final = 120.0  # beside the life of a token and its leeway: clocks of processes differ
TYPES: Final = frozenset(
    fact.type for fact in (LoggedOut, AccountSuspended, SuspensionLifted, AccountDeactivated, PlatformRoleChanged)
)

# In one snapshot: everything that ended lately, and who may not come in at all.
LATELY = """
SELECT l.mid, l.position, l.voided, l.voided_ms, l.sids, coalesce(a.state IN ('suspended', 'deactivated'), false) AS shut
FROM logouts l LEFT JOIN accounts a ON a.mid = l.mid WHERE l.position > $1 ORDER BY l.position
"""
HEAD = "SELECT position FROM log_head"
SHUT = "SELECT mid FROM accounts WHERE state IN ('suspended', 'deactivated')"


class Voided(NamedTuple):
    """Tokens of a person that knew less of the log than `position`, or were issued before that time, are worthless."""

    position: int
    at_ms: int


class Revocations:
    """What this process knows of it. Nothing here awaits but `begin` and `follow`."""

    def __init__(self, leeway_s: float, *, now: Callable[[], float] = time.time) -> None:
        self._ended_kept_ms = int((LOGIN_TOKEN_S_MAX + leeway_s + MARGIN_S) * 1000)
        self._voided_kept_ms = int((PERSON_TOKEN_S_MAX + leeway_s + MARGIN_S) * 1000)
        self._now = now
        # In the order in which they ended, so that the oldest are the first to be forgotten.
        self.voided: dict[int, Voided] = {}
        self.ended: dict[str, int] = {}  # logins, and when each ended
        self.shut: set[int] = set()  # who is suspended or gave up the account
        self._position = 0  # of the newest row that was looked at
        self._head = 0  # of the log, when the rows were read first: they hold what was before

    # --- asking ------------------------------------------------------------------------------------------------------------

    def check(self, identity: Identity) -> None:
        """Pass, or raise Unauthenticated: whoever this token was for has logged out, is suspended, or is something else now."""
        mid, as_of = identity.mid, identity.as_of
        if mid in self.shut:
            raise Unauthenticated("the account is suspended or was given up")
        if identity.sid and identity.sid in self.ended:
            raise Unauthenticated("this login is over")
        if as_of is None:
            return
        voided = self.voided.get(mid)
        if voided is None:
            return
        if as_of < voided.position if as_of else (identity.issued_at or 0) * 1000 <= voided.at_ms:
            raise Unauthenticated("the token is from before a logout or a change of role")

    # --- knowing -----------------------------------------------------------------------------------------------------------

    def take(self, batch: Iterable[Recorded]) -> None:
        """Take in what events say; others than these cost a look into a set. What is known already changes nothing."""
        for event in batch:
            if event.type in TYPES and event.op == 0 and event.position > self._head:
                try:
                    fact = event.fact
                except (UnknownType, ValueError):
                    log.exception("an event cannot be read; it ends no token", extra={"position": event.position})
                    continue
                self._take(int(event.stream.removeprefix(USER)), fact, event.position, event.time_ms)

    def _take(self, mid: int, fact: Fact, position: int, at_ms: int) -> None:
        match fact:
            case LoggedOut(everywhere=False, sids=sids):
                for sid in sids:
                    self._end(sid, at_ms)
            case LoggedOut() | PlatformRoleChanged():
                self._void(mid, position, at_ms)
            case AccountSuspended() | AccountDeactivated():
                self._void(mid, position, at_ms)
                self.shut.add(mid)
            case SuspensionLifted():
                self.shut.discard(mid)

    def _void(self, mid: int, position: int, at_ms: int) -> None:
        known = self.voided.get(mid)
        if known is None or known.position < position:
            self.voided.pop(mid, None)
            self.voided[mid] = Voided(position, at_ms)
        self._forget()

    def _end(self, sid: str, at_ms: int) -> None:
        self.ended.setdefault(sid, at_ms)
        self._forget()

    def _forget(self) -> None:
        """A few at a time: as many as can come in."""
        voided_from_ms, ended_from_ms = self._kept_from_ms()
        for _ in range(2):
            mid, voided = next(iter(self.voided.items()), (0, None))
            if voided is not None and voided.at_ms < voided_from_ms:
                del self.voided[mid]
            sid, ended_ms = next(iter(self.ended.items()), ("", ended_from_ms))
            if ended_ms < ended_from_ms:
                del self.ended[sid]

    def _kept_from_ms(self) -> tuple[int, int]:
        """From when on people's and logins' ends are remembered."""
        now_ms = int(self._now() * 1000)
        return now_ms - self._voided_kept_ms, now_ms - self._ended_kept_ms

    # --- following the rows --------------------------------------------------------------------------------------------------

    async def begin(self, pool: Pool) -> None:
        """Know everything that is in the rows. To be awaited before anybody is let in."""
        async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            self._head = await connection.fetchval(HEAD)
            self.shut = {mid for (mid,) in await connection.fetch(SHUT)}
            self._rows(await connection.fetch(LATELY, 0))

    async def look(self, pool: Pool) -> None:
        """Know what is new in the rows."""
        self._rows(await pool.fetch(LATELY, self._position))

    def _rows(self, rows: Iterable[asyncpg.Record]) -> None:
        voided_from_ms, ended_from_ms = self._kept_from_ms()
        for mid, position, voided, voided_ms, sids, is_shut in rows:
            self._position = position
            if voided and voided_ms >= voided_from_ms:
                self._void(mid, voided, voided_ms)
            for one in sids:
                at_ms, _, sid = one.partition(" ")
                if int(at_ms) >= ended_from_ms:
                    self._end(sid, int(at_ms))
            if is_shut:
                self.shut.add(mid)
            else:
                self.shut.discard(mid)

    async def follow(self, pool: Pool) -> None:
        """Look again and again, for ever. Ends when cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    await self.look(pool)
            except DATABASE_ERRORS as error:
                heed_cancellation()
                log.warning("what ended meanwhile cannot be looked at: %s", error)
            await asyncio.sleep(LOOK_S)

    def __len__(self) -> int:
        return len(self.voided) + len(self.ended) + len(self.shut)
