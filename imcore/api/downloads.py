"""Answers that are no JSON, on their way out: each as slow as the line of its client, so they have bounds of their own.

A download is no longer one of the requests under way once it has begun: or a few who read slowly would keep everybody else out. Nothing
waits: who comes when too many are under way is told so at once.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from imcore.api.metrics import Requests
from imcore.config import Settings
from imcore.errors import Overloaded, RateLimited

RETRY_MS_MAX: Final = 5_000


class Downloads(Collector):
    """The downloads of this process."""

    def __init__(self) -> None:
        # downloads_max and downloads_per_address_max bound them.
        self._by_address: Counter[str] = Counter()
        self.under_way = 0
        self.refused = 0

    @contextmanager
    def place(self, address: str, settings: Settings) -> Iterator[None]:
        """One of the places, while the block runs. Raises Overloaded, RateLimited (too many of this address)."""
        if self.under_way >= settings.downloads_max:
            self.refused += 1
            raise Overloaded(retry_after_ms=random.randrange(1_000, RETRY_MS_MAX))
        if settings.rate_limits and self._by_address[address] >= settings.downloads_per_address_max:
            self.refused += 1
            raise RateLimited("too many downloads of this address at once", retry_after_ms=1_000)
        self.under_way += 1
        self._by_address[address] += 1
        try:
            yield
        finally:
            self.under_way -= 1
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def collect(self) -> Iterable[Metric]:
        """The figures of this moment."""
        under_way = GaugeMetricFamily("imcore_http_downloads_under_way", "Downloads on their way out.")
        under_way.add_metric([], self.under_way)
        refused = CounterMetricFamily(
            "imcore_http_downloads_refused",
            "Downloads refused because too many were under way, of all or of one address.",
        )
        refused.add_metric([], self.refused)
        return under_way, refused


class Leave:
    """Gives a place among the requests under way back, once."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._is_inside = True

    def __call__(self) -> None:
        if self._is_inside:
            self._is_inside = False
            self._requests.under_way -= 1


def longest_s(size: int, settings: Settings) -> float:
    """How long so many bytes may be on their way."""
    return settings.behind_s + size / settings.download_bytes_per_s_min


DOWNLOADS: Final = web.AppKey("downloads", Downloads)
LEAVE: Final = web.RequestKey("leave", Leave)
