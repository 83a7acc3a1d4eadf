"""The checks find what they are for: in a sound history nothing, and each planted fault."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from system.checking import History, Visit
from system.clients import Event
from system.servers import Entry

ROOM = "group://r"


def entry(position: int, type_: str, mid: int, body: object, *, room: str = ROOM, key: str = "") -> Entry:
    op = 1000 if type_ == "message_sent" else 0
    return Entry(position, f"room:{room}", position, type_, mid, key, None, op, 0, body)


LOG = [
    entry(1, "member_joined", 1, {"mid": 1}),
    entry(2, "message_sent", 1, "before 2 came"),
    entry(3, "member_joined", 2, {"mid": 2}),
    entry(4, "message_sent", 1, "a"),
    entry(5, "message_sent", 2, "b", key="mine"),
    entry(6, "message_sent", 2, "c", key="other"),
    entry(7, "message_sent", 9, "elsewhere", room="group://s"),
    entry(8, "message_sent", 1, "d"),
    entry(9, "member_left", 2, {"mid": 2}),
    entry(10, "message_sent", 1, "after 2 left"),
    entry(11, "member_joined", 2, {"mid": 2}),
    entry(12, "message_sent", 1, "e"),
]
OWED = [3, 4, 6, 8, 11, 12]


def event(position: int) -> Event:
    found = LOG[position - 1]
    return Event(found.position, found.stream, found.seq, found.type, found.op, found.mid, found.body)


def faults(positions: Sequence[int | Event], caught_up: int = 0) -> list[str]:
    events = [one if isinstance(one, Event) else event(one) for one in positions]
    return History(LOG).faults(Visit(2, "mine", 2, 0, events, caught_up=caught_up, is_whole=True))


def test_a_sound_visit_has_no_faults() -> None:
    assert [] == faults(OWED)


@pytest.mark.parametrize("left_out", OWED)
def test_what_is_left_out_is_found(left_out: int) -> None:
    (fault,) = faults([position for position in OWED if position != left_out])

    assert f"is missing: Entry(position={left_out}," in fault


@pytest.mark.parametrize(
    ("positions", "word"),
    [
        ([3, 4, 4, 6, 8, 11, 12], "twice"),
        ([3, 6, 4, 8, 11, 12], "came after 6"),
        ([2, *OWED], "not for it to see"),
        ([3, 4, 6, 7, 8, 11, 12], "not for it to see"),
        ([3, 4, 6, 8, 10, 11, 12], "not for it to see"),
        ([3, 4, 6, 8, 9, 11, 12], "not for it to see"),
        ([3, 4, 5, 6, 8, 11, 12], "its own"),
        ([*OWED, Event(13, f"room:{ROOM}", 13, "message_sent", 1000, 1, "x")], "not in the log"),
        ([*OWED[:-1], event(12)._replace(seq=13)], "another event"),
        ([*OWED[:-1], event(12)._replace(type="message_pushed")], "another event"),
    ],
)
def test_what_does_not_belong_there_is_found(positions: list[int | Event], word: str) -> None:
    (fault,) = faults(positions)

    assert word in fault


def test_of_a_membership_that_ended_during_the_catching_up_something_may_be_missing() -> None:
    """But nothing of one that ended after it, or has not ended."""
    assert [] == faults([3, 11, 12], caught_up=9)
    assert 3 == len(faults([3, 11, 12], caught_up=8))
    assert 1 == len(faults([3, 11], caught_up=11))


def test_a_visit_that_ended_early_is_owed_what_came_before_its_end() -> None:
    history = History(LOG)

    assert [] == history.faults(Visit(2, "mine", 2, 0, [event(3), event(4), event(6)]))
    assert 1 == len(history.faults(Visit(2, "mine", 2, 0, [event(3), event(6)])))


def test_what_comes_before_the_beginning_is_found() -> None:
    (fault,) = History(LOG).faults(Visit(2, "mine", 2, 6, [event(6), event(8)]))

    assert "what it began with" in fault


def test_in_version_1_messages_are_known_by_their_bodies() -> None:
    """And nothing but messages is owed."""
    said = [Event(0, "", 0, "", 1000, 0, body) for body in (b'"a"', b'"c"', b'"d"', b'"e"')]
    history = History(LOG)

    assert [] == history.faults(Visit(2, "mine", 2, 0, said, ops=[1000], is_whole=True))
    assert 1 == len(history.faults(Visit(2, "mine", 2, 0, [*said[:2], said[3]], ops=[1000], is_whole=True)))
    assert 1 == len(
        history.faults(Visit(2, "mine", 2, 0, [*said[:2], said[2], said[2], said[3]], ops=[1000], is_whole=True))
    )


def test_a_sender_who_is_no_member_is_found() -> None:
    assert [7] == [found.position for found in History(LOG).strangers()]
