"""Who is logged in with which device. A row is there from the login to the logout, or until its end is noticed: of one that is not
refreshed in time its refresh token is no more before.

The trap: what ends all logins of a person names those that its command knew. One that began in the same moment keeps its row, and is
over all the same, because it is older than `logouts.ended`; who reads these rows compares.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imcore import tables
from imcore.events.types import AccountDeactivated, AccountSuspended, LoggedIn, LoggedOut, LoginExpired, Recorded
from imcore.projections.projection import Key, Projection, types


class Login(NamedTuple):
    """A login; see tables.logins for each."""

    key: str
    platform: str
    address: str
    since: int
    since_ms: int


TYPES: Final = types(LoggedIn, LoggedOut, LoginExpired, AccountSuspended, AccountDeactivated)


def keys(recorded: Recorded) -> tuple[Key, ...]:
    match recorded.fact:
        case LoggedIn(mid=mid, sid=sid) | LoginExpired(mid=mid, sid=sid):
            return ((mid, sid),)
        case (
            LoggedOut(mid=mid, sids=sids)
            | AccountSuspended(mid=mid, sids=sids)
            | AccountDeactivated(mid=mid, sids=sids)
        ):
            return tuple((mid, sid) for sid in sids)
    return ()


def apply(key: Key, row: Login | None, recorded: Recorded) -> Login | None:
    match recorded.fact:
        case LoggedIn(key=device, platform=platform, address=address):
            return Login(device, platform, address, recorded.position, recorded.time_ms)
        case LoggedOut() | LoginExpired() | AccountSuspended() | AccountDeactivated():
            return None
    return row


projection: Final = Projection("logins", tables.logins, Login, TYPES, keys, apply)
