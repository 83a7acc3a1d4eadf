"""client.js, the page's client of the JSON protocol, at a server that follows a script: what a real one does once in a thousand years.

The browser is real, the socket is not (script.js). Each test is a piece of JavaScript that returns what it saw.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from chromium import Chromium, Tab

pytest_plugins = ["browsing"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "imcore" / "api" / "page"


@pytest_asyncio.fixture(loop_scope="session")
async def tab(browser: Chromium) -> AsyncIterator[Tab]:
    """An empty page of a site that has client.js, with the script in place of the WebSocket."""
    site = web.Application()
    site.router.add_static("/page/", PAGE)
    site.router.add_get("/", empty)
    runner = web.AppRunner(site)
    await runner.setup()
    try:
        listener = web.TCPSite(runner, "127.0.0.1", 0)
        await listener.start()
        tab = await browser.tab()
        await tab.go(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        await tab.until("document.title === 'empty'")
        await tab.run((HERE / "script.js").read_text())
        yield tab
        assert [] == tab.complaints
        await tab.close()
    finally:
        await runner.cleanup()


async def empty(request: web.Request) -> web.Response:
    return web.Response(
        text="<!doctype html><title>empty</title><link rel=icon href='data:,'>", content_type="text/html"
    )


async def saw(tab: Tab, script: str) -> list[object]:
    """What the script returned."""
    found: list[object] = await tab.run(f"(async () => {{ {script} }})()")
    return found


async def test_each_event_comes_once_and_in_order(tab: Tab) -> None:
    """A batch, a repetition, a batch in the wrong order: the program above sees 1, 2, 3, 4, 5."""
    told = await saw(
        tab,
        """
        const client = await started();
        sockets[0].welcome();
        sockets[0].say(message(1), {op: 9, seq: 0, body: [message(2), message(1), message(4), message(3)]}, message(4), message(5));
        return client.told.filter(one => one.startsWith("event"));
        """,
    )

    assert ["event 1", "event 2", "event 3", "event 4", "event 5"] == told


async def test_what_is_missing_is_fetched_and_only_then_acknowledged(tab: Tab) -> None:
    asked, held, told, acked, cursor = await saw(
        tab,
        """
        const client = await started();
        const [socket] = sockets;
        socket.welcome();
        socket.say(message(1), message(4));
        const held = [...client.told];
        await until(() => socket.asked(26).length);
        const before = socket.asked(34);
        socket.reply(26, {room: "group://r", events: [message(2).body, message(3).body, message(4).body], head: 4, more: false});
        await until(() => socket.asked(34).length);
        socket.reply(34, {position: 104, cursor: "e.104"});
        return [socket.asked(26), held.at(-1), client.told.slice(-3), [before, socket.asked(34)], client.store.get("cursor")];
        """,
    )

    assert [{"room": "group://r", "after": 1, "limit": 500}] == asked
    assert "event 1" == held
    assert ["event 2", "event 3", "event 4"] == told
    assert [[], [{"position": 104}]] == acked
    assert "e.104" == cursor


async def test_what_the_history_does_not_have_is_not_waited_for(tab: Tab) -> None:
    told = await saw(
        tab,
        """
        const client = await started();
        const [socket] = sockets;
        socket.welcome();
        socket.say(message(1), message(5));
        await until(() => socket.asked(26).length);
        socket.reply(26, {room: "group://r", events: [message(3).body], head: 5, more: false});
        await until(() => socket.asked(26).length === 2);
        socket.reply(26, {room: "group://r", events: [message(5).body], head: 5, more: false});
        socket.say(message(6));
        return client.told.filter(one => one.startsWith("event"));
        """,
    )

    assert ["event 1", "event 3", "event 5", "event 6"] == told


async def test_an_own_message_takes_its_place(tab: Tab) -> None:
    """It is not echoed; its reply says where it stands, and may come after what stands behind it."""
    told = await saw(
        tab,
        """
        const client = await started();
        const [socket] = sockets;
        socket.welcome();
        socket.say(message(1));
        client.send("group://r", {text: "mine"});
        socket.say(message(3));
        socket.reply(4, {position: 102, seq: 2});
        return client.told.slice(-3);
        """,
    )

    assert ["event 1", "sent mine at 2", "event 3"] == told


async def test_what_was_missed_comes_though_an_own_message_overtakes_it(tab: Tab) -> None:
    """A page that begins with a message kept from the last one hears of its place before the events that lie before it."""
    told = await saw(
        tab,
        """
        const kept = {id: "6e1f7a52-0000-4000-8000-000000000000", room: "group://r", body: {text: "kept"}, time: 0};
        const client = await started(new Map([["outbox", JSON.stringify([kept])], ["cursor", "e.100"]]));
        const [socket] = sockets;
        socket.welcome({recovered: true});
        socket.reply(4, {position: 107, seq: 7});
        socket.say(message(5), message(6), message(7, 107, {mid: 1, id: kept.id, body: kept.body}), message(8));
        return client.told.filter(one => !one.startsWith("state"));
        """,
    )

    assert ["online", "sent kept at 7", "event 5", "event 6", "event 7", "event 8"] == told


async def test_an_unanswered_message_is_sent_again_with_its_id(tab: Tab) -> None:
    """In the order in which they were written, one after the other; also by the next page, from what was kept."""
    sent, again, told, kept = await saw(
        tab,
        """
        const store = new Map();
        const client = await started(store);
        sockets[0].welcome();
        for (const text of ["one", "two"]) client.send("group://r", {text});
        sockets[0].end(1006);
        await until(() => sockets.length === 2);
        sockets[1].welcome({recovered: true});
        const again = sockets[1].asked(4);
        client.disconnect();
        const next = await started(store);
        sockets[2].welcome({recovered: true});
        sockets[2].reply(4, {position: 101, seq: 1, duplicate: true});
        sockets[2].reply(4, {position: 102, seq: 2});
        return [sockets[0].asked(4), again, [sockets[2].asked(4), next.told.slice(-2)], store.get("outbox")];
        """,
    )

    assert isinstance(sent, list)
    assert [{"text": "one"}] == [message["body"] for message in sent]
    assert sent == again
    assert isinstance(told, list)
    assert sent[0] == told[0][0]
    assert ["sent one at 1", "sent two at 2"] == told[1]
    assert "[]" == kept


async def test_later_means_later_and_no_means_no(tab: Tab) -> None:
    ids, told = await saw(
        tab,
        """
        const client = await started();
        const [socket] = sockets;
        socket.welcome();
        client.send("group://r", {text: "patient"});
        client.send("group://r", {text: "muted"});
        socket.reply(4, {error: {code: "rate_limited", text: "Wait.", retry: true, retry_after_ms: 30}});
        await until(() => socket.asked(4).length === 2);
        socket.reply(4, {position: 101, seq: 1});
        socket.reply(4, {error: {code: "muted", text: "You are muted.", retry: false}});
        return [new Set(socket.asked(4).map(({id}) => id)).size, client.told.slice(-2)];
        """,
    )

    assert 2 == ids
    assert ["sent patient at 1", "refused muted muted"] == told


async def test_it_goes_on_where_it_was(tab: Tab) -> None:
    """The cursor of the last reply comes with the next auth; what was there already is dropped."""
    cursor, told = await saw(
        tab,
        """
        const client = await started();
        sockets[0].welcome();
        sockets[0].say(message(1), message(2));
        sockets[0].end(1006);
        await until(() => sockets.length === 2);
        sockets[1].welcome({recovered: true});
        sockets[1].say(message(1), message(2), message(3));
        return [sockets[1].asked(7)[0].cursor, client.told.filter(one => one.startsWith("event"))];
        """,
    )

    assert "e.100" == cursor
    assert ["event 1", "event 2", "event 3"] == told


async def test_it_waits_as_long_as_it_is_told(tab: Tab) -> None:
    waited, told = await saw(
        tab,
        """
        const client = await started();
        sockets[0].welcome();
        const began = performance.now();
        sockets[0].say({op: 6, seq: 0, body: {code: "going_away", text: "Stopping.", retry: true, close: 4001, delay_ms: 700}});
        sockets[0].end(4001);
        await until(() => sockets.length === 2);
        return [performance.now() - began, client.told.slice(-2)];
        """,
    )

    assert isinstance(waited, (int, float))  # a whole number of milliseconds arrives as an int
    assert waited >= 700
    assert ["state waiting going_away", "state connecting"] == told


async def test_a_verb_is_called_by_its_name_and_asked_again_only_where_nothing_was_done(tab: Tab) -> None:
    asked, answer, errors = await saw(
        tab,
        """
        const client = await started();
        const [socket] = sockets;
        socket.welcome();
        const kicked = client.call("rooms.kick", {room: "group://r", mid: 7});
        socket.reply(38, {error: {code: "rate_limited", text: "Wait.", retry: true, retry_after_ms: 20}});
        await until(() => socket.asked(38).length === 2);
        socket.reply(38, {answer: {position: 9}});
        const answer = await kicked;
        const errors = [];
        const unsure = client.call("rooms.create").catch(error => errors.push(error.code));
        socket.reply(38, {error: {code: "unavailable", text: "Who knows?", retry: true, retry_after_ms: 1}});
        await unsure;
        const lost = client.call("rooms.create").catch(error => errors.push(error.name));
        sockets[0].end(1006);
        await lost;
        return [socket.asked(38), answer, errors];
        """,
    )

    kick = {"verb": "rooms.kick", "args": {"room": "group://r", "mid": 7}}
    create = {"verb": "rooms.create", "args": {}}
    assert [kick, kick, create, create] == asked
    assert {"position": 9} == answer
    assert ["unavailable", "Lost"] == errors


@pytest.mark.parametrize(
    ("code", "expected"),
    [*((code, ["stopped", 1]) for code in (4400, 4401, 4403, 4409, 4410, 4413)), (1006, ["connecting", 2])],
)
async def test_it_stays_away_when_coming_back_is_pointless(tab: Tab, code: int, expected: list[object]) -> None:
    """Whether the server had time to say why, or only the close code arrived. All that it waits for happens at once."""
    assert expected == await saw(
        tab,
        f"""
        const due = new Map();
        const [set, clear] = [setTimeout, clearTimeout];
        window.setTimeout = (act, ms) => {{
          const timer = set(act, ms);
          due.set(timer, act);
          return timer;
        }};
        window.clearTimeout = timer => (due.delete(timer), clear(timer));
        const client = await started();
        sockets[0].welcome();
        sockets[0].end({code});
        for (const act of [...due.values()]) act();
        return [client.state, sockets.length];
        """,
    )


LOGIN = """
const login = {
  given: 0, leftMs: 20, problem: null,
  async token() {
    if (this.problem) throw this.problem;
    if (this.leftMs < 100) { this.given += 1; this.leftMs = this.given > 1 ? 100_000 : 20; }
    return `token ${this.given}`;
  },
  refused() { this.leftMs = 0; },
};
const client = await started(new Map(), login);
sockets[0].open();
await until(() => sockets[0].asked(7).length);
sockets[0].accept();
"""


async def test_who_has_logged_in_stays_with_a_fresh_token_before_the_old_one_ends(tab: Tab) -> None:
    assert ["token 1", "account.renew", "token 2", "online"] == await saw(
        tab,
        LOGIN
        + """
        await until(() => sockets[0].asked(38).length);
        const [{ verb, args }] = sockets[0].asked(38);
        sockets[0].reply(38, { answer: { expires_at: 1 } });
        return [sockets[0].asked(7)[0].token, verb, args.token, client.state];
        """,
    )


async def test_who_has_logged_in_comes_back_with_a_fresh_token_until_there_is_none(tab: Tab) -> None:
    """A machine that slept: the server ended the connection with its token. And one whose login is over stays away."""
    assert ["waiting unauthenticated", "token 3", "stopped unauthenticated"] == await saw(
        tab,
        LOGIN
        + """
        await until(() => sockets[0].asked(38).length);
        sockets[0].end(4401);
        const first = client.told.at(-1).replace("state ", "");
        client.nudge();
        sockets[1].open();
        await until(() => sockets[1].asked(7).length);
        const { token } = sockets[1].asked(7)[0];
        sockets[1].accept();
        login.problem = Object.assign(new Error("over"), { code: "unauthenticated", retry: false });
        sockets[1].end(4401);
        client.nudge();
        sockets[2].open();
        await until(() => client.state === "stopped");
        return [first, token, client.told.at(-1).replace("state ", "")];
        """,
    )


async def test_only_what_can_be_stored_leaves(tab: Tab) -> None:
    """Half a character and U+0000 would be refused for ever, and a message above the limit too."""
    body, fits, fault = await saw(
        tab,
        r"""
        const client = await started();
        sockets[0].welcome();
        client.send("group://r", {text: "a\ud800b\u0000c\ud83d\ude00\\ud800"});
        const frame = 16384 - '{"text":""}'.length;
        client.send("group://r", {text: "x".repeat(frame)});
        let fault = "";
        try { client.send("group://r", {text: "x".repeat(frame + 1)}); } catch (error) { fault = error.name; }
        return [sockets[0].asked(4)[0].body.text, client.unsent.length, fault];
        """,
    )

    assert "a\ufffdb\ufffdc\U0001f600\\ud800" == body
    assert 2 == fits
    assert "RangeError" == fault
