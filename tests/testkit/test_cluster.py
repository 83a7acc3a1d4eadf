"""The cluster of a run, where it does not come to be."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from imcore.testkit import cluster
from imcore.testkit.cluster import Cluster, Database, Node


async def test_who_is_not_ready_in_time_is_named_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "START_S", 0.05)
    made = Cluster(Database("postgresql:///imcore?host=/nowhere", tmp_path), tmp_path, lambda _: None)
    for name in ("comet-1", "api-1"):
        made.nodes.append(
            Node.make(
                name,
                "comet",
                database_url="",
                folder=tmp_path,
                settings={},
                tell=made.tell,
                random=random.Random(1),
                environment={},
            )
        )
    made.nodes[0].ready.set()

    with pytest.raises(TimeoutError) as error:
        await made.ready()

    assert f"not ready after 0 s: {tmp_path}/api-1.log; is the machine busy?" == str(error.value)
