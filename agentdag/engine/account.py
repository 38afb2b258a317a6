"""What a run has come to: how its nodes ended, what they used, and how long that took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from agentdag.calls import NO_USAGE, Usage
from agentdag.engine.afford import budget_left
from agentdag.engine.run import Run
from agentdag.engine.scope import Scope
from agentdag.events import NodeSettled, RunFinished, RunStatus, Status
from agentdag.plan.forecast import measured_path_s
from agentdag.plan.work import ModelRef


class RunEnd(NamedTuple):
    """How a run ends: its status, the exit code, and why."""

    status: RunStatus
    code: int
    reason: str | None = None


class Account:
    """Of one run. *startup_s* is what came before it and is only told."""

    def __init__(self, run: Run, startup_s: float) -> None:
        self._run = run
        self._startup_s = startup_s
        self._sequential_s = 0.0
        self._counts: Counter[Status] = Counter()
        self.usage = NO_USAGE
        """Of all lives of the run."""
        tiers = run.plan.tiers
        self.top_tier_usd: Decimal | None = Decimal(0) if len(tiers) > 1 else None
        """What the same would have cost with everything on the top tier, where there are tiers and prices."""
        self.cache_saved_usd = Decimal(0)

    def add(self, settled: NodeSettled) -> None:
        """A node has ended; what others are made of it tells by itself."""
        self._counts[settled.status] += 1
        if settled.parts is not None:
            return
        self._sequential_s += settled.latency_s
        if settled.usage is not NO_USAGE and not settled.kept:
            self.add_usage(settled.model, settled.usage, settled.service_tier)

    def add_usage(self, model: str | None, usage: Usage, tier: str | None = None) -> None:
        """*usage* of *model*, or of whichever it was, on the service *tier* that it got."""
        self.usage += usage
        run = self._run
        if self.top_tier_usd is not None:
            top = run.prices(run.plan.tiers[-1].model)
            self.top_tier_usd = None if top is None else self.top_tier_usd + top.of(usage)
        if (usage.cached_tokens or usage.written_tokens) and model is not None:
            prices = run.prices(ModelRef(*model.split("/", 1)))
            if prices is not None:
                full = prices.of(replace(usage, cached_tokens=0, written_tokens=0), tier)
                self.cache_saved_usd += full - prices.of(usage, tier)

    def closed(
        self,
        scope: Scope,
        end: RunEnd,
        outputs: Mapping[str, object] | None = None,
        errors: Mapping[str, str] | None = None,
        *,
        most_queued: int = 0,
    ) -> RunFinished:
        """The end of the run, now."""
        elapsed_s = self._run.now()
        return RunFinished(
            run=self._run.id,
            at=elapsed_s,
            status=end.status,
            elapsed_s=elapsed_s,
            startup_s=self._startup_s,
            sequential_s=self._sequential_s,
            critical_path_s=path_s(scope),
            usage=self.usage,
            outputs=outputs or {},
            output_errors=errors or {},
            nodes={status: self._counts[status] for status in Status if self._counts[status]},
            exit_code=end.code,
            reason=end.reason,
            top_tier_usd=self.top_tier_usd,
            cache_saved_usd=self.cache_saved_usd or None,
            budget_left=budget_left(self._run.budget),
            most_queued=most_queued,
        )


def path_s(scope: Scope) -> float:
    """How long the critical path of *scope* took, with its nodes as they ended."""
    return measured_path_s(scope.plan.graph, scope.latencies, scope.spent_s)
