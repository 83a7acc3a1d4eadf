"""The write side of what stands on its own: one function a verb, which makes a draft.

A send, a push, a mark, a session's life. What depends on who and what is there becomes a decision (see membership), taken under the
lock of the log on the rows as they are at that place. Both only say what happens; `Log` makes it so.

The trap: a draft to a room is checked against the room's rules by its guard, and by nothing else.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

import orjson

from imcore.events import messages
from imcore.events.store import MEMBER, NO_GUARD, NOT_DISMISSED, UNFENCED, Draft, Outcome, draft, ignore
from imcore.events.types import (
    ALL,
    BASE64,
    JSON,
    KEY,
    MESSAGE_PUSHED,
    MESSAGE_SENT,
    ROOM,
    SERVICE_MID,
    SESSION,
    TEXT,
    USER,
    DeliveryAcked,
    OpsAccepted,
    ReadMarked,
    RoomsEntered,
    RoomSwitched,
    SessionClosed,
    SessionOpened,
)

Done = Callable[[Draft, Outcome, bool], None]

# --- messages ----------------------------------------------------------------------------------------------------------------


def send(
    room: str,
    mid: int,
    client_id: str,
    body: str,
    *,
    op: int,
    is_member: bool,
    key: str = "",
    fence: int = UNFENCED,
    origin: object = None,
    tag: int = 0,
    done: Done = ignore,
) -> Draft:
    """A message to a room, which must not be dismissed. With `is_member` the sender must be a member whom nothing keeps from sending,
    at the message's own place in the log; without, the caller has checked what there is to check (a live room: that the session is in
    it). With `fence` its session must be the
    newest of (mid, key) there."""
    return Draft(
        ROOM + room,
        MESSAGE_SENT,
        body,
        mid,
        key=key,
        client_id=client_id,
        op=op,
        guard=MEMBER if is_member else NOT_DISMISSED,
        fence=fence,
        origin=origin,
        tag=tag,
        done=done,
    )


def about(draft: Draft, what: messages.About) -> Draft:
    """The same message, about something. `what` has been checked (reads.check_about)."""
    draft.version, draft.body = messages.stored(what, draft.body)
    return draft


def push(stream: str, op: int, payload: bytes) -> Draft:
    """A backend's message, any bytes, kept to the byte: as JSON or text where it is that, else as base64."""
    format_, body = storable(payload)
    guard = NOT_DISMISSED if stream.startswith(ROOM) else NO_GUARD
    return Draft(stream, MESSAGE_PUSHED, body, SERVICE_MID, op=op, format_=format_, guard=guard)


def pushes(
    op: int,
    payload: bytes,
    *,
    room: str | None = None,
    mids: Sequence[int] = (),
    keys: Sequence[str] = (),
    everybody: bool = False,
) -> list[Draft]:
    """goim's four pushes: to a room, to people, to connection keys, to everybody."""
    streams = [f"{USER}{mid}" for mid in mids] + [KEY + key for key in keys]
    if room is not None:
        streams.append(ROOM + room)
    if everybody:
        streams.append(ALL)
    return [push(stream, op, payload) for stream in streams]


def storable(payload: bytes) -> tuple[int, str]:
    """The format and text that keep these bytes exactly, and read best."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return BASE64, base64.b64encode(payload).decode()
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError:
        return TEXT, text
    return JSON, text


# --- marks and sessions --------------------------------------------------------------------------------------------------------


def mark_read(
    room: str,
    mid: int,
    seq: int,
    messages: int,
    sent: int,
    *,
    key: str = "",
    fence: int = UNFENCED,
) -> Draft:
    """`mid` has read the room up to `seq`; `messages` and `sent` come from `queries.read_facts` for that seq."""
    fact = ReadMarked(room=room, mid=mid, seq=seq, messages=messages, sent=sent)
    return draft(f"{USER}{mid}", fact, mid, key=key, fence=fence)


def open_session(
    mid: int,
    key: str,
    *,
    node: str,
    platform: str,
    address: str,
    rooms: Sequence[str],
    protocol: str,
) -> Draft:
    """A connection authenticated."""
    fact = SessionOpened(key=key, node=node, platform=platform, address=address, rooms=tuple(rooms), protocol=protocol)
    return draft(f"{SESSION}{mid}", fact, mid, key=key)


def close_session(mid: int, key: str, opened: int, reason: str, delivered: int | None) -> Draft:
    """The connection ended."""
    fact = SessionClosed(key=key, opened=opened, reason=reason, delivered=delivered)
    return draft(f"{SESSION}{mid}", fact, mid, key=key)


def enter_rooms(
    mid: int, key: str, opened: int, rooms: Sequence[str], *, fence: int = UNFENCED, done: Done = ignore
) -> Draft:
    """The connection is in these rooms now."""
    fact = RoomsEntered(key=key, opened=opened, rooms=tuple(rooms))
    return draft(f"{SESSION}{mid}", fact, mid, key=key, fence=fence, done=done)


def switch_room(mid: int, key: str, opened: int, room: str) -> Draft:
    """The connection is to leave the room that it has entered for this one, or for none; its comet is told."""
    return draft(f"{SESSION}{mid}", RoomSwitched(key=key, opened=opened, room=room), mid)


def accept_ops(mid: int, key: str, ops: Sequence[int] | None, *, fence: int = UNFENCED) -> Draft:
    """The connection wants these operations now."""
    fact = OpsAccepted(key=key, ops=None if ops is None else tuple(ops))
    return draft(f"{SESSION}{mid}", fact, mid, key=key, fence=fence)


def ack(mid: int, key: str, position: int, *, fence: int = UNFENCED) -> Draft:
    """This device has everything up to `position`."""
    return draft(f"{SESSION}{mid}", DeliveryAcked(key=key, position=position), mid, key=key, fence=fence)
