"""The checks find what they are for: in sound runs nothing, each planted bug, and by no other promise than those that it breaks."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from imcore.testkit.checkers import ALL, check_run
from imcore.testkit.history.log import NOTHING
from testkit.planted import BOUNDS, PLANTED, Case, receipt, sound

WORLDS = 1_000
UNSTORED_WORLDS = 100
ROOM_OF_ALL = "all:"
PLACES = 10  # where each bug is planted
SEEDS_MAX = 1_000


def test_a_thousand_sound_runs_raise_no_alarm() -> None:
    """And every promise was looked at in some of them."""
    checked: Counter[str] = Counter()
    for seed in range(WORLDS):
        report = check_run(sound(seed).run, BOUNDS)
        assert () == report.violated, f"seed {seed}: {report.text()}"
        checked.update({result.name: result.checked for result in report.results})

    assert [] == [name for name in ALL if checked[name] < WORLDS // 10]


def test_what_is_told_and_not_stored_raises_no_alarm() -> None:
    """Before anything else came over a connection, after each event, and to who was removed and came back."""
    came_back = 0
    for seed in range(UNSTORED_WORLDS):
        case = Case(seed)
        for visit in case.run.visits.values():
            case.add(visit.opened_at + 1, visit.key, "ok", "deliver", receipt(ROOM_OF_ALL))
            for t, event in visit.delivered:
                if case.sound.has_members(event.room) and case.run.is_of_this_log(visit.key):
                    case.add(t + 1, visit.key, "ok", "deliver", receipt(event.room))
                    came_back += any(one.room == event.room and at < t for at, one in visit.removals)

        assert [] == [violation for result in case.results() for violation in result.violations], seed

    assert came_back > UNSTORED_WORLDS // 10


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found_by_the_promises_that_it_breaks(bug: str) -> None:
    """In every place where it was planted."""
    plant, expected = PLANTED[bug]
    places = 0
    for seed in range(SEEDS_MAX):
        case = Case(seed)
        if plant(case):
            places += 1
            results = case.results()
            found = {result.name for result in results if result.violated}
            said = [f"{r.name} {violation}" for r in results for violation in r.violations]
            assert expected == found, f"seed {seed}: {said}"
            if places == PLACES:
                return
    assert places == PLACES, "there were too few places for it"


@pytest.mark.parametrize("said", ["edited", NOTHING])
def test_a_message_may_be_shown_as_it_was_edited_and_a_recalled_one_as_nothing(said: str) -> None:
    """To some so, and to others as it was sent: they were there."""
    places = 0
    for seed in range(SEEDS_MAX):
        case = Case(seed)
        if (found := case.some([v.delivered[n] for v, n in case.pairs() if v.delivered[n][1].hash])) is None:
            continue
        at, event = found
        case.readings[event.room, event.seq] = {"edited", NOTHING}
        case.alter(case.at(at), hash=said)
        assert [] == [str(result) for result in case.results() if result.violated], f"seed {seed}"
        places += 1
        if places == PLACES:
            return
    raise AssertionError("there were too few places for it")


def test_every_promise_has_a_bug_that_breaks_it() -> None:
    assert set(ALL) == {name for _, expected in PLANTED.values() for name in expected}


def test_the_docs_have_every_promise() -> None:
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()

    assert list(ALL) == re.findall(r"^\| ([PQ]\d+[a-d]?) \|", page, re.MULTILINE)
