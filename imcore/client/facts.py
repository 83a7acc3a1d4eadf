"""The events that are no messages, each by the name of its fact. Written by scripts/write-client; edit that.

`mid` is who did it, and `whom` is whom it is about. What a fact says is in `body` too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from imcore.client.events import Event, Said, Words


@dataclass(frozen=True, slots=True)
class RoomCreated(Event):
    """A room exists, and who may come in and see what was said before. Its other settings are said by a
    room_changed after it.
    """

    in_room = Said[str]("room")
    public = Said[bool]("public", True)
    history = Said[str]("history", "joined")
    title = Said[str]("title", "")


@dataclass(frozen=True, slots=True)
class RoomChanged(Event):
    """These settings of the room are so from here on; None is as it was."""

    in_room = Said[str]("room")
    title = Said[str | None]("title", None)
    topic = Said[str | None]("topic", None)
    public = Said[bool | None]("public", None)
    approval = Said[bool | None]("approval", None)
    history = Said[str | None]("history", None)
    writers = Said[str | None]("writers", None)
    slow_mode_s = Said[int | None]("slow_mode_s", None)
    members_max = Said[int | None]("members_max", None)


@dataclass(frozen=True, slots=True)
class RoomMuted(Event):
    """Nobody but admins and owners may send here until then; 0 ends it."""

    in_room = Said[str]("room")
    until_ms = Said[int]("until_ms")


@dataclass(frozen=True, slots=True)
class RoomDismissed(Event):
    """The room is no more: nothing follows this in its stream, and its name is never free again."""

    in_room = Said[str]("room")


@dataclass(frozen=True, slots=True)
class MemberJoined(Event):
    """From this position on, `whom` is a member."""

    in_room = Said[str]("room")
    whom = Said[int]("mid")
    role = Said[str]("role", "member")


@dataclass(frozen=True, slots=True)
class MemberLeft(Event):
    """From this position on, `whom` is no member: it left."""

    in_room = Said[str]("room")
    whom = Said[int]("mid")


@dataclass(frozen=True, slots=True)
class MemberRemoved(Event):
    """From this position on, `whom` is no member: somebody removed it."""

    in_room = Said[str]("room")
    whom = Said[int]("mid")


@dataclass(frozen=True, slots=True)
class MemberMuted(Event):
    """`whom` may not send here until then; 0 ends it."""

    in_room = Said[str]("room")
    whom = Said[int]("mid")
    until_ms = Said[int]("until_ms")


@dataclass(frozen=True, slots=True)
class RoleChanged(Event):
    """`whom` has this role in the room from here on."""

    in_room = Said[str]("room")
    whom = Said[int]("mid")
    role = Said[str]("role")


@dataclass(frozen=True, slots=True)
class MemberBanned(Event):
    """`whom` may not come in until then; 0 is for ever. A member was removed by the event before this one."""

    in_room = Said[str]("room")
    whom = Said[int]("mid")
    until_ms = Said[int]("until_ms", 0)
    reason = Said[str]("reason", "")


@dataclass(frozen=True, slots=True)
class MemberUnbanned(Event):
    """`whom` may come in again."""

    in_room = Said[str]("room")
    whom = Said[int]("mid")


@dataclass(frozen=True, slots=True)
class JoinRequested(Event):
    """`whom` asks to be let in. The answer is a join, or a rejection."""

    in_room = Said[str]("room")
    whom = Said[int]("mid")
    text = Said[str]("text", "")


@dataclass(frozen=True, slots=True)
class JoinRejected(Event):
    """`whom` asked to be let in, and is not."""

    in_room = Said[str]("room")
    whom = Said[int]("mid")


@dataclass(frozen=True, slots=True)
class MessageEdited(Event):
    """The message reads so from here on. `words` is what a message's body is: JSON, or with `format` a text or
    base64 of bytes.
    """

    in_room = Said[str]("room")
    target = Said[int]("target")
    words = Words()


@dataclass(frozen=True, slots=True)
class MessageRecalled(Event):
    """The message is to be shown no more. `author` is who had sent it; who recalled it is the event's own mid."""

    in_room = Said[str]("room")
    target = Said[int]("target")
    author = Said[int]("author")


@dataclass(frozen=True, slots=True)
class ReactionAdded(Event):
    """Whoever did this reacts to the message with `reaction`."""

    in_room = Said[str]("room")
    target = Said[int]("target")
    reaction = Said[str]("reaction")


@dataclass(frozen=True, slots=True)
class ReactionRemoved(Event):
    """Whoever did this reacts to the message with `reaction` no more."""

    in_room = Said[str]("room")
    target = Said[int]("target")
    reaction = Said[str]("reaction")


