"""The keys of a service that are not there when a process starts: a mount is late, or somebody deleted too much."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from conftest import copy_cluster, temporary_folder
from imcore.database.embedded import running_url
from system.servers import PROGRAM, Server

PASSWORD = "correct horse battery staple"
CHEAP = ("--set", "password_memory_kib=8", "--set", "password_passes=1", "--no-rate-limits")


@asynccontextmanager
async def server_of(cluster: Path, *arguments: str) -> AsyncIterator[Server]:
    """On a folder of its own, not started yet."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        server = Server(folder, *arguments, *CHEAP)
        try:
            yield server
        finally:
            server.end()


async def ask(server: Server, method: str, path: str, body: object = None, token: str = "") -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{server.http}{path}", json=body, headers=headers) as response,
    ):
        return response.status, await response.json()


def imcore(*arguments: str, password: str = "") -> subprocess.CompletedProcess[str]:
    """The command line."""
    return subprocess.run(
        [*PROGRAM, *arguments], input=password, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    ("mode", "is_there"), [("jwt", False), ("open", True)], ids=["no folder", "an empty folder, without tokens"]
)
async def test_a_service_whose_keys_are_gone_does_not_start_with_others(
    cluster: Path, mode: str, is_there: bool
) -> None:
    """It says which folder, and how to have a new key; with the old one everything is as it was, with a new one logins go on."""
    async with server_of(cluster, "--auth", mode) as server:
        server.start()
        who = {"login": "alice", "password": PASSWORD}
        assert 201 == (await ask(server, "POST", "/v1/accounts", who))[0]
        status, granted = await ask(server, "POST", "/v1/login", who)
        assert 200 == status
        server.ask_to_stop()
        assert 0 == await server.stopped()
        folder, elsewhere = server.data / "keys", server.data / "elsewhere"
        folder.rename(elsewhere)
        if is_there:
            folder.mkdir()

        with pytest.raises(AssertionError, match="did not start"):
            server.start()

        assert 0 != await server.stopped()
        said = server.said()
        assert f"there is no key in {folder}" in said
        assert f"imcore keys rotate --data {server.data}" in said
        assert [] == [*folder.glob("*")], "none was made"
        made = imcore(
            "account",
            "create",
            "bob",
            "--data",
            str(server.data),
            "--set",
            f"auth_mode={mode}",
            password=f"{PASSWORD}\n",
        )
        assert 0 == made.returncode, made.stderr
        assert [] == [*folder.glob("*")], "to make an account takes none"

        shutil.copytree(elsewhere, folder, dirs_exist_ok=True)
        server.start()
        assert 200 == (await ask(server, "GET", "/v1/account", token=granted["token"]))[0]
        server.ask_to_stop()
        await server.stopped()
        shutil.rmtree(folder)
        made = imcore("keys", "rotate", "--data", str(server.data))
        assert 0 == made.returncode, made.stderr
        server.start()
        assert 401 == (await ask(server, "GET", "/v1/account", token=granted["token"]))[0]
        status, granted = await ask(server, "POST", "/v1/refresh", {"refresh_token": granted["refresh_token"]})
        assert 200 == status
        assert 200 == (await ask(server, "GET", "/v1/account", token=granted["token"]))[0]


async def test_a_process_in_which_nobody_comes_in_needs_no_keys(cluster: Path) -> None:
    """A projector runs on a machine of its own."""
    async with server_of(cluster, "--auth", "jwt") as server:
        server.start()
        who = {"login": "alice", "password": PASSWORD}
        assert 201 == (await ask(server, "POST", "/v1/accounts", who))[0]
        assert 200 == (await ask(server, "POST", "/v1/login", who))[0]
        with temporary_folder() as folder:
            shared = ("--database-url", running_url(server.data) or "", "--auth", "jwt")
            projector = Server(folder, *shared, "--roles", "projector")
            door = Server(folder, *shared, "--roles", "api")
            try:
                projector.start()
                with pytest.raises(AssertionError, match="there is no key in"):
                    door.start()
            finally:
                projector.end()
                door.end()
