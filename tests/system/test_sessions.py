"""One device has one session: the newest. Whatever an older one still says, over whatever process, is answered with taken_over and
changes nothing; and a person's devices know nothing of each other but the read mark."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from conftest import copy_cluster, temporary_folder
from imcore.auth import load_or_create_keys, mint
from imcore.comet.returning import SPREAD_MS, SPREADS_MS
from imcore.comet.server import AWAY_S
from imcore.errors import TooManyConnections
from system.checking import History, assert_sound, visit_of
from system.clients import ACK, AUTH, HEARTBEAT, HISTORY, INBOX, JOIN, READ, SEND, Client, Clients, Form, Gone, Refused
from system.servers import Backend, Server, backend, running
from waiting import eventually

V2: tuple[Form, ...] = ("json", "v2 tcp", "v2 ws")
AT_ONCE = 50
DEVICES = 10
DEVICES_MAX = 3
CROWD = 20
BATCH_EVENTS = 10
TOKEN_S = 5.0  # at first
CLOSED_S = 30.0  # two by promise, on a machine that has nothing else to do; without it, ten minutes
RECEIVE_BYTES = 65_536
FILLING = "." * 60_000
TOO_MUCH = 12 * 2**20  # more than a kernel takes for one socket
PUSHED_AT_ONCE = 10
CONNECT_S = 1.5  # then the kernel has put it on the process that stands still


@pytest.fixture(scope="module")
def two(cluster: Path) -> Iterator[Server]:
    """A server of two processes, which takes any number of connections of one user."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--auth", "open", "--workers", "2", "--no-rate-limits") as server:
            yield server


