"""What was acknowledged is on the disk: the power is cut, and everything is there. The rig that says so loses what was not flushed.

Needs loop devices, so root, on Linux. Where none can be mounted the tests are skipped and say why; they are no more to be had there.
"""

from __future__ import annotations

import os
from functools import cache

import pytest

from rigs.disk import missing
from rigs.powercut import ACKED_BEFORE_A_CUT, Flushing, run

CUTS = 3  # `make powercut CUTS=60` cuts more often


@pytest.fixture(autouse=True)
def _a_disk_to_cut(capsys: pytest.CaptureFixture[str]) -> None:
    if reason := _missing():
        with capsys.disabled():
            print(f"\nno power can be cut on this machine: {reason}")
        pytest.skip(f"no power can be cut on this machine: {reason}")


async def test_every_acknowledged_send_survives_every_cut() -> None:
    """At the place that was told, whole, in a dense log; and the next cut takes none of those before."""
    report = await run(CUTS, "on", _seed())

    assert [([], [])] * CUTS == [(cut.lost, cut.wrong) for cut in report.cuts], report
    assert all(cut.acked >= ACKED_BEFORE_A_CUT for cut in report.cuts), report


@pytest.mark.parametrize(("flushing", "cuts"), [("fsync off", 1), ("commit off", CUTS)])
async def test_what_was_acknowledged_before_it_was_flushed_does_not_survive(flushing: Flushing, cuts: int) -> None:
    """The rig is honest: it takes everything that is only in the page cache, and what Postgres has not even written."""
    report = await run(cuts, flushing, _seed())

    assert all(cut.acked >= ACKED_BEFORE_A_CUT for cut in report.cuts), report
    assert report.is_as_it_should_be, report


def _seed() -> int:
    return int.from_bytes(os.urandom(4))


@cache
def _missing() -> str:
    return missing()
