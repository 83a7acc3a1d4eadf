"""Who is told that somebody comes or goes, over real connections: on one process, and between two of which one dies."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from conftest import copy_cluster, temporary_folder
from system.clients import FORMS, Client, Clients, Event, Form, Refused
from system.servers import Backend, Server, backend, running
from waiting import eventually

CALL: Final = 38
LEASE_S, GRACE_S = 4.0, 3.0  # a machine that does other things makes a comet late by two
# What is told by the event is there within two seconds, on a machine that has nothing else to do; how long any of it may take, on one
# that has. What is not told by it nobody hears of: people are asked for again every five minutes only.
PROMISED_S: Final = 2.0
TOLD_S: Final = 15.0
MESSAGE_BYTES, UNSENT_BYTES = 15_000, 12_000_000  # more than any socket takes
AT_ONCE: Final = 20
V2: Final[tuple[Form, ...]] = ("v2 tcp", "v2 ws", "json")
HERE, AWAY = {"online": True, "platforms": ["test"]}, {"online": False, "platforms": []}


async def call(client: Client, verb: str, **args: Any) -> dict[str, Any]:
    """Any verb; its answer."""
    answer: dict[str, Any] = (await client.ask(CALL, {"verb": verb, "args": args}))["answer"]
    return answer


async def watch(client: Client, *mids: int) -> dict[int, bool]:
    """Watch these people; who of them is online."""
    people = (await call(client, "presence.watch", mids=list(mids)))["people"]
    assert [*mids] == [one["mid"] for one in people]
    return {one["mid"]: one["online"] for one in people}


def told(client: Client) -> list[tuple[int, Any]]:
    """What a client was told of others' presence."""
    return [(event.mid, event.body) for event in client.events if event.type == "presence"]


def signals(client: Client) -> list[Event]:
    """What it was told that is not in the log, and is not presence."""
    return [event for event in client.events if event.position == 0 and event.type != "presence" and not event.op]


async def until_removed(client: Client) -> None:
    await client.until(lambda: client.removals, "told of the removal")


async def until_told(client: Client, *changes: tuple[int, Any]) -> Event:
    """Exactly these changes have come; the event of the last."""
    await client.until(lambda: len(told(client)) >= len(changes), f"told {changes}")
    assert [*changes] == told(client)
    last: Event = [event for event in client.events if event.type == "presence"][-1]
    return last


async def until_live(api: Backend, *clients: Client) -> None:
    """Each has heard something that was said to it just now. What is stored nowhere is only for who is not behind, and a connection is
    told that it is in before it has caught up."""
    words = str(uuid.uuid4())
    await api.push("mids", 1000, words.encode(), mids=sorted({client.mid for client in clients}))
    for client in clients:
        await client.until_heard_of(words)


async def until_switched(client: Client, *choices: str) -> None:
    """It was told of exactly these choices of who may see it."""

    def told_of() -> list[str]:
        return [event.body["choice"] for event in client.events if event.type == "visibility_chosen"]

    await client.until(lambda: len(told_of()) >= len(choices), f"told of {choices}")
    assert [*choices] == told_of()


