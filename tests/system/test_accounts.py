"""Real accounts on real connections: from registering to goim's frames, and to the end of it, on every comet of the service."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import jwt
import pytest
from aiohttp.web import Application, AppRunner, Request, Response, TCPSite, json_response

from conftest import copy_cluster, temporary_folder
from imcore.auth import LEEWAY_S, OwnKeys, load_or_create_keys, mint
from imcore.events.names import Connection
from system.clients import DEADLINE_S, FORMS, SEND, Client, Clients, Form, Gone, Refused, frame
from system.servers import PROGRAM, Backend, Server, backend, running
from waiting import eventually

T = TypeVar("T")
CALL: Final = 38
PASSWORD: Final = "correct horse battery staple"
# A login's connections end within two seconds, on a machine that has nothing else to do. No token here is over that soon.
SOON_S: Final = 15.0
WORKERS: Final = 2
PATIENT: Final = ("--set", "auth_webhook_s=20")  # a machine may be busy
V2: tuple[Form, ...] = ("v2 tcp", "v2 ws", "json")


@pytest.fixture(scope="module")
def guarded(cluster: Path) -> Iterator[Server]:
    """A server of two comets that wants tokens. At the end no log of it holds a secret."""
    cheap = ("--set", "password_memory_kib=8", "--set", "password_passes=1", "--no-rate-limits")
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--auth", "jwt", "--workers", str(WORKERS), *cheap) as server:
            yield server
            said = server.log.read_text(errors="replace")
            assert not server.complaints()
        for secret in ("eyJ", PASSWORD, "ticket:"):
            assert secret not in said


@pytest.fixture
async def api(guarded: Server) -> AsyncIterator[Backend]:
    """A backend with a service token."""
    async with backend(
        guarded, mint(load_or_create_keys(guarded.data), now=time.time(), expires_in_s=600, service="t")
    ) as one:
        yield one


@pytest.fixture(scope="module")
def boss(guarded: Server) -> int:
    """An admin of that name."""
    return _created(guarded, "boss", "admin")


class Web:
    """Somebody with a browser, or curl."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self._server, self._session = server, session
        self._names = 0

    async def ask(
        self, method: str, path: str, body: object = None, token: str = "", origin: str = ""
    ) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"Origin": origin} if origin else {}
        url = f"http://{self._server.http}{path}"
        async with self._session.request(method, url, json=body, headers=headers) as response:
            return response.status, json.loads(await response.read())

    async def register(self, login: str) -> int:
        status, told = await self.ask("POST", "/v1/accounts", {"login": login, "password": PASSWORD})
        assert status == 201, told
        mid: int = told["mid"]
        return mid

    async def log_in(self, login: str, **device: object) -> dict[str, Any]:
        status, told = await self.ask("POST", "/v1/login", {"login": login, "password": PASSWORD, **device})
        assert status == 200, told
        return told

    async def somebody(self, login: str = "", **device: object) -> dict[str, Any]:
        self._names += 1
        login = login or f"user.{self._names}.{time.monotonic_ns() % 10**9}"
        await self.register(login)
        return {"login": login, **await self.log_in(login, **device)}


@asynccontextmanager
async def browsing(server: Server) -> AsyncIterator[Web]:
    async with aiohttp.ClientSession() as session:
        yield Web(server, session)


@pytest.fixture
async def web(guarded: Server) -> AsyncIterator[Web]:
    async with browsing(guarded) as one:
        yield one


async def connected(connecting: Clients, server: Server, who: dict[str, Any], count: int = 1) -> list[Client]:
    """Connections of a login, each of another form and key."""
    return [
        await connecting.connect(
            server, form, mid=who["mid"], key=f"{who.get('key', '')}{n} {form}", token=who["token"]
        )
        for n in range(count)
        for form in FORMS
    ]


