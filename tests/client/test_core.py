"""The core, told by hand what a server would say: what it hands on, what it asks, and what it lets a store know."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imcore.client.codec import BinaryCodec, Codec, JsonCodec
from imcore.client.core import Acked, Answered, Core, Entry, Farewell, Misunderstood, Opened, Step
from imcore.client.errors import Refused
from imcore.client.events import Event, Happening, Reset
from imcore.errors import BadPacket
from imcore.protocol import binary, text
from imcore.protocol.packet import Op

ROOM, OTHER, LIVE = "group://a", "group://b", "live://1"
MID, KEY = 7, "phone"
ID = "0190a5d2-7c1e-7b3a-9f00-1234567890ab"


class Talk:
    """A core and what its server says to it. Positions are those of the events that were told."""

    def __init__(self, *, codec: type[JsonCodec | BinaryCodec] = JsonCodec, begin: bool = True, **kept: Any) -> None:
        self.codec: type[JsonCodec | BinaryCodec] = codec
        self.core = Core(mid=MID, rooms=kept.pop("rooms", ()), accepts=kept.pop("accepts", None), chance=lambda: 1.0)
        self.core.begin(KEY, MID, kept.get("cursor", ""), kept.get("seen", {}))
        self.now = 0.0
        self.position = kept.get("position", 100)
        self.asked: list[tuple[int, int, Any]] = []
        if begin:
            self.connect()

    def connect(self, **facts: Any) -> Opened:
        self.core.connecting()
        codec: Codec = self.codec()
        self.core.connected(codec)
        self.core.auth(None)
        body = {
            "mid": MID,
            "key": KEY,
            "epoch": "e",
            "position": 0,
            "cursor": "e.0",
            "recovered": True,
            "heartbeat_s": 240,
            "rooms": [],
        }
        (opened,) = self.tell(Op.AUTH_REPLY, 1, body | facts)
        assert isinstance(opened, Opened)
        return opened

    def break_off(self, **facts: Any) -> Opened:
        self.core.lost()
        return self.connect(**facts)

    def tell(self, op: int, seq: int, body: Any) -> list[Step]:
        data = orjson.dumps(body)
        encoded = text.encode(op, seq, data) if self.codec is JsonCodec else binary.encode(2, op, seq, data)
        return self.core.receive(encoded, self.now)

    def say(self, seq: int, room: str = ROOM, **facts: Any) -> None:
        """An event of the room, or of the stream."""
        self.position += 1
        self.tell(Op.EVENT, 0, envelope(self.position, room, seq) | facts)

    def requests(self) -> list[tuple[int, int, Any]]:
        """What the core has to say now: operation, seq and body."""
        made = []
        for packet in self.core.take(self.now):
            op, seq, body = text.decode(packet)
            made.append((op, seq, body))
        return made

    def send(self, words: str = "hi", room: str = ROOM, id_: str = ID) -> Any:
        return self.core.ask(Op.SEND, {"room": room, "id": id_, "body": words}, room=room, id=id_)

    def taken(self) -> list[Happening | None]:
        """What the program takes, without dealing with it."""
        found: list[Happening | None] = []
        while (entry := self.core.next()) is not None:
            found.append(entry.happening)
        return found

    def dealt(self) -> list[Entry]:
        """Everything that there is is dealt with; what the store hears of it."""
        settled: list[Entry] = []
        while (entry := self.core.next()) is not None:
            settled += self.core.settle(entry)
        return settled


def envelope(position: int, place: str, seq: int) -> dict[str, Any]:
    where = {"room": place} if "://" in place else {"stream": place}
    said = {"position": position, "seq": seq, "mid": 9, "key": "k", "time": 0, "type": "message_sent", "op": 1000}
    return said | where | {"body": f"{seq}"}


def own(seq: int) -> dict[str, Any]:
    return {"mid": MID, "key": KEY, "id": ID}


def seqs(happenings: Iterable[Happening | None]) -> list[int | str | None]:
    """Of events their seq, of others their name."""
    return [one.seq if isinstance(one, Event) else None if one is None else type(one).__name__ for one in happenings]


# --- each once ---


def test_what_came_before_is_dropped_over_connections_and_lives() -> None:
    talk = Talk(cursor="e.50", seen={ROOM: 3})
    for seq in (2, 3, 4, 5):
        talk.say(seq)
    talk.break_off()
    for seq in (4, 5, 6):
        talk.say(seq)

    assert [4, 5, 6] == seqs(talk.taken())
    assert 4 == talk.core.counts.duplicates


def test_what_this_device_sent_is_never_handed_on_and_what_the_person_sent_elsewhere_is() -> None:
    talk = Talk()
    talk.say(1)
    talk.say(2, mid=MID, key=KEY, id=ID)
    talk.say(3, mid=MID, key="laptop", id=ID)

    assert [1, None, 3] == seqs(talk.taken())
    assert 1 == talk.core.counts.own


def test_a_push_that_was_not_stored_has_no_place_and_is_no_duplicate() -> None:
    talk = Talk()
    for _ in range(2):
        talk.tell(Op.EVENT, 0, envelope(0, ROOM, 0))

    assert [0, 0] == seqs(talk.taken())
    assert not talk.core.has_news


@given(cuts=st.lists(st.integers(1, 400)), batched=st.booleans())
def test_any_split_of_the_bytes_is_the_same(cuts: list[int], batched: bool) -> None:
    talk = Talk(codec=BinaryCodec)
    packets = [binary.encode(2, Op.EVENT, 0, orjson.dumps(envelope(seq, ROOM, seq))) for seq in range(1, 9)]
    data = binary.encode_batch(packets) if batched else b"".join(packets)
    while data:
        at = cuts.pop() if cuts else len(data)
        talk.core.receive(data[:at], 0.0)
        data = data[at:]

    assert list(range(1, 9)) == seqs(talk.taken())


@given(st.lists(st.integers(1, 4), max_size=8))
def test_batches_of_any_size_are_the_same(sizes: list[int]) -> None:
    talk = Talk()
    packets = [text.encode(Op.EVENT, 0, orjson.dumps(envelope(seq, ROOM, seq))) for seq in range(1, 9)]
    while packets:
        size = sizes.pop() if sizes else len(packets)
        talk.core.receive(text.encode_batch(packets[:size]), 0.0)
        packets = packets[size:]

    assert list(range(1, 9)) == seqs(talk.taken())


def test_operations_types_and_keys_that_are_not_known_are_passed_over() -> None:
    talk = Talk()
    talk.say(1, new_key={"a": 1})
    assert [] == talk.tell(99, 0, {"what": "is this"})
    assert [] == talk.tell(Op.SEND_REPLY, 4711, {"position": 1, "seq": 1})
    talk.say(2, type="room_painted", op=0, body={"colour": "red"})

    assert [1, 2] == seqs(talk.taken())


@pytest.mark.parametrize("frame", [b"{", b"[]", b'{"op":9,"body":1}', b'{"op":9,"body":[1]}', b'{"op":21,"body":{}}'])
def test_what_is_not_this_protocol_is_said(frame: bytes) -> None:
    with pytest.raises(BadPacket):
        Talk().core.receive(frame, 0.0)


def test_an_answer_that_says_nothing_is_none_and_it_is_asked_again() -> None:
    talk = Talk()
    send = talk.send()
    call = talk.core.ask(Op.CALL, {"verb": "server.show", "args": {}})
    ((_, call_seq, called), (_, send_seq, sent)) = talk.requests()
    for op, seq, body in (
        (Op.SEND_REPLY, send_seq, {"seq": 1}),
        (Op.CALL_REPLY, call_seq, {}),
        (Op.SEND_REPLY, send_seq, None),
    ):
        with pytest.raises(BadPacket):
            talk.tell(op, seq, body)
    talk.break_off()

    ((_, call_seq, called_again), (_, send_seq, sent_again)) = talk.requests()
    assert [called, sent] == [called_again, sent_again]
    (told,) = talk.tell(Op.SEND_REPLY, send_seq, {"position": 5, "seq": 1})
    (answered,) = talk.tell(Op.CALL_REPLY, call_seq, {"answer": None})
    assert isinstance(told, Answered)
    assert isinstance(answered, Answered)
    assert (send, call) == (told.asked, answered.asked)


def test_what_was_understood_before_what_was_not_is_told() -> None:
    """It is no longer under way, so nobody would ask again."""
    talk = Talk()
    send = talk.send()
    ((_, seq, _),) = talk.requests()
    reply = text.encode(Op.SEND_REPLY, seq, b'{"position":5,"seq":1}')
    frame = text.encode_batch([reply, text.encode(Op.EVENT, 0, b"{}")])

    with pytest.raises(Misunderstood) as error:
        talk.core.receive(frame, 0.0)

    (told,) = error.value.steps
    assert isinstance(told, Answered)
    assert (send, None) == (told.asked, told.error)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mid": "7"},
        {"mid": None},
        {"position": "x"},
        {"cursor": 5},
        {"key": None},
        {"heartbeat_s": 0},
        {"heartbeat_s": "x"},
        {"recovered": 1},
    ],
)
def test_an_auth_reply_that_is_none_is_not_believed(wrong: dict[str, Any]) -> None:
    talk = Talk(begin=False, cursor="e.50")
    with pytest.raises(BadPacket):
        talk.connect(**wrong)
    assert (MID, KEY, "e.50", False) == (talk.core.mid, talk.core.key, talk.core.cursor, talk.core.is_open)


@pytest.mark.parametrize("wrong", [{"position": "x"}, {"position": None}, {"seq": "2"}, {"seq": 1.0}])
def test_an_event_without_a_place_is_not_handed_on(wrong: dict[str, Any]) -> None:
    talk = Talk()
    with pytest.raises(BadPacket):
        talk.tell(Op.EVENT, 0, envelope(1, ROOM, 1) | wrong)
    assert [] == talk.taken()


# --- holes ---


def history(talk: Talk) -> tuple[int, Any]:
    """The question for history that it asks: seq of the request, and body."""
    ((op, seq, body),) = talk.requests()
    assert Op.HISTORY == op
    return seq, body


def page(*events: dict[str, Any], more: bool = False) -> dict[str, Any]:
    return {"room": ROOM, "events": list(events), "head": 99, "more": more}


def test_a_hole_is_filled_before_what_came_after_it() -> None:
    talk = Talk()
    talk.say(1)
    talk.say(4)
    talk.say(1, OTHER)
    assert [1] == seqs(talk.taken()), "everything waits: positions are acknowledged in order"

    seq, body = history(talk)
    talk.tell(Op.HISTORY_REPLY, seq, page(envelope(50, ROOM, 2), envelope(51, ROOM, 3)))

    assert {"room": ROOM, "after": 1, "limit": 2} == body
    assert [2, 3, 4, 1] == seqs(talk.taken())
    assert (1, 2, 0) == (talk.core.counts.gaps, talk.core.counts.filled, talk.core.counts.unfilled)


def test_a_hole_is_filled_page_by_page_and_a_second_one_after_it() -> None:
    talk = Talk()
    talk.say(1)
    talk.say(4)
    talk.say(6)
    seq, _ = history(talk)
    talk.tell(Op.HISTORY_REPLY, seq, page(envelope(50, ROOM, 2), more=True))
    seq, body = history(talk)
    assert 2 == body["after"]
    talk.tell(Op.HISTORY_REPLY, seq, page(envelope(51, ROOM, 3)))
    seq, body = history(talk)
    assert 4 == body["after"]
    talk.tell(Op.HISTORY_REPLY, seq, page(envelope(53, ROOM, 5)))

    assert [1, 2, 3, 4, 5, 6] == seqs(talk.taken())


def test_what_the_history_does_not_have_is_told_as_a_reset() -> None:
    talk = Talk()
    talk.say(1)
    talk.say(4)
    talk.say(6)
    seq, _ = history(talk)
    talk.tell(Op.HISTORY_REPLY, seq, page(envelope(51, ROOM, 3)))
    seq, _ = history(talk)
    talk.tell(Op.HISTORY_REPLY, seq, {"error": {"code": "no_such_room", "text": "", "retry": False}})

    assert [1, 3, "Reset", 4, "Reset", 6] == seqs(talk.taken())
    assert 2 == talk.core.counts.unfilled


def test_a_page_that_brings_only_what_an_answer_told_meanwhile_is_not_the_last() -> None:
    talk = Talk()
    talk.say(1)
    talk.say(5)
    seq, _ = history(talk)
    talk.send()
    ((_, send_seq, _),) = talk.requests()
    talk.tell(Op.SEND_REPLY, send_seq, {"position": 61, "seq": 2})
    talk.tell(Op.HISTORY_REPLY, seq, page(envelope(61, ROOM, 2) | own(2), more=True))
    seq, body = history(talk)
    assert 2 == body["after"]
    talk.tell(Op.HISTORY_REPLY, seq, page(envelope(62, ROOM, 3), envelope(63, ROOM, 4)))

    assert [1, 3, 4, 5] == seqs(talk.taken())
    assert 0 == talk.core.counts.unfilled


@pytest.mark.parametrize(("before", "is_asked"), [(1_002, True), (1_003, False), (1 << 62, False)])
def test_a_hole_that_is_too_large_is_told_and_not_filled(before: int, is_asked: bool) -> None:
    talk = Talk()
    talk.say(1)
    talk.say(before)

    assert is_asked == (talk.requests() != [])
    assert ([1] if is_asked else [1, "Reset", before]) == seqs(talk.taken())


def test_a_history_that_begins_after_the_hole_is_asked_once() -> None:
    """Left, and joined again meanwhile: what was said before the join is not shown."""
    talk = Talk()
    talk.say(1)
    talk.say(4)
    seq, _ = history(talk)
    talk.tell(Op.HISTORY_REPLY, seq, page(envelope(60, ROOM, 12), more=True))

    assert [] == talk.requests()
    assert [1, "Reset", 4] == seqs(talk.taken())


def test_a_hole_that_an_own_send_explains_is_none() -> None:
    """Whether its answer came before, comes after, or was lost."""
    talk = Talk()
    talk.say(1)
    for n in range(3):
        talk.send(f"{n}")
    (first, second, third) = (seq for _, seq, _ in talk.requests())
    talk.tell(Op.SEND_REPLY, first, {"position": 60, "seq": 2})
    talk.say(3)
    talk.say(5)
    assert [] == talk.requests(), "the answers may explain it"
    assert [1, 3] == seqs(talk.taken())
    talk.tell(Op.SEND_REPLY, third, {"position": 62, "seq": 4})
    assert [5] == seqs(talk.taken())

    talk.say(7)
    talk.tell(Op.SEND_REPLY, second, {"error": {"code": "unavailable", "text": "", "retry": True}})
    seq, _ = history(talk)
    talk.tell(Op.HISTORY_REPLY, seq, page(envelope(64, ROOM, 6) | own(6)))

    assert [None, 7] == seqs(talk.taken())
    assert (0, 0) == (talk.core.counts.gaps, talk.core.counts.filled)


def test_an_own_send_beyond_a_hole_leaves_the_chain_whole() -> None:
    """The held event is one's own too, and known by then; what is missing after it is still found."""
    talk = Talk()
    talk.say(4)
    talk.send("a")
    talk.send("b")
    (first, second) = (seq for _, seq, _ in talk.requests())
    talk.say(7, **own(7))
    talk.tell(Op.SEND_REPLY, first, {"position": 61, "seq": 7})
    talk.tell(Op.SEND_REPLY, second, {"position": 62, "seq": 8})
    seq, _ = history(talk)
    talk.tell(Op.HISTORY_REPLY, seq, page(envelope(50, ROOM, 5) | own(5), envelope(51, ROOM, 6) | own(6)))
    talk.say(11)

    _, body = history(talk)
    assert {"room": ROOM, "after": 8, "limit": 2} == body


