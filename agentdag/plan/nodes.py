"""Each node by itself: its kind, its model, its templates and files.

How nodes depend on each other stands in `plan/wiring.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentdag.calls import Rehearsal
from agentdag.errors import ErrorKind
from agentdag.language.check import Checked, Report
from agentdag.language.document import Source
from agentdag.language.findings import did_you_mean
from agentdag.language.rules import BarrierSpec, ForeachSpec
from agentdag.language.spec import (
    KIND_NAMES,
    KINDS,
    OWN_KEYS,
    SAMPLING_KEYS,
    FallbackSpec,
    NodeSpec,
    PipelineSpec,
    SamplingSpec,
)
from agentdag.language.templates import MODEL_TEXT, PASS_NAMES, Template, ValueTemplate
from agentdag.plan.answers import Answers, misfit
from agentdag.plan.barrier import ALL, barrier_of
from agentdag.plan.drafts import Draft, Path_, Texts
from agentdag.plan.files import FileProblem, is_within, locate, read
from agentdag.plan.functions import Functions
from agentdag.plan.kinds import Kinds
from agentdag.plan.plan import Plan, merged_sampling
from agentdag.plan.tools import tools_of
from agentdag.plan.work import AS_IT_COMES, Foreach, ModelRef, PipelineWork, PromptWork, Repeat, Tooling, Work

CompileBody = Callable[[Path, frozenset[str], Path_], Plan | None]
"""Compiles the pipeline in a file that a node at a place names; what may be a model's words is said by name."""