# --- goim ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", ["tcp", "ws"])
async def test_goims_frames_take_the_login_as_it_came(
    guarded: Server, web: Web, api: Backend, connecting: Clients, carrier: str
) -> None:
    """Register and log in over HTTP; `auth` of the answer, to the byte, is the body of goim's auth frame. What comes back is goim's."""
    who = await web.somebody(room_id="live://1000", accepts=[1000, 1001], platform="web", key=f"goim {carrier}")
    body = json.dumps(who["auth"]).encode()
    assert {"mid", "key", "room_id", "platform", "accepts", "token"} == set(who["auth"])
    auth = (16 + len(body)).to_bytes(4, "big") + bytes.fromhex("0010 0001 00000007 00000001") + body
    replies = [
        (auth, bytes.fromhex("00000010 0010 0001 00000008 00000001")),
        (frame(1, 2, 2), bytes.fromhex("00000014 0010 0001 00000003 00000002 00000001")),
        (frame(1, 14, 3, b"1002"), bytes.fromhex("00000010 0010 0001 0000000f 00000003")),
        (frame(1, 12, 4), bytes.fromhex("00000010 0010 0001 0000000d 00000004")),
    ]
    pushed = bytes.fromhex("00000015 0010 0001 000003e8 00000000") + b"hello"
    async with asyncio.timeout(DEADLINE_S):
        if carrier == "tcp":
            address = guarded.tcp
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            for said, expected in replies:
                writer.write(said)
                assert expected == await reader.readexactly(len(expected))
            await api.push("mids", 1000, b"hello", mids=[who["mid"]])
            assert pushed == await reader.readexactly(len(pushed))
            writer.close()
            await writer.wait_closed()
        else:
            ws = await connecting.raw_websocket(guarded)
            for said, expected in replies:
                await ws.send_bytes(said)
                assert expected == await ws.receive_bytes()
            await api.push("mids", 1000, b"hello", mids=[who["mid"]])
            # One packet on a WebSocket is a frame of its own.
            assert pushed == (await ws.receive_bytes())[-len(pushed) :]


async def test_a_login_says_where_to_connect(guarded: Server, web: Web) -> None:
    who = await web.somebody()

    assert guarded.tcp in who["connect"]["tcp"]
    assert f"ws://{guarded.ws}/sub" in who["connect"]["ws"]
    assert (who["connect"]["tcp_port"], who["heartbeat_s"]) == (int(guarded.tcp.rpartition(":")[2]), 240)


async def test_nobody_is_who_the_login_is_not(guarded: Server, web: Web, connecting: Clients) -> None:
    one, other = await web.somebody(), await web.somebody()
    for form in FORMS:
        with pytest.raises((Refused, Gone)):
            await connecting.connect(guarded, form, mid=other["mid"], token=one["token"])


# --- the end ---------------------------------------------------------------------------------------------------------------------


async def all_gone(clients: list[Client], since: float) -> None:
    for client in clients:
        code = await client.until_gone(SOON_S)
        if client.form.endswith("ws") or client.form == "json":
            assert code == 4401
    assert time.monotonic() - since < SOON_S


async def test_a_logout_closes_the_connections_of_the_login_on_every_comet_and_no_others(
    guarded: Server, web: Web, connecting: Clients, api: Backend
) -> None:
    phone = await web.somebody()
    laptop = await web.log_in(phone["login"])
    rounds = 2
    ended, spared = (
        await connected(connecting, guarded, phone, rounds),
        await connected(connecting, guarded, laptop | {"key": "l"}),
    )
    at = time.monotonic()

    assert 200 == (await web.ask("POST", "/v1/logout", {}, phone["token"]))[0]

    await all_gone(ended, at)
    await api.push("mids", 1000, b"after", mids=[phone["mid"]])
    for client in spared:
        await client.until_said(1)
    assert not any(client.said for client in ended)
    for form in FORMS:
        with pytest.raises((Refused, Gone)):
            await connecting.connect(guarded, form, mid=phone["mid"], token=phone["token"])


