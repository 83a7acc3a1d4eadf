"""A logout, a suspension, a change of role: from there on tokens are worth nothing, in every process, within two seconds."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from accounts.place import CHEAP, PASSWORD, logged_in, registered, show, somebody
from api.place import Answer, Place, serving
from imcore.accounts.revocations import LOOK_S, MARGIN_S, Revocations
from imcore.api.app import REQUESTS
from imcore.auth import PERSON_TOKEN_S_MAX, Identity, mint
from imcore.errors import Unauthenticated
from imcore.events.names import Pool
from imcore.events.types import (
    AccountDeactivated,
    AccountSuspended,
    Fact,
    LoggedOut,
    PlatformRoleChanged,
    Recorded,
    SuspensionLifted,
)
from waiting import eventually

SOON_S = 2.0
NOW_MS = 1_000_000


def event(position: int, fact: Fact, mid: int = 7, time_ms: int = NOW_MS) -> Recorded:
    body = fact.model_dump_json()
    return Recorded(position, f"user:{mid}", 1, 0, fact.type, 1, mid, "", None, 0, 0, time_ms, body)


def knowing(*events: Recorded, now_ms: int = NOW_MS) -> Revocations:
    known = Revocations(10, now=lambda: now_ms / 1000)
    known.take(events)
    return known


def is_refused(known: Revocations, as_of: int | None = 1, sid: str = "s", mid: int = 7, issued_at: int = 0) -> bool:
    try:
        known.check(Identity(mid, sid=sid, as_of=as_of, issued_at=issued_at))
    except Unauthenticated:
        return True
    return False


def test_a_logout_of_one_login_is_not_anothers() -> None:
    known = knowing(event(5, LoggedOut(mid=7, sids=("s", "t"), everywhere=False)))

    assert [True, True, False] == [is_refused(known, sid=sid) for sid in ("s", "t", "u")]
    assert is_refused(known, as_of=99), "a login that is over is over"


@pytest.mark.parametrize(
    "fact",
    [LoggedOut(mid=7, sids=(), everywhere=True), PlatformRoleChanged(mid=7, role="user")],
    ids=lambda fact: fact.type,
)
def test_tokens_that_knew_less_are_refused_and_others_are_not(fact: Fact) -> None:
    known = knowing(event(5, fact))

    assert [True, False, False] == [is_refused(known, as_of) for as_of in (4, 5, 6)]
    assert not is_refused(known, mid=8)
    assert not is_refused(known, as_of=None), "who came without a token is somebody else's business"


def test_a_foreign_token_is_compared_by_its_time() -> None:
    known = knowing(event(5, LoggedOut(mid=7, sids=(), everywhere=True)))

    assert [True, True, False] == [is_refused(known, 0, "", issued_at=at) for at in (0, 1000, 1001)]


@pytest.mark.parametrize("fact", [AccountSuspended(mid=7, reason="", sids=()), AccountDeactivated(mid=7, sids=())])
def test_who_is_shut_out_is_so_however_he_comes(fact: Fact) -> None:
    known = knowing(event(5, fact))

    assert all(is_refused(known, as_of, "") for as_of in (None, 0, 99))
    known.take([event(6, SuspensionLifted(mid=7))])
    assert [True, False] == [is_refused(known, as_of) for as_of in (4, 6)]


def test_what_no_token_can_be_from_is_forgotten_but_not_who_is_shut_out() -> None:
    now_ms = NOW_MS
    known = Revocations(10, now=lambda: now_ms / 1000)
    for n in range(100):
        known.take([event(n, LoggedOut(mid=n, sids=(), everywhere=True), n, now_ms)])
        known.take([event(n, LoggedOut(mid=n, sids=(f"s{n}",), everywhere=False), n, now_ms)])
    known.take([event(200, AccountSuspended(mid=1, reason="", sids=()), 1, now_ms)])
    now_ms += int((900 + 10 + MARGIN_S) * 1000) + 1
    for n in range(300, 400):
        known.take([event(n, LoggedOut(mid=n, sids=(f"s{n}",), everywhere=False), n, now_ms)])

    assert (99, 100, {1}) == (len(known.voided), len(known.ended), known.shut), "a token without a login may be older"
    now_ms = NOW_MS + int((3600 + 10 + MARGIN_S) * 1000) + 1
    for n in range(400, 500):
        known.take([event(n, LoggedOut(mid=n, sids=(f"s{n}",), everywhere=False), n, now_ms)])

    assert (0, 100, {1}) == (len(known.voided), len(known.ended), known.shut)


async def test_a_token_from_before_the_life_of_tokens_was_made_short_is_ended_for_its_whole_life(
    database_url: str,
) -> None:
    """By a server that has begun anew, too."""
    async with serving(database_url, auth_mode="jwt", **CHEAP) as before:
        one, other = await somebody(before), await somebody(before, "bob")
        given = mint(before.keys.signing(), now=time.time(), expires_in_s=PERSON_TOKEN_S_MAX, mid=one["mid"])
        await before.post("/v1/logout", token=one["token"], json={"everywhere": True})
        await before.post("/v1/logout", token=other["token"], json={})
        await before.pool.execute(  # as it will be in fourteen minutes
            "UPDATE logouts SET voided_ms = greatest(voided_ms - 840000, 0), "
            "sids = ARRAY(SELECT split_part(one, ' ', 1)::bigint - 840000 || ' ' || split_part(one, ' ', 2) FROM unnest(sids) one)"
        )
        short: dict[str, Any] = {**CHEAP, "access_token_s": 10.0}
        async with serving(database_url, auth_mode="jwt", keys=before.keys, **short) as after:
            tokens = (one["token"], other["token"])
            assert [401, 401] == [(await after.get("/v1/account", token=token)).status for token in tokens]
            known = after.accounts.revocations
            assert ([one["mid"]], 1) == (list(known.voided), len(known.ended))
            with pytest.raises(Unauthenticated):
                known.check(Identity(one["mid"], as_of=0, issued_at=int(time.time()) - 1_000))
        assert 401 == (await before.get("/v1/account", token=given)).status


def test_what_is_known_already_changes_nothing() -> None:
    lifted, shut = event(6, SuspensionLifted(mid=7)), event(5, AccountSuspended(mid=7, reason="", sids=()))
    known = knowing(shut, lifted, shut, lifted)

    assert not is_refused(known, 6)


# --- over HTTP -------------------------------------------------------------------------------------------------------------------


async def test_a_logout_ends_this_device_and_no_other(guarded: Place) -> None:
    phone, laptop = await somebody(guarded), await logged_in(guarded)

    assert 200 == (await guarded.post("/v1/logout", token=phone["token"], json={})).status

    assert [401, 200] == [(await show(guarded, who)).status for who in (phone, laptop)]
    assert 401 == (await guarded.post("/v1/refresh", token="", json={"refresh_token": phone["refresh_token"]})).status


async def test_a_logout_everywhere_ends_every_device_and_a_new_login_is_good(guarded: Place) -> None:
    devices = [await somebody(guarded), *[await logged_in(guarded) for _ in range(3)]]

    body = {"everywhere": True}
    assert 200 == (await guarded.post("/v1/logout", token=devices[0]["token"], json=body)).status

    assert [401] * 4 == [(await show(guarded, who)).status for who in devices]
    for who in devices:
        told = await guarded.post("/v1/refresh", token="", json={"refresh_token": who["refresh_token"]})
        assert 401 == told.status
    assert 200 == (await show(guarded, await logged_in(guarded))).status


async def test_devices_are_listed_and_removed(guarded: Place) -> None:
    await registered(guarded)
    phone, laptop = await logged_in(guarded, key="phone", platform="ios"), await logged_in(guarded, key="lap top/é")

    listed = (await guarded.get("/v1/devices", token=phone["token"])).json["devices"]
    assert [("lap top/é", "", False), ("phone", "ios", True)] == [
        (one["key"], one["platform"], one["current"]) for one in listed
    ]
    removed = await guarded.delete("/v1/devices/lap%20top%2F%C3%A9", token=phone["token"])
    assert 200 == removed.status, removed.raw
    assert (await guarded.delete("/v1/devices/nothing", token=phone["token"])).json["unchanged"]
    assert [200, 401] == [(await show(guarded, who)).status for who in (phone, laptop)]
    assert ["phone"] == [one["key"] for one in (await guarded.get("/v1/devices", token=phone["token"])).json["devices"]]


async def test_another_password_ends_all_logins_and_begins_one(guarded: Place) -> None:
    phone, laptop = await somebody(guarded), await logged_in(guarded)
    wrong = {"old": "not the password", "new": "another password"}
    assert (401, "wrong_login") == _said(await guarded.put("/v1/account/password", token=phone["token"], json=wrong))

    body = {"old": PASSWORD, "new": "another password", "key": "phone"}
    changed = await guarded.put("/v1/account/password", token=phone["token"], json=body)

    assert 200 == changed.status, changed.raw
    assert [401, 401, 200] == [(await show(guarded, who)).status for who in (phone, laptop, changed.json)]
    assert "phone" == changed.json["auth"]["key"]
    old = {"login": "alice", "password": PASSWORD}
    assert 401 == (await guarded.post("/v1/login", token="", json=old)).status
    new = {"login": "alice", "password": "another password"}
    assert 200 == (await guarded.post("/v1/login", token="", json=new)).status
    assert 1 == await guarded.pool.fetchval("SELECT count(*) FROM credentials")


async def test_a_device_is_who_it_was_after_another_password(guarded: Place) -> None:
    """Its key names it in the log: with another it would be a device that was never here. What it says anew is so from then on."""
    await registered(guarded)
    device: dict[str, Any] = {"key": "phone", "platform": "ios", "room_id": "live://7", "accepts": [1000]}
    phone = await logged_in(guarded, **device)
    assert device == {name: phone["auth"][name] for name in device}

    words = (PASSWORD, "another password", "a third password")
    for old, new, said in ((*words[:2], {}), (*words[1:], {"platform": "", "accepts": [1001]})):
        changed = await guarded.put("/v1/account/password", token=phone["token"], json={"old": old, "new": new, **said})
        assert 200 == changed.status, changed.raw
        phone, device = changed.json, {**device, **said}
        assert device == {name: phone["auth"][name] for name in device}


async def test_no_login_with_the_old_password_outlives_the_change(guarded: Place) -> None:
    """However the two race: a login that was let in before the change is ended by it, and none is let in after it."""
    for n in range(20):
        who = await somebody(guarded, f"alice{n}")
        body = {"old": PASSWORD, "new": "another password"}
        login = {"login": f"alice{n}", "password": PASSWORD}
        changed, *logins = await asyncio.gather(
            guarded.put("/v1/account/password", token=who["token"], json=body),
            *(guarded.post("/v1/login", token="", json=login) for _ in range(4)),
        )
        assert 200 == changed.status
        for one in logins:
            assert one.status in (200, 401)
            if one.status == 200:
                assert 401 == (await show(guarded, one.json)).status


async def test_who_gave_the_account_up_is_gone_and_the_name_stays(guarded: Place) -> None:
    who = await somebody(guarded)

    assert 200 == (await guarded.delete("/v1/account", token=who["token"])).status

    assert 401 == (await show(guarded, who)).status
    body = {"login": "alice", "password": PASSWORD}
    assert (403, "account_inactive") == _said(await guarded.post("/v1/login", token="", json=body))
    assert 409 == (await guarded.post("/v1/accounts", token="", json=body)).status
    assert (403, "account_inactive") == _said(await guarded.put(f"/v1/accounts/{who['mid']}/suspension", json={}))


async def test_what_is_taken_back_is_so_in_another_process_and_after_a_restart(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes on one database, with one folder of keys; the second hears of it by looking, and the next look is as far away as
    the last one."""
    assert 2 * LOOK_S < SOON_S
    looks, look = Counter[Revocations](), Revocations.look

    async def counting(known: Revocations, pool: Pool) -> None:
        await look(known, pool)
        looks[known] += 1

    monkeypatch.setattr(Revocations, "look", counting)
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(serving(database_url, auth_mode="jwt", **CHEAP))
        other = await stack.enter_async_context(serving(database_url, auth_mode="jwt", keys=one.keys, **CHEAP))
        people = [await somebody(one, f"alice{n}") for n in range(4)]
        assert [200] * 4 == [(await show(other, who)).status for who in people]

        await one.post("/v1/logout", token=people[0]["token"], json={})
        await one.post("/v1/logout", token=people[1]["token"], json={"everywhere": True})
        await one.put(f"/v1/accounts/{people[2]['mid']}/suspension", json={})
        await one.put(f"/v1/accounts/{people[3]['mid']}/role", json={"role": "moderator"})
        known = other.accounts.revocations
        seen = looks[known]
        await eventually(
            lambda: asyncio.sleep(0, looks[known] >= seen + 2)
        )  # the first may be one that had begun before
        assert [401] * 4 == [(await show(other, who)).status for who in people]
        assert [401] * 4 == [(await show(one, who)).status for who in people]
        third = await stack.enter_async_context(serving(database_url, auth_mode="jwt", keys=one.keys, **CHEAP))
        assert [401] * 4 == [(await show(third, who)).status for who in people]
        raised = (await one.post("/v1/refresh", token="", json={"refresh_token": people[3]["refresh_token"]})).json
        assert "moderator" == raised["role"]
        assert [200] * 3 == [(await show(place, raised)).status for place in (one, other, third)]


async def test_who_logs_out_before_a_body_is_there_has_asked_for_nothing(guarded: Place) -> None:
    who, rest = await somebody(guarded), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"name":'
        await rest.wait()
        yield b'"Bob"}'

    headers = {"Content-Type": "application/json"}
    asking = asyncio.create_task(guarded.patch("/v1/account", token=who["token"], data=slowly(), headers=headers))
    await eventually(lambda: _is_under_way(guarded, 1))
    assert 200 == (await guarded.post("/v1/logout", token=who["token"], json={})).status
    rest.set()

    assert (401, "unauthenticated") == _said(await asking)
    assert "alice" == (await show(guarded, await logged_in(guarded))).json["name"]


async def _is_under_way(place: Place, count: int) -> bool:
    """Are so many known for who they are?"""
    return count == place.app[REQUESTS].under_way


def _said(answer: Answer) -> tuple[int, object]:
    return answer.status, answer.code
