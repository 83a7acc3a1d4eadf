"""A bus over Postgres: NOTIFY as a doorbell that says how far the log has come.

May lose, repeat and coalesce; the order of rings means nothing. It carries no events: the processes that hear it read the log.
The notification is sent outside of the append's transaction and at most one is under way, because a commit with NOTIFY waits for
a lock of the whole database, and an append must never wait for its own echo.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg

from imcore.errors import DatabaseUnavailable
from imcore.events.names import OwnConnection

log = logging.getLogger(__name__)

CHANNEL: Final = "imcore_log"
RETRY_S: Final = 0.5
ALIVE_S: Final = 5.0


class PostgresBus:
    """Rings `heard(position)` in every process when one of them has appended."""

    def __init__(self, connect: Callable[[], Awaitable[OwnConnection]], heard: Callable[[int], None]) -> None:
        self._connect = connect
        self._heard = heard
        self._position = 0
        self._wake = asyncio.Event()

    def publish(self, position: int) -> None:
        """Tell the others, soon."""
        self._position = position
        self._wake.set()

    async def run(self) -> None:
        """Listen and ring, for ever; ends when cancelled."""
        while True:
            connection: OwnConnection | None = None
            try:
                connection = await self._connect()
                await connection.add_listener(CHANNEL, self._on_ring)
                while True:
                    try:
                        async with asyncio.timeout(ALIVE_S):
                            await self._wake.wait()
                    except TimeoutError:
                        await connection.execute("SELECT 1")  # the only way to learn that nobody is there any more
                        continue
                    self._wake.clear()
                    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, str(self._position))
            except (asyncpg.PostgresError, asyncpg.InterfaceError, DatabaseUnavailable, OSError, TimeoutError) as error:
                log.warning("the bus is down: %s", error)
                await asyncio.sleep(RETRY_S)
            finally:
                if connection is not None:
                    connection.terminate()

    def _on_ring(self, connection: object, pid: int, channel: str, payload: object) -> None:
        if isinstance(payload, str) and payload.isdigit():
            self._heard(int(payload))
