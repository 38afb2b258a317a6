"""What a run would do, as far as it can be told before: order, prompts, tokens, cost. No call is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from agentdag.calls import NO_USAGE, Rehearsal, Usage, estimate_tokens
from agentdag.language.sandbox import View
from agentdag.language.templates import Template, TemplateError
from agentdag.plan.plan import Plan, PlanNode
from agentdag.plan.work import CallWork, CommandWork, HttpWork, ModelRef, PipelineWork, PromptWork

Cost = Callable[[ModelRef, Usage], Decimal | None]
"""What a usage of a model costs; None where nobody knows."""

LONGEST_ANSWER = 4
"""How many times the expected tokens an answer may have, where `max_tokens` does not say."""
_LATER = frozenset({"nodes", "needs", "missing", "pending", "previous"})
"""What templates read that only the run can tell."""


@dataclass(frozen=True, slots=True)
class Step:
    """One node of the run to come. Low is what is expected; high has every retry spent on the longest answers.

    `prompt` and `system` are rendered where they can be; else they are the templates, and `waits_for` names whose
    answers they need. `arguments` are those of a function. `error` says why a template fails already.
    """

    node: PlanNode
    start_s: float
    prompt: str | None = None
    system: str | None = None
    arguments: Mapping[str, Any] | None = None
    waits_for: tuple[str, ...] = ()
    error: str | None = None
    low: Usage = NO_USAGE
    high: Usage = NO_USAGE


@dataclass(frozen=True, slots=True)
class Preview:
    """The steps in the order in which they start, and their sums."""

    plan: Plan
    steps: tuple[Step, ...]
    takes_s: float

    @property
    def low(self) -> Usage:
        return _sum([step.low for step in self.steps])

    @property
    def high(self) -> Usage:
        return _sum([step.high for step in self.steps])

    @property
    def unpriced(self) -> list[str]:
        """The models whose price nobody knows."""
        unknown = (str(step.node.model) for step in self.steps if step.node.model and step.low.cost_usd is None)
        return sorted(set(unknown))


def preview(plan: Plan, inputs: Mapping[str, Any], *, cost: Cost, names: Mapping[str, Any]) -> Preview:
    """What a run of *plan* with the resolved *inputs* would do. *names* are `run.id` and `run.started`."""
    told = plan.forecast()
    order = sorted(range(len(plan.nodes)), key=lambda number: (told.starts_s[number], number))
    seen = {"inputs": View("inputs", inputs), "run": View("run", names)}
    answers = _answer_tokens(plan)
    steps = (_step(plan.nodes[number], told.starts_s[number], seen, answers, cost) for number in order)
    return Preview(plan, tuple(steps), told.makespan_s)


def _answer_tokens(plan: Plan) -> dict[str, tuple[int, int]]:
    """For each node how many tokens its answer is expected to have, and how many at the most."""
    tokens = {}
    for node in plan.nodes:
        expected = Rehearsal().tokens if node.tokens is None else node.tokens
        most = LONGEST_ANSWER * expected
        if isinstance(node.work, PromptWork) and node.work.sampling.max_tokens is not None:
            most = node.work.sampling.max_tokens
        tokens[node.id] = (min(expected, most), most)
    return tokens


def _step(
    node: PlanNode, start_s: float, names: Mapping[str, Any], answers: Mapping[str, tuple[int, int]], cost: Cost
) -> Step:
    waits_for = tuple(sorted(node.reads(), key=node.edges.index))
    work = node.work
    try:
        if isinstance(work, PipelineWork):
            return Step(node, start_s, waits_for=waits_for)
        if not isinstance(work, PromptWork):
            later = any(map(_is_later, node.templates))
            return Step(node, start_s, arguments={} if later else _arguments(work, names), waits_for=waits_for)
        prompt = _rendered(work.prompt, names)
        system = None if work.system is None else _rendered(work.system, names)
    except TemplateError as error:
        return Step(node, start_s, error=str(error), waits_for=waits_for)
    own = estimate_tokens(prompt) + estimate_tokens(system or "") + _later_inputs(node, names)
    low, high = (
        Usage(own + sum(answers[name][most] for name in waits_for), answers[node.id][most], 0, estimated=True)
        for most in (0, 1)
    )
    low = _priced(low, work.model, cost)
    return Step(node, start_s, prompt, system, None, waits_for, None, low, _dearest(node, high, cost))


def _arguments(work: CallWork | HttpWork | CommandWork, names: Mapping[str, Any]) -> Mapping[str, Any]:
    """What *work* is given: arguments of a function, what a request sends, what a program reads."""
    match work:
        case CallWork():
            return {name: value.evaluate(names) for name, value in work.arguments.items()}
        case HttpWork():
            sent = {} if work.json is None else {"json": work.json.evaluate(names)}
            return {"url": work.url.render(names), **sent} | _text("body", work.body, names)
        case CommandWork():
            return {"command": [each.render(names) for each in work.argv]} | _text("stdin", work.stdin, names)


def _text(name: str, template: Template | None, names: Mapping[str, Any]) -> dict[str, str]:
    return {} if template is None else {name: template.render(names)}


def _dearest(node: PlanNode, each: Usage, cost: Cost) -> Usage:
    """All calls that the node may make at the most, fallbacks and passes among them, as large as *each*."""
    hedge = node.policy.hedge
    calls = (1 + node.policy.retries) * (1 if hedge is None else 1 + hedge.most)
    if node.barrier.progressive:
        calls *= len(node.needs)
    usage = Usage((each.input_tokens or 0) * calls, (each.output_tokens or 0) * calls, 0, estimated=True)
    models = (choice.model for choice in node.choices)
    return sum((_priced(usage, model, cost) for model in models if model is not None), NO_USAGE)


def _rendered(template: Template, names: Mapping[str, Any]) -> str:
    """The template rendered, or as it is written where it needs what only the run can tell."""
    return template.text if _is_later(template) else template.render(names)


def _is_later(template: Template) -> bool:
    """Whether *template* needs what only the run can tell."""
    return bool(template.loops or template.dynamic) or any(read.root in _LATER for read in template.reads)


def _later_inputs(node: PlanNode, names: Mapping[str, Any]) -> int:
    """Tokens of the inputs that stand in templates which cannot be rendered yet."""
    read: set[str] = set()
    for template in node.templates:
        if _is_later(template):
            read |= {each.path[0] for each in template.reads if each.root == "inputs" and each.path}
    values = (names["inputs"].get(name) for name in read)
    return sum(estimate_tokens(value) for value in values if isinstance(value, str))


def _priced(usage: Usage, model: ModelRef, cost: Cost) -> Usage:
    return Usage(usage.input_tokens, usage.output_tokens, 0, cost(model, usage), estimated=True)


def _sum(usages: Sequence[Usage]) -> Usage:
    """The sum, with the cost of those whose price is known."""
    known = [usage.cost_usd for usage in usages if usage.cost_usd is not None]
    tokens_in, tokens_out = (
        sum(usage.input_tokens or 0 for usage in usages),
        sum(usage.output_tokens or 0 for usage in usages),
    )
    return Usage(tokens_in, tokens_out, 0, sum(known, Decimal(0)), estimated=True)
