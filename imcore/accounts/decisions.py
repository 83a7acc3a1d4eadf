"""What may happen to an account, decided under the lock of the log on its rows as they are there.

Who asks is looked at again here: the token of an admin who is none any more says admin for some seconds yet. What is done to others
is told twice: in the account's stream, where it is effective, and in the audit stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from imcore import roles
from imcore.errors import AccountInactive, Forbidden, ImcoreError, NameTaken, NoSuchAccount, WrongCode, WrongLogin
from imcore.events.store import Decision, Draft, Key, Rows, draft, row_of
from imcore.events.types import (
    AUDIT,
    ROOM,
    SERVICE_MID,
    USER,
    AccountActivated,
    AccountDeactivated,
    AccountRegistered,
    AccountRole,
    AccountSuspended,
    AdminActed,
    Fact,
    LoggedIn,
    LoggedOut,
    LoginExpired,
    PasswordChanged,
    PlatformRoleChanged,
    ProfileChanged,
    RoleChanged,
    SuspensionLifted,
)
from imcore.permissions import PLATFORM_RANK_OF, Actor, PlatformRole, table
from imcore.projections.accounts import ACTIVE, DEACTIVATED, PENDING, SUSPENDED, Account
from imcore.projections.code_uses import CodeUses
from imcore.projections.rooms import Room
from imcore.roles import account_key, account_of, lesser, role_of

GUEST: Final[PlatformRole] = "guest"


class MidTaken(ImcoreError):
    """Somebody has this member id; choose another."""

    code, retry, status, close = "mid_taken", True, 409, None


def handle_key(handle: str) -> Key:
    """The row of a name."""
    return ("handles", (handle,))


def code_key(name: str) -> Key:
    """The row of an invitation code."""
    return ("code_uses", (name,))


def login_keys(mid: int, sids: Sequence[str]) -> list[Key]:
    """The rows that the end of these logins changes."""
    return [("logouts", (mid,)), *(("logins", (mid, sid)) for sid in sids)]


class Register(Decision):
    """A new account, made by whose it will be, an admin or a service. Raises NameTaken, WrongCode for an invitation code that `uses`
    many have used, MidTaken for a member id that somebody has, and Forbidden for who is no admin any more."""

    __slots__ = ("by", "fact", "uses")

    def __init__(self, fact: AccountRegistered, by: Actor, uses: int = 0) -> None:
        audited = by.mid != fact.mid
        super().__init__(
            [
                account_key(fact.mid),
                handle_key(fact.handle),
                *([code_key(fact.code)] if fact.code else []),
                *roles.keys(by),
            ],
            [f"{USER}{fact.mid}", *([AUDIT] if audited else [])],
            creates=True,
        )
        self.fact, self.by, self.uses = fact, by, uses

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One registration."""
        by = roles.now(rows, self.by)
        if by.mid != self.fact.mid and by.role not in ("service", "admin"):
            raise Forbidden
        if rows[handle_key(self.fact.handle)] is not None:
            raise NameTaken
        if self.fact.code:
            uses = row_of(rows, CodeUses, "code_uses", self.fact.code)
            if uses is not None and uses.used >= self.uses:
                raise WrongCode
        if account_of(rows, self.fact.mid) is not None:
            raise MidTaken
        return [
            draft(f"{USER}{self.fact.mid}", self.fact, by.mid),
            *_audit("accounts.register", self.fact.mid, by, self.fact.role),
        ]


