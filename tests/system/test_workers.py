"""Three processes on one port: to clients they are one server, and each of them may die."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from conftest import copy_cluster, temporary_folder
from system.checking import History, assert_sound, visit_of
from system.clients import FORMS, HEARTBEAT, Client, Clients, Form
from system.people import Resident, Speaker
from system.servers import Backend, Server, backend, running
from waiting import eventually

WORKERS = 3
EACH = 2  # clients on each process, at least
LEASE_S = 4  # a machine that does other things makes a comet late by two
ENDED_S = 60
V2: tuple[Form, ...] = ("v2 tcp", "v2 ws", "json")


@pytest.fixture(scope="module")
def many(cluster: Path) -> Iterator[Server]:
    """A server of three processes, of which tests kill some."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        few = ("--workers", str(WORKERS), "--no-rate-limits", "--set", f"node_lease_s={LEASE_S}")
        with running(folder, "--auth", "open", *few) as server:
            yield server


@pytest.fixture
async def api(many: Server) -> AsyncIterator[Backend]:
    async with backend(many) as made:
        yield made


async def spread(
    server: Server, connecting: Clients, api: Backend, room: str, forms: tuple[Form, ...] = FORMS
) -> dict[str, list[Client]]:
    """Clients in a room, by the process that they are connected to: the kernel chooses, so as many as it takes."""
    found: dict[str, list[Client]] = {}
    for n in range(200):
        mid = server.new_mid()
        client = await connecting.connect(server, forms[n % len(forms)], mid=mid, key=f"key {mid}", room=room)
        (session,) = await api.sessions_once(mid, 1)
        found.setdefault(session["node"], []).append(client)
        if len(found) >= WORKERS and min(map(len, found.values())) >= EACH and n >= len(forms):
            return found
    raise AssertionError(f"the clients are not spread: { {node: len(clients) for node, clients in found.items()} }")


async def test_who_is_connected_to_different_processes_is_in_one_room(
    many: Server, connecting: Clients, api: Backend
) -> None:
    """All hear all, once and in the same order. The heartbeat counts those on other processes too."""
    await all_processes(many, api)
    room, live = many.new_room(), many.new_room("live")
    found = await spread(many, connecting, api, room)
    everybody = [client for some in found.values() for client in some]
    for n in range(5):
        await asyncio.gather(*(client.send(room, f"{n} by {client.key}") for client in everybody))
    await api.push_room(room, 1000, b"the end")
    for client in everybody:
        await client.until_heard("the end")

    history = History(await many.events())
    assert_sound(history, [visit_of(client, history, is_whole=True) for client in everybody if client.form in V2])
    order = [entry.body for entry in history.entries if entry.stream == f"room:{room}" and entry.op]
    for client in everybody:
        if client.form not in V2:
            said = [body.decode().strip('"') for body in client.said]
            joined = order.index(said[0])
            assert [words for words in order[joined:] if not words.endswith(f"by {client.key}")] == said
    for some in found.values():
        await some[0].join(live)

    async def counted() -> bool:
        await everybody[0].ask(12, live)
        return bool(
            await everybody[0].ask(HEARTBEAT)
            == {"online": WORKERS + (everybody[0] not in [some[0] for some in found.values()])}
        )

    await eventually(counted)


async def test_a_key_is_taken_over_on_whatever_process(many: Server, connecting: Clients, api: Backend) -> None:
    await all_processes(many, api)
    mid = many.new_mid()
    visits: list[Client] = []
    nodes: list[str] = []
    while len(set(nodes)) < WORKERS:
        form = random.choice(V2)
        visits.append(
            await connecting.connect(many, form, mid=mid, key="k", cursor=visits[-1].cursor if visits else "")
        )
        n = len(visits)
        await api.push("mids", 1000, b'"%d"' % n, mids=[mid])
        await visits[-1].until_said(1)
        await visits[-1].ack()
        for old in visits[:-1]:
            assert 4409 == await old.until_gone()
        (session,) = await api.sessions_once(mid, 1)
        nodes.append(session["node"])
        assert n < 100

    assert [[f"{n + 1}"] for n in range(len(visits))] == [visit.said for visit in visits]


