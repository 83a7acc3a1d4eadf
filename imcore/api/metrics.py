"""What operators look at: figures for Prometheus, and whether the process lives and is of use.

Hot paths only add to plain numbers. `Figures` reads those when somebody asks for /metrics, so measuring costs nothing in between.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from imcore.api.asking import answer, check_service, services

PREFIX: Final = "imcore_"
READY_S: Final = 2.0
_series = re.compile(r'([a-z0-9_]+?)(_total)?(?:\{([a-z0-9_]+)="(.*)"\})?').fullmatch

Read = Callable[[], Mapping[str, Mapping[str, float]]]


class Figures(Collector):
    """Numbers that somebody else keeps, by process and by name.

    A name is `tail_gaps_total` (it only grows) or `log_pending`; one label may follow: `comet_refusals_total{code="muted"}`.
    """

    def __init__(self, read: Read) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """The figures of this moment."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for process, figures in self._read().items():
            for series, value in figures.items():
                match = _series(series)
                assert match, f"{series} is the name of no figure"
                name, total, label, labelled = match.groups()
                family = families.get(name)
                if family is None:
                    kind = CounterMetricFamily if total else GaugeMetricFamily
                    labels = ["process", *([label] if label else [])]
                    family = families[name] = kind(PREFIX + name, name.replace("_", " "), labels=labels)
                family.add_metric([process, *([labelled] if label else [])], value)
        return families.values()


def registry(read: Read) -> CollectorRegistry:
    """A registry of these figures and of what Python and the kernel know of this process."""
    made = CollectorRegistry(auto_describe=False)
    made.register(Figures(read))
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    return made


class Requests(Collector):
    """HTTP requests answered, by route, method and status."""

    def __init__(self) -> None:
        self.answered: Counter[tuple[str, str, int]] = Counter()
        self.seconds: Counter[str] = Counter()

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """One more."""
        self.answered[route, method, status] += 1
        self.seconds[route] += seconds  # type: ignore[assignment]  # a Counter of fractions

    def collect(self) -> Iterable[Metric]:
        """The figures of this moment."""
        answered = CounterMetricFamily(PREFIX + "http_requests", "http requests", labels=["route", "method", "status"])
        for (route, method, status), count in self.answered.items():
            answered.add_metric([route, method, str(status)], count)
        seconds = CounterMetricFamily(PREFIX + "http_request_seconds", "time spent in http requests", labels=["route"])
        for route, spent in self.seconds.items():
            seconds.add_metric([route], spent)
        return answered, seconds


def add_routes(app: web.Application) -> None:
    """Put these routes into the application."""
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)


async def metrics(request: web.Request) -> web.Response:
    """Every figure, in the text form of Prometheus. For services."""
    check_service(request)
    text = generate_latest(services(request).metrics)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


async def healthz(request: web.Request) -> web.Response:
    """The process is alive: it answers."""
    return answer({"alive": True})


async def readyz(request: web.Request) -> web.Response:
    """Is the process of use? 200 when every check is "ok", else 503; the checks say what is wrong."""
    try:
        async with asyncio.timeout(READY_S):
            checks = await services(request).ready()
    except TimeoutError:
        checks = {"answer": f"none in {READY_S:g} s"}
    is_ready = all(said == "ok" for said in checks.values())
    return answer({"ready": is_ready, "checks": dict(checks)}, 200 if is_ready else 503)
