"""What joins, hedges and isolation are worth when one agent in twenty takes ten times as long."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import median, quantiles
from types import ModuleType

from agentdag import Options, RunResult
from agentdag.events import Event, NodeHedged
from agentdag.limits.policy import Past
from agentdag.plan.compile import compile_text
from agentdag.plan.plan import Plan
from agentdag.providers.registry import provider_types
from agentdag.session import Session
from tests.bench import Figure
from tests.bench.overhead import timed
from tests.virtual import run_virtually

AGENTS, RUNS = 30, 300
MODULE = "bench_stragglers"
SOURCE = """
import asyncio
waits = None
async def wait(): await asyncio.sleep(next(waits))
async def instant(): await asyncio.sleep(0)
async def fail():
    await asyncio.sleep(0)
    raise ValueError("no")
"""


def plan_of(text: str, folder: Path) -> Plan:
    (folder / f"{MODULE}.py").write_text(SOURCE)
    compiled = compile_text(text, folder / "bench.yaml", provider_types=provider_types())
    assert compiled.plan is not None, compiled.findings
    return compiled.plan


def module(folder: Path) -> ModuleType:
    """The module that the nodes call."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return __import__(MODULE)


def swarm(folder: Path, agents: int, barrier: str, extra: str = "") -> Plan:
    """So many agents and a join over all of them, which takes no time."""
    lines = [f"limits: {{concurrency: {2 * agents}}}", "nodes:"]
    lines += [f"  s{number}: {{call: '{MODULE}:wait', idempotent: true{extra}}}" for number in range(agents)]
    needs = ", ".join(f"s{number}" for number in range(agents))
    lines.append(f"  join: {{call: '{MODULE}:instant', needs: [{needs}], barrier: {barrier}}}")
    return plan_of("\n".join(lines), folder)


def quorum(folder: Path) -> Figure:
    """In real time: when the join over ten lognormal agents is done, over when the eighth of them is."""
    plan = swarm(folder, 10, "{wait_for: 8}")
    ratios = []
    for seed in range(9):
        chance = Random(seed)
        waits = [0.2 * chance.lognormvariate(0, 0.6) for _ in range(10)]
        module(folder).waits = iter(waits)
        ratios.append(asyncio.run(Session(plan).run()).elapsed_s / sorted(waits)[7])
    return Figure("quorum of 8 over 10 lognormal agents", median(ratios), 1.05, f"at worst {max(ratios):.3f}")


def heavy_tail(chance: Random) -> Iterator[float]:
    """Seconds of one agent after another: lognormal, one in twenty ten times as long."""
    while True:
        yield chance.lognormvariate(0, 0.3) * (10 if chance.random() < 0.05 else 1)


def study(folder: Path) -> Iterator[Figure]:
    """In virtual time, each run on the real engine."""
    chance = Random(0)
    p95_s = max(chance.lognormvariate(0, 0.3) for _ in range(95))  # of a hundred recorded, five took ten times as long
    kinds = {
        "all": ("all", ""),
        "timeout of 3 s": ("{timeout: 3s}", ""),
        "quorum of 27": ("{wait_for: 27}", ""),
        "hedge at p95": ("all", ", hedge: {after: p95}"),
        "hedge at p95, max 2": ("all", ", hedge: {after: p95, max: 2}"),
    }
    print(
        f"  {'30 agents, 1 in 20 ten times as long':<38} p50 wall  p99 wall  calls  answers  (p95 of a call {p95_s:.2f} s)"
    )
    walls: dict[str, float] = {}
    calls: dict[str, float] = {}
    for name, (barrier, extra) in kinds.items():
        plan = swarm(folder, AGENTS, barrier, extra)
        found = [one(plan, folder, seed, p95_s) for seed in range(RUNS)]
        seconds = quantiles([result.elapsed_s for result, _ in found], n=100)
        made = sum(hedges + AGENTS for _, hedges in found) / RUNS
        answers = sum(node.status == "succeeded" for result, _ in found for node in result.nodes.values()) / RUNS - 1
        walls[name], calls[name] = seconds[98], made
        print(f"  {name:<38} {seconds[49]:6.2f} s  {seconds[98]:6.2f} s  {made:5.2f}  {answers:7.2f}")
    hedged = "hedge at p95, max 2"
    yield Figure("p99 of the wall, hedged over not", walls[hedged] / walls["all"], 0.5)
    yield Figure("calls, hedged over not", calls[hedged] / calls["all"], 1.08)


def one(plan: Plan, folder: Path, seed: int, p95_s: float) -> tuple[RunResult, int]:
    """A run, and how many hedges it made."""
    module(folder).waits = heavy_tail(Random(seed))
    hedges = 0

    def count(event: Event) -> None:
        nonlocal hedges
        hedges += isinstance(event, NodeHedged)

    session = Session(plan, options=Options(), observers=(count,))
    session.stage.recall = lambda _: Past(100, p95_s)
    return run_virtually(session.run()), hedges


def isolation(folder: Path) -> Figure:
    """CPU of a run of 1,000 instant nodes of which every tenth fails, over one of which none does."""
    plans = []
    for failing in (0, 10):
        lines = ["limits: {concurrency: 100}", "nodes:"]
        for number in range(1000):
            function = "fail" if failing and number % failing == 0 else "instant"
            lines.append(f"  n{number}: {{call: '{MODULE}:{function}', continue_on_failure: true}}")
        plans.append(plan_of("\n".join(lines), folder))
    best = [min(timed(lambda plan=plan: asyncio.run(Session(plan).run())) for _ in range(9)) for plan in plans]
    return Figure("1,000 nodes, 10 % failing over none", best[1] / best[0], 1.2)


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield quorum(folder)
        yield from study(folder)
        yield isolation(folder)
