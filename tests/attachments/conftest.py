"""A folder, and a bucket on a server that speaks S3."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imcore.attachments import s3 as s3_module
from imcore.attachments.folder import Folder
from imcore.attachments.s3 import Bucket
from imcore.attachments.store import Store
from imcore.config import Settings

SERVER = Path(__file__).with_name("s3_server.py")


@dataclass(frozen=True, slots=True)
class S3:
    """Where the server is, and who may come in."""

    endpoint: str
    key: str
    secret: str

    def settings(self, **others: object) -> Settings:
        """For a part of the bucket that nobody else uses."""
        return Settings.model_validate(
            {
                "s3_bucket": "files", "s3_endpoint": self.endpoint, "s3_addressing": "path", "s3_access_key": self.key,
                "s3_secret_key": self.secret, "s3_prefix": f"{uuid.uuid4().hex}/", **others,
            }
        )  # fmt: skip


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A server that speaks S3, for the whole run. What a busy machine keeps from answering is no store that stands still."""
    with (tmp_path_factory.mktemp("s3") / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
    with process, pytest.MonkeyPatch.context() as patched:  # closes its input, which ends it, and waits
        for name in ("ANSWER_S", "START_S", "CARRY_S"):
            patched.setattr(s3_module, name, 60.0)
        assert process.stdout is not None
        yield S3(**json.loads(process.stdout.readline()))


@pytest.fixture(params=["folder", "bucket"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Each store in turn: what holds for one holds for the other."""
    found: Store
    if request.param == "folder":
        found = Folder(tmp_path / "files")
    else:
        found = await Bucket.opened(request.getfixturevalue("s3").settings())
    yield found
    await found.close()
