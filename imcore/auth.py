"""Who asks: from what a client claims to an identity that everything behind believes.

The seam is one callable, `Authenticate`: a claim in, an identity out, or Unauthenticated. It never waits, because ten thousand
clients may come back in the same second: verifying an Ed25519 signature is 0.1 ms of CPU and no I/O.

`believe` takes goim's unsigned JSON at its word (mode open). `Verifier` takes only a signed token (mode jwt). A key is found by the
token's `kid` in a ring that is fixed at start, and each key is for one algorithm: the token's header chooses neither. Nothing is ever
fetched because a token says so (`jku`, `x5u` and `jwk` are not read at all).

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
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

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
from imcore.permissions import Actor, PlatformRole
from imcore.protocol.packet import INT32_MAX, INT32_MIN, INT64_MAX, TOKEN_BYTES_MAX, check_room

log = logging.getLogger(__name__)

AUDIENCE: Final = "imcore"
LEEWAY_S: Final = 10.0
HMAC_BYTES_MIN: Final = 32  # RFC 7518, 3.2: as long as the digest
RSA_BITS_MIN: Final = 2_048
CLAIMED_ROOMS_MAX: Final = 1_000
TIME_MAX: Final = 2**53  # beyond, a float no longer counts seconds
KEY_FILE: Final = "ed25519.pem"

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
    server: a service is a backend, whose mid is 0. `sid` names the login that the token is of, "" if it is of none."""

    mid: int
    rooms: frozenset[str] | None = None
    ops: frozenset[int] | None = None
    role: PlatformRole = "user"
    expires_at: float | None = None
    sid: str = ""

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


Authenticate: TypeAlias = Callable[[Claim], Identity]

SERVICE: Final = Identity(mid=0, role="service")
ANONYMOUS: Final = Identity(mid=0, role="anonymous")


# --- mode open ---------------------------------------------------------------------------------------------------------------


def believe(claim: Claim) -> Identity:
    """Everybody is who they say they are; a token is not looked at. For development, and for moving from goim.

    goim's anonymous viewers say 0 or nothing. They become guests, each with a negative mid of its own: 0 is the service, and what
    has one mid in common would share its inbox and its limits too.
    """
    mid = claim.mid or -1 - secrets.randbelow(INT64_MAX)
    return Identity(mid, role="user" if mid > 0 else "guest")


def authenticator(settings: Settings) -> Authenticate:
    """What these settings ask for. In mode jwt without keys it is the server's own, which is made if need be.

    Raises BadConfiguration when a key cannot be read or is not of its kind.
    """
    if settings.auth_mode == "open":
        log.warning("auth_mode is open: every client and backend is believed; use jwt where strangers can connect")
        return believe
    keys = ring(settings.auth_keys) or [load_or_create_keys(Path(settings.data)).verifying]
    return Verifier(keys, audience=settings.auth_audience, leeway_s=settings.auth_leeway_s)


# --- mode jwt ----------------------------------------------------------------------------------------------------------------


class Key(NamedTuple):
    """A key to verify with, and the one algorithm it is for."""

    kid: str
    alg: str
    key: PublicKey | bytes


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
_jws = jwt.PyJWS()


class Verifier:
    """Authenticates by signed tokens. One signature check a call, and no I/O."""

    def __init__(
        self,
        keys: Iterable[Key],
        *,
        audience: str = AUDIENCE,
        leeway_s: float = LEEWAY_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._ring = {key.kid: key for key in keys}
        self._only = next(iter(self._ring.values())) if len(self._ring) == 1 else None
        self._audience = audience
        self._leeway_s = leeway_s
        self._now = now

    def __call__(self, claim: Claim) -> Identity:
        """The identity that the token proves; a mid beside it must be the token's. Raises Unauthenticated."""
        identity = self.verify(claim.token)
        if claim.mid and claim.mid != identity.mid:
            raise Unauthenticated("mid is not the token's")
        return identity

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
            payload = _jws.decode(token, key.key, algorithms=[key.alg])
        except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError):
            raise Unauthenticated("the token's signature is not valid") from None
        return _identity(_claims(payload), self._now(), self._leeway_s, self._audience)

    def _key(self, header: dict[str, object]) -> Key:
        if "crit" in header:
            raise Unauthenticated("the token asks for an extension that is not known here")
        kid = header.get("kid")
        key = self._only if "kid" not in header else self._ring.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise Unauthenticated("the token's key is not known here")
        return key


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


def _identity(claims: dict[str, object], now: float, leeway_s: float, audience: str) -> Identity:
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
    return Identity(
        mid=0 if service else _mid(claims, sub),
        rooms=_rooms(claims),
        ops=_ops(claims),
        role="service" if service else "user",
        expires_at=float(expires_at),
    )


def _time(claims: dict[str, object], name: str) -> int | None:
    if name not in claims:
        return None
    value = claims[name]
    if type(value) is not int or not 0 <= value <= TIME_MAX:
        raise Unauthenticated(f"the token's {name} is not a whole number of seconds")
    return value


def _mid(claims: dict[str, object], sub: str) -> int:
    if "mid" in claims:
        mid = claims["mid"]
        if type(mid) is not int or not 1 <= mid <= INT64_MAX:
            raise Unauthenticated("the token's mid is not a positive integer of 64 bits")
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
    for room in rooms:
        try:
            if not isinstance(room, str) or not (room == "*" or _room_type(room) or check_room(room)):
                raise Unauthenticated("the token's rooms are not names or patterns")
        except BadRequest:
            raise Unauthenticated("the token's rooms are not names or patterns") from None
    return frozenset(rooms)


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
) -> str:
    """A token for a person (`mid`) or for a backend (`service`, the name it goes by in logs)."""
    assert (mid is None) != (service is None), "a token is for a person or for a backend"
    claims: dict[str, object] = {
        "sub": service if mid is None else str(mid),
        "iat": int(now),
        "exp": int(now + expires_in_s),
    }
    if service is not None:
        claims["service"] = True
    if rooms is not None:
        claims["rooms"] = list(rooms)
    if ops is not None:
        claims["ops"] = list(ops)
    return jwt.encode(claims, key.key, algorithm=key.alg, headers={"kid": key.kid})


# --- keys --------------------------------------------------------------------------------------------------------------------


def ring(keys: Iterable[AuthKey]) -> list[Key]:
    """The configured keys, read and checked. Raises BadConfiguration; no message repeats a key."""
    return [_verifying(key, _material(key)) for key in keys]


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
    """The server's own Ed25519 key, `keys/ed25519.pem` in the data folder; made, readable by nobody else, if it is not there.

    Processes that start at the same time get the same key. Raises BadConfiguration when the file cannot be made or read.
    """
    path = data_dir / "keys" / KEY_FILE
    try:
        if not path.exists():
            _create(path)
        private = _private(path.read_bytes())
    except OSError as error:
        raise BadConfiguration(f"the key {path} cannot be made or read: {error.strerror}") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise BadConfiguration(f"the key {path} is not a private Ed25519 key in PEM")
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return SigningKey(hashlib.sha256(public).hexdigest()[:16], "EdDSA", private)


def _create(path: Path) -> None:
    """Written beside, flushed, and linked to its name: the file is there whole or not at all, and the first one stays."""
    path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(beside, path)
    finally:
        beside.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
