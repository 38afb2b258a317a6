"""A plan and its forecast for people and for machines: text and JSON."""

from __future__ import annotations

import json
from typing import Any

from agentdag.plan.forecast import Forecast, forecast
from agentdag.plan.plan import Plan

MAX_ROWS = 200


def forecast_of(plan: Plan) -> Forecast:
    """The forecast of *plan* under its own cap and schedule."""
    priorities = [node.priority for node in plan.nodes]
    return forecast(plan.graph, plan.durations_s, cap=plan.concurrency, schedule=plan.schedule, priorities=priorities)


def to_json(plan: Plan) -> str:
    """The graph as the appendix of the contract has it."""
    told = forecast_of(plan)
    names = [node.id for node in plan.nodes]
    critical = set(told.critical_path)
    nodes = []
    for number, node in enumerate(plan.nodes):
        entry: dict[str, Any] = {
            "id": node.id,
            "wave": node.wave,
            "needs": list(node.edges),
            "duration_s": _rounded(node.expected_s),
            "slack_s": _rounded(told.slack_s[number]),
            "critical": number in critical,
        }
        if node.assumed:
            entry["assumed"] = True
        nodes.append(entry)
    whole = {
        "pipeline": plan.name,
        "sequential_s": _rounded(told.sequential_s),
        "waves_s": _rounded(told.waves_s),
        "critical_path_s": _rounded(told.critical_path_s),
        "critical_path": [names[number] for number in told.critical_path],
        "concurrency": plan.concurrency,
        "schedule": plan.schedule,
        "makespan_s": _rounded(told.makespan_s),
        "lower_bound_s": _rounded(told.lower_bound_s),
        "waves": [[names[number] for number in wave] for wave in plan.graph.waves],
        "nodes": nodes,
        "advice": [],
    }
    return json.dumps(whole, indent=2, ensure_ascii=False)


def to_text(plan: Plan, *, ascii_only: bool = False) -> str:
    """The graph wave by wave, the critical path marked, and the totals."""
    told = forecast_of(plan)
    critical = set(told.critical_path)
    mark, arrow = ("*", "->") if ascii_only else ("●", "→")
    width = max((len(node.id) for node in plan.nodes), default=4)
    rows = [f"{plan.name}: {len(plan.nodes)} nodes in {len(plan.graph.waves)} waves", ""]
    rows.append(f"  wave    {'node':<{width}}  {'lasts':>9}  {'slack':>9}  needs")
    listed = [number for wave in plan.graph.waves for number in wave]
    for number in listed[:MAX_ROWS]:
        node = plan.nodes[number]
        lasts = f"{_seconds(node.expected_s)}{'?' if node.assumed else ' '}"
        slack = "" if number in critical else _seconds(told.slack_s[number])
        dot = mark if number in critical else " "
        row = f"  {node.wave:>4}  {dot} {node.id:<{width}}  {lasts:>10} {slack:>9}  {', '.join(node.edges)}"
        rows.append(row.rstrip())
    if len(listed) > MAX_ROWS:
        rows.append(f"  ... and {len(listed) - MAX_ROWS} more")
    path = f" {arrow} ".join(plan.nodes[number].id for number in told.critical_path[:MAX_ROWS])
    if any(node.assumed for node in plan.nodes):
        rows += ["", "  ? assumed: say how long a node takes with `expect: {latency: 45s}`"]
    capped = f"with {plan.concurrency} at once"
    if plan.schedule == "waves":
        capped += " in waves"
    rows += [
        "",
        f"  {'one after another':<22} {_seconds(told.sequential_s):>9}",
        f"  {'lock-step waves':<22} {_seconds(told.waves_s):>9}",
        f"  {'critical path':<22} {_seconds(told.critical_path_s):>9}  {path}",
        f"  {capped:<22} {_seconds(told.makespan_s):>9}  no order can beat {_seconds(told.lower_bound_s).strip()}",
    ]
    return "\n".join(rows)


def _seconds(value: float) -> str:
    return f"{value:,.1f} s"


def _rounded(value: float) -> float:
    """Without the dust of adding floats."""
    return round(value, 6)