async def test_a_comet_that_was_given_up_is_there_again_at_once(cluster: Path, connecting: Clients) -> None:
    """And not when it would have renewed its lease the next time: here that is in minutes. Who came back meanwhile would be sent away
    then, once more."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--auth", "open", "--set", "node_lease_s=600") as server:
            client = await connecting.connect(server, "json", mid=1, key="k")
            async with server.database() as connection:
                assert "DELETE 1" == await connection.execute("DELETE FROM nodes WHERE node = $1", server.node)

                assert 4001 == await client.until_gone()
                await eventually(lambda: connection.fetchval("SELECT count(*) FROM nodes"))
                again = await connecting.connect(server, "json", mid=1, key="k")
                held = (
                    "SELECT count(*) FROM sessions s JOIN nodes n ON n.node = s.node WHERE s.key = 'k' AND n.node <> $1"
                )
                assert 1 == await eventually(lambda: connection.fetchval(held, server.node))
            await again.ask(HEARTBEAT)


@pytest.fixture
async def api(two: Server) -> AsyncIterator[Backend]:
    async with backend(two) as made:
        await both_are_there(made)
        yield made


async def both_are_there(api: Backend) -> None:
    """Each process has its lease, and so its doors open."""

    async def are_both() -> bool:
        return len((await api.get("/goim/nodes/instances"))["data"]) == 2

    await eventually(are_both)


async def outcome(future: asyncio.Future[Any]) -> str:
    """What became of a request: ok, the code of its refusal, or unknown."""
    try:
        async with asyncio.timeout(20):
            await future
    except Refused as refused:
        return refused.code
    except Gone:
        return "unknown"
    return "ok"


async def come_elsewhere(server: Server, connecting: Clients, mid: int, key: str) -> Client:
    """Connect to a process that answers, as a client does that gives up on one that does not.

    It hangs up before it tries again: a process that was only slow has then opened the session that was given up before the other."""
    while True:
        form: Form = random.choice(("json", "v2 tcp"))
        with suppress(TimeoutError, Gone):
            async with asyncio.timeout(CONNECT_S):
                client = await connecting.open(server, form)
            client.mid, client.key = mid, key
            try:
                async with asyncio.timeout(CONNECT_S):
                    client.welcome = await client.ask(AUTH, {"mid": mid, "key": key})
                return client
            finally:
                if not client.welcome:
                    client.drop()


@asynccontextmanager
async def beside(server: Server, *arguments: str) -> AsyncIterator[Server]:
    """One more server on the same database."""
    with temporary_folder() as folder:
        with running(folder, "--auth", "open", "--no-rate-limits", "--database-url", server.url, *arguments) as another:
            yield another
            await ended(another)


async def ended(server: Server) -> None:
    """It stops while its clients here still listen: they say goodbye, and it need not wait for them."""
    server.ask_to_stop()
    await server.stopped()


async def test_of_many_connections_of_one_key_at_once_exactly_one_stays(
    two: Server, connecting: Clients, api: Backend
) -> None:
    """The others are told so, and what was acknowledged to any of them is in the log, once."""
    room, mid = two.new_room(), two.new_mid()
    await api.create(room, mid)
    places: dict[str, dict[str, Any]] = {}
    here: list[Client] = []
    codes: set[str] = set()

    async def come_and_speak(n: int) -> None:
        client = await connecting.open(two, V2[n % len(V2)])
        here.append(client)
        client.mid, client.key = mid, "k"
        id_ = str(uuid.uuid4())
        try:
            client.welcome = await client.ask(7, {"mid": mid, "key": "k"})
            places[id_] = await client.send(room, f"{n}", id_)
        except Refused as refused:
            codes.add(refused.code)
        except Gone:
            pass

    await asyncio.gather(*(come_and_speak(n) for n in range(AT_ONCE)))

    async def so_many_are_gone() -> bool:
        return sum(one.is_gone for one in here) == AT_ONCE - 1

    await eventually(so_many_are_gone)
    (left,) = [one for one in here if not one.is_gone]
    assert codes <= {"taken_over"}
    assert {("taken_over", False, 4409)} == {
        (*one.told, one.code) if one.told else None for one in here if one is not left
    }
    await left.send(room, "the one that stayed")
    (session,) = await api.sessions_once(mid, 1)
    entries = await two.events()
    opened = [entry.position for entry in entries if entry.type == "session_opened" and entry.mid == mid]
    assert AT_ONCE == len(opened)
    assert "k" == session["key"]
    kept = {entry.client_id: entry for entry in entries if entry.client_id and entry.room == room}
    assert {id_: (place["position"], place["seq"]) for id_, place in places.items()} == {
        id_: (kept[id_].position, kept[id_].seq) for id_ in places
    }
    assert not left.is_gone


async def test_the_devices_of_a_person_go_on_each_from_its_own_mark_and_share_what_is_read(
    two: Server, connecting: Clients, api: Backend
) -> None:
    room, mid, other = two.new_room(), two.new_mid(), two.new_mid()
    await api.create(room, mid, other)
    speaker = await connecting.connect(two, "json", mid=other)
    devices = [await connecting.connect(two, V2[n % len(V2)], mid=mid, key=f"device {n}") for n in range(DEVICES)]
    said = [f"{n}" for n in range(DEVICES)]
    for words in said:
        await speaker.send(room, words)
    seqs: list[int] = []
    for n, device in enumerate(devices):
        await device.until_said(DEVICES)
        messages = [event for event in device.events if event.op]
        assert said == device.texts
        await device.ask(ACK, {"position": messages[n].position})  # this one has dealt with n + 1 of them
        seqs.append(messages[n].seq)
    # The last to say it is not the one that has read most.
    marks = await asyncio.gather(
        *(device.ask(READ, {"room": room, "seq": seq}) for device, seq in zip(devices, seqs, strict=True))
    )
    assert all(seq <= mark["seq"] <= seqs[-1] for seq, mark in zip(seqs, marks, strict=True))
    for device in devices:
        (line,) = (await device.ask(INBOX, {}))["rooms"]
        assert (seqs[-1], 0) == (line["read"], line["unread"])
        await device.bye()

    back = [await connecting.connect(two, one.form, mid=mid, key=one.key) for one in devices]
    await speaker.send(room, "the end")
    for n, device in enumerate(back):
        await device.until_heard("the end")
        assert [*said[n + 1 :], "the end"] == device.texts
    history = History(await two.events())
    assert_sound(history, [visit_of(device, history, 1, is_whole=True) for device in back])


async def test_what_waits_in_a_process_that_stood_still_is_refused_when_its_key_is_elsewhere(
    two: Server, connecting: Clients, api: Backend
) -> None:
    """Fifty messages arrived; ten were committed when the process stopped, forty were in its hands. The device came back elsewhere;
    then the process went on. The forty are refused, and the newer connection hears ten of its own and no more."""
    room, mid, other = two.new_room(), two.new_mid(), two.new_mid()
    await api.create(room, mid, other)
    listener = await connecting.connect(two, "json", mid=other)
    # The session, then the sends; the first device of a person has no mark yet.
    stopping = ("--set", "fail=after_commit:stop:2", "--set", f"batch_events_max={BATCH_EVENTS}")
    async with beside(two, *stopping) as zombie:
        older = await connecting.connect(zombie, "v2 tcp", mid=mid, key="k")
        ids = [str(uuid.uuid4()) for _ in range(AT_ONCE)]
        asked = await post_at_once(older, [{"room": room, "id": id_, "body": id_} for id_ in ids])

        async def is_stopped() -> bool:
            return zombie.process.status() == "stopped"

        await eventually(is_stopped)
        newer = await connecting.connect(two, "json", mid=mid, key="k")
        mine = await newer.send(room, "mine")
        zombie.process.resume()
        outcomes = [await outcome(one) for one in asked]
        await older.until_gone()

    history = History(await two.events())
    kept = [entry.client_id for entry in history.entries if entry.client_id in ids]
    assert 1 <= len(kept) <= BATCH_EVENTS, "one batch; on a busy machine not all of them came at once"
    assert ids[: len(kept)] == kept
    # Unknown: the process had read of the newer one, and closed the connection, before it could answer.
    assert {"ok", "unknown"} >= set(outcomes[: len(kept)])
    assert {"taken_over", "unknown"} >= set(outcomes[len(kept) :])
    assert ("taken_over", False) == older.told
    assert not newer.is_gone
    last = await newer.send(room, "the end")
    await listener.until_heard("the end")
    assert [*kept, "mine", "the end"] == listener.texts
    assert kept == newer.texts
    assert last["seq"] == mine["seq"] + 1
    history = History(await two.events())
    assert_sound(history, [visit_of(newer, history, 1, is_whole=True), visit_of(listener, history, is_whole=True)])


async def post_at_once(client: Client, bodies: list[dict[str, Any]]) -> list[asyncio.Future[Any]]:
    """Sends that leave as one, so that one read of the server takes them all."""
    client.line_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    asked = [await client.post(SEND, body) for body in bodies]
    client.line_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    return asked


async def test_a_connection_that_does_not_know_that_it_was_taken_over_is_told_with_its_next_request(
    two: Server, connecting: Clients, api: Backend
) -> None:
    """Each request that was refused for it is answered; then the connection is closed. In every form."""
    async with beside(two, "--set", "quiet_s=3600") as deaf:
        for form in ("v1 tcp", *V2):
            room, mid = two.new_room(), two.new_mid()
            await api.create(room, mid)
            older = await connecting.connect(deaf, form, mid=mid, key="k")
            await eventually(lambda: _is_settled(two))
            # Without the bell that an appender rings; and on a comet that is there, or the session would be closed, with a bell.
            elsewhere = json.dumps({"key": "k", "node": two.node})
            async with two.database() as connection:
                await connection.execute(OPEN_ANOTHER, f"session:{mid}", mid, elsewhere)
            head = await two.head()
            asked = [await older.post(SEND, {"room": room, "id": str(uuid.uuid4()), "body": "late"})]
            if form != "v1 tcp":
                asked.append(await older.post(JOIN, {"room": two.new_room()}))
            first = await outcome(asked[0])
            others = {await outcome(one) for one in asked[1:]}
            code = await older.until_gone()

            assert "taken_over" == first, form
            assert {"taken_over", "unknown"} >= others, form
            assert (None if form == "v1 tcp" else 4409) == code
            types = await eventually(partial(_types, two, head, f"session:{mid}"))
            assert {"session_closed"} == types
            assert not [entry for entry in await two.events(head) if entry.room]


async def _types(server: Server, after: int, stream: str) -> set[str]:
    """What happened in a stream."""
    return {entry.type for entry in await server.events(after) if entry.stream == stream}


# As imcore_append is called by an appender.
OPEN_ANOTHER = """
SELECT base FROM imcore_append(false, '{1}', '{1}', '{0}', ARRAY[$2::bigint], '{k}', '{NULL}', '{1}', ARRAY[$3], NULL,
  '{session_opened}', '{1}', '{0}', '{0}', '{0}', ARRAY(SELECT id FROM streams WHERE name = $1), '{1}', '{1}', '{1}', '{0}')
