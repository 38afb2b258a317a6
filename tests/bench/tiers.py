"""What tiers save: each sample pipeline with tiers, on the simulator, against everything on its top tier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import agentdag
from agentdag import Options
from agentdag.events import Event, RunFinished
from tests.bench import Figure

PIPELINES = Path(__file__).parent.parent.parent / "pipelines"
AT_MOST = 0.4
"""Of what everything on the top tier costs."""


def measure() -> Iterator[Figure]:
    for path in sorted(PIPELINES.glob("*.yaml")):
        plan = agentdag.load(path)
        if len(plan.tiers) < 2:
            continue
        told: list[Event] = []
        given = {name: name for name, spec in plan.inputs.items() if spec.required}
        options = Options(simulate=True, time_scale=0.001, budget={"cost": "none", "tokens": "none"})
        agentdag.run(plan, given, options=options, observers=(told.append,))
        finished = told[-1]
        assert isinstance(finished, RunFinished)
        assert finished.usage.cost_usd is not None
        assert finished.top_tier_usd is not None
        share = float(finished.usage.cost_usd / finished.top_tier_usd)
        detail = f"${finished.usage.cost_usd:.4f} instead of ${finished.top_tier_usd:.4f}: {1 - share:.0%} saved"
        yield Figure(path.stem, share, AT_MOST, detail)
