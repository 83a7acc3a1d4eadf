"""The whole thing: real server processes, real Postgres, real sockets, and clients that know the protocol and nothing else."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("system.checking", "system.clients", "system.people", "system.servers")