async def test_what_admins_do_closes_every_connection_of_the_person(
    guarded: Server, boss: int, web: Web, connecting: Clients
) -> None:
    """A suspension, another role, a logout everywhere over the connection itself."""
    admin = await web.log_in("boss")
    assert boss == admin["mid"]
    assert "admin" == admin["role"]
    for act, body in (("suspension", {"reason": "spam"}), ("role", {"role": "moderator"})):
        who = await web.somebody()
        ended = await connected(connecting, guarded, who, 2)
        at = time.monotonic()
        assert 200 == (await web.ask("PUT", f"/v1/accounts/{who['mid']}/{act}", body, admin["token"]))[0]
        await all_gone(ended, at)
    who = await web.somebody()
    ended = await connected(connecting, guarded, who, 2)
    at = time.monotonic()
    await ended[-1].ask(CALL, {"verb": "accounts.logout", "args": {"everywhere": True}})
    await all_gone(ended, at)


@pytest.mark.parametrize("form", V2)
async def test_a_moderator_who_joins_a_private_room_is_told_its_place_there(
    guarded: Server, boss: int, web: Web, connecting: Clients, api: Backend, form: Form
) -> None:
    """And not that of what is audited in the same step."""
    who, room = await web.log_in("boss"), guarded.new_room()
    assert boss == who["mid"]
    await api.create(room, guarded.new_mid(), public=False)
    client = await connecting.connect(guarded, form, mid=who["mid"], token=who["token"])

    place = await client.join(room)

    me = (await client.ask(CALL, {"verb": "rooms.show", "args": {"room": room}}))["answer"]["me"]
    assert {"position": me["since"], "seq": me["since_seq"]} == place


@pytest.mark.parametrize("form", V2)
@pytest.mark.parametrize("verb", ["accounts.logout", "account.deactivate", "accounts.set_role"])
async def test_who_ends_its_own_login_has_the_answer_before_the_end(
    guarded: Server, boss: int, web: Web, connecting: Clients, form: Form, verb: str
) -> None:
    """And nothing that it asked for behind that is done."""
    who = await web.somebody()
    if verb == "accounts.set_role":
        admin = await web.log_in("boss")
        assert boss == admin["mid"]
        role = ("PUT", f"/v1/accounts/{who['mid']}/role", {"role": "admin"})
        assert 200 == (await web.ask(*role, admin["token"]))[0]
        who = await web.log_in(who["login"])
    args = {"mid": who["mid"], "role": "user"} if verb == "accounts.set_role" else {}
    client = await connecting.connect(guarded, form, mid=who["mid"], token=who["token"])
    at = time.monotonic()

    answer = (await client.ask(CALL, {"verb": verb, "args": args}))["answer"]

    assert answer["position"] > 0
    with pytest.raises((Gone, Refused)):
        await client.send(guarded.new_room(), "and after")
    await all_gone([client], at)


async def test_nothing_that_a_connection_asked_for_after_the_logout_is_stored(
    guarded: Server, web: Web, connecting: Clients, api: Backend
) -> None:
    """It sends on until it is cut off; of its messages none has a place behind the logout's, but for a moment."""
    room = guarded.new_room()
    for form in V2:
        who = await web.somebody()
        await api.create(room := f"{room}x", who["mid"])
        client = await connecting.connect(guarded, form, mid=who["mid"], token=who["token"])

        async def shout(client: Client = client, room: str = room) -> None:
            while True:
                await client.send(room, "still here")

        shouting = asyncio.create_task(shout())
        await asyncio.sleep(0)
        at = time.monotonic()
        assert 200 == (await web.ask("POST", "/v1/logout", {}, who["token"]))[0]
        with pytest.raises((Gone, Refused)):
            async with asyncio.timeout(SOON_S):
                await shouting
        assert time.monotonic() - at < SOON_S
        head = await guarded.head()
        with pytest.raises((Gone, Refused)):
            await client.send(room, "and after")
        assert not [event for event in await guarded.events(head) if event.mid == who["mid"] and event.op]