@dataclass
class NodeCompiler:
    """Compiles the nodes of one pipeline; problems go to the report."""

    spec: PipelineSpec
    checked: Checked
    report: Report
    folder: Path
    provider_types: Mapping[str, frozenset[str]]
    allowed: tuple[Path, ...]
    compile_body: CompileBody
    model_text: frozenset[str] = MODEL_TEXT
    """The names behind which stands what a model may have written."""

    def __post_init__(self) -> None:
        self._texts = Texts(self.report)
        functions = Functions(self.folder)
        self._kinds = Kinds(self._texts, functions, self.folder, self.allowed)
        self._answers = Answers(self.report, functions, self.folder, self.allowed)
        self._tools = tools_of(self.spec.tools, self._texts, functions, self.folder, self.allowed)
        self._defaults = said(self.spec.defaults)
        self._tiers = {name: said(tier) for name, tier in self.spec.tiers.items()}

    def check_shared(self) -> None:
        """Tiers, providers and defaults, which belong to no node."""
        for name, provider in self.spec.providers.items():
            kind = provider.type or name
            if kind not in self.provider_types:
                path = ("providers", name, "type") if provider.type else ("providers", name)
                known = ", ".join(sorted(self.provider_types))
                hint = did_you_mean(kind, self.provider_types) or f"known are {known}"
                message = f"there is no provider type `{kind}`"
                if provider.type is None:
                    message, hint = f"`{name}` does not say its type", f"write `type:` with one of {known}"
                self.report.at(path, "AD205", message, hint, key=not provider.type)
            for key in sorted(self.provider_types.get(kind, frozenset()) & provider.model_fields_set):
                message = f"`{key}` means nothing for a provider of type {kind}"
                self.report.at(("providers", name, key), "AD204", message, "remove it", key=True)
        for name, tier in self.spec.tiers.items():
            long = isinstance(self._texts.raw("tiers", name), dict)
            self._model(tier.model, ("tiers", name, "model") if long else ("tiers", name))
        defaults = self.spec.defaults
        if defaults.tier is not None and defaults.model is not None:
            self.report.at(("defaults", "tier"), "AD204", "`tier` and `model` exclude each other", "keep one", key=True)
        if defaults.tier is not None:
            self._check_tier(defaults.tier, ("defaults", "tier"))
        if defaults.model is not None:
            self._model(defaults.model, ("defaults", "model"))

    def draft(self, name: str, node: NodeSpec) -> Draft:
        """The node *name*; a work of it is None where something is wrong with it."""
        draft = Draft(name, node, barrier=node.barrier or self._default_barrier(node), model_text=self.model_text)
        path = ("nodes", name)
        kinds = [key for key in KINDS if getattr(node, key) is not None]
        self._rounds(draft, path)
        work: Work | None = None
        if len(kinds) > 1:
            message = f"a node has one of {', '.join(KINDS)}: this one has {' and '.join(kinds)}"
            self.report.at((*path, kinds[1]), "AD204", message, "split it into two nodes", key=True)
        elif not kinds:
            if not self.checked.is_damaged("nodes", name):
                hint = f"give it {', '.join(f'`{kind}:`' for kind in KINDS[:-1])} or `{KINDS[-1]}:`"
                self.report.at(path, "AD203", f"`{name}` does nothing", hint, key=True)
        else:
            self._refuse_keys(node, path, kinds[0], KIND_NAMES[kinds[0]])
            work = self._work(draft, kinds[0], path)
        if node.output is not None:
            draft.answer = self._answers.answer(node.output, (*path, "output"))
        elif kinds[:1] in (["call"], ["http"]):
            draft.answer = AS_IT_COMES
        draft.works.append(work)
        for index, fallback in enumerate(node.fallback):
            draft.works.append(self._fallback(draft, work, fallback, (*path, "fallback", index)))
        self._check_rules(draft, path)
        self._rehearse(draft)
        return draft

    def _default_barrier(self, node: NodeSpec) -> BarrierSpec | None:
        """That of `defaults`, where the node can have it."""
        barrier = self.spec.defaults.barrier
        rounds = node.foreach is not None or node.repeat is not None or node.pipeline is not None
        return None if barrier is not None and barrier.progressive and rounds else barrier

    def _rounds(self, draft: Draft, path: Path_) -> None:
        """Whether the node runs, for which items, and how often."""
        node, texts = draft.spec, self._texts
        if node.when is not None:
            draft.when = texts.condition(draft, node.when, (*path, "when"), draft.base_names)
        if node.foreach is not None:
            draft.foreach = self._foreach(draft, node.foreach, (*path, "foreach"))
        if node.repeat is not None:
            names = draft.names | {"output"}
            until = texts.condition(draft, node.repeat.until, (*path, "repeat", "until"), names)
            draft.repeat = Repeat(until, node.repeat.max)
            if node.cache is not None:
                self.report.at(
                    (*path, "cache"), "AD204", "`cache` and `repeat` exclude each other", "keep one", key=True
                )
        if draft.barrier is not None and draft.barrier.progressive and node.barrier is not None:
            for key in ("foreach", "repeat", "pipeline"):
                if getattr(node, key) is not None:
                    message = f"`{key}` and a progressive barrier exclude each other"
                    self.report.at((*path, key), "AD204", message, "split it into two nodes", key=True)
        if node.save is not None:
            draft.save = texts.template(draft, node.save, (*path, "save"))
            self._check_save(draft, draft.save, (*path, "save"))

    def _foreach(self, draft: Draft, spec: ForeachSpec, path: Path_) -> Foreach:
        long = isinstance(self._texts.raw(*map(str, path)), dict)
        place: Path_ = (*path, "items") if long else path
        if isinstance(spec.items, str):
            self._texts.condition(draft, spec.items, place, draft.base_names)
        items = ValueTemplate.of(spec.items, draft.base_names)
        if spec.as_ in PASS_NAMES | {"index", "output"}:
            self.report.at(
                (*path, "as"), "AD202", f"templates read `{spec.as_}` as something else", "choose another name"
            )
        if isinstance(spec.items, list):
            draft.templates += [((*place, *leaf), template, None) for leaf, template in items.leaves]
        if any(read.root in MODEL_TEXT for template in items.templates for read in template.reads):
            draft.model_text |= {spec.as_}
        barrier = ALL if spec.barrier is None else barrier_of(spec.barrier)
        if barrier.progressive or barrier.keeps:
            word = "progressive" if barrier.progressive else "stragglers"
            message = f"the barrier of items knows no `{word}`"
            self.report.at((*path, "barrier"), "AD404", message, "write {wait_for: ...} or {timeout: ...}")
        demanded = barrier.demands()
        if isinstance(spec.items, list) and demanded > len(spec.items):
            message = f"there are {len(spec.items)} items, so {demanded} can never succeed: this barrier never opens"
            self.report.at((*path, "barrier"), "AD404", message, f"write {len(spec.items)} or less")
        null = spec.on_item_failure == "null"
        return Foreach(items, spec.as_, spec.concurrency, barrier, null, spec.cache_warm)

    def _check_save(self, draft: Draft, save: Template, path: Path_) -> None:
        if self._texts.refuse_model_text(draft, save, path, "a path"):
            return
        written = draft.spec.save or ""
        if not save.reads and (not written.strip() or not is_within(self.folder / written, self.folder, self.allowed)):
            message = f"`{written}` is outside the pipeline's folder"
            self.report.at(path, "AD206", message, "write it there, or allow its folder with --allow-path")
        foreach = draft.spec.foreach
        if foreach is not None and not any(read.root in {"index", foreach.as_} for read in save.reads):
            hint = "let the path read `index`"
            self.report.at(path, "AD405", f"every instance of `{draft.id}` would write this file", hint)

    def _work(self, draft: Draft, kind: str, path: Path_) -> Work | None:
        """What the node of *draft* does, of which *kind* it is."""
        node = draft.spec
        match kind:
            case "call":
                return self._kinds.call(draft, node, path)
            case "command":
                return self._kinds.command(draft, node, path)
            case "http":
                assert node.http is not None
                return self._kinds.http(draft, node.http, (*path, "http"))
            case "pipeline":
                return self._pipeline(draft, path)
        return self._prompt(draft)

    def _pipeline(self, draft: Draft, path: Path_) -> PipelineWork | None:
        """Another pipeline, compiled; what is wrong with it is told in its own words."""
        node = draft.spec
        assert node.pipeline is not None
        for key in ("retry", "hedge", "cache", "idempotent", "output", "expect", "simulate"):
            if key in node.model_fields_set:
                message = f"`{key}` means nothing for a node that runs a pipeline"
                self.report.at((*path, key), "AD204", message, "say it of the nodes in there", key=True)
        if node.timeout is not None and node.timeout.idle is not None:
            self.report.at((*path, "timeout", "idle"), "AD204", "only models stream", "remove it", key=True)
        place = (*path, "pipeline")
        try:
            file = locate(node.pipeline, self.folder, self.allowed)
        except FileProblem as problem:
            self.report.at(place, "AD206", str(problem), problem.hint)
            return None
        given = {
            name: self._texts.values(draft, value, (*path, "with", name)) for name, value in (node.with_ or {}).items()
        }
        tainted = {
            f"inputs.{name}"
            for name, value in given.items()
            if any(read.root in draft.model_text for template in value.templates for read in template.reads)
        }
        draft.body = self.compile_body(file, draft.model_text | tainted, place)
        if draft.body is None:
            return None
        inputs = draft.body.inputs
        for name in given:
            if name not in inputs:
                hint = did_you_mean(name, inputs) or (f"it has {', '.join(inputs)}" if inputs else "it has none")
                message = f"`{node.pipeline}` has no input `{name}`"
                self.report.at((*path, "with", name), "AD207", message, hint, key=True)
        missing = [name for name, spec in inputs.items() if spec.required and name not in given]
        if missing:
            told = " and ".join(f"`{name}`" for name in missing)
            self.report.at(place, "AD207", f"`{node.pipeline}` needs the input {told}", "give it under `with:`")
        return PipelineWork(node.pipeline, given)

    def _fallback(self, draft: Draft, own: Work | None, spec: FallbackSpec, path: Path_) -> Work | None:
        """What a fallback does: the node's own work, but for what *spec* changes."""
        if spec.call is not None:
            self._refuse_keys(spec, path, "call", "a fallback that calls a function")
            for key in ("prompt", "prompt_file"):
                if getattr(spec, key) is not None:
                    message = f"`{key}` means nothing for a fallback that calls a function"
                    self.report.at((*path, key), "AD204", message, "remove it", key=True)
            return self._kinds.call(draft, spec, path)
        self._refuse_keys(spec, path, "prompt", "a fallback that asks a model")
        if not spec.model_fields_set:
            self.report.at(path, "AD204", "this fallback changes nothing", "name another model, or change the prompt")
            return None
        if spec.prompt is not None and spec.prompt_file is not None:
            self.report.at((*path, "prompt_file"), "AD204", "`prompt` and `prompt_file` exclude each other", key=True)
            return None
        prompt = own.prompt if isinstance(own, PromptWork) else None
        system = own.system if isinstance(own, PromptWork) else None
        if spec.prompt is not None or spec.prompt_file is not None:
            prompt = self._prompt_template(draft, spec, path)
        elif own is not None and prompt is None:
            self.report.at(path, "AD203", "this fallback has nothing to ask", "give it a `prompt:`, or a `call:`")
        if spec.system is not None:
            system = self._texts.template(draft, spec.system, (*path, "system"))
        tier: str | None
        if spec.tier is not None or spec.model is not None or not isinstance(own, PromptWork):
            found = self._model_of(spec, path)
            if found is None:
                return None
            model, tier = found
        else:
            model, tier = own.model, own.tier
        if prompt is None:
            return None
        self._refuse_unsupported(spec, path, model)
        return self._asking(draft, prompt, system, model, tier, {**said(draft.spec), **said(spec)})

    def _check_rules(self, draft: Draft, path: Path_) -> None:
        """Bounds that mean nothing for this node, and hedges of what must not be made twice."""
        node = draft.spec
        asks = [work for work in draft.works if isinstance(work, PromptWork)]
        if node.hedge is not None and len(asks) < len(draft.works) and not node.idempotent and None not in draft.works:
            message = "this hedge may do a second time what is not always safe to be done twice"
            hint = "write `idempotent: true` if it is, or remove the hedge"
            self.report.at((*path, "hedge"), "AD208", message, hint, key=True)
        if node.cache is not None and any(template.is_of_the_run for _, template, _ in draft.templates):
            message = "an answer that depends on `run` or on a `latency` is of one run alone, and cannot be cached"
            self.report.at((*path, "cache"), "AD209", message, "remove it, or what the prompt reads", key=True)
        timeout = node.timeout
        if timeout is not None and timeout.idle is not None:
            hint = "remove it, or bound the attempt"
            if not asks and None not in draft.works:
                self.report.at((*path, "timeout", "idle"), "AD204", "only models stream", hint, key=True)
            for provider in {work.model.provider for work in asks}:
                spec = self.spec.providers.get(provider)
                if spec is not None and spec.stream is False:
                    message = f"`{provider}` does not stream, so there is no silence to bound"
                    self.report.at((*path, "timeout", "idle"), "AD204", message, hint, key=True)

    def _refuse_keys(self, node: NodeSpec | FallbackSpec, path: Path_, kind: str, name: str) -> None:
        """Refuse the keys that are of other kinds than *kind*."""
        others = {key for keys in OWN_KEYS.values() for key in keys} - set(OWN_KEYS[kind])
        said = {attribute.removesuffix("_") for attribute in node.model_fields_set}
        for key in sorted(others & said):
            self.report.at((*path, key), "AD204", f"`{key}` means nothing for {name}", "remove it", key=True)

    def _prompt(self, draft: Draft) -> PromptWork | None:
        node, path = draft.spec, ("nodes", draft.id)
        self._check_tools(draft, path)
        system = None if node.system is None else self._texts.template(draft, node.system, (*path, "system"))
        prompt = self._prompt_template(draft, node, path)
        model = self._model_of(node, path)
        if prompt is None or model is None:
            return None
        reference, tier = model
        self._refuse_unsupported(node, path, reference)
        return self._asking(draft, prompt, system, reference, tier, said(node))

    def _check_tools(self, draft: Draft, path: Path_) -> None:
        """Tools that are not there, bounds of what is not there, and hedges of what may have an effect."""
        node = draft.spec
        declared = self._texts.raw("tools")
        names = declared if isinstance(declared, dict) else {}
        for index, name in enumerate(node.tools or ()):
            place = (*path, "tools", index)
            if name not in names:
                hint = did_you_mean(name, names) or f"declare it: `tools: {{{name}: {{call: ...}}}}` at the top"
                self.report.at(place, "AD205", f"there is no tool `{name}`", hint)
            elif name in (node.tools or ())[:index]:
                self.report.at(place, "AD104", f"`{name}` is listed twice", "remove one")
        if not node.tools:
            for key in sorted({"max_turns", "tool_timeout", "tool_output_limit"} & node.model_fields_set):
                self.report.at((*path, key), "AD204", f"`{key}` means nothing without `tools`", "remove it", key=True)
        elif node.hedge is not None:
            message = "a conversation with tools cannot be held twice at once"
            self.report.at((*path, "hedge"), "AD208", message, "remove the hedge, or the tools", key=True)

    def _asking(
        self,
        draft: Draft,
        prompt: Template,
        system: Template | None,
        model: ModelRef,
        tier: str | None,
        own: Mapping[str, Any],
    ) -> PromptWork:
        provider = self.spec.providers.get(model.provider)
        shared = {} if provider is None or provider.service_tier is None else {"service_tier": provider.service_tier}
        sampling = merged_sampling(shared, self._defaults, self._tiers.get(tier or "", {}), own)
        node, tooling = draft.spec, None
        if node.tools:
            known = tuple(self._tools[name] for name in node.tools if name in self._tools)
            tooling = Tooling(known, node.max_turns, node.tool_timeout, node.tool_output_limit)
        return PromptWork(prompt, system, model, sampling, tier, own, tooling=tooling)

    def _refuse_unsupported(self, node: SamplingSpec, path: Path_, model: ModelRef) -> None:
        provider = self.spec.providers.get(model.provider)
        kind = (provider.type if provider else None) or model.provider
        for key in sorted(self.provider_types.get(kind, frozenset()) & node.model_fields_set):
            message = f"{kind} models know no `{key}`"
            self.report.at((*path, key), "AD204", message, "remove it", key=True)

    def _prompt_template(self, draft: Draft, node: NodeSpec | FallbackSpec, path: Path_) -> Template | None:
        if node.prompt is not None:
            if not node.prompt.strip():
                self.report.at((*path, "prompt"), "AD202", "this prompt is empty", "say what to ask the model")
            return self._texts.template(draft, node.prompt, (*path, "prompt"))
        assert node.prompt_file is not None
        try:
            file = locate(node.prompt_file, self.folder, self.allowed)
            text = read(file, node.prompt_file)
        except FileProblem as problem:
            self.report.at((*path, "prompt_file"), "AD206", str(problem), problem.hint)
            return None
        if not text.strip():
            self.report.at((*path, "prompt_file"), "AD206", "this prompt file is empty", "say what to ask the model")
        source = Source(str(self.folder / node.prompt_file), text)
        return self._texts.template(draft, text, (*path, "prompt_file"), source)

    def _model_of(self, node: NodeSpec | FallbackSpec, path: Path_) -> tuple[ModelRef, str | None] | None:
        """The model that *node* asks, and the tier it came from."""
        defaults = self.spec.defaults
        if node.tier is not None and node.model is not None:
            self.report.at((*path, "tier"), "AD204", "`tier` and `model` exclude each other", "keep one", key=True)
            return None
        if node.tier is not None:
            return self._tier_model(node.tier) if self._check_tier(node.tier, (*path, "tier")) else None
        if node.model is not None:
            model = self._model(node.model, (*path, "model"))
            return (model, None) if model else None
        if defaults.tier is not None:
            return self._tier_model(defaults.tier)
        if defaults.model is not None:
            model = model_ref(defaults.model)
            return (model, None)
        if not any(self.checked.is_damaged(*cut) for cut in (path, ("defaults",))):
            hint = "write `model: provider/name` here or under `defaults:`"
            self.report.at(path, "AD203", f"`{path[1]}` has no model", hint, key=True)
        return None

    def _tier_model(self, name: str) -> tuple[ModelRef, str | None] | None:
        tier = self.spec.tiers.get(name)
        return None if tier is None else (model_ref(tier.model), name)

    def _check_tier(self, name: str, path: Path_) -> bool:
        raw = self._texts.raw("tiers")
        declared = raw if isinstance(raw, dict) else {}
        if name in declared:
            return name in self.spec.tiers
        hint = did_you_mean(name, declared) or "declare it: `tiers: {%s: provider/model}`" % name  # noqa: UP031
        self.report.at(path, "AD205", f"there is no tier `{name}`", hint)
        return False

    def _model(self, text: str, path: Path_) -> ModelRef | None:
        model = model_ref(text)
        raw = self._texts.raw("providers")
        declared = set(raw) if isinstance(raw, dict) else set()
        known = declared | set(self.provider_types)
        if model.provider in known:
            return model
        hint = (
            did_you_mean(model.provider, known) or f"known are {', '.join(sorted(known))}; others go under `providers:`"
        )
        self.report.at(path, "AD205", f"there is no provider `{model.provider}`", hint)
        return None

    def _rehearse(self, draft: Draft) -> None:
        expect, simulate = draft.spec.expect, draft.spec.simulate
        play: dict[str, Any] = {}
        if simulate:
            rate = simulate.fail
            play = {"jitter": simulate.jitter, "output": simulate.output}
            if isinstance(rate, list):
                play["fail_first"] = tuple(ErrorKind(kind) for kind in rate)
            else:
                play["fail_rate"] = rate
        latency_s = simulate.latency if simulate and simulate.latency is not None else expect.latency
        if latency_s is not None:
            play["latency_s"] = latency_s
        if expect.tokens is not None:
            play["tokens"] = expect.tokens
        schema = draft.answer.schema
        if simulate and simulate.output is not None and schema is not None:
            wrong = misfit(simulate.output, schema)
            if wrong is not None:
                path = ("nodes", draft.id, "simulate", "output")
                self.report.at(path, "AD211", f"this is not what `output:` says: {wrong}", "let it fit", key=True)
        draft.rehearsal = Rehearsal(**play)
        draft.simulated = False if simulate is False else True if simulate is not None else None


def model_ref(text: str) -> ModelRef:
    """The model that *text*, `provider/name`, names."""
    provider, _, name = text.partition("/")
    return ModelRef(provider, name)


def said(spec: SamplingSpec) -> Mapping[str, Any]:
    """The model parameters that *spec* says, null too."""
    keys = spec.model_fields_set
    return {key: getattr(spec, key) for key in SAMPLING_KEYS if key in keys} if keys else {}
