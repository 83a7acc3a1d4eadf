"""docs/client.md tells the truth: its programs run and print what it says, and its tables are those of the program.

`python -m client.test_docs`, in the folder of the tests, writes the tables anew.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from conftest import copy_cluster, temporary_folder
from imcore import client
from imcore.client import Limits, events, facts
from system.servers import Server, running

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "client.md"
README = ROOT / "README.md"
SAID = DOCS.read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n```text\n(.*?)^```", SAID, re.DOTALL | re.MULTILINE)
RUN_S = 300


def table_of_limits() -> str:
    """Every bound, with its default and what the source says of it."""
    source = (ROOT / "imcore" / "client" / "client.py").read_text()
    words = dict(re.findall(r"^    (\w+): (?:int|float) = [^#\n]+# (.+)$", source, re.MULTILINE))
    lines = ["| limit | default | |", "|---|---|---|"]
    lines += [f"| `{one.name}` | {one.default:,g} | {words[one.name]} |" for one in fields(Limits)]
    return "\n".join(lines) + "\n"


def table_of_facts() -> str:
    """Every class of event that is no message, with what it says."""
    lines = ["| class | says | means |", "|---|---|---|"]
    for name in [*facts.__all__, "Presence", "Receipt", "Typing", "Signal"]:
        kind = getattr(client, name)
        says = [one for one, value in vars(kind).items() if isinstance(value, (events.Said, events.Words, property))]
        says = [one for one in says if one != "in_room"]
        means = " ".join((kind.__doc__ or "").split())
        lines.append(f"| `{name}` | {', '.join(f'`{one}`' for one in says)} | {means} |")
    return "\n".join(lines) + "\n"


def said_beside(err: bytes) -> str:
    """What a program said on stderr, but for the warning that it will come again: a busy server may tell it to."""
    return re.sub(r"^x .*; again in [\d.]+ s\n", "", err.decode(), flags=re.MULTILINE)


TABLES = {"limits": table_of_limits, "facts": table_of_facts}


def between(name: str) -> str:
    """What stands between the markers."""
    return SAID.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0]


@pytest.fixture(scope="module")
def fresh(cluster: Path) -> Iterator[Server]:
    """A server of its own for the programs of the page: they say what the first message in a room is."""
    with temporary_folder() as folder:
        (folder / "imcore").mkdir()
        copy_cluster(cluster, folder / "imcore")
        with running(folder, "--auth", "open") as server:
            yield server


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_the_programs(name: str) -> None:
    assert TABLES[name]() == between(name)


def test_every_program_of_the_page_is_run() -> None:
    assert SAID.count("```python") == len(PROGRAMS)
    assert len(PROGRAMS) >= 5


def test_the_programs_are_right_in_their_types(types: list[str], tmp_path: Path) -> None:
    """As a reader who checks types would find them."""
    files = [tmp_path / f"program_{n}.py" for n in range(len(PROGRAMS))]
    for file, (program, _) in zip(files, PROGRAMS, strict=True):
        file.write_text(program)
    done = subprocess.run([*types, *map(str, files)], capture_output=True, text=True, timeout=RUN_S)
    assert 0 == done.returncode, done.stdout + done.stderr


def test_the_programs_are_different_people_in_different_rooms() -> None:
    """They are run on one server."""
    for pattern in (r"mid=(\d+)", r'"(group://[a-z-]+)"'):
        used = [one for program, _ in PROGRAMS for one in set(re.findall(pattern, program))]
        assert sorted(set(used)) == sorted(used)


@pytest.mark.parametrize("n", range(len(PROGRAMS)))
async def test_a_program_prints_what_the_page_says(fresh: Server, n: int, tmp_path: Path) -> None:
    program, prints = PROGRAMS[n]
    for default, real in (("127.0.0.1:3102", fresh.ws), ("127.0.0.1:3101", fresh.tcp), ("127.0.0.1:3111", fresh.http)):
        program = program.replace(default, real)

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", program),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(RUN_S):
        out, err = await process.communicate()

    assert ("", 0) == (said_beside(err), process.returncode)
    expected = re.escape(prints).replace("…", ".*?")
    assert re.fullmatch(expected, out.decode()), f"{out.decode()}\nis not\n{prints}"


async def test_the_readmes_ten_lines_run(fresh: Server, tmp_path: Path) -> None:
    (program,) = re.findall(
        r"^```python\n(import asyncio\nfrom imcore.client.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE
    )
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-u",
            "-W",
            "error",
            "-c",
            program.replace("127.0.0.1:3102", fresh.ws).replace("mid=1", "mid=51"),
        ),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(RUN_S):
        assert (await process.stdout.readline()).startswith(b"Sent(room='group://lobby', id='")
        async with client.connect(f"ws://{fresh.ws}/ws", mid=52) as im:
            await im.join("group://lobby")
            await im.send("group://lobby", "hello yourself")
        assert b"52 hello yourself\n" == await process.stdout.readline()
        process.kill()
        await process.communicate()


def test_every_name_that_the_client_exports_is_there_and_every_field_of_an_event_is_in_the_docs() -> None:
    assert [] == [name for name in client.__all__ if not hasattr(client, name)]
    for one in (*fields(client.Event), *fields(client.Reset)):
        assert f"`{one.name}`" in SAID, one.name


@pytest.mark.parametrize("page", ["client.md", "tutorial.md", "writing-a-client.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (DOCS.parent / page).read_text()
    for target, mark in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text):
        other = DOCS.parent / target if target else DOCS.parent / page
        assert other.exists(), target
        if mark:
            headings = {
                re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
                for heading in re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)
            }
            assert mark in headings, f"{target}#{mark}"


if __name__ == "__main__":
    for name, table in TABLES.items():
        SAID = SAID.replace(f"<!-- {name} -->\n{between(name)}", f"<!-- {name} -->\n{table()}")
    DOCS.write_text(SAID)
