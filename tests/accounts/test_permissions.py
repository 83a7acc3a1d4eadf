"""Every verb of accounts × every role of the platform, over HTTP, as the table says and not otherwise."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from accounts.place import PASSWORD, logged_in, registered, somebody
from api.place import Place
from imcore.permissions import PLATFORM_ROLES, PlatformRole, table
from imcore.verbs import accounts
from imcore.verbs.verb import AnyVerb


class World(NamedTuple):
    """Somebody of the role, somebody below all who are below others, and what they hold."""

    token: str
    mid: int
    other: int
    refresh_token: str


ARGS: dict[str, Any] = {
    "accounts.register": lambda world: {"login": "newcomer", "password": PASSWORD},
    "accounts.send_code": lambda world: {"login": "other", "password": PASSWORD, "email": "other@example.com"},
    "accounts.activate": lambda world: {"mid": world.other, "code": "WRONG"},
    "accounts.login": lambda world: {"login": "other", "password": PASSWORD},
    "accounts.refresh": lambda world: {"refresh_token": world.refresh_token},
    "accounts.profile": lambda world: {"mid": world.other},
    "account.change": lambda world: {"name": "Other"},
    "account.password": lambda world: {"old": PASSWORD, "new": "another password"},
    "accounts.suspend": lambda world: {"mid": world.other},
    "accounts.restore": lambda world: {"mid": world.other},
    "accounts.set_role": lambda world: {"mid": world.other, "role": "user"},
    "devices.remove": lambda world: {"key": "nothing"},
}
REFUSED = {"nobody": (401, "unauthenticated"), "no": (403, "forbidden")}


async def world(place: Place, role: PlatformRole) -> World:
    other = await registered(place, "other")
    spare = (await logged_in(place, "other"))["refresh_token"]
    if role in ("user", "moderator", "admin"):
        who = await somebody(place, "someone", role=role)
    elif role == "guest":
        who = (await place.post("/v1/guests", token="", json={})).json
    else:
        token = "" if role == "anonymous" else place.credentials(None)["Authorization"].removeprefix("Bearer ")
        who = {"token": token, "mid": 0}
    return World(who["token"], who["mid"], other, spare)


@pytest.mark.parametrize("role", PLATFORM_ROLES)
async def test_the_table_is_obeyed(guarded: Place, role: PlatformRole) -> None:
    here = await world(guarded, role)
    # What ends the login comes last.
    ending = ("accounts.logout", "account.password", "account.deactivate")
    for verb in sorted(accounts.VERBS, key=lambda verb: verb.name in ending):
        if "http" not in verb.doors:
            continue
        if verb.name in ending and role in ("user", "moderator", "admin", "guest"):
            here = here._replace(token=await again(guarded, role, here))
        await ask(guarded, verb, role, here)


async def again(place: Place, role: PlatformRole, here: World) -> str:
    if role == "guest":
        return str((await place.post("/v1/guests", token="", json={})).json["token"])
    for password in (PASSWORD, "another password"):
        told = await place.post("/v1/login", token="", json={"login": "someone", "password": password})
        if told.status == 200:
            return str(told.json["token"])
    raise AssertionError("the account is gone too early")


async def ask(place: Place, verb: AnyVerb, role: PlatformRole, here: World) -> None:
    values: dict[str, object] = ARGS.get(verb.name, lambda world: {})(here)
    path = verb.path
    for name in list(values):
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", str(values.pop(name)))
    body = values if verb.method not in ("GET", "DELETE") else None
    told = await place.ask(verb.method, path, token=here.token, json=body)
    verdict = table().verdict(verb.name, role)
    said = (told.status, told.json.get("code"))
    if verdict in REFUSED:
        assert REFUSED[verdict] == said, (verb.name, role)
    else:
        assert said not in REFUSED.values(), (verb.name, role, told.raw)
        assert told.status < 500, (verb.name, role, told.raw)
