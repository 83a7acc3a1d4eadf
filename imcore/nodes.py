"""Leases of running comets: who is there, how busy, and whose sessions are left when one is gone.

A comet registers before its first session, under an id that no run had before, and renews its lease every third of it. It is
dead when its row is gone: because it stopped cleanly, or because a reaper took the row away. From then on renewing fails, so a
comet that was only slow learns that its sessions were given up; it closes them ("come back") and registers again.

A lease that has run out hides the comet from those who look for one, no more; if it is renewed it is back. Its sessions are shown until
it is declared dead. So a database that was away for longer than a lease does not cost every client its connection, nor make anybody
seem to be offline.

The trap: clocks jump, and a reaper may itself have been cut off. It compares no times of the database with each other: it takes
away a lease only after having seen it unchanged for its whole length on its own monotonic clock, without a failure in between.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple

from imcore.database import DATABASE_ERRORS, heed_cancellation
from imcore.errors import Overloaded
from imcore.events.names import Connection, Pool
from imcore.events.store import Log, draft
from imcore.events.types import NODE_LOST, SERVICE_MID, SESSION, SessionClosed

logger = logging.getLogger(__name__)

LEASE_S: Final = 15.0
LOOK_S: Final = 1.0  # between a reaper's looks
GAP_S: Final = 2.0  # a look that comes so much too late was held up by something that the comets may have met too
LOOK_TIMEOUT_S: Final = 10.0
REAP_SESSIONS_MAX: Final = 5_000

REGISTER = """
INSERT INTO nodes (node, hostname, address, tcp_port, ws_port, wss_port, region, weight, connections, addresses,
  started_at, lease_until, lease_s)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, now(), now() + make_interval(secs => $9), $9)
ON CONFLICT (node) DO UPDATE SET lease_until = excluded.lease_until
"""
RENEW = """
UPDATE nodes SET lease_until = now() + make_interval(secs => lease_s), connections = $2, addresses = $3 WHERE node = $1
"""
UNREGISTER = "DELETE FROM nodes WHERE node = $1"
ALIVE = """
SELECT node, hostname, address, tcp_port, ws_port, wss_port, region, weight, connections, addresses, started_at, lease_until
FROM nodes WHERE lease_until > now() ORDER BY node
"""
LEASES = "SELECT node, lease_until, lease_s FROM nodes"
# Not if it was renewed since it was looked at.
DECLARE_DEAD = "DELETE FROM nodes WHERE node = $1 AND lease_until = $2"
EXPIRED_SESSIONS = """
SELECT s.mid, s.key, s.opened, s.node FROM sessions s
WHERE s.opened > $1 AND NOT EXISTS (SELECT FROM nodes n WHERE n.node = s.node) ORDER BY s.opened LIMIT $2
"""

# The last: what asyncpg says when the server's farewell has arrived and the end of the connection has not.


class Node(NamedTuple):
    """What a comet says of itself. `node` is an id that no run had before; `address` is the host that clients are told."""

    node: str
    hostname: str
    address: str
    tcp_port: int
    ws_port: int
    wss_port: int
    region: str
    weight: int


class AliveNode(NamedTuple):
    """A comet whose lease holds, and how busy it was when it last renewed."""

    node: str
    hostname: str
    address: str
    tcp_port: int
    ws_port: int
    wss_port: int
    region: str
    weight: int
    connections: int
    addresses: int
    started_at: datetime
    lease_until: datetime


class ExpiredSession(NamedTuple):
    """A session that is open in the rows, on a comet that is gone."""

    mid: int
    key: str
    opened: int
    node: str


async def register(source: Connection | Pool, node: Node, lease_s: float = LEASE_S) -> None:
    """Take a lease."""
    await source.execute(REGISTER, *node, lease_s)


async def renew(source: Connection | Pool, node: str, connections: int, addresses: int) -> bool:
    """Make the lease last its whole length from now on, and say how busy the comet is. False if it was declared dead."""
    return await source.execute(RENEW, node, connections, addresses) == "UPDATE 1"


async def unregister(source: Connection | Pool, node: str) -> None:
    """Give the lease back. The comet has closed its sessions before."""
    await source.execute(UNREGISTER, node)


async def alive(source: Connection | Pool) -> list[AliveNode]:
    """The comets whose leases hold."""
    return [AliveNode(*row) for row in await source.fetch(ALIVE)]


async def expired_sessions(source: Connection | Pool, *, after_opened: int = 0) -> list[ExpiredSession]:
    """Open sessions on comets that are gone, the oldest first; REAP_SESSIONS_MAX at the most."""
    return [ExpiredSession(*row) for row in await source.fetch(EXPIRED_SESSIONS, after_opened, REAP_SESSIONS_MAX)]


def closing(session: ExpiredSession) -> SessionClosed:
    """What is appended of a session that its comet cannot close any more."""
    return SessionClosed(key=session.key, opened=session.opened, reason=NODE_LOST)


async def reap(log: Log, pool: Pool) -> int:
    """Close every session that a comet which is gone has left; how many there were.

    A session whose row has not followed yet is closed once more, which changes nothing. Raises Overloaded; those that were not
    appended are there the next time.
    """
    reaped, after = 0, 0
    while expired := await expired_sessions(pool, after_opened=after):
        await log.append(
            draft(f"{SESSION}{session.mid}", closing(session), SERVICE_MID, key=session.key) for session in expired
        )
        reaped, after = reaped + len(expired), expired[-1].opened
    if reaped:
        logger.warning("closed %d sessions of comets that are gone", reaped)
    return reaped


class Reaper:
    """Declares comets dead and closes the sessions that they left. Any number may run; one is enough.

    A comet that is killed is off after its lease and two looks.
    """

    def __init__(
        self, log: Log, pool: Pool, *, look_s: float = LOOK_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._pool = pool
        self._look_s = look_s
        self._clock = clock
        self._looked_at = 0.0
        self._seen: dict[str, tuple[datetime, float]] = {}  # a lease, and when it was first seen like this
        self.reaped = 0

    async def run(self) -> None:
        """Look every `look_s`, for ever. Ends when cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    await self.declare_dead()
                self.reaped += await reap(self._log, self._pool)
            except (*DATABASE_ERRORS, Overloaded) as error:
                heed_cancellation()
                logger.warning("lost comets cannot be looked for: %s", error)
            await asyncio.sleep(self._look_s)

    async def declare_dead(self) -> list[str]:
        """Take away the leases that were not renewed in their time; the comets that they belonged to."""
        leases = await self._pool.fetch(LEASES)
        now = self._clock()
        if now > self._looked_at + GAP_S + self._look_s:
            self._seen.clear()  # the database or this process was away, and perhaps all of them: nothing was seen meanwhile
        self._looked_at = now
        seen: dict[str, tuple[datetime, float]] = {}
        dead: list[str] = []
        for node, lease_until, lease_s in leases:
            known, since = self._seen.get(node, (None, now))
            if known != lease_until:
                since = now
            seen[node] = lease_until, since
            if now - since >= lease_s and await self._pool.execute(DECLARE_DEAD, node, lease_until) == "DELETE 1":
                logger.error("a comet did not renew its lease and is declared dead", extra={"node": node})
                dead.append(node)
        self._seen = seen
        return dead