def test_alone_in_a_room_its_own_sends_are_all_there_is() -> None:
    talk = Talk()
    talk.say(1)
    talk.dealt()
    for n in range(2, 50):
        talk.send(f"{n}")
        ((_, seq, _),) = talk.requests()
        talk.tell(Op.SEND_REPLY, seq, {"position": 100 + n, "seq": n})
    talk.say(50)

    assert [50] == seqs(talk.taken())
    assert [] == talk.requests()


def test_who_joins_again_has_no_hole() -> None:
    talk = Talk()
    talk.say(1)
    talk.tell(Op.REMOVED, 0, {"room": ROOM, "position": 150, "type": "member_removed", "by": 1})
    talk.say(9, type="member_joined", op=0, mid=1, body={"room": ROOM, "mid": MID, "role": "member"})
    talk.say(10)

    assert [1, "Removed", 9, 10] == seqs(talk.taken())
    assert [] == talk.requests()


def test_holes_are_looked_for_only_where_everything_comes() -> None:
    talk = Talk(accepts=[1000])
    talk.say(1)
    talk.say(9)

    assert [1, 9] == seqs(talk.taken())


def test_a_live_room_has_no_hole_where_it_was_not_entered() -> None:
    talk = Talk(cursor="e.50", seen={LIVE: 3}, rooms=())
    talk.core.joined(LIVE)
    talk.say(9, LIVE)
    talk.break_off()
    talk.say(11, LIVE)

    assert [9] == seqs(talk.taken())
    assert [Op.HISTORY] == [op for op, _, _ in talk.requests()], (
        "entered by the auth: what comes after the cursor is owed"
    )


