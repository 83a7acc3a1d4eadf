"""Who logs in, with what, how often; and what comes of a login."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest

from accounts.place import CHEAP, PASSWORD, logged_in, registered, show, somebody
from api.place import Place, node, serving
from imcore import failpoints
from imcore.accounts import accounts, keeping
from imcore.accounts.passwords import Passwords
from imcore.database import connect
from imcore.events.types import LoginExpired
from imcore.projections import logins, logouts
from imcore.projections.projection import AnyProjection, RowTable, fold
from waiting import eventually


async def test_a_login_says_everything_that_a_client_needs(guarded: Place) -> None:
    """goim's auth packet, the token in it, where to connect, where to send to, and how to come back."""
    guarded.nodes += [node("a", connections=5), node("bb")]
    mid = await registered(guarded)

    told = await logged_in(guarded, key="phone", room_id="live://1", accepts=[1000, 1001], platform="ios")

    auth = {
        "mid": mid,
        "key": "phone",
        "room_id": "live://1",
        "platform": "ios",
        "accepts": [1000, 1001],
        "token": told["token"],
    }
    assert auth == told["auth"]
    assert (["10.0.0.2:3101", "10.0.0.1:3101"], ["ws://10.0.0.2:3102/sub", "ws://10.0.0.1:3102/sub"]) == (
        told["connect"]["tcp"],
        told["connect"]["ws"],
    )
    assert ["wss://10.0.0.2:3103/sub", "wss://10.0.0.1:3103/sub"] == told["connect"]["wss"]
    assert "/v1/rooms/{type}/{name}/messages" == told["send_to"]
    assert {"max_delay": 300, "base_delay": 3, "factor": 1.8, "jitter": 0.3} == told["backoff"]
    claims = jwt.decode(told["token"], options={"verify_signature": False})
    header = jwt.get_unverified_header(told["token"])
    assert ("at+jwt", "EdDSA") == (header["typ"], header["alg"])
    assert {"iss", "aud", "sub", "exp", "iat", "jti", "sid", "role", "as_of"} <= set(claims)
    assert (str(mid), "user", told["sid"], "phone", "ios", "live://1", [1000, 1001]) == tuple(
        claims[name] for name in ("sub", "role", "sid", "key", "platform", "room_id", "accepts")
    )
    assert 0 < claims["exp"] - claims["iat"] <= 900


async def test_the_web_is_told_names(guarded: Place) -> None:
    guarded.nodes.append(node("a", hostname="comet-a.example.com"))
    await registered(guarded)

    told = await logged_in(guarded, platform="web")

    assert ["wss://comet-a.example.com:3103/sub"] == told["connect"]["wss"]


async def test_wrong_is_wrong_whatever_is_wrong(guarded: Place) -> None:
    """No answer says whether there is such a name."""
    await registered(guarded)
    answers = [
        await guarded.post("/v1/login", token="", json=body)
        for body in (
            {"login": "alice", "password": "incorrect horse"},
            {"login": "nobody", "password": PASSWORD},
            {"login": "alice", "password": "x"},
            {"login": "а" + "lice".replace("lice", "лисе"), "password": PASSWORD},
        )
    ]

    assert {(401, "wrong_login")} == {(answer.status, answer.code) for answer in answers}
    assert 1 == len({answer.raw for answer in answers})
    assert 0 == await guarded.pool.fetchval("SELECT count(*) FROM logins")


async def test_a_look_alike_does_not_log_in(guarded: Place) -> None:
    await registered(guarded, "coca")

    told = await guarded.post("/v1/login", token="", json={"login": "соса", "password": PASSWORD})

    assert (401, "wrong_login") == (told.status, told.code)


async def test_a_password_is_the_same_in_each_of_its_unicode_forms(guarded: Place) -> None:
    await guarded.post("/v1/accounts", token="", json={"login": "alice", "password": "mañana 12 ﬁ"})

    told = await guarded.post("/v1/login", token="", json={"login": "alice", "password": "man\u0303ana 12 fi"})

    assert 200 == told.status


