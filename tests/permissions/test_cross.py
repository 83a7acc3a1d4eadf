"""The whole table: every operation × every role × every standing × whose it is, over both doors, and no deviation.

What is expected comes from `imcore/permissions.yaml` and nothing else. Where the table says yes, the operation must succeed (so that a
refusal for another reason is not taken for obedience); where it refuses, the refusal is the table's, and nothing was stored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from conftest import copy_cluster, temporary_folder
from imcore.permissions import (
    PLATFORM_RANK_OF,
    PLATFORM_ROLES,
    RANK_OF,
    STANDINGS,
    PlatformRole,
    Standing,
    Verdict,
    table,
)
from imcore.verbs import VERBS
from permissions.cases import CASES, OF_ROLES, Case
from permissions.world import Scene, World, world
from system.servers import Server, running
from verbs.asking import BY_NAME, Door, Told

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSED: dict[Verdict, str] = {
    "no": "forbidden",
    "hidden": "no_such_room",
    "muted": "muted",
    "nobody": "unauthenticated",
}
TARGET_RANKS = {"member": RANK_OF["member"], "room_admin": RANK_OF["room_admin"], "owner": RANK_OF["owner"]}


@pytest.fixture(scope="module")
def server(cluster: Path) -> Iterator[Server]:
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        quick = ("--set", "password_memory_kib=8", "--set", "password_passes=1")
        with running(folder, "--auth", "jwt", "--no-rate-limits", *quick) as server:
            yield server
            complaints = server.complaints()
        assert not complaints, complaints


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people(server: Server) -> AsyncIterator[World]:
    async with world(server, server.data) as made:
        yield made


async def test_every_operation_has_a_case_and_is_served() -> None:
    assert set(table().operations) == set(CASES)
    assert set(table().operations) == {verb.name for verb in VERBS}


def expected(operation: str, role: PlatformRole, standing: Standing | None, target: str) -> str:
    """The code of the refusal that the table says; "" is none."""
    verdict = table().verdict(operation, role, standing)
    if verdict == "hidden":
        return CASES[operation].hidden
    if verdict in REFUSED:
        return REFUSED[verdict]
    if verdict == "own":
        return "" if target in ("", "self") else "forbidden"
    if verdict == "below":
        if not target or (target == "self" and CASES[operation].on_self):
            return ""
        if target == "self":
            return "forbidden"
        if CASES[operation].targets == OF_ROLES:
            rank, other = PLATFORM_RANK_OF[role], PLATFORM_RANK_OF[target]  # type: ignore[index]
        else:
            assert standing is not None
            rank, other = RANK_OF[standing], TARGET_RANKS[target]
        return "" if rank > other else "forbidden"
    return ""


def over(door: Door, role: PlatformRole, code: str) -> str:
    """Nobody has a connection without a person's token."""
    return "unauthenticated" if door == "connection" and role in ("anonymous", "service") else code


def standings(operation: str, role: PlatformRole) -> tuple[Standing | None, ...]:
    return STANDINGS if role not in table().rule(operation).by_role else (None,)


def targets(case: Case, operation: str, role: PlatformRole, standing: Standing | None) -> tuple[str, ...]:
    """Whose: of whom the room knows nothing there is nothing in it, and a service is nobody that something is done to."""
    is_known = standing is not None or (case.targets == OF_ROLES and role != "service")
    may_be_own = is_known or table().verdict(operation, role, standing) == "own"
    return tuple(one for one in case.targets if one != "self" or may_be_own)


@pytest.mark.parametrize("door", ["http", "connection"])
@pytest.mark.parametrize("operation", table().operations)
async def test_the_table_is_obeyed(people: World, server: Server, operation: str, door: Door) -> None:
    verb, case = BY_NAME[operation], CASES[operation]
    if door not in verb.doors:
        pytest.skip(f"{operation} is not for this door")
    await people.renew()
    deviations: list[str] = []
    for role in PLATFORM_ROLES:
        for standing in standings(operation, role):
            refusals: Scene | None = None
            for target in targets(case, operation, role, standing):
                wanted = over(door, role, expected(operation, role, standing, target))
                if not wanted or refusals is None:
                    actor = await people.new(role) if case.fresh else people.actors[role]
                    scene = await people.scene(actor, standing)
                    refusals = scene if wanted else None
                else:
                    scene = refusals
                told, stored = await ask(server, scene, case, operation, target, door)
                if told.code != wanted:
                    other = case.other(role, standing, target)
                    if wanted or told.code != other:
                        deviations.append(
                            f"{role} {standing} on {target!r}: {told.code!r} instead of {wanted!r}: {told.body}"
                        )
                elif wanted and stored and role not in ("anonymous", "service"):
                    deviations.append(f"{role} {standing} on {target!r}: refused, and something was stored")
    assert not deviations, "\n".join(deviations)


async def ask(server: Server, scene: Scene, case: Case, operation: str, target: str, door: Door) -> tuple[Told, bool]:
    """What the actor is told, and whether the room or the actor's stream grew."""
    args = await case.args(scene, target)
    before = await head(scene)
    told = await scene.actor.ask.ask(BY_NAME[operation], args, door, upload=case.upload)
    return told, await head(scene) != before


async def head(scene: Scene) -> int:
    """The seq of the last event of the room."""
    shown = await scene.world.service("rooms.show", room=scene.room)
    return int(shown["head"])
