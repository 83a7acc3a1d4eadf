"""Who may do what: one table, `permissions.yaml`, of operation × role. The code enforces from it, and the tests cross all of it.

A role is what somebody is to the whole server (`PlatformRole`); a standing is what somebody is to a room (`Standing`). An operation's
row says for each role a verdict, or for people (all but anonymous and service) one for each standing:

    yes       it is allowed
    own       on what is one's own (a message that one sent, one's own account)
    below     on people of a lower rank than one's own, and on what they own; on oneself too where the operation is about oneself
    no        refused with Forbidden: they may know that it is there
    hidden    refused as if it were not there (NoSuchRoom): they may not even know
    muted     refused with Muted
    nobody    refused with Unauthenticated: this is for somebody

A verb of `imcore.verbs` without a row does not start. The table is read once, when this module is, and never changes.

The trap: a verdict holds for the moment at which it was asked for. What depends on a room is asked under the lock of the log
(commands), on the rows as they are at that place.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from functools import cache
from importlib import resources
from typing import Final, Literal, NamedTuple, get_args

import yaml

from imcore.errors import Forbidden, ImcoreError, Muted, NoSuchRoom, Unauthenticated

PlatformRole = Literal["anonymous", "guest", "user", "service", "moderator", "admin"]
Standing = Literal["stranger", "invited", "banned", "muted", "member", "room_admin", "owner"]
Verdict = Literal["yes", "own", "below", "no", "hidden", "muted", "nobody"]

PLATFORM_ROLES: Final[tuple[PlatformRole, ...]] = get_args(PlatformRole)
STANDINGS: Final[tuple[Standing, ...]] = get_args(Standing)
VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)
# Whose verdicts may hang on their standing in a room: theirs whose privilege does not reach so far, too.
PEOPLE: Final[tuple[PlatformRole, ...]] = ("guest", "user", "moderator", "admin")
FILE: Final = "permissions.yaml"


class Rank(IntEnum):
    """Who is above whom, in a room and on the platform."""

    NONE = 0
    MEMBER = 1
    ADMIN = 2
    OWNER = 3


RANK_OF: Final[Mapping[Standing, Rank]] = {
    "stranger": Rank.NONE,
    "invited": Rank.NONE,
    "banned": Rank.NONE,
    "muted": Rank.MEMBER,
    "member": Rank.MEMBER,
    "room_admin": Rank.ADMIN,
    "owner": Rank.OWNER,
}
PLATFORM_RANK_OF: Final[Mapping[PlatformRole, int]] = {
    "anonymous": 0, "guest": 1, "user": 2, "moderator": 3, "admin": 4, "service": 5,
}  # fmt: skip
_REFUSALS: Final[Mapping[Verdict, type[ImcoreError]]] = {
    "no": Forbidden,
    "hidden": NoSuchRoom,
    "muted": Muted,
    "nobody": Unauthenticated,
}


class Actor(NamedTuple):
    """Who does something: a member id, and what that is to the whole server."""

    mid: int
    role: PlatformRole


# Who is shown whether anybody is online, whatever the two share and the other chose.
SEE_EVERYBODY: Final[frozenset[PlatformRole]] = frozenset(("service", "moderator", "admin"))
SERVICE_ACTOR: Final = Actor(0, "service")


def person(mid: int) -> Actor:
    """An ordinary person of this member id, for whom somebody else may act: guests have negative ones."""
    assert mid != 0, "0 is the service"
    return Actor(mid, "user" if mid > 0 else "guest")


class Rule(NamedTuple):
    """A row of the table: the verdict for each role, and for people for each standing; a row without standings has one for all."""

    by_role: Mapping[PlatformRole, Verdict]
    by_standing: Mapping[tuple[PlatformRole, Standing], Verdict]

    @property
    def hangs_on_standing(self) -> bool:
        """Must the room be looked at?"""
        return bool(self.by_standing)


class Permissions:
    """The whole table. Immutable."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = rules

    @property
    def operations(self) -> tuple[str, ...]:
        """The names of all rows, in their order."""
        return tuple(self._rules)

    def rule(self, operation: str) -> Rule:
        """The row of an operation; KeyError if there is none, which no served operation may come to."""
        return self._rules[operation]

    def verdict(self, operation: str, role: PlatformRole, standing: Standing | None = None) -> Verdict:
        """What the table says. `standing` is needed where the row hangs on it."""
        rule = self._rules[operation]
        found = rule.by_role.get(role)
        if found is not None:
            return found
        assert standing is not None, f"{operation} hangs on the standing in a room"
        return rule.by_standing[role, standing]

    def check(
        self,
        operation: str,
        actor: Actor,
        standing: Standing | None = None,
        *,
        is_own: bool = False,
        target_rank: int = 0,
    ) -> None:
        """Pass, or raise what the table says (Forbidden, NoSuchRoom, Muted, Unauthenticated).

        `is_own`: what it is done to is the actor's own. `target_rank` is that of whom it is done to or of whose it is.
        """
        verdict = self.verdict(operation, actor.role, standing)
        match verdict:
            case "yes":
                return
            case "own":
                if is_own:
                    return
                raise Forbidden
            case "below":
                rank = PLATFORM_RANK_OF[actor.role] if standing is None else RANK_OF[standing]
                if is_own or rank > target_rank:
                    return
                raise Forbidden
            case _:
                raise _REFUSALS[verdict]

    def by_privilege(self, operation: str, role: PlatformRole) -> bool:
        """Is it the role on the platform that allows this, whatever the standing in the room? Then it is audited."""
        return role in ("moderator", "admin") and self._rules[operation].by_role.get(role) in ("yes", "below")


def parse(text: str) -> Permissions:
    """The table of a file's text. Raises ValueError, which names the row that is wrong: a table with a hole is no table."""
    document = yaml.safe_load(text)
    rules: dict[str, Rule] = {}
    for operation, row in document["operations"].items():
        rules[operation] = _rule(operation, row)
    return Permissions(rules)


def _rule(operation: str, row: Mapping[str, object]) -> Rule:
    by_role: dict[PlatformRole, Verdict] = {}
    by_standing: dict[tuple[PlatformRole, Standing], Verdict] = {}
    if unknown := set(row) - set(PLATFORM_ROLES):
        raise ValueError(f"{operation}: there is no role {min(unknown)}")
    for role in PLATFORM_ROLES:
        cell = row.get(role)
        if isinstance(cell, Mapping):
            if role not in PEOPLE:
                raise ValueError(f"{operation}: {role} has no standing in rooms")
            if set(cell) != set(STANDINGS):
                raise ValueError(f"{operation}: {role} needs a verdict for each of {', '.join(STANDINGS)}")
            for standing in STANDINGS:
                by_standing[role, standing] = _verdict(operation, cell[standing])
        else:
            by_role[role] = _verdict(operation, cell)
    return Rule(by_role, by_standing)


def _verdict(operation: str, word: object) -> Verdict:
    # YAML 1.1 reads yes and no as true and false.
    word = {True: "yes", False: "no"}.get(word, word) if isinstance(word, bool) else word
    for verdict in VERDICTS:
        if word == verdict:
            return verdict
    raise ValueError(f"{operation}: {word!r} is none of {', '.join(VERDICTS)}")


@cache
def table() -> Permissions:
    """The table that this installation enforces."""
    return parse(resources.files("imcore").joinpath(FILE).read_text())
