"""The verbs, typed: `await im.rooms.create(…)`, over a connection and over HTTP. Written by scripts/write-client; edit that.

From the one definition in imcore.verbs. Answers are read leniently: what an older client does not know is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal

from imcore.client.calls import Calls, Content, Download, Subject, Verb, given, maybe, new_id
from imcore.client.envelope import from_envelope
from imcore.client.events import Event

VERBS: Final[Mapping[str, Verb]] = {
    verb.name: verb
    for verb in (
        Verb("server.show", "GET", "/v1/server", is_open=True),
        Verb("rooms.create", "POST", "/v1/rooms"),
        Verb("rooms.show", "GET", "/v1/rooms/{room}"),
        Verb("rooms.change", "PATCH", "/v1/rooms/{room}"),
        Verb("rooms.dismiss", "DELETE", "/v1/rooms/{room}"),
        Verb("rooms.directory", "GET", "/v1/rooms"),
        Verb("inbox.list", "GET", "/v1/inbox"),
        Verb("rooms.read", "PUT", "/v1/rooms/{room}/read"),
        Verb("rooms.members", "GET", "/v1/rooms/{room}/members"),
        Verb("rooms.changes", "GET", "/v1/rooms/{room}/members/changes"),
        Verb("rooms.join", "POST", "/v1/rooms/{room}/join"),
        Verb("rooms.leave", "POST", "/v1/rooms/{room}/leave"),
        Verb("rooms.add", "POST", "/v1/rooms/{room}/members"),
        Verb("rooms.kick", "DELETE", "/v1/rooms/{room}/members/{mid}"),
        Verb("rooms.set_role", "PUT", "/v1/rooms/{room}/members/{mid}/role"),
        Verb("rooms.transfer", "PUT", "/v1/rooms/{room}/owner"),
        Verb("rooms.mute", "PUT", "/v1/rooms/{room}/members/{mid}/mute"),
        Verb("rooms.mute_all", "PUT", "/v1/rooms/{room}/mute"),
        Verb("rooms.ban", "PUT", "/v1/rooms/{room}/bans/{mid}"),
        Verb("rooms.unban", "DELETE", "/v1/rooms/{room}/bans/{mid}"),
        Verb("rooms.bans", "GET", "/v1/rooms/{room}/bans"),
        Verb("rooms.invite", "PUT", "/v1/rooms/{room}/invitations/{mid}"),
        Verb("rooms.uninvite", "DELETE", "/v1/rooms/{room}/invitations/{mid}"),
        Verb("rooms.invitations", "GET", "/v1/rooms/{room}/invitations"),
        Verb("rooms.accept", "POST", "/v1/rooms/{room}/invitation"),
        Verb("rooms.decline", "DELETE", "/v1/rooms/{room}/invitation"),
        Verb("invitations.mine", "GET", "/v1/invitations"),
        Verb("rooms.ask", "POST", "/v1/rooms/{room}/requests"),
        Verb("rooms.requests", "GET", "/v1/rooms/{room}/requests"),
        Verb("rooms.approve", "PUT", "/v1/rooms/{room}/requests/{mid}"),
        Verb("rooms.reject", "DELETE", "/v1/rooms/{room}/requests/{mid}"),
        Verb("direct.open", "PUT", "/v1/direct/{mid}"),
        Verb("blocks.add", "PUT", "/v1/blocks/{mid}"),
        Verb("blocks.remove", "DELETE", "/v1/blocks/{mid}"),
        Verb("blocks.list", "GET", "/v1/blocks"),
        Verb("sessions.list", "GET", "/v1/sessions"),
        Verb("rooms.enter", "POST", "/v1/sessions/{key}/room"),
        Verb("messages.send", "POST", "/v1/rooms/{room}/messages", has_id=True, says="room"),
        Verb("messages.history", "GET", "/v1/rooms/{room}/messages"),
        Verb("messages.show", "GET", "/v1/rooms/{room}/messages/{seq}"),
        Verb("messages.edit", "PUT", "/v1/rooms/{room}/messages/{seq}"),
        Verb("messages.recall", "DELETE", "/v1/rooms/{room}/messages/{seq}"),
        Verb("messages.thread", "GET", "/v1/rooms/{room}/messages/{seq}/thread"),
        Verb("messages.edits", "GET", "/v1/rooms/{room}/messages/{seq}/edits"),
        Verb("messages.forward", "POST", "/v1/rooms/{room}/messages/{seq}/forward", has_id=True, says="to"),
        Verb("mentions.list", "GET", "/v1/mentions"),
        Verb(
            "attachments.store",
            "POST",
            "/v1/rooms/{room}/attachments",
            doors=("http",),
            takes="application/octet-stream",
        ),
        Verb("attachments.list", "GET", "/v1/rooms/{room}/attachments"),
        Verb("attachments.show", "GET", "/v1/attachments/{id}/meta"),
        Verb("attachments.link", "POST", "/v1/attachments/{id}/link"),
        Verb(
            "attachments.fetch",
            "GET",
            "/v1/attachments/{id}",
            doors=("http",),
            is_open=True,
            gives="application/octet-stream",
        ),
        Verb("attachments.remove", "DELETE", "/v1/attachments/{id}"),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may be at most; see docs/configuration.md for each."""

    text_body_bytes: int
    http_body_bytes: int
    page_rows: int
    rooms_per_session: int
    rooms_per_user: int
    connections_per_user: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Limits:
        """From its JSON."""
        return cls(
            text_body_bytes=told["text_body_bytes"],
            http_body_bytes=told["http_body_bytes"],
            page_rows=told["page_rows"],
            rooms_per_session=told["rooms_per_session"],
            rooms_per_user=told["rooms_per_user"],
            connections_per_user=told["connections_per_user"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """This server."""

    name: str = "imcore"
    version: str
    # how it knows who somebody is: open, jwt, …
    auth_mode: str
    # types of rooms that have no members, only sessions in them
    live_room_types: Sequence[str]
    heartbeat_s: float
    limits: Limits
    # milliseconds since 1970
    time: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Server:
        """From its JSON."""
        return cls(
            name=told.get("name", "imcore"),
            version=told["version"],
            auth_mode=told["auth_mode"],
            live_room_types=told["live_room_types"],
            heartbeat_s=told["heartbeat_s"],
            limits=Limits.of(told["limits"]),
            time=told["time"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The room that was made, and where the last of what made it is."""

    position: int = 0
    seq: int = 0
    duplicate: bool = False
    unchanged: bool = False
    room: str

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Made:
        """From its JSON."""
        return cls(
            position=told.get("position", 0),
            seq=told.get("seq", 0),
            duplicate=told.get("duplicate", False),
            unchanged=told.get("unchanged", False),
            room=told["room"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Me:
    """One's own membership."""

    role: str
    since: int
    since_seq: int
    # milliseconds since 1970
    muted_until_ms: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Me:
        """From its JSON."""
        return cls(
            role=told["role"], since=told["since"], since_seq=told["since_seq"], muted_until_ms=told["muted_until_ms"]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a room is. A live room has `online`, and none of what hangs on members."""

    room: str
    live: bool
    public: bool
    history: str
    # seq of its last event
    head: int
    online: int = 0
    kind: str = "private"
    title: str = ""
    topic: str = ""
    approval: bool = False
    writers: str = "members"
    slow_mode_s: int = 0
    members_max: int = 0
    # only admins and owners send until then
    muted_until_ms: int = 0
    members: int = 0
    owners: Sequence[int] = ()
    created: int = 0
    creator: int = 0
    # where it ended: only services, moderators and admins see that it was
    dismissed: int = 0
    # what one is to it oneself: stranger, invited, muted, member, room_admin, owner
    standing: str = ""
    me: Me | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Shown:
        """From its JSON."""
        return cls(
            room=told["room"],
            live=told["live"],
            public=told["public"],
            history=told["history"],
            head=told["head"],
            online=told.get("online", 0),
            kind=told.get("kind", "private"),
            title=told.get("title", ""),
            topic=told.get("topic", ""),
            approval=told.get("approval", False),
            writers=told.get("writers", "members"),
            slow_mode_s=told.get("slow_mode_s", 0),
            members_max=told.get("members_max", 0),
            muted_until_ms=told.get("muted_until_ms", 0),
            members=told.get("members", 0),
            owners=told.get("owners", ()),
            created=told.get("created", 0),
            creator=told.get("creator", 0),
            dismissed=told.get("dismissed", 0),
            standing=told.get("standing", ""),
            me=maybe(Me.of, told.get("me")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in the log it happened: `position` in the whole log, `seq` in its conversation. `duplicate`: it had
    happened before; `unchanged`: it was so already, and nothing was stored.
    """

    position: int = 0
    seq: int = 0
    duplicate: bool = False
    unchanged: bool = False

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Place:
        """From its JSON."""
        return cls(
            position=told.get("position", 0),
            seq=told.get("seq", 0),
            duplicate=told.get("duplicate", False),
            unchanged=told.get("unchanged", False),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A line of the directory."""

    room: str
    title: str
    topic: str
    members: int
    approval: bool
    writers: str
    created: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Listed:
        """From its JSON."""
        return cls(
            room=told["room"],
            title=told["title"],
            topic=told["topic"],
            members=told["members"],
            approval=told["approval"],
            writers=told["writers"],
            created=told["created"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """A page of public rooms in order of name. `next`, if there is more, is the `after` of the next page."""

    rooms: Sequence[Listed]
    next: str = ""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Directory:
        """From its JSON."""
        return cls(rooms=[Listed.of(one) for one in told["rooms"]], next=told.get("next", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxRoom:
    """A room of the inbox: where it is, how far it was read, what is unread, and its newest message as an event, or
    null.
    """

    room: str
    head: int
    read: int
    unread: int
    # how many of the unread name the person, or everybody
    mentions: int
    role: str
    last: Mapping[str, Any] | None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> InboxRoom:
        """From its JSON."""
        return cls(
            room=told["room"],
            head=told["head"],
            read=told["read"],
            unread=told["unread"],
            mentions=told["mentions"],
            role=told["role"],
            last=told["last"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxPage:
    """A page of the inbox. `next`, if there is more, is the `after` of the next page."""

    rooms: Sequence[InboxRoom]
    next: str = ""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> InboxPage:
        """From its JSON."""
        return cls(rooms=[InboxRoom.of(one) for one in told["rooms"]], next=told.get("next", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """The mark in force, and what is unread after it."""

    room: str
    seq: int
    unread: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Marked:
        """From its JSON."""
        return cls(room=told["room"], seq=told["seq"], unread=told["unread"])


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberLine:
    """A member. `since` is the position of the join."""

    mid: int
    role: str
    since: int
    online: bool

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> MemberLine:
        """From its JSON."""
        return cls(mid=told["mid"], role=told["role"], since=told["since"], online=told["online"])


@dataclass(frozen=True, slots=True, kw_only=True)
class MembersPage:
    """A page of members. `version`, of the first page, is what `changes` is asked with later; `next`, if there is
    more, is the `after` of the next page.
    """

    room: str
    version: int
    members: Sequence[MemberLine]
    next: int = 0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> MembersPage:
        """From its JSON."""
        return cls(
            room=told["room"],
            version=told["version"],
            members=[MemberLine.of(one) for one in told["members"]],
            next=told.get("next", 0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedMember:
    """What became of somebody: a member with this role, or, with a role of null, no member any more."""

    position: int
    mid: int
    role: str | None
    since: int | None
    muted_until_ms: int | None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> ChangedMember:
        """From its JSON."""
        return cls(
            position=told["position"],
            mid=told["mid"],
            role=told["role"],
            since=told["since"],
            muted_until_ms=told["muted_until_ms"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What changed up to `version`. `reload`: too much did, and the list is to be read anew."""

    room: str
    version: int
    reload: bool
    changes: Sequence[ChangedMember]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Changes:
        """From its JSON."""
        return cls(
            room=told["room"],
            version=told["version"],
            reload=told["reload"],
            changes=[ChangedMember.of(one) for one in told["changes"]],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BanLine:
    """A ban. `until_ms` 0 is for ever."""

    mid: int
    by: int
    until_ms: int
    reason: str

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> BanLine:
        """From its JSON."""
        return cls(mid=told["mid"], by=told["by"], until_ms=told["until_ms"], reason=told["reason"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bans:
    """A page of bans, in order of mid. `next`, if there is more, is the `after` of the next page."""

    bans: Sequence[BanLine]
    next: int = 0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Bans:
        """From its JSON."""
        return cls(bans=[BanLine.of(one) for one in told["bans"]], next=told.get("next", 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class InvitationLine:
    """An open invitation."""

    mid: int
    by: int
    # milliseconds since 1970
    at_ms: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> InvitationLine:
        """From its JSON."""
        return cls(mid=told["mid"], by=told["by"], at_ms=told["at_ms"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitations:
    """A page of open invitations, in order of mid. `next`, if there is more, is the `after` of the next page."""

    invitations: Sequence[InvitationLine]
    next: int = 0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Invitations:
        """From its JSON."""
        return cls(invitations=[InvitationLine.of(one) for one in told["invitations"]], next=told.get("next", 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class InvitedTo:
    """A room that one is invited to, and by whom."""

    room: str
    title: str
    topic: str
    members: int
    by: int
    # milliseconds since 1970
    at_ms: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> InvitedTo:
        """From its JSON."""
        return cls(
            room=told["room"],
            title=told["title"],
            topic=told["topic"],
            members=told["members"],
            by=told["by"],
            at_ms=told["at_ms"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Invited:
    """A page of one's open invitations, in order of the rooms' names. `next`, if there is more, is the `after` of
    the next page.
    """

    invitations: Sequence[InvitedTo]
    next: str = ""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Invited:
        """From its JSON."""
        return cls(invitations=[InvitedTo.of(one) for one in told["invitations"]], next=told.get("next", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLine:
    """Somebody who wants to be let in."""

    mid: int
    text: str
    # milliseconds since 1970
    at_ms: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> RequestLine:
        """From its JSON."""
        return cls(mid=told["mid"], text=told["text"], at_ms=told["at_ms"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """A page of open requests, in order of mid. `next`, if there is more, is the `after` of the next page."""

    requests: Sequence[RequestLine]
    next: int = 0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Requests:
        """From its JSON."""
        return cls(requests=[RequestLine.of(one) for one in told["requests"]], next=told.get("next", 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The room of the two, and where one came into it."""

    position: int = 0
    seq: int = 0
    duplicate: bool = False
    unchanged: bool = False
    room: str

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Opened:
        """From its JSON."""
        return cls(
            position=told.get("position", 0),
            seq=told.get("seq", 0),
            duplicate=told.get("duplicate", False),
            unchanged=told.get("unchanged", False),
            room=told["room"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedLine:
    """Somebody who is blocked."""

    mid: int
    # milliseconds since 1970
    at_ms: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> BlockedLine:
        """From its JSON."""
        return cls(mid=told["mid"], at_ms=told["at_ms"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A page of those who are blocked, in order of mid. `next`, if there is more, is the `after` of the next page."""

    blocks: Sequence[BlockedLine]
    next: int = 0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Blocks:
        """From its JSON."""
        return cls(blocks=[BlockedLine.of(one) for one in told["blocks"]], next=told.get("next", 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLine:
    """An open connection. `rooms` are the live rooms that it is in, and the room entered."""

    mid: int
    key: str
    platform: str
    rooms: Sequence[str]
    node: str
    address: str
    # milliseconds since 1970
    opened_at_ms: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> SessionLine:
        """From its JSON."""
        return cls(
            mid=told["mid"],
            key=told["key"],
            platform=told["platform"],
            rooms=told["rooms"],
            node=told["node"],
            address=told["address"],
            opened_at_ms=told["opened_at_ms"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Open connections, in the order in which people were asked for."""

    sessions: Sequence[SessionLine]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Sessions:
        """From its JSON."""
        return cls(sessions=[SessionLine.of(one) for one in told["sessions"]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Events of a room in order of seq. `head` is its last; `more` and `more_after` say that there are others
    beyond the page.
    """

    room: str
    events: Sequence[Event]
    head: int
    more: bool
    more_after: bool = False

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Events:
        """From its JSON."""
        return cls(
            room=told["room"],
            events=[from_envelope(one) for one in told["events"]],
            head=told["head"],
            more=told["more"],
            more_after=told.get("more_after", False),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """Messages of a thread in order; with `next`, ask again with `after=next`."""

    room: str
    thread: int
    events: Sequence[Event]
    next: int | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Thread:
        """From its JSON."""
        return cls(
            room=told["room"],
            thread=told["thread"],
            events=[from_envelope(one) for one in told["events"]],
            next=told.get("next"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """A message as it was sent, and its edits in order; with `next`, ask again with `after=next`."""

    message: Event
    edits: Sequence[Event]
    next: int | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Edits:
        """From its JSON."""
        return cls(
            message=from_envelope(told["message"]),
            edits=[from_envelope(one) for one in told["edits"]],
            next=told.get("next"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mentions:
    """Messages that name somebody, newest first; with `next`, ask again with `after=next`."""

    mentions: Sequence[Event]
    next: int | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Mentions:
        """From its JSON."""
        return cls(mentions=[from_envelope(one) for one in told["mentions"]], next=told.get("next"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file of a room. Whoever writes a message about it puts the `id` into the message's body."""

    id: str
    room: str
    # who stored it; 0 is a service
    mid: int
    name: str
    media_type: str
    # in bytes
    size: int
    # of the bytes, in hexadecimal
    sha256: str
    # in pixels, of pictures that say so
    width: int | None = None
    height: int | None = None
    position: int
    # milliseconds since 1970
    stored_at: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Attachment:
        """From its JSON."""
        return cls(
            id=told["id"],
            room=told["room"],
            mid=told["mid"],
            name=told["name"],
            media_type=told["media_type"],
            size=told["size"],
            sha256=told["sha256"],
            width=told.get("width"),
            height=told.get("height"),
            position=told["position"],
            stored_at=told["stored_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Files, the newest first. `next` is there if there are more: the `after` of the next page."""

    attachments: Sequence[Attachment]
    next: int = 0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Page:
        """From its JSON."""
        return cls(attachments=[Attachment.of(one) for one in told["attachments"]], next=told.get("next", 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link that is good until `expires`. `url` begins with /: it goes on from the address of the HTTP API."""

    url: str
    # seconds since 1970
    expires: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Link:
        """From its JSON."""
        return cls(url=told["url"], expires=told["expires"])


class ServerVerbs(Subject):
    """The verbs of server."""

    __slots__ = ()

    async def show(self) -> Server:
        """What this server is: version, mode of authentication, limits, and its clock."""
        return Server.of(await self._calls.perform(VERBS["server.show"], {}))


class RoomsVerbs(Subject):
    """The verbs of rooms."""

    __slots__ = ()

    async def create(
        self,
        room: str,
        *,
        title: str | None = None,
        topic: str | None = None,
        kind: Literal["private", "public", "announcement"] | None = None,
        public: bool | None = None,
        approval: bool | None = None,
        history: Literal["joined", "all"] | None = None,
        writers: Literal["members", "admins"] | None = None,
        slow_mode_s: int | None = None,
        members_max: int | None = None,
        members: Sequence[int] = (),
        retry: bool = False,
    ) -> Made:
        """Make a room.

        Whoever makes it owns it; a service makes rooms without an owner. The members come in with it.

        - `kind`: private: who is added or invited comes in. public: anybody joins. announcement: public, and only
          admins write. A word for the settings public and writers, which win over it.
        - `approval`: who wants to join asks, and an admin lets it in
        - `history`: what members see of the time before their join: nothing (joined), or all of it
        - `slow_mode_s`: a member sends once in so long
        - `members_max`: 0 is no limit

        Raises RoomExists, Forbidden.
        """
        return Made.of(
            await self._calls.perform(
                VERBS["rooms.create"],
                given(
                    {
                        "title": title,
                        "topic": topic,
                        "kind": kind,
                        "public": public,
                        "approval": approval,
                        "history": history,
                        "writers": writers,
                        "slow_mode_s": slow_mode_s,
                        "members_max": members_max,
                        "room": room,
                        "members": members,
                    },
                    {
                        "title": None,
                        "topic": None,
                        "kind": None,
                        "public": None,
                        "approval": None,
                        "history": None,
                        "writers": None,
                        "slow_mode_s": None,
                        "members_max": None,
                        "members": (),
                    },
                ),
                retry=retry,
            )
        )

    async def show(self, room: str) -> Shown:
        """What a room is: to its members, to who is invited, to services, and if it is public to whoever may enter.

        Raises NoSuchRoom, Forbidden.
        """
        return Shown.of(await self._calls.perform(VERBS["rooms.show"], {"room": room}))

    async def change(
        self,
        room: str,
        *,
        title: str | None = None,
        topic: str | None = None,
        kind: Literal["private", "public", "announcement"] | None = None,
        public: bool | None = None,
        approval: bool | None = None,
        history: Literal["joined", "all"] | None = None,
        writers: Literal["members", "admins"] | None = None,
        slow_mode_s: int | None = None,
        members_max: int | None = None,
        retry: bool = False,
    ) -> Place:
        """Change what a room is called, who comes in, who writes and how often, and how many may be in it.

        What is left out stays as it is.

        - `kind`: private: who is added or invited comes in. public: anybody joins. announcement: public, and only
          admins write. A word for the settings public and writers, which win over it.
        - `approval`: who wants to join asks, and an admin lets it in
        - `history`: what members see of the time before their join: nothing (joined), or all of it
        - `slow_mode_s`: a member sends once in so long
        - `members_max`: 0 is no limit

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(
            await self._calls.perform(
                VERBS["rooms.change"],
                given(
                    {
                        "title": title,
                        "topic": topic,
                        "kind": kind,
                        "public": public,
                        "approval": approval,
                        "history": history,
                        "writers": writers,
                        "slow_mode_s": slow_mode_s,
                        "members_max": members_max,
                        "room": room,
                    },
                    {
                        "title": None,
                        "topic": None,
                        "kind": None,
                        "public": None,
                        "approval": None,
                        "history": None,
                        "writers": None,
                        "slow_mode_s": None,
                        "members_max": None,
                    },
                ),
                retry=retry,
            )
        )

    async def dismiss(self, room: str) -> Place:
        """End a room, for everybody and for good: its name is never free again.

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["rooms.dismiss"], {"room": room}))

    async def directory(self, *, search: str = "", after: str = "", limit: int = 50) -> Directory:
        """The public rooms that one may enter, in order of name.

        - `search`: is somewhere in the title, or begins the name
        """
        return Directory.of(
            await self._calls.perform(
                VERBS["rooms.directory"],
                given({"search": search, "after": after, "limit": limit}, {"search": "", "after": "", "limit": 50}),
            )
        )

    async def read(self, room: str, *, seq: int) -> Marked:
        """Move one's read mark on. It never goes back, and nobody reads for somebody else.

        Raises NoSuchRoom, Unavailable.
        """
        return Marked.of(await self._calls.perform(VERBS["rooms.read"], {"room": room, "seq": seq}))

    async def members(self, room: str, *, after: int | None = None, limit: int = 100) -> MembersPage:
        """The members of a room in order of mid, and who of them is online.

        Raises NoSuchRoom.
        """
        return MembersPage.of(
            await self._calls.perform(
                VERBS["rooms.members"],
                given({"room": room, "after": after, "limit": limit}, {"after": None, "limit": 100}),
            )
        )

    async def changes(self, room: str, *, after: int, limit: int = 500) -> Changes:
        """What changed in the list of members since a version of it: each person once, as it is now.

        - `after`: the version that one has

        Raises NoSuchRoom.
        """
        return Changes.of(
            await self._calls.perform(
                VERBS["rooms.changes"], given({"room": room, "after": after, "limit": limit}, {"limit": 500})
            )
        )

    async def join(self, room: str, *, mid: int | None = None, retry: bool = False) -> Place:
        """Come in by oneself: into a public room, or where one is invited. Joining again changes nothing.

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(
            await self._calls.perform(
                VERBS["rooms.join"], given({"room": room, "mid": mid}, {"mid": None}), retry=retry
            )
        )

    async def leave(self, room: str, *, mid: int | None = None, retry: bool = False) -> Place:
        """Go out by oneself.

        The last owner cannot, as long as others are in the room: it makes somebody else owner first, or dismisses
        the room.

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(
            await self._calls.perform(
                VERBS["rooms.leave"], given({"room": room, "mid": mid}, {"mid": None}), retry=retry
            )
        )

    async def add(
        self, room: str, *, mid: int, role: Literal["owner", "admin", "member"] = "member", retry: bool = False
    ) -> Place:
        """Bring somebody in, as a member or with a role below one's own.

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(
            await self._calls.perform(
                VERBS["rooms.add"], given({"room": room, "mid": mid, "role": role}, {"role": "member"}), retry=retry
            )
        )

    async def kick(self, room: str, mid: int) -> Place:
        """Take somebody of lower rank out of the room. Nothing keeps it from coming back: see bans.

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["rooms.kick"], {"room": room, "mid": mid}))

    async def set_role(self, room: str, mid: int, *, role: Literal["owner", "admin", "member"]) -> Place:
        """Change what somebody of lower rank is, to a role below one's own. Ownership is given away with
        rooms.transfer.

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["rooms.set_role"], {"room": room, "mid": mid, "role": role}))

    async def transfer(self, room: str, *, mid: int) -> Place:
        """Make a member the owner of the room. Whoever owned it is an admin then; of several owners, a person gives
        away its own.

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["rooms.transfer"], {"room": room, "mid": mid}))

    async def mute(self, room: str, mid: int, *, until_ms: int) -> Place:
        """Keep somebody of lower rank from sending for a while.

        - `until_ms`: milliseconds since 1970; 0 ends it

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(
            await self._calls.perform(VERBS["rooms.mute"], {"room": room, "mid": mid, "until_ms": until_ms})
        )

    async def mute_all(self, room: str, *, until_ms: int) -> Place:
        """Keep everybody but admins and owners from sending for a while.

        - `until_ms`: milliseconds since 1970; 0 ends it

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["rooms.mute_all"], {"room": room, "until_ms": until_ms}))

    async def ban(self, room: str, mid: int, *, until_ms: int = 0, reason: str = "") -> Place:
        """Keep somebody out of the room, for a while or for ever. A member is taken out by it; its invitation ends,
        too.

        - `until_ms`: milliseconds since 1970; 0 is for ever

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(
            await self._calls.perform(
                VERBS["rooms.ban"],
                given(
                    {"room": room, "mid": mid, "until_ms": until_ms, "reason": reason}, {"until_ms": 0, "reason": ""}
                ),
            )
        )

    async def unban(self, room: str, mid: int) -> Place:
        """Let somebody come in again.

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["rooms.unban"], {"room": room, "mid": mid}))

    async def bans(self, room: str, *, after: int | None = None, limit: int = 100) -> Bans:
        """Who may not come in, until when, and why.

        Raises NoSuchRoom, Forbidden.
        """
        return Bans.of(
            await self._calls.perform(
                VERBS["rooms.bans"],
                given({"room": room, "after": after, "limit": limit}, {"after": None, "limit": 100}),
            )
        )

    async def invite(self, room: str, mid: int) -> Place:
        """Invite somebody, who is told on every device, and comes in by accepting.

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["rooms.invite"], {"room": room, "mid": mid}))

    async def uninvite(self, room: str, mid: int) -> Place:
        """Take an invitation back.

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["rooms.uninvite"], {"room": room, "mid": mid}))

    async def invitations(self, room: str, *, after: int | None = None, limit: int = 100) -> Invitations:
        """Who is invited and has not answered.

        Raises NoSuchRoom, Forbidden.
        """
        return Invitations.of(
            await self._calls.perform(
                VERBS["rooms.invitations"],
                given({"room": room, "after": after, "limit": limit}, {"after": None, "limit": 100}),
            )
        )

    async def accept(self, room: str, *, mid: int | None = None, retry: bool = False) -> Place:
        """Come in where one is invited. Accepting again changes nothing.

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(
            await self._calls.perform(
                VERBS["rooms.accept"], given({"room": room, "mid": mid}, {"mid": None}), retry=retry
            )
        )

    async def decline(self, room: str, *, mid: int | None = None) -> Place:
        """Do not come in where one is invited.

        Raises NoSuchRoom.
        """
        return Place.of(
            await self._calls.perform(VERBS["rooms.decline"], given({"room": room, "mid": mid}, {"mid": None}))
        )

    async def ask(self, room: str, *, text: str = "", mid: int | None = None, retry: bool = False) -> Place:
        """Ask to be let into a room whose members are approved. Its members see what one says.

        - `mid`: for whom; a person leaves it out

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(
            await self._calls.perform(
                VERBS["rooms.ask"],
                given({"room": room, "text": text, "mid": mid}, {"text": "", "mid": None}),
                retry=retry,
            )
        )

    async def requests(self, room: str, *, after: int | None = None, limit: int = 100) -> Requests:
        """Who asks to be let in.

        Raises NoSuchRoom, Forbidden.
        """
        return Requests.of(
            await self._calls.perform(
                VERBS["rooms.requests"],
                given({"room": room, "after": after, "limit": limit}, {"after": None, "limit": 100}),
            )
        )

    async def approve(self, room: str, mid: int) -> Place:
        """Let somebody in who asked for it.

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["rooms.approve"], {"room": room, "mid": mid}))

    async def reject(self, room: str, mid: int) -> Place:
        """Do not let somebody in who asked for it.

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["rooms.reject"], {"room": room, "mid": mid}))

    async def enter(self, key: str, *, room: str = "", mid: int | None = None, retry: bool = False) -> Place:
        """Have one of one's connections leave the room that it has entered for another, as operation 12 over it
        would.

        Answered when its comet is told; the connection moves a moment later. A room with members is joined, if need
        be.

        - `room`: a room, or nothing: then it only leaves the one that it has entered
        - `mid`: whose connection it is; a person leaves it out

        Raises NoSuchRoom, Forbidden.
        """
        return Place.of(
            await self._calls.perform(
                VERBS["rooms.enter"],
                given({"key": key, "room": room, "mid": mid}, {"room": "", "mid": None}),
                retry=retry,
            )
        )


class InboxVerbs(Subject):
    """The verbs of inbox."""

    __slots__ = ()

    async def list(self, *, mid: int | None = None, after: str = "", limit: int = 100) -> InboxPage:
        """One's rooms in order of name, with what is unread in each and its newest message.

        Raises Unavailable, Forbidden.
        """
        return InboxPage.of(
            await self._calls.perform(
                VERBS["inbox.list"],
                given({"mid": mid, "after": after, "limit": limit}, {"mid": None, "after": "", "limit": 100}),
            )
        )


class InvitationsVerbs(Subject):
    """The verbs of invitations."""

    __slots__ = ()

    async def mine(self, *, mid: int | None = None, after: str = "", limit: int = 100) -> Invited:
        """The rooms that one is invited to.

        Raises Forbidden.
        """
        return Invited.of(
            await self._calls.perform(
                VERBS["invitations.mine"],
                given({"mid": mid, "after": after, "limit": limit}, {"mid": None, "after": "", "limit": 100}),
            )
        )


class DirectVerbs(Subject):
    """The verbs of direct."""

    __slots__ = ()

    async def open(self, mid: int, *, of: int | None = None) -> Opened:
        """The direct conversation with somebody: one room for the two of them, whoever opens it, and however often.

        - `of`: for whom a service acts; a person leaves it out

        Raises Forbidden.
        """
        return Opened.of(await self._calls.perform(VERBS["direct.open"], given({"mid": mid, "of": of}, {"of": None})))


class BlocksVerbs(Subject):
    """The verbs of blocks."""

    __slots__ = ()

    async def add(self, mid: int, *, of: int | None = None) -> Place:
        """Take no direct messages of somebody any more. That person learns of it when it sends one.

        - `of`: for whom a service acts; a person leaves it out

        Raises Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["blocks.add"], given({"mid": mid, "of": of}, {"of": None})))

    async def remove(self, mid: int, *, of: int | None = None) -> Place:
        """Take direct messages of somebody again.

        - `of`: for whom a service acts; a person leaves it out

        Raises Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["blocks.remove"], given({"mid": mid, "of": of}, {"of": None})))

    async def list(self, *, of: int | None = None, after: int | None = None, limit: int = 100) -> Blocks:
        """Whose direct messages one does not take.

        - `of`: for whom a service acts; a person leaves it out

        Raises Forbidden.
        """
        return Blocks.of(
            await self._calls.perform(
                VERBS["blocks.list"],
                given({"of": of, "after": after, "limit": limit}, {"of": None, "after": None, "limit": 100}),
            )
        )


class SessionsVerbs(Subject):
    """The verbs of sessions."""

    __slots__ = ()

    async def list(self, *, mid: Sequence[int] = ()) -> Sessions:
        """Who is online, and where: oneself, or the people that are named by who may ask for others.

        Raises Forbidden.
        """
        return Sessions.of(await self._calls.perform(VERBS["sessions.list"], given({"mid": mid}, {"mid": ()})))


class MessagesVerbs(Subject):
    """The verbs of messages."""

    __slots__ = ()

    async def send(
        self,
        room: str,
        *,
        id: str | None = None,
        body: object,
        op: int = 1000,
        mid: int | None = None,
        reply_to: int | None = None,
        thread: int | None = None,
        mentions: Sequence[int] | Literal["all"] | None = None,
        format: Literal["json", "text", "base64"] = "json",
    ) -> Place:
        """Store a message in the room and deliver it.

        As whoever asks, or for a service as the member that it names, or in its own name. It may answer a message
        (`reply_to`) and be part of a thread (`thread`: the seq of its first message), both of them messages of the
        room that its sender sees; it may name people of the room, or "all". The same `id` again, for the same
        message, is answered with its first place.

        - `op`: under which clients of version 1 get it
        - `format`: text and base64: the body is a string that means text or bytes

        Raises NoSuchRoom, NoSuchMessage, Forbidden, IdConflict, TooLarge.
        """
        return Place.of(
            await self._calls.perform(
                VERBS["messages.send"],
                given(
                    {
                        "room": room,
                        "id": id or new_id(),
                        "body": body,
                        "op": op,
                        "mid": mid,
                        "reply_to": reply_to,
                        "thread": thread,
                        "mentions": mentions,
                        "format": format,
                    },
                    {"op": 1000, "mid": None, "reply_to": None, "thread": None, "mentions": None, "format": "json"},
                ),
            )
        )

    async def history(
        self,
        room: str,
        *,
        before: int | None = None,
        after: int | None = None,
        around: int | None = None,
        limit: int = 50,
    ) -> Events:
        """A page of what happened in the room, in order of seq.

        The last events before a seq, the first after one, those around one, or the newest; messages as they read
        now. What was said before one joined is there only in rooms that show it.

        Raises NoSuchRoom.
        """
        return Events.of(
            await self._calls.perform(
                VERBS["messages.history"],
                given(
                    {"room": room, "before": before, "after": after, "around": around, "limit": limit},
                    {"before": None, "after": None, "around": None, "limit": 50},
                ),
            )
        )

    async def show(self, room: str, seq: int) -> Event:
        """One message, as it reads now.

        Raises NoSuchRoom, NoSuchMessage.
        """
        return from_envelope(await self._calls.perform(VERBS["messages.show"], {"room": room, "seq": seq}))

    async def edit(
        self, room: str, seq: int, *, body: object, format: Literal["json", "text", "base64"] = "json"
    ) -> Place:
        """Let one's own message read otherwise.

        From here on it is read so, and everybody in the room is told; what it said before stays in its history.
        Whom it names does not change. The same words again change nothing (`unchanged`). The server may set a time
        for it (`edit_within_s`).

        - `format`: text and base64: the body is a string that means text or bytes

        Raises NoSuchRoom, NoSuchMessage, Forbidden, TooLarge.
        """
        return Place.of(
            await self._calls.perform(
                VERBS["messages.edit"],
                given({"room": room, "seq": seq, "body": body, "format": format}, {"format": "json"}),
            )
        )

    async def recall(self, room: str, seq: int) -> Place:
        """Take a message back: from here on nobody is told what it said.

        Its place stays, without words. One's own within a time (`recall_within_s`); admins and the owner of the
        room those of whoever is below them, at any time; moderators and admins of the server any, which is audited.
        A second time changes nothing (`unchanged`).

        Raises NoSuchRoom, NoSuchMessage, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["messages.recall"], {"room": room, "seq": seq}))

    async def thread(self, room: str, seq: int, *, after: int = 0, limit: int = 50) -> Thread:
        """A page of the messages of a thread, in order of seq, as they read now; without the first, which began it.

        Raises NoSuchRoom, NoSuchMessage.
        """
        return Thread.of(
            await self._calls.perform(
                VERBS["messages.thread"],
                given({"room": room, "seq": seq, "after": after, "limit": limit}, {"after": 0, "limit": 50}),
            )
        )

    async def edits(self, room: str, seq: int, *, after: int = 0, limit: int = 50) -> Edits:
        """A message as it was sent, and a page of its edits in order. Of one that was recalled nobody is told the
        words.

        Raises NoSuchRoom, NoSuchMessage.
        """
        return Edits.of(
            await self._calls.perform(
                VERBS["messages.edits"],
                given({"room": room, "seq": seq, "after": after, "limit": limit}, {"after": 0, "limit": 50}),
            )
        )

    async def forward(self, room: str, seq: int, *, to: str, id: str | None = None, op: int | None = None) -> Place:
        """Say in another room what was said in this one.

        The words are copied as they read now, and `about.forwarded` says from where. It takes to see the one and to
        be able to send in the other. Whom the message named it does not name again.

        Raises NoSuchRoom, NoSuchMessage, Forbidden, IdConflict.
        """
        return Place.of(
            await self._calls.perform(
                VERBS["messages.forward"],
                given({"room": room, "seq": seq, "to": to, "id": id or new_id(), "op": op}, {"op": None}),
            )
        )


class MentionsVerbs(Subject):
    """The verbs of mentions."""

    __slots__ = ()

    async def list(
        self, *, unread: bool = False, after: int | None = None, limit: int = 50, mid: int | None = None
    ) -> Mentions:
        """A page of the messages that name one, or all of a room that one is in, newest first.

        Without one's own, those that were recalled, and those from before one joined; with `unread`, only those
        after the read marks.

        Raises Forbidden.
        """
        return Mentions.of(
            await self._calls.perform(
                VERBS["mentions.list"],
                given(
                    {"unread": unread, "after": after, "limit": limit, "mid": mid},
                    {"unread": False, "after": None, "limit": 50, "mid": None},
                ),
            )
        )


class AttachmentsVerbs(Subject):
    """The verbs of attachments."""

    __slots__ = ()

    async def store(
        self, room: str, content: Content, *, name: str, media_type: str = "application/octet-stream"
    ) -> Attachment:
        """Store a file for a room: its bytes are the body, its media type the header Content-Type (or media_type).

        Whoever may send in the room may. When it is answered the bytes are on disk. What the bytes are is looked
        at: a picture that is none is refused, and application/octet-stream is recognized. The limits are those of
        the server: size, types, time, bytes in a day.

        Raises NoSuchRoom, Forbidden, Muted, TooLarge, WrongType, UploadTimeout, StoreUnavailable.
        """
        return Attachment.of(
            await self._calls.upload(VERBS["attachments.store"], {"room": room, "name": name}, content, media_type)
        )

    async def list(self, room: str, *, after: int | None = None, limit: int = 50) -> Page:
        """The files of a room that one may see, the newest first.

        Raises NoSuchRoom.
        """
        return Page.of(
            await self._calls.perform(
                VERBS["attachments.list"],
                given({"room": room, "after": after, "limit": limit}, {"after": None, "limit": 50}),
            )
        )

    async def show(self, id: str) -> Attachment:
        """What a file is, without its bytes.

        Raises NoSuchAttachment.
        """
        return Attachment.of(await self._calls.perform(VERBS["attachments.show"], {"id": id}))

    async def link(self, id: str, *, seconds: int | None = None, for_me: bool = False, retry: bool = False) -> Link:
        """A link to a file that needs no token, and ends by itself.

        Whoever gets it may fetch the file until then; nobody can take it back, but by removing the file. With
        for_me it is good only with a token of the same person, and only while that is a member of the room.

        - `seconds`: at most attachment_link_s
        - `for_me`: only with a token of the same person, and only while it is a member

        Raises NoSuchAttachment.
        """
        return Link.of(
            await self._calls.perform(
                VERBS["attachments.link"],
                given({"id": id, "seconds": seconds, "for_me": for_me}, {"seconds": None, "for_me": False}),
                retry=retry,
            )
        )

    def fetch(
        self, id: str, *, expires: int, signature: str, mid: int | None = None
    ) -> AbstractAsyncContextManager[Download]:
        """The bytes of a file, by a link of attachments.link. The link is the right: a token is needed only where
        the link names a member.

        One range is answered with 206; ETag and If-None-Match say when nothing is new (304). Only pictures, sound,
        films and plain text are given to be shown; everything else is offered for saving, and no browser runs any
        of it.

        - `expires`: seconds since 1970

        Raises NoSuchAttachment, Forbidden, StoreUnavailable.
        """
        return self._calls.download(
            VERBS["attachments.fetch"],
            given({"id": id, "expires": expires, "mid": mid, "signature": signature}, {"mid": None}),
        )

    async def remove(self, id: str) -> Place:
        """Remove a file: one's own, one of somebody below in the room, or as a moderator any. Its bytes go, and
        links to it lead nowhere.

        That it was stored and removed stays in the log.

        Raises NoSuchAttachment, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["attachments.remove"], {"id": id}))


class Subjects(Calls):
    """Every verb, by subject, over whatever carries calls."""

    @property
    def server(self) -> ServerVerbs:
        """The verbs of server."""
        return ServerVerbs(self)

    @property
    def rooms(self) -> RoomsVerbs:
        """The verbs of rooms."""
        return RoomsVerbs(self)

    @property
    def inbox_(self) -> InboxVerbs:
        """The verbs of inbox."""
        return InboxVerbs(self)

    @property
    def invitations(self) -> InvitationsVerbs:
        """The verbs of invitations."""
        return InvitationsVerbs(self)

    @property
    def direct(self) -> DirectVerbs:
        """The verbs of direct."""
        return DirectVerbs(self)

    @property
    def blocks(self) -> BlocksVerbs:
        """The verbs of blocks."""
        return BlocksVerbs(self)

    @property
    def sessions(self) -> SessionsVerbs:
        """The verbs of sessions."""
        return SessionsVerbs(self)

    @property
    def messages(self) -> MessagesVerbs:
        """The verbs of messages."""
        return MessagesVerbs(self)

    @property
    def mentions(self) -> MentionsVerbs:
        """The verbs of mentions."""
        return MentionsVerbs(self)

    @property
    def attachments(self) -> AttachmentsVerbs:
        """The verbs of attachments."""
        return AttachmentsVerbs(self)