def test_a_hole_that_is_open_when_the_connection_breaks_is_filled_by_the_next() -> None:
    talk = Talk()
    talk.say(1)
    talk.say(3)
    talk.tell(Op.REMOVED, 0, {"room": OTHER, "position": 150, "type": "member_removed", "by": 1})
    history(talk)
    talk.break_off()
    for seq in (1, 2, 3):
        talk.say(seq)

    assert [1, "Removed", 2, 3] == seqs(talk.taken()), "of the removal nobody tells again"
    assert [] == talk.requests()


def test_while_a_hole_is_open_too_much_is_let_go() -> None:
    talk = Talk()
    talk.core._backlog_max = 5
    talk.say(1)
    for seq in range(3, 20):
        talk.say(seq)

    assert talk.core.has_overflowed
    assert talk.core.backlog <= 5


# --- resets ---


@pytest.mark.parametrize("reason", ["new", "expired", "epoch", "too_far", "a reason of tomorrow"])
def test_what_is_not_recovered_is_told_in_its_place(reason: str) -> None:
    """What was received before comes first; what the store holds is forgotten where seqs may mean something else now."""
    talk = Talk(cursor="e.50", seen={ROOM: 3})
    talk.say(4)
    talk.break_off(recovered=False, reason=reason, position=90, cursor="f.90")
    talk.say(4 if reason in ("new", "expired") else 1)
    talk.say(7)

    found = [talk.core.next() for _ in range(3)]
    happenings = [entry.happening for entry in found if entry is not None]
    assert Reset(reason, 90) == happenings[1]
    forgets = reason not in ("new", "expired")
    assert [4, "Reset", 1 if forgets else 7] == seqs(happenings)
    reset = found[1]
    assert reset is not None
    assert (forgets, "f.90") == (reset.forgets, reset.cursor)
    assert "f.90" == talk.core.cursor


