"""What a call costs: the price table of genai-prices, or what the pipeline's file says.

The table is part of an installed package: nothing is downloaded. It is loaded when the first price is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from typing import Any

from agentdag.calls import Usage

_TABLES = {"openai": "openai", "azure": "azure", "anthropic": "anthropic", "bedrock": "aws", "vertex": "google"}
"""The price table's name for each type of provider."""
_NAMED_BY_THEIR_MAKER = frozenset({"openai", "anthropic"})
"""The types whose models have the table's names; elsewhere they are deployments, profiles, or the user's own."""
_MILLION = Decimal(1_000_000)
SERVICE_TIERS = ("flex", "priority")
"""Those that may have prices of their own."""


@dataclass(frozen=True, slots=True)
class Rate:
    """USD per million tokens: *base*, or that of the last of *steps* whose number of input tokens is passed."""

    base: Decimal
    steps: tuple[tuple[int, Decimal], ...] = ()

    def at(self, input_tokens: int) -> Decimal:
        """The rate in a request of so many *input_tokens*; it holds for all of them."""
        rate = self.base
        for start, price in self.steps:
            if input_tokens > start:
                rate = price
        return rate


@dataclass(frozen=True, slots=True)
class Prices:
    """What a model costs: fresh input, output, input read from the provider's cache, and input written to it.

    `tiers` are the prices of service tiers, where they differ.
    """

    input: Rate
    output: Rate
    cached_input: Rate
    written_input: Rate
    tiers: Mapping[str, Prices] = field(default_factory=dict, hash=False)

    @classmethod
    def flat(cls, input_: Decimal, output: Decimal, cached_input: Decimal) -> Prices:
        """The same whatever the size of a request."""
        return cls(Rate(input_), Rate(output), Rate(cached_input), Rate(input_))

    def of(self, usage: Usage, tier: str | None = None) -> Decimal:
        """USD on the service *tier* that the answer names; output tokens include those of reasoning, as all providers
        count them."""
        if tier is not None and tier in self.tiers:
            return self.tiers[tier].of(usage)
        whole, cached, written = usage.input_tokens or 0, usage.cached_tokens or 0, usage.written_tokens
        fresh = max(0, whole - cached - written)
        cost = fresh * self.input.at(whole) + cached * self.cached_input.at(whole)
        cost += written * self.written_input.at(whole) + (usage.output_tokens or 0) * self.output.at(whole)
        return cost / _MILLION

    def at_most(self, input_tokens: int, output_tokens: int, tier: str | None = None) -> Decimal:
        """The most that a request of so many tokens can cost that asks for the service *tier*: all of its input at its
        most expensive. Who asks for less than the default may get the default all the same."""
        if tier is not None and tier in self.tiers:
            return max(self.at_most(input_tokens, output_tokens), self.tiers[tier].at_most(input_tokens, output_tokens))
        rates = (self.input, self.cached_input, self.written_input)
        dearest = max(rate.at(size) for rate in rates for size in (0, input_tokens))
        out = max(self.output.at(size) for size in (0, input_tokens))
        return (input_tokens * dearest + output_tokens * out) / _MILLION


FREE = Prices.flat(Decimal(0), Decimal(0), Decimal(0))


@cache
def prices_of(kind: str, model: str) -> Prices | None:
    """What *model* at a provider of type *kind* costs by the table; None where it does not know."""
    if kind not in _TABLES:
        return None
    plain = _listed(_TABLES[kind], model, None)
    if plain is None:
        return None
    tiers = {tier: _listed(_TABLES[kind], model, tier) for tier in SERVICE_TIERS}
    differing = {tier: prices for tier, prices in tiers.items() if prices is not None and prices != plain}
    return replace(plain, tiers=differing) if differing else plain


def _listed(table: str, model: str, tier: str | None) -> Prices | None:
    """The prices in one of the package's tables, on a service *tier*."""
    import genai_prices  # noqa: PLC0415 - 0.1 s, and few commands ask for a price

    context = None if tier is None else {"service_tier": tier}
    one = genai_prices.Usage(input_tokens=1)
    try:
        found = genai_prices.calc_price(one, model, provider_id=table, price_context=context)
    except LookupError:
        return None
    told = found.model_price
    if told.input_mtok is None or told.output_mtok is None:
        return None
    input_ = _rate(told.input_mtok)
    cached = input_ if told.cache_read_mtok is None else _rate(told.cache_read_mtok)
    written = input_ if told.cache_write_mtok is None else _rate(told.cache_write_mtok)
    return Prices(input_, _rate(told.output_mtok), cached, written)


def _rate(told: Any) -> Rate:
    """A price of the table: one number, or one by the size of the request."""
    if isinstance(told, Decimal):
        return Rate(told)
    return Rate(told.base, tuple((tier.start, tier.price) for tier in told.tiers))


def unknown_model(kind: str, model: str) -> Collection[str] | None:
    """The models that the table knows, where it ought to know *model* and does not; else None."""
    if kind not in _NAMED_BY_THEIR_MAKER or prices_of(kind, model) is not None:
        return None
    from genai_prices.data import providers  # noqa: PLC0415 - as above

    return [each.id for maker in providers if maker.id == _TABLES[kind] for each in maker.models]
