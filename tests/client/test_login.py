"""Somebody logged in: the token is good whenever it is asked for, over refreshes, refusals and restarts."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest

from client.lines import QUICK
from conftest import copy_cluster, temporary_folder
from imcore.client import Http, State, Unauthenticated, WrongLogin, come_as_guest, log_in, resume
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
                    async with asyncio.timeout(30):
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
            async with asyncio.timeout(10):
                assert login.mid == (await im.account.show()).mid
            assert ("laptop", "laptop") == (login.key, im.key)
        assert kept[-1] == login.refresh_token
        other.refused()
        with pytest.raises(Unauthenticated):
            await other()
        with pytest.raises(WrongLogin):
            await login.change_password(PASSWORD, "a third password")
        await login.http.account.show()


async def test_who_logs_out_is_disconnected_and_knows_why(server: Server) -> None:
    name = await registered(server)
    async with log_in(f"http://{server.http}", name, PASSWORD) as login, login.connect(limits=QUICK) as im:
        await login.log_out()
        async with asyncio.timeout(10):
            with pytest.raises(Unauthenticated):
                async for _ in im:
                    pass


def test_what_is_not_entered_has_no_token() -> None:
    with pytest.raises(RuntimeError, match="not logged in"):
        Login("http://h", lambda http: http.accounts.guest(), tls=None, on_change=None).mid  # noqa: B018
