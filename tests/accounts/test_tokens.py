"""The tokens that this service signs: only they, whole, of now, and for this. And the keys under them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from imcore import auth
from imcore.auth import SETTLE_S, Claim, Identity, OwnKeys, SigningKey, Verifier
from imcore.errors import BadConfiguration, Unauthenticated

NOW = 1_800_000_000
GOOD: dict[str, Any] = {
    "iss": "imcore", "aud": "imcore", "sub": "7", "iat": NOW, "exp": NOW + 900, "jti": "j", "sid": "s", "role": "user", "as_of": 5,
}  # fmt: skip


class Clock:
    """A clock that stands where it was put."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def own(tmp_path: Path) -> OwnKeys:
    """Keys of one's own."""
    keys = OwnKeys(tmp_path)
    keys.signing()
    return keys


def verifier(own: OwnKeys, *foreign: auth.Key) -> Verifier:
    return Verifier(foreign, own=own, now=lambda: NOW)


def signed(own: OwnKeys, claims: object = None, *, key: object = None, **header: object) -> str:
    signing = own.signing()
    payload = claims if isinstance(claims, bytes) else json.dumps(GOOD if claims is None else claims).encode()
    headers = {"kid": signing.kid, "typ": "at+jwt", **header}
    told = {name: value for name, value in headers.items() if value is not ...}
    return jwt.PyJWS().encode(payload, key or signing.key, algorithm="EdDSA", headers=told)  # type: ignore[arg-type]


def refused(own: OwnKeys, token: str) -> None:
    with pytest.raises(Unauthenticated):
        verifier(own).verify(token)


def part(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def test_a_token_of_ones_own_says_everything(own: OwnKeys) -> None:
    found = verifier(own).verify(signed(own, {**GOOD, "role": "admin"}))

    assert Identity(7, role="admin", expires_at=NOW + 900, sid="s") == found
    assert (5, NOW) == (found.as_of, found.issued_at)


def test_a_guest_has_a_negative_member_id_and_nobody_else(own: OwnKeys) -> None:
    assert -9 == verifier(own).verify(signed(own, {**GOOD, "sub": "-9", "mid": -9, "role": "guest"})).mid
    refused(own, signed(own, {**GOOD, "mid": -9}))
    refused(own, signed(own, {**GOOD, "mid": 9, "role": "guest"}))


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "iat", "exp", "jti"])
def test_every_claim_must_be_there(own: OwnKeys, name: str) -> None:
    refused(own, signed(own, {key: value for key, value in GOOD.items() if key != name}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "other"}, {"iss": ["imcore"]}, {"iss": None}, {"aud": "other"}, {"aud": []}, {"aud": None}, {"sub": 7}, {"sub": ""},
        {"sub": "alice"}, {"exp": NOW - 10}, {"exp": float(NOW + 9)}, {"exp": "9999999999"}, {"exp": True}, {"exp": 10**400},
        {"iat": NOW + 11}, {"iat": "0"}, {"nbf": NOW + 11}, {"sid": 7}, {"sid": "a b"}, {"sid": "x" * 65}, {"sid": None},
        {"as_of": -1}, {"as_of": 1.0}, {"as_of": True}, {"as_of": 2**63}, {"as_of": "5"}, {"role": "root"}, {"role": 1},
        {"role": ["admin"]}, {"role": "anonymous"}, {"role": "service"}, {"role": None}, {"service": True, "mid": 7},
        {"service": True, "role": "admin"}, {"mid": 0}, {"mid": "7"},
    ],
)  # fmt: skip
def test_a_claim_that_is_not_right_is_refused(own: OwnKeys, wrong: dict[str, object]) -> None:
    refused(own, signed(own, {**GOOD, **wrong}))


@pytest.mark.parametrize(
    "typ", [..., "JWT", "jwt", "rt+jwt", "refresh", "ticket+jwt", "AT+JWT", "", None, 1, ["at+jwt"]]
)
def test_only_an_access_token_is_one(own: OwnKeys, typ: object) -> None:
    refused(own, signed(own, typ=typ))


@pytest.mark.parametrize("alg", ["none", "None", "nOnE", "", "HS256", "RS256", "ES256", None, ["EdDSA"]])
def test_the_header_does_not_choose_the_algorithm(own: OwnKeys, alg: object) -> None:
    head = {"alg": alg, "kid": own.signing().kid, "typ": "at+jwt"}
    for signature in ("", "AAAA", signed(own).rpartition(".")[2]):
        refused(own, f"{part(head)}.{part(GOOD)}.{signature}")


