"""kill -9 in the middle of everything: of the server, and of its Postgres. What was acknowledged is there, what was not can be asked
again, and clients go on where they were."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from conftest import copy_cluster, temporary_folder
from system.checking import History, assert_sound
from system.clients import FORMS, SEND, Clients, Form
from system.people import Resident, Speaker
from system.servers import ANYWHERE, PROGRAM, Backend, Server, backend, running
from waiting import eventually

SPEAKERS: tuple[Form, ...] = ("v2 tcp", "json", "v2 ws", "json")
LISTENERS: tuple[Form, ...] = ("json", "v2 tcp", "v1 tcp", "v1 ws")
ROUNDS = 3
SAID_EACH = 250  # of a round, by each speaker
LATE = 20  # connections that are being opened while Postgres is killed
LEASE_S = 5  # a comet is late by as much as Postgres takes to come back, and the machine does other things
REFUSED_S = 60


@pytest.fixture(scope="module")
def mortal(cluster: Path) -> Iterator[Server]:
    """A server that the tests here kill, and start again on the same data."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(
            folder, "--auth", "open", "--no-rate-limits", "--set", f"node_lease_s={LEASE_S}", "--set", "drain_s=30"
        ) as server:
            yield server


@pytest.fixture
async def api(mortal: Server) -> AsyncIterator[Backend]:
    async with backend(mortal) as made:
        yield made


@asynccontextmanager
async def company(server: Server, connecting: Clients) -> AsyncIterator[tuple[list[Speaker], list[Resident]]]:
    """Speakers and listeners in a room of their own, all of them connected."""
    room = server.new_room()
    speakers = [
        Speaker(server, connecting, form, server.new_mid(), f"speaker {n}", room) for n, form in enumerate(SPEAKERS)
    ]
    listeners = [
        Resident(server, connecting, form, server.new_mid(), f"listener {n}", room) for n, form in enumerate(LISTENERS)
    ]
    living = [asyncio.create_task(one.live()) for one in (*speakers, *listeners)]
    try:
        for one in (*speakers, *listeners):
            await one.until(lambda _: True)
        yield speakers, listeners
    finally:
        for task in living:
            task.cancel()
        await asyncio.wait(living)
    for task in living:
        if not task.cancelled():
            task.result()


async def check(server: Server, speakers: list[Speaker], listeners: list[Resident]) -> None:
    """Everything acknowledged is in the log, where the answer said; asking again gives the same place; everybody has all of it."""
    last = await speakers[0].insist(next(iter(speakers[0].said)))
    assert last["duplicate"]
    for speaker in speakers:
        for id_ in random.sample(sorted(speaker.said), 20):
            assert (await speaker.insist(id_))["duplicate"]
    await speakers[0].speak(1)
    (end,) = list(speakers[0].said.values())[-1:]
    for one in (*speakers[1:], *listeners):
        await one.until(lambda client: end in str(client.said[-1:]), "the end")
    await server.assert_dense()
    history = History(await server.events())
    kept = {entry.client_id: entry for entry in history.entries if entry.client_id}
    for speaker in speakers:
        assert set(speaker.said) == set(speaker.places)
        for id_, place in speaker.places.items():
            entry = kept[id_]
            assert (place["position"], place["seq"]) == (entry.position, entry.seq)
            assert (speaker.said[id_], f"room:{speaker.room}") == (entry.body, entry.stream)
    assert_sound(history, [visit for one in (*speakers, *listeners) for visit in one.told(history)])


