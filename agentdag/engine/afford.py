"""What a node's call takes of what is limited, and what becomes of its request where the budget is low."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from agentdag.calls import ADAPTIVE, NOTHING, Amount, Sampling, size_of
from agentdag.engine.asks import Prompted
from agentdag.engine.run import Run
from agentdag.engine.scope import Instance
from agentdag.errors import ErrorKind
from agentdag.events import BudgetLeft
from agentdag.limits.budget import Budget
from agentdag.limits.rates import Lane
from agentdag.limits.slots import NO_NEED
from agentdag.limits.turn import Claim
from agentdag.plan.plan import Plan, PlanNode
from agentdag.plan.work import PromptWork
from agentdag.store.schema import digest

FRAMING = 64
"""Tokens that a protocol puts around a prompt, at the most."""
MAX_TOKENS = 4096
"""The longest answer where a budget bounds it and the file does not."""
EXPECTED_TIMES = 4
"""... but so many times what is expected, where that is more."""
SHORTEST = 64
"""No answer is shrunk below so many tokens."""
LEAST_CACHED_BYTES = 4096
"""Providers cache beginnings of 1,024 tokens or more."""
_LONGEST = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""Under which of these names `params` may say how long an answer may be."""


def purse_of(instance: Instance) -> Budget | None:
    """What the calls of *instance* are paid from: its node's own budget, within that of whatever it is a part of."""
    scope, terms = instance.scope, instance.node.budget
    parent = scope.run.budget if scope.parent is None else scope.purse
    if terms is None:
        return parent
    found = scope.purses.get(instance.number)
    if found is None:
        name = f"the budget of {scope.prefix}{instance.node.id}"
        spent = _spent_before(scope.run, scope.prefix + instance.node.id)
        found = Budget(terms.tokens, terms.cost_usd, spent=spent, parent=parent, name=name)
        scope.purses[instance.number] = found
    return found


def _spent_before(run: Run, name: str) -> Amount:
    """What the node *name* took in earlier lives of the run, with all that it is made of."""
    record = None if run.reuse is None else run.reuse.record
    if record is None:
        return NOTHING
    parts = (each for each in record.nodes if each == name or each.startswith((f"{name}[", f"{name}.")))
    return sum((record.nodes[each].taken for each in parts), NOTHING)


class Bound(NamedTuple):
    """A longest answer that the file does not set: how many tokens, and for which budget's sake. *usual* says that the
    budget could pay for more, and only has no room for answers without any bound."""

    tokens: int
    budget: Budget
    usual: bool = False

    @property
    def reason(self) -> str:
        """Why an answer is no longer, and what to do."""
        if self.usual:
            return (
                f"the file sets no `max_tokens`, and as {self.budget.name} has to hold, agentdag asks for no more by"
                f" itself. Resume to allow {EXPECTED_TIMES} times as many, or set `max_tokens`"
            )
        return (
            f"the file sets no `max_tokens`, and {self.budget.name} allows no more. Raise it and resume, or set"
            " `max_tokens` to be content with a shorter answer"
        )


def bounded(instance: Instance, asked: Prompted, size: int, purse: Budget) -> tuple[Prompted, Bound | None]:
    """*asked*, of *size* bytes, with a longest answer, which a budget needs: no longer than what is not spent of it
    can pay. None where the file sets one."""
    if _longest(asked.sampling):
        return asked, None
    run, node = instance.scope.run, instance.node
    thinks = asked.sampling.thinks
    most = max(MAX_TOKENS, EXPECTED_TIMES * (node.tokens or 0), EXPECTED_TIMES * _cut_before(run, instance.name))
    most += thinks or (MAX_TOKENS if asked.sampling.thinking == ADAPTIVE else 0)
    asks = size + FRAMING
    prices, tier = run.prices(asked.model), asked.sampling.service_tier
    cost = NOTHING.cost_usd if prices is None else prices.at_most(asks, 0, tier)
    each = NOTHING.cost_usd if prices is None else prices.at_most(asks, 1, tier) - cost
    rooms = [Bound(most, purse, usual=True)]
    for budget in purse.chain():
        if budget.tokens is not None:
            rooms.append(Bound(budget.tokens - budget.spent.tokens - asks, budget))
        if budget.cost_usd is not None and each:
            rooms.append(Bound(int((budget.cost_usd - budget.spent.cost_usd - cost) / each), budget))
    bound = min(rooms, key=lambda room: room.tokens)
    if bound.tokens < SHORTEST + thinks:
        bound = rooms[0]
    return replace(asked, sampling=replace(asked.sampling, max_tokens=bound.tokens)), bound