def test_positions_of_another_log_are_not_acknowledged_to_this_one() -> None:
    talk = Talk(cursor="e.50", position=1_000)
    talk.say(4)
    (old,) = [talk.core.next()]
    assert old is not None
    talk.break_off(recovered=False, reason="epoch", position=90, cursor="f.90")
    talk.position = 90
    talk.say(1)
    talk.core.settle(old)
    talk.core.acknowledge()
    assert [] == talk.requests()

    talk.dealt()
    talk.core.acknowledge()

    assert [(Op.ACK, 2, {"position": 91})] == talk.requests()


# --- acks ---


def test_a_position_is_acknowledged_when_everything_before_it_is_settled() -> None:
    talk = Talk()
    for seq in (1, 2, 3):
        talk.say(seq)
    first, second, third = (talk.core.next() for _ in range(3))
    assert first is not None and second is not None and third is not None  # noqa: PT018
    assert [] == talk.core.settle(second)
    talk.core.acknowledge()
    assert [] == talk.requests()

    assert [first, second] == talk.core.settle(first)
    talk.core.acknowledge()
    assert [(Op.ACK, 2, {"position": 102})] == talk.requests()
    talk.core.settle(third)
    talk.core.acknowledge()
    assert [] == talk.requests(), "one ack at a time"
    (acked,) = talk.tell(Op.ACK_REPLY, 2, {"position": 102, "cursor": "e.102"})
    assert isinstance(acked, Acked)
    assert ("e.102", "e.102") == (acked.cursor, talk.core.cursor)
    assert talk.core.has_news


