"""Answers that are no JSON, on their way out: each as slow as the line of its client, so they have bounds of their own.

A download is no longer one of the requests under way once it has begun: or a few who read slowly would keep everybody else out. Nothing
waits: who comes when too many are under way is told so at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Final

from aiohttp import web
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from imcore.api.metrics import Requests
from imcore.config import Settings
from imcore.places import Places


class Downloads(Places[str], Collector):
    """The downloads of this process, by address."""

    def __init__(self) -> None:
        super().__init__("downloads of this address")

    def place(self, address: str, settings: Settings) -> AbstractContextManager[None]:
        """One of the places, while the block runs. Raises Overloaded, RateLimited (too many of this address)."""
        return self.hold(
            address, settings.downloads_max, settings.downloads_per_address_max if settings.rate_limits else None
        )

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
