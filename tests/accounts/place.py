"""What tests of accounts do again and again."""

from __future__ import annotations

from typing import Any, Final

from api.place import Answer, Place

CHEAP: Final[dict[str, Any]] = {"password_memory_kib": 8, "password_passes": 1, "rate_limits": False}
PASSWORD: Final = "correct horse battery staple"


async def registered(place: Place, login: str = "alice", **more: object) -> int:
    """An account."""
    made = await place.post("/v1/accounts", token="", json={"login": login, "password": PASSWORD, **more})
    assert made.status == 201, made.raw
    mid: int = made.json["mid"]
    return mid


async def logged_in(place: Place, login: str = "alice", **more: object) -> dict[str, Any]:
    """A login of an account that is there."""
    told = await place.post("/v1/login", token="", json={"login": login, "password": PASSWORD, **more})
    assert told.status == 200, told.raw
    found: dict[str, Any] = told.json
    return found


async def somebody(place: Place, login: str = "alice", *, role: str = "user") -> dict[str, Any]:
    """An account of this role, logged in."""
    mid = await registered(place, login)
    if role != "user":
        given = await place.put(f"/v1/accounts/{mid}/role", json={"role": role})
        assert given.status == 200, given.raw
    return await logged_in(place, login)


async def show(place: Place, who: dict[str, Any]) -> Answer:
    """Is this token believed?"""
    return await place.get("/v1/account", token=who["token"])
