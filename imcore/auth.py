"""Who asks: from what a client claims to an identity that everything behind believes.

A claim comes in, and an identity goes out, or Unauthenticated. Nothing here waits, because ten thousand clients may come back in the
same second: verifying an Ed25519 signature is 0.1 ms of CPU and no I/O.

`believe` takes goim's unsigned JSON at its word (mode open). `Verifier` takes only a signed token. A key is found by the
token's `kid`, and each key is for one algorithm: the token's header chooses neither. Nothing is ever
fetched because a token says so (`jku`, `x5u` and `jwk` are not read at all).

There are two kinds of keys. Those of the settings are other issuers': fixed at start, and what their tokens may say of a role is said
there too. The server's *own* keys (`OwnKeys`) are files in the data folder: the newest signs, the older verify until they are taken
away, and every process sees a change within a second. A token of an own key must be an access token (`typ: at+jwt`) with all of its
claims, and only it says of which login it is and what it knew of the log (`as_of`).

The trap: PyJWT checks the signature, and is lenient with claims (it takes exp as a string or a fraction, and the last of two equal
names). So claims are read here, strictly. Errors say which rule was broken and repeat nothing of the token.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias, get_args

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from imcore.config import AuthKey, Settings
from imcore.errors import BadConfiguration, BadRequest, Unauthenticated
from imcore.flushing import write_once
from imcore.permissions import Actor, PlatformRole
from imcore.protocol.packet import INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, TOKEN_BYTES_MAX, check_room

log = logging.getLogger(__name__)

AUDIENCE: Final = "imcore"
ISSUER: Final = "imcore"
ACCESS_TYPE: Final = "at+jwt"  # RFC 9068: what is signed for something else is no access token
LEEWAY_S: Final = 10.0
LOGIN_TOKEN_S_MAX: Final = 900.0  # of a login; the settings may only make it less
PERSON_TOKEN_S_MAX: Final = 3_600.0  # of a person without a login: so long a logout is remembered
HMAC_BYTES_MIN: Final = 32  # RFC 7518, 3.2: as long as the digest
RSA_BITS_MIN: Final = 2_048
CLAIMED_ROOMS_MAX: Final = 1_000
TIME_MAX: Final = 2**53  # beyond, a float no longer counts seconds
KEY_FILE: Final = "ed25519.pem"
LOOK_S: Final = 0.5  # between looks at the folder of the own keys
SETTLE_S: Final = 10.0  # a new key signs nothing before every process has seen it
SID_CHARACTERS_MAX: Final = 64

PrivateKey: TypeAlias = Ed25519PrivateKey | RSAPrivateKey | EllipticCurvePrivateKey
PublicKey: TypeAlias = Ed25519PublicKey | RSAPublicKey | EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class Claim:
    """What a client says of itself: the fields of its auth packet, or the header of its request."""

    token: str = field(default="", repr=False)
    mid: int | None = None
    key: str = ""
    room: str = ""
    accepts: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who it is, and what it may do. `rooms` None is any room; `ops` None is any operation; `role` is what it is to the whole
    server: a service is a backend, whose mid is 0. `sid` names the login that the token is of, "" if it is of none.

    `as_of` is the position of the log up to which the token knew who this is: what takes a person's tokens away later takes this one
    away. 0 for a token of another issuer, or one that the user's backend knew, None for who is only believed. `issued_at` is the
    token's iat, or when that backend was asked, `kid` the own key that it was signed with, "" for another."""

    mid: int
    rooms: frozenset[str] | None = None
    ops: frozenset[int] | None = None
    role: PlatformRole = "user"
    expires_at: float | None = None
    sid: str = ""
    as_of: int | None = field(default=None, compare=False)
    issued_at: float | None = field(default=None, compare=False)
    kid: str = field(default="", compare=False)

    @property
    def service(self) -> bool:
        """Is it a backend?"""
        return self.role == "service"

    @property
    def actor(self) -> Actor:
        """Who does what it asks for, as the permission table knows it."""
        return Actor(self.mid, self.role)

    def may_enter(self, room: str) -> bool:
        """Is this room among those that the token names, by its name, its type (`type://*`) or all (`*`)?"""
        rooms = self.rooms
        return rooms is None or room in rooms or "*" in rooms or f"{room.partition('://')[0]}://*" in rooms


