"""`python -m imcore.bench`: the benchmarks without the rest of the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from imcore.bench.runner import run
from imcore.bench.scenarios import SCENARIOS
from imcore.errors import ImcoreError


def main() -> int:
    """Read the arguments, run, and say how it went."""
    names = "\n".join(f"  {scenario.name:<14}{scenario.text}" for scenario in SCENARIOS)
    parser = argparse.ArgumentParser(
        prog="python -m imcore.bench",
        description="Measure imcore on this machine.",
        epilog=f"names:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help="which to run, all if none is named")
    parser.add_argument("--quick", action="store_true", help="short and small: shows that all works, judges no figure")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a figure is not what it must be")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    given = parser.parse_args()
    try:
        return run(given.names, quick=given.quick, check=given.check, json_file=given.json)
    except ImcoreError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    sys.exit(main())