@dataclass(frozen=True, slots=True)
class MessagePinned(Event):
    """The message is among those that the room shows first."""

    in_room = Said[str]("room")
    target = Said[int]("target")


@dataclass(frozen=True, slots=True)
class MessageUnpinned(Event):
    """The message is no longer among those that the room shows first."""

    in_room = Said[str]("room")
    target = Said[int]("target")


@dataclass(frozen=True, slots=True)
class Invited(Event):
    """Whoever did this invites `whom`, whose stream this is, to the room. A join is the answer, or that it
    declines.
    """

    in_room = Said[str]("room")
    whom = Said[int]("mid")


@dataclass(frozen=True, slots=True)
class InvitationWithdrawn(Event):
    """The invitation of `whom` to the room is no more: somebody took it back."""

    in_room = Said[str]("room")
    whom = Said[int]("mid")


@dataclass(frozen=True, slots=True)
class InvitationDeclined(Event):
    """`whom` does not accept the invitation to the room."""

    in_room = Said[str]("room")
    whom = Said[int]("mid")


@dataclass(frozen=True, slots=True)
class PersonBlocked(Event):
    """`by`, whose stream this is, takes no direct messages of `whom` any more."""

    by = Said[int]("by")
    whom = Said[int]("mid")


@dataclass(frozen=True, slots=True)
class PersonUnblocked(Event):
    """`by`, whose stream this is, takes direct messages of `whom` again."""

    by = Said[int]("by")
    whom = Said[int]("mid")


@dataclass(frozen=True, slots=True)
class ReadMarked(Event):
    """`whom` has read the room up to `upto`.

    `messages` and `sent` say how many messages of the room, and how many of its own since it joined, that covers:
    facts of the log, taken when the mark was made, so that unread needs no counting.
    """

    in_room = Said[str]("room")
    whom = Said[int]("mid")
    upto = Said[int]("seq")
    messages = Said[int]("messages")
    sent = Said[int]("sent")


@dataclass(frozen=True, slots=True)
class VisibilityChosen(Event):
    """Who may see whether `whom` is online, of those who may at all: everybody, contacts (in a direct room where it
    said something), nobody.
    """

    whom = Said[int]("mid")
    choice = Said[str]("choice")


@dataclass(frozen=True, slots=True)
class AccountRegistered(Event):
    """There is an account. `login` is the name that it logs in with and `handle` what two names may not have in
    common; `credential` names the hash of its password, which is not in the log, and `code` the invitation code
    that let it in, if one did.
    """

    whom = Said[int]("mid")
    login = Said[str]("login")
    handle = Said[str]("handle")
    name = Said[str]("name")
    role = Said[str]("role", "user")
    active = Said[bool]("active")
    credential = Said[str]("credential")
    code = Said[str]("code")


@dataclass(frozen=True, slots=True)
class AccountActivated(Event):
    """The account may be used from here on."""

    whom = Said[int]("mid")


@dataclass(frozen=True, slots=True)
class ProfileChanged(Event):
    """This is how the person shows itself: all of it, and not only what changed."""

    whom = Said[int]("mid")
    name = Said[str]("name")
    avatar = Said[str]("avatar")
    extra = Said[Any]("extra")


@dataclass(frozen=True, slots=True)
class PasswordChanged(Event):
    """From here on the password is another one, whose hash `credential` names."""

    whom = Said[int]("mid")
    credential = Said[str]("credential")


@dataclass(frozen=True, slots=True)
class AccountSuspended(Event):
    """The account is not to be used, and every login of it has ended."""

    whom = Said[int]("mid")
    reason = Said[str]("reason")
    sids = Said[Sequence[str]]("sids")


@dataclass(frozen=True, slots=True)
class SuspensionLifted(Event):
    """The account may be used again, or, if it was never activated, waits for that again."""

    whom = Said[int]("mid")


@dataclass(frozen=True, slots=True)
class AccountDeactivated(Event):
    """The account was given up by whose it is: for good, and every login of it has ended."""

    whom = Said[int]("mid")
    sids = Said[Sequence[str]]("sids")


@dataclass(frozen=True, slots=True)
class PlatformRoleChanged(Event):
    """`whom` has this role on the whole server; what tokens before this say of it holds no more."""

    whom = Said[int]("mid")
    role = Said[str]("role")


@dataclass(frozen=True, slots=True)
class LoggedIn(Event):
    """A device logged in. `sid` names the login."""

    whom = Said[int]("mid")
    sid = Said[str]("sid")
    device = Said[str]("key")
    platform = Said[str]("platform")
    address = Said[str]("address")


