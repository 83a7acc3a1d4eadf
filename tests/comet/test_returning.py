"""Who is sent away is told when to come back: soon if they are few, spread if they are many."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from imcore.comet.returning import RETURN_MS_MAX, SPREAD_MS, SPREADS_MS, Returns
from imcore.config import Settings
from imcore.errors import TABLE, GoingAway, ImcoreError, SlowConsumer, TakenOver, TooManyConnections, TryLater

PER_S = 500.0
DRAIN_MS = 3_000


def returns() -> Returns:
    return Returns(per_s=PER_S, drain_spread_ms=DRAIN_MS, chance=random.Random(7))


def test_who_is_not_to_come_back_is_told_no_delay() -> None:
    assert [0] * 5 == [returns().delay_ms(TakenOver(), 100.0) for _ in range(5)]


@pytest.mark.parametrize("kind", [kind for kind in TABLE if kind.retry and kind.close and kind is not GoingAway])
def test_every_close_that_may_be_retried_spreads_those_who_come_back(kind: type[ImcoreError]) -> None:
    made = returns()
    delays = [made.delay_ms(kind(), 100.0 + n) for n in range(200)]

    window_ms = SPREADS_MS.get(kind, SPREAD_MS)
    assert len(set(delays)) > 100
    assert min(delays) < window_ms / 10
    assert window_ms * 0.9 < max(delays) <= window_ms


def test_the_page_on_the_protocol_says_the_same() -> None:
    said = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    table = dict(
        re.findall(
            r"^\| (`\w+`|every other with `retry`) \| (\d+) seconds?(?: \(`drain_delay_ms`\))? \|$", said, re.MULTILINE
        )
    )

    spreads_ms = {f"`{kind.code}`": spread_ms for kind, spread_ms in SPREADS_MS.items()}
    spreads_ms |= {"`going_away`": Settings().drain_delay_ms, "every other with `retry`": SPREAD_MS}
    assert {name: int(seconds) * 1000 for name, seconds in table.items()} == spreads_ms
    assert f"at {Settings().returns_per_s:,.0f} clients a second" in said


def test_who_has_a_place_in_a_line_is_told_that() -> None:
    made = returns()

    assert [9_000, 9_500] == [made.delay_ms(TryLater(retry_after_ms=place), 100.0) for place in (9_000, 9_500)]


@pytest.mark.parametrize(("count", "window_ms"), [(100, DRAIN_MS), (10_000, 20_000)])
def test_a_drain_spreads_all_of_them_evenly(count: int, window_ms: int) -> None:
    """Over its own window, or over as long as it takes to let them in."""
    made = returns()
    made.expect(count, 100.0)
    delays = sorted(made.delay_ms(GoingAway(), 100.0, is_counted=True) for _ in range(count))

    assert delays[-1] <= window_ms
    for tenth in range(1, 10):
        assert abs(delays[count * tenth // 10] - window_ms * tenth / 10) < window_ms * (0.02 if count > 1000 else 0.2)


def test_a_storm_of_refusals_comes_back_no_faster_than_it_can_be_let_in() -> None:
    """Ten thousand are refused within two seconds, and each comes back when it was told, to be refused again: the rate settles."""
    made = returns()
    due = sorted(100.0 + n * 2 / 10_000 for n in range(10_000))
    at_once: dict[int, int] = {}
    for now in due:
        back = now + made.delay_ms(TryLater(), now) / 1000
        at_once[int(back)] = at_once.get(int(back), 0) + 1

    later = [count for second, count in at_once.items() if second >= 104]
    assert max(later) < 2.5 * PER_S


def test_what_was_promised_runs_off_with_the_clock() -> None:
    made = returns()
    made.expect(10_000, 100.0)

    assert made.delay_ms(SlowConsumer(), 121.0) <= SPREAD_MS


def test_nobody_is_told_to_wait_for_ever() -> None:
    made = returns()
    made.expect(1_000_000, 100.0)

    delays = [made.delay_ms(TooManyConnections(), 100.0) for _ in range(100)]

    assert max(delays) <= RETURN_MS_MAX
    assert len(set(delays)) > 90, "and not all of them at the same moment"
