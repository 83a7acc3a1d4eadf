"""What grows without end is found, what warms up is not."""

from __future__ import annotations

import os
import random

import pytest

from imcore.testkit.growth import JUDGED_S, Growth, Sample, growths, of_process, slope


def series(figure: str, first: float, per_h: float, seconds: float, noise: float = 0.0) -> list[Sample]:
    """A sample every ten seconds of a process that warms up and then grows like this."""
    chance = random.Random(1)
    return [
        Sample(t, "comet-1", 1, {figure: first * min(1.0, 0.5 + t / seconds * 5) + per_h * t / 3600 + chance.uniform(-noise, noise)})
        for t in range(0, int(seconds), 10)
    ]  # fmt: skip


def only(samples: list[Sample]) -> Growth:
    (one,) = growths(samples)
    return one


@pytest.mark.parametrize(
    ("figure", "first", "per_h", "is_leak"),
    [
        ("rss_kib", 100_000, 0, False),
        ("rss_kib", 100_000, 500, False),
        ("rss_kib", 100_000, 3_000, True),
        ("descriptors", 60, 0, False),
        ("descriptors", 60, 100, True),
        ("tasks", 100, 4, False),
        ("projection_lag", 0, 5_000, True),
    ],
)
def test_a_slope_is_judged_by_what_it_is_of(figure: str, first: float, per_h: float, is_leak: bool) -> None:
    told = only(series(figure, first, per_h, 2 * JUDGED_S, noise=first / 1000))

    assert pytest.approx(per_h, abs=first / 100 + 1) == told.per_h
    assert is_leak == told.is_leak


def test_what_was_not_watched_for_long_is_told_and_not_judged() -> None:
    """And what was watched for less than a minute has no slope at all."""
    assert not only(series("rss_kib", 100_000, 1e6, JUDGED_S / 2)).is_leak
    assert not growths(series("rss_kib", 100_000, 1e6, 50))


def test_each_life_of_a_process_is_a_series_of_its_own() -> None:
    """A process that was started again with less memory did not shrink, and the next did not grow."""
    before = series("rss_kib", 200_000, 0, 600)
    after = [Sample(one.t_s + 600, one.process, 2, {"rss_kib": 100_000}) for one in before]

    assert [pytest.approx(0, abs=1)] * 2 == [one.per_h for one in growths(before + after)]


def test_the_slope_is_that_of_the_line() -> None:
    assert pytest.approx(2.0) == slope([(t, 5 + 2.0 * t) for t in range(10)])
    assert 0.0 == slope([(1.0, 3.0), (1.0, 9.0)])


def test_a_process_is_read_as_the_kernel_shows_it() -> None:
    found = of_process(os.getpid())

    assert found["rss_kib"] > 1_000
    assert found["descriptors"] >= 3
