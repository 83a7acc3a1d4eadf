"""Accounts: to register, log in and out, show oneself; and what admins do. See docs/accounts.md."""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import orjson
from pydantic import AfterValidator, Field, JsonValue

from imcore.accounts import Granted, names, queries
from imcore.accounts import Registered as Made
from imcore.accounts.passwords import BYTES_MAX as PASSWORD_BYTES_MAX
from imcore.accounts.passwords import CHARACTERS_MIN as PASSWORD_CHARACTERS_MIN
from imcore.accounts.tokens import ACCEPTS_MAX, Told
from imcore.balancer import BACKOFF, directions
from imcore.errors import (
    AccountInactive,
    BadRequest,
    Forbidden,
    NameTaken,
    NoSuchAccount,
    Overloaded,
    Unauthenticated,
    WrongCode,
    WrongLogin,
)
from imcore.events.types import AUDIT, AccountRole, AdminActed, Recorded
from imcore.permissions import table
from imcore.protocol.packet import (
    INT32_MAX,
    INT32_MIN,
    INT64_MAX,
    PLATFORM_BYTES_MAX,
    TOKEN_BYTES_MAX,
    check_room,
)
from imcore.verbs.acting import as_now, write_down
from imcore.verbs.means import Means
from imcore.verbs.verb import (
    Answer,
    AnyVerb,
    Args,
    Caller,
    Key,
    Label,
    Limit,
    Line,
    Mid,
    Millis,
    Nothing,
    Place,
    page,
    verb,
    within,
)

NAME_CHARACTERS_MAX: Final = 64
AVATAR_BYTES_MAX: Final = 512
EXTRA_BYTES_MAX: Final = 4_096
REASON_CHARACTERS_MAX: Final = 256
BLANK: Final = "\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"  # letters and signs, says Unicode, of which nothing is seen
EMAIL_CHARACTERS_MAX: Final = 254
CODE_CHARACTERS_MAX: Final = 64
REFRESH_CHARACTERS_MAX: Final = 128
USES_MAX: Final = 100_000
CODE_S_MAX: Final = 31_536_000
DEVICES_MAX: Final = 200  # in one answer
SEND_PATH: Final = "/v1/rooms/{type}/{name}/messages"


def _avatar(url: str) -> str:
    if url and not url.startswith(("https://", "http://")):
        raise ValueError("is no URL that begins with https://")
    if any(sign in url for sign in " <>\"'\\"):
        raise ValueError("has a sign in it that a URL writes in another way")
    return url


def _is_seen(name: str) -> str:
    if all(unicodedata.category(sign)[0] in "CZ" or sign in BLANK for sign in name):
        raise ValueError("has nothing in it that is seen")
    return name


