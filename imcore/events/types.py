"""Facts: what can happen, under which stable name, in which version, and how older versions read today.

An event type is a name (never a Python path), an integer version, a pydantic model of the newest version, and pure dict-to-dict
upcasters from each older one. A message is special only in speed: its payload is the client's own and is never parsed on the
way from the sender to the receivers, so its operation and format are columns of the log and its body is the payload itself; version 2
of message_sent has something beside the payload (see messages).

Streams: `room:<type>://<name>` holds everything that members of that room see. `user:<mid>` holds direct pushes, read marks and who
may see the person.
`session:<mid>` holds connects, disconnects, live rooms entered and delivery acks. `key:<key>` holds pushes to one connection
key, and `all:` pushes to everybody. `user:<mid>` holds the account too: what it is, its logins and its logouts. `audit:` holds what
moderators and admins of the platform did by their privilege, and what backends did to accounts; nobody is given that.

The trap: a change to a model that older stored bodies no longer fit needs a new version and an upcaster, in the same commit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Final, Literal, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue

ROOM, USER, SESSION, KEY, ALL, AUDIT = "room:", "user:", "session:", "key:", "all:", "audit:"
SERVICE_MID: Final = 0  # who did it, when no person did: a backend with a service token, or the server itself

DIRECT: Final = "direct"  # the type of rooms for two
GENERATED_KEY: Final = "~"  # how a connection key begins that the server made, for a client that named none

JSON, TEXT, BASE64 = 0, 1, 2  # formats of a body
MESSAGE_OP: Final = 1000  # goim: operations from 1000 on are the application's

Int64 = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)]
Role = Literal["owner", "admin", "member"]
AccountRole = Literal["user", "moderator", "admin"]
History = Literal["joined", "all"]
Writers = Literal["members", "admins"]
Upcaster = Callable[[dict[str, object]], dict[str, object]]


class Fact(BaseModel):
    """What happened. Immutable; `type` and `version` are how it is stored, for ever."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    type: ClassVar[str]
    version: ClassVar[int] = 1


# --- in a room's stream ---


class RoomCreated(Fact):
    """A room exists, and who may come in and see what was said before. Its other settings are said by a room_changed after it."""

    type = "room_created"
    room: str
    public: bool = True
    history: History = "joined"
    title: str = ""


class RoomChanged(Fact):
    """These settings of the room are so from here on; None is as it was."""

    type = "room_changed"
    room: str
    title: str | None = None
    topic: str | None = None
    public: bool | None = None
    approval: bool | None = None
    history: History | None = None
    writers: Writers | None = None
    slow_mode_s: Int64 | None = None
    members_max: Int64 | None = None


class RoomMuted(Fact):
    """Nobody but admins and owners may send here until then; 0 ends it."""

    type = "room_muted"
    room: str
    until_ms: Int64


class RoomDismissed(Fact):
    """The room is no more: nothing follows this in its stream, and its name is never free again."""

    type = "room_dismissed"
    room: str


class MemberJoined(Fact):
    """From this position on, `mid` is a member."""

    type = "member_joined"
    room: str
    mid: Int64
    role: Role = "member"


class MemberLeft(Fact):
    """From this position on, `mid` is no member: it left."""

    type = "member_left"
    room: str
    mid: Int64


class MemberRemoved(Fact):
    """From this position on, `mid` is no member: somebody removed it."""

    type = "member_removed"
    room: str
    mid: Int64


class MemberMuted(Fact):
    """`mid` may not send here until then; 0 ends it."""

    type = "member_muted"
    room: str
    mid: Int64
    until_ms: Int64


class RoleChanged(Fact):
    """`mid` has this role in the room from here on."""

    type = "role_changed"
    room: str
    mid: Int64
    role: Role


class MemberBanned(Fact):
    """`mid` may not come in until then; 0 is for ever. A member was removed by the event before this one."""

    type = "member_banned"
    room: str
    mid: Int64
    until_ms: Int64 = 0
    reason: str = ""


class MemberUnbanned(Fact):
    """`mid` may come in again."""

    type = "member_unbanned"
    room: str
    mid: Int64


class JoinRequested(Fact):
    """`mid` asks to be let in. The answer is a join, or a rejection."""

    type = "join_requested"
    room: str
    mid: Int64
    text: str = ""


class JoinRejected(Fact):
    """`mid` asked to be let in, and is not."""

    type = "join_rejected"
    room: str
    mid: Int64