@pytest.mark.parametrize("form", V2)
async def test_what_was_being_looked_up_at_the_logout_is_not_stored(
    guarded: Server, web: Web, connecting: Clients, api: Backend, form: Form
) -> None:
    """Replies look up what they are about, here for as long as the table is held; and what is sent meanwhile waits behind them."""
    who, other, room = await web.somebody(), await web.somebody(), guarded.new_room()
    await api.create(room, who["mid"], other["mid"])
    client = await connecting.connect(guarded, form, mid=who["mid"], token=who["token"])
    witness = await connecting.connect(guarded, form, mid=other["mid"], token=other["token"])
    root = (await client.send(room, "root"))["seq"]
    async with guarded.database() as holding:
        async with holding.transaction():
            await holding.execute("LOCK TABLE members IN ACCESS EXCLUSIVE MODE")
            for body, about in (("a reply", {"reply_to": root}), ("behind it", {}), ("another", {"reply_to": root})):
                await client.post(SEND, {"room": room, "id": str(uuid.uuid4()), "body": body, **about})
            await eventually(partial(_is_waited_for, holding))
            assert 200 == (await web.ask("POST", "/v1/logout", {}, who["token"]))[0]
            await all_gone([client], time.monotonic())
        for n in range(10):  # these are looked up and stored after those would have been
            message = {"room": room, "id": str(uuid.uuid4()), "body": n, "reply_to": root}
            await witness.ask(SEND, message)

    events = await guarded.events()
    said = [event for event in events if event.stream == f"room:{room}" and event.op]
    assert [who["mid"], *[other["mid"]] * 10] == [event.mid for event in said]


async def _is_waited_for(holding: Connection) -> bool:
    """Does another query wait for what this connection holds?"""
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'members'::regclass"
    return bool(await holding.fetchval(waits))


# --- tickets and fresh tokens -----------------------------------------------------------------------------------------------------


async def test_a_ticket_is_for_one_connection_of_one_origin(guarded: Server, web: Web, connecting: Clients) -> None:
    who = await web.somebody()
    page, other = "http://localhost:8000", "http://localhost:9000"

    async def ticket(origin: str) -> str:
        status, told = await web.ask("POST", "/v1/tickets", {}, who["token"], origin)
        assert status == 201, told
        made: str = told["token"]
        return made

    async def connect(token: str, origin: str, form: Form = "json") -> Client:
        return await connecting.connect(guarded, form, token=token, headers={"Origin": origin})

    made = await ticket(page)
    client = await connect(made, page)
    assert who["mid"] == client.mid
    with pytest.raises((Refused, Gone)):
        await connect(made, page)
    made = await ticket(page)
    with pytest.raises((Refused, Gone)):
        await connect(made, other)
    with pytest.raises((Refused, Gone)):  # it was used up by that
        await connect(made, page)
    for bad in ("ticket:", "ticket:x", f"ticket:{'A' * 22}", "ticket:' OR 1=1 --"):
        with pytest.raises((Refused, Gone)):
            await connect(bad, page)
    made = await ticket(page)
    await web.ask("POST", "/v1/logout", {}, who["token"])
    await client.until_gone(SOON_S)
    with pytest.raises((Refused, Gone)):
        await connect(made, page)


