"""What a call costs is what the price table says, to the last digit; and what it can cost is never less."""

from __future__ import annotations

from decimal import Decimal

import genai_prices
import pytest
from genai_prices.data import providers
from hypothesis import given
from hypothesis import strategies as st

from agentdag.calls import Gauge, Usage
from agentdag.providers.prices import Prices, prices_of
from agentdag.providers.sdk import count, room_of

MODELS = [
    (kind, model.id)
    for kind, maker in (("openai", "openai"), ("anthropic", "anthropic"))
    for each in providers
    if each.id == maker
    for model in each.models
    if prices_of(kind, model.id) is not None
]
"""Every model of the table that has a price for input and output."""


def test_the_table_is_large() -> None:
    assert len(MODELS) > 50
    assert ("openai", "gpt-5-mini") in MODELS


@given(
    st.sampled_from(MODELS),
    st.sampled_from([10, 1_000, 199_999, 200_001, 300_000]),
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(0, 5_000),
)
def test_prices_are_those_of_the_table(model: tuple[str, str], size: int, read: int, written: int, out: int) -> None:
    kind, name = model
    prices = prices_of(kind, name)
    assert prices is not None
    cached = size * read // 200
    wrote = size * written // 200 if prices.written_input != prices.input else 0
    usage = Usage(size, out, cached, written_tokens=wrote)
    told = genai_prices.Usage(
        input_tokens=size, cache_read_tokens=cached, cache_write_tokens=wrote or None, output_tokens=out
    )
    assert prices.of(usage) == genai_prices.calc_price(told, name, provider_id=kind).total_price
    assert prices.at_most(size, out) >= prices.of(usage)


def test_who_is_not_known_has_no_price() -> None:
    assert prices_of("openai", "gtp-5") is None
    assert prices_of("nobody", "gpt-5") is None


def test_declared_prices_are_flat() -> None:
    prices = Prices.flat(Decimal(1), Decimal(10), Decimal("0.1"))
    assert prices.of(Usage(1_000_000, 100_000, 500_000)) == Decimal("1.55")
    assert prices.at_most(1_000_000, 100_000) == Decimal(2)


@pytest.mark.parametrize(
    ("headers", "room"),
    [
        ({}, {}),
        (
            {
                "x-ratelimit-limit-requests": "500",
                "x-ratelimit-remaining-requests": "499",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-requests": "120ms",
            },
            {"requests": Gauge(500, 499), "tokens": Gauge(None, 0)},
        ),
        (
            {
                "anthropic-ratelimit-input-tokens-limit": "40000",
                "anthropic-ratelimit-input-tokens-remaining": "39000",
                "anthropic-ratelimit-output-tokens-remaining": "8000",
            },
            {"input_tokens": Gauge(40000, 39000), "output_tokens": Gauge(None, 8000)},
        ),
        ({"x-ratelimit-remaining-requests": "9" * 400}, {"requests": Gauge(None, None)}),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-limit-requests": "½"}, {"requests": Gauge(None, None)}),
    ],
)
def test_headers_tell_how_much_room_there_is(headers: dict[str, str], room: dict[str, Gauge]) -> None:
    assert room_of({name.encode(): value.encode() for name, value in headers.items()}) == room


def test_an_absurd_count_is_none() -> None:
    assert count(10**400) is None
    assert count(-1) is None
    assert count(True) is None
    assert count(12) == 12
