"""Is this still the log that this process knows?

A backup that is put back, or a failover to a standby that lacked the last events, takes the log back in time: positions that were given
to clients are bound to other events afterwards. The *epoch* names what positions belong to. It must change then, and only then, and
nothing may be appended, delivered or acknowledged in the old one.

Three signs tell it:

- The *witness*, the last event that this process saw, is not at its place any more. Then a new epoch is written, whatever else is true.
- The *line* of the server, its system identifier and timeline, is not the one in `log_head`: this is a restored backup or a promoted
  standby. If nobody is there who saw the end of the log, there is a new epoch. If the witness is there, it was a failover without loss
  as far as this process knows, and up to here both lines are one: the epoch becomes a *former* one, whose positions are good up to
  this end. Whoever stands there or before goes on. A client that saw more is told; a comet that saw more says so, and then the former
  epoch is good for nothing. If there is no other comet, nobody saw more, and the epoch stays.
- Another process has written a new epoch. If ours is a former one and the witness stands within, we take the new one and go on.

`check` is asked of every connection before it is used for anything, because a line cannot change under a connection, and once a second.

The trap: this process may be the only one that saw what was lost. So when the log went back there is no repairing what is in memory:
`over` is set, every connection is refused, and the process begins anew.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
import orjson

from imcore.database import DATABASE_ERRORS, Connection, Pool, heed_cancellation
from imcore.errors import DatabaseUnavailable
from imcore.events.types import Recorded

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
VOUCH_S: Final = 5.0  # how long who remembers nothing waits for comets that were there a minute ago
VOUCH_LOOK_S: Final = 0.2
CHECK_TIMEOUT_S: Final = 10.0
LOOKS_AN_OLDEST: Final = 60  # looks at the log's end for one at its beginning
FORMER_MAX: Final = 1_000  # epochs; a failover adds one

# Where the log ends and on which line, what line this server is on, and the event that should be at a position. The timeline is that
# of the next byte of WAL: what the control file says is as of the last checkpoint.
LOOK: Final = """
SELECT h.position AS head, h.epoch, h.line, here.in_recovery,
  CASE WHEN NOT here.in_recovery
    THEN c.system_identifier || '/' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END AS line_here,
  e.position, e.seq, e.messages, e.type, e.mid, e.key, e.op, e.recorded_at
FROM log_head h
CROSS JOIN pg_control_system() c
CROSS JOIN (SELECT pg_is_in_recovery() AS in_recovery OFFSET 0) here
LEFT JOIN LATERAL (SELECT * FROM events WHERE events.position = coalesce($1, h.position) LIMIT 1) e ON true
"""
OLDEST: Final = "SELECT coalesce((SELECT min(position) FROM events), position + 1) FROM log_head"
ARE_OTHERS: Final = "SELECT EXISTS (SELECT FROM nodes WHERE lease_until > now() - interval '1 minute')"
FORMER: Final = "SELECT epoch, upto FROM former_epochs ORDER BY ended_at DESC LIMIT $1"
# The line is known from now on, and nothing else changes.
KEEP: Final = "UPDATE log_head SET line = $2 WHERE epoch = $1 AND line IS NOT DISTINCT FROM $3"
# The same, if there is no comet but these.
VOUCH: Final = KEEP + " AND NOT EXISTS (SELECT FROM nodes WHERE node <> ALL ($4::text[]))"
# The log goes on under another epoch, which has everything up to here in common with the one before.
BRANCH: Final = """
WITH head AS (
  UPDATE log_head SET epoch = $4, line = $2 WHERE epoch = $1 AND line IS NOT DISTINCT FROM $3 RETURNING position),
