"""Schemathesis asks a real server everything that /openapi.json says may be asked, and much that it says may not.

Every check that it has: no answer is a failure of the server, each is described (status, type, schema, headers), what the
description forbids is refused and what it allows is taken, no verb can be called without the token that it wants, and what was taken
away is gone. It asks as somebody of every role of the platform, and as nobody; of things at random, and (`Scenes`, and schema_hooks.py)
of things that are there, in rooms where it has any standing. So good answers come too, and every operation must have given one to
every role that the permission table lets do it. Afterwards neither log has a complaint.

A few cases of each operation by default. SCHEMATHESIS_EXAMPLES=100 is for a long look: above ten thousand cases.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import web

from badinput.conftest import POSTGRES_FAULTS, SERVER_FAULTS
from conftest import copy_cluster, temporary_folder
from imcore.api.openapi import document
from imcore.permissions import PLATFORM_ROLES, PlatformRole, Standing
from imcore.verbs import VERBS
from imcore.verbs.call import Verbs
from permissions.cases import CASES
from permissions.test_cross import expected, standings, targets
from permissions.world import PASSWORD, RENEW_S, Somebody, World, world
from system.servers import Server, running
from verbs.asking import BY_NAME

EXAMPLES: Final = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "12"))  # of an operation, of all who ask
IS_LONG: Final = EXAMPLES > 12
CASES_MIN: Final = 10_000 if EXAMPLES >= 100 else 3_000
HOOKS: Final = Path(__file__).with_name("schema_hooks.py")
TESTS: Final = HOOKS.parents[1]
SEED: Final = os.environ.get("SCHEMATHESIS_SEED", "5")
GOOD: Final = 0.8  # of the scenes are such that the operation is allowed
# What is not answered well, though the table says yes, and why.
NEVER: Final[Mapping[str, tuple[PlatformRole, ...]]] = {}
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


class Answer(NamedTuple):
    """What came of one request: of which operation ("" if the method was none of the path's), in which phase."""

    operation: str
    phase: str
    status: int


class Outcome(NamedTuple):
    """The answers, and what Schemathesis says if one was not as described."""

    answers: list[Answer]
    said: str


@dataclass
class Scenes:
    """Makes what an operation needs, for who asks for it, whenever the hooks ask for that."""

    people: World
    renewed_at: float = field(default_factory=time.monotonic)
    chosen: random.Random = field(default_factory=lambda: random.Random(SEED))
    _made: Counter[tuple[str, str]] = field(default_factory=Counter)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    async def token(self, request: web.Request) -> web.Response:
        """Who asks, logged in anew if it was logged out or worse."""
        role = role_of(request)
        somebody = self.people.actors[role]
        async with self._locks.setdefault(role, asyncio.Lock()):
            if role == "guest" or (somebody.login and not await self._renew(somebody)):
                self.people.actors[role] = await self.people.new(role)
        ending = [name for name, case in CASES.items() if case.fresh] if role not in ("anonymous", "service") else []
        return web.json_response({"token": self.people.actors[role].ask.token, "ending": ending})

    async def scene(self, request: web.Request) -> web.Response:
        """A new one: the first where the operation is allowed, later ones mostly."""
        role, operation = role_of(request), request.match_info["operation"]
        case = CASES[operation]
        async with self._locks.setdefault("others", asyncio.Lock()):
            if time.monotonic() > self.renewed_at + RENEW_S:
                await self._renew_others()
        places: list[tuple[Standing | None, str]] = [
            (standing, target)
            for standing in standings(operation, role)
            for target in targets(case, operation, role, standing)
        ]
        allowed = [place for place in places if may(operation, role, *place)]
        self._made[role, operation] += 1
        is_good = allowed and (self._made[role, operation] == 1 or self.chosen.random() < GOOD)
        standing, target = self.chosen.choice(allowed if is_good else places)
        actor = await self.people.new(role) if case.fresh else self.people.actors[role]
        try:
            args = await case.args(await self.people.scene(actor, standing), target)
        except AssertionError:  # an admin's case had one of these, by chance, and logged it out
            async with self._locks["others"]:
                await self._renew_others()
            args = await case.args(await self.people.scene(actor, standing), target)
        told = {"args": args, "token": actor.ask.token, "changes": case.changes, "upload": case.upload.decode()}
        return web.json_response(told)

    async def _renew_others(self) -> None:
        """Log in anew all who are in the scenes besides who asks; replace whoever cannot."""
        for name in ("member", "room_admin", "owner", "friend"):
            if not await self._renew(getattr(self.people, name)):
                setattr(self.people, name, await self.people.new("user"))
        self.renewed_at = time.monotonic()

    async def _renew(self, somebody: Somebody) -> bool:
        """Log it in anew, if it can log in; the token of before is good as long as it was."""
        args = {"login": somebody.login, "password": PASSWORD, "key": f"renewed{next(self.people.numbers)}"}
        told = await self.people.askers.one().ask(BY_NAME["accounts.login"], args)
        if not told.code:
            somebody.ask = self.people.askers.one(told.body["token"])
        return not told.code


def role_of(request: web.Request) -> PlatformRole:
    return next(role for role in PLATFORM_ROLES if role == request.match_info["role"])


def may(operation: str, role: PlatformRole, standing: Standing | None, target: str) -> bool:
    """Does the table allow it, and nothing else forbid it?"""
    return not expected(operation, role, standing, target) and not CASES[operation].other(role, standing, target)


@asynccontextmanager
async def scenery(people: World) -> AsyncIterator[str]:
    """Scenes over HTTP; the address."""
    scenes = Scenes(people)
    app = web.Application()
    app.add_routes([web.get("/{role}/token", scenes.token), web.get("/{role}/{operation}", scenes.scene)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def schemathesis(server: Server, folder: Path, scenes: str, role: PlatformRole, phases: str) -> Outcome:
    """Ask as somebody of this role."""
    answers = folder / f"{role}.answers"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / "schemathesis.toml"),
        "run", str(folder / "openapi.json"),
        *("--url", f"http://{server.http}", "--checks", "all", "--phases", phases, "--seed", SEED),
        *("--max-examples", str(max(2, EXAMPLES // len(PLATFORM_ROLES)))),
        *("--continue-on-failure", "--request-timeout", "30", "--generation-database", "none", "--no-color", "--warnings",
        "off"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": str(HOOKS),
            "SCHEMATHESIS_SCENES": scenes,
            "SCHEMATHESIS_WHO": role,
            "SCHEMATHESIS_ANSWERS": str(answers),
        },
    )  # fmt: skip
    output = (await process.communicate())[0].decode()
    found = [Answer(*json.loads(line)) for line in answers.read_text().splitlines()]
    return Outcome(found, "" if process.returncode == 0 else f"{role}:\n{output[-20_000:]}")


def assert_no_complaints(server: Server) -> None:
    """Nothing came to Postgres that it cannot take, and no handler failed."""
    for log, faults in ((server.log, SERVER_FAULTS), (server.data / "postgres.log", POSTGRES_FAULTS)):
        assert [] == [line for line in log.read_text(errors="replace").splitlines() if faults.search(line)][:20], (
            log.name
        )


def unanswered(found: Mapping[PlatformRole, list[Answer]]) -> list[str]:
    """Which operations never gave a good answer to somebody who may do them."""
    missing = []
    for verb in VERBS:
        for role in PLATFORM_ROLES if "http" in verb.doors else ():
            allowed = any(
                may(verb.name, role, standing, target)
                for standing in standings(verb.name, role)
                for target in targets(CASES[verb.name], verb.name, role, standing)
            )
            statuses = Counter(one.status for one in found[role] if one.operation == verb.name)
            is_good = any(200 <= status < 300 for status in statuses)
            if allowed and not is_good and role not in NEVER.get(verb.name, ()):
                missing.append(f"{verb.name} to {role}: {dict(statuses)}")
    return missing


async def test_whatever_is_asked_is_answered_as_described(cluster: Path) -> None:
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        (folder / "openapi.json").write_text(json.dumps(document(Verbs(VERBS), closed=True)))
        (folder / "schemathesis.toml").write_text(CONFIGURATION)
        quick = ("--set", "password_memory_kib=8", "--set", "password_passes=1")
        with running(folder, "--auth", "jwt", "--no-rate-limits", *quick) as server:
            async with world(server, server.data) as people, scenery(people) as scenes:

                async def ask(*roles: PlatformRole) -> dict[PlatformRole, Outcome]:
                    # The whole of the description is gone over once, by who may do most of it; the others draw from it.
                    return {
                        role: await schemathesis(
                            server, folder, scenes, role,
                            "examples,coverage,fuzzing,stateful" if role == "user" or (IS_LONG and role == "admin")
                            else "examples,fuzzing,stateful" if IS_LONG else "fuzzing",
                        )
                        for role in roles
                    }  # fmt: skip

                # Several at a time. Whom one made the other does not know.
                some = await asyncio.gather(
                    ask("user"), ask("admin", "guest"), ask("moderator", "service", "anonymous")
                )
            outcomes = some[0] | some[1] | some[2]
            found = {role: outcome.answers for role, outcome in outcomes.items()}
            show(found)
            assert_no_complaints(server)
    assert "" == "\n".join(outcome.said for outcome in outcomes.values()).strip()
    assert CASES_MIN <= sum(map(len, found.values()))
    missing = unanswered(found)
    assert not missing, "\n".join(missing)


def show(found: Mapping[PlatformRole, list[Answer]]) -> None:
    """How many cases there were, and how many good answers each operation gave to each role."""
    print(f"\n{sum(map(len, found.values()))} cases: { {role: len(them) for role, them in found.items()} }")
    print(f"of phases: {dict(Counter(one.phase for them in found.values() for one in them))}")
    print(
        f"good in stories: {sum(200 <= one.status < 300 for t in found.values() for one in t if one.phase == 'stateful')}"
    )
    for verb in VERBS:
        asked = {role: [one.status for one in them if one.operation == verb.name] for role, them in found.items()}
        told = (f"{role} {sum(200 <= one < 300 for one in them)}/{len(them)}" for role, them in asked.items())
        print(f"{verb.name:20} {', '.join(told)}")
