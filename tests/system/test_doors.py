"""The doors as the world finds them: TLS, signed tokens, proxies in front, pages of other origins."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from conftest import copy_cluster, temporary_folder
from imcore.auth import load_or_create_keys, mint
from system.clients import FORMS, HEARTBEAT, HISTORY, MEMBERS, READ, SEND, Client, Clients, Form, Gone, Refused
from system.servers import PROGRAM, Backend, Server, backend, running
from waiting import eventually

ORIGIN = "https://chat.example.com"
TOKEN_S = 600
READ_S = 30
CALL = 38


@dataclass(frozen=True, slots=True)
class Doors:
    """A server with every door, and what one needs to come in."""

    server: Server
    tls: ssl.SSLContext
    service: str
    mid: int
    person: str  # of the command line, for this mid

    def made_token(self, mid: int, expires_in_s: float = TOKEN_S) -> str:
        """The same, at once: a process of its own takes half a second."""
        return mint(load_or_create_keys(self.server.data), now=time.time(), expires_in_s=expires_in_s, mid=mid)


@dataclass(frozen=True, slots=True)
class Secret:
    """Where TLS is spoken."""

    tcp: str
    ws: str


def token(data: Path, *arguments: str) -> str:
    """`imcore token`, as an admin asks for one."""
    command = [*PROGRAM, "token", "--data", str(data), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=READ_S * 2, check=True).stdout.strip()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that nobody signed but itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert_file, key_file


@pytest.fixture(scope="module")
def doors(cluster: Path) -> Iterator[Doors]:
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        cert, key = make_certificate(folder)
        settings = {
            "tls_cert": cert, "tls_key": key, "wss": "127.0.0.1:0", "tcps": "127.0.0.1:0", "trusted_proxies": "127.0.0.0/8",
            "origins": ORIGIN, "auth_leeway_s": "0.001",
        }  # fmt: skip
        given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        with running(folder, "--auth", "jwt", *given) as server:
            mid = server.new_mid()
            tokens = token(server.data, "--service"), token(server.data, str(mid))
            yield Doors(server, ssl.create_default_context(cafile=str(cert)), tokens[0], mid, tokens[1])
            complaints = server.complaints()
        assert not complaints, complaints


@pytest.fixture
async def api(doors: Doors) -> AsyncIterator[Backend]:
    async with backend(doors.server, doors.service) as made:
        yield made


# --- TLS ---


@pytest.mark.parametrize("form", FORMS)
async def test_over_tls_everything_is_as_without(doors: Doors, api: Backend, connecting: Clients, form: Form) -> None:
    """Small and large, asked and told, and goodbye."""
    server, mid = doors.server, doors.server.new_mid()
    secret = Secret(server.addresses["tcps"], server.addresses["wss"])
    room = server.new_room()
    await api.create(room, mid)
    connect = partial(connecting.connect, secret, form, mid=mid, key="k", token=doors.made_token(mid), tls=doors.tls)
    client = await connect(room=server.new_room("live"))
    assert {"online": 1} == await client.ask(HEARTBEAT)
    payloads = ["x" * 4000 + f" {n}" for n in range(30)]
    for payload in payloads:
        await api.push_room(room, 1000, payload.encode())
    said = await client.until_said(len(payloads))
    assert payloads == [body.decode() if isinstance(body, bytes) else body for body in said]
    place = await client.send(room, "x" * 16_000)
    second = await connect()
    assert (None if form == "v1 tcp" else 4409) == await client.until_gone()
    await second.bye()

    assert place == {"position": place["position"], "seq": len(payloads) + 3}


async def test_who_does_not_speak_tls_at_its_door_hears_nothing(doors: Doors) -> None:
    for name in ("tcps", "wss"):
        host, _, port = doors.server.addresses[name].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(READ_S):
            said = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert b"HTTP" not in said


# --- tokens ---


@pytest.mark.parametrize("form", FORMS)
async def test_a_token_of_the_command_line_opens_the_door_for_its_person(
    doors: Doors, connecting: Clients, form: Form
) -> None:
    """And for nobody else: not without it, not for another person, not after its time, not with a backend's."""
    server, mid, good = doors.server, doors.mid, doors.person
    over = doors.made_token(mid, expires_in_s=-60)
    client = await connecting.connect(server, form, token=good)
    await client.ask(HEARTBEAT)
    bad: list[tuple[int | None, str]] = [
        (mid, ""), (mid, over), (mid + 1, good), (mid, good[:-6] + "AAAAAA"), (mid, "x.y.z"), (None, doors.service),
    ]  # fmt: skip
    for who, token_ in bad:
        with pytest.raises(Gone if form.startswith("v1") else Refused) as refused:
            await connecting.connect(server, form, mid=who, token=token_)
        if isinstance(refused.value, Refused):
            assert ("unauthenticated", False) == (refused.value.code, refused.value.retry)

    if not form.startswith("v1"):
        assert mid == client.welcome["mid"]


