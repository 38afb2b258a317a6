"""`validate --print`: the pipeline as resolved compiles to the same plan, and shows no secret."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agentdag.plan.compile import compile_text
from agentdag.plan.plan import Plan, PlanNode
from agentdag.plan.resolved import resolved
from agentdag.plan.work import AS_TEXT, CallWork, CommandWork, HttpWork, PromptWork, Work
from agentdag.providers.registry import provider_types

TESTS = Path(__file__).parent.parent
GOOD = [*(TESTS / "corpus" / "good").glob("*.yaml"), *(TESTS.parent / "pipelines").glob("*.yaml")]


def planned(text: str, path: Path) -> Plan:
    compiled = compile_text(text, path, provider_types=provider_types())
    assert compiled.plan is not None, (compiled.findings, text)
    return compiled.plan


def bare(node: PlanNode) -> tuple[object, ...]:
    """A node without its templates, which have no equality; their texts instead."""
    texts = tuple(template.text for template in node.templates)
    does = tuple((_does(choice.work), choice.policy) for choice in node.choices)
    answer = (node.answer.form, node.answer.schema, node.answer.model)
    rounds = node.foreach is None, node.repeat is None, None if node.body is None else resolved(node.body)
    none = {"answer": AS_TEXT, "when": None, "foreach": None, "repeat": None, "save": None, "body": None}
    return texts, does, answer, rounds, replace(node, choices=(), bounded=True, **none)


def _does(work: Work) -> tuple[object, ...]:
    match work:
        case PromptWork():
            return (work.model, work.sampling)
        case CallWork():
            return (work.module, work.function)
        case HttpWork():
            return (work.method, [*work.headers], work.json is None, work.body is None, work.private)
        case CommandWork():
            return (len(work.argv), [*work.env], work.stdin is None, work.cwd is None)


@pytest.mark.parametrize("file", GOOD, ids=[file.stem for file in GOOD])
def test_what_is_printed_compiles_to_the_same_plan(file: Path) -> None:
    plan = planned(file.read_text(encoding="utf-8"), file)
    text = resolved(plan)
    again = planned(text, file)
    assert resolved(again) == text
    assert [bare(node) for node in again.nodes] == [bare(node) for node in plan.nodes]
    for name in (
        "name",
        "description",
        "inputs",
        "providers",
        "concurrency",
        "timeout_s",
        "fail_fast",
        "schedule",
        "wave_timeout_s",
    ):
        assert getattr(again, name) == getattr(plan, name), name
    assert again.outputs.keys() == plan.outputs.keys()


def test_texts_that_look_like_numbers_stay_texts(tmp_path: Path) -> None:
    text = (
        'inputs: {a: {default: "1e3"}, b: {default: "0x1F"}, c: {default: "no"}, d: {default: "1:30"}, e: {default: "007"}}\n'
        'nodes: {n: {prompt: "{{ inputs }}", model: openai/gpt-5-mini}}'
    )
    again = planned(resolved(planned(text, tmp_path / "p.yaml")), tmp_path / "p.yaml")
    assert [spec.default for spec in again.inputs.values()] == ["1e3", "0x1F", "no", "1:30", "007"]


def test_keys_that_were_written_down_are_starred_out(tmp_path: Path) -> None:
    key = "sk-proj-4fT9qLw2Zx8Rk1Vb6Nc3Ym7D"
    text = f"providers: {{openai: {{api_key: {key}}}}}\nnodes: {{n: {{prompt: hi, model: openai/gpt-5-mini}}}}"
    told = resolved(planned(text, tmp_path / "p.yaml"))
    assert key not in told
    assert "sk-***" in told