def _extra(extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if len(orjson.dumps(extra)) > EXTRA_BYTES_MAX:
        raise ValueError(f"longer than {EXTRA_BYTES_MAX} bytes")
    return extra


def _room_or_none(room: str) -> str:
    if room:
        try:
            check_room(room)
        except BadRequest as error:
            raise ValueError(error.detail) from None
    return room


Login = Annotated[Line, Field(min_length=1, max_length=names.BYTES_MAX, examples=["alice"])]
Password = Annotated[str, Field(min_length=1, max_length=PASSWORD_BYTES_MAX, examples=["correct horse battery staple"])]
NewPassword = Annotated[
    str,
    Field(min_length=PASSWORD_CHARACTERS_MIN, max_length=PASSWORD_BYTES_MAX, examples=["correct horse battery staple"]),
]
Name = Annotated[Label, Field(min_length=1, max_length=NAME_CHARACTERS_MAX), AfterValidator(_is_seen)]
Avatar = Annotated[Line, Field(max_length=AVATAR_BYTES_MAX), AfterValidator(_avatar)]
Extra = Annotated[dict[str, JsonValue], AfterValidator(_extra)]
Accepts = Annotated[
    list[Annotated[int, Field(ge=INT32_MIN, le=INT32_MAX)]], Field(max_length=ACCEPTS_MAX, examples=[[1000, 1001]])
]
Platform = Annotated[Line, Field(max_length=PLATFORM_BYTES_MAX), within(PLATFORM_BYTES_MAX)]
RoomOrNone = Annotated[str, Field(max_length=160), AfterValidator(_room_or_none)]
AccountMid = Annotated[int, Field(ge=1, le=INT64_MAX, examples=[7])]
State = Literal["pending", "active", "suspended", "deactivated"]


# --- to come to be -----------------------------------------------------------------------------------------------------------


class Registration(Args):
    """A new account."""

    login: Login = Field(
        description="the name to log in with: 3 to 32 letters and digits of one script, and . _ - between"
    )
    password: NewPassword
    name: Name | None = Field(None, description="the name that others see; left out: the login")
    invitation: str = Field("", max_length=CODE_CHARACTERS_MAX, description="where that is needed: an invitation code")
    email: Annotated[Line, Field(max_length=EMAIL_CHARACTERS_MAX)] = Field(
        "", description="where an activation code is sent to; it is not kept"
    )


class Registered(Answer):
    """The account. A pending one cannot be used before it is activated."""

    mid: int
    login: str
    state: State
    code_sent: bool | None = Field(
        None,
        description="a code to activate it is on its way; false: it could not be sent: have it sent again, or ask an admin",
    )


class CodeWanted(Args):
    """Whose account, as it was registered, and where its code is to be sent."""

    login: Login
    password: Password
    email: Annotated[Line, Field(min_length=1, max_length=EMAIL_CHARACTERS_MAX)] = Field(
        description="where the code is sent to, the same address as before or another; it is not kept"
    )


class Activation(Args):
    """Which account, and why it may be used."""

    mid: AccountMid
    code: str = Field("", max_length=CODE_CHARACTERS_MAX, description="the code that was sent; admins need none")


@verb(
    "accounts.register",
    "POST",
    "/v1/accounts",
    answer=Registered,
    status=201,
    errors=(NameTaken, WrongCode, Forbidden, Overloaded),
    is_open=True,
)
async def register(caller: Caller, means: Means, args: Registration) -> Registered:
    """Make an account. Whether it can be used at once, needs an invitation code, or waits for somebody's yes is a setting."""
    made = await means.accounts.register(
        args.login,
        args.password,
        by=caller.identity,
        address=caller.address,
        name=args.name or "",
        invitation=args.invitation,
        email=args.email,
    )
    return _registered(made, args.login)


@verb(
    "accounts.send_code",
    "POST",
    "/v1/accounts/activation",
    answer=Registered,
    errors=(WrongLogin, AccountInactive, Forbidden, Overloaded),
    is_open=True,
    has_secrets=True,
)
async def send_code(caller: Caller, means: Means, args: CodeWanted) -> Registered:
    """Have a code to activate an account sent again, to the same address or to another; the one before it is worth nothing then.

    Who asks gives the name and the password that the account was registered with, and is told its `mid` and `state`. An account that is
    active needs no code and is sent none. A name that nobody has is told the same as a wrong password."""
    made = await means.accounts.send_code(args.login, args.password, args.email, caller.address)
    return _registered(made, args.login)


@verb(
    "accounts.activate",
    "POST",
    "/v1/accounts/{mid}/activation",
    answer=Place,
    errors=(NoSuchAccount, WrongCode, AccountInactive, Forbidden),
    is_open=True,
)
async def activate(caller: Caller, means: Means, args: Activation) -> Place:
    """Let an account be used: with the code that was sent for it, or as an admin."""
    if not args.code:
        actor = caller.identity.actor
        table().check("accounts.activate", actor, is_own=caller.mid == args.mid)
    return _place(await means.accounts.activate(args.mid, caller.identity, args.code, caller.address))


# --- to log in, and out ------------------------------------------------------------------------------------------------------


class Device(Args):
    """The device that logs in: goim's fields, which come back in `auth` as a connection's first packet wants them."""

    key: Key | None = Field(None, description="the device's own name, kept by it for ever; left out: one is made")
    platform: Platform = ""
    room_id: RoomOrNone = ""
    accepts: Accepts | None = None
    region: Annotated[Line, Field(max_length=64)] = Field(
        "", description="where it is, so that it is sent somewhere near"
    )

    def told(self, fallback: str) -> Told:
        """As it is kept with the login."""
        accepts = None if self.accepts is None else tuple(self.accepts)
        return Told(self.key or fallback, self.platform, self.room_id, accepts)


class LogIn(Device):
    """Who, and on which device."""

    login: Login
    password: Password


class Refresh(Args):
    """The refresh token of a login."""

    refresh_token: str = Field(min_length=1, max_length=REFRESH_CHARACTERS_MAX)
    region: Annotated[Line, Field(max_length=64)] = ""


class GoimAuth(Answer):
    """The body of a connection's auth packet, as it is to be sent."""

    mid: int
    key: str
    room_id: str
    platform: str
    accepts: list[int] | None = Field(None, description="left out: everything, or for goim's version 1 nothing")
    token: str


class Comets(Answer):
    """Where to connect, the best first; each list may be empty."""

    tcp: list[str]
    ws: list[str]
    wss: list[str]
    domain: str
    nodes: list[str]
    tcp_port: int
    ws_port: int
    wss_port: int


class Backoff(Answer):
    """How long to wait before connecting again: base_delay × factor^tries, at most max_delay, ± jitter. Seconds."""

    max_delay: float
    base_delay: float
    factor: float
    jitter: float


class LoggedIn(Answer):
    """A login: who one is, the tokens of it, and where to go with them."""

    mid: int
    role: Literal["guest", "user", "moderator", "admin"]
    sid: str = Field(description="the name of this login")
    token: str = Field(description="for Authorization: Bearer …, and for `token` in a connection's auth")
    expires_in_s: int
    refresh_token: str = Field(description="for one refresh: it is another afterwards")
    refresh_expires_in_s: int
    auth: GoimAuth
    connect: Comets
    send_to: str = Field(
        description="where messages are posted to over HTTP: a path here, or a whole URL where advertise.http_url is set"
    )
    heartbeat_s: float
    heartbeat_misses: int
    backoff: Backoff


@verb(
    "accounts.login",
    "POST",
    "/v1/login",
    answer=LoggedIn,
    errors=(WrongLogin, AccountInactive, Overloaded),
    doors=("http",),
    is_open=True,
)
async def login(caller: Caller, means: Means, args: LogIn) -> LoggedIn:
    """Log in with a password. The answer has the token, goim's auth packet ready to be sent, and where to connect."""
    told = args.told(_new_key())
    granted = await means.accounts.log_in(args.login, args.password, told, caller.address)
    return await _logged_in(means, granted, args.region)


@verb("accounts.guest", "POST", "/v1/guests", answer=LoggedIn, errors=(Forbidden,), doors=("http",), is_open=True)
async def guest(caller: Caller, means: Means, args: Device) -> LoggedIn:
    """Come in without an account, as somebody new."""
    granted = await means.accounts.guest(args.told(_new_key()), caller.address)
    return await _logged_in(means, granted, args.region)


@verb(
    "accounts.refresh", "POST", "/v1/refresh", answer=LoggedIn, errors=(Unauthenticated,), doors=("http",), is_open=True
)
async def refresh(caller: Caller, means: Means, args: Refresh) -> LoggedIn:
    """Get a new token before the old one has expired.

    The refresh token is used up, and another comes with the answer; one that is used twice ends the login: two have it.
    (For a moment it may come again, because an answer may have been lost; what that one brought is worth nothing then.)"""
    granted = await means.accounts.refresh(args.refresh_token, caller.address)
    return await _logged_in(means, granted, args.region)


class LogOut(Args):
    """This device, or all."""

    everywhere: bool = False


@verb("accounts.logout", "POST", "/v1/logout", answer=Place)
async def logout(caller: Caller, means: Means, args: LogOut) -> Place:
    """Log out: this device, or everywhere.

    Tokens are worthless at once, and connections are closed; over one of those the answer comes before the end."""
    return _place(await means.accounts.log_out(caller.identity, everywhere=args.everywhere))


class Ticket(Answer):
    """For one connection, as `token` of its auth."""

    token: str
    expires_in_s: float


@verb(
    "accounts.ticket",
    "POST",
    "/v1/tickets",
    answer=Ticket,
    status=201,
    errors=(Forbidden,),
    doors=("http",),
    has_secrets=True,
)
async def ticket(caller: Caller, means: Means, args: Nothing) -> Ticket:
    """Get a ticket for one connection, so that a page need not hold the token.

    It is good for pages of the origin that asks for it, for half a minute, and for one try."""
    made = await means.accounts.ticket(caller.identity, caller.origin)
    return Ticket(token=f"ticket:{made}", expires_in_s=means.settings.ticket_s)


class Renewal(Args):
    """A fresh token of the same login."""

    token: str = Field(min_length=1, max_length=TOKEN_BYTES_MAX)


class Renewed(Answer):
    """Until when the connection may stay."""

    expires_at: Millis | None


@verb(
    "account.renew",
    "POST",
    "/v1/account/renewal",
    answer=Renewed,
    errors=(Forbidden,),
    doors=("connection",),
    has_secrets=True,
)
async def renew(caller: Caller, means: Means, args: Renewal) -> Renewed:
    """Stay connected with a fresh token, before the one that the connection began with has expired."""
    assert caller.connection is not None, "this verb is for connections"
    try:
        expires_at = await caller.connection.renew(args.token)
    except Unauthenticated as error:
        raise Forbidden(error.detail) from None
    return Renewed(expires_at=None if expires_at is None else int(expires_at * 1000))


# --- one's own account -------------------------------------------------------------------------------------------------------


class Person(Answer):
    """How a person shows itself."""

    mid: int
    name: str
    avatar: str
    extra: dict[str, JsonValue]


class Account(Person):
    """An account, for whose it is and for admins."""

    login: str
    role: AccountRole
    state: State
    reason: str = Field("", description="of a suspension")
    created_at: Millis


class Change(Args):
    """What is to be different; what is left out stays."""

    name: Name | None = None
    avatar: Avatar | None = None
    extra: Extra | None = Field(None, description="what the application keeps with a person; all of it is replaced")


class PasswordChange(Device):
    """The password of today, and the one of tomorrow. What is left out of the device is as it was at its login."""

    key: Key | None = Field(None, description="the device's own name; left out: the one that it has")
    old: Password
    new: NewPassword

    def renewed(self, before: Told) -> Told:
        """As it is kept with the new login."""
        given = {name: getattr(self.told(before.key), name) for name in Told._fields if name in self.model_fields_set}
        return before._replace(**given)


@verb("account.show", "GET", "/v1/account", answer=Account, errors=(NoSuchAccount,))
async def show(caller: Caller, means: Means, args: Nothing) -> Account:
    """Your own account."""
    return _account(await _found(means, caller.mid))


@verb("account.change", "PATCH", "/v1/account", answer=Place, errors=(NoSuchAccount, AccountInactive))
async def change(caller: Caller, means: Means, args: Change) -> Place:
    """Change how you show yourself: name, avatar, and what the application keeps with you."""
    return _place(await means.accounts.change(caller.identity, name=args.name, avatar=args.avatar, extra=args.extra))


@verb(
    "account.password",
    "PUT",
    "/v1/account/password",
    has_secrets=True,
    answer=LoggedIn,
    errors=(WrongLogin, NoSuchAccount, AccountInactive, Overloaded),
    doors=("http",),
)
async def password(caller: Caller, means: Means, args: PasswordChange) -> LoggedIn:
    """Change your password. Every login is over, on this device too, which is logged in anew by the answer, under the same key."""
    before = await means.accounts.told(caller.identity) or Told(_new_key(), "", "", None)
    told = args.renewed(before)
    granted = await means.accounts.change_password(caller.identity, args.old, args.new, told, caller.address)
    return await _logged_in(means, granted, args.region)


@verb(
    "account.deactivate",
    "DELETE",
    "/v1/account",
    answer=Place,
    errors=(NoSuchAccount, AccountInactive, Forbidden),
    has_secrets=True,
)
async def deactivate(caller: Caller, means: Means, args: Nothing) -> Place:
    """Give your account up, for good. Its name stays taken.

    It stays a member of its rooms, and what it said is still said by it. The last owner of a room in which others are makes somebody
    else owner first, or dismisses the room.
    """
    return _place(await means.accounts.deactivate(caller.identity))


class Someone(Args):
    """A person."""

    mid: Mid


@verb("accounts.profile", "GET", "/v1/people/{mid}", answer=Person, errors=(NoSuchAccount,))
async def profile(caller: Caller, means: Means, args: Someone) -> Person:
    """How a person shows itself."""
    found = await _found(means, args.mid)
    return Person(mid=found.mid, name=found.name, avatar=found.avatar, extra=orjson.loads(found.extra))


class LoggedInDevice(Answer):
    """A login that is not over."""

    key: str
    platform: str
    address: str
    since: Millis
    sid: str
    current: bool = Field(description="it is the one that asks")


class Devices(Answer):
    """The newest first."""

    devices: list[LoggedInDevice]


class OneDevice(Args):
    """The device's own name."""

    key: Key


@verb("devices.list", "GET", "/v1/devices", answer=Devices)
async def devices(caller: Caller, means: Means, args: Nothing) -> Devices:
    """The devices on which you are logged in."""
    found = await queries.logins(means.pool, caller.mid, DEVICES_MAX)
    return Devices(
        devices=[
            LoggedInDevice(
                key=one.key,
                platform=one.platform,
                address=one.address,
                since=one.since_ms,
                sid=one.sid,
                current=one.sid == caller.identity.sid,
            )
            for one in found
        ]
    )


@verb("devices.remove", "DELETE", "/v1/devices/{key}", answer=Place)
async def remove_device(caller: Caller, means: Means, args: OneDevice) -> Place:
    """Log a device of yours out."""
    return _place(await means.accounts.remove_device(caller.identity, args.key))


# --- what admins do ------------------------------------------------------------------------------------------------------------


class AccountsPage(Args):
    """Which accounts."""

    after: Annotated[int, Field(ge=0, le=INT64_MAX)] = 0
    limit: Limit = 100
    state: State | None = None
    search: Annotated[Line, Field(max_length=NAME_CHARACTERS_MAX)] = Field(
        "", description="a part of a login or a name"
    )


class ListedAccounts(Answer):
    """A page, in order of mid."""

    accounts: list[Account]
    next: int | None = Field(None, description="where the next page goes on: give it as `after`")


class Suspension(Args):
    """Whose, and why."""

    mid: AccountMid
    reason: Annotated[Line, Field(max_length=REASON_CHARACTERS_MAX)] = ""


class OneAccount(Args):
    """Whose."""

    mid: AccountMid


class NewRole(Args):
    """Whose, and what."""

    mid: AccountMid
    role: AccountRole


@verb("accounts.list", "GET", "/v1/accounts", answer=ListedAccounts)
async def accounts(caller: Caller, means: Means, args: AccountsPage) -> ListedAccounts:
    """The accounts that there are, page by page; with a search those whose login or name has it in."""
    # Not what for: people search for what they know of somebody, such as an e-mail address, and the log forgets nothing.
    await write_down(caller, means, "accounts.list", detail="a search" if args.search else "")
    found = await queries.accounts(means.pool, args.after, args.state, args.search.casefold(), args.limit + 1)
    return page(ListedAccounts, "accounts", [_account(one) for one in found], args.limit, "mid")


_ON_OTHERS: Final = (NoSuchAccount, AccountInactive, Forbidden)


@verb("accounts.suspend", "PUT", "/v1/accounts/{mid}/suspension", answer=Place, errors=_ON_OTHERS)
async def suspend(caller: Caller, means: Means, args: Suspension) -> Place:
    """Suspend an account: it is logged out everywhere and cannot log in, until the suspension is lifted."""
    return _place(await means.accounts.suspend(args.mid, caller.identity, args.reason))


@verb("accounts.restore", "DELETE", "/v1/accounts/{mid}/suspension", answer=Place, errors=_ON_OTHERS)
async def restore(caller: Caller, means: Means, args: OneAccount) -> Place:
    """Lift a suspension."""
    return _place(await means.accounts.restore(args.mid, caller.identity))


@verb("accounts.set_role", "PUT", "/v1/accounts/{mid}/role", answer=Place, errors=_ON_OTHERS)
async def set_role(caller: Caller, means: Means, args: NewRole) -> Place:
    """Say what somebody is to the whole server. One's own role is the highest to give, and nobody raises himself."""
    return _place(await means.accounts.set_role(args.mid, caller.identity, args.role))


class NewCode(Args):
    """An invitation code."""

    uses: Annotated[int, Field(ge=1, le=USES_MAX)] = 1
    expires_in_s: Annotated[int, Field(ge=60, le=CODE_S_MAX)] = 604_800
    note: Annotated[Line, Field(max_length=REASON_CHARACTERS_MAX)] = ""


class Code(Answer):
    """The code: this is the only time that it is told."""

    code: str
    uses: int
    expires_at: Millis


@verb("codes.create", "POST", "/v1/codes", answer=Code, status=201, errors=(AccountInactive,), has_secrets=True)
async def create_code(caller: Caller, means: Means, args: NewCode) -> Code:
    """Make an invitation code, for a service on which one needs it to register."""
    code, expires_at = await means.accounts.invite(
        caller.identity, uses=args.uses, note=args.note, expires_in_s=args.expires_in_s
    )
    return Code(code=code, uses=args.uses, expires_at=expires_at)


class AuditPage(Args):
    """Which acts."""

    after: Annotated[int, Field(ge=1, le=INT64_MAX)] | None = Field(
        None, description="go on behind this one, towards the older"
    )
    limit: Limit = 100


class Act(Answer):
    """What somebody did by a right over others: `by` is who, 0 for a backend; `room` and `mid` are where and to whom; `detail` is what
    the verb does not say: a reason, the role given, the seq of a message, the first of many people."""

    seq: int
    position: int
    at: Millis
    by: int
    role: str
    verb: str
    room: str
    mid: int | None
    detail: str


class Audit(Answer):
    """The newest first."""

    acts: list[Act]
    next: int | None = Field(None, description="where the next page goes on: give it as `after`")


@verb("audit.list", "GET", "/v1/audit", answer=Audit)
async def audit(caller: Caller, means: Means, args: AuditPage) -> Audit:
    """What admins and moderators did to others, or saw of them, by that right alone; and what backends did to accounts.

    What a backend does in a room stands in the room, as done by nobody (`mid` 0) or by the person whom it named.
    """
    before = args.after or (await means.reads.reader.stream_head(AUDIT)).seq + 1
    found = await means.reads.reader.read_back(AUDIT, before, args.limit + 1)
    table().check("audit.list", await as_now(caller, means))
    return page(Audit, "acts", [_act(event) for event in found], args.limit, "seq")


# --- inside --------------------------------------------------------------------------------------------------------------------


def _act(event: Recorded) -> Act:
    fact = event.fact
    assert isinstance(fact, AdminActed), "nothing else is in this stream"
    return Act(
        seq=event.seq,
        position=event.position,
        at=event.time_ms,
        by=event.mid,
        role=fact.role,
        verb=fact.verb,
        room=fact.room,
        mid=fact.mid,
        detail=fact.detail,
    )


def _registered(made: Made, login: str) -> Registered:
    state: State = "active" if made.state == "active" else "pending"
    return Registered(mid=made.mid, login=names.login_name(login), state=state, code_sent=made.code_sent)


def _place(events: Sequence[Recorded]) -> Place:
    return Place(position=events[0].position, seq=events[0].seq) if events else Place(unchanged=True)


async def _found(means: Means, mid: int) -> queries.Shown:
    found = await queries.account(means.pool, mid)
    if found is None:
        raise NoSuchAccount
    return found


def _account(found: queries.Shown) -> Account:
    role: AccountRole = "admin" if found.role == "admin" else "moderator" if found.role == "moderator" else "user"
    states: tuple[State, ...] = ("pending", "active", "suspended", "deactivated")
    return Account(
        mid=found.mid,
        name=found.name,
        avatar=found.avatar,
        extra=orjson.loads(found.extra),
        login=found.login,
        role=role,
        state=next(state for state in states if state == found.state),
        reason=found.reason,
        created_at=found.created_ms,
    )


def _new_key() -> str:
    return f"d{secrets.token_hex(12)}"


async def _logged_in(means: Means, granted: Granted, region: str) -> LoggedIn:
    settings, told = means.settings, granted.told
    chosen = means.accounts.balancer.choose(await means.accounts.nodes(), region or settings.region)
    to = directions(chosen, told.platform, settings.advertise)
    auth = GoimAuth(
        mid=granted.mid,
        key=told.key,
        room_id=told.room_id,
        platform=told.platform,
        token=granted.access.token,
        **({} if told.accepts is None else {"accepts": list(told.accepts)}),
    )
    roles: tuple[Literal["guest", "user", "moderator", "admin"], ...] = ("guest", "user", "moderator", "admin")
    return LoggedIn(
        mid=granted.mid,
        role=next(role for role in roles if role == granted.role),
        sid=granted.sid,
        token=granted.access.token,
        expires_in_s=granted.access.expires_in_s,
        refresh_token=granted.refresh_token,
        refresh_expires_in_s=int(settings.refresh_token_s),
        auth=auth,
        connect=Comets(
            tcp=[f"{_host(host)}:{tcp}" for host, tcp, _, _ in to.comets if tcp],
            ws=[f"ws://{_host(host)}:{ws}/sub" for host, _, ws, _ in to.comets if ws],
            wss=[f"wss://{_host(host)}:{wss}/sub" for host, _, _, wss in to.comets if wss],
            domain=to.domain,
            nodes=to.hosts,
            tcp_port=to.tcp_port,
            ws_port=to.ws_port,
            wss_port=to.wss_port,
        ),
        send_to=settings.advertise.http_url.rstrip("/") + SEND_PATH,
        heartbeat_s=settings.heartbeat_s,
        heartbeat_misses=settings.heartbeat_misses,
        backoff=Backoff(**BACKOFF),
    )


def _host(host: str) -> str:
    """As it stands in a URL."""
    return f"[{host}]" if ":" in host else host


VERBS: Final[tuple[AnyVerb, ...]] = (
    register,
    send_code,
    activate,
    login,
    refresh,
    guest,
    logout,
    ticket,
    renew,
    show,
    change,
    password,
    deactivate,
    profile,
    devices,
    remove_device,
    accounts,
    suspend,
    restore,
    set_role,
    create_code,
    audit,
)
