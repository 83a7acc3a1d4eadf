"""What Schemathesis cannot know of these verbs; it reads this file by itself (SCHEMATHESIS_HOOKS).

By itself it asks for rooms that nobody made. So the test beside it (SCENES is its address) makes what an operation needs, a scene, and
half of the good requests are put there: some with just the arguments that must succeed, some with only the path of what exists and
the rest as it was made up. A scene serves until it was used up. What was made up to be wrong stays so, at a place that exists.

Every answer is written into ANSWERS, a line of JSON each: what really was asked, and not what was to be.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import requests
import schemathesis
from schemathesis.core import NOT_SET
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.transport import Response
from schemathesis.generation.meta import TestPhase

SCENES: Final = os.environ["SCHEMATHESIS_SCENES"]
WHO: Final = os.environ["SCHEMATHESIS_WHO"]
ANSWERS: Final = Path(os.environ["SCHEMATHESIS_ANSWERS"])
USES_MAX: Final = 20
IN_QUERY: Final = ("GET", "DELETE")
HEADER: Final = "Authorization"
LINKED: Final = frozenset({"id", "mid", "key"})  # what an answer tells of that stands in other operations' paths

Case = schemathesis.Case[Any]


class Scenes:
    """What there is for each operation, asked for when it is needed."""

    def __init__(self) -> None:
        self._http = requests.Session()
        self._scenes: dict[str, dict[str, Any]] = {}
        self._uses: dict[str, int] = {}
        self._turns: dict[str, int] = {}
        told = self._ask("token")
        self.token: str = told["token"]
        self._told = {self.token}
        self.ending: frozenset[str] = frozenset(told["ending"])  # after which the asker is not who it was

    def turn(self, operation: str) -> int:
        """How many requests of this operation there were."""
        self._turns[operation] = self._turns.get(operation, -1) + 1
        return self._turns[operation]

    def of(self, operation: str, *, fresh: bool) -> dict[str, Any]:
        """A scene for it: as new, or one that may have been used."""
        scene = self._scenes.get(operation)
        if scene is None or self._uses[operation] >= USES_MAX or (fresh and scene["changes"]):
            scene = self._scenes[operation] = self._ask(operation)
            self._uses[operation] = 0
        self._uses[operation] += 1
        return scene

    def answered(self, operation: str, status: int) -> None:
        """What it did to the scene."""
        scene = self._scenes.get(operation)
        if scene is not None and scene["changes"] and 200 <= status < 300:
            del self._scenes[operation]
        if status == 401 and self.token:
            self.token = self._ask("token")["token"]
            self._told.add(self.token)

    def is_asker(self, case: Case) -> bool:
        """Does it come with a token of whom we are, and with none that was made up?"""
        return not self.token or str(case.headers.get(HEADER, "")).removeprefix("Bearer ") in self._told

    def _ask(self, what: str) -> dict[str, Any]:
        response = self._http.get(f"{SCENES}/{WHO}/{what}", timeout=60)
        response.raise_for_status()
        found: dict[str, Any] = response.json()
        return found


scenes = Scenes()
answers = ANSWERS.open("a", buffering=1)


if scenes.token:

    @schemathesis.auth(refresh_interval=None)
    class Token:
        """Who asks."""

        def get(self, case: Case, context: schemathesis.AuthContext) -> str:
            return f"Bearer {scenes.token}"

        def set(self, case: Case, data: str, context: schemathesis.AuthContext) -> None:
            case.headers[HEADER] = data


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: Case) -> bool:
    """One value of a list, written into a query, is the list of that value: it is no case of a wrong type."""
    lists = {
        parameter.name
        for parameter in case.operation.query
        if parameter.definition.get("schema", {}).get("type") == "array"
    }
    return all(isinstance(value, list) for name, value in (case.query or {}).items() if name in lists)


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Put the request where something is."""
    name, meta = operation_of(case), case.meta
    if meta is None or not scenes.is_asker(case) or case.method.upper() != case.operation.method.upper():
        return
    told_of = getattr(meta.phase.data, "parameter_location", None)
    is_path_good = not meta.is_negative_at(ParameterLocation.PATH) and told_of != ParameterLocation.PATH
    # A step of a story may go where the last answer said, which is never a room: the document has its name in two parts.
    is_free = meta.phase.name != TestPhase.STATEFUL or not LINKED & case.path_parameters.keys()
    may_move = is_path_good and is_free
    turn = scenes.turn(name)
    is_exact = (
        may_move
        and turn % 4 == 0
        and meta.generation.mode.is_positive
        and meta.phase.name != TestPhase.COVERAGE  # which is about each value that it made
    )
    if name in scenes.ending or (may_move and turn % 2 == 0):
        scene = scenes.of(name, fresh=is_exact)
        if name in scenes.ending:
            case.headers[HEADER] = f"Bearer {scene['token']}"
        if may_move and turn % 2 == 0:
            put(case, scene, is_exact=is_exact)


@schemathesis.hook
def after_call(context: schemathesis.HookContext, case: Case, response: Response) -> None:
    """Write down what came of it."""
    name = operation_of(case)
    scenes.answered(name, response.status_code)
    phase = case.meta.phase.name.value if case.meta is not None else ""
    is_its = case.method.upper() == case.operation.method.upper()
    answers.write(json.dumps([name if is_its else "", phase, response.status_code]) + "\n")


def operation_of(case: Case) -> str:
    """Its operationId, which is the name of the verb."""
    return str(case.operation.definition.raw["operationId"])


def put(case: Case, scene: dict[str, Any], *, is_exact: bool) -> None:
    """Where the scene is; with `is_exact` with its arguments and no others."""
    args, in_path = dict(scene["args"]), case.path_parameters
    if "type" in in_path:  # of a room, whose name is in two parts; a signal has a `type` beside it, and a file a `name`
        kind, _, rest = args.pop("room").partition("://")
        in_path |= {"type": kind, "name": rest}
        of_room = {"type", "name"}
    else:
        of_room = set()
    for name in [one for one in args if f"{{{one}}}" in case.path and one not in of_room]:
        in_path[name] = args.pop(name)
    if is_exact and (case.method.upper() in IN_QUERY or scene["upload"]):
        case.query = args
        case.body = scene["upload"].encode() or NOT_SET
    elif is_exact:
        case.body = args
