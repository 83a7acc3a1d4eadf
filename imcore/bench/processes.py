"""What processes have used: CPU seconds and memory, a process and everything below it. Linux only.

A process's own CPU is read from its clock, which counts nanoseconds: /proc counts ticks of 10 ms, and a server that
does little for a few seconds would seem to do nothing. A child that ended counts in its parent once the parent has
waited for it (in ticks), so a difference of two readings misses nothing as long as nobody in the middle is orphaned.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CPUCLOCK_SCHED = 2  # include/linux/posix-timers.h


class Usage(NamedTuple):
    """CPU seconds since the start of the server and of its Postgres; memory of the server now and at its highest."""

    server_cpu_s: float
    postgres_cpu_s: float
    rss_bytes: int
    peak_bytes: int

    def since(self, earlier: Usage) -> Usage:
        """The CPU used since then; memory as it is."""
        return self._replace(
            server_cpu_s=self.server_cpu_s - earlier.server_cpu_s,
            postgres_cpu_s=self.postgres_cpu_s - earlier.postgres_cpu_s,
        )


def usage(server_pid: int, data_dir: Path) -> Usage:
    """What the server and its Postgres have used, kept apart whether or not one is the parent of the other."""
    table = _processes()
    postgres = _tree(table, postmaster(data_dir))
    server = _tree(table, server_pid) - postgres
    return Usage(
        _cpu_s(table, server),
        _cpu_s(table, postgres),
        sum(_status_bytes(pid, "VmRSS") for pid in server),
        sum(_status_bytes(pid, "VmHWM") for pid in server),
    )


def postmaster(data_dir: Path) -> int | None:
    """The first process of the Postgres with its data below this folder, as its pid file says; None without one."""
    for path in data_dir.glob("**/postmaster.pid"):
        with suppress(OSError, ValueError, IndexError):
            return int(path.read_text().splitlines()[0])
    return None


def tree(root: int) -> set[int]:
    """A process and everything below it."""
    return _tree(_processes(), root)


class _Process(NamedTuple):
    parent: int
    cpu_s: float


def _processes() -> dict[int, _Process]:
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                found[int(entry.name)] = _read(int(entry.name), Path(entry.path, "stat").read_text())
    return found


def _read(pid: int, stat: str) -> _Process:
    # The name stands in parentheses and may hold anything, so fields are counted from the last one: state is the 3rd,
    # ppid the 4th; cutime and cstime, of children waited for, are 16 and 17 (proc(5)).
    fields = stat[stat.rindex(")") + 2 :].split()
    # The number of another process's CPU clock, as clock_getcpuclockid(3) makes it; Python has no name for that call.
    clock = ~pid << 3 | CPUCLOCK_SCHED
    return _Process(int(fields[1]), time.clock_gettime(clock) + (int(fields[13]) + int(fields[14])) / TICKS_PER_S)


def _tree(table: dict[int, _Process], root: int | None) -> set[int]:
    members = {root} & table.keys() if root else set()
    grown = True
    while grown:
        children = {pid for pid, process in table.items() if process.parent in members}
        grown = not children <= members
        members |= children
    return members


def _cpu_s(table: dict[int, _Process], pids: Iterable[int]) -> float:
    return sum(table[pid].cpu_s for pid in pids)


def _status_bytes(pid: int, name: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return 0