async def test_a_server_that_is_killed_loses_nothing_that_it_acknowledged(mortal: Server, connecting: Clients) -> None:
    """Again and again, while four people talk and four listen. Every retry gets the place of the first attempt, positions have no
    holes, and cursors lead to exactly what was missed."""
    async with company(mortal, connecting) as (speakers, listeners):
        for n in range(ROUNDS):
            talking = asyncio.create_task(_all_speak(speakers))
            enough = n * len(speakers) * SAID_EACH + random.randrange(100, len(speakers) * SAID_EACH // 2)
            await eventually(partial(_answered, speakers, enough))
            mortal.kill()
            await mortal.start_again()
            await talking
        await check(mortal, speakers, listeners)
        assert all(len(one.visits) == ROUNDS + 1 for one in (*speakers, *listeners))
        assert sum(speaker.unanswered for speaker in speakers), "no kill came in the middle of a send"


async def test_when_postgres_is_killed_sends_wait_or_are_asked_again_and_connections_stay(
    mortal: Server, connecting: Clients, api: Backend
) -> None:
    """Whoever comes meanwhile is told to come later, or waits; and no ghost of an attempt stays behind."""
    late_mid = mortal.new_mid()
    async with company(mortal, connecting) as (speakers, listeners):
        late: list[Resident] = []
        for n in range(2):
            talking = asyncio.create_task(_all_speak(speakers))
            enough = n * len(speakers) * SAID_EACH + random.randrange(100, len(speakers) * SAID_EACH // 2)
            await eventually(partial(_answered, speakers, enough))
            postgres = mortal.postgres()
            come = [Resident(mortal, connecting, FORMS[m % len(FORMS)], late_mid, "") for m in range(LATE)]
            coming = [asyncio.create_task(one.arrive()) for one in come[: LATE // 2]]
            await eventually(partial(_has_come, come))
            postgres.send_signal(signal.SIGKILL)
            await asyncio.gather(*coming, *(one.arrive() for one in come[LATE // 2 :]))
            late += come
            await talking
            await eventually(partial(_is_another, mortal, postgres))
        await check(mortal, speakers, listeners)
        assert all(1 == len(one.visits) for one in (*speakers, *listeners))
        codes = {code for speaker in speakers for code in speaker.codes}
        assert codes <= {"unavailable", "overloaded"}, codes
    await api.sessions_once(late_mid, len(late))


async def test_sessions_of_a_killed_server_are_closed_when_its_lease_is_over(
    mortal: Server, connecting: Clients, api: Backend
) -> None:
    """By whoever comes after it, with the reason that its node was lost. Until then nobody says that they are offline."""
    mids = [mortal.new_mid() for _ in FORMS]
    for form, mid in zip(FORMS, mids, strict=True):
        await connecting.connect(mortal, form, mid=mid, key="k")
    for mid in mids:
        await api.sessions_once(mid, 1)
    mortal.kill()
    await mortal.start_again()

    async def closed() -> bool:
        reasons = [
            entry.body["reason"]
            for entry in await mortal.events()
            if entry.type == "session_closed" and _of(entry.stream, mids)
        ]
        return len(reasons) >= len(mids) and set(reasons) == {"node_lost"}

    await eventually(closed)
    for mid in mids:
        await api.sessions_once(mid, 0)
    again = await connecting.connect(mortal, "json", mid=mids[0], key="k")
    assert again.welcome["mid"] == (await api.sessions_once(mids[0], 1))[0]["mid"]


async def test_a_server_that_is_asked_to_stop_sends_its_clients_away_and_keeps_everything(
    mortal: Server, connecting: Clients
) -> None:
    """Each client is told to come back, after a delay of its own; what was accepted is committed; sessions are closed in the log."""
    room, mids = mortal.new_room(), {form: mortal.new_mid() for form in FORMS}
    there = [await connecting.connect(mortal, form, mid=mid, key="k", room=room) for form, mid in mids.items()]
    crowd = [await connecting.connect(mortal, "v2 tcp", mid=mortal.new_mid()) for _ in range(20)]
    ids = [f"00000000-0000-4000-8000-{n:012x}" for n in range(400)]
    speaker = there[FORMS.index("v2 tcp")]
    answers = [await speaker.post(SEND, {"room": room, "id": id_, "body": id_}) for id_ in ids]
    await speaker.reply(answers[0])
    mortal.ask_to_stop()
    codes = {client.form: await client.until_gone() for client in there}
    for client in crowd:
        await client.until_gone()

    assert 0 == await mortal.stopped()
    assert {"v1 tcp": None, "v1 ws": 4001, "v2 tcp": 4001, "v2 ws": 4001, "json": 4001} == codes
    told = [client.farewell for client in (*there[2:], *crowd)]
    assert {("going_away", True, 4001)} == {(one["code"], one["retry"], one["close"]) for one in told if one}
    delays = [one["delay_ms"] for one in told if one]
    assert len(told) == len(delays)
    assert all(0 <= delay <= 3000 for delay in delays)
    assert len(set(delays)) > len(delays) / 2
    await mortal.start_again()
    history = History(await mortal.events())
    kept = {entry.client_id: entry for entry in history.entries if entry.client_id in ids}
    acknowledged = 0
    for id_, answer in zip(ids, answers, strict=True):
        if answer.exception() is None:
            acknowledged += 1
            assert answer.result()["position"] == kept[id_].position
    assert acknowledged
    for client in (*there, *crowd):
        (opened,) = history.opened[client.mid, client.key]
        reasons = [
            entry.body["reason"]
            for entry in history.entries
            if entry.type == "session_closed"
            and entry.stream == f"session:{client.mid}"
            and entry.body["opened"] == opened
        ]
        assert ["going_away"] == reasons
    again = await connecting.connect(mortal, "v2 tcp", mid=speaker.mid, key="k")
    for id_ in ids:
        place = await again.send(room, id_, id_)
        assert id_ not in kept or (place["duplicate"], place["position"]) == (True, kept[id_].position)
    await mortal.assert_dense()


async def test_a_second_server_on_the_same_data_is_refused(mortal: Server, connecting: Clients) -> None:
    """It says who is there, and the first does not notice."""
    client = await connecting.connect(mortal, "json", mid=mortal.new_mid())
    command = [*PROGRAM, "serve", "--data", str(mortal.data), "--http", ANYWHERE, "--ws", ANYWHERE, "--tcp", ANYWHERE]
    second = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=REFUSED_S, stdin=subprocess.DEVNULL
    )

    assert (1, "") == (second.returncode, second.stdout)
    last = second.stderr.strip().splitlines()[-1]
    assert f"{mortal.data} is in use by another imcore (pid {mortal.process.pid})" in last
    assert "--data" in last
    assert "Traceback" not in second.stderr
    await client.ask(2)


async def _has_come(some: list[Resident]) -> bool:
    return any(one.visits for one in some)


async def _all_speak(speakers: list[Speaker]) -> None:
    await asyncio.gather(*(speaker.speak(SAID_EACH) for speaker in speakers))


async def _answered(speakers: list[Speaker], times: int) -> bool:
    return sum(len(speaker.places) for speaker in speakers) >= times


async def _is_another(server: Server, before: psutil.Process) -> bool:
    now = server.postgres()
    return now.pid != before.pid and now.is_running()


def _of(stream: str, mids: list[int]) -> bool:
    return stream in {f"session:{mid}" for mid in mids}
