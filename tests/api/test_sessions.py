"""One's own sessions, inbox and read marks over HTTP."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from api.place import Place, serving
from imcore import commands
from imcore.api.app import Services

ROOM_1 = "/v1/rooms/group/1"


async def test_the_inbox_shows_what_is_unread_at_once(api: Place) -> None:
    """No waiting here: whoever has been answered sees it."""
    await api.room("group://1", 7, 8)
    await api.room("group://2", 7)
    for text in ("one", "two", "three"):
        await api.send(ROOM_1, 8, text)
    await api.send(ROOM_1, 7, "mine")

    page = (await api.get("/v1/inbox", mid=7)).json

    assert ["group://1", "group://2"] == [line["room"] for line in page["rooms"]]
    first, second = page["rooms"]
    assert (7, 2, 3, "member") == (first["head"], first["read"], first["unread"], first["role"])
    assert ("mine", 7) == (first["last"]["body"], first["last"]["seq"])
    assert (2, 0, None) == (second["head"], second["unread"], second["last"])
    assert "next" not in page


async def test_a_mark_takes_away_what_it_covers_and_never_goes_back(api: Place) -> None:
    await api.room("group://1", 7, 8)  # seq 1 to 3
    for _ in range(5):
        await api.send(ROOM_1, 8, "x")  # seq 4 to 8

    assert (await api.put(f"{ROOM_1}/read", mid=7, json={"seq": 6})).json == {
        "room": "group://1",
        "seq": 6,
        "unread": 2,
    }
    head = (await api.reads.reader.head()).position
    assert (await api.put(f"{ROOM_1}/read", mid=7, json={"seq": 4})).json == {
        "room": "group://1",
        "seq": 6,
        "unread": 2,
    }
    assert (await api.put(f"{ROOM_1}/read", mid=7, json={"seq": 6})).json["seq"] == 6
    assert head == (await api.reads.reader.head()).position  # a mark that goes back is no event
    beyond = await api.put(f"{ROOM_1}/read", mid=7, json={"seq": 2**63 - 1})
    assert beyond.json == {"room": "group://1", "seq": 8, "unread": 0}
    assert (await api.get("/v1/inbox", mid=7)).json["rooms"][0]["unread"] == 0


async def test_marks_of_many_devices_settle_at_the_furthest(api: Place) -> None:
    await api.room("group://1", 7, 8)
    for _ in range(10):
        await api.send(ROOM_1, 8, "x")

    answers = await asyncio.gather(
        *(api.put(f"{ROOM_1}/read", mid=7, json={"seq": seq}) for seq in (5, 12, 3, 9, 13, 7))
    )

    assert all(answer.status == 200 for answer in answers)
    assert (await api.get("/v1/inbox", mid=7)).json["rooms"][0]["read"] == 13


async def test_the_inbox_comes_in_pages(api: Place) -> None:
    for n in range(5):
        await api.room(f"group://{n}", 7)

    first = (await api.get("/v1/inbox?limit=2", mid=7)).json
    second = (await api.get(f"/v1/inbox?limit=2&after={first['next']}", mid=7)).json
    third = (await api.get(f"/v1/inbox?limit=2&after={second['next']}", mid=7)).json

    assert ["0", "1", "2", "3", "4"] == [
        line["room"].removeprefix("group://") for page in (first, second, third) for line in page["rooms"]
    ]
    assert "next" not in third


async def test_whose_inbox(api: Place) -> None:
    await api.room("group://1", 7)

    assert (await api.get("/v1/inbox?mid=7")).json["rooms"][0]["room"] == "group://1"
    assert (await api.get("/v1/inbox")).status == 400
    assert (await api.get("/v1/inbox?mid=7", mid=8)).status == 403
    assert (await api.get("/v1/inbox?mid=8", mid=8)).json == {"rooms": []}
    assert (await api.put(f"{ROOM_1}/read", json={"seq": 1})).status == 403


async def test_an_inbox_that_does_not_follow_is_not_shown(database_url: str) -> None:
    async def never(position: int, timeout_s: float) -> bool:
        return False

    def stuck(services: Services) -> Services:
        return replace(services, means=replace(services.means, reads=replace(services.reads, reached=never)))

    async with serving(database_url, wrap=stuck) as api:
        await api.room("group://1", 7)
        answers = [await api.get("/v1/inbox", mid=7), await api.put(f"{ROOM_1}/read", mid=7, json={"seq": 9})]

    assert [(503, "unavailable")] * 2 == [(answer.status, answer.code) for answer in answers]
    assert [True, True] == [answer.json["retry"] for answer in answers]
    assert answers[0].headers["Retry-After"] == "1"


async def test_a_mark_is_an_integer(api: Place) -> None:
    await api.room("group://1", 7)
    for seq in [-1, 2**63, True, "1", 1.0, None]:
        assert (await api.put(f"{ROOM_1}/read", mid=7, json={"seq": seq})).status == 400


async def test_bad_questions_about_an_inbox(api: Place) -> None:
    for query in [
        "limit=0",
        "limit=501",
        "after=%00",
        "after=" + "x" * 161,
        "mid=x",
        "mid=7&mid=8",
        "mid=9223372036854775808",
    ]:
        assert (await api.get(f"/v1/inbox?{query}")).status == 400


# --- sessions ---


async def open_session(api: Place, mid: int, key: str) -> None:
    await api.pool.execute(
        """INSERT INTO nodes (node, hostname, address, tcp_port, ws_port, wss_port, region, weight, connections, addresses,
             started_at, lease_until, lease_s)
           VALUES ('n', 'n', '', 0, 0, 0, '', 1, 0, 0, now(), now() + interval '1 hour', 3600) ON CONFLICT DO NOTHING"""
    )
    await api.append(
        commands.open_session(mid, key, node="n", platform="web", address="10.0.0.1", rooms=["live://1"], protocol="v2")
    )
    await api.followed()


async def test_a_service_sees_who_is_online(api: Place) -> None:
    await open_session(api, 7, "phone")
    await open_session(api, 7, "laptop")
    await open_session(api, 8, "phone")

    found = (await api.get("/v1/sessions?mid=8&mid=7&mid=9&mid=7")).json["sessions"]

    assert [(8, "phone"), (7, "laptop"), (7, "phone")] == [(one["mid"], one["key"]) for one in found]
    assert found[0].pop("opened_at_ms") > 1_700_000_000_000
    assert found[0] == {
        "mid": 8, "key": "phone", "platform": "web", "rooms": ["live://1"], "node": "n", "address": "10.0.0.1",
    }  # fmt: skip


async def test_a_person_sees_its_own_sessions_only(api: Place) -> None:
    await open_session(api, 7, "phone")

    assert len((await api.get("/v1/sessions", mid=7)).json["sessions"]) == 1
    assert len((await api.get("/v1/sessions?mid=7", mid=7)).json["sessions"]) == 1
    assert (await api.get("/v1/sessions?mid=7&mid=8", mid=7)).status == 403
    assert (await api.get("/v1/sessions?mid=7", mid=8)).status == 403
    assert (await api.get("/v1/sessions")).status == 400


async def test_bad_questions_about_sessions(api: Place) -> None:
    for query in ["mid=", "mid=x", "mid=1.0", "mid=9223372036854775808", "mid=1&mid=true"]:
        assert (await api.get(f"/v1/sessions?{query}")).status == 400


async def test_no_more_people_than_a_page(api: Place) -> None:
    many = "&".join(f"mid={n}" for n in range(1, 502))

    assert (await api.get(f"/v1/sessions?{many}")).status == 400
    assert (await api.get(f"/v1/sessions?{many.rpartition('&')[0]}")).status == 200


async def test_own_messages_are_never_unread_while_they_are_sent(api: Place) -> None:
    """The head of the room moves with the commit and the rows of the inbox a moment later; between the two the log is asked."""
    await api.room("group://alone", 7)

    for _ in range(30):
        _, inbox = await asyncio.gather(
            api.send("/v1/rooms/group/alone", 7, {"text": "hello"}), api.get("/v1/inbox", mid=7)
        )
        assert 0 == inbox.json["rooms"][0]["unread"]
