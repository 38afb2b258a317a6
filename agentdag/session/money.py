"""What the models of a plan cost, and what a run may spend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

from agentdag.calls import NOTHING, Amount
from agentdag.errors import UsageError
from agentdag.language.spec import PricesSpec, ProviderSpec
from agentdag.limits.budget import Budget
from agentdag.plan.plan import BudgetTerms, Plan
from agentdag.plan.work import ModelRef
from agentdag.providers import registry
from agentdag.providers.prices import FREE, Prices, prices_of

NO_BOUND = "none"
"""On the command line: what the file bounds is not bounded."""


class PriceList:
    """What each model of *providers* costs: as the file says, else as the table does."""

    def __init__(self, providers: Mapping[str, ProviderSpec]) -> None:
        self._providers = providers
        self._known: dict[ModelRef, Prices | None] = {}

    def __call__(self, model: ModelRef) -> Prices | None:
        """The prices of *model*; None where nobody knows."""
        if model not in self._known:
            self._known[model] = self._look_up(model)
        return self._known[model]

    def _look_up(self, model: ModelRef) -> Prices | None:
        spec = self._providers.get(model.provider) or ProviderSpec()
        if spec.prices is not None:
            return _declared(spec.prices)
        kind = spec.type or model.provider
        return FREE if kind == registry.SIMULATED else prices_of(kind, model.name)


def _declared(said: PricesSpec) -> Prices:
    cached = said.input if said.cached_input is None else said.cached_input
    return Prices.flat(*(Decimal(str(each)) for each in (said.input, said.output, cached)))


def check_prices(plan: Plan, prices: PriceList) -> None:
    """Refuse a budget of money for a model whose price nobody knows."""
    unknown = sorted({str(model) for _, model in plan.bounded() if prices(model) is None})
    if unknown:
        provider = unknown[0].partition("/")[0]
        raise UsageError(
            f"the budget bounds the cost, and no price is known for {', '.join(unknown)}",
            hint=f"say `providers: {{{provider}: {{prices: {{input: ..., output: ...}}}}}}`, or "
            "bound `tokens` instead, with --budget cost=none",
        )


def with_budget(plan: Plan, said: Mapping[str, str]) -> Plan:
    """*plan* with the budget that the command line says, `cost` in USD and `tokens`; what it does not say stays."""
    if not said:
        return plan
    terms = plan.budget or BudgetTerms()
    if (tokens := said.get("tokens")) is not None:
        terms = replace(terms, tokens=None if tokens == NO_BOUND else int(tokens))
    if (cost := said.get("cost")) is not None:
        terms = replace(terms, cost_usd=None if cost == NO_BOUND else Decimal(cost))
    return replace(plan, budget=terms)


def budget_of(terms: BudgetTerms | None, spent: Amount = NOTHING, parent: Budget | None = None) -> Budget | None:
    """What a run may spend on *terms*, within *parent*; None where nothing is bounded."""
    if terms is None or (terms.tokens is None and terms.cost_usd is None):
        return parent
    return Budget(terms.tokens, terms.cost_usd, low_at=terms.low_at, spent=spent, parent=parent)
