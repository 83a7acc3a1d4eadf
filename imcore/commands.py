"""The write side: one function or decision a verb.

What stands on its own becomes a draft (a send, a push, a session's life); what depends on who and what is there becomes a decision,
taken under the lock of the log on the rows as they are at that place. Both only say what happens; `Log` makes it so.

The trap: a decision sees only the rows whose keys it names, and runs in a transaction that may be rolled back. It keeps no state but
what its answer needs (`existing`).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Literal

import orjson

from imcore.errors import BadRequest, Forbidden, NoSuchRoom, RoomExists
from imcore.events.store import MEMBER, NO_GUARD, UNFENCED, Decision, Draft, Key, Outcome, Rows, draft, ignore
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
    MemberJoined,
    MemberLeft,
    MemberMuted,
    MemberRemoved,
    OpsAccepted,
    ReadMarked,
    Role,
    RoleChanged,
    RoomCreated,
    RoomsEntered,
    SessionClosed,
    SessionOpened,
    VisibilityChosen,
    VisibleTo,
)
from imcore.projections.members import Member
from imcore.projections.rooms import Room
from imcore.projections.visibility import Visibility

Done = Callable[[Draft, Outcome, bool], None]
RANK = {"member": 1, "admin": 2, "owner": 3}

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
    """A message to a room. With `is_member` the sender must be a member, unmuted, at the message's own place in the log; without,
    the caller has checked what there is to check (a live room: that the session is in it). With `fence` its session must be the
    newest of (mid, key) there."""
    return Draft(
        ROOM + room,
        MESSAGE_SENT,
        body,
        mid,
        key=key,
        client_id=client_id,
        op=op,
        guard=MEMBER if is_member else NO_GUARD,
        fence=fence,
        origin=origin,
        tag=tag,
        done=done,
    )


def push(stream: str, op: int, payload: bytes) -> Draft:
    """A backend's message, any bytes, kept to the byte: as JSON or text where it is that, else as base64."""
    format_, body = storable(payload)
    return Draft(stream, MESSAGE_PUSHED, body, SERVICE_MID, op=op, format_=format_)


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


# --- rooms and members -------------------------------------------------------------------------------------------------------


def member_key(room: str, mid: int) -> Key:
    """The row of a member."""
    return ("members", (room, mid))


def room_key(room: str) -> Key:
    """The row of a room."""
    return ("rooms", (room,))


def membership_keys(room: str, mid: int) -> list[Key]:
    """The rows that a join, a leave or a removal changes."""
    return [member_key(room, mid), ("departures", (mid, room))]


def _member(rows: Rows, room: str, mid: int) -> Member | None:
    row = rows[member_key(room, mid)]
    assert row is None or isinstance(row, Member)
    return row


def _room(rows: Rows, room: str) -> Room | None:
    row = rows[room_key(room)]
    assert row is None or isinstance(row, Room)
    return row


class CreateRoom(Decision):
    """A room, its creator as owner (a service makes rooms without), and its first members. Raises RoomExists."""

    __slots__ = ("by", "history", "key", "members", "public", "room", "title")

    def __init__(
        self,
        room: str,
        by: int,
        *,
        public: bool = True,
        history: Literal["joined", "all"] = "joined",
        title: str = "",
        members: Sequence[int] = (),
        key: str = "",
    ) -> None:
        # The owner first; nobody twice.
        people = dict.fromkeys((*((by,) if by != SERVICE_MID else ()), *members))
        keys = [room_key(room), *(key for mid in people for key in membership_keys(room, mid))]
        super().__init__(keys, [ROOM + room], creates=True)
        self.room, self.by, self.public, self.history, self.title, self.key = room, by, public, history, title, key
        self.members = tuple(people)

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """The room, then its members."""
        if _room(rows, self.room) is not None:
            raise RoomExists
        stream = ROOM + self.room
        created = RoomCreated(room=self.room, public=self.public, history=self.history, title=self.title)
        return [
            draft(stream, created, self.by, key=self.key),
            *(
                draft(
                    stream,
                    MemberJoined(room=self.room, mid=mid, role="owner" if mid == self.by else "member"),
                    self.by,
                    key=self.key,
                )
                for mid in self.members
            ),
        ]


