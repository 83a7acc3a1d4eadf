"""What a check says: how much it looked at, what was wrong, or that nobody can know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

KEPT_MAX: Final = 10  # violations that are told in full; all are counted


class Violation(NamedTuple):
    """A promise that was not kept, in words, and the facts."""

    says: str
    facts: Mapping[str, object]

    def __str__(self) -> str:
        return f"{self.says}: " + ", ".join(f"{name}={value!r}" for name, value in self.facts.items())


class Result(NamedTuple):
    """One predicate over one run.

    `void` says why nothing can be said, "" if something can. `figures` are what was measured on the way.
    """

    name: str
    title: str
    checked: int
    violated: int
    violations: tuple[Violation, ...] = ()
    void: str = ""
    figures: Mapping[str, float] = {}

    @property
    def is_held(self) -> bool:
        """Something was looked at, and nothing was wrong."""
        return not self.violated and not self.void

    @property
    def verdict(self) -> str:
        """One word. A violation is one however void the run."""
        return "violated" if self.violated else "unknown" if self.void else "held"


class Tally:
    """Collects what a check finds."""

    def __init__(self) -> None:
        self.checked = 0
        self.violated = 0
        self.violations: list[Violation] = []
        self.void = ""
        self.figures: dict[str, float] = {}

    def found(self, says: str, **facts: object) -> None:
        """A violation."""
        self.violated += 1
        if len(self.violations) < KEPT_MAX:
            self.violations.append(Violation(says, facts))

    def result(self, name: str, title: str) -> Result:
        """All of it. What looked at nothing knows nothing."""
        void = self.void or ("" if self.checked or self.violated else "there was nothing to look at")
        return Result(name, title, self.checked, self.violated, tuple(self.violations), void, self.figures)


class Bounds(NamedTuple):
    """What the promises of time and amount are, for this run. The defaults are those of the design, on an idle machine.

    `degraded` are the names of faults under which delivery may be slower, and no send may fail. `severing` are those by which a
    server or client that lives can seem dead to the others, cut off or standing still for longer than its lease, or hears late that
    it is taken for dead: what is said of it meanwhile is no lie.
    """

    ok_sends_min: int = 1_000  # a run with less says nothing
    revoked_s: float = 1.0
    taken_over_s: float = 2.0
    recovery_s: float = 10.0
    drain_s: float = 30.0
    delivery_p99_ms: float = 200.0
    delivery_p999_ms: float = 1_000.0
    degraded_p99_ms: float = 2_000.0
    degraded: frozenset[str] = frozenset({"bus"})
    severing: frozenset[str] = frozenset()
    online_s: float = 2.0
    offline_clean_s: float = 2.0
    offline_s: float = 35.0
    unsent_bytes_max: float = 512 << 20
    bite_s: float = 10.0  # after its end, within which a fault may still be noticed
