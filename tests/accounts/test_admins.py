"""What admins and moderators may do to others, who they are under the lock, and that it is written down."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from accounts.place import PASSWORD, logged_in, registered, show, somebody
from api.place import Answer, Place
from imcore import reads
from imcore.accounts.decisions import Note, Register, Suspend
from imcore.api.services import SERVICES
from imcore.auth import Identity
from imcore.errors import AccountInactive, Forbidden, NoSuchRoom, Unauthenticated
from imcore.events.types import AccountRegistered
from imcore.permissions import Actor
from imcore.verbs import VERBS
from imcore.verbs.call import Verbs
from imcore.verbs.verb import Caller

Who = dict[str, Any]


async def suspend(place: Place, mid: int, by: Who, reason: str = "spam") -> Answer:
    return await place.put(f"/v1/accounts/{mid}/suspension", token=by["token"], json={"reason": reason})


async def set_role(place: Place, mid: int, by: Who, role: str) -> Answer:
    return await place.put(f"/v1/accounts/{mid}/role", token=by["token"], json={"role": role})


async def test_who_is_suspended_is_out_until_it_is_lifted(guarded: Place) -> None:
    one, boss = await somebody(guarded), await somebody(guarded, "boss", role="admin")

    assert 200 == (await suspend(guarded, one["mid"], boss)).status
    assert (await suspend(guarded, one["mid"], boss)).json["unchanged"]

    assert 401 == (await show(guarded, one)).status
    refused = await guarded.post("/v1/login", token="", json={"login": "alice", "password": PASSWORD})
    assert (403, "account_inactive") == (refused.status, refused.code)
    assert 401 == (await guarded.post("/v1/refresh", token="", json={"refresh_token": one["refresh_token"]})).status
    lifted = await guarded.delete(f"/v1/accounts/{one['mid']}/suspension", token=boss["token"])
    assert 200 == lifted.status
    assert 401 == (await show(guarded, one)).status, "its tokens from before stay worthless"
    assert 401 == (await guarded.post("/v1/refresh", token="", json={"refresh_token": one["refresh_token"]})).status
    assert 200 == (await show(guarded, await logged_in(guarded))).status


async def test_who_owns_a_room_alone_gives_it_away_before_its_account(guarded: Place) -> None:
    """The room is named. One that nobody else is in, one with another owner, and one that was dismissed hold nobody."""
    one, other = await somebody(guarded), await somebody(guarded, "other")
    for name, members in (("empty", []), ("team", [other["mid"]]), ("gone", [other["mid"]])):
        made = {"room": f"group://{name}", "members": members}
        assert 201 == (await guarded.post("/v1/rooms", token=one["token"], json=made)).status
    assert 200 == (await guarded.delete("/v1/rooms/group/gone", token=one["token"])).status

    refused = await guarded.delete("/v1/account", token=one["token"])

    assert (403, "forbidden") == (refused.status, refused.code)
    assert "group://team" in refused.json["detail"]
    assert 200 == (await show(guarded, one)).status, "nothing was ended by that"
    given = await guarded.put("/v1/rooms/group/team/owner", token=one["token"], json={"mid": other["mid"]})
    assert 200 == given.status
    assert 200 == (await guarded.delete("/v1/account", token=one["token"])).status


async def test_who_gives_its_account_up_owns_no_room_beside_others(guarded: Place) -> None:
    """So the other owner is the last, who leaves the room without one neither by going out nor by giving up its account."""
    one, other = await somebody(guarded), await somebody(guarded, "other")
    made = {"room": "group://team", "members": [other["mid"], 7]}
    assert 201 == (await guarded.post("/v1/rooms", token=one["token"], json=made)).status
    path = f"/v1/rooms/group/team/members/{one['mid']}/role"
    raised = await guarded.put(f"/v1/rooms/group/team/members/{other['mid']}/role", json={"role": "owner"})
    assert 200 == raised.status

    given_up = await guarded.delete("/v1/account", token=other["token"])

    assert 200 == given_up.status
    assert [one["mid"]] == (await guarded.get("/v1/rooms/group/team", token=one["token"])).json["owners"]
    assert 403 == (await guarded.put(path, token=one["token"], json={"role": "member"})).status
    assert 403 == (await guarded.post("/v1/rooms/group/team/leave", token=one["token"])).status
    assert 403 == (await guarded.delete("/v1/account", token=one["token"])).status


async def test_a_room_is_not_given_to_who_has_given_its_account_up(guarded: Place) -> None:
    one, other = await somebody(guarded), await somebody(guarded, "other")
    made = {"room": "group://team", "members": [other["mid"]]}
    assert 201 == (await guarded.post("/v1/rooms", token=one["token"], json=made)).status
    assert 200 == (await guarded.delete("/v1/account", token=other["token"])).status

    given = await guarded.put("/v1/rooms/group/team/owner", token=one["token"], json={"mid": other["mid"]})

    assert (400, "bad_request") == (given.status, given.code)


@pytest.mark.parametrize(
    ("role", "of", "allowed"),
    [
        ("user", "user", False), ("moderator", "user", True), ("moderator", "moderator", False), ("moderator", "admin", False),
        ("admin", "user", True), ("admin", "moderator", True), ("admin", "admin", False),
    ],
)  # fmt: skip
async def test_one_suspends_those_below_oneself(guarded: Place, role: str, of: str, allowed: bool) -> None:
    by, whom = await somebody(guarded, "judge", role=role), await somebody(guarded, "other", role=of)

    told = await suspend(guarded, whom["mid"], by)

    assert (200 if allowed else 403) == told.status
    assert (401 if allowed else 200) == (await show(guarded, whom)).status


async def test_nobody_suspends_himself_or_somebody_who_is_not_there(guarded: Place) -> None:
    boss = await somebody(guarded, "boss", role="admin")

    assert 403 == (await suspend(guarded, boss["mid"], boss)).status
    assert (404, "no_such_account") == ((told := await suspend(guarded, 12345, boss)).status, told.code)
    for mid in ("0", "-1", "x", "9223372036854775808", "%00"):
        path = f"/v1/accounts/{mid}/suspension"
        assert 400 == (await guarded.put(path, token=boss["token"], json={})).status, mid


async def test_nobody_raises_himself(guarded: Place) -> None:
    """Nor anybody above himself; down he may go."""
    mod, boss = await somebody(guarded, "mod", role="moderator"), await somebody(guarded, "boss", role="admin")
    one = await somebody(guarded)

    for who in (one, mod):
        for role in ("moderator", "admin"):
            assert 403 == (await set_role(guarded, who["mid"], who, role)).status
            assert 403 == (await set_role(guarded, one["mid"], who, role)).status
    assert 403 == (await set_role(guarded, boss["mid"], mod, "user")).status
    for role in ("service", "guest", "anonymous", "root", ""):
        assert 400 == (await set_role(guarded, one["mid"], boss, role)).status
    other = await somebody(guarded, "second", role="admin")
    assert 403 == (await set_role(guarded, other["mid"], boss, "user")).status, "one of the same role is not below"
    assert 200 == (await set_role(guarded, mod["mid"], boss, "admin")).status
    assert 200 == (await set_role(guarded, boss["mid"], boss, "user")).status
    assert 401 == (await show(guarded, boss)).status
    assert "user" == (await logged_in(guarded, "boss"))["role"]


async def test_an_admin_who_is_none_any_more_is_refused_whatever_his_token_says(guarded: Place) -> None:
    """The decision looks at the row: here two take the role from each other at once, and one of them is too late."""
    for n in range(10):
        first, second = [await somebody(guarded, f"boss{n}x{m}", role="moderator") for m in range(2)]
        victim = await registered(guarded, f"victim{n}")
        told = await asyncio.gather(
            guarded.put(f"/v1/accounts/{first['mid']}/role", json={"role": "user"}),
            *(suspend(guarded, victim, first, str(m)) for m in range(6)),
            suspend(guarded, victim, second),
        )
        assert 200 == told[0].status
        assert 200 == told[-1].status
        rows = await guarded.pool.fetch(
            "SELECT position, type, mid FROM event_log WHERE type IN ('platform_role_changed', 'account_suspended') "
            "AND stream = ANY($1::text[]) ORDER BY position",
            [f"user:{first['mid']}", f"user:{victim}"],
        )
        kinds = [row["type"] for row in rows if row["mid"] in (0, first["mid"])]
        taken = len(kinds) - 1 - kinds[::-1].index("platform_role_changed")
        assert "account_suspended" not in kinds[taken:]


async def test_who_is_no_admin_any_more_registers_nobody_and_makes_no_codes(guarded: Place) -> None:
    """Whatever its token says, until every door knows."""
    boss = await somebody(guarded, "boss", role="admin")
    claimed = Actor(boss["mid"], "admin")
    fact = AccountRegistered(
        mid=77, login="new", handle="new", name="new", role="user", active=True, credential="c", code=""
    )
    assert 200 == (await guarded.put(f"/v1/accounts/{boss['mid']}/role", json={"role": "moderator"})).status

    for decision in (Register(fact, claimed), Note("codes.create", claimed)):
        with pytest.raises(Forbidden):
            await guarded.log.decide(decision)
    assert 200 == (await guarded.put(f"/v1/accounts/{boss['mid']}/role", json={"role": "admin"})).status
    assert 200 == (await suspend(guarded, boss["mid"], {"token": None})).status
    with pytest.raises(Unauthenticated):
        await guarded.log.decide(Register(fact, claimed))
    with pytest.raises(AccountInactive):
        await guarded.log.decide(Note("codes.create", claimed))


async def test_who_is_no_moderator_any_more_lists_no_accounts_and_no_sessions(guarded: Place) -> None:
    """Whatever its token says, until every door knows. What it lists, it lists as what it is by then."""
    mod, other = await somebody(guarded, "mod", role="admin"), await somebody(guarded, "other")
    verbs, means = Verbs(VERBS), guarded.app[SERVICES].means
    claimed = Caller(Identity(mod["mid"], role="admin"))

    async def lists() -> None:
        await verbs.call(verbs.by_name["accounts.list"], claimed, means, {})
        await verbs.call(verbs.by_name["sessions.list"], claimed, means, {"mid": [other["mid"]]})

    async def told() -> list[tuple[str, str]]:
        acts = (await guarded.get("/v1/audit")).json["acts"]
        return [(act["verb"], act["role"]) for act in acts if act["by"] == mod["mid"]]

    assert 200 == (await guarded.put(f"/v1/accounts/{mod['mid']}/role", json={"role": "moderator"})).status
    await lists()
    before = await told()
    assert [("sessions.list", "moderator"), ("accounts.list", "moderator")] == before
    assert 200 == (await guarded.put(f"/v1/accounts/{mod['mid']}/role", json={"role": "user"})).status
    for name, values in (("accounts.list", {}), ("sessions.list", {"mid": [other["mid"]]})):
        with pytest.raises(Forbidden):
            await verbs.call(verbs.by_name[name], claimed, means, values)
    assert 200 == (await suspend(guarded, mod["mid"], {"token": None})).status
    with pytest.raises((Forbidden, Unauthenticated)):
        await lists()
    assert before == await told(), "nothing was seen"


async def test_who_is_no_admin_any_more_does_not_read_the_audit(guarded: Place) -> None:
    """Which leaves no line in it; its account is looked at all the same, and the token of another issuer's admin stands."""
    boss = (await somebody(guarded, "boss", role="admin"))["mid"]
    verbs, means = Verbs(VERBS), guarded.app[SERVICES].means

    async def reads_it(mid: int) -> None:
        await verbs.call(verbs.by_name["audit.list"], Caller(Identity(mid, role="admin")), means, {})

    await reads_it(boss)
    await reads_it(77)
    assert 200 == (await guarded.put(f"/v1/accounts/{boss}/role", json={"role": "moderator"})).status
    with pytest.raises(Forbidden):
        await reads_it(boss)
    assert 200 == (await suspend(guarded, boss, {"token": None})).status
    with pytest.raises(Unauthenticated):
        await reads_it(boss)