async def test_what_a_token_does_not_name_is_closed_to_it(doors: Doors, api: Backend, connecting: Clients) -> None:
    """Rooms, and operations. A room that it does name it may bring into being."""
    server, mid = doors.server, doors.server.new_mid()
    mine, other, live = server.new_room(), server.new_room(), server.new_room("live")
    await api.create(other)
    limited = token(server.data, str(mid), "--room", mine, "--room", "live://*", "--op", "1000")
    client = await connecting.connect(server, "json", token=limited, room=live)
    await client.join(mine)
    await client.send(mine, "mine")
    for ask in (client.join(other), client.join(server.new_room()), client.ask(12, other)):
        with pytest.raises(Refused) as refused:
            await ask
        assert "no_such_room" == refused.value.code
    with pytest.raises(Refused) as refused:
        await client.ask(4, {"room": mine, "id": "00000000-0000-4000-8000-000000000000", "body": "x", "op": 1001})
    assert "forbidden" == refused.value.code
    with pytest.raises(Refused) as refused:
        await connecting.connect(server, "v2 tcp", token=limited, room=other)
    assert "forbidden" == refused.value.code


@pytest.mark.parametrize("form", ["v2 tcp", "json"])
async def test_a_room_that_a_token_does_not_name_is_closed_to_it_whatever_its_person_is_in(
    doors: Doors, api: Backend, connecting: Clients, form: Form
) -> None:
    """The person is in both rooms. What is asked for by an operation is answered as a verb is."""
    server, mid = doors.server, doors.server.new_mid()
    mine, other = server.new_room(), server.new_room()
    await api.create(mine, mid)
    await api.create(other, mid)
    client = await connecting.connect(server, form, token=token(server.data, str(mid), "--room", mine))
    head = await server.head()

    def asked(room: str) -> list[tuple[int, dict[str, object]]]:
        return [
            (SEND, {"room": room, "id": str(uuid.uuid4()), "body": "x"}),
            (SEND, {"room": room, "id": str(uuid.uuid4()), "body": "x", "mentions": [mid]}),
            (HISTORY, {"room": room}),
            (MEMBERS, {"room": room}),
            (READ, {"room": room, "seq": 1}),
            (CALL, {"verb": "rooms.show", "args": {"room": room}}),
        ]

    for op, body in asked(other):
        with pytest.raises(Refused) as refused:
            await client.ask(op, body)
        assert "no_such_room" == refused.value.code, op
    assert [] == [event for event in await server.events(head) if event.stream == f"room:{other}"]
    for op, body in asked(mine):
        await client.ask(op, body)


async def test_a_connection_lasts_no_longer_than_its_token(doors: Doors, connecting: Clients) -> None:
    mid, seconds = doors.server.new_mid(), 2.0

    async def comes_in_time() -> Client:
        nonlocal seconds
        seconds *= 2  # a machine may be busy
        short = doors.made_token(mid, expires_in_s=seconds / 2)
        return await connecting.connect(doors.server, "json", token=short)

    client = await eventually(comes_in_time)

    assert 4401 == await client.until_gone()
    assert ("unauthenticated", False) == client.told


async def test_only_a_backend_pushes(doors: Doors, api: Backend) -> None:
    """Which goim let anybody do."""
    mid = doors.server.new_mid()
    url = f"http://{doors.server.http}/goim/push/mids?operation=1000&mids={mid}"
    async with aiohttp.ClientSession() as session:
        for headers, status in (({}, 401), ({"Authorization": f"Bearer {doors.made_token(mid)}"}, 403),
                                ({"Authorization": f"Bearer {doors.service}"}, 200)):  # fmt: skip
            async with session.post(url, data=b"x", headers=headers) as answer:
                assert status == answer.status


# --- who is there ---


async def test_behind_a_proxy_the_address_is_that_of_the_client(
    doors: Doors, api: Backend, connecting: Clients
) -> None:
    """The nearest one that no trusted proxy has; what the client itself wrote stands further left, and is not believed."""
    server = doors.server
    for forwarded, expected in (
        ("203.0.113.7", "203.0.113.7"),
        ("198.51.100.1, 203.0.113.8", "203.0.113.8"),
        ("198.51.100.1, 203.0.113.9, 127.0.0.5", "203.0.113.9"),
        ("2001:db8::1", "2001:db8::1"),
        ("no address", "127.0.0.1"),
    ):
        mid = server.new_mid()
        await connecting.connect(server, "json", token=doors.made_token(mid), headers={"X-Forwarded-For": forwarded})
        (session,) = await api.sessions_once(mid, 1)
        assert expected == session["address"]


async def test_a_page_connects_from_an_origin_that_is_allowed_and_from_no_other(doors: Doors) -> None:
    """Compared as a whole: no suffix, no other scheme, no other port, and not "null"."""
    bad = ["https://evil.example.com", "https://evilchat.example.com", f"{ORIGIN}.evil.com", "http://chat.example.com",
           f"{ORIGIN}:8443", "null", "", "https://"]  # fmt: skip
    async with aiohttp.ClientSession() as session:
        for path in ("ws", "sub"):
            url = f"http://{doors.server.ws}/{path}"
            for origin in bad:
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await session.ws_connect(url, headers={"Origin": origin})
                assert 403 == refused.value.status, origin
            for headers in ({"Origin": ORIGIN}, {"Origin": ORIGIN.upper()}, {}):
                ws = await session.ws_connect(url, headers=headers)
                await ws.close()
