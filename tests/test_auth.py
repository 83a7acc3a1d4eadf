"""Nobody is believed without a signature of a known key, under the algorithm of that key, over claims that hold now."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from imcore import auth
from imcore.auth import Claim, Identity, Key, SigningKey, Verifier
from imcore.config import AuthKey, load
from imcore.errors import BadConfiguration, Unauthenticated

NOW = 1_800_000_000
SECRET = b"0123456789abcdef0123456789abcdef"
PRIVATE = Ed25519PrivateKey.generate()
PUBLIC_PEM = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
EDDSA = SigningKey("main", "EdDSA", PRIVATE)
HS256 = SigningKey("backend", "HS256", SECRET)
GOOD: dict[str, object] = {"sub": "7", "exp": NOW + 60}


def verifier(*keys: SigningKey, audience: str = "imcore", leeway_s: float = 10) -> Verifier:
    ring = [key.verifying for key in keys or (EDDSA, HS256)]
    return Verifier(ring, now=lambda: NOW, audience=audience, leeway_s=leeway_s)


def token(claims: dict[str, object] = GOOD, key: SigningKey = EDDSA, **header: object) -> str:
    return raw(json.dumps(claims).encode(), key, **header)


def raw(payload: bytes, key: SigningKey = EDDSA, **header: object) -> str:
    headers = {"kid": key.kid, **header}
    return jwt.PyJWS().encode(
        payload, key.key, algorithm=key.alg, headers={k: v for k, v in headers.items() if v != ""}
    )


def part(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def changed(**claims: object) -> str:
    return token({**GOOD, **claims})


def refused(text: str, by: Verifier | None = None) -> str:
    with pytest.raises(Unauthenticated) as caught:
        (by or verifier()).verify(text)
    assert "7" not in caught.value.detail.replace("4096", "")
    return caught.value.detail


# --- what passes ---


def test_a_token_says_who_it_is_and_until_when() -> None:
    assert verifier().verify(token()) == Identity(mid=7, expires_at=NOW + 60)


def test_a_claim_mid_goes_before_sub_which_may_then_be_anything() -> None:
    assert verifier().verify(changed(sub="alice", mid=2**63 - 1)).mid == 2**63 - 1


def test_a_service_is_nobody() -> None:
    identity = verifier().verify(token({"sub": "shop", "exp": NOW + 1, "service": True}, HS256))

    assert (identity.mid, identity.service) == (0, True)


@pytest.mark.parametrize(
    ("rooms", "entered", "refused"),
    [
        (["*"], ["live://1", "group://x"], []),
        (["live://*"], ["live://1", "live://*"], ["group://1", "live2://1", "liv://1"]),
        (["group://7", "live://*"], ["group://7", "live://9"], ["group://77", "group://8"]),
        ([], [], ["live://1"]),
    ],
)
def test_rooms_are_names_or_patterns(rooms: list[str], entered: list[str], refused: list[str]) -> None:
    identity = verifier().verify(changed(rooms=rooms))

    assert all(identity.may_enter(room) for room in entered)
    assert not any(identity.may_enter(room) for room in refused)


def test_without_rooms_and_ops_there_is_no_limit() -> None:
    identity = verifier().verify(token())

    assert identity.may_enter("anything://at-all")
    assert identity.ops is None


def test_no_ops_is_not_all_ops() -> None:
    assert verifier().verify(changed(ops=[])).ops == frozenset()
    assert verifier().verify(changed(ops=[1000, 1001])).ops == frozenset({1000, 1001})


def test_a_token_without_kid_passes_if_there_is_one_key() -> None:
    assert verifier(EDDSA).verify(token(kid="")).mid == 7
    refused(token(kid=""), verifier(EDDSA, HS256))


def test_clocks_may_be_wrong_by_the_leeway_and_no_more() -> None:
    assert verifier(leeway_s=10).verify(changed(exp=NOW - 9)).mid == 7
    assert verifier(leeway_s=10).verify(changed(nbf=NOW + 10)).mid == 7
    refused(changed(exp=NOW - 10))
    refused(changed(nbf=NOW + 11))
    refused(changed(iat=NOW + 11))


def test_an_audience_that_is_named_must_be_ours() -> None:
    assert verifier().verify(changed(aud=["other", "imcore"])).mid == 7
    assert verifier(audience="chat").verify(changed(aud="chat")).mid == 7
    for foreign in ("other", ["other"], [], {"imcore": 1}, 1, None, "xxximcore"):
        refused(changed(aud=foreign))


def test_every_algorithm_verifies_with_its_own_kind_of_key() -> None:
    for key in (
        SigningKey("r", "RS256", rsa.generate_private_key(65537, 2048)),
        SigningKey("e", "ES256", ec.generate_private_key(ec.SECP256R1())),
        HS256,
        EDDSA,
    ):
        assert verifier(key).verify(token(key=key)).mid == 7


def test_a_mid_beside_the_token_must_be_its_own() -> None:
    assert verifier()(Claim(token=token(), mid=7)).mid == 7
    assert verifier()(Claim(token=token(), mid=0)).mid == 7
    with pytest.raises(Unauthenticated):
        verifier()(Claim(token=token(), mid=8))


# --- what does not ---


@pytest.mark.parametrize("alg", ["none", "None", "nOnE", "NONE", "", "HS256", "EdDSA2", "RS256", None, 1, ["EdDSA"]])
def test_the_header_does_not_choose_the_algorithm(alg: object) -> None:
    for signature in ("", "AAAA", token().rpartition(".")[2]):
        refused(f"{part({'alg': alg, 'kid': 'main', 'typ': 'JWT'})}.{part(GOOD)}.{signature}")


def test_the_public_key_is_no_secret() -> None:
    """The classic: HS256, with the text of the public key for its secret."""
    import hashlib
    import hmac

    for secret in (PUBLIC_PEM, PUBLIC_PEM.strip(), PRIVATE.public_key().public_bytes_raw()):
        for kid in ("main", "backend"):
            signed = f"{part({'alg': 'HS256', 'kid': kid})}.{part(GOOD)}"
            refused(f"{signed}.{part(hmac.digest(secret, signed.encode(), hashlib.sha256))}")


def test_another_key_of_the_ring_does_not_vouch() -> None:
    refused(token(key=SigningKey("main", "HS256", SECRET)))
    refused(token(key=SigningKey("backend", "EdDSA", PRIVATE)))


def test_a_swapped_payload_or_header_breaks_the_signature() -> None:
    header, payload, signature = token().split(".")

    refused(f"{header}.{part({**GOOD, 'sub': '8'})}.{signature}")
    refused(f"{part({'alg': 'EdDSA', 'kid': 'main', 'x': 1})}.{payload}.{signature}")
    refused(f"{header}.{payload}.{signature[:-4]}AAAA")
    refused(f"{header}.{payload}.")


@pytest.mark.parametrize(
    "kid",
    [
        "../../etc/passwd",
        "/dev/null",
        "main' OR '1'='1",
        "main\0",
        "MAIN",
        " main",
        "http://evil/key",
        0,
        None,
        [],
        {},
        True,
    ],
)
def test_an_unknown_kid_is_refused(kid: object) -> None:
    refused(f"{part({'alg': 'EdDSA', 'kid': kid})}.{part(GOOD)}.{token().rpartition('.')[2]}")
    refused(f"{part({'alg': 'EdDSA', 'kid': kid})}.{part(GOOD)}.{token().rpartition('.')[2]}", verifier(EDDSA))


def test_keys_in_the_header_are_not_looked_at() -> None:
    other = SigningKey("main", "EdDSA", Ed25519PrivateKey.generate())
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": part(other.key.public_key().public_bytes_raw())}  # type: ignore[union-attr]

    refused(token(key=other, jwk=jwk))
    refused(token(key=other, jku="http://127.0.0.1:1/keys", x5u="http://127.0.0.1:1/cert"))


@pytest.mark.parametrize("crit", [["exp"], ["b64"], [], "exp", None])
def test_critical_extensions_are_refused(crit: object) -> None:
    signed = f"{part({'alg': 'EdDSA', 'kid': 'main', 'crit': crit, 'b64': True})}.{part(GOOD)}"
    refused(f"{signed}.{part(PRIVATE.sign(signed.encode()))}")


def test_an_unencoded_payload_is_refused() -> None:
    signed = f"{part({'alg': 'EdDSA', 'kid': 'main', 'b64': False})}.{part(GOOD)}"
    refused(f"{signed}.{part(PRIVATE.sign(signed.encode()))}x")


@pytest.mark.parametrize("exp", [NOW + 60.0, "1800000060", None, True, -1, 2**53 + 1, 10**400, [], NOW - 10])
def test_exp_is_a_whole_number_in_the_future(exp: object) -> None:
    refused(changed(exp=exp))


@pytest.mark.parametrize("exp", ["Infinity", "1e999", "NaN", "-Infinity", "1e10"])
def test_exp_has_no_end_of_time(exp: str) -> None:
    refused(raw(b'{"sub":"7","exp":%b}' % exp.encode()))


def test_exp_and_sub_are_needed() -> None:
    refused(token({"sub": "7"}))
    refused(token({"exp": NOW + 60}))
    refused(token({"exp": NOW + 60, "mid": 7}))


@pytest.mark.parametrize(
    "sub", [7, None, "", "07", "0", "-7", "7.0", "+7", " 7", "７", "alice", str(2**63), "9" * 30, True, ["7"]]
)
def test_sub_is_a_member_id_in_decimal(sub: object) -> None:
    refused(changed(sub=sub))


@pytest.mark.parametrize("mid", [0, -1, 2**63, True, 7.0, "7", None, [7]])
def test_mid_is_a_positive_integer_of_64_bits(mid: object) -> None:
    refused(changed(mid=mid))


@pytest.mark.parametrize(
    "claims",
    [
        {"rooms": None}, {"rooms": "*"}, {"rooms": [1]}, {"rooms": ["live"]}, {"rooms": ["*://*"]}, {"rooms": ["live://a b"]},
        {"rooms": ["live://1"] * 1001}, {"rooms": [None]}, {"rooms": [""]}, {"rooms": {"*": 1}},
        {"ops": None}, {"ops": "1000"}, {"ops": [True]}, {"ops": [1000.0]}, {"ops": [2**31]}, {"ops": 1000},
        {"service": 1}, {"service": "true"}, {"service": None}, {"service": True, "mid": 7},
        {"nbf": "0"}, {"nbf": 1.5}, {"nbf": None}, {"iat": True},
    ],
)  # fmt: skip
def test_claims_of_another_type_are_refused(claims: dict[str, object]) -> None:
    refused(changed(**claims))


@pytest.mark.parametrize(
    "payload",
    [
        b'{"sub":"8","sub":"7","exp":1800000060}', b'{"sub":"7","exp":1800000060,"exp":1900000060}',
        b'{"sub":"7","exp":1800000060,"x":{"a":1,"a":2}}', b"[]", b"null", b'"7"', b"", b"{", b"\xff", b"\xef\xbb\xbf{}",
        b'{"sub":"7","exp":' + b"1" * 3000 + b"}",
    ],
)  # fmt: skip
def test_claims_are_one_object_with_each_name_once(payload: bytes) -> None:
    refused(raw(payload))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "a.b",
        "a.b.c.d.e",
        "eyJ",
        "\0.a.b",
        "a b.c.d",
        "é.é.é",
        "A" * 4097,
        "=.=.=",
        "a.b.c\n",
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    refused(text)


def test_a_huge_token_costs_nothing() -> None:
    refused("eyJ" + "A" * 1_000_000 + ".A.A")
    refused("." * 1_000_000)
    nested = base64.urlsafe_b64encode(b"[" * 2_800).decode().rstrip("=")
    refused(f"{nested}.A.A")


def test_an_encrypted_token_is_refused() -> None:
    refused(f"{part({'alg': 'RSA-OAEP', 'enc': 'A256GCM', 'kid': 'main'})}.AAAA.AAAA.AAAA.AAAA")


def test_a_token_is_in_no_representation_of_a_claim() -> None:
    assert "eyJ" not in repr(Claim(token=token()))


# --- mode open ---


def test_open_believes_what_it_is_told() -> None:
    assert auth.believe(Claim(mid=123, token="rubbish")) == Identity(mid=123, role="user")


def test_open_gives_each_anonymous_guest_a_mid_of_its_own() -> None:
    guests = [auth.believe(claim) for claim in (Claim(mid=0), Claim(mid=None), Claim(mid=0))]

    assert len({guest.mid for guest in guests}) == 3
    assert all(-(2**63) <= guest.mid < 0 for guest in guests)


# --- keys ---


def pem(key: Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed448PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("alg", "key"),
    [
        ("HS256", "x" * 31), ("HS256", PUBLIC_PEM.decode()), ("EdDSA", "x" * 64), ("EdDSA", pem(Ed448PrivateKey.generate())),
        ("EdDSA", pem(ec.generate_private_key(ec.SECP256R1()))), ("ES256", pem(ec.generate_private_key(ec.SECP384R1()))),
        ("RS256", pem(rsa.generate_private_key(65537, 1024))), ("RS256", PUBLIC_PEM.decode()), ("EdDSA", ""),
    ],
)  # fmt: skip
def test_a_key_that_is_not_of_its_kind_is_refused_without_being_shown(alg: str, key: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        auth.ring([AuthKey.model_validate({"kid": "k", "alg": alg, "key": key})])
    assert not key or key.splitlines()[-1] not in str(caught.value)


def test_keys_come_from_text_or_file_public_or_private(tmp_path: Path) -> None:
    file = tmp_path / "public.pem"
    file.write_bytes(PUBLIC_PEM)
    keys = [
        AuthKey(kid="file", key_file=str(file)),
        AuthKey(kid="text", key=pem(PRIVATE)),
        AuthKey(kid="secret", alg="HS256", key="x" * 32),
    ]

    ring = auth.ring(keys)

    assert [
        Key("file", "EdDSA", ring[0].key),
        Key("text", "EdDSA", ring[1].key),
        Key("secret", "HS256", b"x" * 32),
    ] == ring
    assert Verifier(ring, now=lambda: NOW).verify(token(kid="text")).mid == 7
    assert auth.signing_key(keys).kid == "text"
    assert auth.signing_key(keys, "secret").kid == "secret"
    with pytest.raises(BadConfiguration):
        auth.signing_key(keys, "file")


def test_a_missing_key_file_is_named_by_its_kid(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="main"):
        auth.ring([AuthKey(kid="main", key_file=str(tmp_path / "none"))])


def test_what_is_minted_passes() -> None:
    minted = auth.mint(EDDSA, now=NOW, expires_in_s=60, mid=7, rooms=["live://*"], ops=[1000])
    service = auth.mint(HS256, now=NOW, expires_in_s=60, service="shop")

    assert verifier().verify(minted) == Identity(7, frozenset({"live://*"}), frozenset({1000}), "user", NOW + 60)
    assert verifier().verify(service).service


def test_the_server_makes_a_key_once_for_itself_alone(tmp_path: Path) -> None:
    first = auth.load_or_create_keys(tmp_path)
    second = auth.load_or_create_keys(tmp_path)
    file = tmp_path / "keys" / auth.KEY_FILE

    assert first.kid == second.kid
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(file.parent).st_mode) == 0o700
    assert [file] == list(file.parent.iterdir())
    settings = load(flags={"data": str(tmp_path), "auth_mode": "jwt"}).settings
    import time

    minted = auth.mint(first, now=time.time(), expires_in_s=60, mid=5)
    assert auth.verifier_of(settings, auth.OwnKeys(tmp_path))(Claim(token=minted)).mid == 5


def test_processes_that_start_together_get_the_same_key(tmp_path: Path) -> None:
    kids: list[str] = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        kids.append(auth.load_or_create_keys(tmp_path).kid)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(kids) == 8
    assert len(set(kids)) == 1


def test_a_key_file_that_is_no_key_is_an_error_and_stays(tmp_path: Path) -> None:
    file = tmp_path / "keys" / auth.KEY_FILE
    file.parent.mkdir()
    file.write_text("rubbish")

    with pytest.raises(BadConfiguration):
        auth.load_or_create_keys(tmp_path)
    assert file.read_text() == "rubbish"
