"""What is written of an event gives the same event back."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdag.calls import Usage
from agentdag.errors import ErrorKind, Failure
from agentdag.events import BarrierOpened, Event, NodeRetrying, NodeSettled, Reason, RunFinished, RunStatus, Status
from agentdag.store.codec import decoded, encoded

TEXTS = st.text(st.characters(exclude_categories=())) | st.just("\ud800 lone, \0 and \u2028")
MONEY = st.none() | st.decimals(min_value=0, max_value=10**6, allow_nan=False, allow_infinity=False, places=9)
PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
USAGES = st.builds(Usage, st.none() | st.integers(0, 2**70), st.just(1), st.none(), MONEY, st.booleans())
FAILURES = st.builds(Failure, st.sampled_from(list(ErrorKind)), TEXTS, st.none() | TEXTS, retry_after_s=st.none())
SECONDS = st.floats(0, 1e9)


@given(st.data())
def test_every_field_comes_back(data: st.DataObject) -> None:
    draw = data.draw
    names = tuple(draw(st.lists(TEXTS, max_size=3)))
    events: list[Event] = [
        NodeSettled(
            "r", draw(SECONDS), draw(TEXTS), draw(st.sampled_from(list(Status))), draw(SECONDS), 2, draw(TEXTS),
            draw(USAGES), draw(PLAIN), draw(st.none() | FAILURES), None, {"slot": draw(SECONDS)},
            cached=draw(st.booleans()), fallback_error=draw(st.none() | FAILURES),
        ),
        BarrierOpened("r", 1.5, "j", draw(st.sampled_from(list(Reason))), names, names, (), names, 2),
        NodeRetrying("r", 0.1, "n", 3, draw(SECONDS), draw(FAILURES)),
        RunFinished(
            "r", 2.0, RunStatus.FAILED, draw(SECONDS), 0.1, 0.2, 0.3, draw(USAGES), {"o": draw(PLAIN)}, {},
            {Status.LATE: 3}, 1, draw(st.none() | TEXTS),
        ),
    ]  # fmt: skip
    for event in events:
        assert decoded(encoded(event)) == event


def test_what_no_quick_writer_takes_comes_back_too() -> None:
    deep: Any = "inside"
    for _ in range(400):
        deep = [deep]
    for output in (deep, "\ud83d alone", float("inf"), 10**400, "x" * 10_000_000):
        event = NodeSettled("r", 0.0, "n", Status.SUCCEEDED, 0.0, 1, None, Usage(), output, None, None, {})
        assert decoded(encoded(event)) == event
    nan = NodeSettled("r", 0.0, "n", Status.SUCCEEDED, 0.0, 1, None, Usage(), math.nan, None, None, {})
    back = decoded(encoded(nan))
    assert isinstance(back, NodeSettled)
    assert math.isnan(back.output)


def test_what_is_no_event_is_refused() -> None:
    event = NodeSettled("r", 0.0, "n", Status.SUCCEEDED, 0.0, 1, None, Usage(cost_usd=Decimal(0)), "x", None, None, {})
    text = encoded(event)
    assert decoded(text.replace('"hedges":0,', "")) == event, "what has a default may be missing"
    for broken in ("", "{}", "[]", text[:-1], text.replace("settled", "sottled"), text.replace('"status"', '"statos"')):
        with pytest.raises((ValueError, KeyError, TypeError)):
            decoded(broken)
