"""Files of a room, as a program stores and fetches them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from client.lines import QUICK, url
from imcore.client import AttachmentStored, Http, NoSuchAttachment, UnknownOperation, connect, pages
from system.servers import Backend, Server

TEXT = "我在这里\n".encode() * 1_000


async def test_a_file_goes_to_a_room_and_whoever_has_its_link_fetches_it(server: Server, api: Backend) -> None:
    room, one, two = server.new_room(), server.new_mid(), server.new_mid()
    await api.create(room, one, two)
    base = f"http://{server.http}"

    async def chunks() -> AsyncIterator[bytes]:
        for n in range(0, len(TEXT), 1_000):
            yield TEXT[n : n + 1_000]

    async with (
        connect(url(server, "ws"), mid=one, limits=QUICK) as hers,
        connect(url(server, "ws"), mid=two, limits=QUICK) as im,
        Http(base, mid=one) as alice,
        Http(base) as nobody,
    ):
        first = await alice.attachments.store(room, TEXT, name="here.txt", media_type="text/plain")
        await alice.attachments.store(room, chunks(), name="again.txt", media_type="text/plain")
        async with asyncio.timeout(30):  # its devices are told
            stored = await anext(event async for event in hers.events() if isinstance(event, AttachmentStored))
        assert (first.id, "here.txt", len(TEXT)) == (stored.which, stored.name, stored.size)
        listed = [[one.name for one in page.attachments] async for page in pages(im.attachments.list, room, limit=1)]
        assert [["again.txt"], ["here.txt"]] == listed
        link = await im.attachments.link(first.id)
        async with nobody.follow(link.url) as file:
            assert ("text/plain", len(TEXT), "here.txt") == (file.media_type.partition(";")[0], file.size, file.name)
            assert TEXT == await file.read()
        with pytest.raises(UnknownOperation, match="HTTP only"):
            await im.attachments.store(room, TEXT, name="here.txt")
        await alice.attachments.remove(first.id)
        with pytest.raises(NoSuchAttachment):
            async with nobody.follow(link.url):
                pass
