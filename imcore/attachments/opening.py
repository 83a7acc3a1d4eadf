"""The attachments of a process, put together from its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imcore.attachments.folder import Folder
from imcore.attachments.links import Links, load_or_create_key
from imcore.attachments.s3 import Bucket
from imcore.attachments.store import Store
from imcore.attachments.uploads import Uploads
from imcore.config import Settings

FOLDER = "attachments"


@dataclass(frozen=True, slots=True)
class Attachments:
    """Where the bytes are, who is putting some there, and links to them."""

    store: Store
    uploads: Uploads
    links: Links


def kept_in(settings: Settings, store: Store, key: bytes) -> Attachments:
    """Attachments in this store, with links signed by this key."""
    return Attachments(store, Uploads(settings, store), Links(key))


def folder(settings: Settings) -> Folder:
    """The folder of these settings."""
    return Folder(Path(settings.data) / FOLDER if settings.attachments is None else Path(settings.attachments))


async def opened(settings: Settings) -> Attachments:
    """The store of these settings, found to work as far as can be told. Raises BadConfiguration. Close the store in the end."""
    if settings.attachment_link_key is None:
        key = load_or_create_key(Path(settings.data))
    else:
        key = settings.attachment_link_key.encode()
    store: Store
    if settings.s3_bucket is None:
        store = folder(settings)
        await store.check()
    else:
        store = await Bucket.opened(settings)
    return kept_in(settings, store, key)
