"""docs/tutorial.md tells the truth: its programs are run one after the other on one server, and print what it says."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from client.test_docs import ROOT, RUN_S, said_beside
from conftest import copy_cluster, temporary_folder
from system.servers import running

DOCS = ROOT / "docs" / "tutorial.md"
SAID = DOCS.read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n```text\n(.*?)^```", SAID, re.DOTALL | re.MULTILINE)


async def test_a_team_talks_as_the_tutorial_says(cluster: Path, tmp_path: Path) -> None:
    """In mode open, as `imcore serve` starts. Where to connect the programs learn when they log in."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder) as server:
            for n, (program, prints) in enumerate(PROGRAMS):
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-W", "error", "-c", program.replace("127.0.0.1:3111", server.http)),
                    cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                )  # fmt: skip
                async with asyncio.timeout(RUN_S):
                    out, err = await process.communicate()
                assert (n, "", 0) == (n, said_beside(err), process.returncode)
                assert prints == out.decode(), f"program {n}"
            complaints = server.complaints()
    assert [] == complaints


def test_every_program_is_run_and_it_is_a_short_read() -> None:
    assert SAID.count("```python") == len(PROGRAMS) == 4
    assert len(SAID.splitlines()) < 200


def test_the_programs_are_right_in_their_types(types: list[str], tmp_path: Path) -> None:
    """As a reader who checks types would find them."""
    files = [tmp_path / f"program_{n}.py" for n in range(len(PROGRAMS))]
    for file, (program, _) in zip(files, PROGRAMS, strict=True):
        file.write_text(program)
    done = subprocess.run([*types, *map(str, files)], capture_output=True, text=True, timeout=RUN_S)
    assert 0 == done.returncode, done.stdout + done.stderr