async def test_a_hash_of_other_parameters_is_made_anew(database_url: str) -> None:
    async with serving(database_url, auth_mode="jwt", **CHEAP) as place:
        await registered(place)
        before = await place.pool.fetchval("SELECT hash FROM credentials")
    async with serving(database_url, auth_mode="jwt", **{**CHEAP, "password_memory_kib": 16}) as place:
        await logged_in(place)
        after = await place.pool.fetchval("SELECT hash FROM credentials")
        assert "m=8," in before
        assert "m=16," in after
        await logged_in(place)
        assert after == await place.pool.fetchval("SELECT hash FROM credentials")


@asynccontextmanager
async def at_work(passwords: Passwords) -> AsyncIterator[Callable[[], None]]:
    """A password takes its thread, or its place in the line before that, until what is given is called or the block ends."""
    rest = threading.Event()
    work = asyncio.create_task(passwords._run(rest.wait))
    await asyncio.sleep(0)
    try:
        yield rest.set
    finally:
        rest.set()
        await work


async def test_nobody_stands_in_line_twice_because_a_hash_is_to_be_made_anew(database_url: str) -> None:
    """Others wait: then the right password is enough, and a later login makes the hash anew."""
    async with serving(database_url, auth_mode="jwt", **CHEAP) as place:
        await registered(place)
        before = await place.pool.fetchval("SELECT hash FROM credentials")
    async with serving(database_url, auth_mode="jwt", **{**CHEAP, "password_memory_kib": 16}) as place:
        passwords = place.accounts.passwords
        async with at_work(passwords) as of_who_is_here_already_ends:
            login = asyncio.create_task(logged_in(place))
            await eventually(lambda: asyncio.sleep(0, passwords.under_way == 2))
            async with at_work(passwords):  # of who is behind
                of_who_is_here_already_ends()
                await login
                assert before == await place.pool.fetchval("SELECT hash FROM credentials")
        await logged_in(place)
        assert "m=16," in await place.pool.fetchval("SELECT hash FROM credentials")


# --- refreshing ----------------------------------------------------------------------------------------------------------------


async def refresh(place: Place, token: str) -> Any:
    return await place.post("/v1/refresh", token="", json={"refresh_token": token})


async def test_a_refresh_gives_another_token_of_the_same_login(guarded: Place) -> None:
    first = await somebody(guarded)

    second = (await refresh(guarded, first["refresh_token"])).json
    third = (await refresh(guarded, second["refresh_token"])).json

    assert first["sid"] == second["sid"] == third["sid"]
    assert first["auth"] | {"token": ""} == third["auth"] | {"token": ""}
    assert 3 == len({one["token"] for one in (first, second, third)})
    for who in (first, second, third):
        assert 200 == (await show(guarded, who)).status


async def test_a_refresh_token_that_is_used_twice_ends_the_login(strict: Place) -> None:
    """Two have it, and nobody knows which of them is who logged in."""
    first = await somebody(strict)
    second = (await refresh(strict, first["refresh_token"])).json

    stolen = await refresh(strict, first["refresh_token"])

    assert (401, "unauthenticated") == (stolen.status, stolen.code)
    assert 401 == (await refresh(strict, second["refresh_token"])).status
    assert [401, 401] == [(await show(strict, who)).status for who in (first, second)]
    assert 0 == await strict.pool.fetchval("SELECT count(*) FROM refresh_tokens")


async def test_of_two_that_refresh_at_once_at_most_one_gets_a_token(strict: Place) -> None:
    for n in range(10):
        who = await somebody(strict, f"alice{n}")
        told = await asyncio.gather(*(refresh(strict, who["refresh_token"]) for _ in range(4)))

        assert 1 >= [answer.status for answer in told].count(200)
        assert 401 == (await show(strict, who)).status, "it was used twice"


