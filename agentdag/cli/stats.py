"""`stats`: how the nodes of a pipeline usually do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agentdag.cli.columns import print_json, print_text, share, table
from agentdag.events import (
    Exit,
    Status,
)
from agentdag.language.scalars import duration_text
from agentdag.plan.plan import Plan
from agentdag.session import compile_pipeline
from agentdag.store.history import History, NodeStats
from agentdag.store.keeper import key_of, store_of
from agentdag.views.lines import writer
from agentdag.views.words import count, money, seconds

OFTEN = 0.05
"""Who times out in a larger share of its runs does so often."""


def show_stats(pipeline: Path, *, simulated: bool, as_json: bool, store: Path | None) -> int:
    """Print what is recorded of each node of *pipeline*."""
    folder = store_of(pipeline, store, os.environ)
    history = History(folder)
    compiled = compile_pipeline(pipeline) if pipeline.is_file() else None
    plan = None if compiled is None else compiled.plan
    found = history.stats(key_of(folder, pipeline, "" if plan is None else plan.name), simulated=simulated)
    history.close()
    order = {} if plan is None else {name: number for number, (name, _, _) in enumerate(plan.walk())}
    found.sort(key=lambda stats: order.get(stats.node, len(order)))
    if as_json:
        print_json({"pipeline": str(pipeline), "nodes": [_stats_json(stats) for stats in found]})
    elif found:
        print_text("\n".join(_stats_lines(found, plan)))
    else:
        kind = "simulated run" if simulated else "run"
        hint = "" if simulated else "; --simulate tells of simulated ones"
        writer(sys.stderr)(f"no {kind} of {pipeline} is on record in {folder}{hint}\n")
    return Exit.SUCCEEDED


def _stats_json(stats: NodeStats) -> dict[str, Any]:
    suggested = stats.suggested_timeout_s
    return {
        "id": stats.node,
        "runs": stats.runs,
        "statuses": dict(stats.statuses),
        "p50_s": stats.p50_s,
        "p95_s": stats.p95_s,
        "attempts": stats.attempts,
        "input_tokens": stats.input_tokens,
        "output_tokens": stats.output_tokens,
        "cost_usd": None if stats.cost is None else format(stats.cost, "f"),
        "suggested_timeout_s": suggested,
    }


def _stats_lines(found: Sequence[NodeStats], plan: Plan | None) -> Iterator[str]:
    titles = ("node", "runs", "failed", "timed out", "late", "p50", "p95", "tries", "in", "out", "cost a run")
    yield from table(titles, [_stats_cells(stats) for stats in found], right=set(range(1, 11)))
    bounds = {} if plan is None else {name: node.policy.timeout.attempt_s for name, _, node in plan.walk()}
    told = [line for stats in found for line in _advice(stats, bounds.get(stats.node))]
    if told:
        yield ""
        yield from told


def _stats_cells(stats: NodeStats) -> tuple[str, ...]:
    each = stats.statuses
    cost = None if stats.cost is None else stats.cost / stats.runs
    return (
        stats.node,
        f"{stats.runs:,}",
        share(each[Status.FAILED], stats.runs),
        share(each[Status.TIMED_OUT], stats.runs),
        share(each[Status.LATE], stats.runs),
        "" if stats.p50_s is None else seconds(stats.p50_s),
        "" if stats.p95_s is None else seconds(stats.p95_s),
        f"{stats.attempts / stats.runs:.1f}",
        f"{stats.input_tokens // stats.runs:,}",
        f"{stats.output_tokens // stats.runs:,}",
        money(cost),
    )


def _advice(stats: NodeStats, bound_s: float | None) -> Iterator[str]:
    """Who times out often, and which timeout would suit whom."""
    timeouts = stats.statuses[Status.TIMED_OUT]
    if timeouts and timeouts >= OFTEN * stats.runs:
        yield f"{stats.node} times out often: in {timeouts} of {count(stats.runs, 'run')}"
    suggested = stats.suggested_timeout_s
    if suggested is not None:
        now = "" if bound_s is None else f", which is {duration_text(bound_s)} now"
        yield f"{stats.node}: `timeout: {duration_text(_rounded_up(suggested))}` would suit it (1.5 x p95){now}"


def _rounded_up(value_s: float) -> float:
    """To whole seconds above ten, to tenths above one, else to milliseconds."""
    step = 1.0 if value_s >= 10 else 0.1 if value_s >= 1 else 0.001
    return -(-value_s // step) * step
