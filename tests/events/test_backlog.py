"""How many may wait is how many can be committed in time, and who is refused is told when its turn would be."""

from __future__ import annotations

import pytest

from imcore.events.backlog import RETRY_S_MAX, Backlog

BATCH = 100


def backlog(**limits: float) -> Backlog:
    made = {"events_max": 20_000, "reserve": 2_000, "bytes_max": 1 << 30, "batch_events_max": BATCH, "wait_max_s": 2.0}
    return Backlog(**{**made, **limits})  # type: ignore[arg-type]


def test_before_anything_is_known_all_but_the_reserve_may_wait() -> None:
    assert (18_000, 20_000) == (backlog().sends_max, backlog().events_max)
    assert 1 == backlog(events_max=10, reserve=10).sends_max


def test_as_many_may_wait_as_are_committed_in_time() -> None:
    log = backlog()

    log.committed(BATCH, 0, 0.1, was_full=True)

    assert 2_000 == log.sends_max
    assert 1.5 == log.expected_s(1_500)


def test_the_pace_follows_what_is_seen() -> None:
    log = backlog()
    log.committed(BATCH, 0, 0.1, was_full=True)

    for _ in range(50):
        log.committed(BATCH, 0, 0.02, was_full=True)
    assert log.pace == pytest.approx(5_000, rel=0.01)
    for _ in range(50):
        log.committed(BATCH, 0, 0.2, was_full=True)
    assert log.pace == pytest.approx(500, rel=0.01)


def test_a_small_batch_says_little_of_the_pace() -> None:
    """It took everything there was: how much more it could have taken, nobody knows."""
    log = backlog()
    log.committed(1, 0, 1.0, was_full=False)
    assert 18_000 == log.sends_max, "nothing is known"

    log.committed(BATCH, 0, 0.1, was_full=True)
    log.committed(1, 0, 0.01, was_full=False)
    assert 1_000 == log.pace
    log.committed(90, 0, 0.01, was_full=False)
    assert 9_000 == log.pace


def test_a_batch_may_always_wait() -> None:
    """However slow commits are: with fewer waiting they would be as slow, and carry less."""
    log = backlog()

    log.committed(BATCH, 0, 60.0, was_full=True)
    assert BATCH == log.sends_max
    log.committed(BATCH, 0, 0.001, was_full=True)
    log.slow()
    assert BATCH == log.sends_max


def test_large_bodies_leave_room_for_fewer() -> None:
    log = backlog(bytes_max=1 << 20)

    log.committed(10, 10 * 1_024, 0.001, was_full=False)
    assert 1_024 == log.sends_max
    log.committed(10, 10 << 20, 0.001, was_full=False)
    assert 1 == log.sends_max
    log.committed(10, 100, 0.001, was_full=False)
    assert 18_000 == log.sends_max


def test_without_anywhere_to_commit_to_no_message_may_wait() -> None:
    log = backlog()

    log.stand_still()
    assert (0, 20_000) == (log.sends_max, log.events_max)
    assert log.retry_ms(0, 1.0) >= 1_000
    log.go_on()
    assert BATCH == log.sends_max


def test_the_refused_are_told_to_come_one_after_another() -> None:
    log = backlog()
    log.committed(BATCH, 0, 0.1, was_full=True)  # 1,000 a second

    told = [log.retry_ms(2_000, now=50.0) for _ in range(1_000)]

    assert 2_000 == told[0]
    assert 2_999 == pytest.approx(told[-1], abs=2)
    assert sorted(told) == told
    assert 1_000 == log.refused
    assert 2_000 == log.retry_ms(2_000, now=60.0), "they have had their turn"
    assert RETRY_S_MAX * 1_000 == log.retry_ms(1_000_000, now=60.0)
