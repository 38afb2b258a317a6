"""What is allowed in a pipeline and is most likely a mistake, each with the figure that it is about.

A false alarm is worse than silence: where only the data of a run could tell, nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations, pairwise
from typing import Protocol

from agentdag.calls import BYTES_PER_TOKEN, estimate_tokens
from agentdag.language.check import Report
from agentdag.language.findings import did_you_mean
from agentdag.language.guards import Unguarded, unguarded
from agentdag.language.sandbox import View
from agentdag.language.scalars import LOW_PRIORITY, duration_text, seconds_text
from agentdag.language.spec import FallbackSpec, LimitsSpec, NodeSpec, PipelineSpec
from agentdag.language.templates import RUN_ATTRIBUTES, Problem, Read, Template, TemplateError
from agentdag.plan.advice import lints, mostly_assumed
from agentdag.plan.drafts import Draft
from agentdag.plan.files import FileProblem, locate
from agentdag.plan.flat import flat
from agentdag.plan.forecast import DUST_S
from agentdag.plan.graph import width
from agentdag.plan.plan import Plan, PlanNode
from agentdag.plan.refused import lint_refusals
from agentdag.plan.work import ModelRef, PromptWork

Path_ = tuple[str | int, ...]


class Priced(Protocol):
    """What a model costs."""

    def at_most(self, input_tokens: int, output_tokens: int) -> Decimal: ...


class Pricing(Protocol):
    """What is known of prices, given a provider's type and a model."""

    def unknown_model(self, kind: str, model: str) -> Collection[str] | None:
        """The models that are known, where this one ought to be and is not; else None."""

    def prices_of(self, kind: str, model: str) -> Priced | None:
        """What the model costs, or None where nobody knows."""


FAR_ABOVE = 20
"""How many times what a node is expected to take its timeout may be."""
LONG_TIMEOUT_S = 300.0
"""A timeout up to here is not far above anything."""
ROUTING_TOKENS = 20
"""An answer of so many tokens or fewer is a label, not a thought."""
LONG_PROMPT_TOKENS = 50_000
SAMPLE_TOKENS = 1_000
"""Read and written so many, one model costs more than another."""
MAX_NAMED = 3
MAX_OTHERS = 3
"""Other nodes that may be missing, with and without which a template is tried."""
_WHEN_LOW_HINTS = {
    "downgrade": "put the nodes that may go down on a dearer tier of `tiers`, or leave it out",
    "shed": "say `priority: low` on the nodes that can be done without, or leave it out",
}
_PRINTED = re.compile(r"\{\{\s*inputs\.(\w+)\s*\}\}")
"""An input that is printed whole."""
TOO_WIDE = 4
"""A cap that is more than the nodes and so many times the graph's width is no generous choice, but a mistake."""