earlier AS (UPDATE former_epochs SET upto = least(upto, head.position) FROM head)
INSERT INTO former_epochs (epoch, upto) SELECT $1, position FROM head
"""
# The log is another one, and has nothing in common with any before.
BREAK: Final = """
WITH head AS (UPDATE log_head SET epoch = $2, line = coalesce($3::text, line) WHERE epoch = $1 RETURNING position),
former AS (DELETE FROM former_epochs WHERE EXISTS (SELECT FROM head))
SELECT count(*) FROM head
"""


class Witness(NamedTuple):
    """An event as far as it must be the same. The body may be erased."""

    position: int
    seq: int
    messages: int
    type: str
    mid: int
    key: str
    op: int
    time_ms: int

    @classmethod
    def of(cls, event: Recorded) -> Witness:
        """Of an event that this process saw."""
        return cls(event.position, event.seq, event.messages, event.type, event.mid, event.key, event.op, event.time_ms)


def new_epoch() -> str:
    """A name that no log had before."""
    return uuid.uuid4().hex[:12]


class History:
    """The log as this process knows it: `epoch`, how far `former` ones are good, and the witness.

    `nodes` are the comets of this process. `ended` is called once, when the log turns out to be another one: at once, before anybody
    else does anything. From then on `check` refuses every connection.
    """

    def __init__(self, nodes: Callable[[], list[str]], ended: Callable[[], None] = lambda: None) -> None:
        self.epoch = ""
        self.former: Mapping[str, int] = {}
        self.head = 0  # as of the beginning
        self.oldest = 1  # partitions before it may have been dropped
        self.over = asyncio.Event()
        self._nodes = nodes
        self._ended = ended
        self._witness: Witness | None = None
        self._last: Recorded | None = None  # the event that the witness is made of when it is asked for

    # --- what is known -----------------------------------------------------------------------------------------------------------

    def saw(self, event: Recorded) -> None:
        """This process knows of the event, and somebody may have been told."""
        if self._last is None or event.position > self._last.position:
            self._last = event

    @property
    def witness(self) -> Witness | None:
        """The last event seen."""
        if self._last is not None and (self._witness is None or self._last.position > self._witness.position):
            self._witness = Witness.of(self._last)
        return self._witness

    def reaches(self, epoch: str, position: int) -> bool:
        """Is everything up to this position of that epoch in this log?"""
        return epoch == self.epoch or position <= self.former.get(epoch, -1)

    def keeps(self, position: int) -> bool:
        """Is everything after this position still there?"""
        return position + 1 >= self.oldest

    # --- asking ------------------------------------------------------------------------------------------------------------------

    async def begin(self, connection: Connection, kept: Kept | None = None) -> None:
        """Take the log as it is, if what an earlier run kept of it does not say otherwise.

        Raises DatabaseUnavailable on a standby.
        """
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            row = await self._look(connection, None)
            await self._learn(connection, row)
            if kept is not None and (kept.epoch == self.epoch or kept.epoch in self.former):
                position = kept.witness.position
                row = await self._look(connection, position)
                if self.reaches(kept.epoch, position) and await self._holds(connection, row, kept.witness):
                    self._witness = kept.witness
                else:
                    log.error("the log went back: position %d is not what it was; a new epoch begins", position)
                    await self._break(connection, row)
            elif row["head"] and not await self._is_at_home(connection, row):
                log.error("the log is on %s, and was on %s: a new epoch begins", row["line_here"], row["line"])
                await self._break(connection, row)
            await self._learn(connection, await self._look(connection, None))
            await self._settle(connection)
            row = await self._look(connection, None)
            self._witness = _found(row) or self._witness
            self.head = row["head"]
            await self._look_back(connection)

    async def check(self, connection: Connection) -> None:
        """Return if this connection leads to the log that this process knows.

        Raises DatabaseUnavailable if it does not: it leads to a standby, or the log went back, and then this process is over.
        """
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            if self.over.is_set():
                raise DatabaseUnavailable("the log went back; this process begins anew")
            await self._settle(connection)

    async def watch(self, pool: Pool) -> None:
        """Check once a second, for ever; ends when cancelled."""
        for look in itertools.count(1):
            await asyncio.sleep(LOOK_S)
            try:
                async with pool.acquire() as connection:
                    await self.check(connection)
                    if look % LOOKS_AN_OLDEST == 0:
                        await self._look_back(connection)
            except DATABASE_ERRORS as error:
                heed_cancellation()
                log.debug("the log cannot be checked: %s", error)

    async def _look_back(self, connection: Connection) -> None:
        self.oldest = await connection.fetchval(OLDEST)

    async def _settle(self, connection: Connection) -> None:
        """Look, and do what the signs say, until there is nothing more to do."""
        while True:
            witness = self.witness
            row = await self._look(connection, None if witness is None else witness.position)
            if row["epoch"] != self.epoch:
                await self._follow(connection, row, witness)
                continue
            if not await self._holds(connection, row, witness):
                assert witness is not None, "no log lacks nothing"
                await self._break(connection, row)
                self._end(f"the log went back: it ends at {row['head']}, and {witness.position} is not what it was")
            line, here = row["line"], row["line_here"]
            if line == here:
                return
            if line is None:
                await connection.execute(KEEP, self.epoch, here, line)
            else:
                log.warning("the log is on another server or timeline: %s, and was on %s", here, line)
                kept = (
                    witness is not None
                    and await connection.execute(VOUCH, self.epoch, here, line, self._nodes()) == "UPDATE 1"
                )
                if not kept:
                    await connection.execute(BRANCH, self.epoch, here, line, new_epoch())

    async def _is_at_home(self, connection: Connection, row: asyncpg.Record) -> bool:
        """Is the log on the line where it was? If not, comets that run have some time to say that it is the same log."""
        until = asyncio.get_running_loop().time() + VOUCH_S
        while row["line"] not in (None, row["line_here"]):
            others = await connection.fetchval(ARE_OTHERS)
            if not others or asyncio.get_running_loop().time() > until:
                return False
            await asyncio.sleep(VOUCH_LOOK_S)
            row = await self._look(connection, None)
        return True

    async def _follow(self, connection: Connection, row: asyncpg.Record, witness: Witness | None) -> None:
        """Somebody else has written another epoch."""
        epoch = self.epoch
        await self._learn(connection, row)
        position = 0 if witness is None else witness.position
        if not self.reaches(epoch, position) or not await self._holds(connection, row, witness):
            if epoch in self.former:
                await self._break(connection, row)  # others believed that nothing was lost
            self._end(f"the log is another one: its epoch is {self.epoch}, and was {epoch}")
        log.warning("the epoch is %s now, and has everything that we saw in %s", self.epoch, epoch)

    async def _holds(self, connection: Connection, row: asyncpg.Record, witness: Witness | None) -> bool:
        """Is the witness where it was, or in a partition that was dropped?"""
        found = _found(row)
        if witness is None or found == witness:
            return True
        if found is not None or row["head"] < witness.position:
            return False
        await self._look_back(connection)
        return not self.keeps(witness.position - 1)

    async def _look(self, connection: Connection, position: int | None) -> asyncpg.Record:
        row = await connection.fetchrow(LOOK, position)
        assert row is not None, "a migrated database has a head"
        if row["in_recovery"]:
            raise DatabaseUnavailable("this Postgres is a standby; the log is where the primary is")
        return row

    async def _learn(self, connection: Connection, row: asyncpg.Record) -> None:
        former = {found["epoch"]: found["upto"] for found in await connection.fetch(FORMER, FORMER_MAX)}
        self.epoch, self.former = row["epoch"], former

    async def _break(self, connection: Connection, row: asyncpg.Record) -> None:
        """If others found out too, one of us wins."""
        await connection.fetchval(BREAK, row["epoch"], new_epoch(), row["line_here"])

    def _end(self, why: str) -> None:
        if not self.over.is_set():
            log.error("%s", why)
            self.over.set()
            self._ended()
        raise DatabaseUnavailable(why)


def _found(row: asyncpg.Record) -> Witness | None:
    if row["position"] is None:
        return None
    time_ms = int(row["recorded_at"].timestamp() * 1000)
    return Witness._make([*(row[name] for name in Witness._fields[:-1]), time_ms])


async def break_off(connection: Connection) -> str:
    """A new epoch because an operator says so; every process notices and begins anew, and every client reloads. The epoch."""
    row = await connection.fetchrow("SELECT epoch FROM log_head")
    assert row is not None, "a migrated database has a head"
    epoch = new_epoch()
    await connection.fetchval(BREAK, row["epoch"], epoch, None)
    return epoch


# --- over a restart --------------------------------------------------------------------------------------------------------------


class Kept(NamedTuple):
    """What a run keeps for the next one, outside of the database: nobody who is alive may remember."""

    epoch: str
    witness: Witness


def keep(path: Path, history: History) -> None:
    """Write the witness into a file, if the folder is there. Losing the file loses a sign, nothing else."""
    witness = history.witness
    if witness is None or history.over.is_set() or not path.parent.is_dir():
        return
    unfinished = path.with_suffix(".unfinished")
    try:
        unfinished.write_bytes(orjson.dumps({"epoch": history.epoch, "witness": witness._asdict()}))
        os.replace(unfinished, path)
    except OSError as error:
        log.warning("the last event that was seen cannot be kept: %s", error)


def kept(path: Path) -> Kept | None:
    """What an earlier run kept; None if there is nothing that can be read."""
    try:
        found = orjson.loads(path.read_bytes())
        return Kept(found["epoch"], Witness(**found["witness"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("what was kept of the log cannot be read: %s", error)
        return None