SERVICE: Final = Identity(mid=0, role="service")
ANONYMOUS: Final = Identity(mid=0, role="anonymous")
OPERATOR: Final = Identity(mid=0, role="service", as_of=0)  # whoever has the command line of this machine


# --- mode open ---------------------------------------------------------------------------------------------------------------


def believe(claim: Claim) -> Identity:
    """Everybody is who they say they are. For development, and for moving from goim.

    goim's anonymous viewers say 0 or nothing. They become guests, each with a negative mid of its own: 0 is the service, and what
    has one mid in common would share its inbox and its limits too.
    """
    mid = claim.mid or -1 - secrets.randbelow(INT64_MAX)
    return Identity(mid, role="user" if mid > 0 else "guest")


def verifier_of(settings: Settings, own: OwnKeys) -> Verifier:
    """Of the tokens of these settings' keys, and of the own ones.

    Raises BadConfiguration when a key cannot be read or is not of its kind.
    """
    return Verifier(
        ring(settings.auth_keys),
        own=own,
        audience=settings.auth_audience,
        issuer=settings.auth_issuer,
        leeway_s=settings.auth_leeway_s,
    )


# --- mode jwt ----------------------------------------------------------------------------------------------------------------


class Key(NamedTuple):
    """A key to verify with, and the one algorithm it is for. Its tokens must be of `issuer`, if that is named, and may say that
    somebody has one of `roles`."""

    kid: str
    alg: str
    key: PublicKey | bytes
    issuer: str = ""
    roles: frozenset[PlatformRole] = frozenset()


class SigningKey(NamedTuple):
    """A key to sign with."""

    kid: str
    alg: str
    key: PrivateKey | bytes

    @property
    def verifying(self) -> Key:
        """The half that verifies."""
        return Key(self.kid, self.alg, self.key if isinstance(self.key, bytes) else self.key.public_key())


_is_token = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+").fullmatch
_is_mid = re.compile(r"[1-9][0-9]{0,18}").fullmatch
_room_type = re.compile(r"[a-z][a-z0-9_]{0,31}://\*").fullmatch
_is_sid = re.compile(rf"[A-Za-z0-9_-]{{1,{SID_CHARACTERS_MAX}}}").fullmatch
_jws = jwt.PyJWS()
_FOREIGN_TYPES: Final = (None, "JWT", "jwt", ACCESS_TYPE)  # what other issuers may call an access token
_ROLES: Final[tuple[PlatformRole, ...]] = get_args(PlatformRole)