"""


async def _is_settled(server: Server) -> bool:
    """Nothing is on its way to the log: what was appended has been folded."""
    async with server.database() as connection:
        return bool(
            await connection.fetchval(
                "SELECT min(c.position) = max(h.position) FROM checkpoints c CROSS JOIN log_head h"
            )
        )


async def test_a_comet_that_stood_still_accepts_and_answers_nothing_of_a_key_that_is_elsewhere(
    two: Server, connecting: Clients, api: Backend
) -> None:
    """Not what has to be stored, and not what it could answer from memory. Others of its clients go on as if nothing had been."""
    room, mid, other = two.new_room(), two.new_mid(), two.new_mid()
    await api.create(room, mid, other)
    (worker,) = two.workers()
    older, bystander = await on_the_worker(two, connecting, api, mid), await on_the_worker(two, connecting, api, other)
    first = await older.send(room, "before")
    await bystander.until_said(1)
    worker.suspend()
    stopped_at = time.monotonic()
    try:
        late = str(uuid.uuid4())
        asked = [
            await older.post(SEND, {"room": room, "id": late, "body": "late"}),
            await older.post(ACK, {"position": first["position"]}),
            await older.post(JOIN, {"room": two.new_room()}),
            await older.post(READ, {"room": room, "seq": 1}),
            await older.post(HISTORY, {"room": room}),
            await older.post(2),
        ]
        waiting = await bystander.post(SEND, {"room": room, "id": str(uuid.uuid4()), "body": "patient"})
        newer = await come_elsewhere(two, connecting, mid, older.key)
        await newer.send(room, "mine")
        await eventually(lambda: _is_past(stopped_at + AWAY_S + 0.5))
        head = await two.head()
    finally:
        worker.resume()
    assert 4409 == await older.until_gone() or older.form == "v2 tcp"

    assert ("taken_over", False) == older.told
    assert {"ok"}.isdisjoint([await outcome(one) for one in asked])
    assert "ok" == await outcome(waiting)
    assert not newer.is_gone
    await newer.send(room, "the end")
    await bystander.until_heard("the end")
    assert ["before", "mine", "the end"] == bystander.texts  # its own is not sent back
    entries = await two.events()
    assert late not in {entry.client_id for entry in entries}
    after = [entry for entry in entries if entry.position > head and entry.key == older.key and entry.mid == mid]
    assert [("message_sent", "the end")] == [
        (entry.type, entry.body) for entry in after if entry.type != "session_closed"
    ]


async def test_who_came_to_a_process_that_stood_still_and_went_elsewhere_is_not_taken_over_by_the_attempt(
    two: Server, connecting: Clients, api: Backend
) -> None:
    """An auth that lay in the socket all the time is older than the connection that its device has elsewhere."""
    mid = two.new_mid()
    async with beside(two) as slow:
        there = await connecting.connect(slow, "json", mid=two.new_mid())
        attempt = await connecting.open(slow, "json")
        slow.process.suspend()
        stopped_at = time.monotonic()
        try:
            another = await connecting.open(slow, "v2 tcp")  # the kernel takes it in, and nobody looks
            lost = [await one.post(7, {"mid": mid, "key": "k"}) for one in (attempt, another)]
            device = await connecting.connect(two, "json", mid=mid, key="k")
            await eventually(lambda: _is_past(stopped_at + AWAY_S + 0.5))
        finally:
            slow.process.resume()
        await attempt.until_gone()
        await another.until_gone()
        assert attempt.told in (("try_later", True), ("auth_timeout", True))
        assert ["unknown"] * 2 == [await outcome(one) for one in lost]
        await there.ask(2)
    await device.ask(2)
    opened = [entry for entry in await two.events() if entry.type == "session_opened" and entry.mid == mid]
    assert 1 == len(opened)


# --- so many connections of one user ------------------------------------------------------------------------------------------


@contextmanager
def limited(cluster: Path, policy: str) -> Iterator[Server]:
    """A server of two processes that lets a user have so many connections."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        chosen = {"connections_per_user_max": DEVICES_MAX, "connections_per_user_policy": policy, "workers": 2}
        given = [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]
        # Of strangers there may be more, all tests come from one address.
        with running(folder, "--auth", "open", "--set", "unauthenticated_per_address_max=100", *given) as server:
            yield server