def test_only_what_came_over_this_connection_is_acknowledged_on_it() -> None:
    """The server refuses others: it has not given them."""
    talk = Talk()
    for seq in (1, 2, 3):
        talk.say(seq)
    talk.dealt()
    talk.break_off()
    talk.core.acknowledge()
    assert [] == talk.requests()
    talk.position = 100
    talk.say(1)
    talk.core.acknowledge()

    assert [(Op.ACK, 2, {"position": 101})] == talk.requests()


def test_the_place_of_a_removal_is_not_acknowledged() -> None:
    """Its notice may come before events that lie before it."""
    talk = Talk()
    talk.tell(Op.REMOVED, 0, {"room": ROOM, "position": 5_000, "type": "member_removed", "by": 1})
    talk.say(1, OTHER)
    talk.dealt()
    talk.core.acknowledge()

    assert [(Op.ACK, 2, {"position": 101})] == talk.requests()


def test_own_sends_count_as_settled_and_the_store_hears_of_them_with_an_ack() -> None:
    talk = Talk()
    talk.say(1)
    talk.dealt()
    talk.send()
    ((_, seq, _),) = talk.requests()
    talk.tell(Op.SEND_REPLY, seq, {"position": 102, "seq": 2})
    talk.core.acknowledge()
    ((_, seq, _),) = talk.requests()
    (acked,) = talk.tell(Op.ACK_REPLY, seq, {"position": 101, "cursor": "e.101"})

    assert isinstance(acked, Acked)
    assert {ROOM: 2} == acked.seen


