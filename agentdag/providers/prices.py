"""What a call costs: the price table of genai-prices, or what the pipeline's file says.

The table is part of an installed package: nothing is downloaded. It is loaded when the first price is asked for.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal

from agentdag.calls import Usage

_TABLES = {"openai": "openai", "azure": "azure", "anthropic": "anthropic", "bedrock": "aws", "vertex": "google"}
"""The price table's name for each type of provider."""
_NAMED_BY_THEIR_MAKER = frozenset({"openai", "anthropic"})
"""The types whose models have the table's names; elsewhere they are deployments, profiles, or the user's own."""
_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Prices:
    """USD per million tokens."""

    input: Decimal
    output: Decimal
    cached_input: Decimal

    def of(self, usage: Usage) -> Decimal:
        cached = usage.cached_tokens or 0
        fresh = (usage.input_tokens or 0) - cached
        whole = fresh * self.input + cached * self.cached_input + (usage.output_tokens or 0) * self.output
        return whole / _MILLION


def cost_usd(kind: str, model: str, usage: Usage, declared: Prices | None = None) -> Decimal | None:
    """What *usage* of *model* at a provider of type *kind* costs; None where nobody knows."""
    if declared is not None:
        return declared.of(usage)
    if kind not in _TABLES:
        return None
    import genai_prices  # noqa: PLC0415 - 0.1 s, and few commands ask for a price

    counts = genai_prices.Usage(
        input_tokens=usage.input_tokens or 0,
        cache_read_tokens=usage.cached_tokens or 0,
        output_tokens=usage.output_tokens or 0,
    )
    try:
        return genai_prices.calc_price(counts, model, provider_id=_TABLES[kind]).total_price
    except LookupError:
        return None


def unknown_model(kind: str, model: str) -> Collection[str] | None:
    """The models that the table knows, where it ought to know *model* and does not; else None."""
    if kind not in _NAMED_BY_THEIR_MAKER or cost_usd(kind, model, Usage(1, 1)) is not None:
        return None
    from genai_prices.data import providers  # noqa: PLC0415 - as above

    return [each.id for maker in providers if maker.id == _TABLES[kind] for each in maker.models]
