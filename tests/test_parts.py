"""Each test runs in one part, and whatever goes wrong in either is said at the end and makes the run fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from parts import BACKGROUND, FOREGROUND, PARTS, TESTS, part_of

PROGRAM: Final = TESTS.parent / "scripts" / "run-tests"

# A folder of tests of which each file is a part.
CONFTEST: Final = """
def pytest_addoption(parser):
    parser.addoption("--part")

def pytest_ignore_collect(collection_path, config):
    return collection_path.suffix == ".py" and config.getoption("part") not in collection_path.name or None
"""
GOOD: Final = "def test_one(): pass\ndef test_two(): pass\n"
BAD: Final = GOOD + "def test_three(): assert 1 == 2, 'no'\n"
BROKEN: Final = GOOD + "import nothing_of_this_name\n"
GONE: Final = GOOD + "import os\ndef test_three(): os.kill(os.getpid(), 9)\n"
SKIPPED: Final = GOOD + "import pytest\ndef test_three(): pytest.skip('not here')\n"


def test_what_is_named_is_there() -> None:
    assert [] == [path for path in BACKGROUND | FOREGROUND if not (TESTS / path).exists()]
    assert [] == [path for path in FOREGROUND if path.split("/")[0] not in BACKGROUND]


def test_what_measures_a_time_has_the_machine_to_itself() -> None:
    for path in ("system/test_presence.py", "accounts/test_revocations.py", "nobody_knows/test_new.py"):
        assert "foreground" == part_of(TESTS / path)
    for path in ("protocol/test_text.py", "accounts/test_names.py", "test_auth.py"):
        assert "background" == part_of(TESTS / path)


def test_a_part_is_its_files_and_no_others() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "--part", "foreground", TESTS / "testkit"],
        capture_output=True,
        text=True,
        check=True,
        cwd=TESTS.parent,
    ).stdout

    assert ["tests/testkit/test_proxy.py"] == sorted(
        {line.split("::")[0] for line in said.splitlines() if "::" in line}
    )


def ran(folder: Path, foreground: str, background: str, *arguments: str) -> tuple[int, list[str]]:
    """The exit code, and the lines that were said."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_foreground.py").write_text(foreground)
    (folder / "test_background.py").write_text(background)
    plain = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they take longer to load than these tests to run
    command = [sys.executable, str(PROGRAM), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=plain)
    assert "" == done.stderr
    return done.returncode, done.stdout.splitlines()


def test_what_both_did_is_one_line_at_the_end(tmp_path: Path) -> None:
    code, lines = ran(tmp_path, GOOD, SKIPPED)

    assert 0 == code
    assert " 4 passed, 1 skipped in " in lines[-1]
    assert "=== both together" == lines[-2]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("tests", "counts", "line"),
    [
        (BAD, "1 failed, 4 passed", "FAILED test_{part}.py::test_three - AssertionError: no"),
        (BROKEN, "2 passed, 1 error", "ERROR test_{part}.py"),
        (GONE, "2 passed, 1 error", "ERROR the tests in the {part} ended with exit code -9"),
        ("", "2 passed, 1 error", "ERROR the tests in the {part} ended with exit code 5"),
    ],
    ids=["fails", "cannot be imported", "kills its process", "has no tests"],
)
def test_what_is_wrong_in_either_is_wrong(tmp_path: Path, part: str, tests: str, counts: str, line: str) -> None:
    """Also where pytest itself did not live to say so."""
    foreground, background = (tests, GOOD) if part == "foreground" else (GOOD, tests)

    code, lines = ran(tmp_path, foreground, background)

    assert 1 == code
    assert f" {counts} in " in lines[-1]
    assert any(said.startswith(line.format(part=part)) for said in lines[lines.index("=== both together") :])


# Fails when it is run beside others; alone it passes.
CROWDED: Final = f"""{GOOD}
import pathlib
def test_three():
    seen = pathlib.Path('seen')
    there = seen.exists()
    seen.touch()
    print('ERROR of a server')
    assert there
"""


@pytest.mark.parametrize("part", PARTS)
def test_what_fails_beside_others_and_passes_by_itself_is_named(tmp_path: Path, part: str) -> None:
    foreground, background = (CROWDED, GOOD) if part == "foreground" else (GOOD, CROWDED)

    code, lines = ran(tmp_path, foreground, background)

    assert 0 == code
    assert " 5 passed in " in lines[-1]
    assert lines[-2].startswith(f"AGAIN test_{part}.py::test_three - ")
    assert any(line.startswith("E ") for line in lines), "what it said the first time is shown"


def test_what_fails_in_many_places_is_not_tried_again(tmp_path: Path) -> None:
    many = CROWDED + "import pytest\n@pytest.mark.parametrize('n', range(5))\ndef test_four(n): assert not n + 1\n"

    code, lines = ran(tmp_path, many, GOOD)

    assert 1 == code
    assert " 6 failed, 4 passed in " in lines[-1]
    assert not any("once more" in line for line in lines)


def test_arguments_are_for_both(tmp_path: Path) -> None:
    code, lines = ran(tmp_path, GOOD, GOOD, "-k", "one")

    assert 0 == code
    assert " 2 passed, 2 deselected in " in lines[-1]
