"""Events as the log would give them, made by hand."""

from __future__ import annotations

from imcore.events.types import JSON, MESSAGE_OP, MESSAGE_PUSHED, MESSAGE_SENT, ROOM, SESSION, Fact, Recorded

TIME_MS = 1_764_000_000_000


def recorded(
    position: int,
    stream: str,
    type_: str,
    body: str,
    *,
    mid: int = 0,
    key: str = "",
    client_id: str | None = None,
    op: int = 0,
    format_: int = JSON,
    seq: int = 0,
) -> Recorded:
    """Any event."""
    return Recorded(position, stream, seq or position, 0, type_, 1, mid, key, client_id, op, format_, TIME_MS, body)


def said(
    position: int, room: str, body: str = "", *, mid: int = 99, key: str = "", op: int = MESSAGE_OP, format_: int = JSON
) -> Recorded:
    """A message to a room; without a body, its position."""
    return recorded(
        position, ROOM + room, MESSAGE_SENT, body or str(position), mid=mid, key=key, op=op, format_=format_
    )


def pushed(position: int, stream: str, body: str = "", *, op: int = MESSAGE_OP) -> Recorded:
    """A backend's message to any stream; without a body, its position."""
    return recorded(position, stream, MESSAGE_PUSHED, body or str(position), op=op)


def happened(position: int, stream: str, fact: Fact, *, mid: int = 0, key: str = "") -> Recorded:
    """A fact that is no message."""
    return recorded(position, stream, fact.type, fact.model_dump_json(), mid=mid, key=key)


def of_session(position: int, fact: Fact, *, mid: int, key: str) -> Recorded:
    """A fact in a person's session stream."""
    return happened(position, f"{SESSION}{mid}", fact, mid=mid, key=key)
