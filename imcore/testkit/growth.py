"""Does anything grow without end? Memory, descriptors, tasks and what waits, of each process, sampled over a long run, and their
slopes.

A slope is the least-squares line through the samples of one life of one process, the first part left out: caches fill, then they
are full. It is told for every series that is long enough to have one, and judged (`is_leak`) only where it is long enough to mean
something: minutes of a warm-up look like a leak of gigabytes a day.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp

from imcore.testkit.cluster import Node
from imcore.testkit.history import Fault, Record
from imcore.testkit.stage import Stage

EVERY_S: Final = 5.0
TOLD_S: Final = 60.0
JUDGED_S: Final = 1_800.0
WARM_UP: Final = 0.3  # of a series
RSS_PERCENT_PER_H_MAX: Final = 1.0
COUNT_PERCENT_PER_H_MAX: Final = 5.0
COUNT_FREE: Final = 20.0  # so many descriptors, tasks or events more say nothing
UNSENT: Final = "unsent_bytes"
FIGURES: Final[Mapping[str, str]] = {
    "imcore_tasks": "tasks",
    "imcore_comet_sessions": "sessions",
    "imcore_log_pending": "log_pending",
    "imcore_projection_lag_events": "projection_lag",
    "imcore_comet_unsent_bytes": UNSENT,
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment."""

    t_s: float
    process: str
    pid: int
    figures: Mapping[str, float]


async def watch(stage: Stage, journal: Path, write: Callable[[Record], None], every_s: float = EVERY_S) -> None:
    """Sample every process, for ever. Ends when cancelled; what was sampled is in the journal, and what waits for clients in the
    history too, where its bound is checked (P20)."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=every_s)) as http:
        with journal.open("w") as file:
            while True:
                for process in (*stage.cluster.nodes, *stage.clients):
                    if (pid := process.pid) is None:
                        continue
                    figures = of_process(pid)
                    if isinstance(process, Node) and process.ready.is_set():
                        figures |= await asked(http, process)
                    if UNSENT in figures:
                        told = Fault(UNSENT, process.name, bites=False, value=figures[UNSENT])
                        write(Record(time.monotonic_ns(), "nemesis", 0, "", 0, 0, "info", "nemesis", told))
                    sample = Sample(round(time.monotonic(), 2), process.name, pid, figures)
                    file.write(json.dumps(asdict(sample)) + "\n")
                file.flush()
                await asyncio.sleep(every_s)


def of_process(pid: int) -> dict[str, float]:
    """Resident memory and open descriptors; what cannot be read is left out."""
    found: dict[str, float] = {}
    with suppress(OSError, ValueError):
        found["rss_kib"] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024
        found["descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
    return found


async def asked(http: aiohttp.ClientSession, node: Node) -> dict[str, float]:
    """What it says of itself: tasks, sessions, what waits."""
    told = await metrics(http, node)
    return {name: told[figure] for figure, name in FIGURES.items() if figure in told}


async def metrics(http: aiohttp.ClientSession, node: Node) -> dict[str, float]:
    """The figures of a process, by name; empty if it does not answer."""
    found: dict[str, float] = {}
    with suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with http.get(f"http://{node.doors['http']}/metrics") as answer:
            for row in (await answer.text()).splitlines():
                if row and not row.startswith("#"):
                    name, _, value = row.rpartition(" ")
                    name = name.replace('{worker="0"}', "")
                    if name.startswith(("imcore_", "process_")):
                        found[name] = float(value)
    return found


def samples(journal: Path) -> list[Sample]:
    """What was sampled."""
    return [Sample(**json.loads(line)) for line in journal.read_text().splitlines() if line.endswith("}")]


class Growth(NamedTuple):
    """One figure over one life of one process."""

    process: str
    pid: int
    figure: str
    seconds: float
    first: float
    last: float
    per_h: float
    is_leak: bool

    @property
    def percent_per_h(self) -> float:
        """Of what it was at first."""
        return 100 * self.per_h / self.first if self.first else 0.0


def growths(found: Iterable[Sample]) -> list[Growth]:
    """The slope of each figure of each life that was long enough to have one."""
    series: defaultdict[tuple[str, int, str], list[tuple[float, float]]] = defaultdict(list)
    for sample in found:
        for figure, value in sample.figures.items():
            series[sample.process, sample.pid, figure].append((sample.t_s, value))
    told = []
    for (process, pid, figure), points in sorted(series.items()):
        kept = points[int(len(points) * WARM_UP) :]
        seconds = kept[-1][0] - kept[0][0]
        if len(kept) < 5 or seconds < TOLD_S:
            continue
        per_h = slope(kept) * 3600
        first, last = kept[0][1], kept[-1][1]
        told.append(Growth(process, pid, figure, seconds, first, last, per_h, _is_leak(figure, seconds, first, per_h)))
    return told


def _is_leak(figure: str, seconds: float, first: float, per_h: float) -> bool:
    if seconds < JUDGED_S:
        return False
    if figure == "rss_kib":
        return per_h > first * RSS_PERCENT_PER_H_MAX / 100
    grown = per_h * seconds / 3600
    return grown > COUNT_FREE and per_h > first * COUNT_PERCENT_PER_H_MAX / 100


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the least-squares line, in units a second."""
    n = len(points)
    mean_t, mean_v = sum(t for t, _ in points) / n, sum(v for _, v in points) / n
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    return sum((t - mean_t) * (v - mean_v) for t, v in points) / spread if spread else 0.0