async def test_a_token_that_says_less_than_the_account_may_no_more_than_it_says(guarded: Place) -> None:
    boss, mod = await somebody(guarded, "boss", role="admin"), await somebody(guarded, "mod", role="moderator")
    one = await registered(guarded)

    for decision in (
        Suspend(mod["mid"], Actor(boss["mid"], "moderator"), reason="", sids=[]),
        Suspend(one, Actor(boss["mid"], "user"), reason="", sids=[]),
        Note("codes.create", Actor(boss["mid"], "moderator")),
    ):
        with pytest.raises(Forbidden):
            await guarded.log.decide(decision)
    assert await guarded.log.decide(Suspend(one, Actor(boss["mid"], "moderator"), reason="", sids=[]))
    acts = (await guarded.get("/v1/audit")).json["acts"]
    assert ("accounts.suspend", "moderator") == (acts[0]["verb"], acts[0]["role"])


async def test_who_is_no_moderator_any_more_looks_into_no_room(guarded: Place) -> None:
    """And nothing is audited, for nothing was seen."""
    mod = await somebody(guarded, "mod", role="moderator")
    await guarded.room("group://1", 5, public=False)
    claimed = Actor(mod["mid"], "moderator")
    await reads.history(guarded.reads, "group://1", claimed, limit=10)
    assert 200 == (await guarded.put(f"/v1/accounts/{mod['mid']}/role", json={"role": "user"})).status
    acts = (await guarded.get("/v1/audit")).json["acts"]
    assert ["accounts.set_role", "messages.history"] == [act["verb"] for act in acts][:2]

    for looking in (
        reads.history(guarded.reads, "group://1", claimed, limit=10),
        reads.members(guarded.reads, "group://1", claimed, limit=10),
    ):
        with pytest.raises(NoSuchRoom):
            await looking

    assert acts == (await guarded.get("/v1/audit")).json["acts"]


