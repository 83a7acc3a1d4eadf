"""Log lines on standard error: time, level, where, what, and the facts that came with it.

Control characters are written as escapes, so that nothing a client says can forge a line or colour a terminal.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

from aiohttp.http_exceptions import HttpProcessingError

PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class OneLine(logging.Formatter):
    """One event, one line; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        facts = " ".join(f"{name}={value!r}" for name, value in vars(record).items() if name not in PLAIN)
        said = record.getMessage()
        head = f"{self.formatTime(record)} {record.levelname.lower():7} {record.name}: {said}"
        line = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in f"{head} {facts}".rstrip())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class NoHttp(logging.Filter):
    """What is no HTTP is no error of ours: one short line, not a traceback that anybody could fill the log with."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the record, made small if it is about bytes that could not be parsed."""
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, HttpProcessingError):
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
            record.msg, record.args = "what came was no HTTP", ()
            return logging.getLogger().isEnabledFor(logging.DEBUG)
        return True


def set_up(level: str) -> None:
    """Write what is at least this grave."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("asyncio", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("aiohttp").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").addFilter(NoHttp())