@dataclass(frozen=True)
class Linter:
    """Looks at one pipeline that has no errors; what it finds goes to the report."""

    plan: Plan
    spec: PipelineSpec
    drafts: Mapping[str, Draft]
    report: Report
    pricing: Pricing

    def lint(self) -> None:
        awaited = self._waits()
        self._missing_outputs()
        self._unread_nodes(awaited)
        self._unused_names()
        self._timeouts()
        self._cap()
        self._prompts()
        self._models()
        self._budgets()
        self._low_budget()
        self._dearer_below()
        self._routing()
        self._dollars()
        lint_refusals(self.plan, self.spec, self.report)

    def _dollars(self) -> None:
        """`${{ ... }}`, as another tool writes its expressions."""
        for draft in self.drafts.values():
            for path, template, source in draft.templates:
                line = next((n for n, line in enumerate(template.text.split("\n"), 1) if "${{" in line), None)
                if line is not None:
                    message = "`${{ ... }}` gives a `$` and then the value"
                    problem = Problem("AD615", message, "write `{{ ... }}`", line, "${{")
                    self.report.in_template(path, problem, source)

    def _waits(self) -> AbstractSet[str]:
        """Needless waits, and a cap that costs time; the nodes that are waited for in vain."""
        found = lints(self.plan)
        for advice in found:
            path = advice.path
            if path == ("limits", "concurrency") and "concurrency" not in self.spec.limits.model_fields_set:
                path = ("nodes",)
            self.report.at(path, advice.code, advice.message, advice.hint, key=path == ("nodes",))
        return {need for advice in found for _, need in advice.edges}

    def _missing_outputs(self) -> None:
        """Outputs of nodes that may be missing, read without asking."""
        shed = self.plan.budget is not None and "shed" in self.plan.budget.actions
        optional = {
            node.id
            for node in self.plan.nodes
            if node.optional or node.when is not None or (shed and node.priority == LOW_PRIORITY)
        }
        for node in self.plan.nodes:
            absent = optional | set(node.needs) if node.may_lack else optional
            if len(node.needs) == 1 and not node.may_lack:  # without it, nothing is asked either
                absent = {name for name in absent if self.spec.nodes[name].continue_on_failure}
            maybe = [name for name in node.edges if name in absent]
            if maybe:
                needs = [name for name in node.needs if name in absent]
                for path, template, source in self.drafts[node.id].templates:
                    for read in _unguarded(template, maybe, () if node.barrier.progressive else node.needs):
                        names = [read.node] if read.node else needs
                        if any(
                            fails_without(template, name, node.edges, node.needs, absent, node.barrier.progressive)
                            for name in names
                        ):
                            self.report.in_template(path, _unguarded_problem(read, names, node, optional), source)
        if not optional:
            return
        for name, value in self.plan.outputs.items():
            for leaf, template in value.leaves:
                for read in _unguarded(template, list(optional), ()):
                    every = list(self.drafts)
                    if read.node in optional and fails_without(template, read.node, every, (), optional):
                        message = f"`{name}` is null where `{read.node}` fails, and the run succeeds all the same"
                        hint = f"write `nodes.{read.node}.output | default('...')`"
                        problem = Problem("AD602", message, hint, read.line, read.needle)
                        self.report.in_template(("outputs", name, *leaf), problem)

    def _unread_nodes(self, awaited: AbstractSet[str]) -> None:
        """Prompts whose answers are paid for and dropped; those in *awaited* are told of already."""
        read = {name for node in self.plan.nodes for name in node.reads()} | self.plan.wanted()
        for number, node in enumerate(self.plan.nodes):
            is_output = not self.spec.outputs and not self.plan.graph.dependants[number]
            if node.id in read or node.id in awaited or is_output or not isinstance(node.work, PromptWork):
                continue
            answer = f"its answer of about {node.tokens:,} tokens" if node.tokens else "its answer"
            message = f"nobody reads `{node.id}`: {answer} is paid for and dropped"
            hint = f"read `nodes.{node.id}.output` in a template or under `outputs`, or remove the node"
            self.report.at(("nodes", node.id), "AD603", message, hint, key=True)

    def _output_templates(self) -> Iterator[Template]:
        for value in self.plan.outputs.values():
            for _, template in value.leaves:
                yield template

    def _reads(self) -> Iterator[Read]:
        for node in self.plan.nodes:
            for template in node.templates:
                yield from template.reads
        for template in self._output_templates():
            yield from template.reads

    def _unused_names(self) -> None:
        """Inputs, tiers, providers and their models that nothing names."""
        spec = self.spec
        inputs = {read.path[:1] for read in self._reads() if read.root == "inputs"}
        for name in spec.inputs if () not in inputs else ():
            if (name,) not in inputs:
                hint = f"read `inputs.{name}` in a template, or remove it"
                self.report.at(("inputs", name), "AD604", f"no template reads the input `{name}`", hint, key=True)
        agents: list[NodeSpec | FallbackSpec] = [*spec.nodes.values()]
        agents += [each for node in spec.nodes.values() for each in node.fallback]
        tiers = {spec.defaults.tier, *(each.tier for each in agents)}
        if self.plan.budget is not None and "downgrade" in self.plan.budget.actions:  # it goes down from the used ones
            tiers |= {lower for lower, name in pairwise(spec.tiers) if name in tiers}
        for name in spec.tiers:
            if name not in tiers:
                self.report.at(("tiers", name), "AD605", f"no node uses the tier `{name}`", "remove it", key=True)
        used = {name for node in spec.nodes.values() for name in node.tools or ()}
        for name in spec.tools:
            if name not in used:
                self.report.at(("tools", name), "AD614", f"no node uses the tool `{name}`", "remove it", key=True)
        models = [spec.defaults.model, *(tier.model for tier in spec.tiers.values()), *(each.model for each in agents)]
        self._unused_models({model for model in models if model})

    def _unused_models(self, asked: Collection[str]) -> None:
        for provider, said in self.spec.providers.items():
            own = [model.partition("/")[2] for model in asked if model.startswith(f"{provider}/")]
            if not own:
                message = f"no model is at the provider `{provider}`"
                self.report.at(("providers", provider), "AD606", message, "remove it", key=True)
                continue
            for model in said.models:
                if model not in own:
                    path, hint = ("providers", provider, "models", model), did_you_mean(model.rpartition("/")[2], own)
                    self.report.at(path, "AD606", f"nobody asks `{provider}/{model}`", hint or "remove it", key=True)

    def _timeouts(self) -> None:
        spec = self.spec
        for node in self.plan.nodes:
            said, own = spec.nodes[node.id].timeout, ("nodes", node.id, "timeout")
            if node.assumed or node.policy.timeout.attempt_s is None:
                continue
            timeout_s, expected = node.policy.attempt_s, seconds_text(node.expected_s)
            hint = f"`timeout: {duration_text(3 * node.expected_s)}` is three times what is expected"
            if timeout_s < node.expected_s - DUST_S:
                if said is not None and said.attempt is not None:
                    message = f"`{node.id}` is expected to take {expected}, but is cut at {seconds_text(timeout_s)}"
                    self.report.at(own, "AD506", message, hint)
                else:
                    given = spec.defaults.timeout is not None and spec.defaults.timeout.attempt is not None
                    by = "`defaults.timeout`" if given else "the timeout of every node"
                    message = (
                        f"`{node.id}` is expected to take {expected}, but {by} cuts it at {seconds_text(timeout_s)}"
                    )
                    self.report.at(("nodes", node.id, "expect", "latency"), "AD506", message, hint)
            elif said is not None and said.attempt and timeout_s > max(FAR_ABOVE * node.expected_s, LONG_TIMEOUT_S):
                times = f"{timeout_s / node.expected_s:,.0f} times" if node.expected_s else "far more than"
                message = f"a hanging call is cut after {seconds_text(timeout_s)}, {times} the {expected} expected"
                self.report.at(own, "AD507", message, hint)
        whole = self.plan.timeout_s
        if mostly_assumed(self.plan):
            return
        if whole is not None and (takes := flat(self.plan).takes_s()) > whole + DUST_S:
            message = f"the run is expected to take {seconds_text(takes)}, but is cut at {seconds_text(whole)}"
            self.report.at(("limits", "timeout"), "AD506", message, "give it more time, or see `agentdag graph`")

    def _cap(self) -> None:
        cap, nodes = self.plan.concurrency, len(self.plan.nodes)
        if "concurrency" not in self.spec.limits.model_fields_set or cap in {1, LimitsSpec().concurrency}:
            return
        if any(node.foreach is not None or node.body is not None for node in self.plan.nodes):
            return  # how many there are, only the run can tell
        most = width(self.plan.graph)
        if self.plan.schedule == "waves":
            most = max(len(wave) for wave in self.plan.graph.waves)
        if cap > nodes and cap >= TOO_WIDE * most:
            told = "1 node runs at a time" if most == 1 else f"{most} nodes can run at once"
            message = f"{cap} at once are never reached: no more than {told}"
            self.report.at(("limits", "concurrency"), "AD505", message, f"write {most}, or leave it out")

    def _prompts(self) -> None:
        """Prompts that are very long before anything is known of the run."""
        sizes: dict[str, int] = {}
        for name, given in self.spec.inputs.items():
            if given.type == "file" and isinstance(given.default, str):
                sizes[name] = self._file_tokens(given.default)
        for draft in self.drafts.values():
            for path, template, _ in draft.templates:
                if path[2] not in {"prompt", "prompt_file"}:
                    continue
                printed = set(_PRINTED.findall(template.text))
                tokens = estimate_tokens(template.text) + sum(sizes.get(name, 0) for name in printed)
                if tokens > LONG_PROMPT_TOKENS:
                    message = f"this prompt has about {tokens:,} tokens, paid for at each attempt"
                    hint = "pass on only what the node needs, or split the work over several nodes"
                    self.report.at(path, "AD608", message, hint, key=True)

    def _file_tokens(self, name: str) -> int:
        try:
            return round(locate(name, self.plan.path.parent, self.plan.allowed).stat().st_size / BYTES_PER_TOKEN)
        except (FileProblem, OSError):
            return 0

    def _models(self) -> None:
        """Models whose price ought to be known; each once, where it is named first."""
        spec = self.spec
        places: list[tuple[str | None, Path_]] = []
        for name, tier in spec.tiers.items():
            short = isinstance(self.report.document.value["tiers"][name], str)
            places.append((tier.model, ("tiers", name) if short else ("tiers", name, "model")))
        places.append((spec.defaults.model, ("defaults", "model")))
        for name, node in spec.nodes.items():
            places.append((node.model, ("nodes", name, "model")))
            places += [(each.model, ("nodes", name, "fallback", index)) for index, each in enumerate(node.fallback)]
        seen: set[str | None] = {None}
        for model, path in places:
            if model in seen:
                continue
            seen.add(model)
            provider, _, name = str(model).partition("/")
            said = spec.providers.get(provider)
            if said is not None and (said.base_url or said.prices):
                continue
            known = self.pricing.unknown_model((said.type if said else None) or provider, name)
            if known is not None:
                message = f"no price is known for `{model}`, so its cost cannot be told"
                hint = did_you_mean(name, known) or "check the name."
                hint += f" If it is right, say `providers: {{{provider}: {{prices: ...}}}}`"
                self.report.at(path, "AD609", message, hint)

    def _budgets(self) -> None:
        """Budgets of money for models whose price nobody knows."""
        for node, model in self.plan.bounded():
            if not self._is_priced(model):
                own = node.budget is not None and node.budget.cost_usd is not None
                path: Path_ = ("nodes", node.id, "budget", "cost") if own else ("budget", "cost")
                message = f"no price is known for `{model}`, which `{node.id}` asks: its cost cannot be bounded"
                hint = f"say `providers: {{{model.provider}: {{prices: {{input: ..., output: ...}}}}}}`"
                self.report.at(path, "AD210", message, f"{hint}, or bound `tokens` instead")
                return

    def _low_budget(self) -> None:
        """What is to be done when the budget is low, and cannot be."""
        said = None if self.spec.budget is None else self.spec.budget.when_low
        if said is None:
            return
        works = [choice.work for node in self.plan.nodes for choice in node.choices]
        lower = any(isinstance(work, PromptWork) and self.plan.one_tier_down(work) is not None for work in works)
        idle = {}
        if not lower:
            idle["downgrade"] = "no node is on a tier that has one below it"
        if not any(node.priority == LOW_PRIORITY for node in self.plan.nodes):
            idle["shed"] = "no node has `priority: low`"
        written = "do" in said.model_fields_set
        for index, action in enumerate(said.do):
            if action in idle and action not in said.do[:index]:
                path = ("budget", "when_low", *(("do", index) if written else ()))
                self.report.at(path, "AD612", f"`{action}` does nothing: {idle[action]}", _WHEN_LOW_HINTS[action])
        if not said.do:
            self.report.at(("budget", "when_low", "do"), "AD612", "nothing is done", "say what, or remove `when_low`")

    def _is_priced(self, model: ModelRef) -> bool:
        said = self.spec.providers.get(model.provider)
        kind = (said.type if said else None) or model.provider
        if kind == "simulated" or (said is not None and said.prices is not None):
            return True
        return self.pricing.prices_of(kind, model.name) is not None

    def _dearer_below(self) -> None:
        """A tier to which `downgrade` goes, and that costs more; only of prices that the table knows."""
        if self.plan.budget is None or "downgrade" not in self.plan.budget.actions:
            return
        for lower, upper in pairwise(self.plan.tiers):
            below, above = self._listed(lower.model), self._listed(upper.model)
            if below is None or above is None:
                continue
            if below.at_most(SAMPLE_TOKENS, SAMPLE_TOKENS) > above.at_most(SAMPLE_TOKENS, SAMPLE_TOKENS):
                message = f"`downgrade` goes from `{upper.name}` to `{lower.name}`, which costs more"
                self.report.at(("tiers", lower.name), "AD613", message, "put the cheapest tier first", key=True)

    def _listed(self, model: ModelRef) -> Priced | None:
        said = self.spec.providers.get(model.provider)
        if said is not None and (said.prices is not None or said.base_url is not None):
            return None
        return self.pricing.prices_of((said.type if said else None) or model.provider, model.name)

    def _routing(self) -> None:
        """Short fixed answers, asked from the dearest tier."""
        tiers = [tier.name for tier in self.plan.tiers]
        for node in self.plan.nodes if len(tiers) > 1 else ():
            work = node.work
            if not isinstance(work, PromptWork) or work.tier != tiers[-1]:
                continue
            told = [each for each in (work.sampling.max_tokens, node.tokens) if each is not None]
            if told and min(told) <= ROUTING_TOKENS:
                message = f"`{node.id}` asks the top tier `{tiers[-1]}` for an answer of {min(told)} tokens"
                hint = f"a short answer is work for a cheaper model: try `tier: {tiers[0]}`"
                own = "tier" in self.spec.nodes[node.id].model_fields_set
                self.report.at(("nodes", node.id, *(("tier",) if own else ())), "AD611", message, hint, key=not own)


