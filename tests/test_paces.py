"""Who asks too often is told when to ask again; what is remembered of everybody is bounded."""

from __future__ import annotations

import pytest

from imcore.paces import Line, Paces


def test_a_burst_passes_and_then_one_at_a_time() -> None:
    paces: Paces[int] = Paces(per_s=10, burst=5)

    assert [0.0] * 5 == [paces.take(7, 100.0) for _ in range(5)]
    assert pytest.approx(0.1) == paces.take(7, 100.0)
    assert 1 == paces.refused
    assert pytest.approx(0.05) == paces.take(7, 100.05), "who is refused pays nothing"
    assert 0.0 == paces.take(7, 100.1 + 1e-9)
    assert paces.take(7, 100.1 + 1e-9) > 0


def test_after_a_pause_there_is_a_whole_burst_and_no_more() -> None:
    paces: Paces[int] = Paces(per_s=10, burst=5)
    for _ in range(5):
        paces.take(7, 0.0)

    assert [True] * 5 + [False] == [paces.take(7, 1_000.0) == 0 for _ in range(6)]


def test_one_pays_for_itself_alone() -> None:
    paces: Paces[str] = Paces(per_s=1, burst=1)

    assert 0.0 == paces.take("a", 0.0)
    assert 0.0 == paces.take("b", 0.0)
    assert paces.take("a", 0.0) > 0


def test_what_is_charged_is_owed() -> None:
    paces: Paces[str] = Paces(per_s=10, burst=5)

    paces.charge("a", 0.0, 20)

    assert pytest.approx(1.6) == paces.take("a", 0.0), "20 taken, 5 at once are free, one is to come"


def test_who_is_idle_is_forgotten_and_nobody_else() -> None:
    paces: Paces[int] = Paces(per_s=1, burst=3)
    for key in range(100):
        paces.take(key, 0.0)
    assert 100 == len(paces)

    for n in range(100):
        paces.take(1_000, 5.0 + n)

    assert 1 == len(paces)


def test_what_is_left_is_what_can_be_taken() -> None:
    paces: Paces[int] = Paces(2, 5)
    assert (5, 0.0) == paces.left(7, 100.0)
    for left in (4, 3, 2, 1, 0):
        assert 0 == paces.take(7, 100.0)
        assert left == paces.left(7, 100.0)[0]
    assert (0, 2.5) == paces.left(7, 100.0)
    assert paces.take(7, 100.0) > 0
    assert (1, 2.0) == paces.left(7, 100.5)
    assert 0 == paces.take(7, 100.5)
    paces.charge(7, 100.5, 40)
    assert 0 == paces.left(7, 100.5)[0]


@pytest.mark.parametrize("keys", [9, 10, 11, 1_000])
def test_no_more_are_remembered_than_the_limit(keys: int) -> None:
    """Those who asked last are."""
    paces: Paces[int] = Paces(per_s=1, burst=1, keys_max=10)
    for key in range(keys):
        paces.take(key, 0.0)

    assert min(keys, 10) == len(paces)
    assert all(paces.take(key, 0.0) > 0 for key in range(max(0, keys - 10), keys))


def test_the_refused_are_told_to_come_one_after_another() -> None:
    line = Line()

    assert [0.0, 0.1, 0.2] == [pytest.approx(line.join(5.0, 10)) for _ in range(3)]
    assert pytest.approx(0.1) == line.join(5.2, 10), "two of them have had their turn"
    assert 0.0 == line.join(60.0, 10)
