"""What became of a message after it was sent: how often it was edited and how it reads now, or who recalled it.

Inline, because an edit of what was recalled is refused, and a recall of it changes nothing: decisions see the row at their place in the
log. A recall throws away how the message read: of its words there is nothing left in any row.

The trap: who edits or recalls what is not checked here. A second recall and an edit after it change nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

from imcore import tables
from imcore.events.messages import FORMATS
from imcore.events.types import JSON, MessageEdited, MessageRecalled, Recorded
from imcore.projections.projection import Key, Projection, types


class Amendment(NamedTuple):
    """A message that is not as it was sent. `edits` counts them; `edited` and `edited_ms` are position and time of the last, `body` and
    `format` what it says since then, as columns of the log would have it. `recalled` is the position of the recall, 0 if there is
    none, and `recalled_by` who did it."""

    edits: int
    edited: int
    edited_ms: int
    format: int
    body: str
    recalled: int
    recalled_by: int


TYPES: Final = types(MessageEdited, MessageRecalled)
_UNCHANGED: Final = Amendment(0, 0, 0, JSON, "", 0, 0)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case MessageEdited(room=room, target=target) | MessageRecalled(room=room, target=target):
            return ((room, target),)
    return ()


def apply(key: Key, row: Amendment | None, recorded: Recorded) -> Amendment | None:
    row = row or _UNCHANGED
    if row.recalled:
        return row
    match recorded.fact:
        case MessageEdited(body=body, format=format_):
            text = orjson.dumps(body).decode() if format_ == "json" else str(body)
            return row._replace(
                edits=row.edits + 1,
                edited=recorded.position,
                edited_ms=recorded.time_ms,
                format=FORMATS[format_],
                body=text,
            )
        case MessageRecalled():
            return row._replace(format=JSON, body="", recalled=recorded.position, recalled_by=recorded.mid)
    return row


projection: Final = Projection("amendments", tables.amendments, Amendment, TYPES, keys, apply)
