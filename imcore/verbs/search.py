"""Search: messages by their words, in the rooms that somebody is in, as far as they see them.

The newest come first. Looking is bounded whatever is looked for. First the newest `RECENT` messages are looked through, one by one:
there a word that is in everything is found often enough to fill the page. Only what is rare there is looked for in the index of words,
together with the rooms, and Postgres gives up after `search_s`; then the page holds what was found until then, `complete` is false,
and the next page goes on where the looking through ended.

The rooms that somebody is in, the rows, and what became of the messages are read in one snapshot. So what is said after a removal is
never found, nor how a message reads since, however they race.

What the rows say is checked once more against the events of the log, of which a page reads no more than it shows: the words, whether
characters that are written without spaces stand together, and whether the message was recalled.

The trap: the rows follow the log at a pace of their own. `complete` is false too when they have not come to its head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

import asyncpg
from pydantic import Field

from imcore.errors import BadRequest, NoSuchRoom, NotAllowed
from imcore.events.names import Connection, Names
from imcore.events.store import recorded
from imcore.projections.words import Sought, snippet, sought, text_of
from imcore.verbs.means import Means
from imcore.verbs.verb import Answer, AnyVerb, Args, Caller, Line, Mid, Millis, Position, Room, Seq, verb

QUERY_CHARACTERS_MAX: Final = 256
PAGE_HITS_MAX: Final = 50
RECENT: Final = 2_000  # messages that are looked through one by one (10 ms)
ROOMS_SOUGHT_MAX: Final = 500  # rooms that are looked for with the words; of more, they are looked at afterwards
SEARCHED_S: Final = 0.3  # how long the rows are waited for

# The rooms of somebody, and from which seq on each is seen.
ROOMS: Final = """
SELECT m.room, CASE r.history WHEN 'all' THEN 1 ELSE m.since_seq END AS first
FROM members m JOIN rooms r ON r.room = m.room
WHERE m.mid = $1 AND r.dismissed = 0 AND ($2::text IS NULL OR m.room = $2)
"""
_FOUND = "s.room, s.seq, s.mid, s.time_ms, s.position, s.text_at"
_WORDS = "array_to_tsvector(array_append(s.words, '@' || s.room))"
# The newest messages before a position, and which of them say it.
LOOK_THROUGH: Final = f"""
WITH mine AS (SELECT * FROM unnest($1::text[], $2::bigint[]) AS mine(room, first)),
  recent AS MATERIALIZED (SELECT * FROM search s WHERE s.position < $3 ORDER BY s.position DESC LIMIT $4)
SELECT {_FOUND}, (SELECT min(position) FROM recent) AS upto, (SELECT count(*) FROM recent) AS looked
FROM (SELECT) one LEFT JOIN (
  SELECT s.* FROM recent s JOIN mine ON mine.room = s.room AND s.seq >= mine.first
  WHERE {_WORDS} @@ $5::text::tsquery AND ($6::bigint IS NULL OR s.mid = $6)) s ON true
ORDER BY s.position DESC LIMIT $7
"""
# The same of one room: by its own order, from the last event before that position on.
LOOK_THROUGH_ROOM: Final = LOOK_THROUGH.replace(
    "WHERE s.position < $3 ORDER BY s.position DESC",
    "WHERE s.room = ($1::text[])[1] AND s.seq >= ($2::bigint[])[1] AND s.position < $3 AND s.seq <= ("
    "SELECT CASE WHEN t.position < $3 THEN t.seq ELSE imcore_seq_at(t.id, t.seq, $3 - 1) END"
    " FROM streams t WHERE t.name = 'room:' || ($1::text[])[1])"
    " ORDER BY s.seq DESC",
)
# All that say it, by the index: no other way is left to Postgres.
LOOK_UP: Final = f"""
WITH mine AS (SELECT * FROM unnest($1::text[], $2::bigint[]) AS mine(room, first)),
  found AS MATERIALIZED (
    SELECT {_FOUND} FROM search s
    WHERE {_WORDS} @@ $4::text::tsquery AND s.position + 0 < $3 AND ($5::bigint IS NULL OR s.mid = $5))