async def test_a_connection_stays_with_a_fresh_token_and_ends_without(
    guarded: Server, web: Web, connecting: Clients
) -> None:
    who, other = await web.somebody(), await web.somebody()
    same = await web.log_in(who["login"])
    claims = jwt.decode(who["token"], options={"verify_signature": False})

    async def come_and_renew(seconds: float) -> tuple[list[Client], list[Client], float]:
        """All come with a token that is good for so long; half of them renew it."""
        brief = _token_of(guarded, claims, expires_in_s=seconds - LEEWAY_S)
        ends_at = jwt.decode(brief, options={"verify_signature": False})["exp"] + LEEWAY_S
        kept = [await connecting.connect(guarded, form, key=f"kept {form}", token=brief) for form in V2]
        left = [await connecting.connect(guarded, form, key=f"left {form}", token=brief) for form in V2]
        for client in kept:
            for foreign in (other["token"], same["token"], "rubbish", who["refresh_token"]):
                with pytest.raises(Refused, match="forbidden"):
                    await client.ask(CALL, {"verb": "account.renew", "args": {"token": foreign}})
            told = await client.ask(CALL, {"verb": "account.renew", "args": {"token": who["token"]}})
            assert claims["exp"] * 1000 == told["answer"]["expires_at"]
        return kept, left, ends_at

    kept, left, ends_at = await _in_time(come_and_renew)

    for client in left:
        assert 4401 == await client.until_gone()
    assert ends_at <= time.time(), "clocks may be as wrong for who is there as for who comes in"
    for client in kept:
        assert not client.is_gone
        told = await client.ask(CALL, {"verb": "account.show", "args": {}})
        assert who["mid"] == told["answer"]["mid"]


async def _in_time(come: Callable[[float], Awaitable[T]]) -> T:
    """What is done with a token that is good for some seconds only; for more of them, if the machine takes longer for it."""
    seconds = 3.0
    while True:
        began_at = time.time()
        try:
            return await come(seconds)
        except (Gone, Refused):
            if time.time() < began_at + seconds - 1:  # the time of a token is told in whole seconds
                raise
        seconds *= 2


async def test_a_ticket_lets_in_as_long_as_the_token_behind_it(guarded: Server, web: Web, connecting: Clients) -> None:
    who, page = await web.somebody(), "http://localhost:8000"
    claims = jwt.decode(who["token"], options={"verify_signature": False})
    over = _token_of(guarded, claims, expires_in_s=-1)
    status, told = await web.ask("POST", "/v1/tickets", {}, over, page)
    assert 201 == status

    client = await connecting.connect(guarded, "json", token=told["token"], headers={"Origin": page})

    assert who["mid"] == client.mid


def _token_of(server: Server, claims: dict[str, Any], *, expires_in_s: float) -> str:
    """Of the same login, for another time."""
    named = {"sid": claims["sid"], "as_of": claims["as_of"], "mid": int(claims["sub"])}
    return mint(load_or_create_keys(server.data), now=time.time(), expires_in_s=expires_in_s, role="user", **named)


async def test_a_key_that_is_retired_ends_the_connections_of_what_it_signed_and_no_other(
    guarded: Server, web: Web, connecting: Clients
) -> None:
    """A stolen key is retired: whoever came with a token, or a ticket, that it signed is gone as soon as everybody whose login ends."""
    who, keys = await web.somebody(), OwnKeys(guarded.data)
    kid, page = keys.rotate(), "http://localhost:8080"
    file = max((guarded.data / "keys").iterdir(), key=lambda one: one.stat().st_mtime_ns)
    long_ago = time.time() - 3600
    os.utime(file, (long_ago, long_ago))
    signing = OwnKeys(guarded.data).signing()
    assert kid == signing.kid
    claims = jwt.decode(who["token"], options={"verify_signature": False})
    stolen = mint(
        signing,
        now=time.time(),
        expires_in_s=600,
        mid=who["mid"],
        role="user",
        sid=claims["sid"],
        as_of=claims["as_of"],
    )

    async def ticket() -> str:
        _, told = await web.ask("POST", "/v1/tickets", {}, stolen, page)
        made: str = told.get("token", "")
        return made

    async def by_token(form: Form) -> Client:
        return await connecting.connect(guarded, form, key=f"stolen {form}", token=stolen)

    async def by_ticket() -> Client:
        return await connecting.connect(guarded, "json", key="t", token=await ticket(), headers={"Origin": page})

    ways: list[Callable[[], Awaitable[Client]]] = [*(partial(by_token, form) for form in FORMS), by_ticket]
    gone = [await eventually(way) for way in ways]  # every process looks for new keys now and then
    stays = [await connecting.connect(guarded, form, key=f"own {form}", token=who["token"]) for form in FORMS]

    keys.retire(kid)

    for client in gone:
        await client.until_gone(SOON_S)
    assert not any(client.is_gone for client in stays)

    async def is_refused() -> bool:
        return 401 == (await web.ask("GET", "/v1/account", None, stolen))[0]

    await eventually(is_refused)  # those connections may all have been on the other process


