"""A verb over HTTP and over a connection: the same answer, the same errors."""

from __future__ import annotations

from api.place import Place

ROUTE = "/v1/server"


async def test_a_verb_is_a_route(guarded: Place) -> None:
    told = await guarded.get(ROUTE, mid=7)
    assert 200 == told.status
    assert ("imcore", "jwt") == (told.json["name"], told.json["auth_mode"])


async def test_an_open_verb_needs_no_token_but_takes_no_bad_one(guarded: Place) -> None:
    async with guarded.session.get(f"{guarded.url}{ROUTE}") as response:
        assert 200 == response.status
    async with guarded.session.get(f"{guarded.url}{ROUTE}", headers={"Authorization": "Bearer no"}) as response:
        assert 401 == response.status


async def test_what_a_verb_does_not_know_is_refused(api: Place) -> None:
    told = await api.get(f"{ROUTE}?colour=red")
    assert (400, "bad_request", "there is no parameter 'colour' here") == (told.status, told.code, told.json["detail"])
