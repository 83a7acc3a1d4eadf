"""How somebody comes to have an account, by whose leave, and under which name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from accounts.place import CHEAP, PASSWORD, logged_in, registered, somebody
from api.place import Place, serving
from imcore import failpoints
from imcore.projections import INLINE, code_uses
from imcore.projections.projection import fold


async def test_an_account_is_there_at_once_where_everybody_may_register(guarded: Place) -> None:
    made = await guarded.post(
        "/v1/accounts", token="", json={"login": "Alice", "password": PASSWORD, "name": "A. Liddell"}
    )

    assert (201, "alice", "active") == (made.status, made.json["login"], made.json["state"])
    assert 0 < made.json["mid"] < 2**53
    account = (await guarded.get("/v1/account", token=(await logged_in(guarded))["token"])).json
    assert ("alice", "A. Liddell", "user", "active") == tuple(
        account[name] for name in ("login", "name", "role", "state")
    )


async def test_the_password_is_in_no_event(guarded: Place) -> None:
    await registered(guarded)

    bodies = [row["body"] for row in await guarded.pool.fetch("SELECT body FROM events")]
    hashes = [row["hash"] for row in await guarded.pool.fetch("SELECT hash FROM credentials")]
    assert 1 == len(hashes)
    assert hashes[0].startswith("$argon2id$")
    assert not any(PASSWORD in body or "argon2" in body for body in bodies)


@pytest.mark.parametrize("again", ["alice", "ALICE", "a.lice", "ＡＬＩＣＥ"])
async def test_a_name_is_given_once(guarded: Place, again: str) -> None:
    await registered(guarded)

    taken = await guarded.post("/v1/accounts", token="", json={"login": again, "password": PASSWORD})

    assert (409, "name_taken") == (taken.status, taken.code)


async def test_of_many_who_want_a_name_at_once_one_gets_it(guarded: Place) -> None:
    asked = [
        guarded.post("/v1/accounts", token="", json={"login": name, "password": PASSWORD})
        for name in ("coca", "соса", "co-ca", "COCA") * 3
    ]
    told = [answer.status for answer in await asyncio.gather(*asked)]

    assert [201, *[409] * 11] == sorted(told)
    assert 1 == await guarded.pool.fetchval("SELECT count(*) FROM credentials"), "who was refused leaves nothing"
    assert 1 == await guarded.pool.fetchval("SELECT count(*) FROM accounts")


@pytest.mark.parametrize(
    "body",
    [
        {}, {"login": "alice"}, {"password": PASSWORD}, {"login": "alice", "password": "short"}, {"login": "al", "password": PASSWORD},
        {"login": "alice", "password": "x" * 513}, {"login": "alice", "password": PASSWORD, "role": "admin"},
        {"login": "alice", "password": PASSWORD, "mid": 1}, {"login": "alice", "password": PASSWORD, "state": "active"},
        {"login": "al\0ce", "password": PASSWORD}, {"login": "alice", "password": PASSWORD, "name": "a\u2028b"},
        {"login": "аlice", "password": PASSWORD}, {"login": 7, "password": PASSWORD}, {"login": ["alice"], "password": PASSWORD},
        {"login": "alice", "password": PASSWORD, "invitation": "\0"},
    ],
)  # fmt: skip
async def test_what_is_no_registration_is_refused(guarded: Place, body: dict[str, object]) -> None:
    told = await guarded.post("/v1/accounts", token="", json=body)

    assert told.status == 400, told.raw
    assert 0 == await guarded.pool.fetchval("SELECT count(*) FROM events")


async def test_a_text_of_the_wrong_length_is_told_how_many_characters_it_may_have(guarded: Place) -> None:
    for name, said in (
        ("", "name: string should have at least 1 character"),
        ("x" * 65, "name: string should have at most 64 characters"),
    ):
        told = await guarded.post("/v1/accounts", token="", json={"login": "alice", "password": PASSWORD, "name": name})
        assert (400, said) == (told.status, told.json["detail"])


@pytest.mark.parametrize(
    "name", ["\u202eecila", "a\u2066b", "b\u202c", " \u3000", "\u200b\u200d", "\u3164", "\u2800\u00ad"]
)
async def test_a_name_is_seen_and_leaves_the_text_around_it_alone(guarded: Place, name: str) -> None:
    who = await somebody(guarded)

    told = await guarded.patch("/v1/account", token=who["token"], json={"name": name})

    assert (400, "bad_request") == (told.status, told.code)


@pytest.mark.parametrize("name", ["אליס", "علی‌رضا", "👩‍👩‍👧", "日本 太郎", "a b"])
async def test_names_are_of_any_script(guarded: Place, name: str) -> None:
    who = await somebody(guarded)

    assert 200 == (await guarded.patch("/v1/account", token=who["token"], json={"name": name})).status
    assert name == (await guarded.get(f"/v1/people/{who['mid']}", token=who["token"])).json["name"]


async def test_signs_of_sql_are_only_signs(guarded: Place) -> None:
    """In every field that takes text, and given back as they came."""
    evil = "'; DROP TABLE accounts; -- \\ % _ $$ \" {{7*7}}"
    who = await somebody(guarded)
    changed = await guarded.patch("/v1/account", token=who["token"], json={"name": evil, "extra": {evil: [evil]}})
    assert 200 == changed.status, changed.raw

    shown = (await guarded.get(f"/v1/people/{who['mid']}", token=who["token"])).json
    assert (evil, {evil: [evil]}) == (shown["name"], shown["extra"])
    found = await guarded.get("/v1/accounts?search=%27%3B%20DROP")
    assert [who["mid"]] == [one["mid"] for one in found.json["accounts"]]


# --- by whose leave ------------------------------------------------------------------------------------------------------------


async def test_where_a_code_is_needed_it_is_good_for_as_many_as_it_says(database_url: str) -> None:
    async with serving(database_url, auth_mode="jwt", registration="code", **CHEAP) as place:
        made = await place.post("/v1/codes", json={"uses": 2, "note": "the team"})
        assert 201 == made.status
        code = made.json["code"]
        typed = f" {code[:5].lower()}-{code[5:].lower()} "

        async def register(login: str, invitation: str) -> int:
            body = {"login": login, "password": PASSWORD, "invitation": invitation}
            return (await place.post("/v1/accounts", token="", json=body)).status

        assert 403 == await register("alice", "")
        bare = await place.post("/v1/accounts", token="", json={"login": "alice", "password": PASSWORD})
        assert ("wrong_code", "an invitation code is needed to register here") == (bare.code, bare.json["detail"])
        assert 403 == await register("alice", "ABCDEFGHJKLMNPQRSTUV")
        assert 201 == await register("alice", typed)
        assert 409 == await register("alice", code), "and the code is not used up by that"
        assert 400 == await register("b", code)
        told = await asyncio.gather(*(register(f"bob{n}", code) for n in range(6)))
        assert [201, *[403] * 5] == sorted(told)
        assert 0 == await place.pool.fetchval(
            "SELECT count(*) FROM invitation_codes WHERE encode(hash, 'escape') = $1", code
        )


@pytest.mark.parametrize("place_", ["before_commit", "after_commit"])
async def test_an_invitation_is_used_up_by_an_account_that_is_there(database_url: str, place_: str) -> None:
    """Whoever is told to try again gives the same code: it leads in, or the account is there, and nobody else comes in by it."""
    async with serving(database_url, auth_mode="jwt", registration="code", **CHEAP) as place:
        code = (await place.post("/v1/codes", json={})).json["code"]
        body = {"login": "alice", "password": PASSWORD, "invitation": code}
        failpoints.arm(f"{place_}:error")
        try:
            lost = await place.post("/v1/accounts", token="", json=body)
        finally:
            failpoints.arm("")
        assert (503, True) == (lost.status, lost.json["retry"])

        again = await place.post("/v1/accounts", token="", json=body)

        assert (201 if place_ == "before_commit" else 409) == again.status
        await logged_in(place)
        assert 403 == (await place.post("/v1/accounts", token="", json={**body, "login": "bob"})).status


async def test_an_invitation_is_not_used_up_by_a_password_that_cannot_be_kept(database_url: str) -> None:
    async with serving(database_url, auth_mode="jwt", registration="code", **CHEAP) as place:
        code = (await place.post("/v1/codes", json={})).json["code"]
        body = {"login": "alice", "password": PASSWORD, "invitation": code}
        await place.pool.execute("ALTER TABLE credentials RENAME TO elsewhere")
        assert 503 == (await place.post("/v1/accounts", token="", json=body)).status
        await place.pool.execute("ALTER TABLE elsewhere RENAME TO credentials")

        assert 201 == (await place.post("/v1/accounts", token="", json=body)).status


async def test_the_log_does_not_hold_the_code_but_counts_its_uses(database_url: str) -> None:
    async with serving(database_url, auth_mode="jwt", registration="code", **CHEAP) as place:
        code = (await place.post("/v1/codes", json={"uses": 2})).json["code"]
        await registered(place, invitation=code)

        events = await place.reads.reader.read(0, 100)
        ((name, uses),) = fold(code_uses.projection, events).items()
        assert 1 == uses.used
        (digest,) = [row["hash"].hex() for row in await place.pool.fetch("SELECT hash FROM invitation_codes")]
        bodies = "".join(row["body"] for row in await place.pool.fetch("SELECT body FROM events"))
        assert str(name[0]) in bodies
        assert code not in bodies
        assert digest not in bodies


async def test_where_admins_say_yes_nobody_can_log_in_before(database_url: str) -> None:
    async with serving(database_url, auth_mode="jwt", registration="admin", **CHEAP) as place:
        mid = await registered(place)
        refused = await place.post("/v1/login", token="", json={"login": "alice", "password": PASSWORD})
        assert (403, "account_inactive") == (refused.status, refused.code)
        assert 403 == (await place.post(f"/v1/accounts/{mid}/activation", mid=mid, json={})).status, "not by himself"
        assert 401 == (await place.post(f"/v1/accounts/{mid}/activation", token="x", json={})).status
        assert 403 == (await place.post(f"/v1/accounts/{mid}/activation", token="", json={})).status
        assert 200 == (await place.post(f"/v1/accounts/{mid}/activation", json={})).status
        assert (await place.post(f"/v1/accounts/{mid}/activation", json={})).json["unchanged"]

        assert mid == (await logged_in(place))["mid"]


async def test_where_nobody_may_register_backends_may(database_url: str) -> None:
    async with serving(database_url, auth_mode="jwt", registration="closed", **CHEAP) as place:
        body = {"login": "alice", "password": PASSWORD}
        assert 403 == (await place.post("/v1/accounts", token="", json=body)).status
        assert 201 == (await place.post("/v1/accounts", json=body)).status


@pytest.fixture
async def mailer() -> AsyncIterator[tuple[str, list[dict[str, object]]]]:
    """A backend that sends mails, or would."""
    told: list[dict[str, object]] = []

    async def take(request: web.Request) -> web.Response:
        told.append(await request.json())
        return web.Response(status=204 if "refuse" not in str(told[-1]["email"]) else 500)

    app = web.Application()
    app.router.add_post("/mail", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/mail", told
    await runner.cleanup()


async def test_a_code_is_sent_by_the_backend_and_activates_its_account_only(
    database_url: str, mailer: tuple[str, list[dict[str, object]]]
) -> None:
    url, told = mailer
    async with serving(database_url, auth_mode="jwt", activation_webhook_url=url, **CHEAP) as place:
        assert 400 == (await place.post("/v1/accounts", token="", json={"login": "alice", "password": PASSWORD})).status
        mid = await registered(place, "alice", email="alice@example.com")
        other = await registered(place, "bob", email="refuse@example.com")
        assert [("activation", mid, "alice@example.com"), ("activation", other, "refuse@example.com")] == [
            (one["act"], one["mid"], one["email"]) for one in told
        ]
        code = told[0]["code"]

        assert 403 == (await place.post("/v1/login", token="", json={"login": "alice", "password": PASSWORD})).status
        assert 403 == (await place.post(f"/v1/accounts/{other}/activation", token="", json={"code": code})).status
        assert 403 == (await place.post(f"/v1/accounts/{mid}/activation", token="", json={"code": "WRONG"})).status
        assert 200 == (await place.post(f"/v1/accounts/{mid}/activation", token="", json={"code": code})).status
        assert 403 == (await place.post(f"/v1/accounts/{mid}/activation", token="", json={"code": code})).status, "once"
        assert mid == (await logged_in(place))["mid"]
        everything = "".join(row["body"] for row in await place.pool.fetch("SELECT body FROM events"))
        assert "example.com" not in everything


def wanted(login: str = "alice", **more: object) -> dict[str, object]:
    """The body that has a code sent again."""
    return {"login": login, "password": PASSWORD, "email": f"{login}@example.com", **more}


async def test_a_code_that_did_not_arrive_is_sent_again_and_the_older_one_is_over(
    database_url: str, mailer: tuple[str, list[dict[str, object]]]
) -> None:
    """To another address too: the first may have had a letter too many. And the answer says which account it is."""
    url, told = mailer
    async with serving(database_url, auth_mode="jwt", activation_webhook_url=url, **CHEAP) as place:
        mid = await registered(place, "alice", email="refuse@example.com")

        again = await place.post("/v1/accounts/activation", token="", json=wanted(email="alice@example.com"))

        assert (200, {"mid": mid, "login": "alice", "state": "pending", "code_sent": True}) == (
            again.status,
            again.json,
        )
        first, second = (str(one["code"]) for one in told)
        assert {
            "act": "activation",
            "mid": mid,
            "login": "alice",
            "email": "alice@example.com",
            "code": second,
        } == told[1]
        path = f"/v1/accounts/{mid}/activation"
        assert 403 == (await place.post(path, token="", json={"code": first})).status
        assert 200 == (await place.post(path, token="", json={"code": second})).status
        assert mid == (await logged_in(place))["mid"]
        active = await place.post("/v1/accounts/activation", token="", json=wanted())
        assert ("active", None) == (active.json["state"], active.json["code_sent"])
        assert 2 == len(told), "who is active needs none"
        everything = "".join(row["body"] for row in await place.pool.fetch("SELECT body FROM events"))
        assert "example.com" not in everything


async def test_a_code_that_cannot_be_sent_again_is_told_so(
    database_url: str, mailer: tuple[str, list[dict[str, object]]]
) -> None:
    url, _ = mailer
    async with serving(database_url, auth_mode="jwt", activation_webhook_url=url, **CHEAP) as place:
        await registered(place, "alice", email="alice@example.com")

        again = await place.post("/v1/accounts/activation", token="", json=wanted(email="refuse@example.com"))

        assert (200, False) == (again.status, again.json["code_sent"])


async def test_who_asks_for_a_code_learns_nothing_of_accounts_that_are_not_its_own(
    database_url: str, mailer: tuple[str, list[dict[str, object]]]
) -> None:
    """Of a name that nobody has, of a pending, an active and a suspended account it is told the same; no code of somebody else's goes
    anywhere, nor is the one that was sent worth less."""
    url, told = mailer
    async with serving(database_url, auth_mode="jwt", activation_webhook_url=url, **CHEAP) as place:
        mids = {name: await registered(place, name, email=f"{name}@example.com") for name in ("alice", "bob", "carol")}
        assert 200 == (await place.post(f"/v1/accounts/{mids['bob']}/activation", json={})).status
        assert 200 == (await place.put(f"/v1/accounts/{mids['carol']}/suspension", json={})).status

        answers = [
            await place.post("/v1/accounts/activation", token="", json=wanted(name, password="not the password"))
            for name in ("nobody", "alice", "bob", "carol")
        ]

        assert [(401, "wrong_login")] * 4 == [(one.status, one.code) for one in answers]
        assert 1 == len({one.json["detail"] for one in answers})
        assert 3 == len(told)
        own = await place.post("/v1/accounts/activation", token="", json=wanted("carol"))
        assert (403, "account_inactive") == (own.status, own.code)
        path = f"/v1/accounts/{mids['alice']}/activation"
        assert 200 == (await place.post(path, token="", json={"code": told[0]["code"]})).status


@pytest.mark.parametrize("settings", [{"registration": "admin"}, {"activation_webhook_url": None}])
async def test_where_no_codes_are_sent_none_is_sent_again(
    database_url: str, mailer: tuple[str, list[dict[str, object]]], settings: dict[str, Any]
) -> None:
    url, told = mailer
    async with serving(database_url, auth_mode="jwt", activation_webhook_url=url, **CHEAP) as place:
        await registered(place, "alice", email="alice@example.com")
    async with serving(database_url, auth_mode="jwt", **{"activation_webhook_url": url, **CHEAP, **settings}) as place:
        refused = await place.post("/v1/accounts/activation", token="", json=wanted())

        assert (403, "forbidden") == (refused.status, refused.code)
        assert 1 == len(told)


async def test_codes_are_not_sent_again_as_fast_as_one_asks(
    database_url: str, mailer: tuple[str, list[dict[str, object]]]
) -> None:
    """An account fills nobody's mailbox, whatever address is given; and guesses count with those of logging in."""
    url, told = mailer
    paced = {
        **CHEAP,
        "rate_limits": True,
        "logins_per_address_burst": 1_000,
        "logins_per_account_burst": 10,
        "logins_per_account_per_s": 0.001,
    }
    async with serving(database_url, auth_mode="jwt", activation_webhook_url=url, **paced) as place:
        await registered(place, "alice", email="alice@example.com")

        answers = [
            await place.post("/v1/accounts/activation", token="", json=wanted(email=f"{n}@example.com"))
            for n in range(4)
        ]

        assert [200, 200, 200, 429] == [one.status for one in answers]
        assert 0 < answers[-1].json["retry_after_ms"] <= 60_000
        assert 4 == len(told)
        guesses = [
            (await place.post("/v1/accounts/activation", token="", json=wanted(password="a guess of it"))).status
            for _ in range(7)
        ]
        assert [*[401] * 6, 429] == guesses
        refused = await place.post("/v1/login", token="", json={"login": "alice", "password": PASSWORD})
        assert 429 == refused.status


