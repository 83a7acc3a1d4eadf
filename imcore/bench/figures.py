"""A figure: its name, its value, and what it must be. Pure.

The musts are promises of the design for a machine of two cores with a disk that flushes; bench/README.md says where
each comes from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple


class Must(NamedTuple):
    """At least this much, or at most."""

    bound: Literal["≥", "≤"]
    limit: float

    def holds(self, value: float) -> bool:
        """Whether a value is what it must be."""
        return value >= self.limit if self.bound == "≥" else value <= self.limit


class Figure(NamedTuple):
    """One measured number. Without a `must` it only informs."""

    name: str
    value: float
    unit: str
    must: Must | None = None

    @property
    def is_met(self) -> bool:
        """Whether the figure is what it must be; one without a must always is."""
        return self.must is None or self.must.holds(self.value)


def at_least(name: str, value: float, unit: str, limit: float) -> Figure:
    """A figure that is better when it is higher."""
    return Figure(name, value, unit, Must("≥", limit))


def at_most(name: str, value: float, unit: str, limit: float) -> Figure:
    """A figure that is better when it is lower."""
    return Figure(name, value, unit, Must("≤", limit))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario measured, and what went wrong in it: with a fault its figures mean nothing."""

    figures: tuple[Figure, ...] = ()
    faults: tuple[str, ...] = ()
    reports: tuple[object, ...] = field(default=())  # what the load clients said in full, for the JSON file


def shown(value: float) -> str:
    """A number as a person reads it: about three digits that mean something."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
