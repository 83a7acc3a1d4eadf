"""Clients are told comets by goim's rule. The figures here were worked out by hand from its formula."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from api.place import node
from imcore.balancer import Balancer, current_weight


def test_goims_weights() -> None:
    # Two comets of weight 3 and one of 1, of which the last is in the client's region.
    assert current_weight(3, 1.0, 101, 7, 303) == 3 + 79  # (3/7 - 101/303/2) * 303 = 79.36, to the floor
    assert current_weight(3, 1.0, 202, 7, 303) == 3 + 29  # 28.86, to the ceiling
    assert current_weight(1, 1.6, 0, 7, 303) == 70  # 1.6 + 69, cut
    assert current_weight(1, 1.0, 300, 100, 303) == 1  # never less than 1, however busy
    assert current_weight(1 << 20, 1.6, 0, 1 << 20, 9) == 1 << 20
    assert current_weight(10, 1.0, 0, 10, 0) == 0
    assert current_weight(0, 1.0, 5, 0, 5) == 0


def test_ones_own_region_comes_first() -> None:
    nodes = [node("bj", region="bj", connections=50), node("sh", region="sh", connections=55)]

    assert ["bj", "sh"] == [one.node for one in Balancer().choose(nodes, "")]
    assert ["sh", "bj"] == [one.node for one in Balancer().choose(nodes, "sh")]


def test_a_storm_is_spread_before_the_next_figures_come() -> None:
    nodes = [node("a"), node("b"), node("c", weight=20)]
    balancer = Balancer()

    first = Counter(balancer.choose(nodes, "elsewhere")[0].node for _ in range(1000))

    assert first["a"] == first["b"] or abs(first["a"] - first["b"]) == 1
    assert first["c"] > first["a"] > 100


def test_new_figures_replace_what_was_counted() -> None:
    balancer = Balancer()
    old = [node("a"), node("b")]
    for _ in range(100):
        balancer.choose(old, "")
    new = [node("a", connections=0, lease_until=datetime(2027, 1, 1, tzinfo=UTC)), node("b", connections=0)]

    assert balancer.choose(new, "")[0].node == "a"


def test_no_comets_are_no_error() -> None:
    assert [] == Balancer().choose([], "")
