"""Presence and signals over HTTP: what is answered to whom."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from accounts.place import somebody
from api.place import Place, serving
from imcore import commands, membership, nodes
from imcore.api.services import SERVICES
from imcore.auth import ANONYMOUS, Identity
from imcore.errors import NoSuchRoom, Unauthenticated
from imcore.events.store import draft
from imcore.events.types import AUDIT, SESSION, AdminActed, SessionOpened
from imcore.permissions import SERVICE_ACTOR, person, table
from imcore.verbs import VERBS
from imcore.verbs.call import Verbs
from imcore.verbs.verb import Caller, Stream
from projections.test_queries import NODE

ANNA, BEN, CARA, STRANGER = 1, 2, 3, 99
ROOM, PATH = "group://team", "/v1/rooms/group/team"


def gone(mid: int) -> dict[str, Any]:
    """How everybody looks whom one may not see."""
    return {"mid": mid, "online": False, "platforms": [], "devices": [], "last_seen": None}


async def online(place: Place, mid: int, key: str = "phone", platform: str = "ios", room: str = "") -> int:
    """Open a session; the time."""
    fact = SessionOpened(key=key, node=NODE.node, platform=platform, rooms=(room,) if room else ())
    (event,) = await place.append(draft(f"{SESSION}{mid}", fact, mid, key=key))
    return event.time_ms


@pytest.fixture
async def team(guarded: Place) -> Place:
    """Anna, Ben and Cara in a room."""
    await nodes.register(guarded.pool, NODE)
    await guarded.room(ROOM, ANNA, BEN, CARA)
    return guarded


async def of(place: Place, viewer: int | None, *mids: int) -> list[Any]:
    await place.followed()
    told = await place.get("/v1/presence?" + "&".join(f"mid={mid}" for mid in mids), mid=viewer)
    assert 200 == told.status, told.raw
    people: list[Any] = told.json["people"]
    return people


# --- presence.of ------------------------------------------------------------------------------------------------------------------


async def test_people_of_a_small_room_see_each_others_devices_without_their_keys(team: Place) -> None:
    since = await online(team, BEN)
    later = await online(team, BEN, "laptop", "web")
    await online(team, STRANGER)
    seen = {
        "mid": BEN,
        "online": True,
        "platforms": ["ios", "web"],
        "devices": [{"platform": "web", "since": later}, {"platform": "ios", "since": since}],
        "last_seen": None,
    }

    assert [seen, gone(STRANGER), gone(404)] == await of(team, ANNA, BEN, STRANGER, 404)
    assert [gone(BEN)] == await of(team, STRANGER, BEN)
    (own,) = await of(team, BEN)
    assert ["laptop", "phone"] == [device["key"] for device in own["devices"]]


async def test_a_service_sees_everybody_and_those_who_hide(team: Place) -> None:
    await online(team, BEN)
    assert 200 == (await team.put("/v1/presence", mid=BEN, json={"visible_to": "nobody"})).status

    assert [gone(BEN)] == await of(team, ANNA, BEN)
    (seen,) = await of(team, None, BEN)
    assert ("phone", True) == (seen["devices"][0]["key"], seen["online"])


async def test_who_went_was_last_seen_when_it_went(team: Place) -> None:
    await online(team, BEN)
    (opened,) = [one["position"] async for one in _opened(team, BEN)]
    (closed,) = await team.append(commands.close_session(BEN, "phone", opened, "closed", None))

    assert [{**gone(BEN), "last_seen": closed.time_ms}] == await of(team, ANNA, BEN)
    assert [gone(BEN)] == await of(team, STRANGER, BEN)


async def _opened(place: Place, mid: int) -> Any:
    await place.followed()
    for row in await place.pool.fetch("SELECT opened AS position FROM sessions WHERE mid = $1", mid):
        yield row


async def test_of_more_people_than_a_page_has_nobody_is_told(team: Place) -> None:
    def asking(count: int) -> str:
        return "/v1/presence?" + "&".join(f"mid={n}" for n in range(1, count + 1))

    assert 200 == (await team.get(asking(500), mid=ANNA)).status
    assert (400, "bad_request") == ((told := await team.get(asking(501), mid=ANNA)).status, told.code)


@pytest.mark.parametrize("choice", ["friends", "", None, 1])
async def test_a_choice_is_one_of_three(team: Place, choice: object) -> None:
    told = await team.put("/v1/presence", mid=ANNA, json={"visible_to": choice})
    assert (400, "bad_request") == (told.status, told.code)


async def test_a_service_hides_from_nobody(team: Place) -> None:
    told = await team.put("/v1/presence", json={"visible_to": "nobody"})
    assert (403, "forbidden") == (told.status, told.code)


# --- by privilege -----------------------------------------------------------------------------------------------------------------


class Line:
    """A connection that remembers how it was asked to watch."""

    key = "phone"

    def __init__(self) -> None:
        self.sees_all: list[bool] = []

    async def watch(self, mids: Sequence[int], *, sees_all: bool) -> list[tuple[int, tuple[str, ...]]]:
        self.sees_all.append(sees_all)
        return [(mid, ()) for mid in mids]

    def unwatch(self, mids: Sequence[int] | None) -> None:
        """Nothing is watched."""

    def online(self, room: str) -> int | None:
        return None

    async def renew(self, token: str) -> float | None:
        return None


async def ask(place: Place, name: str, who: int, line: Line | None = None, **args: object) -> Any:
    """A verb, as somebody whose token says moderator."""
    await place.followed()
    verbs = Verbs(VERBS)
    caller = Caller(Identity(who, role="moderator"), connection=line)
    told = await verbs.call(verbs.by_name[name], caller, place.app[SERVICES].means, args)
    assert not isinstance(told, Stream)
    return json.loads(told.body)


async def acts(place: Place) -> list[tuple[str, str, int | None, str]]:
    found = [event.fact for event in await place.reads.reader.read_on(AUDIT, 0, 99)]
    return [(one.verb, one.room, one.mid, one.detail) for one in found if isinstance(one, AdminActed)]


@pytest.fixture
async def hiding(team: Place) -> Place:
    """Ben and Cara are online, and Cara hides; a stranger is, too."""
    for mid in (BEN, CARA, STRANGER):
        await online(team, mid)
    assert 200 == (await team.put("/v1/presence", mid=CARA, json={"visible_to": "nobody"})).status
    return team


async def test_whom_a_moderator_sees_by_privilege_alone_is_in_the_audit_and_nobody_else(hiding: Place) -> None:
    """Whom it sees as anybody would it is told of as anybody, without keys of devices."""
    (ben,) = (await ask(hiding, "presence.of", ANNA, mid=[BEN]))["people"]
    assert (True, [None]) == (ben["online"], [one.get("key") for one in ben["devices"]])
    await ask(hiding, "presence.of", ANNA, mid=[])
    assert [] == await acts(hiding)

    people = (await ask(hiding, "presence.of", ANNA, mid=[BEN, CARA, STRANGER]))["people"]
    assert [(True, None), (True, "phone"), (True, "phone")] == [
        (one["online"], one["devices"][0].get("key")) for one in people
    ]
    assert [("presence.of", "", None, f"{CARA},{STRANGER}")] == await acts(hiding)
    await ask(hiding, "presence.of", ANNA, mid=[CARA])
    assert ("presence.of", "", CARA, "") == (await acts(hiding))[-1]


async def test_a_moderator_among_the_members_of_a_room_is_shown_more_of_them_and_that_is_in_the_audit(
    hiding: Place,
) -> None:
    async def shown() -> tuple[list[int], list[int]]:
        there = await ask(hiding, "presence.room", ANNA, room=ROOM)
        listed = await ask(hiding, "rooms.members", ANNA, room=ROOM)
        assert there["online"] == len(there["people"])
        return [one["mid"] for one in there["people"]], [one["mid"] for one in listed["members"] if one["online"]]

    assert ([BEN, CARA], [BEN, CARA]) == await shown()
    seen = [("presence.room", ROOM, CARA, ""), ("rooms.members", ROOM, CARA, "")]
    assert seen == await acts(hiding)

    assert 200 == (await hiding.put("/v1/presence", mid=CARA, json={"visible_to": "everybody"})).status
    assert ([BEN, CARA], [BEN, CARA]) == await shown()
    assert seen == await acts(hiding), "anybody would be shown the same"


async def test_who_of_a_room_is_counted_by_privilege_is_in_the_audit(hiding: Place) -> None:
    """Of a large room, where somebody hides; of a live one that the moderator is not in."""
    most = hiding.settings.presence_room_members_max
    await hiding.room("group://large", ANNA, BEN, CARA, *range(1_000, 1_000 + most - 2))
    await online(hiding, BEN, "tv", room="live://stage")

    assert {"online": 2, "people": None} == await ask(hiding, "presence.room", ANNA, room="group://large")
    assert {"online": 1, "people": None} == await ask(hiding, "presence.room", ANNA, room="live://stage")
    assert [("presence.room", room, None, "") for room in ("group://large", "live://stage")] == await acts(hiding)
    assert {"online": 1, "people": None} == await ask(hiding, "presence.room", BEN, room="live://stage")
    assert 2 == len(await acts(hiding)), "who is in it is told by that"


async def test_whom_a_moderator_watches_by_privilege_is_in_the_audit(hiding: Place) -> None:
    line = Line()

    await ask(hiding, "presence.watch", ANNA, line, mids=[ANNA, BEN])
    assert [] == await acts(hiding)
    await ask(hiding, "presence.watch", ANNA, line, mids=[BEN, CARA, *range(500, 510)])

    assert [True, True] == line.sees_all
    ((verb, _, mid, detail),) = await acts(hiding)
    assert ("presence.watch", None, "11 people: 3,500,501,502,503,504,505,506,…") == (verb, mid, detail)


async def test_who_is_no_moderator_any_more_is_shown_what_anybody_is(hiding: Place) -> None:
    """Whatever its token says for half a second more; and nothing is in the audit, for nothing was seen."""
    mod = (await somebody(hiding, "mod", role="moderator"))["mid"]
    await hiding.post(f"{PATH}/members", json={"mid": mod})
    await online(hiding, BEN, "tv", room="live://stage")
    assert 200 == (await hiding.put(f"/v1/accounts/{mod}/role", json={"role": "user"})).status
    before, line = await acts(hiding), Line()

    people = (await ask(hiding, "presence.of", mod, mid=[BEN, CARA, STRANGER]))["people"]
    assert [True, False, False] == [one["online"] for one in people]
    assert [BEN] == [one["mid"] for one in (await ask(hiding, "presence.room", mod, room=ROOM))["people"]]
    listed = await ask(hiding, "rooms.members", mod, room=ROOM)
    assert [BEN] == [one["mid"] for one in listed["members"] if one["online"]]
    with pytest.raises(NoSuchRoom):
        await ask(hiding, "presence.room", mod, room="live://stage")
    for mids in ([BEN], [BEN, CARA]):
        await ask(hiding, "presence.watch", mod, line, mids=mids)
    assert [False, False] == line.sees_all
    assert before == await acts(hiding)


# --- presence.room ----------------------------------------------------------------------------------------------------------------


async def test_a_small_room_says_who_is_online_and_a_large_one_how_many(team: Place) -> None:
    await online(team, BEN)
    await online(team, CARA)
    await team.put("/v1/presence", mid=CARA, json={"visible_to": "contacts"})
    most = team.settings.presence_room_members_max
    await team.room("group://large", ANNA, BEN, CARA, *range(1_000, 1_000 + most - 2))
    await team.followed()

    small = (await team.get(f"{PATH}/presence", mid=ANNA)).json
    assert (1, [BEN]) == (small["online"], [one["mid"] for one in small["people"]])
    large = "/v1/rooms/group/large/presence"
    assert {"online": 1, "people": None} == (await team.get(large, mid=ANNA)).json
    assert {"online": 2, "people": None} == (await team.get(large)).json


async def test_a_live_room_says_how_many_connections_are_in_it_to_who_is(team: Place) -> None:
    await online(team, ANNA, room="live://stage")
    await online(team, BEN, room="live://stage")
    await team.followed()
    path = "/v1/rooms/live/stage/presence"

    assert {"online": 2, "people": None} == (await team.get(path, mid=ANNA)).json
    assert (404, "no_such_room") == ((told := await team.get(path, mid=CARA)).status, told.code)


@pytest.mark.parametrize(("method", "rest"), [("GET", "presence"), ("POST", "typing"), ("POST", "signals")])
async def test_a_room_that_is_not_ones_own_looks_like_one_that_is_not_there(
    team: Place, method: str, rest: str
) -> None:
    body = {"signals": {"type": "wave"}, "typing": {}}.get(rest)
    answers = [
        await team.ask(method, f"{path}/{rest}", mid=STRANGER, json=body) for path in (PATH, "/v1/rooms/group/none")
    ]

    assert [(404, "no_such_room")] * 2 == [(answer.status, answer.code) for answer in answers]
    assert answers[0].json["detail"] == answers[1].json["detail"]
    assert [] == team.pushed


# --- signals ----------------------------------------------------------------------------------------------------------------------


async def test_a_signal_goes_to_the_room_in_the_name_of_who_gives_it(team: Place) -> None:
    assert ({}, 200) == ((told := await team.post(f"{PATH}/typing", mid=ANNA, json={})).json, told.status)
    await team.post(f"{PATH}/signals", mid=BEN, json={"type": "cursor", "body": [1, "ä"]})

    assert [
        (0, b'{"typing":true}', ROOM, "typing", ANNA),
        (0, '[1,"ä"]'.encode(), ROOM, "signal:cursor", BEN),
    ] == [(one.op, one.payload, one.room, one.type, one.mid) for one in team.pushed]


@pytest.mark.parametrize("rest", ["typing", "signals"])
async def test_a_signal_says_up_to_where_in_the_log_its_giver_was_looked_at(team: Place, rest: str) -> None:
    removed = (await team.log.decide(membership.RemoveMember(ROOM, CARA, SERVICE_ACTOR)))[-1]
    await team.post(f"{PATH}/{rest}", mid=ANNA, json={"type": "wave"} if rest == "signals" else {})

    assert [removed.position] == [one.position for one in team.pushed]


async def test_a_muted_member_gives_none(team: Place) -> None:
    await team.log.decide(membership.Mute(ROOM, BEN, SERVICE_ACTOR, 2**53))
    told = await team.post(f"{PATH}/typing", mid=BEN, json={})

    assert (403, "muted") == (told.status, told.code)
    assert [] == team.pushed


@pytest.mark.parametrize("rest", ["typing", "signals"])
async def test_whom_the_other_has_blocked_gives_none_in_the_room_of_the_two(team: Place, rest: str) -> None:
    await team.log.decide(membership.OpenDirect(BEN, person(ANNA)))
    path, body = f"/v1/rooms/direct/{ANNA}-{BEN}/{rest}", {"type": "wave"} if rest == "signals" else {}
    await team.log.decide(membership.BlockPerson(BEN, person(ANNA)))

    told = await team.post(path, mid=BEN, json=body)

    assert (403, "forbidden") == (told.status, told.code)
    assert [] == team.pushed
    await team.log.decide(membership.UnblockPerson(BEN, person(ANNA)))
    assert 200 == (await team.post(path, mid=BEN, json=body)).status
    assert [BEN] == [one.mid for one in team.pushed]


@pytest.mark.parametrize(
    ("restricts", "code"),
    [
        (membership.MuteAll(ROOM, SERVICE_ACTOR, 2**53), "muted"),
        (membership.ChangeRoom(ROOM, SERVICE_ACTOR, membership.Settings(writers="admins")), "forbidden"),
    ],
    ids=["all are muted", "only admins write"],
)
async def test_where_members_may_not_send_only_admins_give_signals(
    team: Place, restricts: membership.RoomDecision, code: str
) -> None:
    await team.log.decide(membership.SetRole(ROOM, ANNA, SERVICE_ACTOR, "admin"))
    await team.log.decide(restricts)

    told = await team.post(f"{PATH}/signals", mid=BEN, json={"type": "wave"})

    assert (403, code) == (told.status, told.code)
    assert [] == team.pushed
    assert 200 == (await team.post(f"{PATH}/signals", mid=ANNA, json={"type": "wave"})).status


async def test_slow_mode_is_for_messages_and_not_for_signals(team: Place) -> None:
    await team.log.decide(membership.ChangeRoom(ROOM, SERVICE_ACTOR, membership.Settings(slow_mode_s=60)))
    await team.send(PATH, BEN, "a message")

    assert 200 == (await team.post(f"{PATH}/typing", mid=BEN, json={})).status


async def test_in_a_room_with_many_members_a_signal_is_answered_and_goes_to_nobody(team: Place) -> None:
    most = team.settings.signals_room_members_max
    await team.room("group://large", ANNA, *range(1_000, 1_000 + most - 1))
    assert 200 == (await team.post("/v1/rooms/group/large/typing", mid=ANNA, json={})).status
    assert 1 == len(team.pushed)
    await team.log.decide(membership.Join("group://large", person(BEN), may_create=False))
    assert 200 == (await team.post("/v1/rooms/group/large/typing", mid=ANNA, json={})).status
    assert 1 == len(team.pushed)


@pytest.mark.parametrize(("size", "status"), [(1_022, 200), (1_023, 413)])
async def test_the_body_of_a_signal_has_a_limit(team: Place, size: int, status: int) -> None:
    """1,024 bytes, with the quotes."""
    told = await team.post(f"{PATH}/signals", mid=ANNA, json={"type": "blob", "body": "x" * size})
    assert status == told.status
    assert (status == 200) is bool(team.pushed)


@pytest.mark.parametrize("name", ["", "Upper", "a:b", "1", "a" * 33, "a b", None])
async def test_a_signal_has_a_name(team: Place, name: object) -> None:
    told = await team.post(f"{PATH}/signals", mid=ANNA, json={"type": name})
    assert (400, "bad_request") == (told.status, told.code)


async def test_signals_have_a_pace_of_their_own(database_url: str) -> None:
    async with serving(database_url, user_signals_burst=3, user_signals_per_s=0.001) as place:
        await place.room(ROOM, ANNA, BEN)
        for _ in range(3):
            assert 200 == (await place.post(f"{PATH}/typing", mid=ANNA, json={})).status
        told = await place.post(f"{PATH}/typing", mid=ANNA, json={})
        assert (429, "rate_limited") == (told.status, told.code)
        assert 200 == (await place.post(f"{PATH}/typing", mid=BEN, json={})).status
        assert 201 == (await place.send(PATH, ANNA, "a message")).status


# --- the table --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["watch", "unwatch"])
async def test_watching_is_for_connections(team: Place, verb: str) -> None:
    method = "POST" if verb == "watch" else "DELETE"
    told = await team.ask(method, "/v1/presence/watch", mid=ANNA, json={"mids": [BEN]} if verb == "watch" else None)
    assert told.status in (404, 405)
    assert "yes" == table().verdict(f"presence.{verb}", "user")


async def test_without_a_token_nobody_is_told_anything(team: Place) -> None:
    for method, path in (("GET", "/v1/presence"), ("PUT", "/v1/presence"), ("GET", f"{PATH}/presence")):
        async with team.session.request(method, f"{team.url}{path}") as response:
            assert 401 == response.status
    with pytest.raises(Unauthenticated):
        table().check("rooms.typing", ANONYMOUS.actor, "member")
