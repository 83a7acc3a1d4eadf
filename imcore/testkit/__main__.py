"""`python -m imcore.testkit chaos --seconds 300 [--seed N] [--report FOLDER]`, `… soak --seconds 3600`, `… faults`.

The exit code is 0 if every promise was held and the run proves it, else 1. The seed is printed first, so that it is there whatever
happens.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from imcore.testkit import faults
from imcore.testkit.chaos import Options, play, possible
from imcore.testkit.verdict import judge

SOAK_GAP_S = (240.0, 360.0)  # a fault every five minutes


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what was asked; the exit code."""
    given = _parser().parse_args(arguments)
    if given.command == "faults":
        return _list()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    folder = given.report or Path("chaos-reports") / time.strftime(f"%Y%m%d-%H%M%S-{given.command}-{seed}")
    say(f"seed {seed}; everything is kept in {folder}")
    is_soak = given.command == "soak"
    options = Options(
        folder=folder,
        seed=seed,
        seconds=given.seconds,
        script=tuple(given.fault) if not is_soak else (),
        faults=tuple(given.only) or (faults.LASTING if is_soak else ()),
        command=given.command,
        people=given.people,
        sends_per_s=given.rate,
        gap_s=SOAK_GAP_S if is_soak else (1.0, 4.0),
    )
    folder.mkdir(parents=True, exist_ok=True)
    _log_to(folder / "run.log", is_loud=given.verbose)
    for fault, why in {name: why for name, why in possible().items() if why}.items():
        say(
            f"NOT HERE: {fault}: {why}; the faults that need it are left out"
            + (", and this is CI: the run cannot pass" if _is_ci() else "")
        )
    verdict = judge(asyncio.run(play(options)))
    say(verdict.text())
    say(f"{folder}/report.txt, report.json, report.svg")
    return 0 if verdict.word == "held" else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m imcore.testkit", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, seconds in (("chaos", 300.0), ("soak", 3600.0)):
        one = commands.add_parser(name)
        one.add_argument("--seconds", type=float, default=seconds)
        one.add_argument("--seed", type=int, default=None)
        one.add_argument(
            "--report", type=Path, default=None, help="an empty or new folder; by default one in chaos-reports/"
        )
        one.add_argument("--rate", type=float, default=60.0, help="sends a second, all devices together")
        one.add_argument("--people", type=int, default=8)
        one.add_argument(
            "--only", action="append", default=[], choices=list(faults.BY_NAME), help="the mix is of these"
        )
        one.add_argument(
            "--fault",
            action="append",
            default=[],
            choices=list(faults.BY_NAME),
            help="these, in this order, and no mix",
        )
        one.add_argument("--verbose", action="store_true", help="what happens, as it happens")
    commands.add_parser("faults")
    return parser


def _list() -> int:
    missing = possible()
    for fault in faults.FAULTS:
        why = ", ".join(filter(None, (missing[need] for need in fault.needs)))
        say(f"{fault.name:<30}{fault.matrix:<12}{why and f'not here: {why}'}")
    return 0


def _log_to(file: Path, *, is_loud: bool) -> None:
    handlers: list[logging.Handler] = [logging.FileHandler(file)]
    if is_loud:
        handlers.append(logging.StreamHandler())
    logging.basicConfig(level=logging.INFO, handlers=handlers, format="%(asctime)s %(name)s %(message)s", force=True)
    for noisy in ("asyncpg", "imcore.database.connections"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _is_ci() -> bool:
    return os.environ.get("CI") == "true"


def say(text: str) -> None:
    """For people, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
