"""Runs for tests: played, judged, and kept where one can look at them if they did not hold."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from imcore.testkit.chaos import Options, play
from imcore.testkit.verdict import Verdict, judge

KEPT_IN = Path(__file__).parents[2] / "chaos-reports"


async def played(options: Options) -> Verdict:
    """The verdict of a run. One that did not hold is kept beside those of `make chaos`, without its database."""
    verdict = await asyncio.to_thread(judge, await play(options))
    if verdict.word != "held":
        kept = KEPT_IN / f"test-{options.seed}-{options.folder.parent.name}-{options.folder.name}"
        shutil.copytree(options.folder, kept, ignore=shutil.ignore_patterns("database"), dirs_exist_ok=True)
    return verdict
