"""Schemathesis asks a real server everything that /openapi.json says may be asked, and much that it says may not.

Every check that it has: no answer is a failure of the server, each is described (status, type, schema, headers), what the
description forbids is refused and what it allows is taken, no verb can be called without the token that it wants, and what was taken
away is gone. It asks as a member of rooms, as one who is in none, as a service, and as nobody; of things at random, and of things that
are there (the document narrowed to rooms, people and messages that exist),
so that good answers come too. Afterwards neither log has a
complaint.

A few cases of each verb by default. SCHEMATHESIS_EXAMPLES=100 is for a long look: above ten thousand cases.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from api.place import KEY, bearer
from badinput.conftest import POSTGRES_FAULTS, SERVER_FAULTS
from conftest import copy_cluster, temporary_folder
from imcore.api.openapi import document
from imcore.verbs import VERBS
from imcore.verbs.call import Verbs
from imcore.verbs.verb import ROOM_SCHEMA
from serving import Running, serving

EXAMPLES: Final = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "2"))
IS_LONG: Final = EXAMPLES > 10
HOOKS: Final = Path(__file__).with_name("schema_hooks.py")
SEED: Final = os.environ.get("SCHEMATHESIS_SEED", "5")
MEMBER, OTHER, STRANGER = 7, 8, 9
ROOMS: Final = ("group://open", "group://closed", "group://a/b", "live://1000")
TOKEN_S: Final = 86_400
# With what is true of every server of ours. What JSON Schema cannot say (bytes, and what depends on what is there) is refused with 400.
CONFIGURATION: Final = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "304", "400", "401", "403", "404", "409", "413", "415", "422"]
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "413", "415"]
[checks.missing_required_header]
expected-statuses = ["400", "401"]
[generation]
allow-x00 = true
"""


@asynccontextmanager
async def asked(cluster: Path) -> AsyncIterator[tuple[Running, Path]]:
    """A server that wants tokens, with people in rooms and messages in them."""
    assert isinstance(KEY.key, bytes)
    keys = json.dumps([{"kid": KEY.kid, "alg": KEY.alg, "key": KEY.key.decode()}])
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        async with serving(folder, "--auth", "jwt", "--no-rate-limits", "--set", f"auth_keys={keys}") as running:
            await furnish(running)
            yield running, folder


async def furnish(running: Running) -> None:
    """Rooms, people in them, and what they said."""
    async with aiohttp.ClientSession(
        f"http://{running.http}", headers=bearer(service="tests", expires_in_s=TOKEN_S)
    ) as http:

        async def post(path: str, body: Mapping[str, object]) -> None:
            async with http.post(path, json=body) as response:
                assert response.status < 300, await response.text()

        for room in ROOMS[:3]:
            public = room == "group://open"
            await post("/v1/rooms", {"room": room, "public": public, "members": [MEMBER, OTHER]})
            kind, _, name = room.partition("://")
            for n in range(5):
                body = {
                    "id": f"0190a5d2-7c1e-7b3a-9f00-{abs(ROOMS.index(room)) % 10**6:06d}{n:06d}",
                    "mid": MEMBER,
                    "body": {"text": f"words {n}"},
                }
                await post(f"/v1/rooms/{kind}/{name.replace('/', '%2F')}/messages", body)


def narrowed(told: Mapping[str, Any]) -> dict[str, Any]:
    """The document, with what exists in the place of what may be asked for. Answers are described as before."""
    paths = {
        path: {
            method: {
                **operation,
                "parameters": [known(part, told) for part in operation["parameters"]],
                **({"requestBody": known(operation["requestBody"], told)} if "requestBody" in operation else {}),
            }
            for method, operation in methods.items()
        }
        for path, methods in told["paths"].items()
    }
    return {**told, "paths": paths}