async def test_what_is_done_to_others_is_written_down(guarded: Place) -> None:
    one, boss = await somebody(guarded), await somebody(guarded, "boss", role="admin")
    await suspend(guarded, one["mid"], boss, "too loud")
    await guarded.delete(f"/v1/accounts/{one['mid']}/suspension", token=boss["token"])
    await guarded.post("/v1/codes", token=boss["token"], json={"note": "friends"})
    await guarded.patch("/v1/account", token=boss["token"], json={"name": "The Boss"})

    first = (await guarded.get("/v1/audit?limit=2", token=boss["token"])).json
    second = (await guarded.get(f"/v1/audit?limit=2&after={first['next']}", token=boss["token"])).json

    acts = [*first["acts"], *second["acts"]]
    assert [
        ("codes.create", boss["mid"], None, "friends"),
        ("accounts.restore", boss["mid"], one["mid"], ""),
        ("accounts.suspend", boss["mid"], one["mid"], "too loud"),
        ("accounts.set_role", 0, boss["mid"], "admin"),
    ] == [(act["verb"], act["by"], act["mid"], act["detail"]) for act in acts]
    assert "next" not in second


async def test_the_audit_the_list_and_codes_are_not_for_users(guarded: Place) -> None:
    one = await somebody(guarded)
    for method, path in (("GET", "/v1/audit"), ("GET", "/v1/accounts"), ("POST", "/v1/codes")):
        body: object = {} if method == "POST" else None
        assert 403 == (await guarded.ask(method, path, token=one["token"], json=body)).status
        told = await guarded.ask(method, path, token="", json=body)
        assert 401 == told.status, path


