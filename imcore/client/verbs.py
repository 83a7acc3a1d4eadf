"""The verbs, typed: `await im.rooms.create(…)`, over a connection and over HTTP. Written by scripts/write-client; edit that.

From the one definition in imcore.verbs. Answers are read leniently: what an older client does not know is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from imcore.client.calls import Calls, Content, Download, Subject, Verb, given, maybe, new_id
from imcore.client.envelope import from_envelope
from imcore.client.events import Event

VERBS: Final[Mapping[str, Verb]] = {
    verb.name: verb
    for verb in (
        Verb("server.show", "GET", "/v1/server", is_open=True),
        Verb("accounts.register", "POST", "/v1/accounts", is_open=True),
        Verb("accounts.send_code", "POST", "/v1/accounts/activation", is_open=True, has_secrets=True),
        Verb("accounts.activate", "POST", "/v1/accounts/{mid}/activation", is_open=True),
        Verb("accounts.login", "POST", "/v1/login", doors=("http",), is_open=True),
        Verb("accounts.refresh", "POST", "/v1/refresh", doors=("http",), is_open=True),
        Verb("accounts.guest", "POST", "/v1/guests", doors=("http",), is_open=True),
        Verb("accounts.logout", "POST", "/v1/logout"),
        Verb("accounts.ticket", "POST", "/v1/tickets", doors=("http",), has_secrets=True),
        Verb("account.renew", "POST", "/v1/account/renewal", doors=("connection",), has_secrets=True),
        Verb("account.show", "GET", "/v1/account"),
        Verb("account.change", "PATCH", "/v1/account"),
        Verb("account.password", "PUT", "/v1/account/password", doors=("http",), has_secrets=True),
        Verb("account.deactivate", "DELETE", "/v1/account", has_secrets=True),
        Verb("accounts.profile", "GET", "/v1/people/{mid}"),
        Verb("devices.list", "GET", "/v1/devices"),
        Verb("devices.remove", "DELETE", "/v1/devices/{key}"),
        Verb("accounts.list", "GET", "/v1/accounts"),
        Verb("accounts.suspend", "PUT", "/v1/accounts/{mid}/suspension"),
        Verb("accounts.restore", "DELETE", "/v1/accounts/{mid}/suspension"),
        Verb("accounts.set_role", "PUT", "/v1/accounts/{mid}/role"),
        Verb("codes.create", "POST", "/v1/codes", has_secrets=True),
        Verb("audit.list", "GET", "/v1/audit"),
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
        Verb("attachments.link", "POST", "/v1/attachments/{id}/link", has_secrets=True),
        Verb("attachments.fetch", "GET", "/v1/attachments/{id}", doors=("http",), is_open=True, gives="*/*"),
        Verb("attachments.remove", "DELETE", "/v1/attachments/{id}"),
        Verb("reactions.add", "PUT", "/v1/rooms/{room}/messages/{seq}/reactions/{reaction}"),
        Verb("reactions.remove", "DELETE", "/v1/rooms/{room}/messages/{seq}/reactions/{reaction}"),
        Verb("reactions.list", "GET", "/v1/rooms/{room}/messages/{seq}/reactions"),
        Verb("pins.add", "PUT", "/v1/rooms/{room}/pins/{seq}"),
        Verb("pins.remove", "DELETE", "/v1/rooms/{room}/pins/{seq}"),
        Verb("pins.list", "GET", "/v1/rooms/{room}/pins"),
        Verb("receipts.list", "GET", "/v1/rooms/{room}/messages/{seq}/receipts"),
        Verb("messages.search", "GET", "/v1/search"),
        Verb("presence.of", "GET", "/v1/presence"),
        Verb("presence.room", "GET", "/v1/rooms/{room}/presence"),
        Verb("presence.show", "PUT", "/v1/presence"),
        Verb("presence.watch", "POST", "/v1/presence/watch", doors=("connection",)),
        Verb("presence.unwatch", "DELETE", "/v1/presence/watch", doors=("connection",)),
        Verb("rooms.typing", "POST", "/v1/rooms/{room}/typing", is_passing=True),
        Verb("rooms.signal", "POST", "/v1/rooms/{room}/signals", is_passing=True),
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
class Registered:
    """The account. A pending one cannot be used before it is activated."""

    mid: int
    login: str
    state: str
    # a code to activate it is on its way; false: it could not be sent: have it sent again, or ask an admin
    code_sent: bool | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Registered:
        """From its JSON."""
        return cls(mid=told["mid"], login=told["login"], state=told["state"], code_sent=told.get("code_sent"))


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
class GoimAuth:
    """The body of a connection's auth packet, as it is to be sent."""

    mid: int
    key: str
    room_id: str
    platform: str
    # left out: everything, or for goim's version 1 nothing
    accepts: Sequence[int] | None = None
    token: str = field(repr=False)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> GoimAuth:
        """From its JSON."""
        return cls(
            mid=told["mid"],
            key=told["key"],
            room_id=told["room_id"],
            platform=told["platform"],
            accepts=told.get("accepts"),
            token=told["token"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comets:
    """Where to connect, the best first; each list may be empty."""

    tcp: Sequence[str]
    ws: Sequence[str]
    wss: Sequence[str]
    domain: str
    nodes: Sequence[str]
    tcp_port: int
    ws_port: int
    wss_port: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Comets:
        """From its JSON."""
        return cls(
            tcp=told["tcp"],
            ws=told["ws"],
            wss=told["wss"],
            domain=told["domain"],
            nodes=told["nodes"],
            tcp_port=told["tcp_port"],
            ws_port=told["ws_port"],
            wss_port=told["wss_port"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait before connecting again: base_delay × factor^tries, at most max_delay, ± jitter. Seconds."""

    max_delay: float
    base_delay: float
    factor: float
    jitter: float

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Backoff:
        """From its JSON."""
        return cls(
            max_delay=told["max_delay"], base_delay=told["base_delay"], factor=told["factor"], jitter=told["jitter"]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedIn:
    """A login: who one is, the tokens of it, and where to go with them."""

    mid: int
    role: str
    # the name of this login
    sid: str
    # for Authorization: Bearer …, and for `token` in a connection's auth
    token: str = field(repr=False)
    expires_in_s: int
    # for one refresh: it is another afterwards
    refresh_token: str = field(repr=False)
    refresh_expires_in_s: int
    auth: GoimAuth
    connect: Comets
    # where messages are posted to over HTTP: a path here, or a whole URL where advertise.http_url is set
    send_to: str
    heartbeat_s: float
    heartbeat_misses: int
    backoff: Backoff

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> LoggedIn:
        """From its JSON."""
        return cls(
            mid=told["mid"],
            role=told["role"],
            sid=told["sid"],
            token=told["token"],
            expires_in_s=told["expires_in_s"],
            refresh_token=told["refresh_token"],
            refresh_expires_in_s=told["refresh_expires_in_s"],
            auth=GoimAuth.of(told["auth"]),
            connect=Comets.of(told["connect"]),
            send_to=told["send_to"],
            heartbeat_s=told["heartbeat_s"],
            heartbeat_misses=told["heartbeat_misses"],
            backoff=Backoff.of(told["backoff"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """For one connection, as `token` of its auth."""

    token: str = field(repr=False)
    expires_in_s: float

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Ticket:
        """From its JSON."""
        return cls(token=told["token"], expires_in_s=told["expires_in_s"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """Until when the connection may stay."""

    expires_at: int | None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Renewed:
        """From its JSON."""
        return cls(expires_at=told["expires_at"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account, for whose it is and for admins."""

    mid: int
    name: str
    avatar: str
    extra: Mapping[str, Any]
    login: str
    role: str
    state: str
    # of a suspension
    reason: str = ""
    # milliseconds since 1970
    created_at: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Account:
        """From its JSON."""
        return cls(
            mid=told["mid"],
            name=told["name"],
            avatar=told["avatar"],
            extra=told["extra"],
            login=told["login"],
            role=told["role"],
            state=told["state"],
            reason=told.get("reason", ""),
            created_at=told["created_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """How a person shows itself."""

    mid: int
    name: str
    avatar: str
    extra: Mapping[str, Any]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Person:
        """From its JSON."""
        return cls(mid=told["mid"], name=told["name"], avatar=told["avatar"], extra=told["extra"])


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedInDevice:
    """A login that is not over."""

    key: str
    platform: str
    address: str
    # milliseconds since 1970
    since: int
    sid: str
    # it is the one that asks
    current: bool

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> LoggedInDevice:
        """From its JSON."""
        return cls(
            key=told["key"],
            platform=told["platform"],
            address=told["address"],
            since=told["since"],
            sid=told["sid"],
            current=told["current"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """The newest first."""

    devices: Sequence[LoggedInDevice]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Devices:
        """From its JSON."""
        return cls(devices=[LoggedInDevice.of(one) for one in told["devices"]])


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedAccounts:
    """A page, in order of mid."""

    accounts: Sequence[Account]
    # where the next page goes on: give it as `after`
    next: int | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> ListedAccounts:
        """From its JSON."""
        return cls(accounts=[Account.of(one) for one in told["accounts"]], next=told.get("next"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The code: this is the only time that it is told."""

    code: str
    uses: int
    # milliseconds since 1970
    expires_at: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Code:
        """From its JSON."""
        return cls(code=told["code"], uses=told["uses"], expires_at=told["expires_at"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What somebody did by a right over others: `by` is who, 0 for a backend; `room` and `mid` are where and to
    whom; `detail` is what the verb does not say: a reason, the role given, the seq of a message, the first of
    many people.
    """

    seq: int
    position: int
    # milliseconds since 1970
    at: int
    by: int
    role: str
    verb: str
    room: str
    mid: int | None
    detail: str

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Act:
        """From its JSON."""
        return cls(
            seq=told["seq"],
            position=told["position"],
            at=told["at"],
            by=told["by"],
            role=told["role"],
            verb=told["verb"],
            room=told["room"],
            mid=told["mid"],
            detail=told["detail"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The newest first."""

    acts: Sequence[Act]
    # where the next page goes on: give it as `after`
    next: int | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Audit:
        """From its JSON."""
        return cls(acts=[Act.of(one) for one in told["acts"]], next=told.get("next"))


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
    # since when one asks to be let in, and has no answer
    asked_at_ms: int = 0
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
            asked_at_ms=told.get("asked_at_ms", 0),
            me=maybe(Me.of, told.get("me")),
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
    """A member. `since` is the position of the join. `muted_until_ms` is there of whom somebody has muted."""

    mid: int
    role: str
    since: int
    online: bool
    # milliseconds since 1970
    muted_until_ms: int = 0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> MemberLine:
        """From its JSON."""
        return cls(
            mid=told["mid"],
            role=told["role"],
            since=told["since"],
            online=told["online"],
            muted_until_ms=told.get("muted_until_ms", 0),
        )


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
    """What changed up to `version`. `more`: something did after it, to be asked for with it. `reload`: what was
    asked with is no version of this list, because the log went back, and the list is to be read anew.
    """

    room: str
    version: int
    reload: bool
    more: bool
    changes: Sequence[ChangedMember]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Changes:
        """From its JSON."""
        return cls(
            room=told["room"],
            version=told["version"],
            reload=told["reload"],
            more=told["more"],
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """How many react so, and whether you are one of them."""

    reaction: str
    count: int
    mine: bool

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Counted:
        """From its JSON."""
        return cls(reaction=told["reaction"], count=told["count"], mine=told["mine"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Reacted:
    """Who reacts, with what, since when."""

    reaction: str
    mid: int
    position: int
    # milliseconds since 1970
    time: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Reacted:
        """From its JSON."""
        return cls(reaction=told["reaction"], mid=told["mid"], position=told["position"], time=told["time"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ReactionsPage:
    """`summary` counts all reactions to the message; `reactions` is a page of who reacts, oldest first; `next` is
    the next page's `after`, if there is one.
    """

    room: str
    seq: int
    summary: Sequence[Counted]
    reactions: Sequence[Reacted]
    next: int | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> ReactionsPage:
        """From its JSON."""
        return cls(
            room=told["room"],
            seq=told["seq"],
            summary=[Counted.of(one) for one in told["summary"]],
            reactions=[Reacted.of(one) for one in told["reactions"]],
            next=told.get("next"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """A message that is pinned: by whom, since when, and how it reads now (left out where the log does not hold it
    any more).
    """

    seq: int
    by: int
    position: int
    # milliseconds since 1970
    time: int
    message: Event | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Pinned:
        """From its JSON."""
        return cls(
            seq=told["seq"],
            by=told["by"],
            position=told["position"],
            time=told["time"],
            message=maybe(from_envelope, told.get("message")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PinsPage:
    """The newest pin first; with `next`, ask again with `after=next`."""

    room: str
    pins: Sequence[Pinned]
    next: int | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> PinsPage:
        """From its JSON."""
        return cls(room=told["room"], pins=[Pinned.of(one) for one in told["pins"]], next=told.get("next"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Somebody who has read it, by this time: that of the person's newest mark in the room."""

    mid: int
    # milliseconds since 1970
    time: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Reader:
        """From its JSON."""
        return cls(mid=told["mid"], time=told["time"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptsPage:
    """`read` of `people` (who see the message and did not send it) have read it. In small rooms `readers` says who,
    in order of member id, and `next` is the next page's `after`, if there is one; in large rooms both are
    missing.
    """

    room: str
    seq: int
    people: int
    read: int
    readers: Sequence[Reader] | None = None
    next: int | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> ReceiptsPage:
        """From its JSON."""
        return cls(
            room=told["room"],
            seq=told["seq"],
            people=told["people"],
            read=told["read"],
            readers=maybe(lambda it: [Reader.of(one) for one in it], told.get("readers")),
            next=told.get("next"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A message: where it is, who sent it when, and what it says around the first of the words."""

    room: str
    seq: int
    mid: int
    # milliseconds since 1970
    time: int
    position: int
    snippet: str

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Hit:
        """From its JSON."""
        return cls(
            room=told["room"],
            seq=told["seq"],
            mid=told["mid"],
            time=told["time"],
            position=told["position"],
            snippet=told["snippet"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPage:
    """The newest first. `next` is the next page's `before`, if there may be more. `complete` is false if there may
    be messages that are not here: the newest may not be found yet, or Postgres looked for too long.
    """

    hits: Sequence[Hit]
    complete: bool
    next: int | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> SearchPage:
        """From its JSON."""
        return cls(hits=[Hit.of(one) for one in told["hits"]], complete=told["complete"], next=told.get("next"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device that is connected. `key` is told of one's own devices, to services, and to moderators and admins
    of whom they could not see as anybody.
    """

    platform: str
    # milliseconds since 1970
    since: int
    key: str = ""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Device:
        """From its JSON."""
        return cls(platform=told["platform"], since=told["since"], key=told.get("key", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """Whether somebody is online. `last_seen` is when it was last heard of, of somebody who is not; null: not
    known, or not for you.
    """

    mid: int
    online: bool
    # on which it is online, each once
    platforms: Sequence[str]
    devices: Sequence[Device]
    last_seen: int | None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Presence:
        """From its JSON."""
        return cls(
            mid=told["mid"],
            online=told["online"],
            platforms=told["platforms"],
            devices=[Device.of(one) for one in told["devices"]],
            last_seen=told["last_seen"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """The people that were asked for, in that order."""

    people: Sequence[Presence]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> People:
        """From its JSON."""
        return cls(people=[Presence.of(one) for one in told["people"]])


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomPresence:
    """Who of a room is online. `online` counts people; in a live room, which has no members, the connections in it.
    `people` are they, in rooms with few members; null in others.
    """

    online: int
    people: Sequence[Presence] | None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> RoomPresence:
        """From its JSON."""
        return cls(online=told["online"], people=maybe(lambda it: [Presence.of(one) for one in it], told["people"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Whether somebody is online, and on which platforms."""

    mid: int
    online: bool
    platforms: Sequence[str]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> State:
        """From its JSON."""
        return cls(mid=told["mid"], online=told["online"], platforms=told["platforms"])


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """How the people are at this moment; what changes from here on is pushed."""

    people: Sequence[State]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> States:
        """From its JSON."""
        return cls(people=[State.of(one) for one in told["people"]])


class ServerVerbs(Subject):
    """The verbs of server."""

    __slots__ = ()

    async def show(self) -> Server:
        """What this server is: version, mode of authentication, limits, and its clock."""
        return Server.of(await self._calls.perform(VERBS["server.show"], {}))


class AccountsVerbs(Subject):
    """The verbs of accounts."""

    __slots__ = ()

    async def register(
        self,
        *,
        login: str,
        password: str,
        name: str | None = None,
        invitation: str = "",
        email: str = "",
        retry: bool = False,
    ) -> Registered:
        """Make an account. Whether it can be used at once, needs an invitation code, or waits for somebody's yes is
        a setting.

        - `login`: the name to log in with: 3 to 32 letters and digits of one script, and . _ - between
        - `name`: the name that others see; left out: the login
        - `invitation`: where that is needed: an invitation code
        - `email`: where an activation code is sent to; it is not kept

        Raises NameTaken, WrongCode, Forbidden, Overloaded.
        """
        return Registered.of(
            await self._calls.perform(
                VERBS["accounts.register"],
                given(
                    {"login": login, "password": password, "name": name, "invitation": invitation, "email": email},
                    {"name": None, "invitation": "", "email": ""},
                ),
                retry=retry,
            )
        )

    async def send_code(self, *, login: str, password: str, email: str, retry: bool = False) -> Registered:
        """Have a code to activate an account sent again, to the same address or to another; the one before it is
        worth nothing then.

        Who asks gives the name and the password that the account was registered with, and is told its `mid` and
        `state`. An account that is active needs no code and is sent none. A name that nobody has is told the same
        as a wrong password.

        - `email`: where the code is sent to, the same address as before or another; it is not kept

        Raises WrongLogin, AccountInactive, Forbidden, Overloaded.
        """
        return Registered.of(
            await self._calls.perform(
                VERBS["accounts.send_code"], {"login": login, "password": password, "email": email}, retry=retry
            )
        )

    async def activate(self, mid: int, *, code: str = "", retry: bool = False) -> Place:
        """Let an account be used: with the code that was sent for it, or as an admin.

        - `code`: the code that was sent; admins need none

        Raises NoSuchAccount, WrongCode, AccountInactive, Forbidden.
        """
        return Place.of(
            await self._calls.perform(
                VERBS["accounts.activate"], given({"mid": mid, "code": code}, {"code": ""}), retry=retry
            )
        )

    async def login(
        self,
        *,
        login: str,
        password: str,
        key: str | None = None,
        platform: str = "",
        room_id: str = "",
        accepts: Sequence[int] | None = None,
        region: str = "",
        retry: bool = False,
    ) -> LoggedIn:
        """Log in with a password. The answer has the token, goim's auth packet ready to be sent, and where to
        connect.

        - `key`: the device's own name, kept by it for ever; left out: one is made
        - `region`: where it is, so that it is sent somewhere near

        Raises WrongLogin, AccountInactive, Overloaded.
        """
        return LoggedIn.of(
            await self._calls.perform(
                VERBS["accounts.login"],
                given(
                    {
                        "key": key,
                        "platform": platform,
                        "room_id": room_id,
                        "accepts": accepts,
                        "region": region,
                        "login": login,
                        "password": password,
                    },
                    {"key": None, "platform": "", "room_id": "", "accepts": None, "region": ""},
                ),
                retry=retry,
            )
        )

    async def refresh(self, *, refresh_token: str, region: str = "", retry: bool = False) -> LoggedIn:
        """Get a new token before the old one has expired.

        The refresh token is used up, and another comes with the answer; one that is used twice ends the login: two
        have it. (For a moment it may come again, because an answer may have been lost; what that one brought is
        worth nothing then.)

        Raises Unauthenticated.
        """
        return LoggedIn.of(
            await self._calls.perform(
                VERBS["accounts.refresh"],
                given({"refresh_token": refresh_token, "region": region}, {"region": ""}),
                retry=retry,
            )
        )

    async def guest(
        self,
        *,
        key: str | None = None,
        platform: str = "",
        room_id: str = "",
        accepts: Sequence[int] | None = None,
        region: str = "",
        retry: bool = False,
    ) -> LoggedIn:
        """Come in without an account, as somebody new.

        - `key`: the device's own name, kept by it for ever; left out: one is made
        - `region`: where it is, so that it is sent somewhere near

        Raises Forbidden.
        """
        return LoggedIn.of(
            await self._calls.perform(
                VERBS["accounts.guest"],
                given(
                    {"key": key, "platform": platform, "room_id": room_id, "accepts": accepts, "region": region},
                    {"key": None, "platform": "", "room_id": "", "accepts": None, "region": ""},
                ),
                retry=retry,
            )
        )

    async def logout(self, *, everywhere: bool = False, retry: bool = False) -> Place:
        """Log out: this device, or everywhere.

        Tokens are worthless at once, and connections are closed; over one of those the answer comes before the end.
        """
        return Place.of(
            await self._calls.perform(
                VERBS["accounts.logout"], given({"everywhere": everywhere}, {"everywhere": False}), retry=retry
            )
        )

    async def ticket(self, *, retry: bool = False) -> Ticket:
        """Get a ticket for one connection, so that a page need not hold the token.

        It is good for pages of the origin that asks for it, for half a minute, and for one try.

        Raises Forbidden.
        """
        return Ticket.of(await self._calls.perform(VERBS["accounts.ticket"], {}, retry=retry))

    async def profile(self, mid: int) -> Person:
        """How a person shows itself.

        Raises NoSuchAccount.
        """
        return Person.of(await self._calls.perform(VERBS["accounts.profile"], {"mid": mid}))

    async def list(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        state: Literal["pending", "active", "suspended", "deactivated"] | None = None,
        search: str = "",
    ) -> ListedAccounts:
        """The accounts that there are, page by page; with a search those whose login or name has it in.

        - `search`: a part of a login or a name
        """
        return ListedAccounts.of(
            await self._calls.perform(
                VERBS["accounts.list"],
                given(
                    {"after": after, "limit": limit, "state": state, "search": search},
                    {"after": 0, "limit": 100, "state": None, "search": ""},
                ),
            )
        )

    async def suspend(self, mid: int, *, reason: str = "") -> Place:
        """Suspend an account: it is logged out everywhere and cannot log in, until the suspension is lifted.

        Raises NoSuchAccount, AccountInactive, Forbidden.
        """
        return Place.of(
            await self._calls.perform(VERBS["accounts.suspend"], given({"mid": mid, "reason": reason}, {"reason": ""}))
        )

    async def restore(self, mid: int) -> Place:
        """Lift a suspension.

        Raises NoSuchAccount, AccountInactive, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["accounts.restore"], {"mid": mid}))

    async def set_role(self, mid: int, *, role: Literal["user", "moderator", "admin"]) -> Place:
        """Say what somebody is to the whole server. One's own role is the highest to give, and nobody raises
        himself.

        Raises NoSuchAccount, AccountInactive, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["accounts.set_role"], {"mid": mid, "role": role}))


class AccountVerbs(Subject):
    """The verbs of account."""

    __slots__ = ()

    async def renew(self, *, token: str, retry: bool = False) -> Renewed:
        """Stay connected with a fresh token, before the one that the connection began with has expired.

        Raises Forbidden.
        """
        return Renewed.of(await self._calls.perform(VERBS["account.renew"], {"token": token}, retry=retry))

    async def show(self) -> Account:
        """Your own account.

        Raises NoSuchAccount.
        """
        return Account.of(await self._calls.perform(VERBS["account.show"], {}))

    async def change(
        self,
        *,
        name: str | None = None,
        avatar: str | None = None,
        extra: Mapping[str, object] | None = None,
        retry: bool = False,
    ) -> Place:
        """Change how you show yourself: name, avatar, and what the application keeps with you.

        - `extra`: what the application keeps with a person; all of it is replaced

        Raises NoSuchAccount, AccountInactive.
        """
        return Place.of(
            await self._calls.perform(
                VERBS["account.change"],
                given({"name": name, "avatar": avatar, "extra": extra}, {"name": None, "avatar": None, "extra": None}),
                retry=retry,
            )
        )

    async def password(
        self,
        *,
        old: str,
        new: str,
        key: str | None = None,
        platform: str = "",
        room_id: str = "",
        accepts: Sequence[int] | None = None,
        region: str = "",
    ) -> LoggedIn:
        """Change your password. Every login is over, on this device too, which is logged in anew by the answer,
        under the same key.

        - `key`: the device's own name; left out: the one that it has
        - `region`: where it is, so that it is sent somewhere near

        Raises WrongLogin, NoSuchAccount, AccountInactive, Overloaded.
        """
        return LoggedIn.of(
            await self._calls.perform(
                VERBS["account.password"],
                given(
                    {
                        "key": key,
                        "platform": platform,
                        "room_id": room_id,
                        "accepts": accepts,
                        "region": region,
                        "old": old,
                        "new": new,
                    },
                    {"key": None, "platform": "", "room_id": "", "accepts": None, "region": ""},
                ),
            )
        )

    async def deactivate(self) -> Place:
        """Give your account up, for good. Its name stays taken.

        It stays a member of its rooms, and what it said is still said by it. The last owner of a room in which
        others are makes somebody else owner first, or dismisses the room.

        Raises NoSuchAccount, AccountInactive, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["account.deactivate"], {}))


class DevicesVerbs(Subject):
    """The verbs of devices."""

    __slots__ = ()

    async def list(self) -> Devices:
        """The devices on which you are logged in."""
        return Devices.of(await self._calls.perform(VERBS["devices.list"], {}))

    async def remove(self, key: str) -> Place:
        """Log a device of yours out."""
        return Place.of(await self._calls.perform(VERBS["devices.remove"], {"key": key}))


class CodesVerbs(Subject):
    """The verbs of codes."""

    __slots__ = ()

    async def create(self, *, uses: int = 1, expires_in_s: int = 604800, note: str = "", retry: bool = False) -> Code:
        """Make an invitation code, for a service on which one needs it to register.

        Raises AccountInactive.
        """
        return Code.of(
            await self._calls.perform(
                VERBS["codes.create"],
                given(
                    {"uses": uses, "expires_in_s": expires_in_s, "note": note},
                    {"uses": 1, "expires_in_s": 604800, "note": ""},
                ),
                retry=retry,
            )
        )


class AuditVerbs(Subject):
    """The verbs of audit."""

    __slots__ = ()

    async def list(self, *, after: int | None = None, limit: int = 100) -> Audit:
        """What admins and moderators did to others, or saw of them, by that right alone; and what backends did to
        accounts.

        What a backend does in a room stands in the room, as done by nobody (`mid` 0) or by the person whom it
        named.

        - `after`: go on behind this one, towards the older
        """
        return Audit.of(
            await self._calls.perform(
                VERBS["audit.list"], given({"after": after, "limit": limit}, {"after": None, "limit": 100})
            )
        )


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
        """Make a room: a public one, if nothing is said.

        Whoever makes it owns it; a service makes rooms without an owner. The members come in with it.

        - `kind`: private: who is added or invited comes in. public: anybody joins. announcement: public, and only
          admins write. A word for the settings public and writers, which win over it.
        - `approval`: who wants to join asks, and an admin lets it in
        - `history`: what members see of the time before their join: nothing (joined), or all of it
        - `slow_mode_s`: a member sends once in so long
        - `members_max`: 0 is no limit

        Raises RoomExists, Forbidden, TooManyRooms.
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
        """The public rooms that one may enter and is not banned from, in order of name.

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

        Raises NoSuchRoom, Forbidden, TooManyRooms.
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

        Raises NoSuchRoom, Forbidden, TooManyRooms.
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
        """Change what somebody of lower rank is, to a role below one's own, or step down by oneself.

        Ownership is given away with rooms.transfer.

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

        Raises NoSuchRoom, Forbidden, TooManyRooms.
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

        Raises NoSuchRoom, Forbidden, TooManyRooms.
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

        Answered when its comet is told; the connection moves a moment later, and is told so by an event
        `room_switched`, which is not stored. A room with members is joined, if need be.

        - `room`: a room, or nothing: then it only leaves the one that it has entered
        - `mid`: whose connection it is; a person leaves it out

        Raises NoSuchRoom, Forbidden, TooManyRooms.
        """
        return Place.of(
            await self._calls.perform(
                VERBS["rooms.enter"],
                given({"key": key, "room": room, "mid": mid}, {"room": "", "mid": None}),
                retry=retry,
            )
        )

    async def typing(self, room: str, *, typing: bool = True, retry: bool = False) -> None:
        """Tell the others in the room that you are typing, or not any more: an event of type `typing` at position
        0, never stored.

        Every few seconds while it goes on is right; whoever hears nothing for longer than that takes it as over.
        Not to the connection that says it. In rooms with many members (`signals_room_members_max`) nobody is told,
        and the answer is the same.

        - `typing`: false: not any more

        Raises NoSuchRoom, Muted, Forbidden, RateLimited.
        """
        await self._calls.perform(
            VERBS["rooms.typing"], given({"room": room, "typing": typing}, {"typing": True}), retry=retry
        )

    async def signal(self, room: str, *, type: str, body: object = None, retry: bool = False) -> None:
        """Tell the others in the room something that is never stored: an event of type `signal:<type>` at position
        0, with your body.

        The body is JSON of at most 1,024 bytes. As with `rooms.typing` it may be lost, and in rooms with many
        members nobody is told.

        Raises NoSuchRoom, Muted, Forbidden, RateLimited, TooLarge.
        """
        await self._calls.perform(
            VERBS["rooms.signal"], given({"room": room, "type": type, "body": body}, {"body": None}), retry=retry
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

        Raises Forbidden, TooManyRooms.
        """
        return Opened.of(await self._calls.perform(VERBS["direct.open"], given({"mid": mid, "of": of}, {"of": None})))


class BlocksVerbs(Subject):
    """The verbs of blocks."""

    __slots__ = ()

    async def add(self, mid: int, *, of: int | None = None) -> Place:
        """Take no direct messages of somebody any more, and no invitation. That person learns of it when it sends
        one.

        Nor does it bring one into a room any more, or into a new one.

        - `of`: for whom a service acts; a person leaves it out

        Raises Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["blocks.add"], given({"mid": mid, "of": of}, {"of": None})))

    async def remove(self, mid: int, *, of: int | None = None) -> Place:
        """Take direct messages and invitations of somebody again.

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
        that its sender sees (`reply_to`) and be part of a thread (`thread`: the seq of its first message, which its
        sender need not see); it may name people of the room, or "all". The same `id` again, for the same message,
        is answered with its first place.

        - `op`: under which clients of version 1 get it
        - `format`: text and base64: the body is a string that means text or bytes

        Raises NoSuchRoom, NoSuchMessage, Forbidden, Muted, SlowMode, IdConflict, TooLarge.
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
        at: int | None = None,
        limit: int = 50,
    ) -> Events:
        """A page of what happened in the room, in order of seq.

        The last events before a seq, the first after one, those around one or around a time, or the newest;
        messages as they read now. What was said before one joined is there only in rooms that show it.

        - `at`: a time: around the first event of this time or later

        Raises NoSuchRoom.
        """
        return Events.of(
            await self._calls.perform(
                VERBS["messages.history"],
                given(
                    {"room": room, "before": before, "after": after, "around": around, "at": at, "limit": limit},
                    {"before": None, "after": None, "around": None, "at": None, "limit": 50},
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

        Raises NoSuchRoom, NoSuchMessage, Forbidden, Muted, TooLarge.
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

        Raises NoSuchRoom, NoSuchMessage, Forbidden, Muted, SlowMode, IdConflict.
        """
        return Place.of(
            await self._calls.perform(
                VERBS["messages.forward"],
                given({"room": room, "seq": seq, "to": to, "id": id or new_id(), "op": op}, {"op": None}),
            )
        )

    async def search(
        self, *, q: str, room: str | None = None, by: int | None = None, before: int | None = None, limit: int = 20
    ) -> SearchPage:
        """Find messages by their words.

        All words of `q` must be in a message, in any order, whatever their case; the last may be the beginning of a
        word. Chinese, Japanese, Korean and Thai are found by any characters that stand together. Only in your
        rooms, what you see of them, as it reads now.

        Raises NoSuchRoom, NotAllowed.
        """
        return SearchPage.of(
            await self._calls.perform(
                VERBS["messages.search"],
                given(
                    {"q": q, "room": room, "by": by, "before": before, "limit": limit},
                    {"room": None, "by": None, "before": None, "limit": 20},
                ),
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
        at: a picture that is none is refused, and application/octet-stream is recognized, or what is not declared.
        A form with the file in it (multipart/form-data) is refused. The limits are those of the server: size,
        types, time, bytes in a day.

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


class ReactionsVerbs(Subject):
    """The verbs of reactions."""

    __slots__ = ()

    async def add(self, room: str, seq: int, reaction: str) -> Place:
        """React to a message.

        Doing so again is `unchanged`. A message takes 20 different reactions; one that was recalled takes none.

        Raises NoSuchRoom, NoSuchMessage, Muted, Forbidden.
        """
        return Place.of(
            await self._calls.perform(VERBS["reactions.add"], {"room": room, "seq": seq, "reaction": reaction})
        )

    async def remove(self, room: str, seq: int, reaction: str) -> Place:
        """Take your reaction to a message back.

        `unchanged` if there was none.

        Raises NoSuchRoom, NoSuchMessage, Forbidden.
        """
        return Place.of(
            await self._calls.perform(VERBS["reactions.remove"], {"room": room, "seq": seq, "reaction": reaction})
        )

    async def list(
        self, room: str, seq: int, *, reaction: str | None = None, after: int = 0, limit: int = 100
    ) -> ReactionsPage:
        """Who reacts to a message, and with what.

        The oldest reactions come first. With `reaction`, only those of one kind.

        Raises NoSuchRoom, NoSuchMessage.
        """
        return ReactionsPage.of(
            await self._calls.perform(
                VERBS["reactions.list"],
                given(
                    {"room": room, "seq": seq, "reaction": reaction, "after": after, "limit": limit},
                    {"reaction": None, "after": 0, "limit": 100},
                ),
            )
        )


class PinsVerbs(Subject):
    """The verbs of pins."""

    __slots__ = ()

    async def add(self, room: str, seq: int) -> Place:
        """Pin a message.

        Pinning it again is `unchanged`. A room has at most 100 pins.

        Raises NoSuchRoom, NoSuchMessage, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["pins.add"], {"room": room, "seq": seq}))

    async def remove(self, room: str, seq: int) -> Place:
        """Unpin a message, whoever pinned it.

        `unchanged` if it was not pinned.

        Raises NoSuchRoom, NoSuchMessage, Forbidden.
        """
        return Place.of(await self._calls.perform(VERBS["pins.remove"], {"room": room, "seq": seq}))

    async def list(self, room: str, *, after: int | None = None, limit: int = 100) -> PinsPage:
        """The pinned messages of a room, as far as you see them, with what they say now.

        The newest pin comes first. All of them are one page, if they are not more than 1 MiB.

        Raises NoSuchRoom.
        """
        return PinsPage.of(
            await self._calls.perform(
                VERBS["pins.list"], given({"room": room, "after": after, "limit": limit}, {"after": None, "limit": 100})
            )
        )


class ReceiptsVerbs(Subject):
    """The verbs of receipts."""

    __slots__ = ()

    async def list(self, room: str, seq: int, *, after: int | None = None, limit: int = 100) -> ReceiptsPage:
        """Who has read a message.

        Who joined later and does not see it is not counted, nor is its sender. In rooms of more than
        `receipts_members_max` members only the count is told.

        Raises NoSuchRoom, NoSuchMessage, Unavailable.
        """
        return ReceiptsPage.of(
            await self._calls.perform(
                VERBS["receipts.list"],
                given({"room": room, "seq": seq, "after": after, "limit": limit}, {"after": None, "limit": 100}),
            )
        )


class PresenceVerbs(Subject):
    """The verbs of presence."""

    __slots__ = ()

    async def of(self, *, mid: Sequence[int] = ()) -> People:
        """Who of these people is online, on which devices, and when the others were last seen.

        Of oneself, and of people with whom one shares a direct room or a room with few members
        (`presence_room_members_max`), if they let one. Everybody else looks like somebody who was never there; not
        so to services, nor to moderators and admins, which is audited. A second behind the truth at most, as a rule
        some milliseconds.
        """
        return People.of(await self._calls.perform(VERBS["presence.of"], given({"mid": mid}, {"mid": ()})))

    async def room(self, room: str) -> RoomPresence:
        """How many people of a room are online, and in rooms with few members (`presence_room_members_max`) who.

        For members; of a live room for who is in it. People who hide from you are not counted; in large rooms
        nobody is who does not let everybody see them. Services, moderators and admins see them, which is audited of
        the latter.

        Raises NoSuchRoom, Forbidden.
        """
        return RoomPresence.of(await self._calls.perform(VERBS["presence.room"], {"room": room}))

    async def show(self, *, visible_to: Literal["everybody", "contacts", "nobody"]) -> Place:
        """Choose who may see whether you are online: everybody with whom you share a small or a direct room,
        contacts only, or nobody.

        A direct room counts when you opened it or wrote in it: that somebody opened one with you tells them nothing
        of you. In force at once, for those who watch you too: to whom you hide you look as if you had gone offline.
        Your own devices are told by the event `visibility_chosen`. Choosing the same again changes nothing.
        """
        return Place.of(await self._calls.perform(VERBS["presence.show"], {"visible_to": visible_to}))

    async def watch(self, *, mids: Sequence[int], retry: bool = False) -> States:
        """Be told when one of these people comes online or goes, or changes platforms, for as long as this
        connection is open.

        The answer says how they are now. Changes come as events of type `presence` at position 0, never stored; who
        is back within some seconds was never away. People whom you may not see look offline, until the day on which
        you may see them; not so to moderators and admins, which is audited. At most `presence_watched_max` people a
        connection; after a reconnect ask again.

        Raises Overloaded, Unavailable.
        """
        return States.of(await self._calls.perform(VERBS["presence.watch"], {"mids": mids}, retry=retry))

    async def unwatch(self, *, mids: Sequence[int] = ()) -> None:
        """Be told of these people no more; of nobody, if none are named. Those that were not watched are no error."""
        await self._calls.perform(VERBS["presence.unwatch"], given({"mids": mids}, {"mids": ()}))


class Subjects(Calls):
    """Every verb, by subject, over whatever carries calls."""

    @property
    def server(self) -> ServerVerbs:
        """The verbs of server."""
        return ServerVerbs(self)

    @property
    def accounts(self) -> AccountsVerbs:
        """The verbs of accounts."""
        return AccountsVerbs(self)

    @property
    def account(self) -> AccountVerbs:
        """The verbs of account."""
        return AccountVerbs(self)

    @property
    def devices(self) -> DevicesVerbs:
        """The verbs of devices."""
        return DevicesVerbs(self)

    @property
    def codes(self) -> CodesVerbs:
        """The verbs of codes."""
        return CodesVerbs(self)

    @property
    def audit(self) -> AuditVerbs:
        """The verbs of audit."""
        return AuditVerbs(self)

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

    @property
    def reactions(self) -> ReactionsVerbs:
        """The verbs of reactions."""
        return ReactionsVerbs(self)

    @property
    def pins(self) -> PinsVerbs:
        """The verbs of pins."""
        return PinsVerbs(self)

    @property
    def receipts(self) -> ReceiptsVerbs:
        """The verbs of receipts."""
        return ReceiptsVerbs(self)

    @property
    def presence(self) -> PresenceVerbs:
        """The verbs of presence."""
        return PresenceVerbs(self)
