"""docs/permissions.md is what the table says."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_document_is_up_to_date() -> None:
    """If this fails: PYTHONPATH=. .venv/bin/python scripts/write-permissions"""
    script = runpy.run_path(str(ROOT / "scripts" / "write-permissions"))

    assert (ROOT / "docs" / "permissions.md").read_text(encoding="utf-8") == script["document"]()
