"""The client is light: it needs aiohttp and orjson, and nothing of the server."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires

from packaging.requirements import Requirement

from imcore.client import errors
from imcore.errors import TABLE

SERVER_ONLY = (
    *("alembic", "argon2", "asyncpg", "jwt", "prometheus_client", "pydantic", "rich", "sqlalchemy", "typer", "uvloop"),
    *("imcore.comet", "imcore.config", "imcore.database", "imcore.events", "imcore.projections", "imcore.server"),
)

# What is installed here, hidden: as it is for who installed the client alone.
HIDING = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(SERVER_ONLY)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)


def test_importing_the_client_loads_nothing_of_the_server() -> None:
    done = python("import imcore.client, sys; print(*sys.modules)")

    assert "imcore.client.client" in done.stdout.split()
    assert [] == [name for name in done.stdout.split() if name in SERVER_ONLY]


def test_installing_imcore_brings_what_the_client_needs_and_an_extra_brings_the_server() -> None:
    needed = [Requirement(line) for line in requires("imcore") or ()]

    always = {one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})}
    server = {one.name for one in needed if one.marker is not None and one.marker.evaluate({"extra": "server"})}

    assert {"aiohttp", "orjson"} == always
    assert {"asyncpg", "pydantic", "typer", "uvloop"} <= server


def test_the_command_line_says_in_one_line_what_to_install() -> None:
    done = python(f"{HIDING}\nsys.argv[0] = 'imcore'\nfrom imcore.__main__ import main\nmain()", "serve")

    assert 1 == done.returncode
    assert "" == done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("imcore: ")
    assert line.endswith("pip install 'imcore[server]'")


def test_without_the_servers_packages_the_client_is_all_there() -> None:
    done = python(f"{HIDING}\nfrom imcore.client import *\nprint(connect('ws://h/ws', mid=1).state)")

    assert ("connecting\n", "") == (done.stdout, done.stderr)


def test_the_clients_errors_are_those_of_the_server() -> None:
    """Each code has its class, with the same sentence, `retry` and close code; those that end a connection are ConnectionClosed."""
    told = {
        kind.code: (kind.__name__, kind.retry, kind.close, kind.text()) for kind in TABLE if kind.code != "internal"
    }
    mirrored = {
        code: (
            kind.__name__,
            kind.retry,
            kind.close if issubclass(kind, errors.ConnectionClosed) else None,
            (kind.__doc__ or "").splitlines()[0],
        )
        for code, kind in errors.KINDS.items()
        if code != "internal"
    }

    assert told == {code: mirrored[code] for code in told}
    assert {"bad_configuration", "internal", *told} == set(errors.KINDS)
