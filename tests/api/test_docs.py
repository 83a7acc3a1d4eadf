"""docs/http.md tells the truth: its examples are asked one after the other, and answered as it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from api.place import Place, node
from imcore import commands

PAGE = Path(__file__).parents[2] / "docs" / "http.md"
VARYING = ("time", "opened_at_ms")
EXAMPLE = re.compile(r"```http\n(?P<asked>.*?)```\n```json (?P<status>\d+)\n(?P<told>.*?)\n```", re.DOTALL)


class Example(NamedTuple):
    """A request, and what comes back."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int
    told: str


def examples() -> list[Example]:
    found = []
    for match in EXAMPLE.finditer(PAGE.read_text(encoding="utf-8")):
        head, _, body = match["asked"].rstrip("\n").partition("\n\n")
        line, *headers = head.splitlines()
        method, path = line.split(" ")
        named = dict(header.split(": ", 1) for header in headers)
        if body.startswith("{"):
            named["Content-Type"] = "application/json"
        found.append(Example(method, path, named, body.encode(), int(match["status"]), match["told"]))
    return found


async def begin(api: Place) -> None:
    """One comet, and one person on it."""
    api.nodes.append(node("comet-1", address="192.0.2.1", connections=1, addresses=1, weight=10))
    await api.pool.execute(
        """INSERT INTO nodes (node, hostname, address, tcp_port, ws_port, wss_port, region, weight, connections, addresses,
             started_at, lease_until, lease_s)
           VALUES ('comet-1', 'comet-1', '', 0, 0, 0, '', 1, 0, 0, now(), now() + interval '1 hour', 3600)"""
    )
    session = commands.open_session(
        7, "phone-7f3a", node="comet-1", platform="ios", address="203.0.113.9", rooms=["live://1000"], protocol="v2"
    )
    await api.append(session)
    await api.followed()


def steady(value: Any) -> Any:
    """The same, but for what no two runs have in common."""
    if isinstance(value, dict):
        return {name: 0 if name in VARYING else steady(part) for name, part in value.items()}
    return [steady(part) for part in value] if isinstance(value, list) else value


async def test_the_examples_are_answered_as_the_page_says(api: Place) -> None:
    await begin(api)
    found = examples()
    assert len(found) > 20
    for example in found:
        answer = await api.ask(example.method, example.path, headers=example.headers, data=example.body or None)

        assert (example.status, steady(orjson.loads(example.told))) == (answer.status, steady(answer.json)), example
        if example.path.startswith("/goim/"):
            assert example.told.encode() == answer.raw


def test_every_route_has_an_example() -> None:
    from api.test_app import ROUTES
    from api.test_goim import ROUTES as GOIMS

    text = PAGE.read_text(encoding="utf-8")
    for method, path in ROUTES:
        pattern = path.replace("/group/1", "/{type}/{name}").replace("/members/7", "/members/{mid}")
        assert f"{method} {pattern}\n" in text or f"`{method} {pattern}`" in text, (method, path)
    for method, path in GOIMS:
        assert f"`{method} {path.partition('?')[0]}`" in text, path
