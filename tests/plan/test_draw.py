"""The graph as text, JSON and pictures."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

import agentdag
from agentdag.plan.draw import ASCII, to_json, to_text
from agentdag.plan.pictures import to_dot, to_mermaid
from agentdag.plan.plan import Plan
from agentdag.plan.svg import to_svg

PlanOf = Callable[[str], Plan]
SVG = "{http://www.w3.org/2000/svg}"

DRAWN = """\
due-diligence: 5 nodes in 3 waves

  wave    node       0 s                         95 s       lasts    slack  needs
     0  ● parser     ██████████                             30 s
     0    market     ████████████·············              35 s      40 s
     1  ● financial            ███████████████              45 s            parser
     1    legal                ██████████████·              40 s       5 s  parser
     2  ● summary                             ███████       20 s            [all, or after 60 s] financial, legal, market

  one after another          170 s
  lock-step waves            100 s
  critical path               95 s  parser → financial → summary
  with 5 at once              95 s  no order can beat 95 s
  with as many at once              1: 170 s, 2: 95 s, 3: 95 s

  with financial at 10 s the critical path becomes parser, legal, summary: 90 s

  What would make it shorter
       15 s  `parser` is on the critical path: at half its 30 s the run takes 80 s
       10 s  `summary` is on the critical path: at half its 20 s the run takes 85 s
        5 s  `financial` is on the critical path: at half its 45 s the run takes 90 s
             AD509: a faster model, a shorter answer, or two nodes that run at once"""


@pytest.fixture
def sample(request: pytest.FixtureRequest) -> Plan:
    return agentdag.load(request.config.rootpath / "pipelines" / "due_diligence.yaml")


def wide(size: int) -> str:
    nodes = [f"  source_{n}: {{prompt: Read source {n}., expect: {{latency: {10 + n % 7}s}}}}" for n in range(size)]
    reads = " ".join(f"{{{{ nodes.source_{n}.output }}}}" for n in range(size))
    nodes.append(f"  memo: {{prompt: '{reads}', expect: {{latency: 20s}}}}")
    return "defaults: {model: openai/gpt-5-mini}\nnodes:\n" + "\n".join(nodes)


def test_the_drawing(sample: Plan) -> None:
    assert to_text(sample, changes={"financial": 10.0}) == DRAWN


def test_a_terminal_that_speaks_ascii_gets_ascii(sample: Plan) -> None:
    shown = to_text(sample, signs=ASCII)
    assert shown.isascii()
    assert "* financial" in shown
    assert "parser -> financial -> summary" in shown


def test_nodes_that_differ_in_nothing_but_their_names_share_a_row_in_large_graphs(plan: PlanOf) -> None:
    shown = to_text(plan(wide(200)))
    assert "source_0 and 198 more" in shown
    assert "10-16 s" in shown
    assert len(shown.splitlines()) < 40
    assert max(map(len, shown.splitlines())) < 200
    assert "source_38" in to_text(plan(wide(39)))


def test_durations_that_nobody_told_are_marked(plan: PlanOf) -> None:
    shown = to_text(plan("nodes: {a: {prompt: hi, model: openai/gpt-5-mini}}"))
    assert "1 s?" in shown
    assert "expect: {latency: 45s}" in shown


def test_json_has_what_was_asked_besides_the_contract(sample: Plan) -> None:
    told = json.loads(to_json(sample, changes={"financial": 10.0}, sensitivity=[]))
    assert told["width"] == 3
    assert told["caps"] == [
        {"concurrency": 1, "makespan_s": 170.0},
        {"concurrency": 2, "makespan_s": 95.0},
        {"concurrency": 3, "makespan_s": 95.0},
    ]
    assert told["what_if"]["critical_path"] == ["parser", "legal", "summary"]
    assert told["what_if"]["makespan_s"] == 90
    assert told["sensitivity"] == []
    assert [each["saves_s"] for each in told["advice"]] == [15, 10, 5]
    assert set(told["advice"][0]) == {"code", "message", "hint", "saves_s"}
    assert [node["start_s"] for node in told["nodes"]] == [0, 30, 30, 0, 75]


def test_mermaid_numbers_nodes_and_thickens_the_critical_path(plan: PlanOf) -> None:
    text = to_mermaid(plan('name: "a \\"b\\" ü"\nnodes: {end: {prompt: hi, model: openai/m}, b: {prompt: "{{ nodes.end.output }}", model: openai/m}}'))  # fmt: skip
    assert text.splitlines()[1] == 'title: "a \\"b\\" ü: critical path 2 s, one after another 2 s"'
    assert '  n0["end<br/>1 s?"]' in text
    assert "  n0 ==> n1" in text
    assert text.endswith("  class n0,n1 critical")


def test_dot_is_drawn_by_graphviz(sample: Plan) -> None:
    text = to_dot(sample)
    assert '"parser" -> "financial" [color=' in text
    if shutil.which("dot"):
        drawn = subprocess.run(["dot", "-Tsvg"], input=text, capture_output=True, text=True, check=True)
        assert "financial" in drawn.stdout


def test_svg_is_whole_and_has_every_node_and_edge(sample: Plan) -> None:
    root = ET.fromstring(to_svg(sample))
    boxes = root.findall(f"{SVG}g")
    assert [box[2].text for box in boxes] == ["parser", "market", "financial", "legal", "summary"]
    assert [box.get("class") for box in boxes].count("node hot") == 3
    paths = root.findall(f"{SVG}path")
    assert len(paths) == 5
    assert [path.get("class") for path in paths][-2:] == ["edge hot", "edge hot"], "the critical path lies on top"
    width, height = float(root.get("width") or 0), float(root.get("height") or 0)
    for box in boxes:
        rect = box[1]
        assert float(rect.get("x") or 0) + float(rect.get("width") or 0) < width
        assert float(rect.get("y") or 0) + float(rect.get("height") or 0) < height


def test_boxes_never_overlap_and_hostile_text_is_inert(plan: PlanOf) -> None:
    text = wide(30).replace("defaults:", 'name: "<script>&\\u001b[31m"\ndefaults:')
    drawn = to_svg(plan(text.replace("Read source 1.,", 'x, description: "<b>&\\""  ,')))
    root = ET.fromstring(drawn)
    places = [(float(b[1].get("x") or 0), float(b[1].get("y") or 0)) for b in root.findall(f"{SVG}g")]
    for column in {x for x, _ in places}:
        ys = sorted(y for x, y in places if x == column)
        assert all(after - before >= 44 for before, after in pairwise(ys))
    assert "<script" not in drawn
    assert "\x1b" not in drawn


def test_edges_over_several_columns_keep_clear_of_nodes(sample: Plan) -> None:
    root = ET.fromstring(to_svg(sample))
    (market,) = [path.get("d") or "" for path in root.findall(f"{SVG}path") if (path.get("d") or "").count("C") == 2]
    y = float(market.split("H")[0].rsplit(" ", 1)[1])
    for box in root.findall(f"{SVG}g"):
        if box[2].text in {"financial", "legal"}:
            top = float(box[1].get("y") or 0)
            assert not top < y < top + 44


def test_a_narrow_terminal_wraps_nothing(sample: Plan) -> None:
    shown = to_text(sample, columns=72)
    assert max(map(len, shown.splitlines())) <= 72
    assert "[all, or aft…" in shown


def test_slack_is_not_drawn_where_the_cap_may_use_it_up(sample: Plan) -> None:
    from dataclasses import replace

    capped = to_text(replace(sample, concurrency=2))
    assert "·" not in capped
    assert "slack is against the critical path" in capped


def test_the_critical_path_is_shown_before_all_else(plan: PlanOf) -> None:
    reads = ["go", *(f"{{{{ nodes.c{n}.output }}}}" for n in range(29))]
    lines = [f"  c{n}: {{prompt: '{read}', expect: {{latency: 9s}}}}" for n, read in enumerate(reads)]
    for n in range(400):
        read = f"{{{{ nodes.c{n % 29}.output }}}}"
        lines.append(f"  o{n}: {{prompt: '{read}', expect: {{latency: {1 + n % 5}s}}}}")
        lines.append(f"  p{n}: {{prompt: '{{{{ nodes.o{n}.output }}}}', expect: {{latency: 1s}}}}")
    shown = to_text(plan("defaults: {model: openai/gpt-5-mini}\nnodes:\n" + "\n".join(lines)))
    assert all(f"● c{n} " in shown for n in range(30))
    assert "more nodes" in shown
    assert len(shown.splitlines()) < 240


def test_the_readme_shows_what_is_drawn(request: pytest.FixtureRequest) -> None:
    assert DRAWN in (request.config.rootpath / "README.md").read_text(encoding="utf-8")
