"""What operators look at: figures for Prometheus, and whether the process lives and is of use."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Final

from aiohttp import hdrs, web
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from imcore.api.asking import answer, check_service, services

READY_S: Final = 2.0


class Requests(Collector):
    """HTTP requests answered, by route, method and status."""

    def __init__(self) -> None:
        self.answered: Counter[tuple[str, str, int]] = Counter()
        self.seconds: Counter[str] = Counter()
        self.under_way = 0
        self.refused = 0  # because there were too many

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """One more. A method is a word of the client's: those that nobody knows are one, or they would be as many as it likes."""
        self.answered[route, method if method in hdrs.METH_ALL else "other", status] += 1
        self.seconds[route] += seconds  # type: ignore[assignment]  # a Counter of fractions

    def collect(self) -> Iterable[Metric]:
        """The figures of this moment."""
        answered = CounterMetricFamily(
            "imcore_http_requests", "Requests answered.", labels=["route", "method", "status"]
        )
        for (route, method, status), count in self.answered.items():
            answered.add_metric([route, method, str(status)], count)
        seconds = CounterMetricFamily(
            "imcore_http_request_seconds", "Time spent in requests, all together.", labels=["route"]
        )
        for route, spent in self.seconds.items():
            seconds.add_metric([route], spent)
        under_way = GaugeMetricFamily("imcore_http_requests_under_way", "Requests that are being answered.")
        under_way.add_metric([], self.under_way)
        refused = CounterMetricFamily("imcore_http_requests_refused", "Requests refused because there were too many.")
        refused.add_metric([], self.refused)
        return answered, seconds, under_way, refused


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