@pytest.fixture(scope="module")
def pair(cluster: Path) -> Iterator[Server]:
    """A server of two processes, of which a test kills one."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        some = ("--set", f"node_lease_s={LEASE_S}", "--set", f"presence_grace_s={GRACE_S}", "--set", "drain_s=4")
        with running(folder, "--auth", "open", "--workers", "2", "--no-rate-limits", *some) as server:
            yield server


@pytest.fixture
async def api(pair: Server) -> AsyncIterator[Backend]:
    async with backend(pair) as made:
        yield made


class Two:
    """Clients on the process that holds everything together, and on its worker."""

    def __init__(self, server: Server, connecting: Clients, api: Backend) -> None:
        self._server, self._connecting, self._api = server, connecting, api

    async def connect(self, node: str | None, mid: int, form: Form = "json", key: str = "phone") -> Client:
        """A client on this node (None: on the worker). The kernel chooses, so it is tried until it is there."""
        for _ in range(200):
            client = await self._connecting.connect(self._server, form, mid=mid, key=key)
            (session,) = await self._api.sessions_once(mid, 1)
            if (session["node"] == node) if node is not None else (session["node"] != self._server.node):
                return client
            await client.bye()
            await self._api.sessions_once(mid, 0)
        raise AssertionError("the kernel chose the same process 200 times")


@pytest.fixture
async def two(pair: Server, connecting: Clients, api: Backend) -> Two:
    async def both() -> bool:
        return len((await api.get("/goim/nodes/instances"))["data"]) == 2

    await eventually(both)
    return Two(pair, connecting, api)


def people(server: Server, count: int) -> list[int]:
    return [server.new_mid() for _ in range(count)]


# --- two processes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", V2)
async def test_a_watcher_on_another_comet_is_told_within_two_seconds(
    pair: Server, two: Two, connecting: Clients, api: Backend, form: Form
) -> None:
    """And who did not ask is told nothing. A machine that does other things is late with one, and then it is looked at the next."""
    anna, stranger, *others = people(pair, 30)
    await api.create(pair.new_room(), anna, stranger, *others)
    watcher = await two.connect(pair.node, anna, form)
    idle = await two.connect(pair.node, stranger, form)
    assert dict.fromkeys(others, False) == await watch(watcher, *others)

    async def told_of(mid: int, body: object) -> Event:
        await watcher.until(lambda: (mid, body) in told(watcher), f"told {body}")
        return next(event for event in watcher.events if (event.type, event.mid, event.body) == ("presence", mid, body))

    shown_s, hidden_s = [], []
    for ben in others:
        came = time.monotonic()
        client = await connecting.connect(pair, form, mid=ben)
        (session,) = await api.sessions_once(ben, 1)
        if session["node"] == pair.node:  # the kernel chooses the process
            continue
        shown_s.append((await told_of(ben, HERE)).at - came)
        went = time.monotonic()
        client.drop()
        event = await told_of(ben, AWAY)
        hidden_s.append(event.at - went - GRACE_S)
        assert (0, 0, f"user:{ben}") == (event.position, event.seq, event.stream)
        if max(min(shown_s), min(hidden_s)) <= PROMISED_S:
            break

    assert min(shown_s) <= PROMISED_S, shown_s
    assert -0.1 <= min(hidden_s) <= PROMISED_S, hidden_s
    await until_live(api, idle)
    assert [] == told(idle)


async def test_who_is_back_within_the_grace_was_never_away(pair: Server, two: Two, api: Backend) -> None:
    """On the same process or the other. Somebody who went at the same time, and stayed away, shows that the grace is over. Who was
    not back in time, because the machine had other things to do, is not judged; others do it again."""
    away_s = GRACE_S
    while away_s >= GRACE_S:
        anna, ben, cara = people(pair, 3)
        await api.create(pair.new_room(), anna, ben, cara)
        watcher = await two.connect(pair.node, anna)
        bens = await two.connect(None, ben)
        caras = await two.connect(None, cara)
        assert {ben: True, cara: True} == await watch(watcher, ben, cara)

        went = time.monotonic()
        bens.drop()
        caras.drop()
        await api.sessions_once(ben, 0)
        await two.connect(pair.node, ben)
        away_s = time.monotonic() - went

    await until_told(watcher, (cara, AWAY))


async def test_the_people_of_a_killed_comet_go_offline_when_its_lease_is_over(
    pair: Server, two: Two, api: Backend
) -> None:
    anna, ben = people(pair, 2)
    await api.create(pair.new_room(), anna, ben)
    watcher = await two.connect(pair.node, anna)
    bens = await two.connect(None, ben)
    assert {ben: True} == await watch(watcher, ben)
    before = (await call(watcher, "presence.of", mid=[ben]))["people"][0]
    assert before["online"]

    (worker,) = pair.workers()
    worker.kill()
    killed = time.monotonic()
    await bens.until_gone()
    event = await until_told(watcher, (ben, AWAY))

    assert event.at - killed <= LEASE_S + TOLD_S
    (now,) = (await call(watcher, "presence.of", mid=[ben]))["people"]
    assert (False, [], []) == (now["online"], now["platforms"], now["devices"])
    # When that was found out says nothing of when the person was there.
    assert now["last_seen"] <= before["devices"][0]["since"]


async def test_signals_reach_the_others_on_both_processes_and_no_log(pair: Server, two: Two, api: Backend) -> None:
    anna, ben, cara = people(pair, 3)
    room = pair.new_room()
    await api.create(room, anna, ben)
    annas = await two.connect(pair.node, anna)
    bens = await two.connect(None, ben)
    caras = await two.connect(None, cara)
    await until_live(api, annas, bens, caras)
    head = await pair.head()

    await call(annas, "rooms.typing", room=room)
    await call(bens, "rooms.signal", room=room, type="cursor", body={"at": 7})

    await bens.until(lambda: signals(bens), "a signal")
    await annas.until(lambda: signals(annas), "a signal")
    assert [("typing", anna, {"typing": True}, f"room:{room}", 0)] == [
        (event.type, event.mid, event.body, event.stream, event.seq) for event in signals(bens)
    ]
    assert [("signal:cursor", ben, {"at": 7})] == [(event.type, event.mid, event.body) for event in signals(annas)]
    logged = [entry for entry in await pair.events(head) if entry.mid in (anna, ben, cara) or entry.room == room]
    assert {"delivery_acked"} >= {entry.type for entry in logged}
    await until_live(api, caras)
    assert [] == signals(caras)


async def test_who_is_taken_out_gets_no_signal_that_was_given_after_that(
    pair: Server, two: Two, connecting: Clients, api: Backend
) -> None:
    """On whatever process: a signal waits there until the log was followed to where it was given."""
    anna, witness, *others = people(pair, 14)
    room = pair.new_room()
    await api.create(room, anna, witness, *others)
    annas = await two.connect(pair.node, anna)
    hears = await two.connect(None, witness)
    clients = [await connecting.connect(pair, V2[n % 3], mid=mid) for n, mid in enumerate(others)]
    await until_live(api, annas, hears, *clients)

    for n, mid in enumerate(others):
        await api.kick(room, mid)
        await call(annas, "rooms.signal", room=room, type="n", body=n)
    await annas.send(room, "the end")
    await hears.until_heard("the end")
    await until_live(api, *clients)
    heard = [[event.body for event in signals(client)] for client in clients]
    for n, (client, bodies) in enumerate(zip(clients, heard, strict=True)):
        await until_removed(client)
        assert {*bodies} <= {*range(n)}
    assert sum(map(len, heard)) > len(others)  # a signal may be lost; most of them are not


# --- one process ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def there(server: Server) -> AsyncIterator[Backend]:
    async with backend(server) as made:
        yield made


async def test_who_hides_looks_like_who_went_and_who_shows_itself_like_who_came(
    server: Server, connecting: Clients, there: Backend
) -> None:
    anna, ben, cara = people(server, 3)
    await there.create(server.new_room(), anna, ben, cara)
    friend = await connecting.connect(server, "json", mid=anna)
    colleague = await connecting.connect(server, "json", mid=cara)
    bens = await connecting.connect(server, "json", mid=ben)
    await call(bens, "direct.open", mid=anna)
    assert {ben: True} == await watch(friend, ben) == await watch(colleague, ben)

    await call(bens, "presence.show", visible_to="contacts")
    await until_told(colleague, (ben, AWAY))
    nobody = {"mid": ben, "online": False, "platforms": [], "devices": [], "last_seen": None}
    strangers = (await call(colleague, "presence.of", mid=[ben, server.new_mid()]))["people"]
    assert [nobody, {**nobody, "mid": strangers[1]["mid"]}] == strangers
    assert (await call(friend, "presence.of", mid=[ben]))["people"][0]["online"]

    await call(bens, "presence.show", visible_to="nobody")
    await until_told(friend, (ben, AWAY))
    assert (await call(bens, "presence.of"))["people"][0]["online"]  # to oneself one never is
    assert (await call(bens, "presence.show", visible_to="nobody"))["unchanged"]

    await call(bens, "presence.show", visible_to="everybody")
    await until_told(friend, (ben, AWAY), (ben, HERE))
    await until_told(colleague, (ben, AWAY), (ben, HERE))
    await until_switched(bens, "contacts", "nobody", "everybody")


async def test_who_opens_a_direct_room_sees_the_other_with_its_first_message(
    server: Server, connecting: Clients
) -> None:
    anna, ben = people(server, 2)
    watcher = await connecting.connect(server, "json", mid=anna)
    bens = await connecting.connect(server, "json", mid=ben)
    room = (await call(watcher, "direct.open", mid=ben))["room"]
    await watcher.send(room, "are you there?")
    assert {ben: False} == await watch(watcher, ben)
    assert {anna: True} == await watch(bens, anna)
    await bens.until_heard("are you there?")
    assert [] == told(watcher)

    at = time.monotonic()
    await bens.send(room, "yes")
    await until_told(watcher, (ben, HERE))
    assert time.monotonic() - at < TOLD_S


async def test_who_is_taken_out_of_the_only_room_is_told_no_more(
    server: Server, connecting: Clients, there: Backend
) -> None:
    """And what it is told is that everybody there went offline."""
    anna, ben = people(server, 2)
    room = server.new_room()
    await there.create(room, anna, ben)
    watcher = await connecting.connect(server, "json", mid=anna)
    bens = await connecting.connect(server, "json", mid=ben)
    assert {ben: True} == await watch(watcher, ben)

    await there.kick(room, anna)
    await until_told(watcher, (ben, AWAY))
    await connecting.connect(server, "json", mid=ben, key="another")
    await bens.bye()
    await there.add(room, anna)

    await until_told(watcher, (ben, AWAY), (ben, HERE))


async def test_presence_is_watched_until_the_connection_says_otherwise(
    server: Server, connecting: Clients, there: Backend
) -> None:
    anna, ben, cara = people(server, 3)
    await there.create(server.new_room(), anna, ben, cara)
    watcher = await connecting.connect(server, "v2 ws", mid=anna)
    assert {ben: False, cara: False} == await watch(watcher, ben, cara)
    await call(watcher, "presence.unwatch", mids=[ben])
    await connecting.connect(server, "json", mid=ben)
    await connecting.connect(server, "json", mid=cara)

    await until_told(watcher, (cara, HERE))


@pytest.mark.parametrize("form", ["v1 tcp", "v1 ws"])
async def test_goims_clients_are_given_neither_presence_nor_signals(
    server: Server, connecting: Clients, there: Backend, form: Form
) -> None:
    """They may ask, but what comes then has no form in version 1."""
    anna, ben = people(server, 2)
    room = server.new_room()
    await there.create(room, anna, ben)
    old = await connecting.connect(server, form, mid=anna, room=room)
    assert {ben: False} == await watch(old, ben)
    bens = await connecting.connect(server, "json", mid=ben)
    witness = await connecting.connect(server, "json", mid=anna, key="witness")
    await watch(witness, ben)
    await until_live(there, old, witness)
    await call(bens, "rooms.typing", room=room)
    await witness.until(lambda: signals(witness), "a signal")
    await bens.send(room, "the end")
    await old.until_heard("the end")

    assert 2 == len(old.events), "what was said, and no more"


@pytest.mark.parametrize("form", FORMS)
async def test_a_signal_does_not_come_back_to_the_connection_that_gave_it(
    server: Server, connecting: Clients, there: Backend, form: Form
) -> None:
    anna, ben = people(server, 2)
    room = server.new_room()
    await there.create(room, anna, ben)
    annas = await connecting.connect(server, form, mid=anna, key="phone")
    tablet = await connecting.connect(server, "json", mid=anna, key="tablet")
    await until_live(there, annas, tablet)
    await call(annas, "rooms.typing", room=room, typing=False)
    await tablet.until(lambda: signals(tablet), "a signal")
    bens = await connecting.connect(server, "json", mid=ben)
    await bens.send(room, "the end")
    await annas.until_heard("the end")

    assert [{"typing": False}] == [event.body for event in signals(tablet)]
    assert [] == signals(annas)


async def test_in_a_live_room_who_is_in_it_signals_and_counts(
    server: Server, connecting: Clients, there: Backend
) -> None:
    anna, ben, cara = people(server, 3)
    room = server.new_room("live")
    annas = await connecting.connect(server, "json", mid=anna, rooms=[room])
    bens = await connecting.connect(server, "json", mid=ben, rooms=[room])
    caras = await connecting.connect(server, "json", mid=cara)
    await until_live(there, annas, bens, caras)

    await call(annas, "rooms.typing", room=room)
    await bens.until(lambda: signals(bens), "a signal")
    assert {"online": 2, "people": None} == await call(annas, "presence.room", room=room)
    for verb in ("rooms.typing", "presence.room"):
        with pytest.raises(Refused) as refused:
            await call(caras, verb, room=room)
        assert "no_such_room" == refused.value.code
    await until_live(there, caras)
    assert [] == signals(caras)


async def test_who_signals_too_often_is_told_when_it_may_again(
    server: Server, connecting: Clients, there: Backend
) -> None:
    """And may go on sending messages: signals have a pace of their own."""
    (anna,) = people(server, 1)
    room = server.new_room()
    await there.create(room, anna)
    annas = await connecting.connect(server, "json", mid=anna)
    answers = await asyncio.gather(*(call(annas, "rooms.typing", room=room) for _ in range(8)), return_exceptions=True)
    while not [answer for answer in answers if isinstance(answer, Refused)]:
        answers += await asyncio.gather(
            *(call(annas, "rooms.typing", room=room) for _ in range(8)), return_exceptions=True
        )

    assert {"rate_limited"} == {answer.code for answer in answers if isinstance(answer, Refused)}
    await annas.send(room, "still here")


async def test_a_watcher_that_takes_nothing_is_told_what_is_true_when_it_does(
    server: Server, connecting: Clients, there: Backend
) -> None:
    """What came and went meanwhile it is not told, and signals are left out for good."""
    anna, ben, cara, dora = people(server, 4)
    room, chatter = server.new_room(), server.new_room()
    await there.create(room, anna, ben, cara, dora)
    await there.create(chatter, anna)
    watcher = await connecting.connect(server, "json", mid=anna, receive_bytes=4_096)
    witness = await connecting.connect(server, "json", mid=dora)
    await watch(watcher, ben, cara)
    await watch(witness, ben, cara)

    watcher.stop_reading()
    for _ in range(UNSENT_BYTES // MESSAGE_BYTES // AT_ONCE):  # at once: who takes nothing is closed after a while
        await asyncio.gather(*(there.say(chatter, "x" * MESSAGE_BYTES) for _ in range(AT_ONCE)))
    await there.say(chatter, "the end")
    bens = await connecting.connect(server, "json", mid=ben)
    await until_told(witness, (ben, HERE))
    await call(bens, "rooms.typing", room=room)
    await witness.until(lambda: signals(witness), "a signal")
    bens.drop()
    await connecting.connect(server, "json", mid=cara)
    await until_told(witness, (ben, HERE), (cara, HERE), (ben, AWAY))
    watcher.go_on()
    await watcher.until_heard("the end")

    await until_told(watcher, (cara, HERE))
    assert [] == signals(watcher)


async def test_a_connection_watches_no_more_people_than_it_may(server: Server, connecting: Clients) -> None:
    """And those that it watched it watches still."""
    anna, *others = people(server, 502)
    watcher = await connecting.connect(server, "json", mid=anna)
    await watch(watcher, anna, *others[:499])
    with pytest.raises(Refused) as refused:
        await watch(watcher, *others[499:501])
    assert ("bad_request", False) == (refused.value.code, refused.value.retry)
    await watch(watcher, anna, others[499 - 1])
    tablet = await connecting.connect(server, "v2 tcp", mid=anna, key="tablet")
    await tablet.bye()

    assert [] == told(watcher)  # a second device of the platform is no change
    assert {anna: True} == await watch(watcher, anna)


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"mids": []},
        {"mids": [True]},
        {"mids": ["7"]},
        {"mids": [1.5]},
        {"mids": 7},
        {"mids": [2**63]},
        {"mids": [7], "x": 1},
    ],
)
async def test_what_is_no_list_of_people_is_refused(server: Server, connecting: Clients, args: dict[str, Any]) -> None:
    watcher = await connecting.connect(server, "v2 ws", mid=server.new_mid())
    with pytest.raises(Refused) as refused:
        await call(watcher, "presence.watch", **args)
    assert "bad_request" == refused.value.code
