"""The first packet is auth, and there is only one."""

from __future__ import annotations

import pytest

from imcore.errors import BadOrder
from imcore.protocol.connection import Order, State
from imcore.protocol.packet import Op


def at(state: State) -> Order:
    order = Order()
    order.state = state
    return order


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("op", [*Op, -1, 99, 1000])
def test_what_is_legal_when(state: State, op: int) -> None:
    legal = {State.NEW: op == Op.AUTH, State.OPEN: op != Op.AUTH}.get(state, False)

    if legal:
        at(state).check(op)
    else:
        with pytest.raises(BadOrder) as caught:
            at(state).check(op)
        assert caught.value.close == 4403


def test_the_life_of_a_connection() -> None:
    order = Order()
    order.check(Op.AUTH)
    assert order.state is State.AUTHENTICATING
    order.opened()
    order.check(Op.SEND)
    order.check(Op.HEARTBEAT)
    order.closed()
    with pytest.raises(BadOrder):
        order.check(Op.SEND)


def test_two_auths_in_one_segment_are_one_too_many() -> None:
    """The first of them alone decides who this is."""
    order = Order()
    order.check(Op.AUTH)
    with pytest.raises(BadOrder):
        order.check(Op.AUTH)


@pytest.mark.parametrize("state", State)
def test_a_connection_may_close_from_any_state(state: State) -> None:
    order = at(state)
    order.closed()
    assert order.state is State.CLOSED


@pytest.mark.parametrize("state", [State.NEW, State.OPEN, State.CLOSED])
def test_only_an_auth_opens(state: State) -> None:
    with pytest.raises(AssertionError):
        at(state).opened()
