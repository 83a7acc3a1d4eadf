"""The edits of each message, by their seqs: the log has what they say.

An edit that changed nothing, because the message was recalled before it, is not in the log: decisions refuse it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import MessageEdited, Recorded
from imcore.projections.projection import Key, Projection, types


class Edit(NamedTuple):
    """An edit; `by` made it."""

    by: int


TYPES: Final = types(MessageEdited)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case MessageEdited(room=room, target=target):
            return ((room, target, recorded.seq),)
    return ()


def apply(key: Key, row: Edit | None, recorded: Recorded) -> Edit | None:
    return row or Edit(recorded.mid)


projection: Final = Projection("edits", tables.edits, Edit, TYPES, keys, apply)