async def test_codes_are_paced_for_each_address(database_url: str, mailer: tuple[str, list[dict[str, object]]]) -> None:
    url, _ = mailer
    paced = {**CHEAP, "rate_limits": True, "logins_per_address_burst": 3, "logins_per_address_per_s": 0.001}
    async with serving(database_url, auth_mode="jwt", activation_webhook_url=url, **paced) as place:
        answers = [
            (await place.post("/v1/accounts/activation", token="", json=wanted(f"nobody{n}"))).status for n in range(4)
        ]

        assert [401, 401, 401, 429] == answers


@pytest.mark.parametrize("place_", ["before_commit", "after_commit"])
async def test_a_code_whose_account_is_not_known_to_be_active_may_be_given_again(
    database_url: str, mailer: tuple[str, list[dict[str, object]]], place_: str
) -> None:
    """Whoever is told to try again can, whether it has happened or not."""
    url, told = mailer
    async with serving(database_url, auth_mode="jwt", activation_webhook_url=url, **CHEAP) as place:
        mid = await registered(place, "alice", email="alice@example.com")
        path, code = f"/v1/accounts/{mid}/activation", {"code": told[0]["code"]}
        failpoints.arm(f"{place_}:error")
        try:
            lost = await place.post(path, token="", json=code)
        finally:
            failpoints.arm("")
        assert (503, True) == (lost.status, lost.json["retry"])

        assert 200 == (await place.post(path, token="", json=code)).status
        assert mid == (await logged_in(place))["mid"]
        assert 403 == (await place.post(path, token="", json=code)).status, "once"


