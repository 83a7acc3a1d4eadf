"""Whatever clients or the log can make larger has a named limit, a told outcome and a metric.

docs/operating.md lists it; this walks the list, and the code for what is not on it.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from imcore.api.downloads import Downloads
from imcore.api.metrics import Requests
from imcore.config import Settings
from imcore.metrics import MEANINGS

ROOT: Final = Path(__file__).parent.parent
SAID: Final = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
# What serves clients. The other rooms of the house (bench, database, cli) hold nothing for them.
SERVING: Final = (
    "attachments",
    "paces.py",
    "places.py",
    "receipts.py",
    "nodes.py",
    "server.py",
    "accounts",
    "api",
    "bus",
    "comet",
    "events",
    "projections",
)
COLLECTIONS: Final = {"deque", "Counter", "Queue", "Semaphore", "defaultdict", "OrderedDict", "set", "dict", "list"}


class Row(NamedTuple):
    """One line of the table."""

    what: str
    where: str
    limit: str
    outcome: str
    metric: str

    def __str__(self) -> str:
        return self.what

    def places(self) -> Iterator[tuple[str, list[str]]]:
        """Each module, and the names in it."""
        for part in self.where.split(", "):
            module, *names = re.findall(r"`([^`]+)`", part)
            yield module, names


def table() -> list[Row]:
    lines = SAID.split("<!-- queues -->\n")[1].split("<!-- /queues -->")[0].splitlines()[2:]
    return [Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in lines]


def named(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


rows = pytest.mark.parametrize("row", table(), ids=str)


@rows
def test_it_is_where_the_table_says(row: Row) -> None:
    for module, names in row.places():
        source = (ROOT / "imcore" / module).read_text(encoding="utf-8")
        assert names, module
        for name in names:
            assert re.search(rf"\b{name}\b", source), f"{module} has no {name}"


@rows
def test_its_limit_is_a_setting_or_a_constant_there(row: Row) -> None:
    limits = named(row.limit)
    assert limits
    modules: list[Any] = [
        importlib.import_module("imcore." + module.removesuffix(".py").replace("/", ".")) for module, _ in row.places()
    ]
    for limit in limits:
        if limit.isupper():
            assert any(getattr(module, limit, 0) > 0 for module in modules), limit
        else:
            assert limit in Settings.model_fields, limit


@rows
def test_it_is_said_what_happens_when_it_is_full_and_a_metric_shows_it(row: Row) -> None:
    assert row.outcome
    known = {f"imcore_{name}" for name in MEANINGS}
    for metric in (*Requests().collect(), *Downloads().collect()):
        known |= {metric.name, f"{metric.name}_total"}
    assert named(row.metric)
    assert set(named(row.metric)) <= known


def test_there_is_no_other() -> None:
    """A new collection is written down, or this fails."""
    written = {(module, name) for row in table() for module, names in row.places() for name in names}
    harmless = set(named(SAID.split("<!-- /queues -->")[1].split("\n\n")[1]))
    found = {(module, name) for module, name in _collections() if name not in harmless}

    assert set() == found - written


def _collections() -> Iterator[tuple[str, str]]:
    """Every attribute of an object that begins as a collection, and is not local to one call."""
    for part in SERVING:
        path = ROOT / "imcore" / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                targets = (
                    [node.target]
                    if isinstance(node, ast.AnnAssign)
                    else node.targets
                    if isinstance(node, ast.Assign)
                    else []
                )
                for target in targets:
                    if _is_own(target) and node.value is not None and _is_collection(node.value):  # type: ignore[attr-defined]
                        yield str(file.relative_to(ROOT / "imcore")), target.attr  # type: ignore[attr-defined]


def _is_own(target: ast.expr) -> bool:
    return isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"


def _is_collection(value: ast.expr) -> bool:
    match value:
        case ast.Dict(keys=[]) | ast.List(elts=[]):
            return True
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[]):
            return name in COLLECTIONS
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in {"deque", "Queue", "Semaphore"}
    return False