# --- about a message of a room, in its stream: `target` is the message's seq there ---


class MessageEdited(Fact):
    """The message reads so from here on. `body` is what a message's body is: JSON, or with `format` a text or base64 of bytes."""

    type = "message_edited"
    room: str
    target: Int64
    body: JsonValue
    format: Literal["json", "text", "base64"] = "json"


class MessageRecalled(Fact):
    """The message is to be shown no more. `author` is who had sent it; who recalled it is the event's own mid."""

    type = "message_recalled"
    room: str
    target: Int64
    author: Int64


class ReactionAdded(Fact):
    """Whoever did this reacts to the message with `reaction`."""

    type = "reaction_added"
    room: str
    target: Int64
    reaction: str


class ReactionRemoved(Fact):
    """Whoever did this reacts to the message with `reaction` no more."""

    type = "reaction_removed"
    room: str
    target: Int64
    reaction: str


class MessagePinned(Fact):
    """The message is among those that the room shows first."""

    type = "message_pinned"
    room: str
    target: Int64


class MessageUnpinned(Fact):
    """The message is no longer among those that the room shows first."""

    type = "message_unpinned"
    room: str
    target: Int64


# --- in a user's stream ---


class Invited(Fact):
    """Whoever did this invites `mid`, whose stream this is, to the room. A join is the answer, or that it declines."""

    type = "invited"
    room: str
    mid: Int64


class InvitationWithdrawn(Fact):
    """The invitation of `mid` to the room is no more: somebody took it back."""

    type = "invitation_withdrawn"
    room: str
    mid: Int64


class InvitationDeclined(Fact):
    """`mid` does not accept the invitation to the room."""

    type = "invitation_declined"
    room: str
    mid: Int64


class PersonBlocked(Fact):
    """`by`, whose stream this is, takes no direct messages of `mid` any more."""

    type = "person_blocked"
    by: Int64
    mid: Int64


class PersonUnblocked(Fact):
    """`by`, whose stream this is, takes direct messages of `mid` again."""

    type = "person_unblocked"
    by: Int64
    mid: Int64


class ReadMarked(Fact):
    """`mid` has read the room up to `seq`.

    `messages` and `sent` say how many messages of the room, and how many of its own since it joined, that covers: facts of the
    log, taken when the mark was made, so that unread needs no counting.
    """

    type = "read_marked"
    room: str
    mid: Int64
    seq: Int64
    messages: Int64
    sent: Int64


VisibleTo = Literal["everybody", "contacts", "nobody"]


class VisibilityChosen(Fact):
    """Who may see whether `mid` is online, of those who may at all: everybody, contacts (in a direct room where it said something),
    nobody."""

    type = "visibility_chosen"
    mid: Int64
    choice: VisibleTo


# --- in a user's stream: the account. `sids` are the logins that end with it, as far as they were known ---


class AccountRegistered(Fact):
    """There is an account. `login` is the name that it logs in with and `handle` what two names may not have in common; `credential`
    names the hash of its password, which is not in the log, and `code` the invitation code that let it in, if one did."""

    type = "account_registered"
    version = 2
    mid: Int64
    login: str
    handle: str
    name: str
    role: AccountRole = "user"
    active: bool
    credential: str
    code: str


class AccountActivated(Fact):
    """The account may be used from here on."""

    type = "account_activated"
    mid: Int64


class ProfileChanged(Fact):
    """This is how the person shows itself: all of it, and not only what changed."""

    type = "profile_changed"
    mid: Int64
    name: str
    avatar: str
    extra: JsonValue


class PasswordChanged(Fact):
    """From here on the password is another one, whose hash `credential` names."""

    type = "password_changed"
    mid: Int64
    credential: str


class AccountSuspended(Fact):
    """The account is not to be used, and every login of it has ended."""

    type = "account_suspended"
    mid: Int64
    reason: str
    sids: tuple[str, ...]


class SuspensionLifted(Fact):
    """The account may be used again, or, if it was never activated, waits for that again."""

    type = "suspension_lifted"
    mid: Int64


class AccountDeactivated(Fact):
    """The account was given up by whose it is: for good, and every login of it has ended."""

    type = "account_deactivated"
    mid: Int64
    sids: tuple[str, ...]


class PlatformRoleChanged(Fact):
    """`mid` has this role on the whole server; what tokens before this say of it holds no more."""

    type = "platform_role_changed"
    mid: Int64
    role: AccountRole


