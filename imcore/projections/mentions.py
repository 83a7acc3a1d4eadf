"""Who was named in which message: a row for each person, or one of EVERYBODY_MID for all who are in the room.

How many of them are unread is counted when it is read, over the seqs after the read mark. Messages that were recalled are left out
there, and so are one's own and those from before one joined.

The trap: every message comes through here. Only those of version 2 are looked into, and a plain one costs two comparisons.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events import messages
from imcore.events.messages import VERSION_ABOUT
from imcore.events.types import MESSAGE_SENT, Recorded
from imcore.projections.projection import Key, Projection


class Mention(NamedTuple):
    """A message that names somebody: its position, and who sent it."""

    position: int
    by: int


TYPES: Final = frozenset((MESSAGE_SENT,))


def keys(recorded: Recorded) -> tuple[Key, ...]:
    if recorded.version != VERSION_ABOUT:
        return ()
    return tuple((mid, recorded.room, recorded.seq) for mid in messages.about(recorded).mentions)


def apply(key: Key, row: Mention | None, recorded: Recorded) -> Mention | None:
    return row or Mention(recorded.position, recorded.mid)


projection: Final = Projection("mentions", tables.mentions, Mention, TYPES, keys, apply)
