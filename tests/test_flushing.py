"""A file of a secret is there whole or not at all, for nobody else, and the first one stays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imcore.flushing import write_once


def test_of_many_that_are_written_at_once_one_stays_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "key"
    contents = [bytes([n]) * 4_096 for n in range(16)]
    with ThreadPoolExecutor(len(contents)) as writers:
        list(writers.map(lambda content: write_once(path, content), contents))

    assert path.read_bytes() in contents
    assert [path] == list(path.parent.iterdir())
    assert (0o700, 0o600) == (path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o777)


def test_where_no_file_can_be_none_is_left_by_halves(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("no folder")

    with pytest.raises(OSError, match="keys"):
        write_once(tmp_path / "keys" / "key", b"x")

    assert [tmp_path / "keys"] == list(tmp_path.iterdir())
