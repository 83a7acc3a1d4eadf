"""Cut the power of the disk under a server that works, and ask whether everything that clients were told is still there.

    make powercut CUTS=60

A round: people send as fast as they are answered; at a moment that nobody chose, every process is stopped and the disk is copied as it
would be found (`rigs.disk`); the processes are killed, the copy is mounted in the disk's place, and imcore is started on it, which
recovers. Then what was found is held against what was acknowledged, in this round and in all before: the next round goes on with the
disk that was found. Sends without an answer are sent again with their ids, and count as acknowledged from then on.

Controls say whether the rig can lose anything at all. They start from the same disk in every round:

- `fsync off`: Postgres does not flush. Killing it would lose nothing; cutting the power loses all.
- `commit off`: Postgres acknowledges before it flushes (synchronous_commit = off). The last acknowledgements are lost, unless it
  happened to flush at that moment.

imcore refuses both, so they are started with `--unsafe`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import psutil

from imcore.database.embedded import running_url
from rigs.disk import Disk, copy, missing, stop
from system.clients import Client, Clients, Gone, clients
from system.servers import Server
from waiting import eventually

Flushing = Literal["on", "fsync off", "commit off"]

PEOPLE: Final = 16
IN_FLIGHT: Final = 8  # sends of one person
ROOMS: Final = 4
ACKED_BEFORE_A_CUT: Final = 50  # acknowledgements of the round; a cut of an idle server shows nothing
CUT_WITHIN_S: Final = 0.5  # of those, at a random moment
FIRST_MID: Final = 1000
TALK_S: Final = 60
GONE_S: Final = 30

FOUND: Final = """
SELECT client_id::text, position, seq, stream, body::json #>> '{}' FROM event_log WHERE type = 'message_sent'
"""
IS_DENSE: Final = """
SELECT (SELECT position FROM log_head) = count(*) AND count(*) = coalesce(max(position), 0) FROM events
"""


class Place(NamedTuple):
    """What a sender was told, or what is in the log."""

    room: str
    position: int
    seq: int


@dataclass
class Ledger:
    """What was asked, and what came of it as the senders were told."""

    unknown: dict[str, int] = field(default_factory=dict)  # who sent it, by id
    acked: dict[str, Place] = field(default_factory=dict)

    def next(self, who: int) -> str:
        """The id of a message that nobody has heard of yet."""
        id_ = str(uuid.uuid4())
        self.unknown[id_] = who
        return id_

    def answered(self, id_: str, place: dict[str, Any]) -> None:
        """It is acknowledged, from now on for ever."""
        self.acked[id_] = Place(room_of(self.unknown.pop(id_)), place["position"], place["seq"])


def room_of(who: int) -> str:
    """Where a person talks."""
    return f"group://r{who % ROOMS}"


@dataclass
class Cut:
    """One round, as it was found."""

    acked: int  # in this round, before the cut
    unknown: int  # asked, and not answered when the power went
    found: int = 0  # of those without an answer, how many are in the log
    back_s: float = 0.0  # from the start of imcore on the disk as found until it took connections; 0: it did not
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def survived(self) -> bool:
        """Is every acknowledged send there, at the place that was told?"""
        return not self.lost and not self.wrong


@dataclass
class Report:
    """All rounds of one run."""

    flushing: Flushing
    seed: int
    cuts: list[Cut] = field(default_factory=list)

    @property
    def survived(self) -> int:
        """Rounds in which nothing acknowledged was missing."""
        return sum(cut.survived for cut in self.cuts)

    @property
    def is_as_it_should_be(self) -> bool:
        """With flushes nothing is lost; without them everything, or at least something."""
        match self.flushing:
            case "on":
                return self.survived == len(self.cuts)
            case "fsync off":
                return all(cut.acked == len(cut.lost) for cut in self.cuts)
            case "commit off":
                return any(cut.lost for cut in self.cuts)

    def __str__(self) -> str:
        cuts = self.cuts
        back = sorted(cut.back_s for cut in cuts if cut.back_s)
        return (
            f"flushing {self.flushing}: every acknowledged send survived {self.survived} of {len(cuts)} cuts; "
            f"{sum(cut.acked for cut in cuts)} acknowledged, {sum(len(cut.lost) for cut in cuts)} lost, "
            f"{sum(len(cut.wrong) for cut in cuts)} wrong; "
            f"{sum(cut.found for cut in cuts)} of {sum(cut.unknown for cut in cuts)} without an answer were there; "
            f"imcore was back after {f'{back[len(back) // 2]:.1f} s (at most {back[-1]:.1f} s)' if back else 'never'}; "
            f"seed {self.seed}"
        )


class Rig:
    """imcore on a disk whose power is cut again and again. `begun` makes one."""

    def __init__(self, folder: Path, flushing: Flushing, rng: random.Random) -> None:
        self.ledger = Ledger()
        self._folder = folder
        self._flushing: Flushing = flushing
        self._rng = rng
        self._disks = 0
        self._disk = Disk.make(folder / "disk-0", folder / "imcore")
        self._new = (
            folder / "new"
        )  # the image of a disk on which imcore ran and stopped; controls begin there every time
        self._server = Server(folder)
        self._postgres: subprocess.Popen[bytes] | None = None
        self._was_cut = False

    @classmethod
    @asynccontextmanager
    async def begun(cls, flushing: Flushing, rng: random.Random) -> AsyncIterator[Rig]:
        """One with imcore running on it. Nothing of it is left after the block."""
        # On a disk: in memory there is no direct I/O.
        with tempfile.TemporaryDirectory(prefix="imcore-cut-", dir="/tmp") as name:
            Path(name).chmod(0o755)  # Postgres runs under another account and must come through
            rig = cls(Path(name), flushing, rng)
            try:
                rig._disk.mount()
                await rig._furnish()
                await rig._serve()
                yield rig
            finally:
                rig._end()
                rig._disk.remove()

    async def cut(self) -> Cut:
        """One round: talk, cut, recover, compare. The next one goes on with what was found; a control begins anew."""
        if self._was_cut and self._flushing != "on":
            await self._begin_anew()
        self._was_cut = True
        acked_before = len(self.ledger.acked)
        async with clients() as connecting:
            talking = [asyncio.create_task(self._talk(connecting, who)) for who in range(PEOPLE)]
            try:
                await eventually(lambda: self._has_acked(acked_before + ACKED_BEFORE_A_CUT), TALK_S)
                if self._rng.random() < 0.5:  # the pages of a checkpoint may be under way when the power goes
                    talking.append(asyncio.create_task(_checkpoint(self._server)))
                await asyncio.sleep(self._rng.uniform(0, CUT_WITHIN_S))
                # Clients go on reading meanwhile: what a stopped server has said counts.
                found_as = await asyncio.to_thread(self._cut_power)
            finally:
                for task in talking:
                    task.cancel()
                await asyncio.wait(talking)
        self._disk.remove()
        self._disk = found_as
        self._disk.mount()
        cut = Cut(len(self.ledger.acked) - acked_before, len(self.ledger.unknown))
        await self._recover(cut)
        return cut

    # --- imcore, on the disk ---

    async def _furnish(self) -> None:
        """Run imcore once, so that there are tables, and keep the image of that."""
        await self._start()
        if self._flushing == "commit off":
            async with self._server.database() as connection:
                await connection.execute("ALTER DATABASE imcore SET synchronous_commit = off")
        self._end()
        self._disk.unmount()
        copy(self._disk.image, self._new)
        self._disk.mount()

    async def _serve(self) -> None:
        """As people will use it: a control flushes less than it should."""
        if self._flushing == "fsync off":
            await self._start("--unsafe", "--database-url", await self._start_postgres_without_flushes())
        else:
            await self._start(*(() if self._flushing == "on" else ("--unsafe",)))

    async def _start(self, *arguments: str) -> None:
        self._server = Server(self._folder, "--auth", "open", "--no-rate-limits", *arguments)
        await self._server.start_again()

    async def _start_postgres_without_flushes(self) -> str:
        # As imcore starts it (Postgres keeps its own command line), but for one setting.
        data = self._folder / "imcore"
        program, *arguments = shlex.split((data / "postgres" / "postmaster.opts").read_text())
        owner = (data / "postgres").stat()
        with (self._folder / "postgres.log").open("ab") as output:
            self._postgres = subprocess.Popen(
                [program, *("fsync=off" if one == "fsync=on" else one for one in arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=owner.st_uid,
                group=owner.st_gid,
                extra_groups=[],
                cwd="/",
            )

        async def url() -> str | None:
            return running_url(data)

        found = await eventually(url)
        assert found is not None
        return found

    def _end(self) -> None:
        self._server.end()
        if self._postgres is not None:
            self._postgres.wait()
            self._postgres = None

    async def _begin_anew(self) -> None:
        self._end()
        self._disk.remove()
        self._disk = Disk(self._next_image(), self._disk.mounted_at)
        copy(self._new, self._disk.image)
        self._disk.mount()
        self.ledger = Ledger()
        await self._serve()

    def _next_image(self) -> Path:
        self._disks += 1
        return self._folder / f"disk-{self._disks}"

    # --- the cut ---

    def _cut_power(self) -> Disk:
        processes = list(self._processes())
        stop(processes)
        found_as = self._disk.as_found(self._next_image())
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._server.kill()
        if self._postgres is not None:
            self._postgres.wait()
            self._postgres = None
        psutil.wait_procs(processes, GONE_S)
        return found_as

    def _processes(self) -> Iterator[psutil.Process]:
        """The server first: who is stopped acknowledges nothing."""
        postgres = self._server.postgres()
        yield self._server.process
        yield postgres
        yield from postgres.children(recursive=True)

    async def _recover(self, cut: Cut) -> None:
        """Start imcore on the disk as it was found, and hold the log against the ledger."""
        started = time.monotonic()
        try:
            await self._start(*(() if self._flushing == "on" else ("--unsafe",)))
        except AssertionError as error:  # what was never flushed need not be a database any more
            cut.wrong.append(f"imcore does not start: {str(error)[-300:]}")
            cut.lost += list(self.ledger.acked)
            return
        cut.back_s = time.monotonic() - started
        async with self._server.database() as connection:
            rows = await connection.fetch(FOUND)
            if not await connection.fetchval(IS_DENSE):
                cut.wrong.append("the log is not dense")
        there = {
            id_: (Place(stream.removeprefix("room:"), position, seq), body) for id_, position, seq, stream, body in rows
        }
        for id_, place in self.ledger.acked.items():
            if id_ not in there:
                cut.lost.append(id_)
            elif there[id_] != (place, id_):
                cut.wrong.append(f"{id_} was told {place}, and is {there[id_]}")
        cut.found = sum(id_ in there for id_ in self.ledger.unknown)
        if strangers := there.keys() - self.ledger.acked.keys() - self.ledger.unknown.keys():
            cut.wrong.append(f"{len(strangers)} messages that nobody sent")

    # --- people ---

    async def _talk(self, connecting: Clients, who: int) -> None:
        """Ask again what had no answer, then say more, until the power goes."""
        client = await connecting.connect(
            self._server, "v2 tcp", mid=FIRST_MID + who, key=f"sender {who}", room=room_of(who)
        )
        again = [id_ for id_, sender in self.ledger.unknown.items() if sender == who]
        async with asyncio.TaskGroup() as sending:
            for n in range(IN_FLIGHT):
                sending.create_task(self._say(client, who, again[n::IN_FLIGHT]))

    async def _say(self, client: Client, who: int, again: list[str]) -> None:
        ledger, room = self.ledger, room_of(who)
        with suppress(Gone):
            for id_ in again:
                ledger.answered(id_, await client.send(room, id_, id_))
            while True:
                id_ = ledger.next(who)
                ledger.answered(id_, await client.send(room, id_, id_))

    async def _has_acked(self, count: int) -> bool:
        return len(self.ledger.acked) >= count


async def _checkpoint(server: Server) -> None:
    with suppress(OSError):
        async with server.database() as connection:
            await connection.execute("CHECKPOINT")


async def run(cuts: int, flushing: Flushing, seed: int) -> Report:
    """So many rounds, and what came of them."""
    report = Report(flushing, seed)
    async with Rig.begun(flushing, random.Random(seed)) as rig:
        for n in range(cuts):
            report.cuts.append(await rig.cut())
            if (n + 1) % 10 == 0:
                print(f"flushing {flushing}: {report.survived} of {n + 1} survived", file=sys.stderr)
    return report


def main() -> int:
    """The whole of it: with flushes, and the two controls."""
    parser = argparse.ArgumentParser(
        prog="python -m rigs.powercut", description="Cut the power under a server that works."
    )
    parser.add_argument("--cuts", type=int, default=60, help="of each kind (60)")
    parser.add_argument(
        "--flushing", choices=get_args(Flushing), action="append", help="only this; all three if left out"
    )
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)), help="of the moments of the cuts")
    given = parser.parse_args()
    if reason := missing():
        parser.exit(2, f"no power can be cut here: {reason}\n")
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of writes to a server that was just killed
    failed = False
    for flushing in given.flushing or get_args(Flushing):
        report = asyncio.run(run(given.cuts, flushing, given.seed))
        print(report, flush=True)
        failed |= not report.is_as_it_should_be
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