class OnAccount(Decision):
    """Something that is done to one account: by whose it is, or by somebody of a higher role. Raises NoSuchAccount, Forbidden."""

    __slots__ = ("actor", "mid", "operation")

    def __init__(self, operation: str, mid: int, actor: Actor, *, more: Sequence[Key] = ()) -> None:
        keys = [account_key(who) for who in dict.fromkeys((mid, actor.mid)) if who > 0]
        super().__init__([*keys, *more], [f"{USER}{mid}", AUDIT], creates=True)
        self.operation, self.mid, self.actor = operation, mid, actor

    @property
    def is_own(self) -> bool:
        """Does somebody do it to itself?"""
        return self.mid == self.actor.mid

    def account(self, rows: Rows) -> Account:
        """The account, if it may be done to it by who asks."""
        actor = _active(rows, self.actor)
        account = account_of(rows, self.mid) if self.mid > 0 else None
        rank = 0 if account is None else PLATFORM_RANK_OF[role_of(account)]
        table().check(self.operation, actor, is_own=self.is_own, target_rank=rank)
        self.actor = actor
        if account is None:
            raise NoSuchAccount
        return account

    def say(self, fact: Fact, note: str = "") -> Sequence[Draft]:
        """It happened."""
        return [
            draft(f"{USER}{self.mid}", fact, self.actor.mid),
            *_audit(self.operation, self.mid, self.actor, note),
        ]


class Activate(OnAccount):
    """It may be used. With `by_code` whoever asks has shown the code that was sent to whose it is. Active accounts stay as they are."""

    __slots__ = ("by_code",)

    def __init__(self, mid: int, actor: Actor, *, by_code: bool) -> None:
        super().__init__("accounts.activate", mid, Actor(mid, "user") if by_code else actor)
        self.by_code = by_code

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One activation, or none."""
        if self.by_code:
            account = account_of(rows, self.mid)
            if account is None:
                raise NoSuchAccount
        else:
            account = self.account(rows)
            if self.is_own and account.state == PENDING:
                raise Forbidden
        if account.state == ACTIVE:
            return []
        if account.state != PENDING:
            raise AccountInactive(f"the account is {account.state}")
        return self.say(AccountActivated(mid=self.mid))


class ChangeProfile(OnAccount):
    """How the person shows itself. Names that are None stay as they are."""

    __slots__ = ("avatar", "extra", "name")

    def __init__(self, mid: int, actor: Actor, *, name: str | None, avatar: str | None, extra: object | None) -> None:
        super().__init__("account.change", mid, actor)
        self.name, self.avatar, self.extra = name, avatar, extra

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One change, or none."""
        account = self.account(rows)
        changed = ProfileChanged.model_validate(
            {
                "mid": self.mid,
                "name": account.name if self.name is None else self.name,
                "avatar": account.avatar if self.avatar is None else self.avatar,
                "extra": orjson.loads(account.extra) if self.extra is None else self.extra,
            }
        )
        if (changed.name, changed.avatar, changed.extra) == (
            account.name,
            account.avatar,
            orjson.loads(account.extra),
        ):
            return []
        return self.say(changed)


class ChangePassword(OnAccount):
    """The password is another, every login is over, and this device has a new one. `before` is the credential that was compared
    with."""

    __slots__ = ("before", "credential", "login", "sids")

    def __init__(
        self, mid: int, actor: Actor, *, before: str, credential: str, login: LoggedIn, sids: Sequence[str]
    ) -> None:
        super().__init__("account.password", mid, actor, more=login_keys(mid, (*sids, login.sid)))
        self.before, self.credential, self.login, self.sids = before, credential, login, tuple(sids)

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """The change, the end of all logins, and the new one."""
        if self.account(rows).credential != self.before:
            raise WrongLogin("the password was changed in the meantime")
        ended = LoggedOut(mid=self.mid, sids=self.sids, everywhere=True)
        return [
            *self.say(PasswordChanged(mid=self.mid, credential=self.credential)),
            draft(f"{USER}{self.mid}", ended, self.actor.mid),
            draft(f"{USER}{self.mid}", self.login, self.actor.mid),
        ]


