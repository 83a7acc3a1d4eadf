"""Somebody logged in: the token is good whenever it is asked for, over refreshes, refusals and restarts."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from client.lines import QUICK
from conftest import copy_cluster, temporary_folder
from imcore.client import Http, State, Unauthenticated, Unavailable, WrongLogin, come_as_guest, log_in, resume
from imcore.client.login import Login
from imcore.protocol.packet import Op
from system.servers import Server, running

PASSWORD = "correct horse battery staple"


async def registered(server: Server) -> str:
    """The name of somebody new."""
    name = f"u{uuid.uuid4().hex[:12]}"
    async with Http(f"http://{server.http}") as http:
        made = await http.accounts.register(login=name, password=PASSWORD)
    assert (name, "active") == (made.login, made.state)
    return name


async def test_who_logs_in_calls_and_connects_as_that_person(server: Server) -> None:
    name = await registered(server)
    async with log_in(f"http://{server.http}", name, PASSWORD, key="laptop") as login:
        shown = await login.http.account.show()
        async with login.connect(limits=QUICK) as im:
            assert (login.mid, "laptop", State.CONNECTED) == (im.mid, im.key, im.state)
            assert shown == await im.account.show()
    assert (login.mid, name) == (shown.mid, shown.login)
    assert PASSWORD not in repr(login.granted)
    assert login.granted.token not in repr(login.granted)


async def test_a_wrong_password_is_told_at_once(server: Server) -> None:
    name = await registered(server)
    with pytest.raises(WrongLogin):
        async with log_in(f"http://{server.http}", name, "something else"):
            pass


async def test_guests_come_without_an_account(server: Server) -> None:
    async with come_as_guest(f"http://{server.http}") as guest, guest.connect(limits=QUICK) as im:
        assert guest.mid == im.mid
        assert guest.mid < 0
        assert "guest" == guest.granted.role


async def test_a_refused_token_is_refreshed_once_for_all_who_ask(server: Server) -> None:
    kept: list[str] = []
    name = await registered(server)
    async with log_in(f"http://{server.http}", name, PASSWORD, on_change=kept.append) as login:
        login.refused()
        tokens = await asyncio.gather(*(login() for _ in range(10)))
        assert 1 == len(set(tokens))
        assert (2, kept[-1]) == (len(set(kept)), login.refresh_token)
        assert login.mid == (await login.http.account.show()).mid


async def test_a_login_outlives_its_process(server: Server) -> None:
    name = await registered(server)
    async with log_in(f"http://{server.http}", name, PASSWORD, key="phone") as login:
        token = login.refresh_token
    async with resume(f"http://{server.http}", token) as again:
        assert (login.mid, "phone") == (again.mid, again.key)
        second = again.refresh_token
        assert token != second
    async with resume(f"http://{server.http}", second):
        pass
    with pytest.raises(Unauthenticated):  # two refreshes old: no answer was lost, two have it
        async with resume(f"http://{server.http}", token):
            pass


async def test_a_connection_is_given_the_next_token_before_its_own_is_over(cluster: Path) -> None:
    """So it outlives its token, and nobody sees it go and come."""
    answers: list[dict[str, object]] = []
    asked: set[object] = set()
    renewed = asyncio.Event()

    def observe(step: tuple[Any, ...]) -> None:
        if step[0] == "request" and step[2] == Op.CALL and step[4]["verb"] == "account.renew":
            asked.add(step[3])
        if step[0] == "reply" and step[3] in asked:
            answers.append(step[4])
            renewed.set()

    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--set", "access_token_s=10") as server:
            name = await registered(server)
            async with log_in(f"http://{server.http}", name, PASSWORD) as login:
                first = await login()
                async with login.connect(limits=QUICK, observe=observe) as im:
                    async with asyncio.timeout(60):
                        await renewed.wait()
                    assert first != await login()
                    assert (1, State.CONNECTED) == (im.statistics.connects, im.state)
    (answer,) = answers
    assert {"answer"} == answer.keys()


async def test_a_login_goes_on_with_another_password(server: Server) -> None:
    """Its connection too, which the server ends; of other devices the login is over."""
    name, kept = await registered(server), list[str]()
    async with (
        log_in(f"http://{server.http}", name, PASSWORD, key="laptop", on_change=kept.append) as login,
        log_in(f"http://{server.http}", name, PASSWORD, key="phone") as other,
    ):
        async with login.connect(limits=QUICK) as im:
            login.refused()  # with a token that is not to be given any more, too
            await login.change_password(PASSWORD, "another password")
            async with asyncio.timeout(60):
                assert login.mid == (await im.account.show()).mid
            assert ("laptop", "laptop") == (login.key, im.key)
        assert kept[-1] == login.refresh_token
        other.refused()
        with pytest.raises(Unauthenticated):
            await other()
        with pytest.raises(WrongLogin):
            await login.change_password(PASSWORD, "a third password")
        await login.http.account.show()


@asynccontextmanager
async def losing(server: Server, path: str, *, is_heard: bool) -> AsyncIterator[tuple[str, list[str]]]:
    """A line to the API on which no answer to this path comes back; and what was asked of it. The server hears it, or not even that."""
    asked: list[str] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        is_lost = request.path == path
        asked.extend([request.method] if is_lost else [])
        if is_heard or not is_lost:
            kept = {
                name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers
            }
            there = f"http://{server.http}{request.raw_path}"
            async with here.request(request.method, there, data=body or None, headers=kept) as response:
                answer = web.Response(body=await response.read(), status=response.status)
                answer.content_type = response.content_type
        if is_lost:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return answer

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    try:
        async with ClientSession() as here:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


async def test_a_login_outlives_the_lost_answer_to_another_password(server: Server) -> None:
    """The change has ended the login that asked. It is not asked again: the new password is tried instead."""
    name, kept = await registered(server), list[str]()
    async with (
        losing(server, "/v1/account/password", is_heard=True) as (url, asked),
        log_in(url, name, PASSWORD, key="laptop", on_change=kept.append) as login,
    ):
        before = login.granted
        await login.change_password(PASSWORD, "another password")
        assert (["PUT"], login.mid) == (asked, (await login.http.account.show()).mid)
        assert (before.mid, "laptop", before.auth.platform) == (login.mid, login.key, login.granted.auth.platform)
        assert (kept[-1], True) == (login.refresh_token, before.sid != login.granted.sid)
        login.refused()
        assert login.mid == (await login.http.account.show()).mid


async def test_a_password_of_which_nobody_knows_whether_it_was_changed_is_said_to_be_that(server: Server) -> None:
    name = await registered(server)
    async with (
        losing(server, "/v1/account/password", is_heard=False) as (url, asked),
        log_in(url, name, PASSWORD) as login,
    ):
        with pytest.raises(Unavailable, match="not known"):
            await login.change_password(PASSWORD, "another password")
        assert (["PUT"], login.mid) == (asked, (await login.http.account.show()).mid), "it was not: the login goes on"


async def test_to_give_an_account_up_is_asked_once(server: Server) -> None:
    """Asked again, with a token that the first try ended, it would be said to be somebody's who is not logged in."""
    name = await registered(server)
    async with (
        losing(server, "/v1/account", is_heard=True) as (url, asked),
        log_in(url, name, PASSWORD) as login,
    ):
        with pytest.raises(Unavailable, match="not known"):
            await login.http.account.deactivate()
    assert ["DELETE"] == asked


async def test_who_logs_out_is_disconnected_and_knows_why(server: Server) -> None:
    name = await registered(server)
    async with log_in(f"http://{server.http}", name, PASSWORD) as login, login.connect(limits=QUICK) as im:
        await login.log_out()
        async with asyncio.timeout(60):
            with pytest.raises(Unauthenticated):
                async for _ in im:
                    pass


def test_what_is_not_entered_has_no_token() -> None:
    with pytest.raises(RuntimeError, match="not logged in"):
        Login("http://h", lambda http: http.accounts.guest(), tls=None, on_change=None).mid  # noqa: B018
