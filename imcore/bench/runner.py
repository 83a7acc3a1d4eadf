"""Runs scenarios one after the other, and shows what came out beside what must."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import orjson
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from imcore.bench.figures import Figure, Outcome, shown
from imcore.bench.load import program
from imcore.bench.measuring import Bench, Scenario
from imcore.bench.scenarios import SCENARIOS
from imcore.errors import BadConfiguration, ImcoreError

IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


def run(
    names: Sequence[str] = (),
    *,
    quick: bool = False,
    check: bool = False,
    json_file: Path | None = None,
) -> int:
    """Run the named scenarios (all, if none is named), print a table, and give the exit code.

    The code is 1 if anything went wrong (a client failed, a send was refused, a message did not arrive), and with
    `check` also if a figure is not what it must be. `quick` makes everything short and small and judges no figure.

    Raises BadConfiguration for a name that is none, NoLoadClient where the load client cannot be built.
    """
    chosen = _choose(names)
    program()  # compiled now, so that what is missing is told before the first server starts
    console = Console()
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="imcore-bench-", ignore_cleanup_errors=True) as folder:
        machine = _machine(Path(folder))
        console.print(" · ".join(f"{name} {value}" for name, value in machine.items()), highlight=False, soft_wrap=True)
        if machine["data on"] in IN_MEMORY:
            console.print(
                "[yellow]The data is kept in memory, so a flush costs nothing: set TMPDIR to a folder on a disk."
            )
        Path(folder).chmod(0o755)  # as root, Postgres runs under another account and must come through
        bench = Bench(quick, Path(folder))
        for scenario in chosen:
            with console.status(f"{scenario.name}: {scenario.text}"):
                started = time.monotonic()
                outcomes[scenario.name] = _attempt(scenario, bench)
            console.print(f"{scenario.name}: {time.monotonic() - started:.0f} s", style="dim", highlight=False)
    console.print(_table(outcomes, quick))
    _print_faults(console, outcomes)
    if json_file is not None:
        json_file.write_bytes(_json(machine, quick, outcomes))
    failed = any(outcome.faults for outcome in outcomes.values())
    missed = any(not figure.is_met for outcome in outcomes.values() for figure in outcome.figures)
    return int(failed or (check and not quick and missed))


def _choose(names: Sequence[str]) -> list[Scenario]:
    known = {scenario.name: scenario for scenario in SCENARIOS}
    if unknown := [name for name in names if name not in known]:
        raise BadConfiguration(f"there is no benchmark {unknown[0]!r}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else list(SCENARIOS)


def _attempt(scenario: Scenario, bench: Bench) -> Outcome:
    faults = []
    try:
        return scenario.run(bench)
    except* ImcoreError as errors:  # one that cannot run is a fault of its own, and the others still tell something
        faults = [str(error) for error in _leaves(errors)]
    return Outcome(faults=tuple(faults))


def _leaves(group: BaseExceptionGroup[ImcoreError]) -> Iterator[ImcoreError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _table(outcomes: dict[str, Outcome], quick: bool) -> Table:
    table = Table(title="short run: no figure is judged" if quick else None)
    table.add_column("benchmark")
    table.add_column("figure")
    table.add_column("measured", justify="right")
    table.add_column("must", justify="right")
    table.add_column("")
    for name, outcome in outcomes.items():
        for n, figure in enumerate(outcome.figures):
            must = f"{figure.must.bound} {figure.must.limit:,g} {figure.unit}" if figure.must else ""
            verdict = _verdict(figure, outcome, quick)
            table.add_row(name if n == 0 else "", figure.name, f"{shown(figure.value)} {figure.unit}", must, verdict)
        if not outcome.figures:
            table.add_row(name, "", "", "", "[red]failed")
        table.add_section()
    return table


def _verdict(figure: Figure, outcome: Outcome, quick: bool) -> str:
    if figure.must is None or quick:
        return ""
    if outcome.faults:
        return "[red]void"
    return "[green]ok" if figure.is_met else "[red]missed"


def _print_faults(console: Console, outcomes: dict[str, Outcome]) -> None:
    for name, outcome in outcomes.items():
        for fault in outcome.faults:
            console.print(f"{name}: {fault}", style="red", markup=False, highlight=False)


def _json(machine: dict[str, str], quick: bool, outcomes: dict[str, Outcome]) -> bytes:
    benchmarks = [
        {
            "name": name,
            "figures": [
                {
                    "name": figure.name,
                    "value": round(figure.value, 3),
                    "unit": figure.unit,
                    "must": figure.must and f"{figure.must.bound} {figure.must.limit:g}",
                    "met": None if quick else figure.is_met and not outcome.faults,
                }
                for figure in outcome.figures
            ],
            "faults": outcome.faults,
            "reports": outcome.reports,
        }
        for name, outcome in outcomes.items()
    ]
    told = {"machine": machine, "quick": quick, "benchmarks": benchmarks}
    return orjson.dumps(told, default=_plain, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump()
    raise TypeError


def _machine(folder: Path) -> dict[str, str]:
    """What the figures depend on, and nothing that names the machine."""
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "CPU": _first_value("/proc/cpuinfo", "model name"),
        "memory": f"{int(_first_value('/proc/meminfo', 'MemTotal').split()[0]) / 2**20:.0f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "data on": _file_system(folder),
        "congestion control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
    }


def _first_value(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "0"


def _file_system(folder: Path) -> str:
    # The longest mount point that the folder lies below is the one it is on; of equals the last mounted.
    found = ("", "")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if folder.resolve().is_relative_to(mount) and len(mount) >= len(found[0]):
            found = (mount, kind)
    return found[1]
