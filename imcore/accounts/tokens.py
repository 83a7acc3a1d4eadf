"""Access tokens: signed here, good for minutes, verified by every process without asking anybody.

A token says who somebody is and, beside that, goim's fields of the login, so that a program which sees only the token knows them.
It goes unchanged into goim's auth JSON, as `token`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import orjson

from imcore import auth
from imcore.auth import Identity, OwnKeys
from imcore.config import Settings
from imcore.errors import BadConfiguration, Unavailable
from imcore.permissions import PLATFORM_ROLES, PlatformRole

log = logging.getLogger(__name__)

RETRY_MS: Final = 2_000  # somebody must put the keys back
ACCEPTS_MAX: Final = 100  # of a login: they are in its tokens, which have a limit


class Told(NamedTuple):
    """goim's fields of a login: what the device said of itself when it logged in."""

    key: str
    platform: str
    room_id: str
    accepts: tuple[int, ...] | None

    def text(self) -> str:
        """As it is kept."""
        return orjson.dumps(self._asdict()).decode()

    @classmethod
    def of(cls, text: str) -> Told:
        """From what is kept."""
        kept = orjson.loads(text)
        accepts = kept["accepts"]
        return cls(kept["key"], kept["platform"], kept["room_id"], None if accepts is None else tuple(accepts))


class Access(NamedTuple):
    """A token, and the seconds that it is good for."""

    token: str
    expires_in_s: int


class Issuer:
    """Signs access tokens with the newest own key."""

    def __init__(self, settings: Settings, keys: OwnKeys, *, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._keys = keys
        self._now = now

    def check(self) -> None:
        """Could a token be signed now? Raises Unavailable. To be asked before anything is used up or written for one."""
        try:
            self._keys.signing()
        except BadConfiguration as error:
            log.error("no token can be signed: %s", error)
            raise Unavailable("no token can be given at the moment; try again", retry_after_ms=RETRY_MS) from None

    def access(self, mid: int, role: PlatformRole, sid: str, as_of: int, told: Told) -> Access:
        """A token of this login, which knows the log up to `as_of`, and not of longer life. Raises BadConfiguration when no key can be
        read or made."""
        settings = self._settings
        good_for_s = min(settings.access_token_s, settings.refresh_token_s)
        token = auth.mint(
            self._keys.signing(),
            now=self._now(),
            expires_in_s=good_for_s,
            mid=mid,
            role=role,
            sid=sid,
            as_of=as_of,
            issuer=settings.auth_issuer,
            audience=settings.auth_audience,
            beside={
                "key": told.key,
                "platform": told.platform,
                "room_id": told.room_id,
                "accepts": None if told.accepts is None else list(told.accepts),
            },
        )
        return Access(token, int(good_for_s))


def kept(identity: Identity) -> str:
    """An identity as text, for a ticket."""
    return orjson.dumps(
        {
            "mid": identity.mid,
            "rooms": None if identity.rooms is None else sorted(identity.rooms),
            "ops": None if identity.ops is None else sorted(identity.ops),
            "role": identity.role,
            "expires_at": identity.expires_at,
            "sid": identity.sid,
            "as_of": identity.as_of,
            "issued_at": identity.issued_at,
            "kid": identity.kid,
        }
    ).decode()


def identity_of(text: str) -> Identity:
    """The identity again."""
    said = orjson.loads(text)
    role = next(one for one in PLATFORM_ROLES if one == said["role"])
    return Identity(
        mid=said["mid"],
        rooms=None if said["rooms"] is None else frozenset(said["rooms"]),
        ops=None if said["ops"] is None else frozenset(said["ops"]),
        role=role,
        expires_at=said["expires_at"],
        sid=said["sid"],
        as_of=said["as_of"],
        issued_at=said["issued_at"],
        kid=said.get("kid", ""),
    )
