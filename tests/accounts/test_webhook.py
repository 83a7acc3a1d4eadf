"""The user's own backend says who somebody is, and what happens when it says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from accounts.place import CHEAP
from api.place import Place, serving
from imcore import auth
from imcore.accounts.webhook import ANSWER_BYTES_MAX, RETRY_MS_MAX
from imcore.auth import Claim
from imcore.errors import Overloaded, Unavailable
from imcore.places import RETRY_MS_MIN

Asked = list[dict[str, Any]]


class Backend:
    """A backend that is asked. `never` keeps whoever asks waiting."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: Asked = []
        self.never = asyncio.Event()
        self.nowhere = 0  # who may not join anything
        self.cookies: list[str] = []  # that were sent with the questions

    async def answer(self, request: web.Request) -> web.StreamResponse:
        question = await request.json()
        self.asked.append(question)
        self.cookies += request.headers.getall("Cookie", [])
        if question["act"] == "join" and question["mid"] == self.nowhere:
            return web.json_response({}, status=403)
        match question.get("token") or question.get("room"):
            case "alice":
                return web.json_response({"mid": 7, "rooms": ["group://7"], "unknown": 1})
            case "x":
                return web.json_response({"mid": 9, "rooms": ["group://9", "direct://8-9", "direct://9-10"]})
            case "everywhere" | "in groups" | "in no room":
                rooms = {"everywhere": ["*"], "in groups": ["live://1", "group://*"], "in no room": ["group"]}
                return web.json_response({"mid": 7, "rooms": rooms[question["token"]]})
            case "shop":
                return web.json_response({"service": True})
            case "nobody" | "group://8":
                return web.json_response({}, status=403)
            case "cookie":
                return web.json_response({"mid": 9}, headers={"Set-Cookie": "session=9; Path=/"})
            case "halves":
                response = web.StreamResponse()
                await response.prepare(request)
                await response.write(b'{"mid":')
                await self.never.wait()
                await response.write(b"9}")
                return response
            case "long":
                return web.Response(body=b'{"mid":9' + b" " * ANSWER_BYTES_MAX + b"}")
            case "broken":
                return web.json_response({}, status=500)
            case "moved":
                return web.Response(status=307, headers={"Location": self.url})
            case "nonsense":
                return web.Response(text="<html>")
            case "a list":
                return web.json_response([{"mid": 7}])
            case "admin":
                return web.json_response({"mid": 7, "role": "admin"})
            case "mid zero":
                return web.json_response({"mid": 0})
            case "silent" | "group://6":
                await self.never.wait()
        return web.json_response({"mid": 9})


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    made = Backend()
    app = web.Application()
    app.router.add_post("/", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield made
    made.never.set()
    await runner.cleanup()


@asynccontextmanager
async def asking(database_url: str, backend: Backend, **more: Any) -> AsyncIterator[Place]:
    """A service that asks this backend, and waits for it as long as a busy machine takes."""
    settings = {"auth_webhook_url": backend.url, "auth_webhook_s": 30.0, **CHEAP, **more}
    async with serving(database_url, auth_mode="webhook", **settings) as place:
        yield place


async def status(place: Place, token: str, path: str = "/v1/inbox") -> int:
    return (await place.get(path, token=token)).status


async def test_the_backend_says_who_it_is(database_url: str, backend: Backend) -> None:
    async with asking(database_url, backend) as place:
        assert 200 == await status(place, "alice")
        assert ("request", "alice") == (backend.asked[-1]["act"], backend.asked[-1]["token"])
        assert 401 == await status(place, "nobody")
        assert 401 == (await place.get("/v1/inbox", token="")).status
        assert 403 == await status(place, "alice", "/v1/accounts"), "a person is no backend"
        assert 200 == await status(place, "shop", "/v1/accounts")
        assert 403 == await status(place, "admin", "/v1/accounts"), "nor does a webhook make admins"


async def test_a_backend_that_is_known_as_one_registers_whom_it_likes(database_url: str, backend: Backend) -> None:
    async with asking(database_url, backend, registration="closed") as place:
        body = {"login": "alice", "password": "correct horse battery staple"}
        assert 403 == (await place.post("/v1/accounts", token="alice", json=body)).status
        assert 403 == (await place.post("/v1/accounts", token="", json=body)).status
        assert 201 == (await place.post("/v1/accounts", token="shop", json=body)).status


async def test_the_backend_names_rooms_as_a_token_does(database_url: str, backend: Backend) -> None:
    """Rooms, all of a type, or all."""
    async with asking(database_url, backend) as place:
        rooms = ("live/1", "live/2", "group/1", "team/1")
        for type_, name in (room.split("/") for room in rooms[2:]):
            made = await place.post("/v1/rooms", token="shop", json={"room": f"{type_}://{name}", "public": True})
            assert 201 == made.status

        async def seen(token: str) -> list[int]:
            return [await status(place, token, f"/v1/rooms/{room}") for room in rooms]

        assert [200, 404, 200, 404] == await seen("in groups")
        assert [200, 200, 200, 200] == await seen("everywhere")
        assert 503 == await status(place, "in no room"), "what names no room is no answer"


async def test_no_answer_is_no(database_url: str, backend: Backend) -> None:
    """Whatever it is that is no answer; to be tried again."""
    async with asking(database_url, backend) as place:
        for token in ("broken", "moved", "nonsense", "mid zero", "a list", "long"):
            assert 503 == await status(place, token), token
        assert 6 == place.accounts.webhook.failed


async def test_nothing_within_the_deadline_is_no_answer(database_url: str, backend: Backend) -> None:
    async with asking(database_url, backend, auth_webhook_s=0.1) as place:
        assert 503 == await status(place, "silent")
        assert 1 == place.accounts.webhook.failed


async def test_no_answer_is_yes_where_that_was_chosen(database_url: str, backend: Backend) -> None:
    async with asking(database_url, backend, auth_webhook_fails="open") as place:
        assert 200 == await status(place, "broken")
        assert 401 == await status(place, "nobody"), "no is no"
        assert 403 == await status(place, "broken", "/v1/accounts")


async def test_nobody_is_believed_who_wants_to_stay(database_url: str, backend: Backend) -> None:
    """It would be let into every room for ever, by any token, because the backend is down."""
    async with asking(database_url, backend, auth_webhook_fails="open") as place:
        doors = place.accounts.doors
        known = await doors.admit(Claim("alice", mid=7))
        for token in ("broken", "nonsense", "mid zero", "a list"):
            with pytest.raises(Unavailable) as told:
                await doors.renewed(known, Claim(token, mid=7), origin="", address="")
            assert told.value.retry_after_ms
        assert known == await doors.renewed(known, Claim("alice", mid=7), origin="", address="")


async def test_each_who_is_refused_because_nobody_answers_is_told_another_time(
    database_url: str, backend: Backend
) -> None:
    async with asking(database_url, backend) as place:
        told = [(await place.get("/v1/inbox", token="broken")).json["retry_after_ms"] for _ in range(8)]
        assert len(set(told)) > 4
        assert all(RETRY_MS_MIN <= one < RETRY_MS_MAX for one in told)


async def test_only_so_many_are_asked_about_at_a_time(database_url: str, backend: Backend) -> None:
    async with asking(database_url, backend, auth_webhook_under_way_max=2) as place:
        waiting = [asyncio.create_task(status(place, "silent")) for _ in range(2)]
        while place.accounts.webhook.under_way < 2:
            await asyncio.sleep(0.01)
        told = await place.get("/v1/inbox", token="alice")
        assert (503, "try_later") == (told.status, told.code)
        assert "retry_after_ms" in told.json
        backend.never.set()
        assert [200, 200] == await asyncio.gather(*waiting)
        assert 0 == place.accounts.webhook.under_way


async def test_a_request_too_many_is_refused_and_ends_no_connection(database_url: str, backend: Backend) -> None:
    settings = {
        "auth_webhook_under_way_max": 1,
        "auth_webhook_asks": ("connect", "join", "send"),
    }
    async with asking(database_url, backend, **settings) as place:
        assert 201 == (await place.post("/v1/rooms", token="shop", json={"room": "group://7", "members": [7]})).status
        anna = auth.mint(place.keys.signing(), now=_now(), expires_in_s=60, mid=7)
        waiting = asyncio.create_task(status(place, "silent"))
        while place.accounts.webhook.under_way < 1:
            await asyncio.sleep(0.01)
        message = {"id": "11111111-1111-4111-8111-111111111111", "body": "hello"}
        sends, opens = (
            await place.post("/v1/rooms/group/7/messages", token=anna, json=message),
            await place.put("/v1/direct/9", token=anna),
        )
        for told in (sends, opens):
            assert (503, "overloaded") == (told.status, told.code)
            assert "retry_after_ms" in told.json
        assert Overloaded.close is None, "so over a connection it is a refusal too"
        backend.never.set()
        assert 200 == await waiting
        first = await place.post("/v1/rooms/group/7/messages", token=anna, json=message)
        assert 201 == first.status, "nothing was stored"


async def test_tokens_that_are_signed_here_are_not_asked_about(database_url: str, backend: Backend) -> None:
    async with asking(database_url, backend) as place:
        token = auth.mint(place.keys.signing(), now=_now(), expires_in_s=60, service="shop")
        assert 200 == await status(place, token, "/v1/accounts")
        assert [] == backend.asked


async def test_joins_and_sends_are_asked_about_where_that_was_chosen(database_url: str, backend: Backend) -> None:
    asks = ("connect", "join", "send")
    async with asking(database_url, backend, auth_webhook_asks=asks) as place:
        for room in ("group://7", "group://8"):
            assert 201 == (await place.post("/v1/rooms", token="shop", json={"room": room})).status
        assert 201 == (await place.post("/v1/rooms/group/7/join", token="alice", json={})).status
        assert 404 == (await place.post("/v1/rooms/group/8/join", token="alice", json={})).status, "not of the token"
        assert 403 == (await place.post("/v1/rooms/group/8/join", token="other", json={})).status
        assert {"act": "join", "mid": 9, "room": "group://8", "key": ""} == backend.asked[-1]
        message = {"id": "11111111-1111-4111-8111-111111111111", "body": "hello"}
        assert 201 == (await place.post("/v1/rooms/group/7/messages", token="alice", json=message)).status
        assert {"act": "send", "mid": 7, "room": "group://7", "key": ""} == backend.asked[-1]
        assert 403 == (await place.post("/v1/rooms/group/8/messages", token="other", json=message)).status


async def test_whatever_says_something_new_is_a_send(database_url: str, backend: Backend) -> None:
    """An edit and a file as well: who may send nothing any more may not say it in another way. A recall says nothing."""
    async with asking(database_url, backend, auth_webhook_asks=("connect", "send")) as place:
        path = "/v1/rooms/group/8"
        assert 201 == (await place.post("/v1/rooms", token="shop", json={"room": "group://8", "members": [9]})).status
        said = {"id": "11111111-1111-4111-8111-111111111111", "body": "hello", "mid": 9}
        seq = (await place.post(f"{path}/messages", token="shop", json=said)).json["seq"]

        edited = await place.put(f"{path}/messages/{seq}", token="other", json={"body": "buy this"})
        assert (403, "forbidden") == (edited.status, edited.code)
        assert {"act": "send", "mid": 9, "room": "group://8", "key": ""} == backend.asked[-1]
        text = {"Content-Type": "text/plain"}
        stored = await place.post(f"{path}/attachments?name=a.txt", token="other", data=b"buy this", headers=text)
        assert (403, "forbidden") == (stored.status, stored.code)

        assert "hello" == (await place.get(f"{path}/messages/{seq}", token="shop")).json["body"]
        assert 200 == (await place.delete(f"{path}/messages/{seq}", token="other")).status


async def test_whoever_becomes_a_member_is_asked_about_whoever_does_it(database_url: str, backend: Backend) -> None:
    """Number 8 may be nowhere: its friends cannot bring it in either."""
    backend.nowhere = 8
    asks = ("connect", "join")
    async with asking(database_url, backend, auth_webhook_asks=asks, auth_webhook_under_way_max=8) as place:
        room, path = "group://9", "/v1/rooms/group/9"

        async def joins(told: Any, status: int) -> list[tuple[int, str, int]]:
            """Who was asked about, where, brought in by whom; of a request that ended so."""
            assert status == told.status, told.json
            found = [(one["mid"], one["room"], one.get("by", 0)) for one in backend.asked if one["act"] == "join"]
            backend.asked.clear()
            return sorted(found)

        new = {"room": room, "members": [8]}
        assert [(8, room, 9), (9, room, 0)] == await joins(await place.post("/v1/rooms", token="x", json=new), 403)
        assert 404 == (await place.get(path, token="shop")).status, "there is no such room"
        many = [*range(100, 130)]
        told = await joins(await place.post("/v1/rooms", token="x", json={"room": room, "members": many}), 201)
        assert [(9, room, 0), *((mid, room, 9) for mid in many)] == told
        assert [(8, room, 9)] == await joins(await place.post(f"{path}/members", token="x", json={"mid": 8}), 403)
        assert [(7, room, 9)] == await joins(await place.post(f"{path}/members", token="x", json={"mid": 7}), 201)
        assert [] == await joins(await place.post(f"{path}/members", token="shop", json={"mid": 8}), 201)
        direct = "direct://8-9", "direct://9-10"
        told = await joins(await place.put("/v1/direct/8", token="x"), 403)
        assert [(8, direct[0], 9), (9, direct[0], 0)] == told
        assert 2 == len(await joins(await place.put("/v1/direct/10", token="x"), 201))


async def test_who_asked_to_be_let_in_is_asked_about_when_it_is(database_url: str, backend: Backend) -> None:
    async with asking(database_url, backend, auth_webhook_asks=("connect", "join")) as place:
        path = "/v1/rooms/group/9"
        asked = {"room": "group://9", "approval": True}
        assert 201 == (await place.post("/v1/rooms", token="x", json=asked)).status
        signed = auth.mint(place.keys.signing(), now=_now(), expires_in_s=60, mid=8)
        backend.asked.clear()
        assert 200 == (await place.post(f"{path}/requests", token=signed, json={"text": "me"})).status
        assert [] == backend.asked
        backend.nowhere = 8
        assert 403 == (await place.put(f"{path}/requests/8", token="x", json={})).status
        assert {"act": "join", "mid": 8, "room": "group://9", "key": "", "by": 9} == backend.asked[-1]
        backend.nowhere = 0
        assert 201 == (await place.put(f"{path}/requests/8", token="x", json={})).status


async def test_an_answer_that_comes_in_pieces_is_waited_for(database_url: str, backend: Backend) -> None:
    async with asking(database_url, backend) as place:
        waiting = asyncio.create_task(status(place, "halves"))
        while not backend.asked:
            await asyncio.sleep(0.01)
        assert [200] * 10 == [await status(place, "other") for _ in range(10)], "meanwhile its first piece is there"
        backend.never.set()
        assert 200 == await waiting


async def test_no_cookie_of_the_answer_about_one_goes_with_the_question_about_another(
    database_url: str, backend: Backend
) -> None:
    backend.url = backend.url.replace("127.0.0.1", "localhost")  # of an address no cookie is kept anyway
    async with asking(database_url, backend) as place:
        assert [200, 200] == [await status(place, token) for token in ("cookie", "other")]
        assert (["cookie", "other"], []) == ([one["token"] for one in backend.asked], backend.cookies)


async def test_who_is_turned_out_while_the_backend_is_asked_does_nothing(database_url: str, backend: Backend) -> None:
    async with asking(database_url, backend, auth_webhook_asks=("connect", "join")) as place:
        room, path, who = "group://6", "/v1/rooms/group/6", {}
        for mid in (6, 8):
            who[mid] = auth.mint(place.keys.signing(), now=_now(), expires_in_s=60, mid=mid)
        assert 201 == (await place.post("/v1/rooms", token="shop", json={"room": room, "members": [6]})).status
        backend.asked.clear()
        joins = asyncio.create_task(place.post(f"{path}/join", token=who[8], json={}))
        brings = asyncio.create_task(place.post(f"{path}/members", token=who[6], json={"mid": 9}))
        while [6, 8] != sorted(one.get("by") or one["mid"] for one in backend.asked if one["act"] == "join"):
            await asyncio.sleep(0.01)
        for mid in (6, 8):
            await place.accounts.end_logins(mid, [], mid, everywhere=True)
        backend.never.set()

        assert [401, 401] == [(await one).status for one in (joins, brings)]
        members = (await place.get(f"{path}/members", token="shop")).json["members"]
        assert [6] == [one["mid"] for one in members]


async def test_junk_of_one_address_does_not_hold_the_places_of_others(database_url: str, backend: Backend) -> None:
    more: dict[str, Any] = {"rate_limits": True, "inbound_frames_per_s": 0.01, "inbound_frames_burst": 3.0}
    async with asking(database_url, backend, trusted_proxies=("127.0.0.0/8",), **more) as place:

        async def ask(address: str, token: str) -> int:
            return (await place.get("/v1/inbox", token=token, headers={"X-Forwarded-For": address})).status

        assert [200] * 3 == [await ask("2001:db8::1", "alice") for _ in range(3)], "who is known owes nothing for that"
        told = [await ask(f"2001:db8::{n}", "nobody") for n in range(6)]
        assert [401, 401, 401, 429, 429, 429] == told, "one client has all of these addresses"
        assert 6 == len(backend.asked), "and beyond that the backend is not asked"
        assert 429 == await ask("2001:db8::1", "x")
        assert 200 == await ask("2001:db8:0:1::1", "x")
        signed = auth.mint(place.keys.signing(), now=_now(), expires_in_s=60, mid=8)
        assert [200, 429] == [await ask("2001:db8::1", token) for token in (signed, f"{signed[:-8]}AAAAAAAA")]
        waiting = [asyncio.create_task(ask("192.0.2.1", "silent")) for _ in range(5)]
        while sum(one.done() for one in waiting) < 2 or place.accounts.webhook.under_way < 3:
            await asyncio.sleep(0.01)
        told = [one.result() for one in waiting if one.done()]
        assert ([429, 429], 3) == (told, place.accounts.webhook.under_way), "nor what nobody has said anything of yet"
        backend.never.set()
        await asyncio.gather(*waiting)


def _now() -> float:
    import time

    return time.time()
