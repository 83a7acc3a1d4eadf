"""The accounts that there are, as they are now. The hash of a password is elsewhere: `credential` names it.

A deactivated account stays: its name is nobody else's, and what it said is still said by somebody.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

from imcore import tables
from imcore.events.types import (
    AccountActivated,
    AccountDeactivated,
    AccountRegistered,
    AccountSuspended,
    PasswordChanged,
    PlatformRoleChanged,
    ProfileChanged,
    Recorded,
    SuspensionLifted,
)
from imcore.projections.projection import Key, Projection, types

PENDING, ACTIVE, SUSPENDED, DEACTIVATED = "pending", "active", "suspended", "deactivated"


class Account(NamedTuple):
    """An account; see tables.accounts for each."""

    login: str
    name: str
    avatar: str
    extra: str
    role: str
    state: str
    reason: str
    credential: str
    created: int
    created_ms: int
    changed: int
    activated: bool


TYPES: Final = types(
    AccountRegistered,
    AccountActivated,
    ProfileChanged,
    PasswordChanged,
    AccountSuspended,
    SuspensionLifted,
    AccountDeactivated,
    PlatformRoleChanged,
)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case (
            AccountRegistered(mid=mid)
            | AccountActivated(mid=mid)
            | ProfileChanged(mid=mid)
            | PasswordChanged(mid=mid)
            | AccountSuspended(mid=mid)
            | SuspensionLifted(mid=mid)
            | AccountDeactivated(mid=mid)
            | PlatformRoleChanged(mid=mid)
        ):
            return ((mid,),)
    return ()


def apply(key: Key, row: Account | None, recorded: Recorded) -> Account | None:
    fact = recorded.fact
    if isinstance(fact, AccountRegistered):
        return row or Account(
            login=fact.login,
            name=fact.name,
            avatar="",
            extra="{}",
            role=fact.role,
            state=ACTIVE if fact.active else PENDING,
            reason="",
            credential=fact.credential,
            created=recorded.position,
            created_ms=recorded.time_ms,
            changed=recorded.position,
            activated=fact.active,
        )
    if row is None:
        return None
    row = row._replace(changed=recorded.position)
    match fact:
        case AccountActivated() if row.state == PENDING:
            return row._replace(state=ACTIVE, activated=True)
        case ProfileChanged(name=name, avatar=avatar, extra=extra):
            return row._replace(name=name, avatar=avatar, extra=orjson.dumps(extra).decode())
        case PasswordChanged(credential=credential):
            return row._replace(credential=credential)
        case AccountSuspended(reason=reason) if row.state != DEACTIVATED:
            return row._replace(state=SUSPENDED, reason=reason)
        case SuspensionLifted() if row.state == SUSPENDED:
            return row._replace(state=ACTIVE if row.activated else PENDING, reason="")
        case AccountDeactivated():
            return row._replace(state=DEACTIVATED)
        case PlatformRoleChanged(role=role):
            return row._replace(role=role)
    return row


projection: Final = Projection("accounts", tables.accounts, Account, TYPES, keys, apply)