class Join(Decision):
    """`mid` joins by itself. `may_create`: a room that is not there begins with this join, and `mid` owns it. A private room, like
    one that does not exist, is NoSuchRoom. Joining again changes nothing: no events, and `existing` is the membership."""

    __slots__ = ("existing", "key", "may_create", "mid", "room")

    def __init__(self, room: str, mid: int, *, may_create: bool, key: str = "") -> None:
        super().__init__([room_key(room), *membership_keys(room, mid)], [ROOM + room], creates=may_create)
        self.room, self.mid, self.may_create, self.key = room, mid, may_create, key
        self.existing: Member | None = None

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One join, or none."""
        self.existing = _member(rows, self.room, self.mid)
        if self.existing is not None:
            return []
        room = _room(rows, self.room)
        if not self.may_create if room is None else not room.public:
            raise NoSuchRoom
        fact = MemberJoined(room=self.room, mid=self.mid, role="owner" if room is None else "member")
        return [draft(ROOM + self.room, fact, self.mid, key=self.key)]


class AddMember(Decision):
    """Somebody brings `mid` in: an owner or admin of the room, or a service. A member stays as it is (`existing`)."""

    __slots__ = ("by", "existing", "mid", "role", "room")

    def __init__(self, room: str, mid: int, by: int, *, role: Role = "member") -> None:
        super().__init__([room_key(room), *membership_keys(room, mid), *_others(room, mid, by)], [ROOM + room])
        self.room, self.mid, self.by, self.role = room, mid, by, role
        self.existing: Member | None = None

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One join, or none."""
        if _room(rows, self.room) is None:
            raise NoSuchRoom
        _check_rank(rows, self.room, self.by, above=RANK[self.role])
        self.existing = _member(rows, self.room, self.mid)
        if self.existing is not None:
            return []
        fact = MemberJoined(room=self.room, mid=self.mid, role=self.role)
        return [draft(ROOM + self.room, fact, self.by)]


class Leave(Decision):
    """`mid` leaves by itself. Who is no member gets NoSuchRoom."""

    __slots__ = ("key", "mid", "room")

    def __init__(self, room: str, mid: int, *, key: str = "") -> None:
        super().__init__([room_key(room), *membership_keys(room, mid)], [ROOM + room])
        self.room, self.mid, self.key = room, mid, key

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One leave."""
        if _member(rows, self.room, self.mid) is None:
            raise NoSuchRoom
        return [draft(ROOM + self.room, MemberLeft(room=self.room, mid=self.mid), self.mid, key=self.key)]


class RemoveMember(Decision):
    """Somebody of higher rank, or a service, removes `mid`."""

    __slots__ = ("by", "mid", "room")

    def __init__(self, room: str, mid: int, by: int) -> None:
        super().__init__([room_key(room), *membership_keys(room, mid), *_others(room, mid, by)], [ROOM + room])
        self.room, self.mid, self.by = room, mid, by

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One removal."""
        member = _target(rows, self.room, self.mid, self.by)
        _check_rank(rows, self.room, self.by, above=RANK[member.role])
        return [draft(ROOM + self.room, MemberRemoved(room=self.room, mid=self.mid), self.by)]


class SetRole(Decision):
    """Somebody above both the old and the new role, or a service, changes the role of `mid`."""

    __slots__ = ("by", "mid", "role", "room")

    def __init__(self, room: str, mid: int, by: int, role: Role) -> None:
        super().__init__([room_key(room), *_people(room, mid, by)], [ROOM + room])
        self.room, self.mid, self.by, self.role = room, mid, by, role

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One change, or none if it is so already."""
        member = _target(rows, self.room, self.mid, self.by)
        _check_rank(rows, self.room, self.by, above=max(RANK[member.role], RANK[self.role]))
        if member.role == self.role:
            return []
        return [draft(ROOM + self.room, RoleChanged(room=self.room, mid=self.mid, role=self.role), self.by)]


class Mute(Decision):
    """Somebody of higher rank, or a service, keeps `mid` from sending until then; 0 ends it."""

    __slots__ = ("by", "mid", "room", "until_ms")

    def __init__(self, room: str, mid: int, by: int, until_ms: int) -> None:
        super().__init__([room_key(room), *_people(room, mid, by)], [ROOM + room])
        self.room, self.mid, self.by, self.until_ms = room, mid, by, until_ms

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One mute."""
        member = _target(rows, self.room, self.mid, self.by)
        _check_rank(rows, self.room, self.by, above=RANK[member.role])
        return [draft(ROOM + self.room, MemberMuted(room=self.room, mid=self.mid, until_ms=self.until_ms), self.by)]


