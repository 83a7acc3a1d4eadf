"""Which tests run beside the others when both of a machine's cores are to be used: see `scripts/run-tests`.

In the *background* is what holds however slow the machine is: folds, codecs, simulations, and what asks a server of its own and waits
for the answer as long as it takes. Everything else is in the *foreground*, where it has the machine nearly to itself: whatever
measures a time, kills processes, fills sockets or draws in a browser. A folder that nobody has thought about is there too.

Every test is in exactly one part, for its file, or else the folder, is in this list or is not. Each part makes its own Postgres and
servers. Both should take about as long.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parent
PARTS: Final = ("foreground", "background")
BACKGROUND: Final = frozenset(
    {
        "accounts",
        "api",
        "attachments",
        "client/test_core.py",
        "client/test_docs.py",
        "client/test_login.py",
        "client/test_simulation.py",
        "client/test_tutorial.py",
        "client/test_verbs.py",
        "comet",
        "permissions",
        "projections",
        "protocol",
        "rigs",
        "system/test_accounts.py",
        "system/test_keys.py",
        "system/test_old_cursors.py",
        "testkit",
        "verbs",
        "test_auth.py",
        "test_balancer.py",
        "test_cli.py",
        "test_config.py",
        "test_database.py",
        "test_envelope.py",
        "test_flushing.py",
        "test_membership.py",
        "test_migrations.py",
        "test_paces.py",
        "test_parts.py",
        "test_queues.py",
    }
)


# Of those folders: what measures a time.
FOREGROUND: Final = frozenset({"accounts/test_revocations.py", "testkit/test_proxy.py"})


def part_of(file: Path) -> str:
    """Where the tests of this file run. Its path is absolute, and below tests/."""
    path = file.relative_to(TESTS)
    name = path.as_posix()
    is_named = name in BACKGROUND or (path.parts[0] in BACKGROUND and name not in FOREGROUND)
    return "background" if is_named else "foreground"