def test_the_public_key_is_no_secret(own: OwnKeys) -> None:
    private = own.signing().key
    assert isinstance(private, Ed25519PrivateKey)
    public = private.public_key()
    for secret in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes_raw(),
        own.signing().kid.encode(),
    ):
        head = f"{part({'alg': 'HS256', 'kid': own.signing().kid, 'typ': 'at+jwt'})}.{part(GOOD)}"
        refused(own, f"{head}.{part(hmac.digest(secret, head.encode(), hashlib.sha256))}")


@pytest.mark.parametrize("kid", ["../../x", "ed25519.pem", "' OR 1=1 --", "", 0, None, [], "a" * 1000])
def test_an_unknown_kid_is_refused(own: OwnKeys, kid: object) -> None:
    head = part({"alg": "EdDSA", "kid": kid, "typ": "at+jwt"})
    refused(own, f"{head}.{part(GOOD)}.{signed(own).rpartition('.')[2]}")


def test_a_token_without_kid_is_refused(own: OwnKeys) -> None:
    refused(own, signed(own, kid=...))


def test_a_swapped_payload_or_a_foreign_key_breaks_the_signature(own: OwnKeys) -> None:
    head, _, signature = signed(own).split(".")
    refused(own, f"{head}.{part({**GOOD, 'sub': '8'})}.{signature}")
    refused(own, signed(own, key=Ed25519PrivateKey.generate()))
    refused(own, signed(own, jwk={"kty": "OKP"}, key=Ed25519PrivateKey.generate()))


@pytest.mark.parametrize("crit", [["exp"], [], "b64", None])
def test_critical_extensions_are_refused(own: OwnKeys, crit: object) -> None:
    private = own.signing().key
    assert isinstance(private, Ed25519PrivateKey)
    head = f"{part({'alg': 'EdDSA', 'kid': own.signing().kid, 'typ': 'at+jwt', 'crit': crit})}.{part(GOOD)}"
    refused(own, f"{head}.{part(private.sign(head.encode()))}")


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps(GOOD).replace('"sub": "7"', '"sub": "8", "sub": "7"').encode(), json.dumps([GOOD]).encode(), b"", b"null",
        json.dumps(GOOD).replace(str(NOW + 900), "Infinity").encode(), json.dumps(GOOD).replace(str(NOW + 900), "1e999").encode(),
        json.dumps(GOOD).encode("utf-16"), json.dumps(GOOD).encode() + b"x",
    ],
)  # fmt: skip
def test_claims_are_one_object_with_each_name_once(own: OwnKeys, payload: bytes) -> None:
    refused(own, signed(own, payload))


def test_what_is_too_long_or_encrypted_costs_nothing(own: OwnKeys) -> None:
    refused(own, "eyJ" + "A" * 1_000_000 + ".A.A")
    refused(own, f"{part({'alg': 'RSA-OAEP', 'enc': 'A256GCM', 'kid': own.signing().kid})}.AAAA.AAAA.AAAA.AAAA")


# --- other issuers -------------------------------------------------------------------------------------------------------------

FOREIGN = SigningKey("theirs", "HS256", b"a secret that another service has")


def foreign(claims: dict[str, object], typ: str | None = None) -> str:
    headers = {"kid": "theirs", **({} if typ is None else {"typ": typ})}
    return jwt.PyJWS().encode(json.dumps(claims).encode(), FOREIGN.key, algorithm="HS256", headers=headers)


def test_a_foreign_token_makes_nobody_an_admin_unless_its_key_may(own: OwnKeys) -> None:
    claims: dict[str, object] = {"sub": "7", "exp": NOW + 9, "role": "admin", "sid": "s", "as_of": 99}
    plain = verifier(own, FOREIGN.verifying).verify(foreign(claims))
    trusted = verifier(own, FOREIGN.verifying._replace(roles=frozenset({"admin"}))).verify(foreign(claims))

    assert ("user", "", 0) == (plain.role, plain.sid, plain.as_of)
    assert ("admin", "", 0) == (trusted.role, trusted.sid, trusted.as_of)


def test_a_foreign_key_vouches_only_for_its_issuer(own: OwnKeys) -> None:
    """The same kid at another issuer is another key."""
    key = FOREIGN.verifying._replace(issuer="https://theirs.example")
    good = foreign({"sub": "7", "exp": NOW + 9, "iss": "https://theirs.example"})
    assert 7 == verifier(own, key).verify(good).mid
    for issuer in ("imcore", "https://theirs.example.evil", ["https://theirs.example"], None):
        with pytest.raises(Unauthenticated):
            verifier(own, key).verify(foreign({"sub": "7", "exp": NOW + 9, "iss": issuer}))


