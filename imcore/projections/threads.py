"""The messages of each thread, so that a thread is read without looking through its room.

The trap: as in mentions, a plain message must cost nothing here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events import messages
from imcore.events.messages import VERSION_ABOUT
from imcore.events.types import MESSAGE_SENT, Recorded
from imcore.projections.projection import Key, Projection


class Part(NamedTuple):
    """A message of a thread; `by` sent it."""

    by: int


TYPES: Final = frozenset((MESSAGE_SENT,))


def keys(recorded: Recorded) -> tuple[Key, ...]:
    if recorded.version != VERSION_ABOUT:
        return ()
    thread = messages.about(recorded).thread
    return ((recorded.room, thread, recorded.seq),) if thread else ()


def apply(key: Key, row: Part | None, recorded: Recorded) -> Part | None:
    return row or Part(recorded.mid)


projection: Final = Projection("threads", tables.threads, Part, TYPES, keys, apply)