@dataclass(frozen=True, slots=True)
class LoggedOut(Event):
    """These logins are over; `everywhere`: all that began before this."""

    whom = Said[int]("mid")
    sids = Said[Sequence[str]]("sids")
    everywhere = Said[bool]("everywhere")


@dataclass(frozen=True, slots=True)
class LoginExpired(Event):
    """This login is over, because it was not refreshed in time. It was so from that time on, and not only from
    here.
    """

    whom = Said[int]("mid")
    sid = Said[str]("sid")


@dataclass(frozen=True, slots=True)
class AttachmentStored(Event):
    """Whoever did this has stored a file for a room. Its bytes are not in the log; `sha256` is their digest, in
    hexadecimal.
    """

    in_room = Said[str]("room")
    which = Said[str]("id")
    name = Said[str]("name")
    media_type = Said[str]("media_type")
    size = Said[int]("size")
    sha256 = Said[str]("sha256")
    width = Said[int | None]("width", None)
    height = Said[int | None]("height", None)


@dataclass(frozen=True, slots=True)
class AttachmentRemoved(Event):
    """The file is there no more. In the stream of who had stored it; who removed it is the event's own mid."""

    in_room = Said[str]("room")
    which = Said[str]("id")


@dataclass(frozen=True, slots=True)
class RoomSwitched(Event):
    """The connection was told, and not by its own client, to leave the room that it has entered for this one, or
    for none. What it does is said by a rooms_entered.
    """

    device = Said[str]("key")
    opened = Said[int]("opened")
    in_room = Said[str]("room")


FACTS: Final[Mapping[str, type[Event]]] = {
    "room_created": RoomCreated,
    "room_changed": RoomChanged,
    "room_muted": RoomMuted,
    "room_dismissed": RoomDismissed,
    "member_joined": MemberJoined,
    "member_left": MemberLeft,
    "member_removed": MemberRemoved,
    "member_muted": MemberMuted,
    "role_changed": RoleChanged,
    "member_banned": MemberBanned,
    "member_unbanned": MemberUnbanned,
    "join_requested": JoinRequested,
    "join_rejected": JoinRejected,
    "message_edited": MessageEdited,
    "message_recalled": MessageRecalled,
    "reaction_added": ReactionAdded,
    "reaction_removed": ReactionRemoved,
    "message_pinned": MessagePinned,
    "message_unpinned": MessageUnpinned,
    "invited": Invited,
    "invitation_withdrawn": InvitationWithdrawn,
    "invitation_declined": InvitationDeclined,
    "person_blocked": PersonBlocked,
    "person_unblocked": PersonUnblocked,
    "read_marked": ReadMarked,
    "visibility_chosen": VisibilityChosen,
    "account_registered": AccountRegistered,
    "account_activated": AccountActivated,
    "profile_changed": ProfileChanged,
    "password_changed": PasswordChanged,
    "account_suspended": AccountSuspended,
    "suspension_lifted": SuspensionLifted,
    "account_deactivated": AccountDeactivated,
    "platform_role_changed": PlatformRoleChanged,
    "logged_in": LoggedIn,
    "logged_out": LoggedOut,
    "login_expired": LoginExpired,
    "attachment_stored": AttachmentStored,
    "attachment_removed": AttachmentRemoved,
    "room_switched": RoomSwitched,
}


__all__ = [
    "AccountActivated",
    "AccountDeactivated",
    "AccountRegistered",
    "AccountSuspended",
    "AttachmentRemoved",
    "AttachmentStored",
    "InvitationDeclined",
    "InvitationWithdrawn",
    "Invited",
    "JoinRejected",
    "JoinRequested",
    "LoggedIn",
    "LoggedOut",
    "LoginExpired",
    "MemberBanned",
    "MemberJoined",
    "MemberLeft",
    "MemberMuted",
    "MemberRemoved",
    "MemberUnbanned",
    "MessageEdited",
    "MessagePinned",
    "MessageRecalled",
    "MessageUnpinned",
    "PasswordChanged",
    "PersonBlocked",
    "PersonUnblocked",
    "PlatformRoleChanged",
    "ProfileChanged",
    "ReactionAdded",
    "ReactionRemoved",
    "ReadMarked",
    "RoleChanged",
    "RoomChanged",
    "RoomCreated",
    "RoomDismissed",
    "RoomMuted",
    "RoomSwitched",
    "SuspensionLifted",
    "VisibilityChosen",
]
