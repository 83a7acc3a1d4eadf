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

Asked = list[dict[str, Any]]


class Backend:
    """A backend that is asked. `never` keeps whoever asks waiting."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: Asked = []
        self.never = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        question = await request.json()
        self.asked.append(question)
        match question.get("token") or question.get("room"):
            case "alice":
                return web.json_response({"mid": 7, "rooms": ["group://7"], "unknown": 1})
            case "shop":
                return web.json_response({"service": True})
            case "nobody" | "group://8":
                return web.json_response({}, status=403)
            case "broken":
                return web.json_response({}, status=500)
            case "moved":
                return web.Response(status=307, headers={"Location": self.url})
            case "nonsense":
                return web.Response(text="<html>")
            case "admin":
                return web.json_response({"mid": 7, "role": "admin"})
            case "mid zero":
                return web.json_response({"mid": 0})
            case "silent":
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
    settings = {"auth_webhook_url": backend.url, "auth_webhook_s": 0.3, **CHEAP, **more}
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


async def test_no_answer_is_no(database_url: str, backend: Backend) -> None:
    """Whatever it is that is no answer; to be tried again."""
    async with asking(database_url, backend) as place:
        for token in ("broken", "moved", "nonsense", "mid zero", "silent"):
            assert 503 == await status(place, token), token
        assert 5 == place.accounts.webhook.failed


async def test_no_answer_is_yes_where_that_was_chosen(database_url: str, backend: Backend) -> None:
    async with asking(database_url, backend, auth_webhook_fails="open") as place:
        assert 200 == await status(place, "broken")
        assert 401 == await status(place, "nobody"), "no is no"
        assert 403 == await status(place, "broken", "/v1/accounts")


async def test_only_so_many_are_asked_about_at_a_time(database_url: str, backend: Backend) -> None:
    async with asking(database_url, backend, auth_webhook_under_way_max=2, auth_webhook_s=5.0) as place:
        waiting = [asyncio.create_task(status(place, "silent")) for _ in range(2)]
        while place.accounts.webhook.under_way < 2:
            await asyncio.sleep(0.01)
        told = await place.get("/v1/inbox", token="alice")
        assert (503, "try_later") == (told.status, told.code)
        assert "retry_after_ms" in told.json
        backend.never.set()
        assert [200, 200] == await asyncio.gather(*waiting)
        assert 0 == place.accounts.webhook.under_way


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


def _now() -> float:
    import time

    return time.time()
