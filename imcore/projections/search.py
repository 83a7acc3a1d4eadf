"""The words of every message, as it reads now: what messages are found by.

A message has a row even if it says nothing, because an edit may give it a text and does not know who sent it when. `text_at` is the
position of the event that the newest text is in, so no text is kept twice. A recalled message has no row.

The trap: this is the one fold that looks into every message (20 µs each, and the index of words costs Postgres about as much). It has a
runner of its own, which rests between pages: inbox and presence never wait for it, and under load it falls behind and catches up.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import MESSAGE_TYPES, ROOM, MessageEdited, MessageRecalled, Recorded
from imcore.projections.projection import Key, Projection, types
from imcore.projections.words import text_of, words

ROOM_CHARACTERS: Final = len(ROOM)


class Searched(NamedTuple):
    """A message, and its words."""

    mid: int
    time_ms: int
    position: int
    text_at: int
    words: tuple[str, ...]


TYPES: Final = MESSAGE_TYPES | types(MessageEdited, MessageRecalled)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    if recorded.op > 0:
        stream = recorded.stream
        return ((stream[ROOM_CHARACTERS:], recorded.seq),) if stream[:ROOM_CHARACTERS] == ROOM else ()
    match recorded.fact:
        case MessageEdited(room=room, target=seq) | MessageRecalled(room=room, target=seq):
            return ((room, seq),)
    return ()


def apply(key: Key, row: Searched | None, recorded: Recorded) -> Searched | None:
    if recorded.op > 0:
        said = tuple(words(text_of(recorded)))
        return Searched(recorded.mid, recorded.time_ms, recorded.position, recorded.position, said)
    match recorded.fact:
        case MessageEdited() if row is not None:
            return row._replace(text_at=recorded.position, words=tuple(words(text_of(recorded))))
        case MessageRecalled():
            return None
    return row


projection: Final = Projection("search", tables.search, Searched, TYPES, keys, apply, reads_messages=True)