class Verifier:
    """Authenticates by signed tokens. One signature check a call, and no I/O but a look at the folder of the own keys, at most once
    a second."""

    def __init__(
        self,
        keys: Iterable[Key],
        *,
        own: OwnKeys | None = None,
        audience: str = AUDIENCE,
        issuer: str = ISSUER,
        leeway_s: float = LEEWAY_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._ring = {key.kid: key for key in keys}
        self._only = next(iter(self._ring.values())) if len(self._ring) == 1 else None
        self._own = own
        self._audience = audience
        self._issuer = issuer
        self._leeway_s = leeway_s
        self._now = now

    def __call__(self, claim: Claim) -> Identity:
        """The identity that the token proves; a mid beside it must be the token's. Raises Unauthenticated."""
        identity = self.verify(claim.token)
        if claim.mid and claim.mid != identity.mid:
            raise Unauthenticated("mid is not the token's")
        return identity

    def knows(self, token: str) -> bool:
        """Does the token name a key that is here? It may still be wrong in every way."""
        try:
            header = jwt.get_unverified_header(token) if len(token) <= TOKEN_BYTES_MAX and _is_token(token) else {}
        except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError):
            return False
        kid = header.get("kid")
        return isinstance(kid, str) and (kid in self._ring or self._own_key(kid) is not None)

    def verify(self, token: str) -> Identity:
        """The identity that the token proves. Raises Unauthenticated."""
        if not token:
            raise Unauthenticated("a token is needed")
        if len(token) > TOKEN_BYTES_MAX:
            raise Unauthenticated(f"the token is longer than {TOKEN_BYTES_MAX} bytes")
        if not _is_token(token):
            raise Unauthenticated("the token is not a signed JWT")
        try:
            header = jwt.get_unverified_header(token)
            key = self._key(header)
            is_own = key.kid not in self._ring
            if header.get("typ") not in ((ACCESS_TYPE,) if is_own else _FOREIGN_TYPES):
                raise Unauthenticated("the token is not an access token")
            payload = _jws.decode(token, key.key, algorithms=[key.alg])
        except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError):
            raise Unauthenticated("the token's signature is not valid") from None
        claims = _claims(payload)
        if is_own:
            identity = _own_identity(claims, self._now(), self._leeway_s, self._audience, self._issuer)
            return replace(identity, kid=key.kid)
        if key.issuer and claims.get("iss") != key.issuer:
            raise Unauthenticated("the token is not of the issuer that its key is for")
        return _identity(claims, self._now(), self._leeway_s, self._audience, key.roles)

    def stands(self, identity: Identity) -> bool:
        """Is the own key that its token was signed with still there? Where the keys cannot be read it is taken to be."""
        try:
            return not identity.kid or self._own_key(identity.kid) is not None
        except BadConfiguration:
            return True

    def _key(self, header: dict[str, object]) -> Key:
        if "crit" in header:
            raise Unauthenticated("the token asks for an extension that is not known here")
        kid = header.get("kid")
        if "kid" not in header:
            key = self._only
        elif isinstance(kid, str):
            key = self._ring.get(kid) or self._own_key(kid)
        else:
            key = None
        if key is None:
            raise Unauthenticated("the token's key is not known here")
        return key

    def _own_key(self, kid: str) -> Key | None:
        return None if self._own is None else self._own.verifying(kid)


