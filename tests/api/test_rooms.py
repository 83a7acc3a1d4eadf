"""Rooms over HTTP: who may do what, and that nobody learns of a room that is not theirs."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import quote

import pytest

from api.place import Answer, Place, bearer, serving
from imcore.events.types import ROOM

ROOM_1 = "/v1/rooms/group/1"
OWNER, ADMIN, MEMBER, STRANGER = 1, 2, 3, 4


@pytest.fixture
async def room(api: Place) -> Place:
    """A private room with an owner, an admin and a member."""
    await fill(api, "1")
    return api


async def fill(api: Place, name: str) -> None:
    path = f"/v1/rooms/group/{name}"
    made = [
        await api.post("/v1/rooms", mid=OWNER, json={"room": f"group://{name}", "public": False}),
        await api.post(f"{path}/members", mid=OWNER, json={"mid": ADMIN, "role": "admin"}),
        await api.post(f"{path}/members", mid=ADMIN, json={"mid": MEMBER}),
    ]
    assert [201] * 3 == [answer.status for answer in made]


async def types(api: Place) -> list[str]:
    return [event.type for event in await api.reads.reader.read(0)]


async def test_a_room_is_made_with_its_members(api: Place) -> None:
    made = await api.post(
        "/v1/rooms", mid=9, json={"room": "group://1", "members": [7, 8, 7], "title": "Büro", "history": "all"}
    )

    assert (201, {"room": "group://1", "position": 4, "seq": 4}) == (made.status, made.json)
    shown = (await api.get(ROOM_1, mid=9)).json
    assert shown.pop("me") == {"role": "owner", "since": 2, "since_seq": 2, "muted_until_ms": 0}
    assert shown == {
        "room": "group://1", "live": False, "public": True, "history": "all", "title": "Büro", "members": 3, "created": 1,
        "creator": 9, "head": 4, "kind": "public", "topic": "", "approval": False, "writers": "members", "slow_mode_s": 0,
        "members_max": 0, "muted_until_ms": 0, "owners": [9], "standing": "owner",
    }  # fmt: skip
    again = await api.post("/v1/rooms", mid=9, json={"room": "group://1"})
    assert (409, "room_exists") == (again.status, again.code)


async def test_names_are_percent_encoded_utf8(api: Place) -> None:
    for name in ("群/1", "a%2Fb", "{x}", "..", "a?b#c", "é", "%", "~"):
        await api.room(f"group://{name}")
        assert (await api.get(f"/v1/rooms/group/{quote(name, safe='')}")).json["room"] == f"group://{name}"


async def test_a_service_makes_a_room_without_an_owner(api: Place) -> None:
    await api.room("group://1", 7)

    assert (await api.get(f"{ROOM_1}/members")).json["members"] == [
        {"mid": 7, "role": "member", "since": 2, "online": False}
    ]


# --- who may do what ---

DEEDS: dict[str, tuple[str, str, Any]] = {
    "show": ("GET", ROOM_1, None),
    "list": ("GET", f"{ROOM_1}/members", None),
    "history": ("GET", f"{ROOM_1}/messages", None),
    "add": ("POST", f"{ROOM_1}/members", {"mid": 99}),
    "add an admin": ("POST", f"{ROOM_1}/members", {"mid": 99, "role": "admin"}),
    "kick a member": ("DELETE", f"{ROOM_1}/members/{MEMBER}", None),
    "kick an admin": ("DELETE", f"{ROOM_1}/members/{ADMIN}", None),
    "kick the owner": ("DELETE", f"{ROOM_1}/members/{OWNER}", None),
    "promote": ("PUT", f"{ROOM_1}/members/{MEMBER}/role", {"role": "admin"}),
    "enthrone": ("PUT", f"{ROOM_1}/members/{MEMBER}/role", {"role": "owner"}),
    "mute": ("PUT", f"{ROOM_1}/members/{MEMBER}/mute", {"until_ms": 1}),
    "mute the owner": ("PUT", f"{ROOM_1}/members/{OWNER}/mute", {"until_ms": 1}),
    "join": ("POST", f"{ROOM_1}/join", None),
    "leave": ("POST", f"{ROOM_1}/leave", None),
    "read": ("PUT", f"{ROOM_1}/read", {"seq": 1}),
}
#                  owner admin member stranger service
MAY = {
    "show":           (200, 200, 200, 404, 200),
    "list":           (200, 200, 200, 404, 200),
    "history":        (200, 200, 200, 404, 200),
    "add":            (201, 201, 403, 404, 201),
    "add an admin":   (201, 403, 403, 404, 201),
    "kick a member":  (200, 200, 403, 404, 200),
    "kick an admin":  (200, 403, 403, 404, 200),
    "kick the owner": (403, 403, 403, 404, 200),
    "promote":        (200, 403, 403, 404, 200),
    "enthrone":       (403, 403, 403, 404, 200),
    "mute":           (200, 200, 403, 404, 200),
    "mute the owner": (403, 403, 403, 404, 200),
    "join":           (200, 200, 200, 404, 400),
    "leave":          (403, 200, 200, 404, 400),
    "read":           (200, 200, 200, 404, 403),
}  # fmt: skip
ROLES = (OWNER, ADMIN, MEMBER, STRANGER, None)


async def test_everybody_does_what_their_rank_allows(database_url: str) -> None:
    async with serving(database_url, rate_limits=False) as api:
        for deed, (method, path, body) in DEEDS.items():
            for number, (who, status) in enumerate(zip(ROLES, MAY[deed], strict=True)):
                name = f"{deed} {number}".replace(" ", "-")
                await fill(api, name)

                answer = await api.ask(method, path.replace("/group/1", f"/group/{name}"), mid=who, json=body)

                assert status == answer.status, (deed, who, answer.raw)


async def test_not_there_and_not_yours_are_the_same_to_the_byte(guarded: Place) -> None:
    """With tokens; in mode open a join makes the room, and shows so that it was not there."""
    await guarded.room("group://1", OWNER, ADMIN, MEMBER, public=False)
    for deed, (method, path, body) in DEEDS.items():
        yours = await guarded.ask(method, path, mid=STRANGER, json=body)
        none = await guarded.ask(method, path.replace("/group/1", "/group/none"), mid=STRANGER, json=body)

        assert (404, "no_such_room") == (yours.status, yours.code), deed
        assert (yours.status, yours.raw) == (none.status, none.raw), deed
        assert headers(yours) == headers(none), deed


def headers(answer: Answer) -> dict[str, str]:
    """All but what time it is and how many requests the caller has left, which goes down with each."""
    return {name: "" if name in ("Date", "RateLimit") else value for name, value in answer.headers.items()}


async def test_who_was_removed_is_a_stranger(room: Place) -> None:
    await room.delete(f"{ROOM_1}/members/{MEMBER}", mid=OWNER)

    for deed, (method, path, body) in DEEDS.items():
        assert (await room.ask(method, path, mid=MEMBER, json=body)).status == 404, deed


async def test_an_unknown_target_is_not_a_missing_room(room: Place) -> None:
    assert (await room.delete(f"{ROOM_1}/members/99", mid=OWNER)).status == 400
    assert (await room.delete(f"{ROOM_1}/members/99")).status == 404


# --- joining ---


async def test_joining_twice_is_joining_once(api: Place) -> None:
    await api.room("group://1")

    first, second = [await api.post(f"{ROOM_1}/join", mid=7) for _ in range(2)]

    assert (201, {"position": 2, "seq": 2}) == (first.status, first.json)
    assert (200, {"position": 2, "seq": 2, "duplicate": True}) == (second.status, second.json)
    assert ["room_created", "member_joined"] == await types(api)


async def test_twenty_joins_at_once_are_one(api: Place) -> None:
    await api.room("group://1")

    answers = await asyncio.gather(*(api.post(f"{ROOM_1}/join", mid=7) for _ in range(20)))

    assert [200] * 19 + [201] == sorted(answer.status for answer in answers)
    assert {(2, 2)} == {(answer.json["position"], answer.json["seq"]) for answer in answers}


async def test_a_service_acts_for_whom_it_names(api: Place) -> None:
    await api.room("group://1")

    assert (await api.post(f"{ROOM_1}/join", json={"mid": 7})).status == 201
    assert (await api.post(f"{ROOM_1}/leave", json={"mid": 7})).status == 200
    assert (await api.post(f"{ROOM_1}/join", json={"mid": 0})).status == 400
    assert (await api.post(f"{ROOM_1}/join", mid=8, json={"mid": 7})).status == 403
    assert (await api.post(f"{ROOM_1}/join", mid=8, json={"mid": 8})).status == 201


async def test_a_token_limits_the_rooms_and_what_may_be_made(guarded: Place) -> None:
    for_all = bearer(mid=7)
    for_one = bearer(mid=7, rooms=["group://1"])
    for_type = bearer(mid=7, rooms=["group://*"])

    async def join(room: str, token: dict[str, str]) -> int:
        return (await guarded.post(f"/v1/rooms/group/{room}/join", headers=token)).status

    assert 404 == await join("1", for_all)
    assert 404 == await join("1", for_type)
    assert 404 == await join("2", for_one)
    assert 201 == await join("1", for_one)
    assert 200 == await join("1", for_all)
    assert 403 == (await guarded.post("/v1/rooms", headers=for_all, json={"room": "group://3"})).status
    assert 403 == (await guarded.post("/v1/rooms", headers=for_one, json={"room": "group://3"})).status
    named = bearer(mid=7, rooms=["group://3"])
    assert 201 == (await guarded.post("/v1/rooms", headers=named, json={"room": "group://3"})).status
    assert 201 == (await guarded.post("/v1/rooms", json={"room": "group://4"})).status


async def test_live_rooms_are_not_made_and_have_no_members(api: Place) -> None:
    live = "/v1/rooms/live/1"
    refused = [
        await api.post("/v1/rooms", json={"room": "live://1"}),
        await api.post(f"{live}/join", mid=7),
        await api.post(f"{live}/leave", mid=7),
        await api.get(f"{live}/members", mid=7),
        await api.post(f"{live}/members", json={"mid": 7}),
        await api.delete(f"{live}/members/7"),
        await api.put(f"{live}/members/7/role", json={"role": "admin"}),
        await api.put(f"{live}/members/7/mute", json={"until_ms": 1}),
        await api.put(f"{live}/read", mid=7, json={"seq": 1}),
    ]

    assert [400] * len(refused) == [answer.status for answer in refused]
    assert [] == await types(api)
    assert (await api.get(live, mid=7)).json == {
        "room": "live://1", "live": True, "public": True, "history": "all", "head": 0, "online": 0,
    }  # fmt: skip


async def test_types_of_live_rooms_are_a_setting(database_url: str) -> None:
    async with serving(database_url, live_room_types=("stage",)) as api:
        assert (await api.post("/v1/rooms", json={"room": "stage://1"})).status == 400
        assert (await api.post("/v1/rooms", json={"room": "live://1"})).status == 201


# --- members ---


async def test_members_come_in_pages(api: Place) -> None:
    await api.room("group://1", *range(1, 8))

    first = (await api.get(f"{ROOM_1}/members?limit=3", mid=1)).json
    second = (await api.get(f"{ROOM_1}/members?limit=3&after={first['next']}", mid=1)).json
    third = (await api.get(f"{ROOM_1}/members?limit=3&after={second['next']}", mid=1)).json

    assert [[1, 2, 3], [4, 5, 6], [7]] == [[one["mid"] for one in page["members"]] for page in (first, second, third)]
    assert "next" not in third


async def test_a_muted_member_does_not_send_until_the_time_has_come(room: Place) -> None:
    now_ms = int(time.time() * 1000)
    await room.put(f"{ROOM_1}/members/{MEMBER}/mute", mid=ADMIN, json={"until_ms": now_ms + 600_000})
    muted = await room.send(ROOM_1, MEMBER, "hello")
    await room.put(f"{ROOM_1}/members/{MEMBER}/mute", mid=ADMIN, json={"until_ms": 0})
    again = await room.send(ROOM_1, MEMBER, "hello")

    assert (403, "muted", 201) == (muted.status, muted.code, again.status)


async def test_a_role_that_is_so_already_is_no_event(room: Place) -> None:
    before = await types(room)

    answer = await room.put(f"{ROOM_1}/members/{MEMBER}/role", mid=OWNER, json={"role": "member"})

    assert (200, {"unchanged": True}) == (answer.status, answer.json)
    assert before == await types(room)


# --- bad input ---

MIDS = [
    "-9223372036854775809",
    "9223372036854775808",
    "1.0",
    "true",
    "",
    "+1",
    "01",
    "%31%32x",
    "1%00",
    "NaN",
    "0x1",
    "%20",
    "null",
]
NOT_MIDS: list[Any] = [2**63, -(2**63) - 1, 2**64, True, "7", 7.0, 1e400, None, [], {}, 0]


async def test_a_member_in_a_path_is_an_integer(room: Place) -> None:
    for mid in MIDS:
        for method, path, body in (
            ("DELETE", "", None),
            ("PUT", "/role", {"role": "admin"}),
            ("PUT", "/mute", {"until_ms": 1}),
        ):
            answer = await room.ask(method, f"{ROOM_1}/members/{mid}{path}", mid=OWNER, json=body)
            assert (400, 404)[mid == ""] == answer.status


async def test_a_member_in_a_body_is_an_integer(room: Place) -> None:
    import json

    before = len(await types(room))
    for mid in NOT_MIDS:
        raw = json.dumps({"mid": mid}).encode()
        headers = {"Content-Type": "application/json"}
        answers = [
            await room.post(f"{ROOM_1}/members", mid=OWNER, data=raw, headers=headers),
            await room.post(f"{ROOM_1}/join", data=raw, headers=headers),
            await room.post(f"{ROOM_1}/leave", data=raw, headers=headers),
            await room.post(
                "/v1/rooms",
                mid=OWNER,
                headers=headers,
                data=json.dumps({"room": "group://2", "members": [mid]}).encode(),
            ),
        ]

        assert {400} == {answer.status for answer in answers}
        assert before == len(await types(room))


async def test_a_room_of_the_wrong_form_is_not_made(api: Place) -> None:
    for body in [
        {},
        {"room": 1},
        {"room": None},
        {"room": "x"},
        {"room": "group://"},
        {"room": "Group://1"},
        {"room": "group://a b"},
        {"room": "group://" + "x" * 129},
        {"room": "group://x\u0000"},
        {"room": "group://1", "public": 1},
        {"room": "group://1", "public": "true"},
        {"room": "group://1", "history": "some"},
        {"room": "group://1", "title": 1},
        {"room": "group://1", "title": "x" * 257},
        {"room": "group://1", "title": "a\nb"},
        {"room": "group://1", "members": 7},
        {"room": "group://1", "members": [[7]]},
        {"room": "group://1", "members": list(range(1, 1002))},
        {"room": "group://1", "creator": 5},
        {"room": "group://1", "seq": 5},
        {"room": "group://1", "mid": 5},
    ]:
        assert (await api.post("/v1/rooms", mid=7, json=body)).status == 400
        assert [] == await types(api)


async def test_a_room_that_cannot_be_is_a_bad_request(api: Place) -> None:
    for name in ["%FF", "%00", "a%0Ab", "a%20b", "%ED%A0%80", "%C0%80", "x" * 129, "%", "%E2%80%A8"]:
        statuses = [
            (await api.get(f"/v1/rooms/group/{name}")).status,
            (await api.post(f"/v1/rooms/group/{name}/join", mid=7)).status,
            (await api.get(f"/v1/rooms/group/{name}/messages")).status,
            (await api.get(f"/v1/rooms/{name}/1")).status,
        ]

        assert [400] * 4 == statuses


async def test_a_role_is_one_of_three(room: Place) -> None:
    for role in ["king", "", None, 1, True, ["admin"], "ADMIN"]:
        assert (await room.put(f"{ROOM_1}/members/{MEMBER}/role", mid=OWNER, json={"role": role})).status == 400


async def test_the_end_of_a_mute_is_an_integer(room: Place) -> None:
    for until_ms in [-1, 2**63, True, "1", 1.5, None]:
        assert (await room.put(f"{ROOM_1}/members/{MEMBER}/mute", mid=OWNER, json={"until_ms": until_ms})).status == 400


async def test_pages_have_bounds(room: Place) -> None:
    for query in ["limit=0", "limit=501", "limit=-1", "limit=x", "limit=1&limit=2", "after=x", "limit=%31%00"]:
        assert (await room.get(f"{ROOM_1}/members?{query}", mid=OWNER)).status == 400
        assert (await room.get(f"{ROOM_1}/messages?{query}", mid=OWNER)).status == 400


async def test_extra_fields_change_nothing(room: Place) -> None:
    for field in ("role", "is_admin", "sender_id", "seq", "position", "room_id", "epoch", "__proto__"):
        assert (await room.post(f"{ROOM_1}/join", mid=MEMBER, json={field: 1})).status == 400
    assert (await room.reads.reader.stream_head(ROOM + "group://1")).seq == 4
