"""A disk whose power can be cut: an ext4 on a loop device, and a copy of what the device holds.

What a program writes stays in the page cache until it is flushed; a power cut loses it. The cache is above the loop device, so the
file below the device is the disk as it would be found after the cut. Three things keep the copy honest:

- the device goes past the page cache to its file (`--direct-io=on`), so that a copy of the file is a copy of what was handed to it;
- nothing but a flush brings data down while a cut is prepared: the journal is committed every 300 s and not every 5, and the
  kernel writes back what is older than 30 s, which is more than a round takes;
- who writes has been stopped before the copy begins (`stop`), so it is of one moment.

What it cannot show: a disk that forgets writes which it was handed and not yet told to flush. The kernel here has no block device
that tells those apart.

The trap: a rig that loses nothing proves nothing. `rigs.powercut` runs with flushes off too, and must then find everything lost.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

PATH: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
DISK_BYTES: Final = 1 << 30  # sparse: it takes what is written
OPTIONS: Final = "noatime,commit=300"
STOP_S: Final = 30
LET_GO_S: Final = 30
POLL_S: Final = 0.01


class Disk:
    """One image, mounted somewhere or not."""

    def __init__(self, image: Path, mounted_at: Path) -> None:
        self.image = image
        self.mounted_at = mounted_at
        self._device = ""

    @classmethod
    def make(cls, image: Path, mounted_at: Path) -> Disk:
        """A new one with an empty ext4 on it, not mounted yet."""
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        # The tables are written now: in the background they would be written while the disk is in use.
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
        return cls(image, mounted_at)

    def mount(self) -> None:
        """Make it readable; after a cut, ext4 plays its journal first."""
        self._device = _run("losetup", "--show", "--find", "--direct-io=on", str(self.image))
        try:
            self.mounted_at.mkdir(parents=True, exist_ok=True)
            _run("mount", "-o", OPTIONS, self._device, str(self.mounted_at))
        except BaseException:
            self._detach()
            raise

    def unmount(self) -> None:
        """Let go of it, when those who work on it have ended."""
        if not self._device:
            return
        deadline = time.monotonic() + LET_GO_S
        while True:
            try:
                _run("umount", str(self.mounted_at))
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)
        self._detach()

    def flush(self) -> None:
        """Everything written so far is on the disk."""
        _run("sync", "--file-system", str(self.mounted_at))

    def as_found(self, image: Path) -> Disk:
        """What would be found if the power failed now, as a disk of its own for the same place. Who writes has been stopped."""
        copy(self.image, image)
        return Disk(image, self.mounted_at)

    def remove(self) -> None:
        """Unmounted and gone."""
        self.unmount()
        self.image.unlink(missing_ok=True)

    def _detach(self) -> None:
        device, self._device = self._device, ""
        _run("losetup", "--detach", device)


def copy(source: Path, target: Path) -> None:
    """A file with its holes."""
    _run("cp", "--sparse=always", str(source), str(target))


def missing() -> str:
    """Why no disk can be cut on this machine; "" when one can. Decided by doing it."""
    if os.geteuid() != 0:
        return "a loop device can be mounted by root only"
    if absent := [one for one in ("mkfs.ext4", "losetup", "mount", "umount") if not shutil.which(one, path=PATH)]:
        return f"there is no {', '.join(absent)} on this machine"
    with tempfile.TemporaryDirectory(prefix="imcore-disk-", dir="/tmp") as folder:
        try:
            disk = Disk.make(Path(folder, "disk"), Path(folder, "at"))
            disk.mount()
            disk.unmount()
        except OSError as error:
            return f"a loop device cannot be mounted here: {error}"
    return ""


def stop(processes: Iterable[psutil.Process]) -> None:
    """SIGSTOP, and return when none of them can write any more."""
    stopping = list(processes)
    for process in stopping:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + STOP_S
    for process in stopping:
        with suppress(psutil.NoSuchProcess):
            # One that is in the middle of a flush stops after it.
            while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                assert time.monotonic() < deadline, f"{process} does not stop"
                time.sleep(POLL_S)


def _run(*command: str) -> str:
    """What it printed. Raises OSError with what it complained of."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": PATH, "LC_ALL": "C"},
    )
    if done.returncode != 0:
        raise OSError(f"{' '.join(command[:1])}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()
