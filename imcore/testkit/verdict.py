"""A run, judged and written down: the checkers' report, what was injected and whether it bit, what the programs' loops were given,
what the processes did by themselves, and how to play it again. As text, as JSON, and as a picture.

Violated: a promise was broken. Unknown: the run proves nothing, because too little was said, or because a fault never had an
effect, or, in CI, because one could not be inflicted on this machine. Both are exit code 1.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from imcore.testkit import faults as every
from imcore.testkit.aftermath import Loops, judge_loops, judge_wounds
from imcore.testkit.chaos import Played
from imcore.testkit.checkers import PROMISED, Bounds, Report, check, timeline
from imcore.testkit.growth import JUDGED_S, Growth, growths, samples
from imcore.testkit.nemesis import Tally, tally

# What is promised on an idle machine (checkers.Bounds), and what can be asked of one that runs all of this on two cores at once.
BOUNDS: Final = Bounds(
    revoked_s=5.0,
    taken_over_s=5.0,
    recovery_s=15.0,
    drain_s=60.0,
    delivery_p99_ms=2_000.0,
    delivery_p999_ms=5_000.0,
    online_s=10.0,
    severing=frozenset(fault.name for fault in every.FAULTS if fault.severs),
)
# Lines of a server's log at level error that say what was done to it, and not that it is wrong.
EXPECTED: Final = re.compile(r"declared dead")
KEPT: Final = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What there is to say of a run."""

    played: Played
    report: Report
    loops: Loops
    tallies: dict[str, Tally]
    complaints: Sequence[str]  # lines of the servers' logs that should not be there
    growths: Sequence[Growth] = field(default=())
    bounds: Bounds = BOUNDS

    @property
    def violations(self) -> list[str]:
        """Everything that was wrong, in words."""
        found = [f"{one.name}: {one.violated} times" for one in self.report.violated]
        found += self.loops.faults[:KEPT]
        found += self.played.faults_found
        found += self.complaints[:KEPT]
        found += [
            f"{one.process}: {one.figure} grows by {one.percent_per_h:.1f} % an hour"
            for one in self.growths
            if one.is_leak
        ]
        return found

    @property
    def void(self) -> list[str]:
        """Why the run proves less than it should."""
        found = [self.report.void] if self.report.void else []
        blunt = [name for name, one in self.tallies.items() if not one.bitten]
        if blunt:
            found.append(f"without effect: {', '.join(blunt)}")
        if self.played.left_out and os.environ.get("CI") == "true":
            found.append(f"not possible here: {', '.join(self.played.left_out)}")
        return found

    @property
    def word(self) -> str:
        """violated, unknown or held."""
        return "violated" if self.violations else "unknown" if self.void else "held"

    def text(self) -> str:
        """For people."""
        played, options = self.played, self.played.options
        lines = [
            f"{self.word.upper()}  seed {options.seed}, {(played.ended_ns - played.started_ns) / 1e9:.0f} s, in {options.folder}"
        ]
        lines += [f"  ! {one}" for one in self.violations]
        lines += [f"  ? {one}" for one in self.void]
        lines += [f"  LEFT OUT: {name}: {why}" for name, why in played.left_out.items()]
        lines += ["", self.report.text().rstrip(), "", *_mildness(self.bounds), ""]
        lines += [f"{'fault':<30}{'matrix':<12}{'injected':>9}{'bitten':>8}{'failed':>8}{'acked again after, ms':>24}"]
        for name, one in self.tallies.items():
            after = sorted(
                wound.recovered_ms for wound in played.wounds if wound.fault == name and wound.recovered_ms is not None
            )
            told = f"{after[len(after) // 2]:.0f}, at most {after[-1]:.0f}" if after else "-"
            matrix = every.BY_NAME[name].matrix if name in every.BY_NAME else ""
            lines.append(f"{name:<30}{matrix:<12}{one.injected:>9}{one.bitten:>8}{one.failed:>8}{told:>24}")
        loops = self.loops
        lines += [
            "",
            f"loops of {loops.devices} devices in {loops.lives} lives were given {loops.events:,} events: {len(loops.faults)} wrong",
            f"processes ended: {_ends(played)}",
        ]
        if self.growths:
            lines += ["", f"{'process':<14}{'figure':<16}{'for, s':>8}{'first':>12}{'last':>12}{'an hour':>14}{'%':>9}"]
            lines += [
                f"{one.process:<14}{one.figure:<16}{one.seconds:>8.0f}{one.first:>12,.0f}{one.last:>12,.0f}{one.per_h:>+14,.0f}"
                f"{one.percent_per_h:>+9.1f}{'  LEAK' if one.is_leak else ''}"
                for one in self.growths
            ]
            if all(one.seconds < JUDGED_S for one in self.growths):
                lines.append(f"No slope is judged: over less than {JUDGED_S / 60:.0f} minutes it says nothing.")
        lines += ["", f"again: {again(played)}"]
        return "\n".join(lines) + "\n"

    def json(self) -> bytes:
        """All of it."""
        played = self.played
        told: dict[str, Any] = {
            "verdict": self.word,
            "violations": self.violations,
            "void": self.void,
            "seed": played.options.seed,
            "left_out": played.left_out,
            "faults": {
                name: one._asdict() if hasattr(one, "_asdict") else _fields(one) for name, one in self.tallies.items()
            },
            "wounds": [wound.as_json() for wound in played.wounds],
            "loops": self.loops._asdict(),
            "ended": _ends(played),
            "growth": [{**one._asdict(), "percent_per_h": one.percent_per_h} for one in self.growths],
            "figures": played.figures,
            "checkers": json.loads(self.report.json()),
        }
        return orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)