class LoggedIn(Fact):
    """A device logged in. `sid` names the login."""

    type = "logged_in"
    mid: Int64
    sid: str
    key: str
    platform: str
    address: str


class LoggedOut(Fact):
    """These logins are over; `everywhere`: all that began before this."""

    type = "logged_out"
    mid: Int64
    sids: tuple[str, ...]
    everywhere: bool


class LoginExpired(Fact):
    """This login is over, because it was not refreshed in time. It was so from that time on, and not only from here."""

    type = "login_expired"
    mid: Int64
    sid: str


class AttachmentStored(Fact):
    """Whoever did this has stored a file for a room. Its bytes are not in the log; `sha256` is their digest, in hexadecimal."""

    type = "attachment_stored"
    room: str
    id: str
    name: str
    media_type: str
    size: Int64
    sha256: str
    width: Int64 | None = None
    height: Int64 | None = None


class AttachmentRemoved(Fact):
    """The file is there no more. In the stream of who had stored it; who removed it is the event's own mid."""

    type = "attachment_removed"
    room: str
    id: str


# --- in a session stream ---


class SessionOpened(Fact):
    """A connection authenticated, on this node."""

    type = "session_opened"
    key: str
    node: str
    platform: str = ""
    address: str = ""
    rooms: tuple[str, ...] = ()
    protocol: str = ""


NODE_LOST: Final = "node_lost"  # the reason of a session's end that was found out only because its comet was gone


class SessionClosed(Fact):
    """The connection ended. `opened` is the position of its session_opened: a later session of the same key is not meant."""

    type = "session_closed"
    key: str
    opened: Int64
    reason: str
    delivered: Int64 | None = None


class RoomsEntered(Fact):
    """The connection is now in these rooms (live rooms, and the one entered), and no longer in others. `opened` is the position of
    its session_opened: another session of the same key is not meant."""

    type = "rooms_entered"
    key: str
    opened: Int64
    rooms: tuple[str, ...]


class RoomSwitched(Fact):
    """The connection was told, and not by its own client, to leave the room that it has entered for this one, or for none. What it
    does is said by a rooms_entered."""

    type = "room_switched"
    key: str
    opened: Int64
    room: str


class OpsAccepted(Fact):
    """The connection wants pushes of these operations; none means all."""

    type = "ops_accepted"
    key: str
    ops: tuple[int, ...] | None


class DeliveryAcked(Fact):
    """This device has received everything it was entitled to, up to and including `position`."""

    type = "delivery_acked"
    key: str
    position: Int64


# --- in the audit stream ---


class AdminActed(Fact):
    """A moderator or admin of the platform did this by privilege: who, is the event's own mid. `verb` is the operation in the
    permission table; `room` and `mid` are those that it was done to, where there are any. What it did stands before this event."""

    type = "admin_acted"
    verb: str
    role: str
    room: str = ""
    mid: Int64 | None = None
    detail: str = ""


FACTS: Final[tuple[type[Fact], ...]] = (
    RoomCreated,
    RoomChanged,
    RoomMuted,
    RoomDismissed,
    MemberJoined,
    MemberLeft,
    MemberRemoved,
    MemberMuted,
    RoleChanged,
    MemberBanned,
    MemberUnbanned,
    JoinRequested,
    JoinRejected,
    MessageEdited,
    MessageRecalled,
    ReactionAdded,
    ReactionRemoved,
    MessagePinned,
    MessageUnpinned,
    Invited,
    InvitationWithdrawn,
    InvitationDeclined,
    PersonBlocked,
    PersonUnblocked,
    ReadMarked,
    VisibilityChosen,
    AccountRegistered,
    AccountActivated,
    ProfileChanged,
    PasswordChanged,
    AccountSuspended,
    SuspensionLifted,
    AccountDeactivated,
    PlatformRoleChanged,
    LoggedIn,
    LoggedOut,
    LoginExpired,
    AttachmentStored,
    AttachmentRemoved,
    SessionOpened,
    SessionClosed,
    RoomsEntered,
    RoomSwitched,
    OpsAccepted,
    DeliveryAcked,
    AdminActed,
)

