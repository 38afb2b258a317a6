"""Makespan over the lower bound on traces of real workflows (WfCommons), as the forecast simulates it.

The traces are a folder of JSON files `{"name", "tasks": {id: [seconds, [ids it needs]]}}`, named by
AGENTDAG_TRACES or standing in ../shared/traces; without them this benchmark says so and is skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median

from agentdag.plan.forecast import forecast
from agentdag.plan.graph import build_graph
from agentdag.plan.play import Rules
from tests.bench import Figure

FOLDER = Path(os.environ.get("AGENTDAG_TRACES", "../shared/traces"))
BOUNDS = {8: (1.009, 1.104), 32: (1.000, 1.062)}
"""Of longest remaining path first with exact seconds: median and mean."""


def measure() -> Iterator[Figure]:
    files = sorted(FOLDER.glob("*.json"))
    if not files:
        print(f"  skipped: there are no traces in {FOLDER}")
        return
    ratios: dict[tuple[int, str], list[float]] = {}
    for file in files:
        tasks = json.loads(file.read_text())["tasks"]
        numbers = {name: number for number, name in enumerate(tasks)}
        graph = build_graph([[numbers[name] for name in needs] for _, needs in tasks.values()])
        assert graph is not None
        seconds = [float(duration) for duration, _ in tasks.values()]
        for cap in BOUNDS:
            for schedule in ("eager", "waves"):
                told = forecast(graph, seconds, Rules(cap, schedule))
                ratios.setdefault((cap, schedule), []).append(told.makespan_s / told.lower_bound_s)
    for cap, (best_median, best_mean) in BOUNDS.items():
        found, waves = ratios[cap, "eager"], ratios[cap, "waves"]
        detail = f"{len(files)} traces; waves {median(waves):.3f} / {mean(waves):.3f}"
        yield Figure(f"cap {cap}, median", median(found), best_median + 0.0005, detail)
        yield Figure(f"cap {cap}, mean", mean(found), best_mean + 0.0005)