@pytest.fixture(scope="module")
def refusing(cluster: Path) -> Iterator[Server]:
    """One that takes no more of them."""
    with limited(cluster, "refuse_new") as server:
        yield server


@pytest.fixture(scope="module")
def displacing(cluster: Path) -> Iterator[Server]:
    """One that closes the oldest."""
    with limited(cluster, "close_oldest") as server:
        yield server


@asynccontextmanager
async def settled(server: Server) -> AsyncIterator[Backend]:
    """A backend of it, when both processes are there."""
    async with backend(server) as api:
        await both_are_there(api)
        yield api


async def test_one_connection_too_many_is_refused_whatever_comets_the_others_are_on(
    refusing: Server, connecting: Clients
) -> None:
    """It is told when to come back. Who leaves makes room, and who comes back with its own key needs none."""
    server = refusing
    async with settled(server) as api:
        mid = server.new_mid()
        here = [
            await connecting.connect(server, V2[n % len(V2)], mid=mid, key=f"device {n}") for n in range(DEVICES_MAX)
        ]
        nodes = {one["node"] for one in await api.sessions_once(mid, DEVICES_MAX)}
        for _ in range(10):  # on either process
            late = await connecting.open(server, "json")
            with pytest.raises(Refused, match="too_many_connections"):
                await late.ask(7, {"mid": mid, "key": "late"})
            assert 4429 == await late.until_gone()
            assert late.farewell is not None
            assert late.farewell["retry"]
            assert 0 <= late.farewell["delay_ms"] <= SPREADS_MS[TooManyConnections] + SPREAD_MS
        again = await connecting.connect(server, "json", mid=mid, key="device 0")
        await here[0].until_gone()
        await here[1].bye()

        async def is_in() -> bool:
            try:
                await connecting.connect(server, "v2 tcp", mid=mid, key="late")
            except Refused:
                return False
            return True

        await eventually(is_in)
        assert not any(one.is_gone for one in (again, *here[2:]))
        assert nodes


