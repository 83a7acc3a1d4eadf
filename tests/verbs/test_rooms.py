"""Rooms and their people by HTTP, from the first to the last day of a room."""

from __future__ import annotations

import time
from typing import Any

import pytest

from api.place import Answer, Place, bearer, serving
from imcore.api.services import SERVICES
from imcore.auth import Identity
from imcore.events.types import AUDIT
from imcore.verbs import rooms
from imcore.verbs.verb import Caller

ROOM_1 = "/v1/rooms/group/1"
OWNER, ADMIN, MEMBER, STRANGER = 1, 2, 3, 4


@pytest.fixture
async def room(api: Place) -> Place:
    """A public room with an owner, an admin and a member."""
    made = await api.post("/v1/rooms", mid=OWNER, json={"room": "group://1", "title": "Tea", "members": [MEMBER]})
    added = await api.post(f"{ROOM_1}/members", mid=OWNER, json={"mid": ADMIN, "role": "admin"})
    assert [201, 201] == [made.status, added.status]
    return api


async def send(api: Place, mid: int, path: str = ROOM_1) -> tuple[int, str]:
    told = await api.send(path, mid, "hello")
    return told.status, "" if told.status < 300 else str(told.code)


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, str(answer.code)


async def test_the_settings_of_a_room_are_changed_one_by_one(room: Place) -> None:
    changed = await room.ask(
        "PATCH", ROOM_1, mid=ADMIN, json={"topic": "green", "kind": "announcement", "slow_mode_s": 9}
    )
    again = await room.ask("PATCH", ROOM_1, mid=ADMIN, json={"topic": "green"})

    assert (200, {"unchanged": True}) == (changed.status, again.json)
    shown = (await room.get(ROOM_1, mid=MEMBER)).json
    assert ("announcement", "Tea", "green", True, "admins", 9, "member") == tuple(
        shown[name] for name in ("kind", "title", "topic", "public", "writers", "slow_mode_s", "standing")
    )
    assert (403, "forbidden") == await send(room, MEMBER)
    assert (201, "") == await send(room, ADMIN)
    assert 403 == (await room.ask("PATCH", ROOM_1, mid=MEMBER, json={"title": "x"})).status
    for body in (
        {"kind": "secret"},
        {"slow_mode_s": -1},
        {"slow_mode_s": 10**6},
        {"members_max": True},
        {"title": 1},
        {"mid": 1},
    ):
        assert 400 == (await room.ask("PATCH", ROOM_1, mid=OWNER, json=body)).status


async def test_slow_mode_says_when_to_come_back(room: Place) -> None:
    await room.ask("PATCH", ROOM_1, mid=ADMIN, json={"slow_mode_s": 60})

    first, second = [await room.send(ROOM_1, MEMBER, "hello") for _ in range(2)]

    assert (201, 429, "slow_mode") == (first.status, second.status, second.code)
    assert 0 < second.json["retry_after_ms"] <= 60_000
    assert 0 < int(second.headers["Retry-After"]) <= 60


async def test_everybody_is_muted_until_the_time_has_come(room: Place) -> None:
    far_ms = int(time.time() * 1000) + 600_000
    assert 200 == (await room.put(f"{ROOM_1}/mute", mid=ADMIN, json={"until_ms": far_ms})).status
    assert [(403, "muted"), (201, "")] == [await send(room, MEMBER), await send(room, ADMIN)]

    await room.put(f"{ROOM_1}/mute", mid=ADMIN, json={"until_ms": 0})

    assert (201, "") == await send(room, MEMBER)


@pytest.mark.parametrize("setting", ["title", "topic"])
async def test_what_a_room_is_called_leaves_the_text_around_it_alone(room: Place, setting: str) -> None:
    for text in ("\u202egnp.exe", "a\u2066b"):
        told = await room.patch(ROOM_1, mid=OWNER, json={setting: text})
        assert (400, "bad_request") == code(told), told.json
    assert 200 == (await room.patch(ROOM_1, mid=OWNER, json={setting: "חדר"})).status


