"""Benchmarks: a real server in a process of its own, a load client in C, and figures beside what they must be.

`run` is the whole of it, for `imcore bench` and for `python -m imcore.bench`. bench/README.md tells the method and
keeps results.

- load.c     the load client             - load       compiles it, starts it, reads its report
- server     `imcore serve` as a child   - processes  CPU and memory of processes, from /proc
- append     the log without a server    - figures    a figure and what it must be
- probe      single messages, and who is online
- scenarios  what is measured            - runner     which, in what order, and the table

The trap: the load client and Postgres share the machine with the server. A rate says little without the CPU per message
beside it, and a machine with other work to do proves nothing.
"""

from __future__ import annotations

from imcore.bench.runner import run

__all__ = ["run"]