async def test_an_account_whose_code_cannot_be_kept_is_there_all_the_same(
    database_url: str, mailer: tuple[str, list[dict[str, object]]]
) -> None:
    """To be told to try again would lead to a name that is taken."""
    url, told = mailer
    async with serving(database_url, auth_mode="jwt", activation_webhook_url=url, **CHEAP) as place:
        await place.pool.execute("ALTER TABLE activation_codes RENAME TO elsewhere")
        body = {"login": "alice", "password": PASSWORD, "email": "alice@example.com"}
        made = await place.post("/v1/accounts", token="", json=body)

        assert (201, "pending", False) == (made.status, made.json["state"], made.json["code_sent"])
        assert [] == told


async def test_where_admins_say_yes_no_code_does(
    database_url: str, mailer: tuple[str, list[dict[str, object]]]
) -> None:
    """None is sent, and none that was sent before is good; nor does a suspension end in a yes."""
    url, told = mailer
    more = {"activation_webhook_url": url, **CHEAP}
    async with serving(database_url, auth_mode="jwt", **more) as place:
        before = await registered(place, "alice", email="alice@example.com")
    async with serving(database_url, auth_mode="jwt", registration="admin", **more) as place:
        mid = await registered(place, "bob", email="bob@example.com")
        assert [before] == [one["mid"] for one in told]
        code = {"code": told[0]["code"]}
        assert 403 == (await place.post(f"/v1/accounts/{before}/activation", token="", json=code)).status
        assert 200 == (await place.put(f"/v1/accounts/{mid}/suspension", json={})).status
        assert 200 == (await place.delete(f"/v1/accounts/{mid}/suspension")).status
        for login in ("alice", "bob"):
            told_ = await place.post("/v1/login", token="", json={"login": login, "password": PASSWORD})
            assert (403, "account_inactive") == (told_.status, told_.code)
        assert 200 == (await place.post(f"/v1/accounts/{mid}/activation", json={})).status
        assert mid == (await logged_in(place, "bob"))["mid"]


async def test_the_rows_are_the_fold_of_the_log(guarded: Place) -> None:
    """After everything that can happen to an account."""
    one, admin = await somebody(guarded), await somebody(guarded, "boss", role="admin")
    await guarded.patch("/v1/account", token=one["token"], json={"avatar": "https://a.example/1"})
    await guarded.put(f"/v1/accounts/{one['mid']}/suspension", token=admin["token"], json={"reason": "spam"})
    await guarded.delete(f"/v1/accounts/{one['mid']}/suspension", token=admin["token"])
    again = await logged_in(guarded)
    await guarded.put("/v1/account/password", token=again["token"], json={"old": PASSWORD, "new": "another password"})
    await guarded.post("/v1/logout", token=admin["token"], json={})
    events = await guarded.reads.reader.read(0, 1_000)
    for projection in INLINE:
        split = len(projection.table.primary_key)
        rows = {}
        for record in await guarded.pool.fetch(f"SELECT * FROM {projection.table.name}"):
            values = (tuple(value) if isinstance(value, list) else value for value in record[split:])
            rows[tuple(record[:split])] = projection.row(*values)
        assert rows == fold(projection, events), projection.name