MESSAGE_SENT: Final = "message_sent"  # by a member, over a connection or HTTP
MESSAGE_PUSHED: Final = "message_pushed"  # by a backend with goim's push routes
MESSAGE_TYPES: Final = frozenset((MESSAGE_SENT, MESSAGE_PUSHED))
# What connections are told and the log never holds: envelopes at position 0.
PRESENCE: Final = "presence"  # of a person, to who watches it
TYPING: Final = "typing"  # of a member, to the others in the room
SIGNAL: Final = "signal:"  # and a name: the application's own


class UnknownType(LookupError):
    """The log holds an event type or version that this program does not know: it is older than the log."""


class Registry:
    """Event types by name, with the way from each older version to the newest.

    `add` refuses a second type of the same name and a version without a way to it. `parse` gives the newest model of a stored
    body.
    """

    def __init__(
        self, facts: tuple[type[Fact], ...] = (), upcasters: Mapping[tuple[str, int], Upcaster] | None = None
    ) -> None:
        self._facts: dict[str, type[Fact]] = {}
        self._upcasters: dict[tuple[str, int], Upcaster] = {}
        upcasters = upcasters or {}
        for fact in facts:
            self.add(fact, {version: upcast for (name, version), upcast in upcasters.items() if name == fact.type})

    def add(self, fact: type[Fact], upcasters: Mapping[int, Upcaster] | None = None) -> None:
        """Add a type. `upcasters[n]` turns a body of version n into one of version n + 1."""
        upcasters = upcasters or {}
        if fact.type in self._facts or fact.type in MESSAGE_TYPES:
            raise ValueError(f"there is an event type {fact.type} already")
        if missing := [version for version in range(1, fact.version) if version not in upcasters]:
            raise ValueError(f"{fact.type} is at version {fact.version} but has no upcaster from {missing[0]}")
        self._facts[fact.type] = fact
        self._upcasters.update({(fact.type, version): upcast for version, upcast in upcasters.items()})

    def parse(self, type_: str, version: int, body: str) -> Fact:
        """The fact that a stored body means today.

        Raises UnknownType when the type, or a version newer than this program's, is not known.
        """
        fact = self._facts.get(type_)
        if fact is None or version > fact.version or version < 1:
            raise UnknownType(f"{type_} version {version}")
        if version == fact.version:
            return fact.model_validate_json(body)
        stored: dict[str, object] = orjson.loads(body)
        for older in range(version, fact.version):
            stored = self._upcasters[type_, older](stored)
        return fact.model_validate_json(orjson.dumps(stored))


def _without_code(stored: dict[str, object]) -> dict[str, object]:
    """Version 1 of account_registered did not say by which code."""
    return {**stored, "code": ""}


registry: Final = Registry(FACTS, {(AccountRegistered.type, 1): _without_code})


class Recorded(NamedTuple):
    """A fact with its place in the log: position (in the whole log), stream and seq (in its conversation), and when.

    `messages` counts the messages of the stream up to and including this event.
    """

    position: int
    stream: str
    seq: int
    messages: int
    type: str
    version: int
    mid: int
    key: str
    client_id: str | None
    op: int
    format: int
    time_ms: int
    body: str

    @property
    def fact(self) -> Fact:
        """The fact itself, for every type but messages (their body is the client's own).

        Raises UnknownType when the log is newer than this program.
        """
        return registry.parse(self.type, self.version, self.body)

    @property
    def room(self) -> str:
        """The room whose stream this is, or "" for another stream."""
        return self.stream[5:] if self.stream.startswith(ROOM) else ""


class Page(NamedTuple):
    """Events in order of position, and up to where they are all that was asked for."""

    events: list[Recorded]
    upto: int


def device(key: str) -> str:
    """The device that a connection key names. Keys that the server made name none: all of a person's are one device, called ""."""
    return "" if key.startswith(GENERATED_KEY) else key


_direct = re.compile(r"direct://(-?[1-9][0-9]{0,18})-(-?[1-9][0-9]{0,18})").fullmatch


def direct_room(one: int, other: int) -> str:
    """The direct conversation of these two people."""
    return f"{DIRECT}://{min(one, other)}-{max(one, other)}"


def direct_pair(room: str) -> tuple[int, int] | None:
    """Whose direct conversation the room is, or None."""
    found = _direct(room)
    pair = None if found is None else (int(found[1]), int(found[2]))
    return pair if pair is not None and direct_room(*pair) == room else None


def room_type(room: str) -> str:
    """What stands before `://`: the kind of a room hangs on it."""
    return room.partition("://")[0]
