"""Documents to plans: defaults filled in, edges found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentdag import UsageError
from agentdag.plan.plan import Plan
from agentdag.plan.values import FileText, resolve_inputs
from agentdag.plan.work import CallWork, PromptWork

Compile = Callable[[str], Plan]


def edges(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {node.id: node.edges for node in plan.nodes}


def test_reading_is_enough_and_needs_adds(plan: Compile) -> None:
    found = plan("""
        defaults: {model: openai/m}
        nodes:
          a: {prompt: hi}
          b: {prompt: hi}
          c: {prompt: "{{ nodes.a.output }}", needs: [b]}
          d: {call: "json:dumps", with: {obj: {deep: ["{{ nodes.c.output }}"]}}}
          e: {prompt: hi, system: "{{ nodes['a'].output }}"}
    """)
    assert edges(found) == {"a": (), "b": (), "c": ("b", "a"), "d": ("c",), "e": ("a",)}
    assert [node.needs for node in found.nodes] == [(), (), ("b",), ("c",), ("a",)]
    assert [node.wave for node in found.nodes] == [0, 0, 1, 2, 1]


def test_dynamic_reads_are_fine_where_needs_says_which(plan: Compile) -> None:
    found = plan("""
        defaults: {model: openai/m}
        nodes:
          a: {prompt: hi}
          b: {prompt: "{{ nodes[inputs.w].output }}", needs: [a]}
        inputs: {w: {default: a}}
    """)
    assert edges(found)["b"] == ("a",)


def test_model_and_parameters_come_from_node_tier_and_defaults(plan: Compile) -> None:
    found = plan("""
        tiers: {big: {model: anthropic/x, max_tokens: 9, params: {p: 1, q: 1}}}
        defaults: {model: openai/m, temperature: 0.1, params: {q: 2, r: 2}, timeout: 5s, retry: 1}
        nodes:
          a: {prompt: hi}
          b: {prompt: hi, tier: big, temperature: 0.9, params: {r: 3}, timeout: 1m30s, retry: {retries: 4, delay: 500ms}}
    """)
    a, b = (node.work for node in found.nodes)
    assert isinstance(a, PromptWork)
    assert isinstance(b, PromptWork)
    assert (str(a.model), a.sampling.temperature, a.sampling.max_tokens) == ("openai/m", 0.1, None)
    assert (str(b.model), b.sampling.temperature, b.sampling.max_tokens) == ("anthropic/x", 0.9, 9)
    assert b.sampling.params == {"p": 1, "q": 1, "r": 3}
    assert [node.policy.attempt_s for node in found.nodes] == [5.0, 90.0]
    assert [(node.policy.retries, node.policy.delay_s) for node in found.nodes] == [(1, 1.0), (4, 0.5)]


def test_a_prompt_file_is_the_prompt(plan: Compile, tmp_path: Path) -> None:
    (tmp_path / "x.md").write_bytes(b"\xef\xbb\xbfhi {{ inputs.a }}\r\n")
    found = plan("inputs: {a: {}}\nnodes: {n: {prompt_file: x.md, model: openai/m}}")
    work = found.nodes[0].work
    assert isinstance(work, PromptWork)
    assert work.prompt.render({"inputs": {"a": 1}}) == "hi 1"


def test_a_function_is_found_beside_the_pipeline_without_being_run(plan: Compile, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("raise SystemExit('run!')\ndef f(): pass\n")
    work = plan("nodes: {n: {call: 'beside:f'}}").nodes[0].work
    assert isinstance(work, CallWork)
    assert (work.module, work.function) == ("beside", "f")


def test_scaling_touches_every_duration(plan: Compile) -> None:
    scaled = plan("""
        limits: {timeout: 100s}
        nodes:
          n: {prompt: hi, model: openai/m, timeout: 10s, retry: {delay: 2s, max_delay: 8s}, expect: {latency: 4s}}
          o: {prompt: hi, model: openai/m}
    """).scaled(0.5)
    n, o = scaled.nodes
    assert scaled.timeout_s == 50
    assert (n.policy.attempt_s, n.policy.delay_s, n.policy.max_delay_s, n.expected_s, n.rehearsal.latency_s) == (
        5,
        1,
        4,
        2,
        2,
    )
    assert (o.expected_s, o.rehearsal.latency_s) == (0.5, 0.5)


INPUTS = """
    inputs:
      s: {}
      i: {type: integer, default: 3}
      f: {type: file, default: f.txt}
      e: {enum: [a, b], default: a}
    nodes: {n: {prompt: hi, model: openai/m}}
"""


def test_inputs_are_given_or_defaulted_and_files_are_read(plan: Compile, tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("file's text")
    assert resolve_inputs(plan(INPUTS), {"s": "x"}) == {"s": "x", "i": 3, "f": "file's text", "e": "a"}
    assert resolve_inputs(plan(INPUTS), {"s": "x", "f": FileText("read")})["f"] == "read"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "`s` is required"),
        ({"s": 3}, "`s` is of type string, not the number 3"),
        ({"s": "x", "i": True}, "`i` is of type integer"),
        ({"s": "x", "e": "c"}, "`e` is one of a, b"),
        ({"s": "x", "ii": 1}, "no input `ii`"),
        ({"s": "x", "f": "../f.txt"}, "outside"),
    ],
)
def test_wrong_inputs_are_refused(plan: Compile, tmp_path: Path, given: dict[str, object], message: str) -> None:
    (tmp_path / "f.txt").write_text("x")
    with pytest.raises(UsageError, match=message):
        resolve_inputs(plan(INPUTS), given)


def test_a_link_out_of_the_folder_is_refused(plan: Compile, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside.txt"
    outside.write_text("secret")
    (tmp_path / "f.txt").symlink_to(outside)
    text = INPUTS.replace("default: f.txt", "default: g.txt")
    (tmp_path / "g.txt").write_text("fine")
    with pytest.raises(UsageError, match="outside"):
        resolve_inputs(plan(text), {"s": "x", "f": "f.txt"})
