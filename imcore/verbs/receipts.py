"""Receipts: who of a room has read a message. They are the read marks, asked the other way round."""

from __future__ import annotations

from typing import Final, TypeAlias

from pydantic import Field

from imcore import reads
from imcore.errors import NoSuchMessage, NoSuchRoom, Unavailable
from imcore.protocol.packet import INT64_MIN
from imcore.verbs.means import Means
from imcore.verbs.verb import Answer, AnyVerb, Args, Caller, Limit, Mid, Millis, Room, Seq, verb

# Who can see a message ($2) that somebody ($3) sent: who was there by then, or, if the room shows everything ($4), whoever is there.
# Of them have read it whose mark is at it or beyond; a mark that only the join set is none for what was said before. With it, since
# when who asks ($5) was a member then.
COUNTS: Final = """
SELECT (SELECT m.since FROM members m WHERE m.room = $1 AND m.mid = $5) AS since,
  count(*) AS people, count(*) FILTER (WHERE read_seq >= $2 AND (since_seq <= $2 OR read_seq > since_seq)) AS read
FROM receipts WHERE room = $1 AND mid <> $3 AND ($4 OR since_seq <= $2)
"""
READERS: Final = """
SELECT (SELECT m.since FROM members m WHERE m.room = $1 AND m.mid = $5) AS since, mid, time_ms FROM receipts
WHERE room = $1 AND mid <> $3 AND read_seq >= $2 AND (since_seq <= $2 OR ($4 AND read_seq > since_seq)) AND mid > $6
ORDER BY mid LIMIT $7
"""


class Receipts(Args):
    """A message, and a page of who has read it."""

    room: Room
    seq: Seq
    after: Mid | None = None
    limit: Limit = 100


class Reader(Answer):
    """Somebody who has read it, by this time: that of the person's newest mark in the room."""

    mid: Mid
    time: Millis


class ReceiptsPage(Answer):
    """`read` of `people` (who see the message and did not send it) have read it. In small rooms `readers` says who, in order of member
    id, and `next` is the next page's `after`, if there is one; in large rooms both are missing."""

    room: str
    seq: Seq
    people: int = Field(ge=0)
    read: int = Field(ge=0)
    readers: list[Reader] | None = None
    next: Mid | None = None


@verb(
    "receipts.list",
    "GET",
    "/v1/rooms/{room}/messages/{seq}/receipts",
    answer=ReceiptsPage,
    errors=(NoSuchRoom, NoSuchMessage, Unavailable),
)
async def list_(caller: Caller, means: Means, args: Receipts) -> ReceiptsPage:
    """Who has read a message.

    Who joined later and does not see it is not counted, nor is its sender. In rooms of more than `receipts_members_max` members only
    the count is told.
    """
    sight = await reads.sight(means.reads, "receipts.list", args.room, caller.identity.actor)
    sent = await reads.message_at(means.reads, args.room, args.seq, first=sight.first)
    await reads.follow(means.reads, (await means.reads.reader.head()).position)
    asked = args.room, args.seq, sent.mid, sight.shows_all, caller.mid
    people, read = await _counts(means, asked, sight.since)
    told: dict[str, object] = {"room": args.room, "seq": args.seq, "people": people, "read": read}
    if sight.members <= means.settings.receipts_members_max:
        after = INT64_MIN if args.after is None else args.after
        readers = await _readers(means, asked, after, args.limit + 1, sight.since)
        told["readers"] = readers[: args.limit]
        if len(readers) > args.limit:
            told["next"] = readers[args.limit - 1].mid
    return ReceiptsPage.model_validate(told)


Asked: TypeAlias = tuple[str, int, int, bool, int]  # room, seq, its sender, does the room show everything, who asks


async def _counts(means: Means, asked: Asked, since: int | None) -> tuple[int, int]:
    """How many people see it, and how many of them have read it. Raises as `check_still` does for whom a membership lets ask."""
    row = await means.pool.fetchrow(COUNTS, *asked)
    assert row is not None, "an aggregate returns a row"
    reads.check_still(since, row["since"])
    return row["people"], row["read"]


async def _readers(means: Means, asked: Asked, after: int, limit: int, since: int | None) -> list[Reader]:
    """Who has read it, in order of member id. Raises as `_counts` does."""
    rows = await means.pool.fetch(READERS, *asked, after, limit)
    if rows:
        reads.check_still(since, rows[0]["since"])
    return [Reader(mid=mid, time=time_ms) for _, mid, time_ms in rows]


VERBS: Final[tuple[AnyVerb, ...]] = (list_,)