def _unguarded(template: Template, maybe: list[str], needs: Sequence[str]) -> Iterator[Unguarded]:
    """The unguarded reads of *template*; syntax trees are made only where one of *maybe* may be read.

    *needs* are the nodes of which `missing` tells.
    """
    read = {each.path[0] for each in template.reads if each.root in {"nodes", "needs"} and each.path}
    if template.loops is not None or template.dynamic is not None or not read.isdisjoint(maybe):
        for each in unguarded(template.text, missing_tells=bool(needs)):
            if each.node is None or (each.node in maybe and each.node in needs):
                yield each
        if any(name not in needs for name in maybe):
            for each in unguarded(template.text, missing_tells=False):
                if each.node in maybe and each.node not in needs:
                    yield each


def fails_without(
    template: Template,
    absent: str,
    edges: Sequence[str],
    needs: Sequence[str],
    optional: AbstractSet[str],
    progressive: bool = False,  # noqa: FBT001, FBT002 - likewise
) -> bool:
    """Whether *template* fails for want of the output of *absent*, in some run that one can think of.

    To a *progressive* join it may be pending rather than missing.

    What cannot be told without the run's data counts as failing: the template has been found to read it.
    """
    others = [name for name in edges if name in optional and name != absent][:MAX_OTHERS]
    missing_too = (chosen for size in range(len(others) + 1) for chosen in combinations(others, size))
    return any(
        _fails(template, {absent, *too}, edges, needs, truthy=truthy, pending=pending)
        for too in missing_too
        for truthy in (True, False)
        for pending in ({False, progressive})
    )