# --- without any configuration ------------------------------------------------------------------------------------------------------


async def test_in_mode_open_accounts_work_too_and_a_token_that_is_given_must_be_good(
    server: Server, connecting: Clients
) -> None:
    async with browsing(server) as web:
        who = await web.somebody(f"open.{time.monotonic_ns()}")
        client = await connecting.connect(server, "json", token=who["token"])
        assert who["mid"] == client.mid
        believed = await connecting.connect(server, "json", mid=server.new_mid())
        for form in FORMS:
            with pytest.raises((Refused, Gone)):
                await connecting.connect(server, form, mid=who["mid"], token="rubbish")
        assert 200 == (await web.ask("GET", "/v1/account", token=who["token"]))[0]
        assert 401 == (await web.ask("GET", "/v1/account", token="rubbish"))[0]
        assert 200 == (await web.ask("POST", "/v1/logout", {}, who["token"]))[0]
        await client.until_gone(SOON_S)
        assert not believed.is_gone


async def test_after_a_restart_what_was_taken_back_is_known_before_anybody_comes_in(
    cluster: Path, connecting: Clients
) -> None:
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--auth", "jwt", "--set", "password_memory_kib=8") as server:
            async with browsing(server) as web:
                gone, here = await web.somebody(), await web.somebody()
                await web.ask("POST", "/v1/logout", {"everywhere": True}, gone["token"])
            server.kill()
            await server.start_again()
            async with browsing(server) as web:
                assert [401, 200] == [
                    (await web.ask("GET", "/v1/account", token=who["token"]))[0] for who in (gone, here)
                ]
            with pytest.raises((Refused, Gone)):
                await connecting.connect(server, "json", token=gone["token"])
            assert here["mid"] == (await connecting.connect(server, "json", token=here["token"])).mid


