"""A document to a frozen `Plan`: nodes, edges, waves; every problem found on the way, at its place.

This file decides what belongs together; the words of the language stand in `language/spec.py`.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from agentdag.errors import ErrorKind, Finding, SpecError
from agentdag.language.check import Checked, Report, check_document
from agentdag.language.codes import codes
from agentdag.language.document import decode, parse_document, read_text
from agentdag.language.findings import in_order
from agentdag.language.limits import BudgetSpec, NodeBudgetSpec
from agentdag.language.rules import AUTO, P95, RetrySpec, TimeoutSpec
from agentdag.language.scalars import IDENTIFIER, PRIORITIES
from agentdag.language.secrets import masked, starred, written_secrets
from agentdag.language.spec import RESERVED_IDS, NodeSpec, PipelineSpec, ProviderSpec
from agentdag.language.templates import MODEL_TEXT, NODE_NAMES, OUTPUT_NAMES, PASS_NAMES, Problem, ValueTemplate
from agentdag.limits.policy import Hedge, Policy, Timeout
from agentdag.plan.barrier import barrier_of
from agentdag.plan.drafts import Draft
from agentdag.plan.effects import check_effects
from agentdag.plan.flat import flat
from agentdag.plan.graph import Edges, Graph, build_graph, find_cycles
from agentdag.plan.leads import with_item_leads, with_leads
from agentdag.plan.lint import Linter, Pricing
from agentdag.plan.nodes import NodeCompiler, model_ref, said
from agentdag.plan.plan import DEFAULT_LATENCY_S, BudgetTerms, Choice, Plan, PlanNode, Tier
from agentdag.plan.values import check_input_specs
from agentdag.plan.wiring import Wiring
from agentdag.plan.work import Work, retries_of_its_own

MAX_SHOWN = 20
"""Nodes of a cycle that are named."""
DEFAULT_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Compiled:
    """What came of one file: a plan unless there are errors, and all findings in file order."""

    plan: Plan | None
    findings: tuple[Finding, ...]


def compile_file(
    path: Path,
    *,
    provider_types: Mapping[str, frozenset[str]],
    allowed: Sequence[Path] = (),
    lint: Pricing | None = None,
) -> Compiled:
    """Read and compile the pipeline at *path* (`-` reads standard input). Raises nothing on bad input.

    *provider_types* are the kinds of provider that exist, each with the model parameters that it does not know;
    *allowed* are folders outside the pipeline's own from which it may read files. With *lint*, which knows
    the models that have a price, warnings are looked for as well.
    """
    try:
        if str(path) == "-":
            text, path = decode(sys.stdin.buffer.read(), "-"), Path("-")
        else:
            text = read_text(path, str(path))
        return compile_text(text, path, provider_types=provider_types, allowed=allowed, lint=lint)
    except SpecError as error:
        return Compiled(None, error.findings)


def compile_text(
    text: str,
    path: Path,
    *,
    provider_types: Mapping[str, frozenset[str]],
    allowed: Sequence[Path] = (),
    lint: Pricing | None = None,
) -> Compiled:
    """As `compile_file`, of *text*; files that it names are relative to the folder of *path*."""
    return _compile(text, path, _ALONE, provider_types=provider_types, allowed=allowed, lint=lint)


def _compile(
    text: str,
    path: Path,
    within: Within,
    *,
    provider_types: Mapping[str, frozenset[str]],
    allowed: Sequence[Path] = (),
    lint: Pricing | None = None,
) -> Compiled:
    """As `compile_text`, of a pipeline that runs *within* others."""
    try:
        document, findings = parse_document(text, str(path))
    except SpecError as error:
        return Compiled(None, masked(error.findings, list(written_secrets(text))))
    report = Report(document)
    report.findings += findings
    collecting = gc.isenabled()
    gc.disable()  # many small objects, none of them garbage: see document.py
    try:
        checked = check_document(document, report)
        plan = None
        if checked.spec is not None:
            compiler = _Compiler(checked.spec, checked, report, path, provider_types, tuple(allowed), within)
            plan = compiler.compile()
        secrets = list(written_secrets(text))
        if plan is not None:
            plan = replace(plan, source=starred(text, secrets))
        if lint is not None and plan is not None and not report.findings:
            _lint(compiler, plan, secrets, lint)
    finally:
        if collecting:
            gc.enable()
    found = masked(in_order(report.findings), secrets)
    return Compiled(None if any(f.severity == "error" for f in found) else plan, found)


def _lint(compiler: _Compiler, plan: Plan, secrets: Sequence[str], pricing: Pricing) -> None:
    """Everything that is allowed and most likely a mistake."""
    report = compiler.report
    Linter(plan, compiler.spec, compiler.drafts, report, pricing).lint()
    source = report.document.source
    for secret in secrets:
        span = source.span_at(source.text.find(secret), len(secret))
        hint = "replace this key, and read the new one from the environment: ${NAME}"
        report.add("AD607", span, "a secret is written into the file", hint)
    report.tell_idle_ignores(codes().keys())


class Within(NamedTuple):
    """Which pipelines run the one that is compiled, and by which names it reads what models may have written."""

    files: tuple[Path, ...] = ()
    model_text: frozenset[str] = MODEL_TEXT


_ALONE = Within()


@dataclass
class _Compiler:
    spec: PipelineSpec
    checked: Checked
    report: Report
    path: Path
    provider_types: Mapping[str, frozenset[str]]
    allowed: tuple[Path, ...]
    within: Within
    drafts: dict[str, Draft] = field(default_factory=dict)

    def compile(self) -> Plan | None:
        """The plan; what is None or half-done is so because the report holds an error."""
        check_input_specs(self.spec.inputs, self.report, self.path.parent, self.allowed)
        compiler = NodeCompiler(
            self.spec,
            self.checked,
            self.report,
            self.path.parent,
            self.provider_types,
            self.allowed,
            self._body,
            self.within.model_text,
        )
        compiler.check_shared()
        for name, node in self.spec.nodes.items():
            if self._check_id(name):
                self.drafts[name] = compiler.draft(name, node)
        if not self.spec.nodes and not self.checked.is_damaged("nodes"):
            self.report.at(
                ("nodes",), "AD203", "a pipeline needs at least one node", "write `<id>: {prompt: ...}`", key=True
            )
        outputs = self._outputs()
        wiring = Wiring(self.spec, self.report, self._declared(), self.drafts)
        wiring.check_outputs(outputs)
        wiring.connect()
        for draft in self.drafts.values():
            self._check_barrier(draft)
        numbers = {name: number for number, name in enumerate(self.drafts)}
        needs = [[numbers[edge] for edge in draft.edges if edge in numbers] for draft in self.drafts.values()]
        graph = build_graph(needs)
        if graph is None:
            self._report_cycles(needs)
            return None
        check_effects(self.drafts, graph, self.report, self.path.parent)
        if any(finding.severity == "error" for finding in self.report.findings):
            return None
        return self._plan(graph, outputs, numbers)

    def _body(self, file: Path, model_text: frozenset[str], path: tuple[str | int, ...]) -> Plan | None:
        """The pipeline in *file*, which a node at *path* runs."""
        chain = (*self.within.files, self.path.resolve())
        if file in chain:
            way = " -> ".join(each.name for each in (*chain[chain.index(file) :], file))
            self.report.at(path, "AD406", f"these pipelines run each other: {way}", "remove one of these steps")
            return None
        place = Path(os.path.relpath(file, self.path.parent.resolve()))
        place = self.path.parent / place
        try:
            text = read_text(file, str(place))
        except SpecError as error:
            self.report.findings += error.findings
            return None
        within = Within(chain, model_text)
        compiled = _compile(text, place, within, provider_types=self.provider_types, allowed=self.allowed)
        self.report.findings += [each for each in compiled.findings if each.severity == "error"]
        return compiled.plan

    def _declared(self) -> Mapping[str, Any]:
        """The ids in the file, those of broken nodes among them."""
        raw = self.report.document.value.get("nodes")
        return raw if isinstance(raw, dict) else {}

    def _check_id(self, name: str) -> bool:
        path = ("nodes", name)
        if not IDENTIFIER.fullmatch(name):
            mend = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
            hint = f"write `{mend}`" if IDENTIFIER.fullmatch(mend) else "begin with a letter"
            message = f"the id `{name}` is not letters, digits and _, beginning with a letter"
            self.report.at(path, "AD202", message, hint, key=True)
            return False
        if name in RESERVED_IDS:
            message = f"the id `{name}` is reserved: templates use it for mappings"
            self.report.at(path, "AD202", message, "choose another id", key=True)
            return False
        return True

    def _outputs(self) -> dict[str, ValueTemplate]:
        outputs = {}
        for name, value in self.spec.outputs.items():
            outputs[name] = ValueTemplate.of(value, OUTPUT_NAMES)
            for path, template in outputs[name].leaves:
                for problem in template.problems:
                    self.report.in_template(("outputs", name, *path), problem)
        return outputs

    def _report_cycles(self, needs: Edges) -> None:
        names = list(self.drafts)
        for cycle in find_cycles(needs):
            if len(cycle) == 1:
                continue  # told as a self edge already
            start = cycle.index(min(cycle))
            way = [names[number] for number in (*cycle[start:], *cycle[:start])]
            shown = (
                way if len(way) <= MAX_SHOWN else [*way[: MAX_SHOWN - 1], f"... ({len(way) - MAX_SHOWN} more)", way[-1]]
            )
            path = " -> ".join((*shown, way[0]))
            message = f"these nodes wait for each other: {path}"
            hint = f"`a -> b` says that a needs b; remove one of these {len(way)} edges"
            self.report.add("AD403", self.drafts[way[0]].places[way[1]](), message, hint)

    def _plan(self, graph: Graph, outputs: Mapping[str, ValueTemplate], numbers: Mapping[str, int]) -> Plan:
        spec = self.spec
        nodes = tuple(self._node(draft, graph.wave_of[numbers[draft.id]]) for draft in self.drafts.values())
        if spec.defaults.cache_warm:
            nodes = with_leads(nodes)
        nodes = with_item_leads(nodes)
        return Plan(
            name=spec.name or (self.path.stem if str(self.path) != "-" else "pipeline"),
            description=spec.description,
            path=self.path,
            inputs=spec.inputs,
            providers=self._providers(),
            nodes=nodes,
            graph=graph,
            tools=spec.tools,
            outputs=outputs,
            concurrency=spec.limits.concurrency,
            timeout_s=spec.limits.timeout,
            fail_fast=spec.limits.fail_fast,
            schedule="eager" if spec.schedule.waves is None else "waves",
            wave_timeout_s=None if spec.schedule.waves is None else spec.schedule.waves.timeout,
            tiers=tuple(Tier(name, model_ref(tier.model), said(tier)) for name, tier in spec.tiers.items()),
            defaults=said(spec.defaults),
            budget=_budget(spec.budget),
            queue=spec.limits.queue,
            cache_warm=spec.defaults.cache_warm,
            allowed=self.allowed,
        )

    def _providers(self) -> dict[str, ProviderSpec]:
        """Those of the file, and those of the pipelines that its nodes run."""
        known = dict(self.spec.providers)
        for draft in self.drafts.values():
            for name, provider in draft.body.providers.items() if draft.body is not None else ():
                if known.setdefault(name, provider) != provider:
                    path = ("nodes", draft.id, "pipeline")
                    message = f"`{draft.spec.pipeline}` says something else of the provider `{name}`"
                    self.report.at(path, "AD205", message, "let both say the same, or rename one")
        return known

    def _check_barrier(self, draft: Draft) -> None:
        """Refuse a barrier of nothing, and one that can never open."""
        own, told = draft.spec.barrier, draft.barrier
        needs = len(draft.edges) if draft.spec.needs is None else len(draft.spec.needs)
        path = ("nodes", draft.id, "barrier")
        if own is not None and not own.plain and not needs and not self.checked.is_damaged("nodes", draft.id):
            message = f"`{draft.id}` needs nothing, so its barrier has nothing to wait for"
            self.report.at(path, "AD404", message, "remove it, or list what it joins under `needs:`", key=True)
        if own is None and needs < 2:
            self._refuse_pass_names(draft)
            return
        if told is None:
            return
        for key, number in (("wait_for", told.wait_for), ("min", told.min)):
            if number is not None and number > needs > 0:
                joins = f"`{draft.id}` joins {needs} node{'' if needs == 1 else 's'}"
                message = f"{joins}, so {number} can never succeed: its barrier never opens"
                hint = f"write `{key}: {needs}` or less"
                place: tuple[str, ...] = (*path, key)
                if own is None:
                    message += " (`defaults.barrier` says so)"
                    place = ("nodes", draft.id)
                self.report.at(place, "AD404", message, hint, key=own is None)

    def _refuse_pass_names(self, draft: Draft) -> None:
        """What only a progressive join sees; `defaults.barrier` makes none of what has fewer than two needs."""
        for path, template, source in draft.templates if draft.barrier is not None else ():
            for read in template.reads:
                if read.root in PASS_NAMES - NODE_NAMES:
                    hint = f"only a join with `barrier: progressive` has `{read.root}`"
                    problem = Problem("AD302", f"`{read.root}` is not defined", hint, read.line, read.root)
                    self.report.in_template(path, problem, source)

    def _node(self, draft: Draft, wave: int) -> PlanNode:
        spec = draft.spec
        latency_s = spec.expect.latency if draft.body is None else _lasts_s(draft.body)
        needs = tuple(spec.needs) if spec.needs is not None else tuple(draft.edges)
        return PlanNode(
            id=draft.id,
            choices=tuple(Choice(work, self._policy(spec, work)) for work in draft.works if work is not None),
            edges=tuple(draft.edges),
            needs=needs,
            wave=wave,
            optional=spec.continue_on_failure,
            barrier=barrier_of(draft.barrier if spec.barrier is not None or len(needs) > 1 else None),
            idempotent=spec.idempotent,
            priority=PRIORITIES.index(spec.priority),
            expected_s=DEFAULT_LATENCY_S if latency_s is None else latency_s,
            assumed=latency_s is None,
            rehearsal=draft.rehearsal,
            tokens=spec.expect.tokens,
            simulated=draft.simulated,
            description=spec.description,
            cache_s=spec.cache,
            budget=_budget(spec.budget),
            bounded=spec.timeout is not None,
            answer=draft.answer,
            when=draft.when,
            foreach=draft.foreach,
            body=draft.body,
            repeat=draft.repeat,
            save=draft.save,
            writes=frozenset(spec.writes),
            reads_resources=frozenset(spec.reads),
        )

    def _policy(self, spec: NodeSpec, work: Work) -> Policy:
        retry = spec.retry or self.spec.defaults.retry or RetrySpec()
        hedge = spec.hedge
        return Policy(
            _timeout(spec.timeout, self.spec.defaults.timeout),
            retry.retries,
            retry.delay,
            retry.max_delay,
            _retried(retry, work),
            None if hedge is None else Hedge(None if hedge.after == P95 else hedge.after, hedge.max),
        )


def _lasts_s(body: Plan) -> float | None:
    """How long a pipeline that a node runs is expected to take; None where nothing is said of its nodes."""
    if all(node.assumed for node in body.nodes):
        return None
    return flat(body).forecast().critical_path_s


def _timeout(*layers: TimeoutSpec | None) -> Timeout:
    """The bounds of the first of *layers* that says something of each."""
    said: dict[str, Any] = {"attempt": DEFAULT_TIMEOUT_S}
    for layer in reversed(layers):
        if layer is not None:
            told = {key: getattr(layer, key) for key in ("attempt", "idle", "total")}
            said |= {key: value for key, value in told.items() if value is not None}
    attempt = said["attempt"]
    return Timeout(None if attempt == AUTO else attempt, said.get("idle"), said.get("total"))


def _budget(spec: NodeBudgetSpec | None) -> BudgetTerms | None:
    if spec is None:
        return None
    cost = None if spec.cost is None else Decimal(str(spec.cost))
    low = spec.when_low if isinstance(spec, BudgetSpec) else None
    return BudgetTerms(spec.tokens, cost, low.at, frozenset(low.do)) if low else BudgetTerms(spec.tokens, cost)


def _retried(retry: RetrySpec, work: Work) -> frozenset[ErrorKind]:
    """The failures that are tried again. What may have an effect is repeated only for what the file names."""
    if not retries_of_its_own(work) and "on" not in retry.model_fields_set:
        return frozenset()
    return _kinds(tuple(retry.on))


@cache
def _kinds(words: tuple[str, ...]) -> frozenset[ErrorKind]:
    return frozenset(ErrorKind(word) for word in words)