@pytest.mark.parametrize("policy", ["refusing", "displacing"])
async def test_of_many_devices_that_come_at_once_exactly_so_many_stay(
    request: pytest.FixtureRequest, connecting: Clients, policy: str
) -> None:
    """The first, or the last, by their places in the log."""
    server: Server = request.getfixturevalue(policy)
    async with settled(server) as api:
        mid = server.new_mid()
        come = [await connecting.open(server, V2[n % len(V2)]) for n in range(CROWD)]

        async def enter(n: int) -> str:
            return await outcome(await come[n].post(7, {"mid": mid, "key": f"device {n}"}))

        told = await asyncio.gather(*(enter(n) for n in range(CROWD)))

        async def are_settled() -> bool:
            return sum(not one.is_gone for one in come) == DEVICES_MAX

        await eventually(are_settled)
        left = [f"device {n}" for n, one in enumerate(come) if not one.is_gone]

        async def are_shown() -> bool:
            return sorted(left) == sorted(one["key"] for one in await api.sessions(mid))

        await eventually(are_shown)
        opened = [entry.key for entry in await server.events() if entry.type == "session_opened" and entry.mid == mid]
    assert {"ok", "too_many_connections"} >= set(told)
    expected = opened[:DEVICES_MAX] if policy == "refusing" else opened[-DEVICES_MAX:]
    assert sorted(expected) == sorted(left)
    reasons = {one.told for n, one in enumerate(come) if f"device {n}" not in left}
    assert reasons <= {("too_many_connections", True), ("displaced", False)}
    assert ("displaced", False) in reasons or policy == "refusing"


async def test_the_oldest_connection_makes_room_for_a_new_one(displacing: Server, connecting: Clients) -> None:
    """On whatever comet; it is told not to come back, and no other notices."""
    server = displacing
    async with settled(server) as api:
        mid = server.new_mid()
        come: list[Client] = []
        for n in range(CROWD):
            come.append(await connecting.connect(server, V2[n % len(V2)], mid=mid, key=f"device {n}"))
            if n >= DEVICES_MAX:
                oldest = come[n - DEVICES_MAX]
                assert 4410 == await oldest.until_gone()
                assert ("displaced", False) == oldest.told
                assert not any(one.is_gone for one in come[-DEVICES_MAX:])
        nodes = {one["node"] for one in await api.sessions_once(mid, DEVICES_MAX)}
        closings = [
            (entry.body["key"], entry.body["reason"])
            for entry in await server.events()
            if entry.type == "session_closed" and entry.stream == f"session:{mid}"
        ]
        assert {(f"device {n}", "displaced") for n in range(CROWD - DEVICES_MAX)} == set(closings)
        assert nodes


