"""Search: what is found, for whom, in which order, and at what cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientSession

from api.place import Place, bearer, serving
from imcore.client import connect
from imcore.events.reader import Head, Reader
from imcore.events.store import Draft, draft
from imcore.events.types import MESSAGE_OP, MESSAGE_PUSHED, ROOM, TEXT, Fact, MessageEdited, MessageRecalled
from imcore.projections import search as rows_of_search
from imcore.projections.rebuild import audit, rebuild
from imcore.projections.words import sought
from imcore.verbs import search
from projections.place import Place as Rows
from serving import serving as server
from waiting import eventually

G, H = "group://1", "group://2"
ROOM_1, ROOM_2 = "/v1/rooms/group/1", "/v1/rooms/group/2"


async def found(api: Place, mid: int, q: str, query: str = "", **rest: Any) -> Any:
    """A page; the rows have everything."""
    await api.followed()
    told = await api.get(f"/v1/search?q={quote(q, safe='')}{query}", mid=mid, **rest)
    assert 200 == told.status, told.raw
    return told.json


async def seqs(api: Place, mid: int, q: str, query: str = "") -> list[int]:
    page = await found(api, mid, q, query)
    assert page["complete"] is True
    return [hit["seq"] for hit in page["hits"]]


async def happen(api: Place, fact: Fact, mid: int) -> None:
    await Rows("", api.pool, api.log, api.reads.reader).happen(draft(ROOM + G, fact, mid))


async def test_a_message_is_found_by_its_words_with_its_place(api: Place) -> None:
    await api.room(G, 7, 8)
    sent = (await api.send(ROOM_1, 7, {"text": "Shall we meet at the Station tomorrow?"})).json
    await api.send(ROOM_1, 8, "no")

    page = await found(api, 8, "station SHALL tomo")

    (hit,) = page["hits"]
    assert hit.pop("time") > 1_700_000_000_000
    assert {
        "room": G, "seq": sent["seq"], "position": sent["position"], "mid": 7, "snippet": "Shall we meet at the Station tomorrow?",
    } == hit  # fmt: skip
    assert {"hits", "complete"} == page.keys()


async def test_chinese_is_found_by_any_characters_that_stand_together(api: Place) -> None:
    await api.room(G, 7)
    (first, second) = [
        (await api.send(ROOM_1, 7, text)).json["seq"] for text in ("我们用中文聊天", "中国的文化，用中国字写文章")
    ]

    assert [first] == await seqs(api, 7, "中文")
    assert [second, first] == await seqs(api, 7, "用中")
    assert [first] == await seqs(api, 7, "用中文聊")
    assert [second, first] == await seqs(api, 7, "文")
    assert [] == await seqs(api, 7, "中聊")


async def test_the_newest_come_first_in_pages(api: Place) -> None:
    await api.room(G, 7)
    await api.room(H, 7)
    places = [(await api.send((ROOM_1, ROOM_2)[n % 2], 7, f"hello {n}")).json["position"] for n in range(7)]

    first = await found(api, 7, "hello", "&limit=3")
    second = await found(api, 7, "hello", f"&limit=3&before={first['next']}")
    third = await found(api, 7, "hello", f"&limit=3&before={second['next']}")

    assert places[::-1] == [hit["position"] for page in (first, second, third) for hit in page["hits"]]
    assert "next" not in third


async def test_who_said_it_and_where_may_be_asked_for(api: Place) -> None:
    await api.room(G, 7, 8)
    await api.room(H, 7, 8)
    in_g = (await api.send(ROOM_1, 7, "hello")).json["seq"]
    by_8 = (await api.send(ROOM_2, 8, "hello")).json["seq"]
    both = (await api.send(ROOM_2, 7, "hello")).json["seq"]

    assert [both, in_g] == await seqs(api, 7, "hello", "&by=7")
    assert [both, by_8] == await seqs(api, 7, "hello", f"&room={quote(H, safe='')}")
    assert [both] == await seqs(api, 7, "hello", f"&by=7&room={quote(H, safe='')}")


async def test_only_what_one_sees_is_found(api: Place) -> None:
    """From the join on, or all of it where the room shows that; nothing any more after a kick, and nothing of others' rooms."""
    await api.room(G, 7)
    await api.room(H, 7, history="all")
    for room in (ROOM_1, ROOM_2):
        await api.send(room, 7, "secret early")
        await api.post(f"{room}/members", json={"mid": 8})
        await api.send(room, 7, "secret late")

    early, late = [(hit["room"], hit["snippet"]) for hit in (await found(api, 8, "secret"))["hits"]], "secret late"
    assert [(H, late), (H, "secret early"), (G, late)] == early
    assert [] == await seqs(api, 9, "secret")
    hidden = await api.get(f"/v1/search?q=secret&room={quote(G, safe='')}", mid=9)
    nowhere = await api.get("/v1/search?q=secret&room=group%3A%2F%2Fnowhere", mid=9)
    assert (404, "no_such_room") == (hidden.status, hidden.code) == (nowhere.status, nowhere.code)

    await api.delete(f"{ROOM_2}/members/8")
    assert [G] == [hit["room"] for hit in (await found(api, 8, "secret"))["hits"]]
    await api.delete(f"{ROOM_1}/members/8")
    assert [] == await seqs(api, 8, "secret")
    await api.post(f"{ROOM_1}/members", json={"mid": 8})
    assert [] == await seqs(api, 8, "secret"), "a second join shows nothing of the first"


