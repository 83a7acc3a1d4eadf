"""The command line, run as a user runs it: processes of their own, their output, their exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import jwt
import pytest

from conftest import temporary_folder
from imcore import membership
from imcore.bus.postgres import Ephemeral, PostgresBus
from imcore.database import connect
from imcore.database.embedded import running_url
from imcore.database.migrations import newest
from imcore.permissions import SERVICE_ACTOR
from projections.place import place, running
from serving import START_S, serving
from waiting import eventually

IMCORE = [sys.executable, "-m", "imcore.cli"]
ENDED_S = 120


async def imcore(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run it to its end: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        *IMCORE,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
    )
    async with asyncio.timeout(ENDED_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_config_prints_what_is_in_force_and_where_it_comes_from(tmp_path: Path) -> None:
    """A file is stronger than a default, the environment than a file, a flag than all of them."""
    file = tmp_path / "imcore.toml"
    file.write_text("heartbeat_s = 60.0\nack_s = 2.0\nbehind_s = 5.0\n")

    code, out, _ = await imcore(
        *("config", "--json", "--config", str(file), "--set", "behind_s=9"), env={"IMCORE_ACK_S": "3"}
    )

    shown = json.loads(out)
    assert code == 0
    assert {"value": 60.0, "from": "file"} == shown["heartbeat_s"]
    assert {"value": 3.0, "from": "environment"} == shown["ack_s"]
    assert {"value": 9.0, "from": "flag"} == shown["behind_s"]
    assert {"value": 15.0, "from": "default"} == shown["node_lease_s"]


@pytest.mark.parametrize(
    ("arguments", "env", "named"),
    [
        (("config", "--set", "heartbeats=1"), {}, "heartbeats"),
        (("config",), {"IMCORE_HARTBEAT_S": "1"}, "IMCORE_HARTBEAT_S"),
        (("config", "--set", "heartbeat_s=never"), {}, "heartbeat_s"),
        (("serve", "--http", "nowhere"), {}, "http"),
    ],
)
async def test_a_wrong_setting_is_an_error_that_names_it(
    arguments: tuple[str, ...], env: dict[str, str], named: str
) -> None:
    code, _, err = await imcore(*arguments, env=env)

    assert code == 2
    assert named in err
    assert "Traceback" not in err


async def test_a_password_is_never_printed() -> None:
    code, out, err = await imcore("config", env={"IMCORE_DATABASE_URL": "postgresql://me:s3cret@db.example/chat"})

    assert code == 0
    assert "s3cret" not in out + err


async def test_a_database_that_is_not_there_is_said_in_one_line() -> None:
    code, _, err = await imcore("serve", "--database-url", "postgresql://me:s3cret@127.0.0.1:1/chat")

    assert code == 1
    assert "database_unavailable" in err
    assert "Traceback" not in err
    assert "s3cret" not in err


async def test_token_mints_what_the_server_of_that_folder_believes() -> None:
    with temporary_folder() as folder:
        code, out, err = await imcore(
            "token", "7", "--room", "group://a", "--op", "1000", "--data", str(folder), "--ttl-s", "60"
        )

        assert code == 0, err
        claims = jwt.decode(out.strip(), options={"verify_signature": False})
        assert "7" == claims["sub"]
        assert ["group://a"] == claims["rooms"]
        assert [1000] == claims["ops"]
        assert 60 == claims["exp"] - claims["iat"]


async def test_no_token_of_a_person_outlives_what_is_remembered_of_logouts() -> None:
    with temporary_folder() as folder:
        asked = ("token", "--data", str(folder), "--ttl-s", "3601")
        code, out, err = await imcore(*asked, "7")
        assert (2, "") == (code, out)
        assert "3600" in err
        code, out, err = await imcore(*asked, "--service")
        assert code == 0, err


async def test_tail_shows_the_log_of_the_server_that_runs_and_db_its_revision() -> None:
    """For people and as JSON, from the beginning; both look into the running Postgres without disturbing it."""
    with temporary_folder() as folder:
        async with serving(folder):
            data = str(folder / "imcore")
            code, out, err = await imcore("tail", "--data", data, "--after", "0", "--no-follow", "--json")
            assert code == 0, err
            assert "" == out, "nothing has happened yet"

            code, out, err = await imcore("db", "current", "--data", data)
            assert code == 0, err
            assert f"the tables are at revision {newest()}" in out


async def test_projections_are_audited_and_rebuilt_by_the_command_line() -> None:
    """A row that was changed by hand is found, and a rebuild mends it."""
    with temporary_folder() as folder:
        async with serving(folder) as server:
            async with aiohttp.ClientSession() as http:
                answer = await http.post(
                    f"http://{server.http}/v1/rooms", json={"room": "group://a", "members": [1, 2]}
                )
                assert 201 == answer.status
            data = str(folder / "imcore")
            url = running_url(folder / "imcore")
            assert url is not None
            assert 0 == (await imcore("audit", "--data", data))[0]
            connection = await connect(url)
            await connection.execute("UPDATE members SET role = 'owner' WHERE mid = 2")

            code, out, _ = await imcore("audit", "members", "--data", data)
            assert (1, True) == (code, "members: 1 differences" in out)
            assert 0 == (await imcore("rebuild", "members", "--data", data))[0]
            assert 0 == (await imcore("audit", "members", "--data", data))[0]
            assert "member" == await connection.fetchval("SELECT role FROM members WHERE mid = 2")
            await connection.close()


async def test_tail_says_when_there_is_nothing_to_look_into(tmp_path: Path) -> None:
    code, _, err = await imcore("tail", "--data", str(tmp_path / "none"))

    assert code == 1
    assert "there is no data in" in err


async def test_tables_go_up_and_down_by_the_command_line() -> None:
    with temporary_folder() as folder:
        data = str(folder / "imcore")
        assert f"revision {newest()}" in (await imcore("db", "upgrade", "--data", data))[1]
        assert "revision none" in (await imcore("db", "downgrade", "base", "--yes", "--data", data))[1]
        assert f"revision {newest()}" in (await imcore("db", "upgrade", "--data", data))[1]


async def test_roles_run_as_processes_of_their_own_on_one_database(database_url: str) -> None:
    """A comet serves no HTTP, an API no clients, and a projector neither; what one of them appends the others see."""
    async with AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(role(database_url, name)) for name in ("projector", "comet", "api")]
        _, comet, api = lines
        async with aiohttp.ClientSession() as http, http.ws_connect(f"http://{comet['ws']}/ws") as ws:
            await ws.send_json({"op": 7, "seq": 1, "body": {"mid": 1, "key": "k"}})
            await ws.receive_json()
            room = {"room": "group://r", "members": [1]}
            async with http.post(f"http://{api['http']}/v1/rooms", json=room) as answer:
                assert 201 == answer.status
            joined = await ws.receive_json()

    assert [set(), {"ws", "tcp"}, {"http"}] == [{"http", "ws", "tcp"} & set(line) for line in lines]
    assert "group://r" in json.dumps(joined)


async def test_a_process_without_a_comet_says_how_far_the_log_was_when_something_was_given(database_url: str) -> None:
    """It may have appended nothing itself. A comet that is not as far yet must not give a signal, or a push that is not stored, to who
    was taken out before."""
    heard: list[Ephemeral] = []
    bus = PostgresBus(lambda: connect(database_url, application_name="a comet"), lambda position: None, heard.append)
    async with role(database_url, "api") as line, place(database_url) as other, running(bus.run()):
        await other.join("group://r", 1, 2)
        removed = (await other.log.decide(membership.RemoveMember("group://r", 2, SERVICE_ACTOR)))[-1].position

        async with aiohttp.ClientSession(f"http://{line['http']}", headers={"Imcore-Mid": "1"}) as http:

            async def signalled() -> bool:
                async with http.post("/v1/rooms/group/r/typing", json={}) as answer:
                    assert 200 == answer.status
                return bool(heard)  # what is said before somebody listens is lost

            await eventually(signalled)
            assert {removed} == {one.position for one in heard}

        # Nobody looks at rows for goim's pushes: they wait for what the process has heard of.
        bus.publish(removed + 1)
        async with aiohttp.ClientSession(f"http://{line['http']}") as http:

            async def pushed() -> bool:
                async with http.post("/goim/push/room?operation=1&type=group&room=r&durable=0", data=b"x") as answer:
                    assert 200 == answer.status
                return any((one.op, one.position) == (1, removed + 1) for one in heard)

            await eventually(pushed)


async def test_a_role_that_nobody_has_is_refused() -> None:
    code, _, err = await imcore("serve", "--roles", "comet,clerk")

    assert code == 2
    assert "clerk" in err


@asynccontextmanager
async def role(database_url: str, name: str) -> AsyncIterator[dict[str, object]]:
    """A process with one role while the block runs; the line that it announces itself with."""
    with temporary_folder() as folder:
        process = await asyncio.create_subprocess_exec(
            *(*IMCORE, "serve", "--roles", name, "--database-url", database_url, "--data", str(folder)),
            *("--http", "127.0.0.1:0", "--ws", "127.0.0.1:0", "--tcp", "127.0.0.1:0"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_S):
                line = await process.stdout.readline()
            yield json.loads(line)
        finally:
            process.terminate()
            await process.wait()


async def test_an_account_is_made_and_keys_are_changed_on_the_command_line(database_url: str) -> None:
    """Without a server; the password is a line of standard input, and stands nowhere else."""
    with temporary_folder() as folder:
        where = ("--data", str(folder), "--database-url", database_url, "--set", "password_memory_kib=8")

        async def create(name: str, password: str, *more: str) -> tuple[int, str, str]:
            process = await asyncio.create_subprocess_exec(
                *(*IMCORE, "account", "create", name, *more, *where),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            async with asyncio.timeout(ENDED_S):
                out, err = await process.communicate(f"{password}\n".encode())
            assert process.returncode is not None
            return process.returncode, out.decode(), err.decode()

        code, mid, _ = await create("boss", "correct horse", "--role", "admin")
        assert code == 0
        connection = await connect(database_url)
        row = await connection.fetchrow("SELECT mid, login, role, state FROM accounts")
        await connection.close()
        assert row is not None
        assert (int(mid), "boss", "admin", "active") == tuple(row)
        for name, password, said in (("boss", "correct horse", "name_taken"), ("second", "short", "8 characters")):
            code, _, err = await create(name, password)
            assert code != 0
            assert said in err
            assert password not in err

        first = (await imcore("keys", "rotate", "--data", str(folder)))[1].strip()
        second = (await imcore("keys", "rotate", "--data", str(folder)))[1].strip()
        listed = (await imcore("keys", "list", "--data", str(folder)))[1].split()
        assert [first, second] == listed
        assert (await imcore("keys", "retire", first, "--data", str(folder)))[0] == 0
        code, _, err = await imcore("keys", "retire", second, "--data", str(folder))
        assert code != 0
        assert "only key" in err
