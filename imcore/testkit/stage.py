"""What a run plays on: the cluster, the programs that use it, and a folder in which everything that is needed to look at it again
is kept."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imcore.testkit.cluster import Cluster, Happened, Process, Tell


class ClientProcess(Process):
    """A program that uses the SDK. It is told what to do in lines of JSON, and tells what it has done."""

    told: dict[str, Mapping[str, Any]]  # the last line of each kind that it said in this life
    counted: Counter[str]  # lines of each kind, over all lives

    @classmethod
    def make(cls, name: str, script: Path, log: Path, tell: Tell, random: random.Random) -> ClientProcess:
        """`script` is its part in the workload, as JSON (workload.Script)."""
        command = [sys.executable, "-m", "imcore.testkit.workload", str(script)]
        made = cls(name, lambda: command, log, tell, random)
        made.told, made.counted = {}, Counter()
        return made

    async def ask(self, line: Mapping[str, Any]) -> None:
        """Tell it to do something. Nothing, if it does not run."""
        if self.process is None or self.process.stdin is None or self.pid is None:
            return
        with suppress(ConnectionError):
            self.process.stdin.write(json.dumps(line).encode() + b"\n")
            await self.process.stdin.drain()

    def said(self, line: Mapping[str, Any]) -> None:
        """It has begun, or has done what it was told."""
        if line["said"] == "ready":
            self.told.clear()
            super().said(line)
        self.told[str(line["said"])] = line
        self.counted[str(line["said"])] += 1

    async def until(self, what: str, seconds: float) -> Mapping[str, Any]:
        """Return when it has said this."""
        async with asyncio.timeout(seconds):
            while what not in self.told:
                await asyncio.sleep(0.05)
        return self.told[what]


@dataclass
class Stage:
    """Everything that a fault may hit."""

    folder: Path
    cluster: Cluster
    clients: list[ClientProcess]
    disk: Path | None  # the file system of Postgres, if it is small enough to be filled
    happened: list[Happened] = field(default_factory=list)

    def note(self, what: str, who: str, **more: object) -> None:
        """Write down what happened now."""
        self.happened.append(Happened(time.monotonic_ns(), what, who, more))
