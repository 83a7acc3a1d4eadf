"""The read side of the log: by position and by stream, both ways, in pages.

A reader sees a prefix of the log: if it sees position n it sees every position below n, because positions become visible in
order (see store). So `next == last + 1` is the whole test for "did I miss something?".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from imcore.events.names import Connection, Names, Pool
from imcore.events.store import recorded
from imcore.events.types import Page, Recorded

PAGE_EVENTS_MAX: Final = 500

HEAD = "SELECT position, epoch FROM log_head"
STREAM = "SELECT id, seq, position, messages FROM streams WHERE name = $1"
# The next page of the whole log.
READ = "SELECT * FROM events WHERE position > $1 ORDER BY position LIMIT $2"
# A page of one stream, on from a seq, or back from one; and these events of it.
READ_ON = "SELECT * FROM events WHERE stream_id = $1 AND seq > $2 ORDER BY seq LIMIT $3"
READ_SEQS = "SELECT * FROM events WHERE stream_id = $1 AND seq = ANY($2::bigint[]) ORDER BY seq"
READ_BACK = "SELECT * FROM events WHERE stream_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3"
# The first event of a stream, from seq $2 on, that is of this time or later: by halves, for a stream is in order of time. Whether the
# clock was set back is not looked at: then it is one of those near by. An event that is no longer kept is of before.
SEQ_AT = """
WITH RECURSIVE halves (low, high) AS (
  SELECT $2::bigint, $3::bigint
  UNION ALL
  SELECT CASE WHEN is_before THEN middle + 1 ELSE low END, CASE WHEN is_before THEN high ELSE middle END
  FROM (
    SELECT low, high, (low + high) / 2 AS middle, coalesce((
      SELECT extract(epoch FROM e.recorded_at) * 1000 < $4::bigint FROM events e
      WHERE e.stream_id = $1 AND e.seq = (low + high) / 2), true) AS is_before
    FROM halves WHERE low < high) looked)
SELECT low FROM halves WHERE low = high
"""
# The next page of several streams together, each from a position of its own, in order of position, for several readers: to the n-th
# belong the streams from $3[n] to $4[n], and it wants nothing after $5[n]. Only streams that have grown are looked into.
READ_PAGES = """
SELECT reader.n::integer AS n, page.*
FROM unnest($3::integer[], $4::integer[], $5::bigint[]) WITH ORDINALITY AS reader(first, last, upto, n)
CROSS JOIN LATERAL (
  SELECT e.* FROM unnest(($1::bigint[])[reader.first:reader.last], ($2::bigint[])[reader.first:reader.last]) AS r(stream_id, after)
  JOIN streams s ON s.id = r.stream_id AND s.position > r.after
  CROSS JOIN LATERAL (
    SELECT * FROM events WHERE events.stream_id = r.stream_id AND events.seq > imcore_seq_at(r.stream_id, s.seq, r.after)
      AND events.seq <= CASE WHEN s.position > reader.upto THEN imcore_seq_at(r.stream_id, s.seq, reader.upto) ELSE s.seq END
      AND events.position > r.after
    ORDER BY events.seq LIMIT $6) e
  ORDER BY e.position LIMIT $6) page
ORDER BY reader.n, page.position
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

    async def read_seqs(self, stream: str, seqs: Sequence[int]) -> list[Recorded]:
        """The events of a stream with these seqs, in order; those that are not there are left out."""
        async with self._pool.acquire() as connection:
            await self._names.find(connection, (stream,))
            if stream not in self._names.ids:
                return []
            return await self._events(connection, READ_SEQS, self._names.ids[stream], seqs)

    async def seq_at(self, stream: str, time_ms: int, first: int, head: int) -> int:
        """The seq of the first event from `first` to `head` that is of this time or later; the one after `head` if there is none."""
        if first > head:
            return head + 1
        async with self._pool.acquire() as connection:
            await self._names.find(connection, (stream,))
            if stream not in self._names.ids:
                return head + 1
            found: int = await connection.fetchval(SEQ_AT, self._names.ids[stream], first, head + 1, time_ms)
        return found

    async def read_pages(self, asked: Sequence[tuple[Mapping[str, int], int]], limit: int) -> list[Page]:
        """For each who asks the next events of its streams together, each after its own position and none after `upto`, in order of
        position; in one statement for all. A page of `limit` events goes up to the last of them, a shorter one up to `upto`."""
        streams: list[int] = []
        after: list[int] = []
        first: list[int] = []
        last: list[int] = []
        found: list[list[Recorded]] = [[] for _ in asked]
        async with self._pool.acquire() as connection:
            await self._names.find(connection, {stream for wanted, _ in asked for stream in wanted})
            ids = self._names.ids
            for wanted, _ in asked:
                first.append(len(streams) + 1)
                known = [(ids[stream], position) for stream, position in wanted.items() if stream in ids]
                streams += [stream for stream, _ in known]
                after += [position for _, position in known]
                last.append(len(streams))
            if streams:
                uptos = [upto for _, upto in asked]
                rows = await connection.fetch(READ_PAGES, streams, after, first, last, uptos, limit)
                await self._names.resolve(connection, {row["stream_id"] for row in rows})
                for row in rows:
                    found[row["n"] - 1].append(recorded(row, self._names))
        return [
            Page(events, events[-1].position if len(events) == limit else upto)
            for events, (_, upto) in zip(found, asked, strict=True)
        ]

    async def _events(self, connection: Connection, query: str, *arguments: int | Sequence[int]) -> list[Recorded]:
        rows = await connection.fetch(query, *arguments)
        await self._names.resolve(connection, {row["stream_id"] for row in rows})
        return [recorded(row, self._names) for row in rows]