# --- asking ---


def test_what_has_no_outcome_is_asked_again_with_its_id_in_its_order() -> None:
    talk = Talk()
    for n in range(3):
        talk.send(f"{n}")
    asked = talk.requests()
    talk.tell(Op.SEND_REPLY, asked[1][1], {"position": 101, "seq": 1})
    talk.core.ask(Op.HISTORY, {"room": ROOM})
    talk.requests()
    talk.send("later")
    talk.break_off()

    again = talk.requests()

    assert [Op.HISTORY, Op.SEND, Op.SEND, Op.SEND] == [op for op, _, _ in again]
    assert ["0", "2", "later"] == [body["body"] for op, _, body in again if op == Op.SEND]
    assert asked[0][2] == again[1][2]
    assert [2, 3, 4, 5] == [seq for _, seq, _ in again]


def test_later_is_obeyed_and_slows_down() -> None:
    """Everything that waits behind it waits too, so that order is kept; and fewer are under way at a time."""
    talk = Talk()
    for n in range(100):
        talk.send(f"{n}")
    under_way = talk.requests()
    assert 64 == len(under_way)
    for _, seq, _ in under_way:
        error = {"code": "rate_limited", "text": "", "retry": True, "retry_after_ms": 500}
        assert [] == talk.tell(Op.SEND_REPLY, seq, {"error": error})
    assert [] == talk.requests()
    assert 0.5 == talk.core.due()

    talk.now = 0.5
    ((_, seq, body),) = talk.requests()
    assert "0" == body["body"]
    (answered,) = talk.tell(Op.SEND_REPLY, seq, {"position": 101, "seq": 1})
    assert isinstance(answered, Answered)
    assert ["1", "2"] == [body["body"] for _, _, body in talk.requests()], "it gains courage"