async def test_accounts_are_listed_page_by_page_and_found_by_a_part_of_a_name(guarded: Place) -> None:
    mids = {login: await registered(guarded, login, name=f"Person {login}") for login in ("anna", "bernd", "carla")}
    boss = await somebody(guarded, "boss", role="admin")
    await suspend(guarded, mids["bernd"], boss)

    async def listed(query: str) -> list[str]:
        found: list[str] = []
        after = 0
        while True:
            page = (await guarded.get(f"/v1/accounts?limit=2&after={after}{query}", token=boss["token"])).json
            found += [one["login"] for one in page["accounts"]]
            assert len(page["accounts"]) <= 2
            if "next" not in page:
                return sorted(found)
            after = page["next"]

    assert ["anna", "bernd", "boss", "carla"] == await listed("")
    assert ["bernd"] == await listed("&state=suspended")
    assert ["anna", "carla"] == sorted({*await listed("&search=PERSON%20a"), *await listed("&search=carl")})
    assert [] == await listed("&search=%25")
    assert [] == await listed("&search=_")


async def test_what_is_done_and_seen_by_right_alone_is_written_down_with_what_it_was(guarded: Place) -> None:
    """In a room that the admin is not in; of sessions and accounts that are others'."""
    one, two = await somebody(guarded), await somebody(guarded, "bob")
    boss = await somebody(guarded, "boss", role="admin")
    room, token = "/v1/rooms/group/theirs", boss["token"]
    made = {"room": "group://theirs", "members": [two["mid"]], "kind": "private"}
    assert 201 == (await guarded.post("/v1/rooms", token=one["token"], json=made)).status
    said = {"id": "0190a5d2-7c1e-7b3a-9f00-1234567890ab", "body": "hi"}
    seq = (await guarded.post(f"{room}/messages", token=one["token"], json=said)).json["seq"]
    member, many = f"{room}/members/{two['mid']}", 10**15
    before = (await guarded.get("/v1/audit?limit=1", token=token)).json["acts"][0]["seq"]

    for told in [
        await guarded.patch(room, token=token, json={"title": "Ours", "topic": "t"}),
        await guarded.put(f"{member}/role", token=token, json={"role": "admin"}),
        await guarded.put(f"{member}/mute", token=token, json={"until_ms": 4_000_000_000_000}),
        await guarded.put(f"{room}/bans/{two['mid']}", token=token, json={"reason": "too loud"}),
        await guarded.put(f"{room}/pins/{seq}", token=token, json={}),
        await guarded.delete(f"{room}/messages/{seq}", token=token),
        await guarded.get("/v1/accounts?search=bo%40example.org", token=token),
        await guarded.get("/v1/accounts", token=token),
        await guarded.get(f"/v1/sessions?mid={one['mid']}", token=token),
        await guarded.get(f"/v1/sessions?mid={one['mid']}&mid={two['mid']}", token=token),
        await guarded.get("/v1/sessions?" + "&".join(f"mid={many + n}" for n in range(500)), token=token),
        await guarded.get(f"/v1/sessions?mid={boss['mid']}", token=token),
        await guarded.get(f"/v1/sessions?mid={one['mid']}"),
    ]:
        assert 200 == told.status, told.raw

    acts = (await guarded.get("/v1/audit", token=token)).json["acts"]
    ours, a, b = "group://theirs", one["mid"], two["mid"]
    assert [
        ("rooms.change", ours, None, "title, topic"),
        ("rooms.set_role", ours, b, "admin"),
        ("rooms.mute", ours, b, "until 4000000000000"),
        ("rooms.ban", ours, b, "too loud"),
        ("pins.add", ours, None, f"message {seq}"),
        ("messages.recall", ours, a, f"message {seq}"),
        ("accounts.list", "", None, "a search"),
        ("accounts.list", "", None, ""),
        ("sessions.list", "", a, ""),
        ("sessions.list", "", None, f"{a},{b}"),
        ("sessions.list", "", None, "500 people: " + "".join(f"{many + n}," for n in range(8)) + "…"),
    ] == [(act["verb"], act["room"], act["mid"], act["detail"]) for act in reversed(acts) if act["seq"] > before]
    assert {boss["mid"]} == {act["by"] for act in acts if act["seq"] > before}