async def test_nobody_ends_its_mute_by_leaving(room: Place) -> None:
    """The answer of the join says where the join is, and a second time, too."""
    far_ms = int(time.time() * 1000) + 600_000
    assert 200 == (await room.put(f"{ROOM_1}/members/{MEMBER}/mute", mid=ADMIN, json={"until_ms": far_ms})).status
    assert 200 == (await room.post(f"{ROOM_1}/leave", mid=MEMBER)).status

    joined = await room.post(f"{ROOM_1}/join", mid=MEMBER)

    assert (403, "muted") == await send(room, MEMBER)
    again = await room.post(f"{ROOM_1}/join", mid=MEMBER)
    assert (201, joined.json | {"duplicate": True}) == (joined.status, again.json)
    assert "muted" == (await room.get(ROOM_1, mid=MEMBER)).json["standing"]


async def test_the_list_of_members_says_who_is_muted(room: Place) -> None:
    """As the changes of the list do; of the others it says nothing of it."""
    far_ms = int(time.time() * 1000) + 600_000
    assert 200 == (await room.put(f"{ROOM_1}/members/{MEMBER}/mute", mid=ADMIN, json={"until_ms": far_ms})).status

    for mid in (OWNER, MEMBER):
        listed = (await room.get(f"{ROOM_1}/members", mid=mid)).json["members"]
        assert {MEMBER: far_ms} == {one["mid"]: one["muted_until_ms"] for one in listed if "muted_until_ms" in one}
    await room.put(f"{ROOM_1}/members/{MEMBER}/mute", mid=ADMIN, json={"until_ms": 0})
    listed = (await room.get(f"{ROOM_1}/members", mid=OWNER)).json["members"]
    assert not any("muted_until_ms" in one for one in listed)


async def test_a_ban_and_its_end(room: Place) -> None:
    banned = await room.put(f"{ROOM_1}/bans/{MEMBER}", mid=ADMIN, json={"reason": "spam"})
    assert 200 == banned.status
    assert (403, "forbidden") == code(await room.post(f"{ROOM_1}/join", mid=MEMBER))
    assert (403, "forbidden") == code(await room.get(ROOM_1, mid=MEMBER))
    assert {"bans": [{"mid": MEMBER, "by": ADMIN, "until_ms": 0, "reason": "spam"}]} == (
        await room.get(f"{ROOM_1}/bans", mid=OWNER)
    ).json
    assert 404 == (await room.get(f"{ROOM_1}/bans", mid=STRANGER)).status

    assert 200 == (await room.delete(f"{ROOM_1}/bans/{MEMBER}", mid=ADMIN)).status

    assert {"bans": []} == (await room.get(f"{ROOM_1}/bans", mid=OWNER)).json
    assert 201 == (await room.post(f"{ROOM_1}/join", mid=MEMBER)).status


async def test_an_invitation_from_both_sides(api: Place) -> None:
    await api.post("/v1/rooms", mid=OWNER, json={"room": "group://1", "title": "Tea", "kind": "private"})
    assert 404 == (await api.get(ROOM_1, mid=STRANGER)).status
    assert 200 == (await api.put(f"{ROOM_1}/invitations/{STRANGER}", mid=OWNER)).status

    (mine,) = (await api.get("/v1/invitations", mid=STRANGER)).json["invitations"]
    assert ("group://1", "Tea", 1, OWNER) == (mine["room"], mine["title"], mine["members"], mine["by"])
    assert "invited" == (await api.get(ROOM_1, mid=STRANGER)).json["standing"]
    assert [STRANGER] == [one["mid"] for one in (await api.get(f"{ROOM_1}/invitations", mid=OWNER)).json["invitations"]]
    accepted, again = [await api.post(f"{ROOM_1}/invitation", mid=STRANGER) for _ in range(2)]

    assert (201, 200, True) == (accepted.status, again.status, again.json["duplicate"])
    assert accepted.json["position"] == again.json["position"]
    assert {"invitations": []} == (await api.get("/v1/invitations", mid=STRANGER)).json
    assert 404 == (await api.post(f"{ROOM_1}/invitation", mid=99)).status
    await api.put(f"{ROOM_1}/invitations/99", mid=OWNER)
    assert 200 == (await api.delete(f"{ROOM_1}/invitation", mid=99)).status
    assert 404 == (await api.post(f"{ROOM_1}/invitation", mid=99)).status