async def test_whoever_lost_the_answer_of_a_refresh_may_ask_again(guarded: Place) -> None:
    """For a moment; then what the lost answer brought is worth nothing, and whoever has it ends the login by it."""
    first = await somebody(guarded)
    lost = (await refresh(guarded, first["refresh_token"])).json

    second = (await refresh(guarded, first["refresh_token"])).json
    third = (await refresh(guarded, second["refresh_token"])).json
    assert first["sid"] == second["sid"] == third["sid"]
    assert 200 == (await show(guarded, third)).status

    assert 401 == (await refresh(guarded, lost["refresh_token"])).status
    assert 401 == (await refresh(guarded, third["refresh_token"])).status


async def test_a_moment_later_it_may_not(guarded: Place) -> None:
    first = await somebody(guarded)
    await refresh(guarded, first["refresh_token"])
    await guarded.pool.execute("UPDATE refresh_tokens SET turned_at = turned_at - interval '11 seconds'")

    assert 401 == (await refresh(guarded, first["refresh_token"])).status
    assert 401 == (await show(guarded, first)).status


@pytest.mark.parametrize("token", ["x", ".", "a.b", "\u00e9.\u00e9", "' OR 1=1 --", "x" * 128])
async def test_what_is_no_refresh_token_is_refused_and_ends_nothing(guarded: Place, token: str) -> None:
    who = await somebody(guarded)

    assert 401 == (await refresh(guarded, token)).status
    assert 401 == (await refresh(guarded, who["token"][:128])).status
    assert 200 == (await refresh(guarded, who["refresh_token"])).status


async def test_a_refresh_token_is_no_access_token_nor_is_a_ticket(guarded: Place) -> None:
    who = await somebody(guarded)
    ticket = (await guarded.post("/v1/tickets", token=who["token"], json={})).json["token"]

    for token in (who["refresh_token"], ticket, ticket.removeprefix("ticket:"), who["sid"]):
        assert 401 == (await guarded.get("/v1/account", token=token)).status
    for token in (ticket, ticket.removeprefix("ticket:")):
        assert 401 == (await refresh(guarded, token)).status


async def test_only_hashes_of_tokens_are_kept(guarded: Place) -> None:
    who = await somebody(guarded)
    ticket = (await guarded.post("/v1/tickets", token=who["token"], json={})).json["token"].removeprefix("ticket:")
    for table in ("refresh_tokens", "tickets", "events", "logins", "accounts", "credentials"):
        kept = repr([tuple(row) for row in await guarded.pool.fetch(f"SELECT * FROM {table}")])
        for secret in (who["token"], *who["refresh_token"].split("."), ticket, PASSWORD):
            assert secret not in kept, table


# --- guests ----------------------------------------------------------------------------------------------------------------------


async def test_a_guest_is_somebody_new_each_time(guarded: Place) -> None:
    one, other = [(await guarded.post("/v1/guests", token="", json={"key": "k"})).json for _ in range(2)]

    assert one["mid"] < 0
    assert other["mid"] < 0
    assert one["mid"] != other["mid"]
    assert "guest" == one["role"]
    again = (await refresh(guarded, one["refresh_token"])).json
    assert (one["mid"], "guest") == (again["mid"], again["role"])
    assert (403, "forbidden") == ((await show(guarded, again)).status, (await show(guarded, again)).code)
    assert 200 == (await guarded.post("/v1/logout", token=again["token"], json={})).status
    assert 401 == (await show(guarded, again)).status
    assert 401 == (await refresh(guarded, again["refresh_token"])).status


async def test_where_guests_may_not_come_none_does(database_url: str) -> None:
    async with serving(database_url, auth_mode="jwt", guests_allowed=False, **CHEAP) as place:
        assert 403 == (await place.post("/v1/guests", token="", json={})).status