def _others(room: str, mid: int, by: int) -> list[Key]:
    return [] if by in (SERVICE_MID, mid) else [member_key(room, by)]


def _people(room: str, mid: int, by: int) -> list[Key]:
    return [member_key(room, who) for who in dict.fromkeys((mid, by)) if who != SERVICE_MID]


def _target(rows: Rows, room: str, mid: int, by: int) -> Member:
    """The member that something is done to, as far as `by` may know of it."""
    if by != SERVICE_MID and _member(rows, room, by) is None:
        raise NoSuchRoom
    member = _member(rows, room, mid)
    if member is None:
        raise NoSuchRoom if by == SERVICE_MID else BadRequest("this person is not in the room")
    return member


def _check_rank(rows: Rows, room: str, by: int, *, above: int) -> None:
    """A service may do everything; others need to be above, and at least admin."""
    if by == SERVICE_MID:
        return
    member = _member(rows, room, by)
    if member is None:
        raise NoSuchRoom
    if RANK[member.role] < RANK["admin"] or RANK[member.role] <= above:
        raise Forbidden


# --- people ------------------------------------------------------------------------------------------------------------------


class ChooseVisibility(Decision):
    """`mid` chooses who may see whether it is online. Choosing the same again changes nothing."""

    __slots__ = ("choice", "key", "mid", "row")

    def __init__(self, mid: int, choice: VisibleTo, *, key: str = "") -> None:
        self.row: Key = ("visibility", (mid,))
        super().__init__([self.row], [f"{USER}{mid}"], creates=True)
        self.mid, self.choice, self.key = mid, choice, key

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One choice, or none if it is so already."""
        row = rows[self.row]
        assert row is None or isinstance(row, Visibility)
        if self.choice == ("everybody" if row is None else row.choice):
            return []
        return [draft(f"{USER}{self.mid}", VisibilityChosen(mid=self.mid, choice=self.choice), self.mid, key=self.key)]


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
    done: Done = ignore,
) -> Draft:
    """`mid` has read the room up to `seq`; `messages` and `sent` come from `queries.read_facts` for that seq."""
    fact = ReadMarked(room=room, mid=mid, seq=seq, messages=messages, sent=sent)
    return draft(f"{USER}{mid}", fact, mid, key=key, fence=fence, done=done)


def open_session(
    mid: int,
    key: str,
    *,
    node: str,
    platform: str,
    address: str,
    rooms: Sequence[str],
    protocol: str,
    done: Done = ignore,
) -> Draft:
    """A connection authenticated."""
    fact = SessionOpened(key=key, node=node, platform=platform, address=address, rooms=tuple(rooms), protocol=protocol)
    return draft(f"{SESSION}{mid}", fact, mid, key=key, done=done)


def close_session(mid: int, key: str, opened: int, reason: str, delivered: int | None, *, done: Done = ignore) -> Draft:
    """The connection ended."""
    fact = SessionClosed(key=key, opened=opened, reason=reason, delivered=delivered)
    return draft(f"{SESSION}{mid}", fact, mid, key=key, done=done)


def enter_rooms(
    mid: int, key: str, opened: int, rooms: Sequence[str], *, fence: int = UNFENCED, done: Done = ignore
) -> Draft:
    """The connection is in these rooms now."""
    fact = RoomsEntered(key=key, opened=opened, rooms=tuple(rooms))
    return draft(f"{SESSION}{mid}", fact, mid, key=key, fence=fence, done=done)


def accept_ops(mid: int, key: str, ops: Sequence[int] | None, *, fence: int = UNFENCED, done: Done = ignore) -> Draft:
    """The connection wants these operations now."""
    fact = OpsAccepted(key=key, ops=None if ops is None else tuple(ops))
    return draft(f"{SESSION}{mid}", fact, mid, key=key, fence=fence, done=done)


def ack(mid: int, key: str, position: int, *, fence: int = UNFENCED, done: Done = ignore) -> Draft:
    """This device has everything up to `position`."""
    return draft(f"{SESSION}{mid}", DeliveryAcked(key=key, position=position), mid, key=key, fence=fence, done=done)