@pytest.mark.parametrize(
    "forms",
    [
        pytest.param(FORMS[:4], id="binary"),
        pytest.param(FORMS[4:], id="json"),
    ],
)
async def test_a_push_that_is_not_stored_reaches_the_clients_of_all_processes(
    many: Server, connecting: Clients, api: Backend, forms: tuple[Form, ...]
) -> None:
    """And is nowhere afterwards."""
    await all_processes(many, api)
    room = many.new_room("live")
    found = await spread(many, connecting, api, room, forms)
    everybody = [client for some in found.values() for client in some]
    # A connection is told that it is in before it has caught up, and what is not stored is only for who is not behind.
    await api.push("mids", 1000, b"first", mids=[client.mid for client in everybody])
    for client in everybody:
        await client.until_said(1)
    head = await many.head()
    await api.push_room(room, 1000, b"to the room", durable=0)
    await api.push("mids", 1000, b"to you", mids=[client.mid for client in everybody], durable=0)
    await api.push("keys", 1000, b"to this", keys=[client.key for client in everybody], durable=0)
    await api.push("all", 1000, b"\xff to all", durable=0)

    expected = {b"to the room", b"to you", b"to this", b"\xff to all"}  # whose order nobody promises
    for client in everybody:
        first, *said = await client.until_said(5)
        assert b"first" == (first if isinstance(first, bytes) else first.encode())
        assert expected == {body if isinstance(body, bytes) else body.encode() for body in said}
        assert len(expected) == len(said)
    assert not [entry for entry in await many.events(head) if entry.type == "message_pushed"]


async def test_a_worker_that_dies_is_started_again_and_its_clients_miss_nothing(
    many: Server, connecting: Clients, api: Backend
) -> None:
    """They come back to whichever process; those of the other processes notice nothing; who does not come back goes offline."""
    await all_processes(many, api)
    room = many.new_room()
    lost = await spread(many, connecting, api, many.new_room())
    speakers = [Speaker(many, connecting, V2[n % 3], many.new_mid(), f"speaker {n}", room) for n in range(6)]
    listeners = [Resident(many, connecting, FORMS[n % 5], many.new_mid(), f"listener {n}", room) for n in range(10)]
    living = [asyncio.create_task(one.live()) for one in (*speakers, *listeners)]
    for one in (*speakers, *listeners):
        await one.until(lambda _: True)
    talking = asyncio.gather(*(speaker.speak(150) for speaker in speakers))
    await eventually(lambda: _answered(speakers, 200))
    before = many.workers()
    before[0].kill()
    await talking
    await all_processes(many, api)
    await speakers[0].speak(1)
    (end,) = list(speakers[0].said.values())[-1:]
    for one in (*speakers[1:], *listeners):
        await one.until(lambda client: end in str(client.said[-1:]), "the end")
    for task in living:
        task.cancel()
    await asyncio.wait(living)

    now = many.workers()
    assert before[1] in now
    assert before[0] not in now
    history = History(await many.events())
    assert_sound(history, [visit for one in (*speakers, *listeners) for visit in one.told(history)])
    await many.assert_dense()
    gone = [client for some in lost.values() for client in some if client.is_gone]
    assert {len(some) for some in lost.values() if gone[0] in some} == {len(gone)}

    async def offline() -> bool:
        counts = Counter(
            entry.body["reason"]
            for entry in await many.events()
            if entry.type == "session_closed" and entry.stream in {f"session:{client.mid}" for client in gone}
        )
        return set(counts) == {"node_lost"} and counts.total() >= len(gone)

    await eventually(offline)
    assert [] == await api.sessions(*(client.mid for client in gone))


async def test_when_the_parent_is_killed_the_workers_end_by_themselves(
    many: Server, connecting: Clients, api: Backend
) -> None:
    """Their clients are told to come back, and the next start has the ports and the data."""
    await all_processes(many, api)
    found = await spread(many, connecting, api, many.new_room(), V2)
    workers = many.workers()
    many.kill()
    _, alive = await asyncio.to_thread(psutil.wait_procs, workers, ENDED_S)
    assert [] == alive
    codes = Counter([await client.until_gone() for some in found.values() for client in some])
    assert set(codes) <= {4001, 1006, None}
    assert codes[4001] >= (WORKERS - 1) * EACH
    await many.start_again()
    await all_processes(many, api)
    await many.assert_dense()


async def test_a_signal_to_the_parent_ends_all_processes(many: Server, connecting: Clients, api: Backend) -> None:
    """Their clients are sent away, and everybody's session is closed in the log."""
    await all_processes(many, api)
    found = await spread(many, connecting, api, many.new_room(), V2)
    workers = many.workers()
    many.ask_to_stop()

    assert 0 == await many.stopped()
    assert not [worker for worker in workers if worker.is_running()]
    everybody = [client for some in found.values() for client in some]
    assert {4001} == {await client.until_gone() for client in everybody}
    await many.start_again()
    reasons = Counter(
        entry.body["reason"]
        for entry in await many.events()
        if entry.type == "session_closed" and entry.stream in {f"session:{client.mid}" for client in everybody}
    )
    assert {"going_away": len(everybody)} == reasons


async def all_processes(server: Server, api: Backend) -> None:
    """Return when every process has its lease, and so its doors open."""

    async def so_many() -> bool:
        return len(server.workers()) == WORKERS - 1 and len((await api.get("/goim/nodes/instances"))["data"]) == WORKERS

    await eventually(so_many)


async def _answered(speakers: list[Speaker], times: int) -> bool:
    return sum(len(speaker.places) for speaker in speakers) >= times
