"""Files that a power cut must not take back, nor leave by halves."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def flush_folder(folder: Path) -> None:
    """Bring to the disk which names are in it: a file that is made, renamed or deleted is so for good only then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_once(path: Path, content: bytes) -> None:
    """A file for nobody else's eyes. Written beside, flushed, and linked to its name: it is there whole or not at all, and of several
    that are written at once the first one stays. Raises OSError."""
    path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(beside, path)
    finally:
        beside.unlink()
    flush_folder(path.parent)
