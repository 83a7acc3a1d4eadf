"""Reactions to messages: who reacts to which with what.

A reaction is an emoji, as one or several code points (with skin tone, joined by U+200D, a flag), or a short name. It is compared by
code points in NFC: whoever sends a heart with and without U+FE0F has sent two.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from imcore import reacting, reads
from imcore.errors import Forbidden, Muted, NoSuchMessage, NoSuchRoom
from imcore.verbs.acting import changed, decided
from imcore.verbs.means import Means
from imcore.verbs.verb import (
    Answer,
    AnyVerb,
    Args,
    Caller,
    Limit,
    Mid,
    Millis,
    Place,
    Position,
    Room,
    Seq,
    verb,
    within,
)

REACTION_CHARACTERS_MAX: Final = 32
REACTION_BYTES_MAX: Final = 64

JOINER, VARIATION, KEYCAP = "\u200d", "\ufe0f", "\u20e3"
_NAME_SIGNS: Final = "_+-"

# What stands for others in reactions.list; positions grow for ever, so the page does too. With it, since when who asks ($6) was a
# member then.
PAGE: Final = """
SELECT (SELECT m.since FROM members m WHERE m.room = $1 AND m.mid = $6) AS since, reaction, mid, position, time_ms
FROM reactions
WHERE room = $1 AND seq = $2 AND position > $3 AND ($4::text IS NULL OR reaction = $4)
ORDER BY position LIMIT $5
"""


def check_reaction(text: str) -> str:
    """The reaction in NFC, if it can be one. Raises ValueError."""
    text = unicodedata.normalize("NFC", text)
    if text and (all(sign.isalnum() or sign in _NAME_SIGNS for sign in text) or _is_emoji(text)):
        return text
    raise ValueError("a reaction is an emoji, or a name of letters, digits, _, + and -")


def _is_emoji(text: str) -> bool:
    """Signs that are pictures, and what joins and changes them; one picture at least, and first."""
    if text[0] in "0123456789#*":
        return text[1:] in (KEYCAP, VARIATION + KEYCAP)
    return _is_picture(text[0]) and all(
        _is_picture(sign) or sign in (JOINER, VARIATION, KEYCAP) or "\U000e0020" <= sign <= "\U000e007f"
        for sign in text
    )


def _is_picture(sign: str) -> bool:
    # Whole blocks, because emoji are added to them every year.
    if "\U0001f000" <= sign <= "\U0001faff":
        return True
    return sign in "\u203c\u2049" or ("\xa9" <= sign <= "\u3299" and unicodedata.category(sign) in ("So", "Sm"))


Reaction = Annotated[
    str,
    Field(min_length=1, max_length=REACTION_CHARACTERS_MAX, examples=["👍"]),
    within(REACTION_BYTES_MAX),
    AfterValidator(check_reaction),
]


class OneReaction(Args):
    """A message, and a reaction to it."""

    room: Room
    seq: Seq
    reaction: Reaction


class Reactions(Args):
    """Reactions to a message, or those of one kind."""

    room: Room
    seq: Seq
    reaction: Reaction | None = None
    after: Position = 0
    limit: Limit = 100


class Counted(Answer):
    """How many react so, and whether you are one of them."""

    reaction: str
    count: int
    mine: bool


class Reacted(Answer):
    """Who reacts, with what, since when."""

    reaction: str
    mid: Mid
    position: Position
    time: Millis


class ReactionsPage(Answer):
    """`summary` counts all reactions to the message; `reactions` is a page of who reacts, oldest first; `next` is the next page's
    `after`, if there is one."""

    room: str
    seq: Seq
    summary: list[Counted]
    reactions: list[Reacted]
    next: Position | None = None


@verb(
    "reactions.add",
    "PUT",
    "/v1/rooms/{room}/messages/{seq}/reactions/{reaction}",
    answer=Place,
    errors=(NoSuchRoom, NoSuchMessage, Muted, Forbidden),
)
async def add(caller: Caller, means: Means, args: OneReaction) -> Place:
    """React to a message.

    Doing so again is `unchanged`. A message takes 20 different reactions; one that was recalled takes none.
    """
    return await _react(caller, means, args, adds=True)


@verb(
    "reactions.remove",
    "DELETE",
    "/v1/rooms/{room}/messages/{seq}/reactions/{reaction}",
    answer=Place,
    errors=(NoSuchRoom, NoSuchMessage, Forbidden),
)
async def remove(caller: Caller, means: Means, args: OneReaction) -> Place:
    """Take your reaction to a message back.

    `unchanged` if there was none.
    """
    return await _react(caller, means, args, adds=False)


@verb(
    "reactions.list",
    "GET",
    "/v1/rooms/{room}/messages/{seq}/reactions",
    answer=ReactionsPage,
    errors=(NoSuchRoom, NoSuchMessage),
)
async def list_(caller: Caller, means: Means, args: Reactions) -> ReactionsPage:
    """Who reacts to a message, and with what.

    The oldest reactions come first. With `reaction`, only those of one kind.
    """
    actor = caller.identity.actor
    sight = await reads.sight(means.reads, "reactions.list", args.room, actor)
    await reads.message_at(means.reads, args.room, args.seq, first=sight.first)
    counts = await reads.reactions_of(means.reads, args.room, [args.seq], actor.mid, sight.since)
    counted = counts.get(args.seq, [])
    rows = await means.pool.fetch(PAGE, args.room, args.seq, args.after, args.reaction, args.limit + 1, actor.mid)
    if rows:
        reads.check_still(sight.since, rows[0]["since"])
    told = ReactionsPage(
        room=args.room,
        seq=args.seq,
        summary=[Counted(reaction=one.reaction, count=one.people, mine=one.mine) for one in counted],
        reactions=[
            Reacted(reaction=reaction, mid=mid, position=position, time=time_ms)
            for _, reaction, mid, position, time_ms in rows[: args.limit]
        ],
    )
    if len(rows) > args.limit:
        return told.model_copy(update={"next": rows[args.limit - 1]["position"]})
    return told


async def _react(caller: Caller, means: Means, args: OneReaction, *, adds: bool) -> Place:
    deciding = reacting.React(args.room, args.seq, args.reaction, caller.identity.actor, adds=adds)
    return await about_message(caller, means, args.room, args.seq, deciding)


async def about_message(
    caller: Caller, means: Means, room: str, seq: int, deciding: reacting.React | reacting.Pin
) -> Place:
    """Decide something about a message, if there is one at this place. Who may not see the room is told of that first."""
    await reads.sight(means.reads, deciding.operation, room, caller.identity.actor, is_audited=False)  # the decision is
    await reads.message_at(means.reads, room, seq)
    return changed(await decided(caller, means, deciding))


VERBS: Final[tuple[AnyVerb, ...]] = (add, remove, list_)