async def test_who_asks_is_let_in_or_not(api: Place) -> None:
    await api.post("/v1/rooms", mid=OWNER, json={"room": "group://1", "approval": True})
    assert 403 == (await api.post(f"{ROOM_1}/join", mid=STRANGER)).status
    for mid in (STRANGER, 99):
        assert 200 == (await api.post(f"{ROOM_1}/requests", mid=mid, json={"text": f"{mid} here"})).status
    asked = (await api.get(f"{ROOM_1}/requests", mid=OWNER)).json["requests"]
    assert [one["at_ms"] for one in asked] == [
        (await api.get(ROOM_1, mid=mid)).json["asked_at_ms"] for mid in (STRANGER, 99)
    ]
    assert [(STRANGER, "4 here"), (99, "99 here")] == [(one["mid"], one["text"]) for one in asked]

    assert 201 == (await api.put(f"{ROOM_1}/requests/{STRANGER}", mid=OWNER)).status
    assert 200 == (await api.put(f"{ROOM_1}/requests/{STRANGER}", mid=OWNER)).status
    assert 200 == (await api.delete(f"{ROOM_1}/requests/99", mid=OWNER)).status

    assert {"requests": []} == (await api.get(f"{ROOM_1}/requests", mid=OWNER)).json
    for mid in (STRANGER, 99, 5):
        assert "asked_at_ms" not in (await api.get(ROOM_1, mid=mid)).json, "answered, or nothing was asked"
    assert 400 == (await api.put(f"{ROOM_1}/requests/99", mid=OWNER)).status


async def test_who_asked_sees_the_request_until_it_is_answered(api: Place) -> None:
    """Also where nobody need ask any more: joining is the answer then."""
    await api.post("/v1/rooms", mid=OWNER, json={"room": "group://1", "approval": True})
    await api.post(f"{ROOM_1}/requests", mid=STRANGER, json={})
    await api.patch(ROOM_1, mid=OWNER, json={"approval": False})

    (asked,) = (await api.get(f"{ROOM_1}/requests", mid=OWNER)).json["requests"]
    assert asked["at_ms"] == (await api.get(ROOM_1, mid=STRANGER)).json.get("asked_at_ms")
    assert 201 == (await api.post(f"{ROOM_1}/join", mid=STRANGER)).status
    await api.post(f"{ROOM_1}/leave", mid=STRANGER)
    assert "asked_at_ms" not in (await api.get(ROOM_1, mid=STRANGER)).json


async def test_ownership_is_given_away_and_then_one_may_go(room: Place) -> None:
    assert (403, "forbidden") == code(await room.post(f"{ROOM_1}/leave", mid=OWNER))
    assert 403 == (await room.put(f"{ROOM_1}/owner", mid=ADMIN, json={"mid": ADMIN})).status

    assert 200 == (await room.put(f"{ROOM_1}/owner", mid=OWNER, json={"mid": MEMBER})).status

    members = (await room.get(f"{ROOM_1}/members", mid=OWNER)).json["members"]
    assert {OWNER: "admin", ADMIN: "admin", MEMBER: "owner"} == {one["mid"]: one["role"] for one in members}
    assert 200 == (await room.post(f"{ROOM_1}/leave", mid=OWNER)).status
    assert 200 == (await room.put(f"{ROOM_1}/owner", json={"mid": ADMIN})).status, "a service gives it to whom it likes"
    assert [ADMIN] == (await room.get(ROOM_1, mid=ADMIN)).json["owners"]


