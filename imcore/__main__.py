"""The command `imcore`, and `python -m imcore`. Whoever installed the client alone is told what the server needs."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Exits with 1 where its packages are not installed."""
    try:
        from imcore.cli import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "imcore":
            raise
        print(
            f"imcore: the server's packages are not installed ({error.name} is missing): pip install 'imcore[server]'",
            file=sys.stderr,
        )
        sys.exit(1)
    run()


if __name__ == "__main__":
    main()
