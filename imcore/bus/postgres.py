"""A bus over Postgres: NOTIFY as a doorbell that says how far the log has come.

May lose, repeat and coalesce; the order of rings means nothing. It carries no events: the processes that hear it read the log. The
notification is sent outside of the append's transaction and at most one is under way, because a commit with NOTIFY waits for a lock of
the whole database, and an append must never wait for its own echo.

It also passes on messages that are not stored (goim's push with `durable=0`), which have no other way to the other processes. They may
be lost, and those that do not fit into a notification are.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from imcore import failpoints
from imcore.database import DATABASE_ERRORS, heed_cancellation
from imcore.events.names import OwnConnection
from imcore.events.types import MESSAGE_PUSHED, SERVICE_MID

log = logging.getLogger(__name__)

CHANNEL: Final = "imcore_log"
RETRY_S: Final = 0.5
ALIVE_S: Final = 5.0
NOTIFICATION_BYTES_MAX: Final = 7_900  # Postgres: less than 8,000
EPHEMERAL_MAX: Final = 1_000
SIGNALS_MAX: Final = EPHEMERAL_MAX // 2  # when so many wait, no signals are added to them
BATCH_MAX: Final = 100

# Everything of the list is told, in its order.
NOTIFY: Final = "SELECT pg_notify($1, said) FROM unnest($2::text[]) AS said"


class Ephemeral(NamedTuple):
    """A message that is not stored, and whom it is for. It was given while the log was at `position` or beyond: who was taken out of a
    room by then must not get it.

    Of another type than a pushed message, and with op 0, it is an event that is no message: version 2 and JSON get it as an envelope,
    version 1 never. It is a signal of `mid`, which came over the connection `key`: not for that connection, and the first to be shed.

    The order of the fields is that of the notification, which older processes read too.
    """

    op: int
    payload: bytes
    room: str | None = None
    mids: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()
    everybody: bool = False
    position: int = 0
    type: str = MESSAGE_PUSHED
    mid: int = SERVICE_MID
    key: str = ""


class PostgresBus:
    """Rings `heard(position)` in every process when one of them has appended, and `passed_on(message)` in every other one."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[OwnConnection]],
        heard: Callable[[int], None],
        passed_on: Callable[[Ephemeral], object] | None = None,
    ) -> None:
        self._connect = connect
        self._heard = heard
        self._passed_on = passed_on
        self._origin = uuid.uuid4().hex[:8]
        self._position = 0
        self._rung = 0
        # Bounded: the oldest is dropped, as a message that is not stored may be.
        self._outgoing: deque[str] = deque(maxlen=EPHEMERAL_MAX)
        self._wake = asyncio.Event()
        self.dropped = 0  # messages that are not stored, and did not get to the other processes

    def publish(self, position: int) -> None:
        """Tell the others, soon."""
        self._position = position
        self._wake.set()

    def pass_on(self, message: Ephemeral) -> None:
        """Tell the others what is not in the log, soon. What is too large for a notification is not told, nor signals while much waits
        already."""
        if message.type != MESSAGE_PUSHED and len(self._outgoing) >= SIGNALS_MAX:
            self.dropped += 1
            return
        op, payload, *whom = message if message.type != MESSAGE_PUSHED else message[:7]  # older processes know no more
        text = json.dumps([self._origin, op, base64.b64encode(payload).decode(), *whom])
        if len(text) > NOTIFICATION_BYTES_MAX:
            log.warning("a message that is not stored is too large for the bus", extra={"bytes": len(payload)})
            self.dropped += 1
            return
        self.dropped += len(self._outgoing) == EPHEMERAL_MAX
        self._outgoing.append(text)
        self._wake.set()

    @property
    def waiting(self) -> int:
        """Messages that are on their way to the other processes."""
        return len(self._outgoing)

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
                    while self._outgoing or self._position > self._rung:
                        await self._say(connection)
            except DATABASE_ERRORS as error:
                heed_cancellation()
                log.warning("the bus is down: %s", error)
                await asyncio.sleep(RETRY_S)
            finally:
                if connection is not None:
                    connection.terminate()

    async def _say(self, connection: OwnConnection) -> None:
        """Send some of what waits, and the ring with it, in one round trip: however many messages wait, the ring waits for none."""
        said: dict[str, None] = {}  # Postgres drops what is said twice in one transaction
        while self._outgoing and len(said) < BATCH_MAX and self._outgoing[0] not in said:
            said[self._outgoing.popleft()] = None
        rings = self._position > self._rung
        if rings:
            if failpoints.armed is not None:
                await failpoints.arrive("before_publish")
            self._rung = self._position
            said[str(self._rung)] = None
        await connection.execute(NOTIFY, CHANNEL, list(said))
        if rings and failpoints.armed is not None:
            await failpoints.arrive("after_publish")

    def _on_ring(self, connection: object, pid: int, channel: str, payload: object) -> None:
        assert isinstance(payload, str), "asyncpg gives notifications as text"
        try:
            origin, said = _read(payload)
        except (ValueError, TypeError):  # whoever may connect to the database may notify
            log.warning("a notification that nobody of us made", extra={"bytes": len(payload)})
            return
        if isinstance(said, int):
            self._heard(said)
        elif origin != self._origin and self._passed_on is not None:
            self._passed_on(said)


def _read(payload: str) -> tuple[str, int | Ephemeral]:
    if payload.isdigit():
        return "", int(payload)
    origin, op, body, room, mids, keys, everybody, *more = json.loads(payload)
    message = Ephemeral(op, base64.b64decode(body, validate=True), room, tuple(mids), tuple(keys), everybody, *more)
    if not (isinstance(message.position, int) and isinstance(message.mid, int)):
        raise TypeError("position and mid are numbers")
    if not (isinstance(message.type, str) and isinstance(message.key, str)):
        raise TypeError("type and key are text")
    return origin, message
