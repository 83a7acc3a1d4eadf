"""The read side of the log: by position and by stream, both ways, in pages.

A reader sees a prefix of the log: if it sees position n it sees every position below n, because positions become visible in
order (see store). So `next == last + 1` is the whole test for "did I miss something?".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from imcore.events.names import Connection, Names, Pool
from imcore.events.store import recorded
from imcore.events.types import Recorded

PAGE_EVENTS_MAX: Final = 500

HEAD = "SELECT position, epoch FROM log_head"
STREAM = "SELECT id, seq, position, messages FROM streams WHERE name = $1"
# The next page of the whole log.
READ = "SELECT * FROM events WHERE position > $1 ORDER BY position LIMIT $2"
# A page of one stream, on from a seq, or back from one.
READ_ON = "SELECT * FROM events WHERE stream_id = $1 AND seq > $2 ORDER BY seq LIMIT $3"
READ_BACK = "SELECT * FROM events WHERE stream_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3"
# The next page of several streams together, each from a position of its own, in order of position. Only streams that have grown
# are looked into.
READ_STREAMS = """
SELECT e.* FROM unnest($1::bigint[], $2::bigint[]) AS r(stream_id, after)
JOIN streams s ON s.id = r.stream_id AND s.position > r.after
CROSS JOIN LATERAL (
  SELECT * FROM events WHERE events.stream_id = r.stream_id AND events.seq > imcore_seq_at(r.stream_id, s.seq, r.after)
    AND events.seq <= CASE WHEN s.position > $3 THEN imcore_seq_at(r.stream_id, s.seq, $3) ELSE s.seq END
    AND events.position > r.after
  ORDER BY events.seq LIMIT $4) e
ORDER BY e.position LIMIT $4
"""


class Head(NamedTuple):
    """The last position of the log, and the epoch that positions belong to."""

    position: int
    epoch: str


class StreamHead(NamedTuple):
    """The end of a stream: its last seq, the position of that event, and how many messages it holds. All 0 if it has none."""

    seq: int
    position: int
    messages: int


class Reader:
    """Reads the log through a pool. Every method is one or two queries; none holds state but the names of streams."""

    def __init__(self, pool: Pool, names: Names) -> None:
        self._pool = pool
        self._names = names

    async def head(self) -> Head:
        """The end of the log as committed now."""
        async with self._pool.acquire() as connection:
            row = await connection.fetchrow(HEAD)
        assert row is not None, "a migrated database has a head"
        return Head(row["position"], row["epoch"])

    async def read(self, after: int, limit: int = PAGE_EVENTS_MAX) -> list[Recorded]:
        """The next events of the whole log, in order; fewer than `limit` only at the head."""
        async with self._pool.acquire() as connection:
            return await self._events(connection, READ, after, limit)

    async def stream_head(self, stream: str) -> StreamHead:
        """Where the stream ends."""
        async with self._pool.acquire() as connection:
            row = await connection.fetchrow(STREAM, stream)
        return StreamHead(0, 0, 0) if row is None else StreamHead(row["seq"], row["position"], row["messages"])

    async def read_on(self, stream: str, after_seq: int, limit: int) -> list[Recorded]:
        """Events of a stream with seq > `after_seq`, oldest first."""
        async with self._pool.acquire() as connection:
            await self._names.find(connection, (stream,))
            if stream not in self._names.ids:
                return []
            return await self._events(connection, READ_ON, self._names.ids[stream], after_seq, limit)

    async def read_back(self, stream: str, before_seq: int, limit: int) -> list[Recorded]:
        """Events of a stream with seq < `before_seq`, newest first."""
        async with self._pool.acquire() as connection:
            await self._names.find(connection, (stream,))
            if stream not in self._names.ids:
                return []
            return await self._events(connection, READ_BACK, self._names.ids[stream], before_seq, limit)

    async def read_streams(self, after: Mapping[str, int], upto: int, limit: int = PAGE_EVENTS_MAX) -> list[Recorded]:
        """The next events of these streams together, each after its own position and none after `upto`, in order of position.

        Fewer than `limit` means that there are no more up to `upto`.
        """
        async with self._pool.acquire() as connection:
            await self._names.find(connection, after)
            ids = self._names.ids
            known = [(ids[stream], position) for stream, position in after.items() if stream in ids]
            if not known:
                return []
            streams, positions = zip(*known, strict=True)
            return await self._events(connection, READ_STREAMS, streams, positions, upto, limit)

    async def _events(self, connection: Connection, query: str, *arguments: int | Sequence[int]) -> list[Recorded]:
        rows = await connection.fetch(query, *arguments)
        await self._names.resolve(connection, {row["stream_id"] for row in rows})
        return [recorded(row, self._names) for row in rows]