async def test_a_version_of_the_list_of_members_tells_what_changed_since(room: Place) -> None:
    version = (await room.get(f"{ROOM_1}/members", mid=MEMBER)).json["version"]
    await room.post(f"{ROOM_1}/join", mid=STRANGER)
    await room.delete(f"{ROOM_1}/members/{ADMIN}", mid=OWNER)

    changes = (await room.get(f"{ROOM_1}/members/changes?after={version}", mid=MEMBER)).json
    latest = (await room.get(f"{ROOM_1}/members/changes?after={changes['version']}", mid=MEMBER)).json
    few = (await room.get(f"{ROOM_1}/members/changes?after={version}&limit=1", mid=MEMBER)).json
    rest = (await room.get(f"{ROOM_1}/members/changes?after={few['version']}&limit=1", mid=MEMBER)).json
    ahead = (await room.get(f"{ROOM_1}/members/changes?after={changes['version'] + 1}", mid=MEMBER)).json

    assert [(STRANGER, "member"), (ADMIN, None)] == [(one["mid"], one["role"]) for one in changes["changes"]]
    assert (False, [], False) == (latest["reload"], latest["changes"], changes["reload"])
    assert (True, changes["changes"][:1]) == (few["more"], few["changes"]), (
        "as many as are asked for, and then the others"
    )
    assert (False, changes["changes"][1:], changes["version"]) == (rest["more"], rest["changes"], rest["version"])
    assert ahead["reload"], "a version that never was, of before a restored backup perhaps"
    assert 404 == (await room.get(f"{ROOM_1}/members/changes?after=0", mid=99)).status


async def test_a_dismissed_room_is_gone_for_its_people_and_not_for_services(room: Place) -> None:
    assert 403 == (await room.delete(ROOM_1, mid=ADMIN)).status
    assert 200 == (await room.delete(ROOM_1, mid=OWNER)).status

    asked: list[tuple[str, str, Any]] = [
        ("GET", ROOM_1, None), ("GET", f"{ROOM_1}/members", None), ("GET", f"{ROOM_1}/messages", None),
        ("POST", f"{ROOM_1}/join", None), ("POST", f"{ROOM_1}/leave", None), ("PUT", f"{ROOM_1}/read", {"seq": 1}),
        ("PATCH", ROOM_1, {"title": "x"}), ("DELETE", ROOM_1, None), ("GET", f"{ROOM_1}/bans", None),
    ]  # fmt: skip
    for method, path, body in asked:
        for mid in (OWNER, MEMBER, STRANGER):
            assert (404, "no_such_room") == code(await room.ask(method, path, mid=mid, json=body)), (method, path)
    assert (404, "no_such_room") == await send(room, OWNER)
    assert {"rooms": []} == (await room.get("/v1/inbox", mid=MEMBER)).json
    assert {"rooms": []} == (await room.get("/v1/rooms", mid=MEMBER)).json
    assert (409, "room_exists") == code(await room.post("/v1/rooms", mid=OWNER, json={"room": "group://1"}))
    assert 0 < (await room.get(ROOM_1)).json["dismissed"]
    assert 400 == (await room.post(f"{ROOM_1}/members", json={"mid": 7})).status


async def test_public_rooms_are_found(room: Place) -> None:
    await room.room("group://2", title="Green tea")
    await room.room("group://3", title="Tea for two", public=False)

    first = (await room.get("/v1/rooms?search=tea&limit=1", mid=STRANGER)).json
    second = (await room.get(f"/v1/rooms?search=tea&limit=1&after={first['next']}", mid=STRANGER)).json

    assert [["Tea"], ["Green tea"]] == [[one["title"] for one in page["rooms"]] for page in (first, second)]
    assert "next" not in second
    assert ["group://2"] == [one["room"] for one in (await room.get("/v1/rooms?search=2", mid=STRANGER)).json["rooms"]]
    for query in ("limit=0", "search=" + "x" * 65, "search=%00", "after=%00", "colour=red"):
        assert 400 == (await room.get(f"/v1/rooms?{query}", mid=STRANGER)).status