def known(part: Any, told: Mapping[str, Any], name: str = "") -> Any:
    """A part of a request, of what exists. References are followed, because answers refer to the same schemas."""
    if isinstance(part, list):
        return [known(inside, told, name) for inside in part]
    if not isinstance(part, Mapping):
        return part
    if "$ref" in part:
        found: Any = told
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        return known(found, told, name)
    if part.get("in") == "path" and part["name"] in ("type", "name"):
        values = ["group"] if part["name"] == "type" else [room.partition("://")[2] for room in ROOMS[:3]]
        return {**part, "schema": {"type": "string", "enum": values}}
    if part.get("in") in ("path", "query") and "schema" in part:
        return {**part, "schema": known(part["schema"], told, part["name"])}
    if part.get("pattern") == ROOM_SCHEMA:
        return {**{key: value for key, value in part.items() if key != "pattern"}, "enum": list(ROOMS)}
    if part.get("type") == "integer" and "mid" in name:
        return {**part, "enum": [MEMBER, OTHER, STRANGER]}
    if part.get("type") == "integer" and "seq" in name:
        return {**part, "enum": [1, 2, 4, 5, 6, 8]}
    if isinstance(part.get("properties"), Mapping):
        fields = {field: known(inside, told, field) for field, inside in part["properties"].items()}
        return {**part, "properties": fields}
    return {key: known(inside, told, name) for key, inside in part.items()}


async def schemathesis(running: Running, folder: Path, told: Mapping[str, Any], *options: str) -> int:
    """Run it; how many cases there were. Raises AssertionError with what it says if any was not as described."""
    (folder / "openapi.json").write_text(json.dumps(told))
    (folder / "schemathesis.toml").write_text(CONFIGURATION)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / "schemathesis.toml"),
        "run", str(folder / "openapi.json"),
        *("--url", f"http://{running.http}", "--checks", "all", "--max-examples", str(EXAMPLES), "--seed", SEED),
        *("--continue-on-failure", "--request-timeout", "30", "--generation-database", "none", "--no-color", "--warnings",
        "off"),
        *options,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(HOOKS)},
    )  # fmt: skip
    output = (await process.communicate())[0].decode()
    found = re.search(r"(\d+) generated", output)
    assert process.returncode == 0, output[-20_000:]
    return int(found[1]) if found else 0


def assert_no_complaints(running: Running, folder: Path) -> None:
    """Nothing came to Postgres that it cannot take, and no handler failed."""
    for log, faults in ((running.log, SERVER_FAULTS), (folder / "imcore" / "postgres.log", POSTGRES_FAULTS)):
        assert [] == [line for line in log.read_text(errors="replace").splitlines() if faults.search(line)][:20], (
            log.name
        )


async def test_whatever_is_asked_is_answered_as_described(cluster: Path) -> None:
    people = {
        "member": bearer(mid=MEMBER, expires_in_s=TOKEN_S),
        "stranger": bearer(mid=STRANGER, expires_in_s=TOKEN_S),
        "service": bearer(service="tests", expires_in_s=TOKEN_S),
        "nobody": {},
    }
    told = document(Verbs(VERBS), closed=True)
    cases: dict[str, int] = {}
    async with asked(cluster) as (running, folder):
        for who, credentials in people.items():
            headers = [word for name, value in credentials.items() for word in ("--header", f"{name}: {value}")]
            # The whole of the description is gone over once, by who may do most of it; the others draw from it.
            phases = "examples,coverage,fuzzing,stateful" if who == "member" or IS_LONG else "fuzzing"
            cases[who] = await schemathesis(running, folder, told, *headers, "--phases", phases)
            if IS_LONG or who in ("member", "service"):
                there = ("--phases", "fuzzing,stateful", "--mode", "positive")
                cases[f"{who}, of what is there"] = await schemathesis(
                    running, folder, narrowed(told), *headers, *there
                )
        print(f"{sum(cases.values())} cases: {cases}")
        assert all(cases.values()), cases
        assert_no_complaints(running, folder)