def _claims(payload: bytes) -> dict[str, object]:
    try:
        claims = json.loads(payload.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Unauthenticated("the token's claims are not valid JSON, or name a claim twice") from None
    if not isinstance(claims, dict):
        raise Unauthenticated("the token's claims are not an object")
    return claims


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    kept = dict(pairs)
    if len(kept) < len(pairs):
        raise ValueError("a name is there twice")
    return kept


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _own_identity(claims: dict[str, object], now: float, leeway_s: float, audience: str, issuer: str) -> Identity:
    """Of a token that this service signed: every claim must be there, and be what it is."""
    for name in ("iss", "aud", "sub", "iat", "exp", "jti"):
        if name not in claims:
            raise Unauthenticated(f"the token has no {name}")
    if claims["iss"] != issuer:
        raise Unauthenticated("the token is of another issuer")
    identity = _identity(claims, now, leeway_s, audience, frozenset(_ROLES))
    sid, as_of, role = claims.get("sid", ""), claims.get("as_of", 0), claims.get("role", identity.role)
    if not isinstance(sid, str) or (sid and not _is_sid(sid)):
        raise Unauthenticated("the token's sid is not the name of a login")
    if type(as_of) is not int or not 0 <= as_of <= INT64_MAX:
        raise Unauthenticated("the token's as_of is not a position")
    if role != identity.role:
        raise Unauthenticated("the token's role is none")
    return replace(identity, sid=sid, as_of=as_of)


def _identity(
    claims: dict[str, object], now: float, leeway_s: float, audience: str, roles: frozenset[PlatformRole]
) -> Identity:
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise Unauthenticated("the token has no exp")
    if expires_at + leeway_s <= now:
        raise Unauthenticated("the token has expired")
    for name in ("nbf", "iat"):
        begins_at = _time(claims, name)
        if begins_at is not None and begins_at - leeway_s > now:
            raise Unauthenticated(f"the token is not valid yet: {name} is in the future")
    if "aud" in claims:
        meant = claims["aud"]
        if audience not in (meant if isinstance(meant, list) else [meant]):
            raise Unauthenticated("the token is for another audience")
    sub = claims.get("sub")
    if not isinstance(sub, str) or not sub:
        raise Unauthenticated("the token has no sub that is a string")
    service = claims.get("service", False)
    if not isinstance(service, bool):
        raise Unauthenticated("the token's service is not true or false")
    if service and "mid" in claims:
        raise Unauthenticated("a service token has no mid")
    role: PlatformRole = "service" if service else "user"
    if not service and (named := next((one for one in roles if one == claims.get("role")), None)) is not None:
        role = named if named not in ("anonymous", "service") else "user"
    return Identity(
        mid=0 if service else _mid(claims, sub, is_guest=role == "guest"),
        rooms=_rooms(claims),
        ops=_ops(claims),
        role=role,
        expires_at=float(expires_at),
        as_of=0,
        issued_at=_time(claims, "iat"),
    )


def _time(claims: dict[str, object], name: str) -> int | None:
    if name not in claims:
        return None
    value = claims[name]
    if type(value) is not int or not 0 <= value <= TIME_MAX:
        raise Unauthenticated(f"the token's {name} is not a whole number of seconds")
    return value


def _mid(claims: dict[str, object], sub: str, *, is_guest: bool) -> int:
    if "mid" in claims:
        mid = claims["mid"]
        if type(mid) is not int or not (INT64_MIN <= mid <= -1 if is_guest else 1 <= mid <= INT64_MAX):
            raise Unauthenticated("the token's mid is not a positive integer of 64 bits, or for a guest a negative one")
        return mid
    if not _is_mid(sub) or int(sub) > INT64_MAX:
        raise Unauthenticated("the token's sub is not a member id, and there is no mid beside it")
    return int(sub)


def _rooms(claims: dict[str, object]) -> frozenset[str] | None:
    # null is refused: "none named" must not become "any".
    if "rooms" not in claims:
        return None
    rooms = claims["rooms"]
    if not isinstance(rooms, list) or len(rooms) > CLAIMED_ROOMS_MAX:
        raise Unauthenticated(f"the token's rooms are not a list of up to {CLAIMED_ROOMS_MAX}")
    if not all(isinstance(room, str) and names_rooms(room) for room in rooms):
        raise Unauthenticated("the token's rooms are not names or patterns")
    return frozenset(rooms)


def names_rooms(text: str) -> bool:
    """Is it how a token says which rooms it is for: a room's name, `type://*`, or `*`?"""
    try:
        return text == "*" or bool(_room_type(text)) or bool(check_room(text))
    except BadRequest:
        return False


def _ops(claims: dict[str, object]) -> frozenset[int] | None:
    if "ops" not in claims:
        return None
    ops = claims["ops"]
    if not isinstance(ops, list) or any(type(op) is not int or not INT32_MIN <= op <= INT32_MAX for op in ops):
        raise Unauthenticated("the token's ops are not a list of integers of 32 bits")
    return frozenset(ops)


# --- tokens ------------------------------------------------------------------------------------------------------------------


def mint(
    key: SigningKey,
    *,
    now: float,
    expires_in_s: float,
    mid: int | None = None,
    service: str | None = None,
    rooms: Iterable[str] | None = None,
    ops: Iterable[int] | None = None,
    role: PlatformRole | None = None,
    sid: str = "",
    as_of: int | None = None,
    issuer: str = ISSUER,
    audience: str = AUDIENCE,
    beside: Mapping[str, object] | None = None,
) -> str:
    """An access token for a person (`mid`) or for a backend (`service`, the name it goes by in logs). `beside` are claims that are
    only told to whoever reads it."""
    assert (mid is None) != (service is None), "a token is for a person or for a backend"
    claims: dict[str, object] = {
        **(beside or {}),
        "iss": issuer,
        "aud": audience,
        "sub": service if mid is None else str(mid),
        "iat": int(now),
        "exp": int(now + expires_in_s),
        "jti": secrets.token_hex(16),
    }
    if service is not None:
        claims["service"] = True
    if mid is not None and mid < 1:
        claims["mid"] = mid  # a sub alone is a positive number
    told = {"role": role, "sid": sid or None, "as_of": as_of}
    claims.update({name: value for name, value in told.items() if value is not None})
    if rooms is not None:
        claims["rooms"] = list(rooms)
    if ops is not None:
        claims["ops"] = list(ops)
    return jwt.encode(claims, key.key, algorithm=key.alg, headers={"kid": key.kid, "typ": ACCESS_TYPE})


# --- keys --------------------------------------------------------------------------------------------------------------------


def ring(keys: Iterable[AuthKey]) -> list[Key]:
    """The configured keys, read and checked. Raises BadConfiguration; no message repeats a key."""
    return [_verifying(key, _material(key))._replace(issuer=key.issuer, roles=frozenset(key.roles)) for key in keys]


def signing_key(keys: Iterable[AuthKey], kid: str | None = None) -> SigningKey:
    """The first configured key (or the one of this kid) that can sign: an HS256 secret, or a private key.

    Raises BadConfiguration when there is none.
    """
    for key in keys:
        if kid is not None and key.kid != kid:
            continue
        material = _material(key)
        if key.alg == "HS256":
            _verifying(key, material)
            return SigningKey(key.kid, key.alg, material)
        private = _private(material)
        if private is not None:
            _verifying(key, material)
            return SigningKey(key.kid, key.alg, private)
    raise BadConfiguration("none of auth_keys can sign: that takes a private key, or a secret of HS256")


def load_or_create_keys(data_dir: Path) -> SigningKey:
    """The server's own Ed25519 key that signs now; made, readable by nobody else, if there is none.

    Processes that start at the same time get the same key. Raises BadConfiguration when the file cannot be made or read.
    """
    return OwnKeys(data_dir).signing()


class OwnKeys:
    """The server's own Ed25519 keys: `keys/ed25519.pem` in the data folder, and `keys/ed25519-2.pem`, … of later days.

    The newest signs; one that is only `SETTLE_S` old does not yet, so that all processes know it. All verify. The folder is looked
    at again twice a second, when somebody asks; where there is no key yet each time, for the first signs at once.

    A key ends by its file being taken away while another stays. That all are gone says nothing of any of them: a mount was lost, or
    somebody deletes too much. Then those that are known verify on, none signs, and none is made.
    """

    def __init__(self, data_dir: Path, now: Callable[[], float] = time.time) -> None:
        self.folder = data_dir / "keys"
        self._now = now
        self._looked_at = float("-inf")
        self._state: tuple[tuple[str, int], ...] = ()
        self._keys: list[tuple[SigningKey, float]] = []  # the oldest first, and since when each is there
        self._verifying: dict[str, Key] = {}
        self._lost = ""  # why the folder does not show the keys that are known

    def signing(self) -> SigningKey:
        """The key to sign with, made if there never was one. Raises BadConfiguration, too when all that are known are gone: what
        they sign nobody who starts now could verify."""
        self._look_for_all()
        if not self._keys:
            self._make(self.folder / KEY_FILE)
        now = self._now()
        settled = [key for key, since in self._keys if since <= now - SETTLE_S]
        return settled[-1] if settled else self._keys[0][0]

    def verifying(self, kid: str) -> Key | None:
        """The key of this name, if there is one."""
        self._look()
        return self._verifying.get(kid)

    @property
    def kids(self) -> list[str]:
        """The names of all keys, the oldest first."""
        self._look()
        return [key.kid for key, _ in self._keys]

    def rotate(self) -> str:
        """Make a new key; its name."""
        self._look_for_all()
        number = max((_number(file) for file, _ in self._state), default=0) + 1
        self._make(self.folder / (KEY_FILE if number == 1 else f"ed25519-{number}.pem"))
        return self._keys[-1][0].kid

    def retire(self, kid: str) -> None:
        """Take a key away: what it signed is worth nothing from now on. Raises BadConfiguration for the only one, and one that is
        not there."""
        self._look_for_all()
        if kid not in self._verifying:
            raise BadConfiguration(f"there is no key {kid}")
        if len(self._keys) == 1:
            raise BadConfiguration("this is the only key: rotate first")
        for name, _ in self._state:
            with suppress(FileNotFoundError):
                if _own_key(self.folder / name).kid == kid:
                    (self.folder / name).unlink()
        self._look(again=True)

    def _make(self, path: Path) -> None:
        try:
            write_once(path, _fresh_pem())
        except OSError as error:
            raise BadConfiguration(f"the key {path} cannot be made or read: {error.strerror}") from None
        log.info("a key was made: %s", path)
        self._look(again=True)

    def _look_for_all(self) -> None:
        """Raises BadConfiguration when all that are known are gone."""
        self._look()
        if self._lost:
            raise BadConfiguration(self._lost)

    def _look(self, *, again: bool = False) -> None:
        now = self._now()
        if self._keys and not again and now - self._looked_at < LOOK_S and now >= self._looked_at:
            return
        self._looked_at = now
        state = tuple(sorted(self._files(), key=lambda file: _number(file[0])))
        if state == self._state and not self._lost and not again:
            return
        keys: list[tuple[SigningKey, float]] = []
        for name, at in state:
            with suppress(FileNotFoundError):  # retired since the folder was looked at; the next look sees that, too
                keys.append((_own_key(self.folder / name), at / 1e9))
        if self._keys and not keys:
            self._lose(f"all keys in {self.folder} are gone; put them back")
            return
        if self._lost:
            log.warning("the keys in %s are there again", self.folder)
        self._lost = ""
        self._keys, self._state = keys, state
        self._verifying = {key.kid: key.verifying for key, _ in keys}

    def _files(self) -> list[tuple[str, int]]:
        """The names of the keys, and since when each is there."""
        found: list[tuple[str, int]] = []
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if _is_own_file(entry.name):
                        with suppress(FileNotFoundError):  # retired meanwhile: that says nothing of the others
                            found.append((entry.name, entry.stat().st_mtime_ns))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise BadConfiguration(f"the keys in {self.folder} cannot be read: {error.strerror}") from None
        return found

    def _lose(self, why: str) -> None:
        if not self._lost:
            log.error("%s; those that are known verify on, and none signs", why)
        self._lost = why


_is_own_file = re.compile(r"ed25519(?:-([0-9]{1,9}))?\.pem").fullmatch


def _number(name: str) -> int:
    found = _is_own_file(name)
    assert found is not None, "only own files are looked at"
    return int(found[1] or 1)


def _own_key(path: Path) -> SigningKey:
    """Raises FileNotFoundError where it is not there, and BadConfiguration."""
    try:
        private = _private(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadConfiguration(f"the key {path} cannot be made or read: {error.strerror}") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise BadConfiguration(f"the key {path} is not a private Ed25519 key in PEM")
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return SigningKey(hashlib.sha256(public).hexdigest()[:16], "EdDSA", private)


def _fresh_pem() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _material(key: AuthKey) -> bytes:
    if key.key is not None:
        return key.key.encode()
    assert key.key_file is not None, "a key has either key or key_file"
    try:
        return Path(key.key_file).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise BadConfiguration(f"the key file of {key.kid} cannot be read: {error.strerror}") from None


def _private(material: bytes) -> PrivateKey | None:
    try:
        private = load_pem_private_key(material, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return private if isinstance(private, (Ed25519PrivateKey, RSAPrivateKey, EllipticCurvePrivateKey)) else None


def _public(material: bytes) -> PublicKey | None:
    private = _private(material)
    if private is not None:
        return private.public_key()
    try:
        public = load_pem_public_key(material)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return public if isinstance(public, (Ed25519PublicKey, RSAPublicKey, EllipticCurvePublicKey)) else None


def _verifying(key: AuthKey, material: bytes) -> Key:
    if key.alg == "HS256":
        if b"-----BEGIN" in material:
            raise BadConfiguration(f"the key {key.kid} is for HS256, which takes a secret and not a key in PEM")
        if len(material) < HMAC_BYTES_MIN:
            raise BadConfiguration(f"the key {key.kid} is shorter than {HMAC_BYTES_MIN} bytes")
        return Key(key.kid, key.alg, material)
    public = _public(material)
    match key.alg, public:
        case ("EdDSA", Ed25519PublicKey()):
            pass
        case ("RS256", RSAPublicKey()) if public.key_size >= RSA_BITS_MIN:
            pass
        case ("ES256", EllipticCurvePublicKey()) if isinstance(public.curve, SECP256R1):
            pass
        case _:
            kinds = {"EdDSA": "Ed25519", "RS256": f"RSA of {RSA_BITS_MIN} bits or more", "ES256": "P-256"}
            raise BadConfiguration(f"the key {key.kid} is not a key for {key.alg} ({kinds[key.alg]}) in PEM")
    assert public is not None, "the cases say so"
    return Key(key.kid, key.alg, public)