def _cut_before(run: Run, name: str) -> int:
    """How many tokens came of the node *name* in an earlier life of the run, where a budget had cut it."""
    record = None if run.reuse is None else run.reuse.recorded(name)
    ended = None if record is None else record.ended
    if ended is None or not ended.truncated or ended.error is None or ended.error.kind is not ErrorKind.BUDGET:
        return 0
    return ended.usage.output_tokens or 0


def degraded(run: Run, plan: Plan, work: PromptWork, asked: Prompted) -> tuple[Prompted, tuple[str, ...]]:
    """*asked* as it is asked while the budget is low, and what was done to it."""
    done: list[str] = []
    lower = plan.one_tier_down(work) if run.low("downgrade") else None
    if lower is not None:
        asked = replace(asked, model=lower.model, sampling=lower.sampling)
        done.append("downgrade")
    most = asked.sampling.max_tokens
    if run.low("shrink") and run.budget is not None:
        whole = MAX_TOKENS if most is None else most
        thinks = asked.sampling.thinks
        shrunk = max(min(SHORTEST + thinks, whole), int(whole * run.budget.left_share))
        if shrunk < whole:
            asked = replace(asked, sampling=replace(asked.sampling, max_tokens=shrunk))
            done.append("shrink")
    return asked, tuple(done)


def budget_left(budget: Budget | None) -> BudgetLeft | None:
    """What of *budget* is not spent; None where nothing is bounded."""
    return None if budget is None else BudgetLeft(*budget.left())


def too_little(run: Run, node: str, worst: Amount | None) -> str:
    """Why *node*, which may take *worst*, was not paid for."""
    budget = None if run.budget is None or worst is None else run.budget.too_small(worst)
    if budget is None or worst is None:
        return "the budget is spent"
    return f"{budget.name} has {budget.left_text()} left, and {node} may take {worst.text()}"


def prefix_of(asked: Prompted) -> str | None:
    """The digest of what *asked* begins with, as others do, where that is worth a provider's cache."""
    text = f"{asked.system or ''}\x00{asked.prompt[: asked.lead or 0]}"
    return digest((str(asked.model), text)) if size_of(text) >= LEAST_CACHED_BYTES else None


def claim_of(run: Run, node: PlanNode, asked: Prompted, size: int, purse: Budget | None, lane: Lane | None) -> Claim:
    """What an attempt of *asked*, of *size* bytes, takes: of its *lane*, by estimate; of *purse*, at the most."""
    model = str(asked.model)
    prefix = prefix_of(asked) if run.plan.cache_warm or asked.lead is not None else None
    counts = lane is not None and lane.counts_tokens
    if not counts and purse is None:
        return Claim(model, lane, prefix=prefix)
    most = _longest(asked.sampling)
    need, worst = NO_NEED, NOTHING
    if counts:
        expected = min(most or node.rehearsal.tokens, node.rehearsal.tokens)
        need = run.estimates.need(node.id, model, size, expected)
    if purse is not None:
        prices = run.prices(asked.model)
        tier = asked.sampling.service_tier
        cost = NOTHING.cost_usd if prices is None else prices.at_most(size + FRAMING, most, tier)
        worst = Amount(size + FRAMING + most, cost)
    return Claim(model, lane, need, worst, prefix)


def _longest(sampling: Sampling) -> int:
    """How many tokens all answers to one request may have together; 0 where nothing bounds them."""
    said = [sampling.params.get(name) for name in _LONGEST]
    most = max([sampling.max_tokens or 0, *(value for value in said if isinstance(value, int))])
    times = sampling.params.get("n")
    return most * times if isinstance(times, int) and times > 1 else most
