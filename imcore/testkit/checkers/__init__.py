"""Every promise as a function of what clients saw and what the log holds.

    report = check(history, log)                         # Bounds() as they are promised; or check(history, log, bounds)
    assert report.verdict != "violated", report.text()
    (folder / "report.json").write_bytes(report.json())
    (folder / "report.svg").write_text(timeline(history, log))
    predicate("P8", history, log)                        # one of them -> Result
    ALL                                                  # "P1" … "P21", "Q1" … "Q7" -> the function

A `Result` says how much was looked at (`checked`), what was wrong (`violations`: ten are kept, all are counted) or why nobody can know
(`void`). A run with few acknowledged sends, or in which a fault was noticed by nobody, holds nothing: what is not violated is unknown.

`safety` has what must never happen, `liveness` what must happen in time, `run` makes the records ready, `report` writes it all down,
`picture` draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from imcore.testkit.checkers import liveness, safety
from imcore.testkit.checkers.findings import Bounds, Result, Tally, Violation
from imcore.testkit.checkers.picture import picture
from imcore.testkit.checkers.report import Report, report_of
from imcore.testkit.checkers.run import Run
from imcore.testkit.history import Log, Record

PROMISED: Final = Bounds()
ALL: Final = safety.PREDICATES | liveness.PREDICATES

__all__ = [
    "ALL",
    "PROMISED",
    "Bounds",
    "Report",
    "Result",
    "Run",
    "Violation",
    "check",
    "check_run",
    "predicate",
    "timeline",
]


def check(history: Sequence[Record], log: Log, bounds: Bounds = PROMISED) -> Report:
    """Every predicate over one run."""
    return check_run(Run(history, log), bounds)


def check_run(run: Run, bounds: Bounds = PROMISED) -> Report:
    """The same, of a run that is indexed already."""
    return report_of(run, bounds, [_result(name, run, bounds) for name in ALL])


def predicate(name: str, history: Sequence[Record], log: Log, bounds: Bounds = PROMISED) -> Result:
    """One predicate, as if the run were large enough."""
    return _result(name, Run(history, log), bounds)


def timeline(history: Sequence[Record], log: Log) -> str:
    """The run as a picture (SVG): operations a second, latencies, faults."""
    return picture(Run(history, log))


def _result(name: str, run: Run, bounds: Bounds) -> Result:
    tally = Tally()
    check_ = ALL[name]
    check_(run, bounds, tally)
    said = (check_.__doc__ or "").strip().splitlines()[0]
    return tally.result(name, said.removeprefix(f"{name}. "))