def _mildness(bounds: Bounds) -> list[str]:
    """Where these are milder than what is promised, and by how much."""
    lines = []
    for name, promised in PROMISED._asdict().items():
        bound = getattr(bounds, name)
        if isinstance(promised, float) and bound != promised:
            lines.append(f"        {name} {bound:,g} ({promised:,g})")
    if lines:
        lines.insert(0, "judged by, as all of this shares a machine (and promised, on one that is idle):")
    return lines


def judge(played: Played, bounds: Bounds = BOUNDS) -> Verdict:
    """Look at everything, and write it into the run's folder: report.txt, report.json, report.svg."""
    folder = played.options.folder
    bounds = bounds._replace(ok_sends_min=played.options.ok_sends_min)
    judge_wounds(played.wounds, played.records)
    journal = folder / "samples.jsonl"
    verdict = Verdict(
        played,
        check(played.records, played.log, bounds),
        judge_loops(folder, played.log),
        tally(played.wounds),
        complaints(folder),
        growths(samples(journal)) if journal.exists() else (),
        bounds,
    )
    (folder / "report.txt").write_text(verdict.text())
    (folder / "report.json").write_bytes(verdict.json())
    (folder / "report.svg").write_text(timeline(played.records, played.log))
    return verdict


def complaints(folder: Path) -> list[str]:
    """Lines of the servers' logs at level error that nobody's fault explains."""
    found: list[str] = []
    for log in sorted(folder.glob("*-[0-9].log")):
        found += [
            f"{log.stem}: {line}"
            for line in log.read_text(errors="replace").splitlines()
            if re.search(r"^\S+ \S+ (error|critical) ", line) and not EXPECTED.search(line)
        ]
    return found


def again(played: Played) -> str:
    """The command that does the same to a new cluster."""
    options = played.options
    said = [f"--seed {options.seed} --rate {options.sends_per_s:g} --people {options.people}"]
    said += [f'--fault "{name}"' for name in options.script] or [f"--seconds {options.seconds:g}"]
    if options.command != "soak":
        said += [f'--only "{name}"' for name in options.faults]
    return f"python -m imcore.testkit {options.command} {' '.join(said)}"


def _ends(played: Played) -> dict[str, dict[str, int]]:
    ends: dict[str, Counter[str]] = {}
    for one in played.happened:
        if one.what == "ended":
            ends.setdefault(one.who, Counter())[str(one.more["code"])] += 1
    return {who: dict(codes) for who, codes in sorted(ends.items())}


def _fields(one: Tally) -> dict[str, int]:
    return {name: getattr(one, name) for name in ("injected", "bitten", "failed")}
