"""Who holds most gives way, and nobody else."""

from __future__ import annotations

import pytest

from imcore.comet.giving_way import giving_way


@pytest.mark.parametrize("most", [100, 101, 1_000])
def test_nobody_gives_way_while_all_fit(most: int) -> None:
    assert [] == giving_way({"a": 60, "b": 40}, most)
    assert [] == giving_way({}, most)


def test_the_largest_give_way_until_the_others_fit_with_room_to_spare() -> None:
    held = {"idle": 0, "small": 10, "large": 50, "larger": 60, "largest": 70}

    assert ["largest"] == giving_way(held, 189)
    assert ["largest", "larger"] == giving_way(held, 150)
    assert ["largest", "larger", "large"] == giving_way(held, 20)
