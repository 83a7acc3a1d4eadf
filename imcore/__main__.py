"""`python -m imcore` is the command `imcore`."""

from __future__ import annotations

from imcore.cli import main

main()
