"""What a run would do, as far as it can be told before: order, prompts, tokens, cost. No call is made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, NamedTuple

from agentdag.calls import BYTES_PER_TOKEN, NO_USAGE, Rehearsal, Usage, estimate_tokens
from agentdag.errors import UsageError
from agentdag.events import base_name
from agentdag.language.sandbox import View
from agentdag.language.scalars import describe
from agentdag.language.templates import Template, TemplateError, ValueTemplate
from agentdag.plan.flat import counts_of, flat, owner_of
from agentdag.plan.plan import Plan, PlanNode
from agentdag.plan.values import resolve_given
from agentdag.plan.work import Act, CallWork, CommandWork, HttpWork, ModelRef, PipelineWork, PromptWork

Cost = Callable[[ModelRef, Usage, str | None], Decimal | None]
"""What a usage of a model costs; None where nobody knows."""

LONGEST_ANSWER = 4
"""How many times the expected tokens an answer may have, where `max_tokens` does not say."""
MOST_RENDERED = 100
"""Items whose prompts are looked at; of more, these stand for all."""
_LATER = frozenset({"nodes", "needs", "missing", "pending", "previous"})
"""What templates read that only the run can tell."""


@dataclass(frozen=True, slots=True)
class Step:
    """One node of the run to come. Low is what is expected; high has every retry spent on the longest answers.

    `prompt` and `system` are rendered where they can be; else they are the templates, and `waits_for` names whose
    answers they need. `arguments` are those of a function. `error` says why a template fails already.
    """

    name: str
    """Its whole name: `parent.child` for the node of a pipeline that a node runs."""
    node: PlanNode
    start_s: float
    prompt: str | None = None
    system: str | None = None
    arguments: Mapping[str, Any] | None = None
    waits_for: tuple[str, ...] = ()
    error: str | None = None
    low: Usage = NO_USAGE
    high: Usage = NO_USAGE
    items: int | None = None
    """For how many items it runs, of which the first is told; None without a `foreach`, and where only the run can
    tell: all of it is of one item then."""
    skipped: bool = False
    """Whether its `when` does not hold."""


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
        steps = (step for step in self.steps if step.node.model and not step.skipped and step.error is None)
        return sorted({str(step.node.model) for step in steps if step.low.cost_usd is None})

    @property
    def uncounted(self) -> list[str]:
        """The nodes that run for as many items as only the run can tell: all figures are of one."""
        return [step.name for step in self.steps if step.node.foreach is not None and step.items is None]


class _Sight(NamedTuple):
    """What the templates of one pipeline see; of the inputs in *unknown*, for which nodes they wait."""

    names: Mapping[str, Any]
    unknown: Mapping[str, tuple[str, ...]]
    later: frozenset[str] = _LATER

    def is_later(self, template: Template) -> bool:
        """Whether *template* needs what only the run can tell."""
        if template.loops or template.dynamic:
            return True
        return any(
            read.root in self.later
            or (read.root == "inputs" and not self.unknown.keys().isdisjoint(read.path[:1] or self.unknown))
            for read in template.reads
        )

    def text(self, template: Template) -> str:
        """*template* rendered, or as it is written where it needs what only the run can tell."""
        return template.text if self.is_later(template) else template.render(self.names)

    def value(self, value: ValueTemplate) -> Any:
        """*value* evaluated; None where it needs what only the run can tell."""
        return None if any(map(self.is_later, value.templates)) else value.evaluate(self.names)

    def knowing(self, known: Mapping[str, Any]) -> _Sight:
        """The same with the names in *known* too."""
        return self._replace(names={**self.names, **known}, later=self.later - known.keys())

    def waits_for(self, prefix: str, node: PlanNode) -> tuple[str, ...]:
        """The whole names of the nodes whose answers *node* reads, by itself or in an input."""
        own = [prefix + name for name in sorted(node.reads(), key=node.edges.index)]
        reads = (each for template in node.templates for each in template.reads if each.root == "inputs")
        read = (name for each in reads for name in (each.path[:1] or self.unknown))
        return tuple(dict.fromkeys([*own, *(name for each in read for name in self.unknown.get(each, ()))]))


class _Times(NamedTuple):
    """How often something is done: as expected, and at the most."""

    low: int = 1
    high: int = 1


def preview(
    plan: Plan, inputs: Mapping[str, Any], *, cost: Cost, names: Mapping[str, Any], unknown: Collection[str] = ()
) -> Preview:
    """What a run of *plan* with the resolved *inputs*, but for those in *unknown*, would do. *names* are `run.id` and
    `run.started`."""
    unfolded = flat(plan)
    told = unfolded.forecast()
    seen = {"inputs": View("inputs", inputs), "run": View("run", names)}
    steps = _Steps(cost, _starts_s(unfolded, told.starts_s))
    steps.add(plan, None, _Sight(seen, dict.fromkeys(unknown, ())), _Times())
    return Preview(plan, tuple(sorted(steps.found, key=lambda step: step.start_s)), told.makespan_s)


def _starts_s(unfolded: Plan, seconds: Sequence[float]) -> Mapping[str, float]:
    """When each node starts, by its whole name: what is made of others with the first of these."""
    starts: dict[str, float] = {}
    for node, start_s in zip(unfolded.nodes, seconds, strict=True):
        name = base_name(node.id)
        while name and (node.made is None or not node.made.parts):
            starts[name] = min(starts.get(name, start_s), start_s)
            name = owner_of(name)
    return starts


class _Steps:
    """The steps found so far."""

    def __init__(self, cost: Cost, starts: Mapping[str, float]) -> None:
        self._cost = cost
        self._starts = starts
        self.found: list[Step] = []

    def add(self, plan: Plan, within: Step | None, sight: _Sight, times: _Times) -> None:
        """Those of *plan*, which runs *within* a step, and so many *times*."""
        prefix, began_s = ("", 0.0) if within is None else (f"{within.name}.", within.start_s)
        counts = counts_of(plan)
        answers = _answers(plan, counts)
        for node in plan.nodes:
            name = prefix + node.id
            start_s = self._starts.get(name, began_s)  # in lock-step a pipeline is one node
            step = Step(name, node, start_s, waits_for=sight.waits_for(prefix, node))
            try:
                if node.when is not None and not sight.is_later(node.when) and not node.when.holds(sight.names):
                    self.found.append(replace(step, skipped=True))
                    continue
                self._rounds(step, sight, counts.get(node.id), answers, times)
            except (TemplateError, UsageError) as error:
                self.found.append(replace(step, error=str(error)))

    def _rounds(
        self, step: Step, sight: _Sight, count: int | None, answers: Mapping[str, _Answer], times: _Times
    ) -> None:
        """The step for all items and passes of its node."""
        node, sights = step.node, [sight]
        if node.repeat is not None:
            sights = [sight.knowing({"previous": None})]
            times = times._replace(high=times.high * node.repeat.most)
        if node.foreach is not None:
            name = node.foreach.name
            values = sights[0].value(node.foreach.items)
            if values is None:
                sights = [sights[0]._replace(later=sights[0].later | {name, "index"})]
            else:
                if not isinstance(values, list):
                    raise TemplateError(f"foreach: this gives {describe(values)}, and a list is due")
                count = len(values)
                some = enumerate(values[:MOST_RENDERED])
                sights = [sights[0].knowing({name: value, "index": index}) for index, value in some]
            if count is not None:
                times = _Times(times.low * count, times.high * count)
            step = replace(step, items=count)
        work = node.work
        if not sights:  # there is no item
            self.found.append(step)
        elif isinstance(work, PipelineWork):
            self._pipeline(step, work, sights[0], times)
        elif isinstance(work, PromptWork):
            self.found.append(self._prompt(step, work, sights, answers, times))
        else:
            later = any(map(sights[0].is_later, work.templates))
            self.found.append(replace(step, arguments={} if later else _arguments(work, sights[0].names)))

    def _pipeline(self, step: Step, work: PipelineWork, sight: _Sight, times: _Times) -> None:
        """The step of a node that runs a pipeline, and those of that pipeline."""
        body = step.node.body
        assert body is not None
        later = [name for name, value in work.arguments.items() if any(map(sight.is_later, value.templates))]
        given = {name: value.evaluate(sight.names) for name, value in work.arguments.items() if name not in later}
        known = replace(body, inputs={name: spec for name, spec in body.inputs.items() if name not in later})
        inputs = resolve_given(known, given)
        self.found.append(replace(step, arguments={} if later else given))
        names = {"inputs": View("inputs", inputs), "run": sight.names["run"]}
        self.add(body, step, _Sight(names, dict.fromkeys(later, step.waits_for)), times)

    def _prompt(
        self,
        step: Step,
        work: PromptWork,
        sights: Sequence[_Sight],
        answers: Mapping[str, _Answer],
        times: _Times,
    ) -> Step:
        """The step of a node that asks a model."""
        node = step.node
        prompts = [each.text(work.prompt) for each in sights]
        systems = ["" if work.system is None else each.text(work.system) for each in sights]
        own = sum(map(estimate_tokens, prompts)) + sum(map(estimate_tokens, systems))
        own = own // len(sights) + _later_inputs(node, sights[0])
        fed = frozenset[str]() if node.foreach is None else node.foreach.items.nodes
        whole = node.reads(items=False)
        reads = [answers[name] for name in whole if name in answers]
        reads += [answers[name]._replace(items=1) for name in fed - whole]
        low, high = (
            Usage(own + sum(each.items * each[most] for each in reads), answers[node.id][most], 0, estimated=True)
            for most in (0, 1)
        )
        return replace(
            step,
            prompt=prompts[0],
            system=None if work.system is None else systems[0],
            low=_priced(_scaled(low, times.low), work.model, self._cost, work.sampling.service_tier),
            high=_dearest(node, high, times.high, self._cost),
        )


class _Answer(NamedTuple):
    """How many tokens an answer is expected to have, and how many at the most; so many make up the output."""

    low: int
    high: int
    items: int


def _answers(plan: Plan, counts: Mapping[str, int]) -> dict[str, _Answer]:
    """What each node answers."""
    found = {}
    for node in plan.nodes:
        expected = Rehearsal().tokens if node.tokens is None else node.tokens
        most = LONGEST_ANSWER * expected
        if isinstance(node.work, PromptWork) and node.work.sampling.max_tokens is not None:
            most = node.work.sampling.max_tokens
        low, high = min(expected, most), most
        if (body := node.body) is not None:
            inner = _answers(body, counts_of(body))
            last = [inner[body.nodes[number].id] for number in body.graph.last]
            low, high = (sum(each.items * each[most] for each in last) for most in (0, 1))
        found[node.id] = _Answer(low, high, counts.get(node.id, 1))
    return found


def _arguments(work: Act, names: Mapping[str, Any]) -> Mapping[str, Any]:
    """What *work* is given: arguments of a function, what a request sends, what a program reads."""
    match work:
        case CallWork():
            return {name: value.evaluate(names) for name, value in work.arguments.items()}
        case HttpWork():
            sent = {} if work.json is None else {"json": work.json.evaluate(names)}
            return {"url": work.url.render(names), **sent} | _text("body", work.body, names)
        case CommandWork():
            return {"command": [each.render(names) for each in work.argv]} | _text("stdin", work.stdin, names)
    return {}


def _text(name: str, template: Template | None, names: Mapping[str, Any]) -> dict[str, str]:
    return {} if template is None else {name: template.render(names)}


def _dearest(node: PlanNode, each: Usage, times: int, cost: Cost) -> Usage:
    """All calls that the node may make at the most, fallbacks, turns and passes among them, each first one as large
    as *each*; it does its work so many *times*."""
    hedge = node.policy.hedge
    times *= (1 + node.policy.retries) * (1 if hedge is None else 1 + hedge.most)
    if node.barrier.progressive:
        times *= len(node.needs)
    usage = _scaled(_conversation(node, each), times)
    works = (choice.work for choice in node.choices if isinstance(choice.work, PromptWork))
    return sum((_most(usage, work, cost) for work in works), NO_USAGE)


def _most(usage: Usage, work: PromptWork, cost: Cost) -> Usage:
    """What *usage* costs at the most: a cheaper service tier may have no capacity."""
    plain, asked = (_priced(usage, work.model, cost, tier) for tier in (None, work.sampling.service_tier))
    return asked if (asked.cost_usd or 0) > (plain.cost_usd or 0) else plain


def _conversation(node: PlanNode, each: Usage) -> Usage:
    """All turns that one answer may take, the one that repairs it among them: each sends again what was said before,
    and what a tool had to say."""
    tooling = node.work.tooling if isinstance(node.work, PromptWork) else None
    turns = (1 if tooling is None else tooling.max_turns) + (0 if node.answer.is_text else 1)
    said = 0 if tooling is None else int(tooling.limit / BYTES_PER_TOKEN)
    tokens_in, tokens_out = each.input_tokens or 0, each.output_tokens or 0
    again = turns * (turns - 1) // 2
    return Usage(turns * tokens_in + again * (tokens_out + said), turns * tokens_out, 0, estimated=True)


def _scaled(usage: Usage, times: int) -> Usage:
    return Usage((usage.input_tokens or 0) * times, (usage.output_tokens or 0) * times, 0, estimated=True)


def _later_inputs(node: PlanNode, sight: _Sight) -> int:
    """Tokens of the inputs that stand in templates which cannot be rendered yet."""
    read: set[str] = set()
    for template in node.templates:
        if sight.is_later(template):
            read |= {each.path[0] for each in template.reads if each.root == "inputs" and each.path}
    values = (sight.names["inputs"].get(name) for name in read - sight.unknown.keys())
    return sum(estimate_tokens(value) for value in values if isinstance(value, str))


def _priced(usage: Usage, model: ModelRef, cost: Cost, tier: str | None) -> Usage:
    return Usage(usage.input_tokens, usage.output_tokens, 0, cost(model, usage, tier), estimated=True)


def _sum(usages: Sequence[Usage]) -> Usage:
    """The sum, with the cost of those whose price is known."""
    known = [usage.cost_usd for usage in usages if usage.cost_usd is not None]
    tokens_in, tokens_out = (
        sum(usage.input_tokens or 0 for usage in usages),
        sum(usage.output_tokens or 0 for usage in usages),
    )
    return Usage(tokens_in, tokens_out, 0, sum(known, Decimal(0)), estimated=True)
