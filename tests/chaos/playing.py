"""Runs for tests: played, judged, and kept where one can look at them if they did not hold."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Final

from imcore.testkit.chaos import Options, play
from imcore.testkit.verdict import BOUNDS, Verdict, judge

KEPT_IN = Path(__file__).parents[2] / "chaos-reports"
# Tests run on whatever machine there is, beside others: what is not there after this does not come by itself. How fast it is to be,
# `make chaos` and the benchmarks say.
PATIENT: Final = BOUNDS._replace(
    revoked_s=15.0,
    taken_over_s=15.0,
    recovery_s=60.0,
    drain_s=120.0,
    delivery_p99_ms=30_000.0,
    delivery_p999_ms=60_000.0,
    degraded_p99_ms=60_000.0,
    online_s=60.0,
    offline_clean_s=60.0,
    offline_s=120.0,
)


async def played(options: Options) -> Verdict:
    """The verdict of a run. One that did not hold is kept beside those of `make chaos`, without its database."""
    verdict = await asyncio.to_thread(judge, await play(options), PATIENT)
    if verdict.word != "held":
        kept = KEPT_IN / f"test-{options.seed}-{options.folder.parent.name}-{options.folder.name}"
        shutil.copytree(options.folder, kept, ignore=shutil.ignore_patterns("database"), dirs_exist_ok=True)
    return verdict
