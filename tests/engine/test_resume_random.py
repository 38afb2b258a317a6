"""Random pipelines, cut off after a random entry of their journal and resumed, again and again.

Whatever happened, no answer that was committed is asked for again, what joins saw holds, and every node settles once a
life.
"""

from __future__ import annotations

import sys
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from engine.recorder import Recorder

import agentdag
from agentdag import NodeSettled, RunResult
from agentdag.events import BarrierOpened, Status
from agentdag.plan.plan import Plan
from agentdag.store.history import History

FUNCTIONS = """
import asyncio
calls = []
async def f(name, ms, bad, x=None):
    calls.append(name)
    await asyncio.sleep(ms / 1000)
    if bad:
        raise ValueError(name)
    return name + "!"
async def spare(name, x=None):
    calls.append(name)
    return name + "?"
"""
SEEN = '{% for k, v in needs.items() %}{{ k }}:{{ v.status }}:{{ v.output if v.ok else "-" }};{% endfor %}{{ missing | join(",") }}'
MORE = '|{{ pending | join(",") }}|{{ previous or "none" }}'


def pipeline(chance: Random, module: str) -> dict[str, Any]:
    nodes: dict[str, Any] = {}
    for number in range(chance.randint(3, 9)):
        name = f"n{number}"
        node: dict[str, Any] = {"call": f"{module}:f", "idempotent": True, "retry": 0}
        given = {"name": name, "ms": chance.choice([0, 2, 5, 15, 30]), "bad": chance.random() < 0.25}
        needs = chance.sample(list(nodes), min(number, chance.choice([0, 1, 2, 3, 4])))
        if needs:
            node["needs"] = needs
            given["x"] = SEEN
        if len(needs) > 1 and chance.random() < 0.75:
            node["barrier"] = barrier = rule(chance, len(needs))
            given["x"] += MORE if "progressive" in barrier else ""
        if chance.random() < 0.3:
            node["continue_on_failure"] = True
        if chance.random() < 0.3:
            spared = {"name": name} | ({"x": given["x"]} if "x" in given else {})
            node["fallback"] = [{"call": f"{module}:spare", "with": spared}]
        nodes[name] = {**node, "with": given}
    whole: dict[str, Any] = {"nodes": nodes}
    if chance.random() < 0.25:
        whole["schedule"] = chance.choice(["waves", {"waves": {"timeout": "10ms"}}])
    if chance.random() < 0.3:
        whole["limits"] = chance.choice([{"fail_fast": True}, {"concurrency": 1}, {"concurrency": 2}])
    if chance.random() < 0.3:
        whole["outputs"] = {"o": "{{ nodes.%s.output }}" % chance.choice(list(nodes))}  # noqa: UP031
    return whole


def rule(chance: Random, needs: int) -> dict[str, Any]:
    kind = chance.choice(["quorum", "timeout", "deadline", "both", "progressive", "progressive timeout"])
    barrier: dict[str, Any] = {}
    if kind in {"quorum", "both"}:
        barrier["wait_for"] = chance.randint(1, needs)
    if "timeout" in kind or kind == "both":
        barrier["timeout"] = chance.choice(["5ms", "20ms", "40ms"])
    if kind == "deadline":
        barrier["deadline"] = chance.choice(["5ms", "30ms", "60ms"])
    if "progressive" in kind:
        barrier["progressive"] = True
    if chance.random() < 0.3:
        barrier["min"] = chance.randint(1, barrier.get("wait_for", needs))
    if chance.random() < 0.4:
        barrier["stragglers"] = "keep"
    return barrier


class Life:
    """One life of the run: what was told in it, and who was called."""

    def __init__(self, live: Callable[[Recorder], RunResult], plan: Plan, calls: list[str]) -> None:
        calls.clear()
        recorder = Recorder()
        self.result = live(recorder)
        recorder.check(len(plan.nodes))
        self.called = Counter(calls)
        self.ends = {event.node: event for event in recorder.of(NodeSettled)}
        self.opened = {event.node: event for event in recorder.of(BarrierOpened)}


@pytest.mark.parametrize("seed", range(40))
def test_whatever_was_committed_holds(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = Random(seed)
    module = f"random_{uuid.uuid4().hex}"
    (tmp_path / f"{module}.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__(module)
    calls: list[str] = sys.modules[module].calls
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(pipeline(chance, module), sort_keys=False))
    plan = agentdag.load(tmp_path / "p.yaml")
    store = tmp_path / "store"
    first = Life(lambda told: agentdag.run(plan, store=store, observers=(told,)), plan, calls)
    for _ in range(chance.choice([1, 1, 2, 3])):
        history = History(store)
        reached, _ = history.reached(first.result.run)
        history._connection.execute("DELETE FROM entries WHERE seq > ?", (chance.randint(1, reached),))
        before = history.record(first.result.run)
        history.close()
        life = Life(lambda told: agentdag.resume(first.result.run, store=store, observers=(told,)), plan, calls)
        for node in plan.nodes:
            known = before.nodes.get(node.id)
            if known is None:
                continue
            if known.answers:
                assert life.ends[node.id].status in {Status.SUCCEEDED, Status.LATE}, node.id
                assert not life.called[node.id], f"{node.id} was answered before"
            end = life.ends[node.id]
            unwanted = end.status is Status.LATE or (end.kept and end.status is not Status.SUCCEEDED)
            if known.opened is not None and not (unwanted or known.opened.pending or node.barrier.progressive):
                then, now = known.opened, life.opened[node.id]
                assert (now.arrived, now.missing, now.late) == (then.arrived, then.missing, then.late)
