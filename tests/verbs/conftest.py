"""The HTTP API at work, open or behind tokens; the fixtures of tests/api."""

from __future__ import annotations

from api.conftest import api, guarded

__all__ = ["api", "guarded"]
