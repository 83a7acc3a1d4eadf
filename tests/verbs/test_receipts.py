"""Receipts: who has read a message, and who is told of it live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from api.place import Place, serving
from imcore.bus.postgres import Ephemeral
from imcore.client import Client, Event, connect
from imcore.receipts import MARKS_MAX, Receipts
from imcore.verbs import receipts as receipts_verbs
from projections.place import running
from serving import serving as server
from waiting import eventually

G = "group://1"
ROOM = "/v1/rooms/group/1"


async def receipts(api: Place, mid: int | None, seq: int, query: str = "") -> Any:
    told = await api.get(f"{ROOM}/messages/{seq}/receipts{query}", mid=mid)
    assert 200 == told.status, told.raw
    return told.json


async def read(api: Place, mid: int, seq: int) -> None:
    assert 200 == (await api.put(f"{ROOM}/read", mid=mid, json={"seq": seq})).status


async def test_who_has_read_a_message_is_told_in_pages(api: Place) -> None:
    await api.room(G, 7, 8, 9, 10)
    first, second = [(await api.send(ROOM, 7, "hello")).json["seq"] for _ in range(2)]
    for mid in (10, 8, 7):
        await read(api, mid, second)
    await read(api, 9, first)

    page = await receipts(api, 7, first, "?limit=2")
    assert (3, 3) == (page["people"], page["read"]), "who sent it has not read it"
    assert [8, 9] == [one["mid"] for one in page["readers"]]
    assert all(one["time"] > 1_700_000_000_000 for one in page["readers"])
    assert [10] == [one["mid"] for one in (await receipts(api, 7, first, f"?after={page['next']}"))["readers"]]
    page = await receipts(api, 9, second)
    assert (3, 2, [8, 10]) == (page["people"], page["read"], [one["mid"] for one in page["readers"]])


async def test_who_does_not_see_a_message_is_no_reader_of_it(api: Place) -> None:
    await api.room(G, 7, 8)
    seq = (await api.send(ROOM, 7, "hello")).json["seq"]
    await api.post(f"{ROOM}/members", json={"mid": 9})
    later = (await api.send(ROOM, 7, "later")).json["seq"]
    await read(api, 9, later)

    page = await receipts(api, 7, seq)
    assert (1, 0, []) == (page["people"], page["read"], page["readers"])
    page = await receipts(api, 7, later)
    assert (2, 1, [9]) == (page["people"], page["read"], [one["mid"] for one in page["readers"]])


async def test_where_all_see_everything_newcomers_have_read_what_they_say_they_have(api: Place) -> None:
    await api.room(G, 7, history="all")
    seq = (await api.send(ROOM, 7, "hello")).json["seq"]
    for mid in (8, 9):
        await api.post(f"{ROOM}/members", json={"mid": mid})
    later = (await api.send(ROOM, 7, "later")).json["seq"]
    await read(api, 9, later)

    page = await receipts(api, 8, seq)
    assert (2, 1, [9]) == (page["people"], page["read"], [one["mid"] for one in page["readers"]])


async def test_who_left_is_no_reader_and_comes_back_as_none(api: Place) -> None:
    await api.room(G, 7, 8)
    seq = (await api.send(ROOM, 7, "hello")).json["seq"]
    await read(api, 8, seq)
    assert 1 == (await receipts(api, 7, seq))["read"]

    await api.post(f"{ROOM}/leave", mid=8, json={})
    assert (0, 0) == ((page := await receipts(api, 7, seq))["people"], page["read"])
    await api.post(f"{ROOM}/members", json={"mid": 8})
    assert (0, 0) == ((page := await receipts(api, 7, seq))["people"], page["read"])


@pytest.mark.parametrize("is_back", [False, True])
@pytest.mark.parametrize("before", ["_counts", "_readers"])
async def test_who_is_removed_while_it_asks_is_not_told_who_reads_after_that(
    api: Place, monkeypatch: pytest.MonkeyPatch, before: str, is_back: bool
) -> None:
    """Whether it comes before people are counted or before they are named. Who is in the room again may ask again."""
    await api.room(G, 7, 8, 9)
    seq = (await api.send(ROOM, 7, "hello")).json["seq"]
    looked_up, to_come = getattr(receipts_verbs, before), ["a kick"]

    async def reading(*asked: Any) -> Any:
        """Read after the membership was."""
        if to_come:
            to_come.clear()
            await api.delete(f"{ROOM}/members/9")
            await read(api, 8, seq)
            if is_back:
                await api.post(f"{ROOM}/members", json={"mid": 9})
            assert 1 == (await receipts(api, 7, seq))["read"], "the rows hold it"
        return await looked_up(*asked)

    monkeypatch.setattr(receipts_verbs, before, reading)

    told = await api.get(f"{ROOM}/messages/{seq}/receipts", mid=9)

    assert not to_come, "it has happened"
    assert ((503, "unavailable") if is_back else (404, "no_such_room")) == (told.status, told.code)


@pytest.mark.parametrize(("members", "is_told"), [(2, True), (3, True), (4, False)])
async def test_in_large_rooms_only_the_count_is_told(database_url: str, members: int, is_told: bool) -> None:
    async with serving(database_url, receipts_members_max=3) as api:
        await api.room(G, *range(1, members + 1))
        seq = (await api.send(ROOM, 1, "hello")).json["seq"]
        await read(api, 2, seq)

        page = await receipts(api, 1, seq)
        assert (members - 1, 1) == (page["people"], page["read"])
        assert is_told == ("readers" in page)


async def test_only_marks_that_go_forward_are_told(api: Place) -> None:
    await api.room(G, 7, 8)
    seqs = [(await api.send(ROOM, 7, "hello")).json["seq"] for _ in range(2)]

    for seq in (seqs[0], seqs[0], 1, seqs[1]):
        await read(api, 8, seq)

    assert [(G, 8, seqs[0]), (G, 8, seqs[1])] == api.marks


# --- live ----------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def telling(api: Place, *, members_max: int = 3) -> AsyncIterator[tuple[Receipts, list[tuple[str | None, Any]]]]:
    told: list[tuple[str | None, Any]] = []

    def push(message: Ephemeral) -> int:
        assert (0, "receipt") == (message.op, message.type)
        told.append((message.room, orjson.loads(message.payload)))
        return 1

    tells = Receipts(api.pool, push, members_max, gap_s=0.01)
    async with running(tells.run()):
        yield tells, told


async def test_of_many_marks_of_a_person_the_newest_is_told_and_only_in_small_rooms(api: Place) -> None:
    await api.room(G, 1, 2, 3)
    await api.room("group://large", 1, 2, 3, 4)
    async with telling(api) as (tells, told):
        for seq in (3, 9, 5):
            tells.marked(G, 2, seq)
            tells.marked("group://large", 2, seq)
            tells.marked("group://nowhere", 2, seq)
        tells.marked(G, 3, 4)
        await eventually(lambda: _is(bool(told)))

        assert [(G, {"room": G, "mid": 2, "seq": 9}), (G, {"room": G, "mid": 3, "seq": 4})] == told
        tells.marked(G, 2, 10)
        await eventually(lambda: _is(len(told) == 3))
        assert (0, 0) == (tells.waiting, tells.dropped)


async def test_of_too_many_marks_the_last_are_told_to_nobody(api: Place) -> None:
    tells = Receipts(api.pool, lambda _: 0, 3)

    for mid in range(MARKS_MAX + 2):
        tells.marked(G, mid, 1)
    tells.marked(G, 0, 2)

    assert (MARKS_MAX, 2) == (tells.waiting, tells.dropped)


async def test_a_read_mark_comes_to_the_others_and_is_stored_nowhere(data_dir: Path) -> None:
    async with server(data_dir) as at:
        async with (
            connect(f"ws://{at.ws}/ws", mid=7, key="phone") as one,
            connect(f"ws://{at.ws}/ws", mid=8, key="phone") as two,
        ):
            await one.join(G)
            await two.join(G)
            sent = await one.send(G, "hello")
            await two.mark_read(G, sent.seq)

            async with asyncio.timeout(20):
                told = await _receipt(one)

            assert {"room": G, "mid": 8, "seq": sent.seq} == told.body
            assert (0, 0, 0, G) == (told.position, told.seq, told.op, told.room)
            page = await one.history(G)
            assert "receipt" not in {stored.type for stored in page.events}


async def _receipt(client: Client) -> Event:
    async for event in client.events():
        if isinstance(event, Event) and event.type == "receipt":
            return event
    raise AssertionError("the client ended")


async def _is(so: bool) -> bool:
    return so