def test_what_another_issuer_signs_for_something_else_is_refused(own: OwnKeys) -> None:
    claims: dict[str, object] = {"sub": "7", "exp": NOW + 9}
    assert 7 == verifier(own, FOREIGN.verifying).verify(foreign(claims, "at+jwt")).mid
    for typ in ("rt+jwt", "logout+jwt", "dpop+jwt"):
        with pytest.raises(Unauthenticated):
            verifier(own, FOREIGN.verifying).verify(foreign(claims, typ))


# --- keys that change ------------------------------------------------------------------------------------------------------------


def test_a_new_key_signs_when_every_process_knows_it_and_the_old_one_verifies_on(tmp_path: Path) -> None:
    clock = Clock()
    one, other = OwnKeys(tmp_path, clock), OwnKeys(tmp_path, clock)
    first = one.signing()
    os.utime(one.folder / auth.KEY_FILE, (NOW - 3600, NOW - 3600))
    before = auth.mint(first, now=NOW, expires_in_s=900, mid=7)
    assert first.kid == other.signing().kid

    kid = one.rotate()
    os.utime(one.folder / "ed25519-2.pem", (NOW, NOW))
    clock.now += SETTLE_S / 2
    assert [first.kid, kid] == one.kids == other.kids
    assert first.kid == one.signing().kid == other.signing().kid
    clock.now += SETTLE_S
    assert kid == one.signing().kid == other.signing().kid
    after = auth.mint(other.signing(), now=NOW, expires_in_s=900, mid=7)
    assert [7, 7] == [verifier(one).verify(token).mid for token in (before, after)]

    other.retire(first.kid)
    clock.now += 2
    assert [kid] == one.kids
    assert 7 == verifier(one)(Claim(token=after)).mid
    refused(one, before)


def test_the_only_key_is_not_retired_and_an_unknown_one_is_not_there(own: OwnKeys) -> None:
    with pytest.raises(BadConfiguration, match="only key"):
        own.retire(own.signing().kid)
    with pytest.raises(BadConfiguration, match="no key"):
        own.retire("x")


def test_the_first_key_is_known_to_every_process_at_once(tmp_path: Path) -> None:
    """It signs from the first moment on, also where somebody has just looked and found none."""
    clock = Clock()
    one, other = OwnKeys(tmp_path, clock), OwnKeys(tmp_path, clock)
    assert [] == other.kids

    kid = one.signing().kid

    assert other.verifying(kid) is not None


def test_other_files_in_the_folder_are_no_keys(own: OwnKeys) -> None:
    for name in ("ed25519-x.pem", "other.pem", ".ed25519.pem.1", "ed25519.pem~"):
        (own.folder / name).write_text("rubbish")

    assert 1 == len(OwnKeys(own.folder.parent).kids)


class Listing(list["os.DirEntry[str]"]):
    """What os.scandir gives, when it was read to its end."""

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_key_that_goes_while_the_folder_is_looked_at_says_nothing_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was listed, and is not there any more when its time is read."""
    clock = Clock()
    own = OwnKeys(tmp_path, clock)
    stays, goes = own.signing(), own.rotate()
    look = os.scandir

    def and_one_goes(folder: Path) -> Listing:
        with look(folder) as found:
            entries = Listing(found)
        (own.folder / "ed25519-2.pem").unlink()
        return entries

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", and_one_goes)
        clock.now += 1
        assert [stays.kid] == own.kids
    standing = Identity(7, kid=goes)
    assert not verifier(own).stands(standing)
    assert verifier(own).stands(replace(standing, kid=stays.kid))


@pytest.mark.parametrize("is_there", [True, False], ids=["an empty folder", "no folder"])
def test_a_folder_of_keys_that_is_lost_ends_nobody_and_no_key_is_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_there: bool
) -> None:
    """A mount that is away is no retirement. What is known verifies; nothing is signed, for nobody who starts now could verify it."""
    clock = Clock()
    own = OwnKeys(tmp_path, clock)
    key = own.signing()
    token = auth.mint(key, now=NOW, expires_in_s=900, mid=7)
    own.folder.rename(tmp_path / "elsewhere")
    if is_there:
        own.folder.mkdir()

    for _ in range(3):
        clock.now += 1
        assert 7 == verifier(own).verify(token).mid
        assert verifier(own).stands(Identity(7, kid=key.kid))
        for asked in (own.signing, own.rotate):
            with pytest.raises(BadConfiguration, match="are gone"):
                asked()
    assert is_there == own.folder.exists()
    assert 1 == caplog.text.count("are gone"), "it is complained of once"

    if is_there:
        own.folder.rmdir()
    (tmp_path / "elsewhere").rename(own.folder)
    clock.now += 1
    assert key.kid == own.signing().kid
    assert "there again" in caplog.text
