"""Whatever is submitted, in whatever batches, on whichever road: the outcome is that of doing one after the other.

The model is a page of plain Python that knows nothing of batches. It folds members with functions of its own, so that a mistake in
the projections would show as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from events.at_work import Answer, AtWork, Nothing, Told, message
from imcore import membership
from imcore.errors import Conflict, ImcoreError
from imcore.events.store import Decision, Draft
from imcore.events.types import ROOM, SERVICE_MID, Recorded, Role
from imcore.membership import Settings
from imcore.permissions import SERVICE_ACTOR, Actor, person

FAR_MS = 2**52
RANK = {"member": 1, "admin": 2, "owner": 3}

MIDS = st.integers(1, 4)
ROOMS = st.sampled_from(["group://a", "group://b", "live://c"])
ROLES = st.sampled_from(["member", "admin", "owner"])


@dataclass(frozen=True)
class Send:
    room: str
    mid: int
    id: int
    body: str
    expected: int | None  # how far from the stream's seq as the model has it


@dataclass(frozen=True)
class Verb:
    name: Literal["create", "join", "add", "leave", "remove", "role", "mute", "unmute"]
    room: str
    mid: int
    by: int
    role: Role


SENDS = st.builds(
    Send, ROOMS, MIDS, st.integers(0, 12), st.sampled_from(["1", "1", "1", "2"]), st.sampled_from([None, None, None, 0, 1, -1])
)  # fmt: skip
VERBS = st.builds(
    Verb,
    st.sampled_from(["create", "join", "join", "add", "leave", "remove", "role", "mute", "unmute"]),
    ROOMS, MIDS, st.one_of(st.just(SERVICE_MID), MIDS), ROLES,
)  # fmt: skip
BATCHES = st.lists(
    st.one_of(
        st.tuples(st.just("drafts"), st.lists(SENDS, min_size=1, max_size=40)),
        st.tuples(st.just("decisions"), st.lists(SENDS, min_size=1, max_size=40)),
        st.tuples(st.just("decisions"), st.lists(st.one_of(SENDS, VERBS), min_size=1, max_size=40)),
    ),
    min_size=2,
    max_size=6,
)


@dataclass
class Member:
    role: str
    is_muted: bool = False


@dataclass
class Model:
    """The log as one would write it without batches. Positions begin after `position`."""

    position: int
    seqs: dict[str, int] = field(default_factory=dict)
    messages: dict[str, int] = field(default_factory=dict)
    public: dict[str, bool] = field(default_factory=dict)
    members: dict[tuple[str, int], Member] = field(default_factory=dict)
    used: dict[tuple[int, int], tuple[Send, list[object]]] = field(default_factory=dict)

    def send(self, send: Send, expected: int | None) -> list[object]:
        """`["ok", position, seq, messages]`, or the same with "duplicate", or a code; a conflict with what is true."""
        if (send.mid, send.id) in self.used:
            first, place = self.used[send.mid, send.id]
            if send.room not in self.seqs:
                return ["no_such_room"]  # whoever asks learns nothing of it
            return ["duplicate", *place] if (first.room, first.body) == (send.room, send.body) else ["id_conflict"]
        if send.room.startswith("group:"):
            member = self.members.get((send.room, send.mid))
            if member is None:
                return ["no_such_room"]
            if member.is_muted:
                return ["muted"]
        seq = self.seqs.setdefault(send.room, 0)
        if expected not in (None, seq):
            return ["conflict", seq]
        place = self._take(send.room, 1)
        self.used[send.mid, send.id] = send, place
        return ["ok", *place]

    def decide(self, verb: Verb) -> list[list[object]] | str:
        """The places of the events it makes, or a code."""
        by = self.members.get((verb.room, verb.by))
        member = self.members.get((verb.room, verb.mid))
        is_service = verb.by == SERVICE_MID
        match verb.name:
            case "create":
                if verb.room in self.public:
                    return "room_exists"
                self.public[verb.room] = verb.mid % 2 == 1
                joining = dict.fromkeys([verb.by] * (not is_service) + [verb.mid])
                return [self._take(verb.room, 0)] + [
                    self._join(verb.room, mid, "owner" if mid == verb.by else "member") for mid in joining
                ]
            case "join":
                if member is not None:
                    return []
                if not self.public.get(verb.room, True):
                    return "no_such_room"
                return [self._join(verb.room, verb.mid, "member" if verb.room in self.public else "owner")]
            case "add":
                if verb.room not in self.public or (by is None and not is_service):
                    return "no_such_room"
                if not is_service and not self._is_above(by, RANK[verb.role]):
                    return "forbidden"
                return [] if member is not None else [self._join(verb.room, verb.mid, verb.role)]
            case "leave":
                if member is None:
                    return "no_such_room"
                if self._is_last_owner(verb.room, verb.mid):
                    return "forbidden"
                del self.members[verb.room, verb.mid]
                return [self._take(verb.room, 0)]
        if by is None and not is_service:
            return "no_such_room"
        rank = 0 if member is None else RANK[member.role]
        above = max(rank, RANK[verb.role]) if verb.name == "role" and member is not None else rank
        if not is_service and not self._is_above(by, above):
            return "forbidden"
        if member is None:
            return "no_such_room" if is_service else "bad_request"
        match verb.name:
            case "remove":
                del self.members[verb.room, verb.mid]
            case "role":
                if member.role == verb.role:
                    return []
                member.role = verb.role
            case "mute" | "unmute":
                member.is_muted = verb.name == "mute"
        return [self._take(verb.room, 0)]

    def _is_last_owner(self, room: str, mid: int) -> bool:
        inside = {who: member.role for (where, who), member in self.members.items() if where == room}
        return len(inside) > 1 and [who for who, role in inside.items() if role == "owner"] == [mid]

    @staticmethod
    def _is_above(by: Member | None, rank: int) -> bool:
        return by is not None and RANK[by.role] > max(rank, 1)

    def _join(self, room: str, mid: int, role: str) -> list[object]:
        self.public.setdefault(room, True)
        self.members[room, mid] = Member(role)
        return self._take(room, 0)

    def _take(self, room: str, messages: int) -> list[object]:
        self.position += 1
        self.seqs[room] = self.seqs.get(room, 0) + 1
        self.messages[room] = self.messages.get(room, 0) + messages
        return [self.position, self.seqs[room], self.messages[room]]


def decision_of(verb: Verb, room: str) -> Decision:
    match verb.name:
        case "create":
            return membership.CreateRoom(
                room, _actor(verb.by), settings=Settings(public=verb.mid % 2 == 1), members=[verb.mid]
            )
        case "join":
            return membership.Join(room, person(verb.mid), may_create=True)
        case "add":
            return membership.AddMember(room, verb.mid, _actor(verb.by), role=verb.role)
        case "leave":
            return membership.Leave(room, person(verb.mid))
        case "remove":
            return membership.RemoveMember(room, verb.mid, _actor(verb.by))
        case "role":
            return membership.SetRole(room, verb.mid, _actor(verb.by), verb.role)
        case "mute" | "unmute":
            return membership.Mute(room, verb.mid, _actor(verb.by), FAR_MS if verb.name == "mute" else 0)


def _actor(by: int) -> Actor:
    return SERVICE_ACTOR if by == SERVICE_MID else person(by)


def shape(answer: Told | Answer) -> list[object]:
    """What was told, as the model says it."""
    if isinstance(answer, Told):
        if isinstance(answer.outcome, Recorded):
            event = answer.outcome
            return ["duplicate" if answer.duplicate else "ok", event.position, event.seq, event.messages]
        return [answer.outcome.code, *([answer.outcome.actual] if isinstance(answer.outcome, Conflict) else [])]
    if isinstance(answer, ImcoreError):
        return [answer.code]
    return [[event.position, event.seq, event.messages] for event in answer]


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # else it hides what failed
@settings(
    max_examples=120,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(joins=st.lists(st.builds(Verb, st.just("join"), ROOMS, MIDS, st.just(0), st.just("member"))), batches=BATCHES)
async def test_batches_are_the_same_as_one_after_the_other(
    here: AtWork, joins: list[Verb], batches: list[tuple[str, Sequence[Send | Verb]]]
) -> None:
    """Drafts and decisions, duplicates, refusals, conflicts and neighbours, on the road of drafts and on that of decisions."""
    # Examples share a database. Nothing in it can be deleted, so each has rooms of its own.
    start = (await here.reader.head()).position
    model = Model(start)
    for road, batch in [("decisions", joins), *batches]:
        items: list[Draft | Decision] = []
        expected: list[list[object]] = []
        for step in batch:
            room = f"{step.room}-{start}"
            if isinstance(step, Verb):
                items.append(decision_of(step, room))
                said = model.decide(step)
                expected.append([said] if isinstance(said, str) else list(said))
            else:
                seq = None if step.expected is None else max(0, model.seqs.get(step.room, 0) + step.expected)
                id_ = f"{start:08x}-0000-4000-8000-{step.id:012x}"
                is_member = room.startswith("group:")
                items.append(message(room, step.mid, id_, body=step.body, is_member=is_member, expected=seq))
                expected.append(model.send(step, seq))
        told = [shape(answer) for answer in await here.together(*items, *[Nothing()] * (road == "decisions"))]
        for asked, wanted, got in zip(batch, expected, told, strict=False):
            assert wanted == got or is_private(asked, wanted, got), asked
        assert model.position == (await here.reader.head()).position
    stored = await here.reader.read(start, 1_000)
    for room in ("group://a", "group://b", "live://c"):
        in_order = [event.seq for event in stored if event.stream == f"{ROOM}{room}-{start}"]
        assert list(range(1, model.seqs.get(room, 0) + 1)) == in_order


def is_private(step: Send | Verb, wanted: list[object], got: list[object]) -> bool:
    """A used id in a room that has no stream yet: both refusals are right, and which one depends on the rest of the batch."""
    return isinstance(step, Send) and {str(wanted[0]), str(got[0])} <= {"no_such_room", "id_conflict"}