# --- not refreshed in time -------------------------------------------------------------------------------------------------------

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
OVER = "SELECT bool_and(expires_at <= now()) FROM refresh_tokens"
EXPIRE = "UPDATE refresh_tokens SET expires_at = now() - interval '1 second'"


async def expire(place: Place, *sids: str) -> None:
    """As if these logins, or all, had not been refreshed for long."""
    await place.pool.execute(f"{EXPIRE} WHERE sid = ANY($1::text[]) OR $1 = '{{}}'", list(sids))


async def rows(place: Place, table: str) -> int:
    counted: int = await place.pool.fetchval(f"SELECT count(*) FROM {table}")
    return counted


async def is_the_fold(place: Place) -> None:
    """Are the rows of logins and logouts what the log says?"""
    events = await place.reads.reader.read(0, 1_000)
    async with place.pool.acquire() as connection:
        both: tuple[AnyProjection, ...] = (logins.projection, logouts.projection)
        for projection in both:
            expected = fold(projection, events)
            table: RowTable[Any] = RowTable(projection)
            assert expected == await table.load(connection, expected.keys())
            assert len(expected) == await rows(place, projection.name)


async def test_a_login_that_has_expired_is_refused_whether_it_was_swept_or_not(guarded: Place) -> None:
    gone, stays = await somebody(guarded), await logged_in(guarded, key="other")
    await expire(guarded, gone["sid"])

    for _ in ("not yet", "then"):
        assert 401 == (await refresh(guarded, gone["refresh_token"])).status
        devices = (await guarded.get("/v1/devices", token=stays["token"])).json["devices"]
        assert [stays["sid"]] == [one["sid"] for one in devices]
        told = await guarded.delete(f"/v1/devices/{gone['auth']['key']}", token=stays["token"])
        assert told.json["unchanged"]
        await guarded.accounts.sweep()

    assert 200 == (await refresh(guarded, stays["refresh_token"])).status


async def test_the_sweep_says_of_each_that_it_is_over_and_once(guarded: Place) -> None:
    """Its row goes by an event, so that a rebuild makes the same rows."""
    gone, stays = await somebody(guarded), await logged_in(guarded)
    await expire(guarded, gone["sid"])

    assert 1 == await guarded.accounts.sweep()
    assert 0 == await guarded.accounts.sweep()

    assert [stays["sid"]] == [row["sid"] for row in await guarded.pool.fetch("SELECT sid FROM logins")]
    assert 1 == await rows(guarded, "refresh_tokens")
    (event,) = [one for one in await guarded.reads.reader.read(0, 100) if one.type == "login_expired"]
    assert (f"user:{gone['mid']}", LoginExpired(mid=gone["mid"], sid=gone["sid"])) == (event.stream, event.fact)
    await is_the_fold(guarded)


async def test_the_sweep_forgets_tickets_at_once_and_codes_after_a_month(guarded: Place) -> None:
    """Who comes with a code that is too old is told so for a while, and not that there is none."""
    for expires_in_s in (60.0, -60.0, -31 * 86_400.0):
        await keeping.keep_ticket(guarded.pool, "{}", "", expires_in_s)
        await keeping.keep_invitation(guarded.pool, uses=1, note="", by=1, expires_in_s=expires_in_s)
        await keeping.keep_activation(guarded.pool, int(expires_in_s), expires_in_s)

    await guarded.accounts.sweep()

    assert [1, 2, 2] == [await rows(guarded, table) for table in ("tickets", "invitation_codes", "activation_codes")]


async def test_two_who_sweep_at_once_say_it_once(guarded: Place) -> None:
    for _ in range(5):
        await guarded.post("/v1/guests", token="", json={})
    await expire(guarded)

    assert 5 == sum(await asyncio.gather(*(guarded.accounts.sweep() for _ in range(3))))


