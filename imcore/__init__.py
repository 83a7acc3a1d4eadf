"""imcore: instant messaging whose source of truth is an append-only event log in Postgres."""

from __future__ import annotations

__version__ = "0.1.0"
