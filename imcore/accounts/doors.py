"""Who comes in, at every door: the signature of a token, what was taken back since, and where it must be waited for, that too.

Tokens and words are looked at at once (calling `Doors`): ten thousand who come back in a second wait for nobody. A
ticket is used up in the database, and in mode webhook the user's own backend is asked; `must_wait` says so before, and `admit` waits.

The trap: whoever has waited may have been turned out meanwhile. What is known of that is asked last (`check`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Final

from imcore.accounts import keeping
from imcore.accounts.revocations import Revocations
from imcore.accounts.tokens import identity_of
from imcore.accounts.webhook import Webhook
from imcore.auth import Claim, Identity, Verifier, believe
from imcore.config import Settings
from imcore.errors import Overloaded, TryLater, Unauthenticated, Unavailable
from imcore.events.names import Pool
from imcore.permissions import SERVICE_ACTOR

TICKET: Final = "ticket:"
LET_IN_AT_A_TIME: Final = 8  # people about whom one request asks the backend at the same time


class Doors:
    """Says who somebody is, and whether that still holds."""

    def __init__(
        self,
        settings: Settings,
        verifier: Verifier,
        revocations: Revocations,
        pool: Pool,
        webhook: Webhook,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._mode = settings.auth_mode
        self._leeway_s = settings.auth_leeway_s
        self._asks = frozenset(settings.auth_webhook_asks) if settings.auth_mode == "webhook" else frozenset[str]()
        self._verifier = verifier
        self._revocations = revocations
        self._pool = pool
        self._webhook = webhook
        self._now = now

    def __call__(self, claim: Claim) -> Identity:
        """Who this is, at once. Raises Unauthenticated."""
        if claim.token.startswith(TICKET):
            raise Unauthenticated("a ticket is for a connection")
        identity = believe(claim) if self._mode == "open" and not claim.token else self._verifier(claim)
        self._revocations.check(identity)
        return identity

    def must_wait(self, claim: Claim) -> bool:
        """Is this claim for `admit`?"""
        if claim.token.startswith(TICKET):
            return True
        return self._mode == "webhook" and not self._verifier.knows(claim.token)

    async def admit(self, claim: Claim, *, act: str = "connect", origin: str = "", address: str = "") -> Identity:
        """Who this is, after asking whom it takes. Raises Unauthenticated, TryLater, and what the database raises."""
        if not self.must_wait(claim):
            return self(claim)
        if claim.token.startswith(TICKET):
            identity = await self._by_ticket(claim.token.removeprefix(TICKET), origin)
            if claim.mid and claim.mid != identity.mid:
                raise Unauthenticated("mid is not the ticket's")
        else:
            identity = await self._webhook.identify(claim, act=act, address=address, origin=origin, now=self._now())
        self.check(identity)
        return identity

    def check(self, identity: Identity) -> None:
        """Does it still hold? Raises Unauthenticated. To be asked once more by whoever has waited since."""
        if not self.stands(identity):
            raise Unauthenticated("the token's key was retired")
        self._revocations.check(identity)

    def stands(self, identity: Identity) -> bool:
        """Is the key of its token still one of ours? What else took it back meanwhile, the log says."""
        return self._verifier.stands(identity)

    async def renewed(self, identity: Identity, claim: Claim, *, origin: str, address: str) -> Identity:
        """The identity with the time of a fresh token of the same login, after asking whom it takes.

        Raises Unauthenticated if it is somebody else's, Unavailable when nobody answers, and what the database raises.
        """
        try:
            fresh = await self.admit(claim, act="renew", origin=origin, address=address)
        except TryLater as error:  # which would end the connection, and that has its time yet
            raise Unavailable(error.detail, retry_after_ms=error.retry_after_ms) from None
        if (fresh.mid, fresh.sid) != (identity.mid, identity.sid):
            raise Unauthenticated("the token is not of this login")
        return fresh

    def has_expired(self, expires_at: float) -> bool:
        """Is that long enough ago? Clocks may be wrong by the leeway, for who is there as for who comes in."""
        return expires_at + self._leeway_s <= self._now()

    def asks(self, act: str) -> bool:
        """Is the backend asked about this (join, send)?"""
        return act in self._asks

    async def allow(self, act: str, identity: Identity, room: str, key: str = "") -> None:
        """May it? Services are asked nothing. Raises Forbidden, Overloaded or Unavailable, and Unauthenticated if it was taken back
        meanwhile."""
        if act in self._asks and identity.role != SERVICE_ACTOR.role:
            await self._asked(act, identity.mid, room, key)
            self._revocations.check(identity)

    async def let_in(self, identity: Identity, room: str, mids: Collection[int], key: str = "") -> None:
        """May these people come into this room, of whom others than the one who asks are brought in by it? Services are asked nothing.

        Each is a question of its own, a few at a time, and one no is no. Raises Forbidden, Overloaded or Unavailable, and
        Unauthenticated for what was taken back meanwhile.
        """
        if not self.asks("join") or identity.role == SERVICE_ACTOR.role:
            return
        waiting = iter(list(dict.fromkeys(mids)))

        async def ask() -> None:
            for mid in waiting:
                if mid == identity.mid:
                    await self._asked("join", mid, room, key)
                else:
                    await self._asked("join", mid, room, "", by=identity.mid)

        asking = [asyncio.create_task(ask()) for _ in range(min(LET_IN_AT_A_TIME, len(mids)))]
        try:
            await asyncio.gather(*asking)
        finally:
            for one in asking:
                one.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        self._revocations.check(identity)

    async def _asked(self, act: str, mid: int, room: str, key: str, *, by: int = 0) -> None:
        """One question too many refuses the request. TryLater would end the connection that it came over."""
        try:
            await self._webhook.allow(act, mid, room, key, by=by)
        except TryLater as error:
            raise Overloaded(error.detail, retry_after_ms=error.retry_after_ms) from None

    async def _by_ticket(self, ticket: str, origin: str) -> Identity:
        kept = await keeping.use_ticket(self._pool, ticket, origin)
        if kept is None:
            raise Unauthenticated("the ticket was used, has expired, or is for another page")
        identity = identity_of(kept)
        if identity.expires_at is not None and self.has_expired(identity.expires_at):
            raise Unauthenticated("the token behind the ticket has expired")
        return identity