class Suspend(OnAccount):
    """It cannot be used until the suspension is lifted, and every login is over. Again: only the reason may be new."""

    __slots__ = ("reason", "sids")

    def __init__(self, mid: int, actor: Actor, *, reason: str, sids: Sequence[str]) -> None:
        super().__init__("accounts.suspend", mid, actor, more=login_keys(mid, sids))
        self.reason, self.sids = reason, tuple(sids)

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One suspension, or none."""
        account = self.account(rows)
        if self.is_own:
            raise Forbidden
        if account.state == DEACTIVATED:
            raise AccountInactive("the account was given up")
        if account.state == SUSPENDED and account.reason == self.reason:
            return []
        return self.say(AccountSuspended(mid=self.mid, reason=self.reason, sids=self.sids), self.reason)


class Restore(OnAccount):
    """The suspension is lifted. An account that was pending is pending again."""

    __slots__ = ()

    def __init__(self, mid: int, actor: Actor) -> None:
        super().__init__("accounts.restore", mid, actor, more=login_keys(mid, ()))

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One lifting, or none."""
        account = self.account(rows)
        if self.is_own:
            raise Forbidden
        return self.say(SuspensionLifted(mid=self.mid)) if account.state == SUSPENDED else []


class Deactivate(OnAccount):
    """Whose it is gives it up, for good. Not the last owner of a room in which others are, who could not leave it either. Where there
    are more owners it is a member from here on, so that whoever is the last one is known.

    `rooms` are those with others in them that it owned a moment ago; what it was given since is not asked.
    """

    __slots__ = ("rooms", "sids")

    def __init__(self, mid: int, actor: Actor, *, sids: Sequence[str], rooms: Sequence[str] = ()) -> None:
        owned = [key for room in rooms for key in (("rooms", (room,)), ("members", (room, mid)))]
        super().__init__("account.deactivate", mid, actor, more=[*login_keys(mid, sids), *owned])
        self.streams = [*self.streams, *(ROOM + room for room in rooms)]
        self.sids, self.rooms = tuple(sids), tuple(rooms)

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One end, and behind it the roles that end too; or none."""
        if self.account(rows).state == DEACTIVATED:
            return []
        steps_down = []
        for name in self.rooms:
            room = row_of(rows, Room, "rooms", name)
            if room is None or self.mid not in room.owners or room.dismissed:
                continue
            if len(room.owners) > 1:
                fact = RoleChanged(room=name, mid=self.mid, role="member")
                steps_down.append(draft(ROOM + name, fact, self.actor.mid))
            elif room.members > 1:
                raise Forbidden(f"the last owner of {name} makes somebody else owner first, or dismisses the room")
        return [*self.say(AccountDeactivated(mid=self.mid, sids=self.sids)), *steps_down]


class SetRole(OnAccount):
    """Somebody above gives another role, up to its own. Nobody raises itself; a backend is above all."""

    __slots__ = ("role",)

    def __init__(self, mid: int, actor: Actor, role: AccountRole) -> None:
        super().__init__("accounts.set_role", mid, actor, more=login_keys(mid, ()))
        self.role = role

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One change, or none."""
        account = self.account(rows)
        rank = PLATFORM_RANK_OF[self.role]
        if rank > PLATFORM_RANK_OF[self.actor.role]:
            raise Forbidden
        if account.role == self.role:
            return []
        return self.say(PlatformRoleChanged(mid=self.mid, role=self.role), self.role)


class LogIn(Decision):
    """A login, if the account is active here and its password is the one that was compared. `credential` None: no account, a guest."""

    __slots__ = ("credential", "fact", "role")

    def __init__(self, fact: LoggedIn, credential: str | None) -> None:
        keys: list[Key] = [("logins", (fact.mid, fact.sid))]
        if credential is not None:
            keys.append(account_key(fact.mid))
        super().__init__(keys, [f"{USER}{fact.mid}"], creates=True)
        self.fact, self.credential = fact, credential
        self.role: PlatformRole = GUEST  # what it is here: its token will say so

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One login."""
        if self.credential is not None:
            account = account_of(rows, self.fact.mid)
            if account is None or account.credential != self.credential:
                raise WrongLogin("the password was changed in the meantime")
            if account.state != ACTIVE:
                raise AccountInactive(f"the account is {account.state}")
            self.role = role_of(account)
        return [draft(f"{USER}{self.fact.mid}", self.fact, self.fact.mid)]


class LogOut(Decision):
    """These logins of a person are over, or, `everywhere`, all that began before."""

    __slots__ = ("by", "everywhere", "mid", "sids")

    def __init__(self, mid: int, sids: Sequence[str], by: int, *, everywhere: bool = False) -> None:
        super().__init__(login_keys(mid, sids), [f"{USER}{mid}"], creates=True)
        self.mid, self.sids, self.by, self.everywhere = mid, tuple(sids), by, everywhere

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One logout, or none if none of them is there."""
        sids = [sid for sid in self.sids if rows["logins", (self.mid, sid)] is not None]
        if not sids and not self.everywhere:
            return []
        fact = LoggedOut(mid=self.mid, sids=tuple(sids), everywhere=self.everywhere)
        return [draft(f"{USER}{self.mid}", fact, self.by)]