async def test_a_conversation_of_two(api: Place) -> None:
    opened, again = await api.put("/v1/direct/8", mid=7), await api.put("/v1/direct/7", mid=8)
    path = "/v1/rooms/direct/7-8"

    assert (201, 200, "direct://7-8") == (opened.status, again.status, again.json["room"])
    assert [(201, ""), (201, ""), (404, "no_such_room")] == [await send(api, mid, path) for mid in (7, 8, 9)]
    assert 404 == (await api.post(f"{path}/join", mid=9)).status
    assert 400 == (await api.post(f"{path}/members", json={"mid": 9})).status
    assert 400 == (await api.post("/v1/rooms", mid=9, json={"room": "direct://9-10"})).status
    assert 400 == (await api.put("/v1/direct/7", mid=7)).status
    assert 200 == (await api.put("/v1/blocks/8", mid=7)).status
    assert [8] == [one["mid"] for one in (await api.get("/v1/blocks", mid=7)).json["blocks"]]
    assert [(403, "forbidden"), (201, "")] == [await send(api, mid, path) for mid in (8, 7)]
    assert 200 == (await api.delete("/v1/blocks/8", mid=7)).status
    assert (201, "") == await send(api, 8, path)
    assert 201 == (await api.put("/v1/direct/6", json={"of": 5})).status
    assert 400 == (await api.put("/v1/direct/6")).status


async def test_conversations_that_others_open_leave_one_half_of_ones_rooms(database_url: str) -> None:
    """The opener is told whose rooms those are; those two that are open stay so, and a backend opens more in one's own name."""
    async with serving(database_url, rooms_per_user_max=4) as api:
        opened = [await api.put("/v1/direct/7", mid=mid) for mid in (10, 11, 12)]

        assert [201, 201, 409] == [one.status for one in opened]
        assert ("too_many_rooms", "mid 7 cannot be brought into more rooms") == (
            opened[2].code,
            opened[2].json["detail"],
        )
        assert [200, 200] == [(await api.put("/v1/direct/7", mid=mid)).status for mid in (10, 11)]
        assert 201 == (await api.put("/v1/direct/12", mid=7)).status
        assert 200 == (await api.put("/v1/direct/7", mid=12)).status
        assert [201, 409] == [(await api.put(f"/v1/direct/{mid}", json={"of": 7})).status for mid in (13, 14)]


async def test_a_token_names_the_rooms_that_the_directory_shows(guarded: Place) -> None:
    for room in ("group://1", "team://1"):
        await guarded.room(room)

    found = await guarded.get("/v1/rooms", headers=bearer(mid=7, rooms=["team://*"]))

    assert ["team://1"] == [one["room"] for one in found.json["rooms"]]


async def test_a_token_of_no_login_makes_the_rooms_that_it_names(guarded: Place) -> None:
    """By the name, the type, or all of them; and with none named no room at all."""

    async def made(room: str, rooms: list[str] | None) -> int:
        return (await guarded.post("/v1/rooms", json={"room": room}, headers=bearer(mid=7, rooms=rooms))).status

    assert 201 == await made("group://name", ["group://name"])
    assert 201 == await made("group://type", ["team://*", "group://*"])
    assert 201 == await made("group://all", ["*"])
    assert 403 == await made("group://other", ["group://name", "team://*"])
    assert 403 == await made("group://none", None)


async def test_what_a_moderator_does_is_in_the_audit_stream(room: Place) -> None:
    """No token names a moderator yet, so the verb is asked as a door would ask it."""
    means = room.app[SERVICES].means
    moderator = Caller(Identity(9, role="moderator"))

    await rooms.dismiss.run(moderator, means, rooms.InRoom(room="group://1"))

    audited = [event for event in await room.reads.reader.read(0) if event.stream == AUDIT]
    assert [("admin_acted", 9)] == [(event.type, event.mid) for event in audited]
    assert "rooms.dismiss" in audited[0].body
    shown = await rooms.show.run(moderator, means, rooms.InRoom(room="group://1"))
    assert isinstance(shown, rooms.Shown)
    assert shown.dismissed > 0


async def test_somebody_who_was_never_here_is_banned_too(room: Place) -> None:
    """Whoever has nothing to be told needs no stream for it."""
    assert 200 == (await room.put(f"{ROOM_1}/bans/987654", mid=ADMIN, json={})).status
    assert [987654] == [one["mid"] for one in (await room.get(f"{ROOM_1}/bans", mid=OWNER)).json["bans"]]