# --- lines and tokens that are over -------------------------------------------------------------------------------------------


async def test_a_line_that_is_dead_is_found_by_its_silence(two: Server, connecting: Clients, api: Backend) -> None:
    """The client neither speaks nor reads: it is offline soon after its heartbeats are missing, and misses nothing when it is back."""
    room, mid, other = two.new_room(), two.new_mid(), two.new_mid()
    await api.create(room, mid, other)
    speaker = await connecting.connect(two, "json", mid=other)
    async with beside(two, "--set", "heartbeat_s=1", "--set", "heartbeat_misses=2") as strict:
        silent = await connecting.connect(strict, "json", mid=mid, key="k")
        silent.stop_reading()
        await speaker.send(room, "hello")

        async def reasons() -> list[str]:
            closed = [entry for entry in await two.events() if entry.type == "session_closed"]
            return [entry.body["reason"] for entry in closed if entry.stream == f"session:{mid}"]

        assert ["heartbeat_timeout"] == await eventually(reasons)
        await api.sessions_once(mid, 0)
        silent.go_on()
        assert 4408 == await silent.until_gone()
        back = await connecting.connect(two, "json", mid=mid, key="k", cursor=silent.cursor)
    await back.until_said(1)

    assert ("heartbeat_timeout", True) == silent.told
    assert silent.farewell is not None
    assert 0 <= silent.farewell["delay_ms"] <= SPREAD_MS
    assert back.welcome["recovered"]
    assert ["hello"] == back.texts


async def test_a_token_that_is_over_closes_also_who_takes_nothing(cluster: Path, connecting: Clients) -> None:
    """A connection whose socket is full is looked after like any other."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(
            folder,
            "--auth",
            "jwt",
            "--set",
            "auth_leeway_s=0",
            "--set",
            "unsent_bytes_max=65536",
            "--set",
            "behind_s=600",
            "--set",
            "goim_body_bytes_max=61000",
        ) as server:
            keys = load_or_create_keys(server.data)
            service = mint(keys, now=time.time(), expires_in_s=600, service="tests")
            async with backend(server, service) as api:
                token_s, is_full = TOKEN_S, False
                while not is_full:  # before its token is over; the machine may need longer
                    mid, room = server.new_mid(), server.new_room()
                    await api.create(room, mid)
                    until = time.time() + token_s
                    token = mint(keys, now=until - token_s, expires_in_s=token_s, mid=mid)
                    client = await connecting.connect(
                        server, "v2 tcp", mid=mid, key="k", token=token, receive_bytes=RECEIVE_BYTES
                    )
                    client.stop_reading()
                    for _ in range(TOO_MUCH // len(FILLING) // PUSHED_AT_ONCE):
                        pushes = (api.push_room(room, 1000, FILLING.encode()) for _ in range(PUSHED_AT_ONCE))
                        await asyncio.gather(*pushes)
                    is_full = time.time() < until - 1  # the time of a token is told in whole seconds
                    token_s *= 2

                closed = "SELECT body::json ->> 'reason' FROM event_log WHERE type = 'session_closed' AND mid = $1"
                async with server.database() as connection:
                    reason = await eventually(lambda: connection.fetchval(closed, mid), token_s + CLOSED_S)
                assert "unauthenticated" == reason
                assert time.time() < until + CLOSED_S


async def on_the_worker(server: Server, connecting: Clients, api: Backend, mid: int) -> Client:
    """A connection that is not on the parent's own comet: the kernel chooses, so as many as it takes."""
    for n in range(200):
        client = await connecting.connect(server, V2[n % len(V2)], mid=mid, key=f"k{n}")
        (session,) = await api.sessions_once(mid, 1)
        if session["node"] != server.node:
            return client
        await client.bye()
        await api.sessions_once(mid, 0)
    raise AssertionError("all connections are on one process")


async def _is_past(at: float) -> bool:
    return time.monotonic() > at