def _created(server: Server, name: str, role: str) -> int:
    """The command line, beside a server that runs."""
    done = subprocess.run(
        [*PROGRAM, "account", "create", name, "--role", role, "--data", str(server.data)],
        input=f"{PASSWORD}\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


# --- the service's own backend -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def asked() -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A backend that knows people by their numbers, for as many seconds as stand behind, does not answer to "broken", lets nobody join
    group://no, and takes no message to group://mute."""
    questions: list[dict[str, Any]] = []

    async def answer(request: Request) -> Response:
        question = await request.json()
        questions.append(question)
        if question["act"] in ("connect", "renew"):
            mid, _, seconds = question["token"].partition(":")
            found = {"mid": int(mid)} if mid.isdigit() else {}
            status = 200 if found else 500 if mid == "broken" else 401
            return json_response({**found, **({"expires_in_s": float(seconds)} if seconds else {})}, status=status)
        refused = (question["act"], question["room"]) in (("join", "group://no"), ("send", "group://mute"))
        return json_response({}, status=403 if refused else 200)

    app = Application()
    app.router.add_post("/", answer)
    runner = AppRunner(app)
    await runner.setup()
    await TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/", questions
    await runner.cleanup()


async def test_the_services_own_backend_is_asked_and_obeyed(
    cluster: Path, connecting: Clients, asked: tuple[str, list[dict[str, Any]]]
) -> None:
    """Who connects, what is joined, what is sent; and the messages of a connection stay in their order."""
    url, questions = asked
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        asks = ("--set", f"auth_webhook_url={url}", "--set", "auth_webhook_asks=connect,join,send")
        with running(folder, "--auth", "webhook", *asks) as server:
            token = mint(load_or_create_keys(server.data), now=time.time(), expires_in_s=600, service="t")
            async with backend(server, token) as api:
                for room in ("group://yes", "group://no", "group://mute"):
                    await api.create(room)
                with pytest.raises((Refused, Gone)):
                    await connecting.connect(server, "json", token="nobody")
                for form in V2:
                    client = await connecting.connect(server, form, key=form, token="7")
                    assert client.mid == 7
                    assert "connect" == questions[-1]["act"]
                    with pytest.raises(Refused, match="forbidden"):
                        await client.join("group://no")
                    await client.join("group://yes")
                    await client.join("group://mute")
                    with pytest.raises(Refused, match="forbidden"):
                        await client.send("group://mute", "hush")
                    places = await asyncio.gather(*(client.send("group://yes", n) for n in range(20)))
                    assert sorted(place["seq"] for place in places) == [place["seq"] for place in places]
                with pytest.raises((Refused, Gone)):
                    await connecting.connect(server, "v1 tcp", token="7", room="group://no")
            assert not server.complaints()


async def _patiently(connecting: Clients, server: Server, form: Form, **who: Any) -> Client:
    """A server that starts on a busy machine may ask to come again."""
    return await eventually(lambda: connecting.connect(server, form, **who))


async def test_a_connection_that_the_services_own_backend_knows_for_a_time_may_stay_if_it_says_so_again(
    cluster: Path, connecting: Clients, asked: tuple[str, list[dict[str, Any]]]
) -> None:
    url, questions = asked
    patiently = partial(_patiently, connecting)
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(
            folder, "--auth", "webhook", *PATIENT, "--set", f"auth_webhook_url={url}", "--set", "auth_leeway_s=0"
        ) as server:

            async def come_and_renew(seconds: float) -> tuple[list[Client], list[Client]]:
                kept = [await patiently(server, form, key=f"kept {form}", token=f"7:{seconds}") for form in V2]
                left = [await patiently(server, form, key=f"left {form}", token=f"7:{seconds}") for form in V2]
                for form, client in zip(V2, kept, strict=True):
                    refusals = (("8:600", "forbidden"), ("nobody", "forbidden"), ("broken", "unavailable"))
                    for token, code in refusals:
                        with pytest.raises(Refused, match=code):
                            await client.ask(CALL, {"verb": "account.renew", "args": {"token": token}})
                    asked_at = time.time()
                    told = await client.ask(CALL, {"verb": "account.renew", "args": {"token": "7:600"}})
                    assert asked_at + 599 < told["answer"]["expires_at"] / 1000 < time.time() + 601
                    assert ("renew", "7:600", 7, f"kept {form}") == tuple(
                        questions[-1][name] for name in ("act", "token", "mid", "key")
                    )
                return kept, left

            kept, left = await _in_time(come_and_renew)

            for client in left:
                assert 4401 == await client.until_gone()
            for client in kept:
                assert not client.is_gone
                await client.ask(CALL, {"verb": "inbox.list", "args": {}})


async def test_a_logout_ends_who_the_services_own_backend_knows(
    cluster: Path, connecting: Clients, asked: tuple[str, list[dict[str, Any]]]
) -> None:
    """Whoever is asked about afterwards may come in again: that is for the backend to say."""
    patiently = partial(_patiently, connecting)
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--auth", "webhook", *PATIENT, "--set", f"auth_webhook_url={asked[0]}") as server:
            before = [await patiently(server, form, key=form, token="7") for form in V2]
            async with browsing(server) as web:
                signed = mint(load_or_create_keys(server.data), now=time.time(), expires_in_s=600, mid=7, as_of=1)
                assert 200 == (await web.ask("POST", "/v1/logout", {"everywhere": True}, signed))[0]
            for client in before:
                assert 4401 == await client.until_gone(SOON_S)
            assert 7 == (await patiently(server, "json", token="7")).mid