@pytest.mark.parametrize("moment", ["before the head is read", "while the rows are waited for"])
async def test_what_is_said_after_a_kick_is_not_found_however_the_two_race(
    api: Place, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    await api.room(G, 7, 8)
    await api.send(ROOM_1, 7, "secret early")
    await api.followed()
    head, searched = Reader.head, api.reads.searched
    assert searched is not None
    to_come = [moment]

    async def at(now: str) -> None:
        if now in to_come:
            to_come.clear()
            await api.delete(f"{ROOM_1}/members/8")
            await api.send(ROOM_1, 7, "secret late")
            await api.followed()

    async def reading(reader: Reader) -> Head:
        await at("before the head is read")
        return await head(reader)

    async def waiting(position: int, timeout_s: float) -> bool:
        await at("while the rows are waited for")
        return await searched(position, timeout_s)

    monkeypatch.setattr(Reader, "head", reading)
    object.__setattr__(api.reads, "searched", waiting)

    page = (await api.get("/v1/search?q=secret", mid=8)).json
    assert not to_come, "it has happened"
    assert "secret late" not in [hit["snippet"] for hit in page["hits"]]
    assert ["secret late", "secret early"] == [hit["snippet"] for hit in (await found(api, 7, "secret"))["hits"]]


async def test_a_token_for_some_rooms_finds_in_those_only(database_url: str) -> None:
    async with serving(database_url, auth_mode="jwt") as api:
        await api.room(G, 7)
        await api.room(H, 7)
        for room in (ROOM_1, ROOM_2):
            await api.send(room, 7, "hello")
        await api.followed()

        page = await api.get("/v1/search?q=hello", headers=bearer(mid=7, rooms=[H]))
        assert [H] == [hit["room"] for hit in page.json["hits"]]


async def test_an_edited_message_is_found_as_it_reads_now_and_a_recalled_one_never(api: Place) -> None:
    await api.room(G, 7)
    first, second = [(await api.send(ROOM_1, 7, text)).json["seq"] for text in ("old words", "old too")]
    image = (await api.send(ROOM_1, 7, {"url": "x.png"})).json["seq"]

    await happen(api, MessageEdited(room=G, target=first, body={"text": "new words"}), 7)
    await happen(api, MessageEdited(room=G, target=image, body={"url": "x.png", "caption": "new picture"}), 7)

    assert [second] == await seqs(api, 7, "old")
    assert [image, first] == await seqs(api, 7, "new")
    assert "new picture" == (await found(api, 7, "picture"))["hits"][0]["snippet"]
    await happen(api, MessageRecalled(room=G, target=first, author=7), 7)
    assert [image] == await seqs(api, 7, "new")
    assert [] == await seqs(api, 7, "words")


async def test_what_a_backend_pushed_to_a_room_is_found(api: Place) -> None:
    await api.room(G, 7)
    pushed = Draft(ROOM + G, MESSAGE_PUSHED, "plain news", 0, op=MESSAGE_OP, format_=TEXT)
    (event,) = await api.append(pushed)

    assert [event.seq] == await seqs(api, 7, "news")


@pytest.mark.parametrize(
    "q",
    ["&", "| !", "<->", ":*", "()", "'", '"', "\\", "%", "_", "@", "@group://1", "👍", " ", "$$", ";--", "\u0301"],
)
async def test_what_is_no_word_is_refused_or_is_only_what_separates_words(api: Place, q: str) -> None:
    await api.room(G, 7)
    (seq,) = [(await api.send(ROOM_1, 7, "a 50% hello group")).json["seq"]]

    if q != "@group://1":
        assert [seq] == await seqs(api, 7, f"hello {q} gro")
    told = await api.get(f"/v1/search?q={quote(q, safe='')}", mid=7)
    if q == "@group://1":
        assert (200, []) == (
            told.status,
            told.json["hits"],
        )  # words that are not there; and no room is found by its name
    else:
        assert (400, "bad_request", "q has no word in it") == (told.status, told.code, told.json["detail"])


@pytest.mark.parametrize(
    "query",
    [
        "", "q=", "q=" + "a" * 257, "q=" + "a" * 5_000, "q=%00", "q=a%00b", "q=%ED%A0%80", "q=%FF", "q=a%0Ab", "q=a&q=b",
        "q=a&limit=0", "q=a&limit=-1", "q=a&limit=51", "q=a&limit=1000000000", "q=a&before=0", "q=a&before=-1",
        "q=a&before=9223372036854775808",
        "q=a&before=x", "q=a&room=nowhere", "q=a&by=x", "q=a&by=1.0", "q=a&colour=red", "q=a&room=group%3A%2F%2F%00",
    ],
)  # fmt: skip
async def test_what_is_asked_for_wrongly_is_refused(api: Place, query: str) -> None:
    told = await api.get(f"/v1/search?{query}", mid=7)
    assert 400 == told.status
    assert told.code in ("bad_request", "invalid_text")


async def test_a_service_is_in_no_room_and_finds_nothing(api: Place) -> None:
    assert 403 == (await api.get("/v1/search?q=a")).status


async def test_where_search_is_off_it_is_said(database_url: str) -> None:
    async with serving(database_url, search=False) as api:
        told = await api.get("/v1/search?q=a", mid=7)
        assert (405, "not_allowed") == (told.status, told.code)


async def test_a_server_finds_what_was_sent_to_it(data_dir: Path) -> None:
    async with server(data_dir) as at, connect(f"ws://{at.ws}/ws", mid=7) as client, ClientSession() as session:
        await client.join(G)
        sent = await client.send(G, {"text": "我们用中文聊天"})

        async def search_for(q: str) -> list[int]:
            async with session.get(f"http://{at.http}/v1/search", params={"q": q}, headers={"Imcore-Mid": "7"}) as told:
                assert 200 == told.status
                return [hit["seq"] for hit in (await told.json())["hits"]]

        assert [sent.seq] == await eventually(lambda: search_for("中文"))
        async with session.get(f"http://{at.http}/metrics") as told:
            assert "imcore_search_lag_events" in await told.text()


# --- what it costs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def few_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "RECENT", 5)


async def test_a_message_of_before_a_kick_is_not_found_by_its_words_of_after_it(
    api: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search was under way, and knew that its asker was a member."""
    await api.room(G, 7, 8)
    seq = (await api.send(ROOM_1, 7, "secret early")).json["seq"]
    await api.followed()
    read, to_come = search._as_they_read_now, ["a kick"]

    async def reading(*asked: Any) -> list[search.Found]:
        if to_come:
            to_come.clear()
            await api.delete(f"{ROOM_1}/members/8")
            await api.ask("PUT", f"{ROOM_1}/messages/{seq}", mid=7, json={"body": "secret late"})
            await api.followed()
        return await read(*asked)

    monkeypatch.setattr(search, "_as_they_read_now", reading)

    page = (await api.get("/v1/search?q=secret", mid=8)).json
    assert not to_come, "it has happened"
    assert ["secret early"] == [hit["snippet"] for hit in page["hits"]]
    assert ["secret late"] == [hit["snippet"] for hit in (await found(api, 7, "secret"))["hits"]]


@pytest.mark.usefixtures("few_recent")
@pytest.mark.parametrize("rooms_max", [500, 0])
async def test_what_is_old_is_found_by_the_index_without_holes_between(
    api: Place, monkeypatch: pytest.MonkeyPatch, rooms_max: int
) -> None:
    monkeypatch.setattr(search, "ROOMS_SOUGHT_MAX", rooms_max)
    await api.room(G, 7)
    await api.room(H, 8)
    expected: list[int] = []
    for n in range(40):
        await api.send(ROOM_2, 8, "rare common")
        sent = (await api.send(ROOM_1, None, "rare common" if n % 10 == 3 else "common")).json
        if n % 10 == 3:
            expected.append(sent["position"])

    assert expected[::-1] == [hit["position"] for hit in (await found(api, 7, "rare"))["hits"]]
    for query in ("", f"&room={quote(G, safe='')}"):
        pages, before = list[int](), ""
        while True:
            page = await found(api, 7, "rare comm", f"&limit=1{query}{before}")
            pages += [hit["position"] for hit in page["hits"]]
            if "next" not in page:
                break
            before = f"&before={page['next']}"
        assert expected[::-1] == pages
        assert 40 == len((await found(api, 7, "common", f"&limit=50{query}"))["hits"])


@pytest.mark.usefixtures("few_recent")
async def test_when_it_takes_too_long_there_is_what_was_found_and_where_to_go_on(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        search,
        "LOOK_UP",
        search.LOOK_UP.replace("s.seq >= mine.first", "s.seq >= mine.first AND pg_sleep(60) IS NOT NULL"),
    )
    async with serving(database_url, search_s=0.05) as api:
        await api.room(G, 7)
        places = [(await api.send(ROOM_1, None, "hello")).json["position"] for _ in range(8)]

        first = await found(api, 7, "hello")
        assert (False, places[:2:-1]) == (first["complete"], [hit["position"] for hit in first["hits"]])
        rest = await found(api, 7, "hello", f"&before={first['next']}")
        assert (True, places[2::-1]) == (rest["complete"], [hit["position"] for hit in rest["hits"]])


async def test_rows_that_are_behind_are_said_to_be(database_url: str) -> None:
    async with serving(database_url) as api:
        await api.room(G, 7)
        await api.send(ROOM_1, 7, "hello")
        await api.followed()
        api.tasks[2].cancel()  # the runner of search
        await api.send(ROOM_1, 7, "hello")

        page = (await api.get("/v1/search?q=hello", mid=7)).json
        assert (False, 1) == (page["complete"], len(page["hits"]))


async def test_rows_are_folded_again_with_what_messages_say(api: Place) -> None:
    await api.room(G, 7)
    await api.send(ROOM_1, 7, "hello")
    await happen(api, MessageEdited(room=G, target=3, body="hello again"), 7)
    await api.followed()
    rows = Rows("", api.pool, api.log, api.reads.reader)
    right = await rows.rows(rows_of_search.projection)
    await api.pool.execute("UPDATE search SET words = '{wrong}'")

    assert 1 == len((await audit(api.pool, rows_of_search.projection)).differences)
    await rebuild(api.pool, rows_of_search.projection)

    assert [] == (await audit(api.pool, rows_of_search.projection)).differences
    assert right == await rows.rows(rows_of_search.projection)
    assert [3] == await seqs(api, 7, "again")


# So many messages of 300 rooms; every word in one of 300, in one of 10, or in all.
MANY = """
INSERT INTO search (room, seq, mid, time_ms, position, text_at, words)
SELECT 'group://' || n % 300, n / 300 + 1, n % 100, n, n, n, ARRAY['all', 'tenth' || n % 10, 'rare' || n % 299]
FROM generate_series(1, 30000) n
"""


async def test_looking_reads_no_more_than_it_should(api: Place) -> None:
    await api.pool.execute(MANY)
    await api.pool.execute("VACUUM ANALYZE search")
    rooms, firsts = [f"group://{n}" for n in range(20)], [1] * 20
    rare, everything = sought("rare7x")._replace(beginnings=(), words=("rare7",)), sought("all")

    async with api.pool.acquire() as connection, connection.transaction():
        plan = await _plan(connection, search.LOOK_THROUGH, rooms, firsts, 2**60, 2_000, everything.tsquery(), None, 21)
        assert "search_position_idx" in plan
        assert "Seq Scan on search" not in plan
        plan = await _plan(
            connection, search.LOOK_THROUGH_ROOM, rooms[:1], [1], 2**60, 50, everything.tsquery(), None, 21
        )
        assert "search_pkey" in plan
        await connection.execute("SET LOCAL enable_seqscan = off")
        plan = await _plan(connection, search.LOOK_UP, rooms, firsts, 2**60, rare.tsquery(rooms=tuple(rooms)), None, 21)
        assert "search_words_idx" in plan
        rows = await connection.fetch(search.LOOK_UP, rooms, firsts, 2**60, rare.tsquery(rooms=tuple(rooms)), None, 21)
        assert 0 < len(rows) < 21


async def _plan(connection: Any, query: str, *arguments: object) -> str:
    return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {query}", *arguments))


async def test_of_a_dismissed_room_nothing_is_found_or_done(api: Place) -> None:
    await api.room(G, 7)
    seq = (await api.send(ROOM_1, 7, "hello")).json["seq"]
    assert [seq] == await seqs(api, 7, "hello")

    assert 200 == (await api.delete(ROOM_1)).status

    assert [] == await seqs(api, 7, "hello")
    for path in (f"messages/{seq}/reactions/ok", f"pins/{seq}"):
        assert (404, "no_such_room") == ((told := await api.put(f"{ROOM_1}/{path}", mid=7)).status, told.code)
    assert 404 == (await api.get(f"{ROOM_1}/messages/{seq}/receipts", mid=7)).status


async def test_what_was_edited_or_recalled_a_moment_ago_is_found_as_it_reads_now(api: Place) -> None:
    """However far the rows are behind."""
    await api.room(G, 7)
    edited, recalled = [(await api.send(ROOM_1, 7, text)).json["seq"] for text in ("old news", "old secret")]
    await api.followed()
    api.tasks[2].cancel()  # the runner of search
    await api.ask("PUT", f"{ROOM_1}/messages/{edited}", mid=7, json={"body": "new old news"})
    await api.delete(f"{ROOM_1}/messages/{recalled}", mid=7)

    page = (await api.get("/v1/search?q=old", mid=7)).json
    assert [(edited, "new old news")] == [(hit["seq"], hit["snippet"]) for hit in page["hits"]]
    await api.ask("PUT", f"{ROOM_1}/messages/{edited}", mid=7, json={"body": "nothing"})
    assert [] == (await api.get("/v1/search?q=old", mid=7)).json["hits"]
