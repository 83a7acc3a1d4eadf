"""What ended the tokens of a person: what every process must know of until the last of those tokens has expired.

`voided`: tokens that knew less of the log than this are not to be believed. `ended`: logins that began before this are over; a
change of role voids tokens and ends no login, because the next token says the new role. `sids` are single logins that ended, each
behind the time of its end, for as long as a token of them may still be about; older ones are forgotten with the next change.

A guest has one login and never another: with that it goes, long after its last token has expired.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import (
    AccountDeactivated,
    AccountSuspended,
    LoggedOut,
    LoginExpired,
    PlatformRoleChanged,
    Recorded,
    SuspensionLifted,
)
from imcore.projections.projection import Key, Projection, types

KEEP_MS: Final = 3_600_000  # longer than any access token and its leeway: part of the fold, so never changed


class Logout(NamedTuple):
    """See tables.logouts for each."""

    position: int
    voided: int
    voided_ms: int
    ended: int
    sids: tuple[str, ...]


TYPES: Final = types(
    LoggedOut, LoginExpired, AccountSuspended, SuspensionLifted, AccountDeactivated, PlatformRoleChanged
)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case (
            LoggedOut(mid=mid)
            | AccountSuspended(mid=mid)
            | SuspensionLifted(mid=mid)
            | AccountDeactivated(mid=mid)
            | PlatformRoleChanged(mid=mid)
        ):
            return ((mid,),)
        case LoginExpired(mid=mid) if mid < 0:
            return ((mid,),)
    return ()


def apply(key: Key, row: Logout | None, recorded: Recorded) -> Logout | None:
    position, time_ms = recorded.position, recorded.time_ms
    if isinstance(recorded.fact, LoginExpired):
        return None
    row = Logout(0, 0, 0, 0, ()) if row is None else row
    row = row._replace(position=position, sids=tuple(one for one in row.sids if ended_ms(one) > time_ms - KEEP_MS))
    match recorded.fact:
        case LoggedOut(everywhere=False, sids=sids):
            return row._replace(sids=(*row.sids, *(f"{time_ms} {sid}" for sid in sids)))
        case LoggedOut() | AccountSuspended() | AccountDeactivated():
            return Logout(position, position, time_ms, position, ())
        case PlatformRoleChanged():
            return row._replace(voided=position, voided_ms=time_ms)
    return row


def ended_ms(one: str) -> int:
    """When the login of such an entry ended."""
    return int(one.partition(" ")[0])


projection: Final = Projection("logouts", tables.logouts, Logout, TYPES, keys, apply)