def test_who_stops_waiting_has_asked_no_more() -> None:
    talk = Talk()
    asked = talk.send("never mind")
    talk.core.forget(asked)
    assert [] == talk.requests()

    asked = talk.send("too late")
    ((_, seq, _),) = talk.requests()
    talk.core.forget(asked)
    assert [] == talk.tell(Op.SEND_REPLY, seq, {"position": 101, "seq": 1})
    talk.break_off()
    assert [] == talk.requests()


def test_who_gave_up_while_there_was_no_connection_is_not_kept() -> None:
    talk = Talk(begin=False)
    kept = talk.send("kept")
    for n in range(1_000):
        talk.core.forget(talk.send(f"{n}"))
        talk.core.forget(talk.core.ask(Op.HISTORY, {"room": ROOM}))
    assert len(talk.core._sends) + len(talk.core._others) < 10
    talk.connect()

    ((_, _, body),) = talk.requests()
    assert "kept" == body["body"]
    assert kept.is_wanted


def test_a_leave_of_which_the_answer_was_lost_has_happened() -> None:
    talk = Talk()
    talk.core.ask(Op.LEAVE, {"room": ROOM})
    talk.requests()
    talk.break_off()
    ((_, seq, _),) = talk.requests()
    (answered,) = talk.tell(Op.LEAVE_REPLY, seq, {"error": {"code": "no_such_room", "text": "", "retry": False}})

    assert isinstance(answered, Answered)
    assert answered.error is None


def test_a_refusal_is_an_outcome() -> None:
    talk = Talk()
    talk.send()
    ((_, seq, _),) = talk.requests()
    (answered,) = talk.tell(Op.SEND_REPLY, seq, {"error": {"code": "muted", "text": "Quiet.", "retry": False}})

    assert isinstance(answered, Answered)
    assert answered.error is not None
    assert ("Muted", "muted", "Quiet.") == (type(answered.error).__name__, answered.error.code, answered.error.text)


def test_a_bug_of_the_server_is_an_outcome_and_no_end_of_the_client() -> None:
    """Nobody knows how far the request had come; asking again would meet the bug again."""
    talk = Talk()
    talk.send()
    ((_, seq, _),) = talk.requests()
    told = {"code": "internal", "text": "Something went wrong inside the server.", "retry": False}
    (answered,) = talk.tell(Op.SEND_REPLY, seq, {"error": told})

    assert isinstance(answered, Answered)
    assert isinstance(answered.error, Refused)
    assert ("internal", False) == (answered.error.code, answered.error.retry)
    assert [] == talk.requests()


def test_heartbeats_and_acks_are_not_asked_again() -> None:
    talk = Talk()
    talk.say(1)
    talk.dealt()
    talk.core.heartbeat()
    talk.core.acknowledge()
    assert [Op.HEARTBEAT, Op.ACK] == [op for op, _, _ in talk.requests()]
    assert not talk.core.awaits
    talk.break_off()

    assert [] == talk.requests()


def test_a_farewell_says_why_and_when_to_come_back() -> None:
    talk = Talk()
    body = {"code": "going_away", "text": "Bye.", "retry": True, "close": 4001, "delay_ms": 1840}
    (farewell,) = talk.tell(Op.DISCONNECT, 0, body)

    assert isinstance(farewell, Farewell)
    assert ("going_away", True, 4001, 1.84) == (
        farewell.error.code,
        farewell.error.retry,
        farewell.close,
        farewell.delay_s,
    )


def test_rooms_are_named_at_each_connect_until_one_is_out_of_them() -> None:
    talk = Talk(rooms=[ROOM, LIVE], cursor="e.50")
    talk.core.joined("live://2")
    talk.core.joined(OTHER)  # a member stays one
    talk.core.left(LIVE)
    talk.tell(Op.REMOVED, 0, {"room": ROOM, "position": 150, "type": "member_removed", "by": 1})

    assert ["live://2"] == list(talk.core.rooms)