SELECT {_FOUND} FROM found s JOIN mine ON mine.room = s.room AND s.seq >= mine.first
ORDER BY s.position DESC LIMIT $6
"""
TEXTS: Final = "SELECT * FROM events WHERE position = ANY($1::bigint[])"
# Which of these messages were recalled or edited: as of the head of the log, where the rows of search may be behind it.
AMENDED: Final = """
SELECT a.room, a.seq, a.edited, a.recalled FROM unnest($1::text[], $2::bigint[]) AS found(room, seq)
JOIN amendments a ON a.room = found.room AND a.seq = found.seq
"""


class Search(Args):
    """What to look for, and where: `room` only there, `by` only what this person said, `before` what was said before this position."""

    q: Annotated[Line, Field(min_length=1, max_length=QUERY_CHARACTERS_MAX)]
    room: Room | None = None
    by: Mid | None = None
    before: Annotated[Position, Field(ge=1)] | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_HITS_MAX)] = 20


class Hit(Answer):
    """A message: where it is, who sent it when, and what it says around the first of the words."""

    room: str
    seq: Seq
    mid: Mid
    time: Millis
    position: Position
    snippet: str


class SearchPage(Answer):
    """The newest first. `next` is the next page's `before`, if there may be more. `complete` is false if there may be messages that
    are not here: the newest may not be found yet, or Postgres looked for too long."""

    hits: list[Hit]
    complete: bool
    next: Position | None = None


class Found(NamedTuple):
    """A row of `search`, without its words."""

    room: str
    seq: int
    mid: int
    time_ms: int
    position: int
    text_at: int


@verb("messages.search", "GET", "/v1/search", answer=SearchPage, errors=(NoSuchRoom, NotAllowed))
async def search(caller: Caller, means: Means, args: Search) -> SearchPage:
    """Find messages by their words.

    All words of `q` must be in a message, in any order, whatever their case; the last may be the beginning of a word. Chinese,
    Japanese, Korean and Thai are found by any characters that stand together. Only in your rooms, what you see of them, as it reads
    now.
    """
    if means.reads.searched is None:
        raise NotAllowed("messages are not found by their words here (the setting search is false)")
    what = sought(args.q)
    if not what.words and not what.beginnings:
        raise BadRequest("q has no word in it")
    head = (await means.reads.reader.head()).position
    is_followed = await means.reads.searched(head, SEARCHED_S)
    async with (
        means.pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        rooms = [
            (room, first)
            for room, first in await connection.fetch(ROOMS, caller.mid, args.room)
            if caller.identity.may_enter(room)
        ]
        if args.room is not None and not rooms:
            raise NoSuchRoom
        if not rooms:
            return SearchPage(hits=[], complete=True)
        found, upto, is_complete = await _look(connection, what, rooms, args, head, means.settings.search_s)
        shown = found[: args.limit]
        now = await _as_they_read_now(connection, shown)
        texts = await _texts(connection, now)
    hits = [
        Hit(room=room, seq=seq, mid=mid, time=time_ms, position=position, snippet=snippet(texts[text_at], what))
        for room, seq, mid, time_ms, position, text_at in now
        if text_at in texts and what.is_in(texts[text_at])
    ]
    page = SearchPage(hits=hits, complete=is_complete and is_followed)
    if len(found) > args.limit:
        return page.model_copy(update={"next": shown[-1].position})
    return page if upto is None else page.model_copy(update={"next": upto})


async def _look(
    connection: Connection, what: Sought, rooms: Sequence[tuple[str, int]], args: Search, head: int, search_s: float
) -> tuple[list[Found], int | None, bool]:
    """Up to one more than a page of what was said up to that head; from where to go on if that is not all there is; and whether nothing
    was left out."""
    names, firsts = [room for room, _ in rooms], [first for _, first in rooms]
    before = head + 1 if args.before is None else min(args.before, head + 1)
    wanted = args.limit + 1
    through = LOOK_THROUGH if args.room is None else LOOK_THROUGH_ROOM
    rows = await connection.fetch(through, names, firsts, before, RECENT, what.tsquery(), args.by, wanted)
    upto, looked = rows[0]["upto"], rows[0]["looked"]
    found = [Found(*tuple(row)[:6]) for row in rows if row["position"] is not None]
    if len(found) >= wanted or looked < RECENT:
        return found, None, True
    query = what.tsquery(rooms=tuple(names) if len(names) <= ROOMS_SOUGHT_MAX else ())
    alone = connection.transaction()  # always undone: what it sets holds for no other statement of the snapshot
    await alone.start()
    try:
        await connection.execute(
            f"SET LOCAL statement_timeout = {max(1, int(search_s * 1000))}; SET LOCAL enable_seqscan = off"
        )
        rows = await connection.fetch(LOOK_UP, names, firsts, upto, query, args.by, wanted - len(found))
    except asyncpg.QueryCanceledError:
        return found, upto, False
    finally:
        await alone.rollback()
    return found + [Found(*row) for row in rows], None, True


async def _as_they_read_now(connection: Connection, found: Sequence[Found]) -> list[Found]:
    """The same without those that were recalled, and with the newest text of those that were edited."""
    rows = await connection.fetch(AMENDED, [one.room for one in found], [one.seq for one in found])
    amended = {(room, seq): (edited, recalled) for room, seq, edited, recalled in rows}
    kept: list[Found] = []
    for one in found:
        edited, recalled = amended.get((one.room, one.seq), (0, 0))
        if not recalled:
            kept.append(one._replace(text_at=max(one.text_at, edited)))
    return kept


async def _texts(connection: Connection, found: Sequence[Found]) -> dict[int, str]:
    """What these messages say, by the position of the event that says it."""
    rows = await connection.fetch(TEXTS, [one.text_at for one in found])
    names = Names()
    names.names.update((row["stream_id"], "") for row in rows)
    return {row["position"]: text_of(recorded(row, names)) for row in rows}


VERBS: Final[tuple[AnyVerb, ...]] = (search,)
