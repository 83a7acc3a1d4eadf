"""Accounts at work: registering, logging in, refreshing, logging out, and what admins do to others.

What becomes of an account is decided in the log (`decisions`); here is what stands around that: passwords, tokens, codes, and how often
somebody may try. No secret is written after the event that needs it, and none is worth anything before.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from imcore.accounts import keeping, names, queries
from imcore.accounts.decisions import (
    Activate,
    ChangePassword,
    ChangeProfile,
    Deactivate,
    ExpireLogins,
    LogIn,
    LogOut,
    MidTaken,
    Note,
    Register,
    Restore,
    SetRole,
    Suspend,
)
from imcore.accounts.doors import Doors
from imcore.accounts.passwords import Passwords, check_password
from imcore.accounts.revocations import Revocations
from imcore.accounts.tokens import Access, Issuer, Told, kept
from imcore.accounts.webhook import Webhook
from imcore.auth import Identity, OwnKeys, verifier_of
from imcore.balancer import Balancer
from imcore.config import Settings
from imcore.database import DATABASE_ERRORS, connect, create_pool, heed_cancellation
from imcore.errors import (
    AccountInactive,
    BadConfiguration,
    BadRequest,
    Forbidden,
    ImcoreError,
    NameTaken,
    NoSuchAccount,
    Overloaded,
    RateLimited,
    Unauthenticated,
    Unavailable,
    WrongCode,
    WrongLogin,
)
from imcore.events.names import Pool
from imcore.events.store import Log
from imcore.events.types import SERVICE_MID, AccountRegistered, AccountRole, LoggedIn, Recorded
from imcore.membership import GuestLeaves
from imcore.nodes import AliveNode
from imcore.paces import Paces
from imcore.permissions import Actor, PlatformRole
from imcore.projections.accounts import ACTIVE, PENDING
from imcore.projections.inline import InlineProjections
from imcore.protocol.packet import INT64_MIN
from imcore.proxies import subnet
from imcore.roles import role_named

log = logging.getLogger(__name__)

MID_BELOW: Final = 2**53  # what JavaScript can count
MID_TRIES: Final = 8
SWEEP_S: Final = 60.0
SWEEP_LOGINS_MAX: Final = 100  # in one append
STRAYS_S: Final = 3_600.0  # between looks at all logins and guests, for those that no refresh token is of
LEAVES_MAX: Final = 100  # of guests, at once; a logout waits for no more
LOGINS_MAX: Final = 1_000  # of one person, that one logout ends by name; all others end too, and keep a row
CODES_PER_S: Final = 1 / 60  # sent again for one account: whoever has it chooses where the mails go
CODES_BURST: Final = 3
ADDRESSES: Final = 10  # an account is tried as fast as from so many of them, however many there are

K = TypeVar("K", str, int, tuple[str, str])
Nodes = Callable[[], Awaitable[Sequence[AliveNode]]]


class Granted(NamedTuple):
    """A login, and what it is worth: the tokens of it."""

    mid: int
    role: PlatformRole
    sid: str
    told: Told
    access: Access
    refresh_token: str


class Registered(NamedTuple):
    """An account that waits for its activation, or does not. `code_sent`: the webhook took a code for it, None if it needs none."""

    mid: int
    state: str
    code_sent: bool | None


class Accounts:
    """Everything that a process does with accounts. `begin` must be awaited before anybody is let in, `run` is its task."""

    def __init__(
        self,
        settings: Settings,
        events: Log,
        pool: Pool,
        *,
        nodes: Nodes,
        keys: OwnKeys,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.nodes = nodes
        self.balancer = Balancer()
        self.passwords = Passwords(settings)
        self.webhook = Webhook(settings)
        self.revocations = Revocations(settings.auth_leeway_s)
        self.doors = Doors(settings, verifier_of(settings, keys), self.revocations, pool, self.webhook)
        self._log = events
        self._pool = pool
        self._issuer = Issuer(settings, keys)
        self._clock = clock
        self._strays_at = clock()  # when to look for logins without a refresh token again
        per_s, burst = settings.logins_per_account_per_s, settings.logins_per_account_burst
        self.tries: Paces[tuple[str, str]] = Paces(per_s, burst)  # of an account from an address
        self.guesses: Paces[str] = Paces(ADDRESSES * per_s, ADDRESSES * burst)  # of an account from all of them
        self.comings: Paces[str] = Paces(settings.logins_per_address_per_s, settings.logins_per_address_burst)
        self.codes: Paces[int] = Paces(CODES_PER_S, CODES_BURST)
        self._paces: tuple[Paces[Any], ...] = (self.tries, self.guesses, self.comings, self.codes)

    async def begin(self) -> None:
        """Know what was taken back, before any door opens."""
        await self.revocations.begin(self._pool)

    async def run(self, *, follows: bool, sweeps: bool) -> None:
        """Follow what is taken back elsewhere, if no comet of this process does; forget secrets that have expired. For ever."""
        async with asyncio.TaskGroup() as tasks:
            if follows:
                tasks.create_task(self.revocations.follow(self._pool))
            if sweeps:
                tasks.create_task(self._sweep())

    async def sweep(self) -> int:
        """Say of each login that has expired that it is over, a few in an append, and forget secrets that have; how many logins. Take
        guests whose login is over out of their rooms: those, and those who logged out where nobody came to it.

        The first time and once an hour also each login that no refresh token is of: processes of before migration 0014 forget those
        alone; and all guests who are in rooms and have no login, however that came.

        The trap: a guest is known by its refresh token, so that is not forgotten before the guest is out. Whoever dies before leaves it
        to the next who looks.

        Any number of processes may: of a login that another has swept meanwhile nothing is said. Raises what the database raises,
        Overloaded and Unavailable.
        """
        swept = 0
        while expired := await keeping.take_expired(self._pool, SWEEP_LOGINS_MAX):
            swept += len(await self._log.decide(ExpireLogins([(one.mid, one.sid) for one in expired])))
            guests = [one.mid for one in expired if one.mid < 0]
            if guests and not await self._take_out(guests):
                break  # the next sweep comes to them again
            await keeping.forget_read(self._pool, expired)
        await self._sweep_logged_out()
        await keeping.sweep(self._pool)
        if self._clock() >= self._strays_at:
            swept += await self._sweep_strays()
            await self._sweep_forgotten()
            self._strays_at = self._clock() + STRAYS_S
        return swept

    async def _sweep_strays(self) -> int:
        swept, after = 0, (INT64_MIN, "")
        while found := await keeping.strays(self._pool, after, SWEEP_LOGINS_MAX):
            swept += len(await self._log.decide(ExpireLogins(found)))
            after = found[-1]
        return swept

    async def _sweep_logged_out(self) -> None:
        least = INT64_MIN
        while found := await queries.guests_logged_out(self._pool, least, -1, SWEEP_LOGINS_MAX):
            await self._take_out(found)
            least = found[-1] + 1

    async def _sweep_forgotten(self) -> None:
        after = INT64_MIN
        while found := await queries.negative(self._pool, after, SWEEP_LOGINS_MAX):
            guests = await queries.guests_forgotten(self._pool, found)
            if guests:
                await self._take_out(guests)
            after = found[-1]

    async def _take_out(self, guests: Sequence[int]) -> bool:
        """Take these guests, whose logins are over, out of their rooms, a few at once. Are they out? Not if everybody who could own a
        room next left it in that moment."""
        while places := await queries.to_leave(self._pool, guests, LEAVES_MAX):
            if not await self._leave(places):
                return False
        return True

    async def _leave(self, places: Sequence[queries.Place]) -> int:
        """How many of these guests left these rooms; one decision for each, together in a batch."""
        leaves = (GuestLeaves(place.room, place.mid, heirs=place.heirs) for place in places)
        made = await asyncio.gather(*map(self._log.decide, leaves), return_exceptions=True)
        for one in made:
            if isinstance(one, BaseException):
                raise one
        return sum(map(bool, made))

    async def close(self) -> None:
        """Let go of threads and connections."""
        self.passwords.close()
        await self.webhook.close()

    def stats(self) -> dict[str, float]:
        """What the metrics show."""
        return {
            "accounts_passwords_under_way": self.passwords.under_way,
            "accounts_passwords_total": self.passwords.made,
            "accounts_passwords_refused_total": self.passwords.refused,
            "accounts_revocations": len(self.revocations),
            "accounts_paced": sum(len(paces) for paces in self._paces),
            "accounts_tries_limited_total": sum(paces.refused for paces in self._paces),
            "accounts_webhook_under_way": self.webhook.under_way,
            "accounts_webhook_failed_total": self.webhook.failed,
        }

    # --- coming to be ------------------------------------------------------------------------------------------------------

    async def register(
        self,
        login: str,
        password: str,
        *,
        by: Identity,
        address: str,
        name: str = "",
        invitation: str = "",
        email: str = "",
        role: AccountRole = "user",
    ) -> Registered:
        """A new account, under a member id that nobody had. A backend or an admin registers whom it likes; else the settings say who
        may.

        Raises BadRequest, NameTaken, WrongCode, Forbidden, RateLimited, Overloaded; Unavailable leaves it open whether it is there.
        """
        settings = self.settings
        is_trusted = by.role in ("service", "admin") and by.as_of is not None
        login = names.login_name(login)
        handle = names.handle(login)
        password = check_password(password)
        # Where an admin says who comes in, an address that can be mailed to says nothing.
        needs_code = bool(settings.activation_webhook_url) and settings.registration != "admin" and not is_trusted
        if not is_trusted:
            self._pace(self.comings, subnet(address))
            if settings.registration == "closed":
                raise Forbidden("nobody may register here")
            if needs_code and not email:
                raise BadRequest("email is missing: a code is sent there")
        self.passwords.check_room()
        if await queries.is_taken(self._pool, handle):
            raise NameTaken
        code: keeping.Code | None = None
        if settings.registration == "code" and not is_trusted:
            if not invitation:
                raise WrongCode("an invitation code is needed to register here")
            code = await keeping.invitation(self._pool, invitation)
            if code is None:
                raise WrongCode
        is_active = is_trusted or (settings.registration != "admin" and not needs_code)
        credential = await keeping.keep_credential(self._pool, await self.passwords.hash(password))
        as_who = by if is_trusted else None
        try:
            mid = await self._register(as_who, login, handle, name, role, is_active, credential, code)
        except Unavailable:
            raise  # it may be there, and then it needs its credential
        except ImcoreError:
            await keeping.forget_credential(self._pool, credential)
            raise
        sent = await self._send_code(mid, login, email) if needs_code else None
        return Registered(mid, ACTIVE if is_active else PENDING, sent)

    async def _register(
        self,
        by: Identity | None,
        login: str,
        handle: str,
        name: str,
        role: AccountRole,
        active: bool,
        credential: str,
        code: keeping.Code | None,
    ) -> int:
        for tried in range(MID_TRIES):
            mid = 1 + secrets.randbelow(MID_BELOW - 1)
            fact = AccountRegistered(
                mid=mid,
                login=login,
                handle=handle,
                name=name or login,
                role=role,
                active=active,
                credential=credential,
                code="" if code is None else code.name,
            )
            actor = Actor(mid, "user") if by is None else by.actor
            try:
                await self._log.decide(Register(fact, actor, 0 if code is None else code.uses))
            except MidTaken:
                log.info("a member id was taken; try %d", tried + 1)
            else:
                return mid
        raise Unavailable("no member id was found")

    async def _send_code(self, mid: int, login: str, email: str) -> bool:
        url = self.settings.activation_webhook_url
        assert url is not None, "asked before"
        try:
            code = await keeping.keep_activation(self._pool, mid, self.settings.activation_code_s)
            await self.webhook.tell(
                url, {"act": "activation", "mid": mid, "login": login, "email": email, "code": code}
            )
        except Unavailable:
            return False  # an admin may activate it
        except DATABASE_ERRORS as error:
            heed_cancellation()
            log.warning("an activation code cannot be kept: %s", error)
            return False  # the account is there: to be told to try again would lead to a name that is taken
        return True

    async def send_code(self, login: str, password: str, email: str, address: str) -> Registered:
        """Another code for an account that waits for its activation, sent to this address; the one before it is worth nothing from here
        on. Of an account that is active: that it is.

        The password is asked for because the address is kept nowhere: without it anybody could have the code of anybody's account,
        and a backend that remembers addresses would take the last one for its owner's. Raises WrongLogin, AccountInactive,
        RateLimited, Overloaded, and Forbidden where no codes are sent.
        """
        known = await self._known(login, password, address)
        shown = await queries.account(self._pool, known.mid)
        assert shown is not None, "accounts stay"
        if shown.state == ACTIVE:
            return Registered(known.mid, ACTIVE, None)
        if shown.state != PENDING:
            raise AccountInactive(f"the account is {shown.state}")
        if not self.settings.activation_webhook_url or self.settings.registration == "admin":
            raise Forbidden("no activation codes are sent here")
        self._pace(self.codes, known.mid)
        return Registered(known.mid, PENDING, await self._send_code(known.mid, shown.login, email))

    async def activate(self, mid: int, by: Identity, code: str, address: str) -> list[Recorded]:
        """It may be used: who has the code that was sent, or an admin, says so. Raises WrongCode, NoSuchAccount, Forbidden."""
        if not code:
            return await self._log.decide(Activate(mid, by.actor, by_code=False))
        self._pace(self.comings, subnet(address))
        self._pace_try(f"code {mid}", address)
        # In mode admin no code is good: one may have been sent before that was set.
        if self.settings.registration == "admin" or not await keeping.is_activation(self._pool, mid, code):
            raise WrongCode
        made = await self._log.decide(Activate(mid, by.actor, by_code=True))
        # Not before: whoever is told to try again has the code still. It is for this account alone, which it does nothing to twice.
        await keeping.forget_activation(self._pool, mid)
        return made

    # --- logging in, and out -----------------------------------------------------------------------------------------------

    async def log_in(self, login: str, password: str, told: Told, address: str) -> Granted:
        """A login with a password. Raises WrongLogin, AccountInactive, RateLimited, Overloaded."""
        known = await self._known(login, password, address)
        await self._hash_anew(known, password)
        return await self._begin(known.mid, known.credential, told, address)

    async def _known(self, login: str, password: str, address: str) -> queries.Known:
        """Whose name and password these are. A name that nobody has takes as long, and is told the same.

        Raises WrongLogin, RateLimited, Overloaded.
        """
        self._pace(self.comings, subnet(address))
        self.passwords.check_room()
        login = names.login_name(login)
        handle = names.handle(login)
        self._pace_try(handle, address)
        known = await queries.by_name(self._pool, handle, login)
        await self._compare(known, password)
        assert known is not None, "nobody's password is never right"
        return known

    async def _compare(self, known: queries.Known | None, password: str) -> None:
        hash_ = None if known is None else known.hash
        if not await self.passwords.is_right(hash_, check_given(password)):
            raise WrongLogin

    async def _hash_anew(self, known: queries.Known, password: str) -> None:
        """With the parameters of today, if nobody waits: who was in line does not stand in it again, and a later login may do it."""
        if known.hash is not None and self.passwords.is_outdated(known.hash) and not self.passwords.is_busy:
            fresh = await self.passwords.hash(check_given(password))
            await keeping.rehash(self._pool, known.credential, known.hash, fresh)

    async def guest(self, told: Told, address: str) -> Granted:
        """Somebody without an account, under a negative member id of its own. Raises Forbidden, RateLimited."""
        if not self.settings.guests_allowed:
            raise Forbidden("guests may not come in here")
        self._pace(self.comings, subnet(address))
        return await self._begin(-1 - secrets.randbelow(MID_BELOW - 1), None, told, address)

    async def _begin(self, mid: int, credential: str | None, told: Told, address: str) -> Granted:
        fact = _logged_in(mid, told, address)
        refresh = await self._keep_refresh(fact, told)
        login = LogIn(fact, credential)
        try:
            event = (await self._log.decide(login))[-1]
        except Unavailable:
            raise  # the login may be there, and then its refresh token says when it expires
        except ImcoreError:
            await keeping.forget_families(self._pool, mid, [fact.sid])
            raise
        return self._granted(fact, login.role, event.position, told, refresh)

    async def _keep_refresh(self, fact: LoggedIn, told: Told) -> str:
        self._issuer.check()
        return await keeping.keep_refresh(self._pool, fact.mid, fact.sid, told.text(), self.settings.refresh_token_s)

    def _granted(self, fact: LoggedIn, role: PlatformRole, as_of: int, told: Told, refresh: str) -> Granted:
        access = self._issuer.access(fact.mid, role, fact.sid, as_of, told)
        return Granted(fact.mid, role, fact.sid, told, access, refresh)

    async def refresh(self, token: str, address: str) -> Granted:
        """A new access token, and a refresh token in the place of this one. One that was used before, and longer than
        `refresh_grace_s` ago, ends the login: two have it.

        Raises Unauthenticated, and Unavailable while nothing can be signed.
        """
        self._pace(self.comings, subnet(address))
        self._issuer.check()  # a token that is used up for no answer would be of two, soon
        found = await keeping.rotate(self._pool, token, self.settings.refresh_token_s, self.settings.refresh_grace_s)
        if found is None:
            raise Unauthenticated("the refresh token is none, or the login is over")
        if isinstance(found, keeping.Family):
            log.warning("a refresh token was used twice; its login is ended", extra={"mid": found.mid})
            await self.end_logins(found.mid, [found.sid], SERVICE_MID)
            raise Unauthenticated("the refresh token was used before; the login is over")
        (mid, sid, said), fresh = found
        now = await queries.standing(self._pool, mid, sid)
        if not now.is_on or (mid > 0 and now.state != ACTIVE):
            await self.end_logins(mid, [sid], SERVICE_MID)  # what ended all may not have named this one
            raise Unauthenticated("the login is over")
        role: PlatformRole = "guest" if now.role is None else role_named(now.role)
        told = Told.of(said)
        return Granted(mid, role, sid, told, self._issuer.access(mid, role, sid, now.position, told), fresh)

    async def log_out(self, who: Identity, *, everywhere: bool) -> list[Recorded]:
        """This login is over, or all of this person's. Raises BadRequest for a token that is of no login."""
        if everywhere:
            sids = await self._sids(who.mid)
            return await self.end_logins(who.mid, sids, who.mid, everywhere=True)
        if not who.sid:
            raise BadRequest("this token is of no login; its issuer can end it, or say everywhere")
        return await self.end_logins(who.mid, [who.sid], who.mid)

    async def remove_device(self, who: Identity, key: str) -> list[Recorded]:
        """The logins of the device with this key are over."""
        made: list[Recorded] = []
        while found := await queries.logins(self._pool, who.mid, LOGINS_MAX, key):
            made += await self.end_logins(who.mid, [one.sid for one in found], who.mid)
        return made

    async def end_logins(self, mid: int, sids: list[str], by: int, *, everywhere: bool = False) -> list[Recorded]:
        """These logins are over. A guest leaves its rooms; if they are many, the sweep sees to the rest."""
        made = await self._log.decide(LogOut(mid, sids, by, everywhere=everywhere))
        await keeping.forget_families(self._pool, mid, sids)
        if mid < 0:
            try:
                await self._leave(await queries.to_leave(self._pool, await self._over(mid), LEAVES_MAX))
            except (*DATABASE_ERRORS, Overloaded, Unavailable) as error:
                heed_cancellation()
                log.warning("a guest is in its rooms until the next sweep: %s", error, extra={"mid": mid})
        return made

    async def _over(self, mid: int) -> list[int]:
        """The same, if it is a guest whose login is over, and not only somebody with a negative member id."""
        return await queries.guests_logged_out(self._pool, mid, mid, 1)

    async def ticket(self, who: Identity, origin: str) -> str:
        """For one connection of a page of this origin, within seconds."""
        return await keeping.keep_ticket(self._pool, kept(who), origin, self.settings.ticket_s)

    # --- one's own account ---------------------------------------------------------------------------------------------------

    async def change(
        self, who: Identity, *, name: str | None, avatar: str | None, extra: object | None
    ) -> list[Recorded]:
        """How one shows oneself; None leaves it."""
        return await self._log.decide(ChangeProfile(who.mid, who.actor, name=name, avatar=avatar, extra=extra))

    async def told(self, who: Identity) -> Told | None:
        """What the device said of itself when it logged in; None for a token that is of no login."""
        said = await keeping.told(self._pool, who.mid, who.sid) if who.sid else None
        return None if said is None else Told.of(said)

    async def change_password(self, who: Identity, old: str, new: str, told: Told, address: str) -> Granted:
        """Another password. Every login is over, and this device has a new one. Raises WrongLogin, BadRequest."""
        new = check_password(new)
        self._pace(self.comings, subnet(address))
        self._pace_try(f"password {who.mid}", address)
        known = await queries.by_mid(self._pool, who.mid)
        if known is None:
            raise NoSuchAccount
        await self._compare(known, old)
        credential = await keeping.keep_credential(self._pool, await self.passwords.hash(new))
        sids = await self._sids(who.mid)
        fact = _logged_in(who.mid, told, address)
        refresh = await self._keep_refresh(fact, told)
        changing = ChangePassword(
            who.mid, who.actor, before=known.credential, credential=credential, login=fact, sids=sids
        )
        try:
            event = (await self._log.decide(changing))[-1]
        except Unavailable:
            raise
        except ImcoreError:
            await keeping.forget_credential(self._pool, credential)
            await keeping.forget_families(self._pool, who.mid, [fact.sid])
            raise
        await keeping.forget_credential(self._pool, known.credential)
        await keeping.forget_families(self._pool, who.mid, sids)
        return self._granted(fact, changing.actor.role, event.position, told, refresh)

    async def deactivate(self, who: Identity) -> list[Recorded]:
        """Give the account up, for good. Raises Forbidden for the last owner of a room in which others are."""
        sids = await self._sids(who.mid)
        rooms = await queries.owned(self._pool, who.mid)
        made = await self._log.decide(Deactivate(who.mid, who.actor, sids=sids, rooms=rooms))
        await keeping.forget_families(self._pool, who.mid, sids)
        return made

    # --- what is done to others ----------------------------------------------------------------------------------------------

    async def suspend(self, mid: int, by: Identity, reason: str) -> list[Recorded]:
        """It cannot be used until the suspension is lifted."""
        sids = await self._sids(mid)
        made = await self._log.decide(Suspend(mid, by.actor, reason=reason, sids=sids))
        if made:
            await keeping.forget_families(self._pool, mid, sids)
        return made

    async def restore(self, mid: int, by: Identity) -> list[Recorded]:
        """The suspension is lifted."""
        return await self._log.decide(Restore(mid, by.actor))

    async def set_role(self, mid: int, by: Identity, role: AccountRole) -> list[Recorded]:
        """It has another role on the whole server."""
        return await self._log.decide(SetRole(mid, by.actor, role))

    async def invite(self, by: Identity, *, uses: int, note: str, expires_in_s: float) -> tuple[str, int]:
        """An invitation code, and when it expires."""
        await self._log.decide(Note("codes.create", by.actor, note))
        return await keeping.keep_invitation(self._pool, uses=uses, note=note, by=by.mid, expires_in_s=expires_in_s)

    # --- inside --------------------------------------------------------------------------------------------------------------

    async def _sids(self, mid: int) -> list[str]:
        return [one.sid for one in await queries.logins(self._pool, mid, LOGINS_MAX)]

    def _pace_try(self, account: str, address: str) -> None:
        """One more guess, perhaps. Tightly for each address, so that a stranger at its own does not keep the owner out; and loosely
        for all together, so that many addresses do not guess without bound. What the first refuses does not count for the second."""
        self._pace(self.tries, (account, subnet(address)))
        self._pace(self.guesses, account)

    def _pace(self, paces: Paces[K], key: K) -> None:
        if self.settings.rate_limits:
            wait_s = paces.take(key, self._clock())
            if wait_s:
                raise RateLimited("too many attempts", retry_after_ms=int(wait_s * 1000) + 1)

    async def _sweep(self) -> None:
        while True:
            try:
                await self.sweep()
            except (*DATABASE_ERRORS, Overloaded, Unavailable) as error:
                heed_cancellation()
                log.warning("expired logins and secrets cannot be forgotten: %s", error)
            await asyncio.sleep(SWEEP_S)


