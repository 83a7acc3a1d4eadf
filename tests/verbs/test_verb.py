"""What holds for every verb: one definition, a row in the table, arguments that are checked, and words for people."""

from __future__ import annotations

import re

import pytest

from imcore.api.verbs import kinds
from imcore.auth import ANONYMOUS, SERVICE, Identity
from imcore.errors import BadRequest, Forbidden, NoSuchRoom, Unauthenticated
from imcore.permissions import parse, table
from imcore.protocol.packet import find_control
from imcore.verbs import VERBS
from imcore.verbs.call import Verbs, arguments
from imcore.verbs.means import Means
from imcore.verbs.verb import NO_CONTROLS, Answer, AnyVerb, Args, Caller, Limit, Mid, Place, Room, verb

ROWS = """
operations:
  probe.room: {anonymous: nobody, guest: no, user: yes, service: yes, moderator: yes, admin: yes}
  probe.secret: {anonymous: nobody, guest: hidden, user: hidden, service: no, moderator: no, admin: yes}
"""


class Probe(Args):
    room: Room
    mid: Mid | None = None
    names: list[str] = []
    loud: bool = False
    limit: Limit = 10


@verb("probe.room", "GET", "/v1/probe/{room}", answer=Place)
async def probe(caller: Caller, means: Means, args: Probe) -> Place:
    """Say what was asked for."""
    return Place(position=args.limit)


@verb("probe.secret", "POST", "/v1/secret", answer=Place)
async def secret(caller: Caller, means: Means, args: Probe) -> Place:
    """Only for admins."""
    return Place()


@pytest.mark.parametrize("one", VERBS, ids=lambda one: one.name)
def test_a_verb_has_a_place_a_row_and_words(one: AnyVerb) -> None:
    assert one.name in table().operations
    assert one.summary.endswith(".")
    assert one.path.startswith("/v1/") or "http" not in one.doors
    named = {part.strip("{}") for part in one.path.split("/") if part.startswith("{")}
    assert named <= set(one.args.model_fields), "what is in the path is an argument"
    assert issubclass(one.answer, Answer)


def test_no_two_verbs_share_a_name_or_a_route() -> None:
    assert len({one.name for one in VERBS}) == len(VERBS)
    routes = [(one.method, one.path) for one in VERBS if "http" in one.doors]
    assert len(set(routes)) == len(routes)


def test_a_verb_without_a_row_does_not_start() -> None:
    with pytest.raises(ValueError, match="probe"):
        Verbs([probe])


def test_two_verbs_of_one_name_do_not_start() -> None:
    with pytest.raises(ValueError, match="two"):
        Verbs([probe, probe], parse(ROWS))


def test_the_kinds_of_arguments_come_from_the_model() -> None:
    assert {
        "room": "string", "mid": "integer", "names": "list of string", "loud": "boolean", "limit": "integer",
    } == kinds(probe)  # fmt: skip


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "room: field required"),
        ({"room": "nowhere"}, "room: room 'nowhere': not of the form type://name"),
        ({"room": "group://1", "limit": True}, "limit: input should be a valid integer"),
        ({"room": "group://1", "limit": 0}, "limit: input should be greater than or equal to 1"),
        ({"room": "group://1", "mid": "7"}, "mid: input should be a valid integer"),
        ({"room": "group://1", "is_admin": True}, "is_admin: extra inputs are not permitted"),
        ({"room": "group://1", "\x1b[2J": True}, "'\\x1b[2J': extra inputs are not permitted"),
    ],
)
def test_arguments_are_strict_and_errors_name_what_is_wrong(values: dict[str, object], said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        arguments(probe, values)
    assert said == caught.value.detail


@pytest.mark.parametrize(
    ("who", "error"),
    [
        (ANONYMOUS, Unauthenticated),
        (SERVICE, Forbidden),
        (Identity(7), NoSuchRoom),
        (Identity(-7, role="guest"), NoSuchRoom),
        (Identity(7, role="moderator"), Forbidden),
        (Identity(7, role="admin"), None),
    ],
)
def test_who_may_not_ask_at_all_is_told_before_anything_is_read(who: Identity, error: type[Exception] | None) -> None:
    verbs = Verbs([probe, secret], parse(ROWS))
    if error is None:
        verbs.admit(secret, Caller(who))
    else:
        with pytest.raises(error):
            verbs.admit(secret, Caller(who))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("operations: {a: {guest: yes}}", "a: None is none of"),
        (ROWS.replace("admin: yes", "admin: perhaps", 1), "probe.room: 'perhaps' is none of"),
        (ROWS.replace("admin: yes", "admin: yes, root: yes", 1), "probe.room: there is no role root"),
        (ROWS.replace("user: yes", "user: {member: yes}", 1), "probe.room: user needs a verdict for each of"),
        (ROWS.replace("service: yes", "service: {member: yes}", 1), "probe.room: service has no standing"),
    ],
)
def test_a_table_with_a_hole_is_no_table(rows: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(rows)


def test_a_schema_says_which_characters_a_line_must_not_have() -> None:
    """All of them but surrogates: a schema is about text, and they are none."""
    is_fine = re.compile(str(NO_CONTROLS.said["pattern"])).fullmatch
    for sign in map(chr, (*range(0xD800), *range(0xE000, 0x10000))):
        assert bool(find_control(sign)) == (not is_fine(sign)), ascii(sign)
