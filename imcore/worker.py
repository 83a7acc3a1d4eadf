"""One more comet on the ports of another process: started by `imcore serve --workers N`, never by hand.

Its settings come as one line on standard input, which stays open as long as the parent lives; when it closes, the worker drains and
ends. Once a second it tells on standard output what the parent shows in the metrics.
"""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop

from imcore.config import Settings
from imcore.logs import set_up
from imcore.server import install_signals, serve, told


async def work(settings: Settings) -> None:
    """Serve clients until the parent is gone."""
    stop = asyncio.Event()
    install_signals(stop)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def watch() -> None:
        await reader.read()
        stop.set()

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch())
        await serve(
            settings,
            roles=frozenset(("comet",)),
            announce=lambda line: None,
            stop=stop,
            shared_ports=True,
            report=told,
        )
        watching.cancel()


def main() -> None:
    """The process."""
    # Byte by byte: what follows the line is not ours to buffer.
    line = b"".join(iter(lambda: os.read(sys.stdin.fileno(), 1).replace(b"\n", b""), b""))
    settings = Settings.model_validate_json(line)
    set_up(settings.log_level)
    uvloop.run(work(settings))


if __name__ == "__main__":
    main()