def _fails(
    template: Template,
    absent: AbstractSet[str],
    edges: Sequence[str],
    needs: Sequence[str],
    *,
    truthy: bool,
    pending: bool,
) -> bool:
    views = {name: _stub(name, ok=name not in absent) for name in edges}
    inputs = {read.path[0]: "text" if truthy else "" for read in template.reads if read.root == "inputs" and read.path}
    names = {
        "nodes": View("nodes", views),
        "needs": View("needs", {name: views[name] for name in needs if name in views}),
        "missing": [] if pending else [name for name in needs if name in absent],
        "pending": [name for name in needs if name in absent] if pending else [],
        "previous": None,
        "inputs": View("inputs", inputs),
        "run": View("run", dict.fromkeys(RUN_ATTRIBUTES, "text")),
    }
    try:
        template.render(names)
    except TemplateError:
        return True
    return False


def _stub(name: str, *, ok: bool) -> View:
    """A node as templates see it: with some answer, or failed."""
    error = None if ok else {"kind": "server", "message": "failed"}
    seen = {"ok": ok, "status": "succeeded" if ok else "failed", "error": error, "latency": 1.0}
    usage = {"input_tokens": 1, "output_tokens": 1, "cached_tokens": 0, "cost_usd": None}
    return View(f"nodes.{name}", {**seen, "usage": usage, **({"output": "text"} if ok else {})})


def _unguarded_problem(read: Unguarded, names: list[str], node: PlanNode, optional: AbstractSet[str]) -> Problem:
    shown = [f"`{name}`" for name in names[:MAX_NAMED]]
    shown += [f"{len(names) - MAX_NAMED} others"] if len(names) > MAX_NAMED else []
    may = "have failed" if set(names) <= optional else "be missing when the barrier opens"
    message = f"{' or '.join(shown)} may {may}, and then this read of its output fails `{node.id}`"
    hint = "write `{% for name, node in needs.items() if node.ok %}`"
    if read.node is not None:
        hint = f"ask `{{% if nodes.{read.node}.ok %}}`, or write `nodes.{read.node}.output | default('...')`"
    return Problem("AD601", message, hint, read.line, read.needle)
