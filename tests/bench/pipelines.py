"""Elapsed over the scaled critical path (eager) and over the scaled waves (lock-step), whole engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import agentdag
from agentdag import Options
from tests.bench import Figure

SCALE = 0.02
ROUNDS = 3


def measure() -> Iterator[Figure]:
    for name in ("due_diligence", "content", "enrichment", "linear"):
        plan = agentdag.load(Path("pipelines") / f"{name}.yaml")
        told = plan.forecast()
        for schedule, expected_s in (("eager", told.critical_path_s), ("waves", told.waves_s)):
            options = Options(simulate=True, time_scale=SCALE, schedule=schedule, stream=True)
            elapsed_s = min(agentdag.run(plan, options=options).elapsed_s for _ in range(ROUNDS))
            ideal_s = expected_s * SCALE
            yield Figure(f"{name}, {schedule}", elapsed_s / ideal_s, 1.03, f"{elapsed_s:.3f} s over {ideal_s:.3f} s")
