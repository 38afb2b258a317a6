"""Plans unfolded: what is forecast of fans and pipelines is what runs of them take."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from virtual import simulated

from agentdag.plan.advice import advise, what_if
from agentdag.plan.draw import to_json, to_text
from agentdag.plan.flat import flat
from agentdag.plan.pictures import to_dot, to_mermaid
from agentdag.plan.plan import Plan
from agentdag.plan.svg import to_svg

CHILD = """
inputs: {topic: {}}
defaults: {model: simulated/m}
nodes:
  find: {prompt: "find {{ inputs.topic }}", expect: {latency: 6s}}
  look: {prompt: "look {{ inputs.topic }}", expect: {latency: 2s}}
  write: {prompt: "write {{ nodes.find.output }} {{ nodes.look.output }}", expect: {latency: 5s}}
outputs: {text: "{{ nodes.write.output }}"}
"""
WHOLE = """
defaults: {model: simulated/m}
nodes:
  a: {prompt: x, expect: {latency: 3s}}
  f: {prompt: "{{ item }} {{ nodes.a.output }}", foreach: [1, 2, 3, 4, 5], expect: {latency: 2s}}
  g: {prompt: "{{ item }}", foreach: "{{ nodes.f.output }}", expect: {latency: 4s}}
  p: {pipeline: child.yaml, with: {topic: "{{ nodes.a.output }}"}}
  many: {pipeline: child.yaml, with: {topic: "{{ item }}"}, foreach: {items: [x, y, z], concurrency: 2}}
  z: {prompt: "{{ nodes.g.output }} {{ nodes.p.output.text }}", needs: [g, p, many], expect: {latency: 1s}}
outputs: {z: "{{ nodes.z.output }}"}
"""


@pytest.fixture
def whole(plan: Callable[[str], Plan], tmp_path: Path) -> Plan:
    (tmp_path / "child.yaml").write_text(textwrap.dedent(CHILD))
    return plan(WHOLE)


@pytest.mark.parametrize("cap", [1, 2, 50])
def test_a_run_takes_what_the_unfolded_graph_says(whole: Plan, cap: int) -> None:
    whole = replace(whole, concurrency=cap)
    told, result = flat(whole).forecast(), simulated(whole)
    assert result.ok
    assert result.sequential_s == pytest.approx(told.sequential_s, rel=0.01) == 3 + 5 * 6 + 4 * 13 + 1
    assert result.elapsed_s == pytest.approx(told.makespan_s, rel=0.15 if 1 < cap < 50 else 0.02)
    if cap == 50:
        assert told.critical_path_s == 23
        assert result.critical_path_s == pytest.approx(23, rel=0.02)


def test_advice_and_what_if_look_inside(whole: Plan) -> None:
    faster = {advice.path[1] for advice in advise(whole) if advice.code == "AD509"}
    assert {"many[0].find", "many[2].find"} <= faster
    assert "becomes a, p.find, p.write, z: 15 s" in what_if(whole, {"many.find": 1.0})


def test_what_a_node_is_made_of_stands_under_it(whole: Plan) -> None:
    lines = to_text(whole).splitlines()
    names = [line[10:].split()[0] for line in lines[3:15]]
    assert names[0] == "a"
    assert names.index("p.find") == names.index("p") + 1
    assert "many[0].find" in names
    assert "many[1].find" not in names, "one item stands for all"
    (g,) = [line for line in lines if " g  " in line]
    assert g.endswith("f, item by item  [5 items]")


def test_programs_are_told_all_of_it(whole: Plan) -> None:
    told = json.loads(to_json(whole))
    nodes = {node["id"]: node for node in told["nodes"]}
    assert nodes["p"]["parts"] == ["p.write"]
    assert nodes["g[3]"]["needs"] == ["f[3]"]
    assert nodes["g"]["item_by_item"] == "f"
    assert nodes["many[2].find"]["needs"] == ["many[0]"], "two at once"
    assert told["critical_path"][-1] == "z"
    assert "many" not in told["critical_path"]


def test_a_quorum_of_items_decides_what_is_waited_for(plan: Callable[[str], Plan]) -> None:
    text = """
        defaults: {model: simulated/m}
        limits: {concurrency: 4}
        nodes:
          q: {prompt: "{{ item }}", foreach: {items: [1, 2, 3, 4, 5, 6], barrier: {wait_for: 4}}, expect: {latency: 4s}}
          z: {prompt: "{{ nodes.q.output }}", expect: {latency: 1s}}
    """
    assert flat(plan(text)).takes_s() == 5 == round(simulated(plan(text)).elapsed_s)


def test_a_long_list_is_several_items_a_node(plan: Callable[[str], Plan]) -> None:
    items = list(range(1000))
    text = f"defaults: {{model: simulated/m}}\nnodes: {{q: {{prompt: x, foreach: {items}, expect: {{latency: 2s}}}}}}"
    unfolded = flat(plan(text))
    assert len(unfolded.nodes) == 101
    assert unfolded.forecast().sequential_s == 2000
    assert unfolded.takes_s() == pytest.approx(2000 / 8, rel=0.05)


def test_an_empty_list_and_pipelines_in_pipelines_are_drawn(plan: Callable[[str], Plan], tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text(textwrap.dedent(CHILD))
    (tmp_path / "middle.yaml").write_text('nodes: {inner: {pipeline: child.yaml, with: {topic: "x"}, foreach: [1, 2]}}')
    text = """
        defaults: {model: simulated/m}
        nodes:
          none: {prompt: "{{ item }}", foreach: []}
          outer: {pipeline: middle.yaml, needs: [none]}
          last: {prompt: hi, needs: [outer]}
    """
    compiled = plan(text)
    drawn = to_text(compiled)
    assert "outer.inner[0].find" in drawn
    assert "[0 items]" in drawn
    assert flat(compiled).takes_s() == 12 == round(simulated(compiled).elapsed_s)
    for picture in (to_mermaid, to_dot, to_svg):
        assert "outer.inner.find" in picture(compiled)


def test_in_lock_step_a_node_stays_whole(plan: Callable[[str], Plan]) -> None:
    compiled = plan("defaults: {model: simulated/m}\nschedule: waves\nnodes: {q: {prompt: x, foreach: [1, 2]}}")
    assert flat(compiled) is compiled