async def ready_keys(settings: Settings, keys: OwnKeys, source: queries.Source) -> None:
    """For a process in which people come in: pass a folder with keys in it, and one of a service that never had any, where the first
    is made if only tokens lead in.

    Whoever is logged in has tokens that a key of this service has signed. So where there are logins and no key, a mount is away, or the
    folder is another one than that of the other processes: a new key would make those tokens worthless, and no other process would
    believe what it signs. The database does not know of tokens that the command line made. Raises BadConfiguration.
    """
    if not keys.kids and await queries.are_logins(source):
        raise BadConfiguration(
            f"there is no key in {keys.folder}, and people are logged in, by tokens that one has signed. Put the keys back: all "
            f"processes of a service share them. If they are lost, `imcore keys rotate --data {keys.folder.parent}` makes a new one: "
            "logins stay, but every device must refresh its token, and backends need new ones"
        )
    if settings.auth_mode != "open" and not settings.auth_keys:
        keys.signing()


@asynccontextmanager
async def alone(url: str, settings: Settings) -> AsyncIterator[Accounts]:
    """Accounts without a server around them, on this database; for the command line."""

    async def nobody() -> list[AliveNode]:
        return []

    async with create_pool(url, application_name="imcore account", connections_max=2) as pool:
        events = Log(lambda: connect(url, application_name="imcore account"), InlineProjections(), lambda batch: None)
        works = Accounts(settings, events, pool, nodes=nobody, keys=OwnKeys(Path(settings.data)))
        appending = asyncio.create_task(events.run())
        try:
            yield works
        finally:
            appending.cancel()
            await asyncio.gather(appending, return_exceptions=True)
            await works.close()


def check_given(password: str) -> str:
    """A password that somebody gives, in the form that a hash is made of. One that cannot be right is only wrong."""
    try:
        return check_password(password)
    except BadRequest:
        return ""


def _logged_in(mid: int, told: Told, address: str) -> LoggedIn:
    return LoggedIn(mid=mid, sid=secrets.token_hex(16), key=told.key, platform=told.platform, address=address)
