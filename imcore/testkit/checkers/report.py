"""A run written down: what was done, what was injected, what was promised and whether it was kept. As text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson

from imcore.testkit.checkers.findings import Bounds, Result
from imcore.testkit.checkers.liveness import delivery_times, percentile, recovery_times, send_times
from imcore.testkit.checkers.run import NEVER, SECOND, Run, outcome_of

SHARES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
CONFIDENCE: Final = 3  # the rule of three: nothing in N means less than 3/N, with 95 %


@dataclass(frozen=True, slots=True)
class Injected:
    """A kind of fault: how often, and how often anybody noticed."""

    name: str
    times: int
    noticed: int
    must_bite: bool


@dataclass(frozen=True, slots=True)
class Report:
    """A run, judged. `void` says why it proves nothing, "" if it does; then no result is held."""

    results: tuple[Result, ...]
    void: str
    seconds: float
    operations: Mapping[str, Mapping[str, int]]  # f -> invoke, ok, fail, info
    acked_sends: int
    deliveries: int
    send_ms: Mapping[str, float]
    delivery_ms: Mapping[str, float]
    recovery_s: Mapping[str, float]  # the longest, by fault
    injected: tuple[Injected, ...] = field(default=())

    @property
    def verdict(self) -> str:
        """violated, unknown or held: as of the worst result, where what could not be looked at in a sound run does not count."""
        if any(result.violated for result in self.results):
            return "violated"
        return "unknown" if self.void else "held"

    def result(self, name: str) -> Result:
        """That of one predicate."""
        return next(result for result in self.results if result.name == name)

    @property
    def violated(self) -> tuple[Result, ...]:
        """What was not kept."""
        return tuple(result for result in self.results if result.violated)

    def json(self) -> bytes:
        """All of it."""
        told = {
            "verdict": self.verdict,
            "void": self.void,
            "seconds": self.seconds,
            "operations": self.operations,
            "acked_sends": self.acked_sends,
            "deliveries": self.deliveries,
            "lost_per_send_below": self.bound,
            "send_ms": self.send_ms,
            "delivery_ms": self.delivery_ms,
            "recovery_s": self.recovery_s,
            "injected": self.injected,
            "results": [
                {
                    **result._asdict(),
                    "verdict": result.verdict,
                    "violations": [{"says": one.says, "facts": _plain(one.facts)} for one in result.violations],
                }
                for result in self.results
            ],
        }
        return orjson.dumps(told, option=orjson.OPT_INDENT_2)

    @property
    def bound(self) -> float:
        """With what was seen, less than this share of acknowledged sends is lost, with 95 % confidence."""
        return min(1.0, CONFIDENCE / max(1, self.acked_sends))

    def text(self) -> str:
        """For people."""
        lines = [f"{self.verdict.upper()}{f': {self.void}' if self.void else ''}"]
        lines.append(f"{self.seconds:.0f} s, {self.acked_sends:,} acknowledged sends, {self.deliveries:,} deliveries")
        lost = self.result("P1").violated + self.result("P6").violated
        if not lost and self.acked_sends:
            lines.append(
                f"0 lost in {self.acked_sends:,} acknowledged sends: less than {self.bound:.2g} of them, at 95 %"
            )
        lines += ["", f"{'operation':<12}{'asked':>10}{'ok':>10}{'fail':>10}{'unknown':>10}"]
        for f, counts in self.operations.items():
            lines.append(
                f"{f:<12}" + "".join(f"{counts.get(type_, 0):>10,}" for type_ in ("invoke", "ok", "fail", "info"))
            )
        lines += ["", _shares("send to ack, ms", self.send_ms), _shares("ack to delivery, ms", self.delivery_ms)]
        if self.injected:
            lines += ["", f"{'fault':<24}{'times':>8}{'noticed':>9}{'recovered after, s':>20}"]
            for one in self.injected:
                recovery = self.recovery_s.get(one.name)
                after = "" if recovery is None else "never" if recovery >= NEVER / SECOND else f"{recovery:.1f}"
                lines.append(f"{one.name:<24}{one.times:>8}{one.noticed:>9}{after:>20}")
        lines += ["", f"{'':<6}{'':<10}{'checked':>12}{'violated':>10}"]
        for result in self.results:
            verdict = "unknown" if self.void and result.is_held else result.verdict
            why = f"  ({result.void})" if result.void and not result.violated else ""
            lines.append(
                f"{result.name:<6}{verdict:<10}{result.checked:>12,}{result.violated:>10,}  {result.title}{why}"
            )
            lines += [f"        {name} {value:,.3g}" for name, value in result.figures.items()]
            lines += [f"      ! {violation}" for violation in result.violations]
        return "\n".join(lines) + "\n"


def report_of(run: Run, bounds: Bounds, results: Sequence[Result]) -> Report:
    """What a run amounts to."""
    operations: dict[str, dict[str, int]] = {}
    for (f, type_), count in sorted(run.counts.items()):
        operations.setdefault(f, {})[type_] = count
    acked = sum(outcome_of(tries) == "ok" for tries in run.sends.values())
    injected = _injected(run, bounds)
    void = ""
    if acked < bounds.ok_sends_min:
        void = f"{acked} acknowledged sends are fewer than {bounds.ok_sends_min}"
    elif blunt := [one.name for one in injected if one.must_bite and not one.noticed]:
        void = f"nobody noticed: {', '.join(blunt)}"
    recovery: dict[str, float] = {}
    for window, took in recovery_times(run, bounds):
        recovery[window.fault.name] = max(recovery.get(window.fault.name, 0.0), took / SECOND)
    return Report(
        tuple(results),
        void,
        (run.ended - run.began) / SECOND,
        operations,
        acked,
        sum(len(visit.delivered) for visit in run.visits.values()),
        _percentiles(send_times(run)),
        _percentiles(delivery_times(run, lambda first, last: True)),
        recovery,
        injected,
    )


def _injected(run: Run, bounds: Bounds) -> tuple[Injected, ...]:
    """Which faults there were, and which of them anybody noticed: an unknown outcome, a connection that ended or was opened again."""
    late = int(bounds.bite_s * SECOND)
    signs = [
        visit.closed_at for visit in run.visits.values() if visit.closed is not None and not visit.closed.by_client
    ]
    signs += [one.ended for tries in run.sends.values() for one in tries if one.outcome == "info" and one.ended < NEVER]
    signs += [
        operation.done.t
        for operations in run.operations.values()
        for operation in operations
        if operation.done is not None and operation.done.type == "info"
    ]
    signs += [visit.opened_at for visits in run.devices.values() for visit in visits[1:]]
    times: Counter[str] = Counter()
    noticed: Counter[str] = Counter()
    must_bite: dict[str, bool] = {}
    signs.sort()
    for window in run.windows:
        name = window.fault.name
        times[name] += 1
        noticed[name] += any(window.began <= sign <= window.ended + late for sign in signs)
        must_bite[name] = window.fault.bites or must_bite.get(name, False)
    return tuple(Injected(name, times[name], noticed[name], must_bite[name]) for name in sorted(times))


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {name: percentile(values, share) for name, share in SHARES.items()} if values else {}


def _shares(name: str, values: Mapping[str, float]) -> str:
    return (
        f"{name:<22}" + "  ".join(f"{share} {value:,.1f}" for share, value in values.items())
        if values
        else f"{name:<22}-"
    )


def _plain(facts: Mapping[str, object]) -> dict[str, object]:
    """Facts as JSON can hold them: numbers and texts as they are, all else as it is written."""
    return {
        name: value if isinstance(value, float | str) or _fits(value) else repr(value) for name, value in facts.items()
    }


def _fits(value: object) -> bool:
    return isinstance(value, int) and -(1 << 63) <= value < 1 << 63
