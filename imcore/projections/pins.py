"""Which messages a room shows first, and how many there are.

The trap: as with reactions, the count is exact because a decision (reacting.Pin) pins only what is not pinned, and unpins only what is.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import MessagePinned, MessageUnpinned, Recorded
from imcore.projections.projection import Key, Projection, types


class Pinned(NamedTuple):
    """That a message is pinned: by whom, since when."""

    position: int
    by: int
    time_ms: int


class PinCount(NamedTuple):
    """How many messages of a room are pinned."""

    pins: int


TYPES: Final = types(MessagePinned, MessageUnpinned)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case MessagePinned(room=room, target=seq) | MessageUnpinned(room=room, target=seq):
            return ((room, seq),)
    return ()


def apply(key: Key, row: Pinned | None, recorded: Recorded) -> Pinned | None:
    match recorded.fact:
        case MessagePinned():
            return row or Pinned(recorded.position, recorded.mid, recorded.time_ms)
        case MessageUnpinned():
            return None
    return row


def count_keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case MessagePinned(room=room) | MessageUnpinned(room=room):
            return ((room,),)
    return ()


def count_apply(key: Key, row: PinCount | None, recorded: Recorded) -> PinCount | None:
    match recorded.fact:
        case MessagePinned():
            return PinCount(1 if row is None else row.pins + 1)
        case MessageUnpinned():
            return PinCount(row.pins - 1) if row is not None and row.pins > 1 else None
    return row


projection: Final = Projection("pins", tables.pins, Pinned, TYPES, keys, apply)
count: Final = Projection("pin_counts", tables.pin_counts, PinCount, TYPES, count_keys, count_apply)