async def test_guests_leave_nothing(guarded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many they are: a few go at a time, until all have."""
    monkeypatch.setattr(accounts, "SWEEP_LOGINS_MAX", 3)
    guests = [(await guarded.post("/v1/guests", token="", json={})).json for _ in range(7)]
    left = guests[0]
    assert 200 == (await guarded.post("/v1/logout", token=left["token"], json={})).status
    assert 401 == (await refresh(guarded, left["refresh_token"])).status
    assert 0 == await guarded.accounts.sweep(), "what ended it is known until no token of it can be about"
    assert (6, 1) == (await rows(guarded, "logins"), await rows(guarded, "logouts"))
    await expire(guarded)
    before = guarded.log.batches

    assert 7 == await guarded.accounts.sweep()

    assert 3 == guarded.log.batches - before
    assert [0] * 3 == [await rows(guarded, table) for table in ("logins", "logouts", "refresh_tokens")]
    await is_the_fold(guarded)


async def test_a_login_that_an_end_of_all_did_not_name_goes_when_it_would_go_on(guarded: Place) -> None:
    """It began when they were counted, or was one too many to be named."""
    who = await somebody(guarded)
    await guarded.accounts.end_logins(who["mid"], [], who["mid"], everywhere=True)
    assert (1, 1) == (await rows(guarded, "logins"), await rows(guarded, "refresh_tokens"))

    assert 401 == (await refresh(guarded, who["refresh_token"])).status

    assert (0, 0) == (await rows(guarded, "logins"), await rows(guarded, "refresh_tokens"))
    await is_the_fold(guarded)


async def test_a_login_that_may_be_there_expires(guarded: Place) -> None:
    """Its outcome was unknown, and nobody has its tokens."""
    await registered(guarded)
    failpoints.arm("after_commit:error")
    try:
        lost = await guarded.post("/v1/login", token="", json={"login": "alice", "password": PASSWORD})
    finally:
        failpoints.arm("")
    assert (503, 1) == (lost.status, await rows(guarded, "logins"))
    await expire(guarded)

    assert 1 == await guarded.accounts.sweep()
    assert (0, 0) == (await rows(guarded, "logins"), await rows(guarded, "refresh_tokens"))


async def test_all_logins_of_a_device_end_however_many_others_there_are(
    guarded: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "LOGINS_MAX", 2)
    await somebody(guarded, "bob")
    await registered(guarded)
    old = [await logged_in(guarded, key="old") for _ in range(3)]
    new = [await logged_in(guarded, key="new") for _ in range(2)]

    told = await guarded.delete("/v1/devices/old", token=new[0]["token"])

    assert (200, True) == (told.status, "position" in told.json)
    assert [401] * 3 + [200] * 2 == [(await show(guarded, who)).status for who in (*old, *new)]
    assert 3 == await rows(guarded, "logins")


async def test_a_token_does_not_outlive_its_login(database_url: str) -> None:
    async with serving(database_url, auth_mode="jwt", access_token_s=900.0, refresh_token_s=60.0, **CHEAP) as place:
        told = await somebody(place)

        claims = jwt.decode(told["token"], options={"verify_signature": False})
        assert (60, 60) == (told["expires_in_s"], claims["exp"] - claims["iat"])


async def test_a_login_whose_refresh_token_is_gone_is_over_too(guarded: Place) -> None:
    """A process of a version that does not say it forgot the token alone, while others were upgraded already."""
    gone = await somebody(guarded)
    guests = [(await guarded.post("/v1/guests", token="", json={})).json for _ in range(3)]
    stays = await logged_in(guarded)
    forgotten = [gone["sid"], *(one["sid"] for one in guests)]
    await guarded.pool.execute("DELETE FROM refresh_tokens WHERE sid = ANY($1::text[])", forgotten)

    assert 4 == await guarded.accounts.sweep()

    assert [stays["sid"]] == [row["sid"] for row in await guarded.pool.fetch("SELECT sid FROM logins")]
    assert 200 == (await refresh(guarded, stays["refresh_token"])).status
    await is_the_fold(guarded)


async def test_all_logins_are_looked_at_once_an_hour_a_few_at_a_time(
    guarded: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "SWEEP_LOGINS_MAX", 2)
    now = time.monotonic()
    monkeypatch.setattr(guarded.accounts, "_clock", lambda: now)
    assert 0 == await guarded.accounts.sweep()
    for _ in range(2):
        for _ in range(5):
            await guarded.post("/v1/guests", token="", json={})
        now += accounts.STRAYS_S - 1
        await guarded.pool.execute("DELETE FROM refresh_tokens")
        assert 0 == await guarded.accounts.sweep()
        now += 1
        assert 5 == await guarded.accounts.sweep()


async def test_a_refresh_that_came_in_time_and_waits_goes_on(guarded: Place, database_url: str) -> None:
    """Nobody says meanwhile that the login is over, though its row looks so."""
    who = await somebody(guarded)
    holder = await connect(database_url)
    waits, within_s = False, 0.1
    try:
        while not waits:  # on a busy machine it may come too late
            within_s *= 2
            soon = "UPDATE refresh_tokens SET expires_at = clock_timestamp() + make_interval(secs => $1)"
            await guarded.pool.execute(soon, within_s)
            async with holder.transaction():
                await holder.execute("SELECT FROM refresh_tokens FOR UPDATE")
                asked = asyncio.create_task(refresh(guarded, who["refresh_token"]))
                while not (asked.done() or waits):
                    waits = await guarded.pool.fetchval(WAITING) > 0
                if waits:
                    await eventually(lambda: guarded.pool.fetchval(OVER))
                    assert 0 == await asyncio.wait_for(guarded.accounts.sweep(), 20)
            told = await asked
    finally:
        await holder.close()
    assert 200 == told.status
    assert 0 == await guarded.accounts.sweep()
    assert 200 == (await refresh(guarded, told.json["refresh_token"])).status


async def test_who_comes_when_a_login_was_taken_for_over_is_too_late(guarded: Place) -> None:
    """Whatever its own clock says."""
    who = await somebody(guarded)
    await expire(guarded)
    assert [who["sid"]] == [one.sid for one in await keeping.take_expired(guarded.pool, 10)]
    await guarded.pool.execute("UPDATE refresh_tokens SET expires_at = now() + interval '1 day'")

    assert 401 == (await refresh(guarded, who["refresh_token"])).status


async def test_what_is_refreshed_at_the_last_moment_is_not_swept(guarded: Place, database_url: str) -> None:
    """The sweep sees the row of before, and asks whose it is before it says anything."""
    who = await somebody(guarded)
    late = await connect(database_url)
    try:
        async with late.transaction():  # it has begun in time
            await guarded.pool.execute("UPDATE refresh_tokens SET expires_at = clock_timestamp()")
            found = await keeping.rotate(late, who["refresh_token"], 60.0, 0.0)
            assert isinstance(found, tuple)
            assert await guarded.pool.fetchval(OVER)
            assert 0 == await asyncio.wait_for(guarded.accounts.sweep(), 20)
    finally:
        await late.close()
    assert isinstance(found[1], str)
    assert 0 == await guarded.accounts.sweep()
    assert 200 == (await refresh(guarded, found[1])).status


async def test_where_nothing_can_be_signed_no_refresh_token_is_used_up(strict: Place) -> None:
    """Else whoever asks again, as it is told to, would be taken for a thief."""
    who, folder = await somebody(strict), strict.keys.folder
    folder.rename(folder.with_name("elsewhere"))
    strict.keys._looked_at = float("-inf")
    before = await rows(strict, "logins")

    for told in (
        await refresh(strict, who["refresh_token"]),
        await strict.post("/v1/login", token="", json={"login": "alice", "password": PASSWORD}),
        await strict.post("/v1/guests", token="", json={}),
    ):
        assert (503, "unavailable") == (told.status, told.code)
    assert before == await rows(strict, "logins")
    assert 200 == (await show(strict, who)).status

    folder.with_name("elsewhere").rename(folder)
    strict.keys._looked_at = float("-inf")
    assert 200 == (await refresh(strict, who["refresh_token"])).status


# --- how often -------------------------------------------------------------------------------------------------------------------

PACED: dict[str, Any] = {**CHEAP, "rate_limits": True, "inbound_frames_burst": 1_000.0}


async def test_one_account_is_tried_so_often_and_no_more(database_url: str) -> None:
    """Whether it is there or not; and the right password helps nobody who has tried too often."""
    few: dict[str, Any] = {"logins_per_account_burst": 3.0, "logins_per_account_per_s": 0.001}
    async with serving(database_url, auth_mode="jwt", **PACED, **few) as place:
        await registered(place)
        for login in ("alice", "nobody"):
            body = {"login": login, "password": "incorrect horse"}
            told = [await place.post("/v1/login", token="", json=body) for _ in range(4)]
            assert [401, 401, 401, 429] == [answer.status for answer in told]
            assert int(told[-1].headers["Retry-After"]) > 60
        assert 429 == (await place.post("/v1/login", token="", json={"login": "ALICE", "password": PASSWORD})).status
        await registered(place, "bob")
        await logged_in(place, "bob")


async def test_one_address_tries_so_often_and_no_more(database_url: str) -> None:
    few: dict[str, Any] = {"logins_per_address_burst": 3.0, "logins_per_address_per_s": 0.001}
    async with serving(database_url, auth_mode="jwt", **PACED, **few) as place:
        told = [
            await place.post("/v1/login", token="", json={"login": f"alice{n}", "password": PASSWORD}) for n in range(4)
        ]
        assert [401, 401, 401, 429] == [answer.status for answer in told]
        for path, body in (
            ("/v1/accounts", {"login": "alice", "password": PASSWORD}),
            ("/v1/guests", {}),
            ("/v1/refresh", {"refresh_token": "x"}),
        ):
            assert 429 == (await place.post(path, token="", json=body)).status, path


async def test_a_storm_of_logins_is_refused_early_and_told_when_to_come_back(database_url: str) -> None:
    """Those beyond the line are answered before those in it, and each of them is told another time."""
    narrow = {**CHEAP, "password_threads": 1, "password_queue_max": 4}
    async with serving(database_url, auth_mode="jwt", **narrow) as place:
        await registered(place)
        retries: list[int] = []

        async def log_in() -> int:
            told = await place.post("/v1/login", token="", json={"login": "alice", "password": PASSWORD})
            if told.status != 200:
                assert (503, "overloaded") == (told.status, told.code)
                retries.append(told.json["retry_after_ms"])
            return told.status

        async with at_work(place.accounts.passwords):
            logins = [asyncio.create_task(log_in()) for _ in range(40)]
            await eventually(lambda: asyncio.sleep(0, len(retries) == 36))
            assert 4 == sum(not login.done() for login in logins)
        assert [200] * 4 + [503] * 36 == sorted(await asyncio.gather(*logins))
        assert len(set(retries)) > len(retries) // 2
        assert 0 == place.accounts.passwords.under_way


async def test_who_is_refused_in_a_storm_asks_nothing_of_the_database(database_url: str) -> None:
    """Else all of them wait for one of its few connections, with everybody else who needs one."""
    narrow = {**CHEAP, "password_threads": 1, "password_queue_max": 1}
    async with serving(database_url, auth_mode="jwt", **narrow) as place:
        passwords, connection = place.accounts.passwords, await connect(database_url)
        async with at_work(passwords) as first_ends, at_work(passwords), connection.transaction():
            await connection.execute("LOCK TABLE accounts, handles, credentials")
            assert 2 == passwords.under_way

            for path in ("/v1/login", "/v1/accounts"):
                told = await place.post(path, token="", json={"login": "alice", "password": PASSWORD})
                assert (503, "overloaded") == (told.status, told.code), path
            first_ends()
        await connection.close()
