"""Receipts: who of a room has read a message. They are the read marks, asked the other way round."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from imcore import reads
from imcore.errors import NoSuchMessage, NoSuchRoom, Unavailable
from imcore.protocol.packet import INT64_MIN
from imcore.verbs.means import Means
from imcore.verbs.verb import Answer, AnyVerb, Args, Caller, Limit, Mid, Millis, Room, Seq, verb

# Who can see a message ($2) that somebody ($3) sent: who was there by then, or, if the room shows everything ($4), whoever is there.
# Of them have read it whose mark is at it or beyond; a mark that only the join set is none for what was said before.
COUNTS: Final = """
SELECT count(*) AS people, count(*) FILTER (WHERE read_seq >= $2 AND (since_seq <= $2 OR read_seq > since_seq)) AS read
FROM receipts WHERE room = $1 AND mid <> $3 AND ($4 OR since_seq <= $2)
"""
READERS: Final = """
SELECT mid, time_ms FROM receipts
WHERE room = $1 AND mid <> $3 AND read_seq >= $2 AND (since_seq <= $2 OR ($4 AND read_seq > since_seq)) AND mid > $5
ORDER BY mid LIMIT $6
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
    asked = args.room, args.seq, sent.mid, sight.shows_all
    counts = await means.pool.fetchrow(COUNTS, *asked)
    assert counts is not None, "an aggregate returns a row"
    told: dict[str, object] = {"room": args.room, "seq": args.seq, "people": counts["people"], "read": counts["read"]}
    if sight.members <= means.settings.receipts_members_max:
        after = INT64_MIN if args.after is None else args.after
        rows = await means.pool.fetch(READERS, *asked, after, args.limit + 1)
        told["readers"] = [Reader(mid=mid, time=time_ms) for mid, time_ms in rows[: args.limit]]
        if len(rows) > args.limit:
            told["next"] = rows[args.limit - 1]["mid"]
    return ReceiptsPage.model_validate(told)


VERBS: Final[tuple[AnyVerb, ...]] = (list_,)
