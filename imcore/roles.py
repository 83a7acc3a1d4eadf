"""What somebody is to the whole server, as its account says at a place in the log.

A token says it too, but may be older than what it says: whoever was a moderator a moment ago has one that says so still, and it takes a
moment until every door knows. So what hangs on a privilege asks the row of the account, under the lock of the log: what was taken at
one position is worth nothing at the next. And a token may say less than the account: whoever made it gave no more away. So the lesser
of the two counts.

The trap: who is known here by another issuer's word, or is a service, has no account. Then the token stands, as long as it is not taken
back.
"""

from __future__ import annotations

from typing import Final

from imcore.errors import Unauthenticated
from imcore.events.store import Key, Rows, row_of
from imcore.permissions import PLATFORM_RANK_OF, Actor, PlatformRole
from imcore.projections.accounts import DEACTIVATED, SUSPENDED, Account

PRIVILEGED: Final = ("moderator", "admin")


def account_key(mid: int) -> Key:
    """The row of an account."""
    return ("accounts", (mid,))


def account_of(rows: Rows, mid: int) -> Account | None:
    """The account among these rows."""
    return row_of(rows, Account, "accounts", mid)


def role_named(name: str) -> PlatformRole:
    """The role of this name."""
    return next(role for role in PLATFORM_RANK_OF if role == name)


def role_of(account: Account) -> PlatformRole:
    """What it is to the whole server."""
    return role_named(account.role)


def keys(actor: Actor) -> list[Key]:
    """The rows that `now` looks at: none for people without a privilege, which are nearly all."""
    return [account_key(actor.mid)] if actor.role in PRIVILEGED else []


def now(rows: Rows, actor: Actor) -> Actor:
    """The same; if its token says that it has a privilege, as the lesser of that and what its account says. Its rows must have been
    named.

    Raises Unauthenticated for whose account is suspended or given up.
    """
    if actor.role not in PRIVILEGED:
        return actor
    own = account_of(rows, actor.mid)
    return actor if own is None else as_held(actor, own.state, own.role)


def as_held(actor: Actor, state: str, role: str) -> Actor:
    """The same as the lesser of what its token says and this role of its account. Raises Unauthenticated if that is suspended or was
    given up."""
    if state in (SUSPENDED, DEACTIVATED):
        raise Unauthenticated("the account is suspended or was given up")
    return lesser(actor, role)


def lesser(actor: Actor, role: str) -> Actor:
    """The same as the lesser of what its token says and this role of its account."""
    return Actor(actor.mid, min(actor.role, role_named(role), key=PLATFORM_RANK_OF.__getitem__))