class ExpireLogins(Decision):
    """These logins, each of a person, were not refreshed in time. Of those that are over already nothing is said."""

    __slots__ = ("logins",)

    def __init__(self, logins: Sequence[tuple[int, str]]) -> None:
        self.logins = tuple(dict.fromkeys(logins))
        keys = [key for mid, sid in self.logins for key in self._keys(mid, sid)]
        super().__init__(list(dict.fromkeys(keys)), sorted({f"{USER}{mid}" for mid, _ in self.logins}), creates=True)

    @staticmethod
    def _keys(mid: int, sid: str) -> list[Key]:
        """A guest is forgotten with its login."""
        return [("logins", (mid, sid)), *([("logouts", (mid,))] if mid < 0 else [])]

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One end for each that is there."""
        return [
            draft(f"{USER}{mid}", LoginExpired(mid=mid, sid=sid), SERVICE_MID)
            for mid, sid in self.logins
            if any(rows[key] is not None for key in self._keys(mid, sid))
        ]


class Note(Decision):
    """An admin's act that changes nothing in the log, such as making an invitation code."""

    __slots__ = ("actor", "note", "operation")

    def __init__(self, operation: str, actor: Actor, note: str = "") -> None:
        keys = [account_key(actor.mid)] if actor.mid > 0 else []
        super().__init__(keys, [AUDIT], creates=True)
        self.operation, self.actor, self.note = operation, actor, note

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One line of the audit."""
        actor = _active(rows, self.actor)
        table().check(self.operation, actor)
        return [draft(AUDIT, AdminActed(verb=self.operation, role=actor.role, detail=self.note), actor.mid)]


class Look(Decision):
    """A moderator or an admin looks at what is others', by what it is on the platform. Raises what the permission table says of what it
    is here, and Unauthenticated."""

    __slots__ = ("actor", "mid", "note", "operation")

    def __init__(self, operation: str, actor: Actor, mid: int | None = None, note: str = "") -> None:
        super().__init__(roles.keys(actor), [AUDIT], creates=True)
        self.operation, self.actor, self.mid, self.note = operation, actor, mid, note

    def decide(self, rows: Rows) -> Sequence[Draft]:
        """One line of the audit."""
        actor = roles.now(rows, self.actor)
        table().check(self.operation, actor)
        fact = AdminActed(verb=self.operation, role=actor.role, mid=self.mid, detail=self.note)
        return [draft(AUDIT, fact, actor.mid)]


def _active(rows: Rows, actor: Actor) -> Actor:
    """Whoever does something by an account, as the lesser of what its token and the account say. Raises AccountInactive."""
    own = account_of(rows, actor.mid) if actor.mid > 0 else None
    if own is None:
        return actor
    if own.state != ACTIVE:
        raise AccountInactive(f"your account is {own.state}")
    return lesser(actor, own.role)


def _audit(operation: str, mid: int, actor: Actor, note: str) -> list[Draft]:
    """What is done to others is written down for those who look after this service."""
    if actor.mid == mid:
        return []
    fact = AdminActed(verb=operation, role=actor.role, mid=mid, detail=note)
    return [draft(AUDIT, fact, actor.mid)]
