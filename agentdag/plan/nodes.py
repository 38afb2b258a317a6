"""Each node by itself: its kind, its model, its templates and files.

How nodes depend on each other stands in `plan/wiring.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentdag.calls import Rehearsal, Sampling
from agentdag.errors import ErrorKind, Span
from agentdag.language.check import Checked, Report
from agentdag.language.document import Source
from agentdag.language.findings import did_you_mean
from agentdag.language.spec import CALL_KEYS, KINDS, PROMPT_KEYS, SAMPLING_KEYS, NodeSpec, PipelineSpec, SamplingSpec
from agentdag.language.templates import NODE_NAMES, Problem, Template, ValueTemplate
from agentdag.plan.files import FileProblem, locate, read
from agentdag.plan.functions import FunctionProblem, Functions, Parameters
from agentdag.plan.plan import CallWork, ModelRef, PromptWork

Path_ = tuple[str | int, ...]


@dataclass
class Draft:
    """A node on its way into the plan. `templates` are all its templates with their places."""

    id: str
    spec: NodeSpec
    work: PromptWork | CallWork | None = None
    templates: list[tuple[Path_, Template, Source | None]] = field(default_factory=list)
    source: Source | None = None
    """The prompt file, where there is one."""
    edges: list[str] = field(default_factory=list)
    places: dict[str, Callable[[], Span]] = field(default_factory=dict)
    """Tells where each edge is written; asked only where a cycle has to be shown."""
    rehearsal: Rehearsal = field(default_factory=Rehearsal)
    simulated: bool | None = None

    @property
    def prompt_text(self) -> str:
        return self.source.text if self.source is not None else ""


@dataclass
class NodeCompiler:
    """Compiles the nodes of one pipeline; problems go to the report."""

    spec: PipelineSpec
    checked: Checked
    report: Report
    folder: Path
    provider_types: Mapping[str, frozenset[str]]
    allowed: tuple[Path, ...]

    def __post_init__(self) -> None:
        self._functions = Functions(self.folder)

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
            long = isinstance(self._raw("tiers", name), dict)
            self._model(tier.model, ("tiers", name, "model") if long else ("tiers", name))
        defaults = self.spec.defaults
        if defaults.tier is not None and defaults.model is not None:
            self.report.at(("defaults", "tier"), "AD204", "`tier` and `model` exclude each other", "keep one", key=True)
        if defaults.tier is not None:
            self._check_tier(defaults.tier, ("defaults", "tier"))
        if defaults.model is not None:
            self._model(defaults.model, ("defaults", "model"))

    def draft(self, name: str, node: NodeSpec) -> Draft:
        """The node *name*; its `work` is None where something is wrong with it."""
        draft = Draft(name, node)
        path = ("nodes", name)
        kinds = [key for key in KINDS if getattr(node, key) is not None]
        if len(kinds) > 1:
            message = f"a node has one of {', '.join(KINDS)}: this one has {' and '.join(kinds)}"
            self.report.at((*path, kinds[1]), "AD204", message, "split it into two nodes", key=True)
        elif not kinds:
            if not self.checked.is_damaged("nodes", name):
                hint = "give it `prompt:`, `prompt_file:` or `call:`"
                self.report.at(path, "AD203", f"`{name}` does nothing", hint, key=True)
        elif kinds[0] == "call":
            self._refuse_keys(node, path, PROMPT_KEYS, "a node that calls a function")
            draft.work = self._call(draft)
        else:
            self._refuse_keys(node, path, CALL_KEYS, "a node with a prompt")
            draft.work = self._prompt(draft)
        self._rehearse(draft)
        return draft

    def _refuse_keys(self, node: NodeSpec, path: Path_, keys: frozenset[str], kind: str) -> None:
        for attribute in sorted(keys & node.model_fields_set):
            key = attribute.removesuffix("_")
            self.report.at((*path, key), "AD204", f"`{key}` means nothing for {kind}", "remove it", key=True)

    def _prompt(self, draft: Draft) -> PromptWork | None:
        node, path = draft.spec, ("nodes", draft.id)
        system = None if node.system is None else self._template(draft, node.system, (*path, "system"))
        prompt = self._prompt_template(draft)
        model = self._model_of(node, path)
        if prompt is None or model is None:
            return None
        reference, tier = model
        self._refuse_unsupported(node, path, reference)
        return PromptWork(prompt, system, reference, _sampling(self.spec.defaults, tier, node))

    def _refuse_unsupported(self, node: NodeSpec, path: Path_, model: ModelRef) -> None:
        provider = self.spec.providers.get(model.provider)
        kind = (provider.type if provider else None) or model.provider
        for key in sorted(self.provider_types.get(kind, frozenset()) & node.model_fields_set):
            message = f"{kind} models know no `{key}`"
            self.report.at((*path, key), "AD204", message, "remove it", key=True)

    def _prompt_template(self, draft: Draft) -> Template | None:
        node, path = draft.spec, ("nodes", draft.id)
        if node.prompt is not None:
            if not node.prompt.strip():
                self.report.at((*path, "prompt"), "AD202", "this prompt is empty", "say what to ask the model")
            return self._template(draft, node.prompt, (*path, "prompt"))
        assert node.prompt_file is not None
        try:
            file = locate(node.prompt_file, self.folder, self.allowed)
            text = read(file, node.prompt_file)
        except FileProblem as problem:
            self.report.at((*path, "prompt_file"), "AD206", str(problem), problem.hint)
            return None
        if not text.strip():
            self.report.at((*path, "prompt_file"), "AD206", "this prompt file is empty", "say what to ask the model")
        draft.source = Source(str(self.folder / node.prompt_file), text)
        return self._template(draft, text, (*path, "prompt_file"), draft.source)

    def _template(self, draft: Draft, text: str, path: Path_, source: Source | None = None) -> Template:
        template = Template(text, NODE_NAMES)
        for problem in template.problems:
            self.report.in_template(path, self._meant(problem), source)
        draft.templates.append((path, template, source))
        return template

    def _meant(self, problem: Problem) -> Problem:
        """*problem* with the mend, where an unknown name is that of a node or an input."""
        if problem.code == "AD302" and problem.message.endswith("is not defined"):
            for section, rest in (("nodes", ".output"), ("inputs", "")):
                declared = self._raw(section)
                if isinstance(declared, dict) and problem.needle in declared:
                    return replace(problem, hint=f"write `{section}.{problem.needle}{rest}`")
        return problem

    def _call(self, draft: Draft) -> CallWork | None:
        node, path = draft.spec, ("nodes", draft.id)
        assert node.call is not None
        arguments = {}
        for name, value in (node.with_ or {}).items():
            arguments[name] = ValueTemplate.of(value, NODE_NAMES)
            if not name.isidentifier():
                self.report.at((*path, "with", name), "AD202", f"`{name}` is no name of an argument", key=True)
            for leaf, template in arguments[name].leaves:
                place = (*path, "with", name, *leaf)
                for problem in template.problems:
                    self.report.in_template(place, self._meant(problem))
                draft.templates.append((place, template, None))
        module, function = node.call.split(":")
        try:
            self._functions.check(module, function)
        except FunctionProblem as problem:
            self.report.at((*path, "call"), "AD207", str(problem), problem.hint)
            return None
        self._check_arguments(node.call, self._functions.parameters(module, function), arguments, path)
        return CallWork(module, function, arguments)

    def _check_arguments(
        self, call: str, taken: Parameters | None, given: Mapping[str, ValueTemplate], path: Path_
    ) -> None:
        if taken is None:
            return
        unknown = [name for name in given if taken.accepted is not None and name not in taken.accepted]
        for name in unknown:
            known = sorted(taken.accepted or ())
            hint = did_you_mean(name, known) or (f"it takes {', '.join(known)}" if known else "it takes nothing")
            self.report.at((*path, "with", name), "AD207", f"`{call}` takes no `{name}`", hint, key=True)
        missing = [name for name in taken.required if name not in given]
        if missing and not unknown:
            told = " and ".join(f"`{name}`" for name in missing)
            self.report.at((*path, "call"), "AD207", f"`{call}` needs {told}", "give it under `with:`")

    def _model_of(self, node: NodeSpec, path: Path_) -> tuple[ModelRef, SamplingSpec | None] | None:
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
            model = _split(defaults.model)
            return (model, None)
        if not any(self.checked.is_damaged(*cut) for cut in (path, ("defaults",))):  # type: ignore[arg-type]
            hint = "write `model: provider/name` here or under `defaults:`"
            self.report.at(path, "AD203", f"`{path[-1]}` has no model", hint, key=True)
        return None

    def _tier_model(self, name: str) -> tuple[ModelRef, SamplingSpec | None] | None:
        tier = self.spec.tiers.get(name)
        return None if tier is None else (_split(tier.model), tier)

    def _check_tier(self, name: str, path: Path_) -> bool:
        raw = self._raw("tiers")
        declared = raw if isinstance(raw, dict) else {}
        if name in declared:
            return name in self.spec.tiers
        hint = did_you_mean(name, declared) or "declare it: `tiers: {%s: provider/model}`" % name  # noqa: UP031
        self.report.at(path, "AD205", f"there is no tier `{name}`", hint)
        return False

    def _model(self, text: str, path: Path_) -> ModelRef | None:
        model = _split(text)
        raw = self._raw("providers")
        declared = set(raw) if isinstance(raw, dict) else set()
        known = declared | set(self.provider_types)
        if model.provider in known:
            return model
        hint = (
            did_you_mean(model.provider, known) or f"known are {', '.join(sorted(known))}; others go under `providers:`"
        )
        self.report.at(path, "AD205", f"there is no provider `{model.provider}`", hint)
        return None

    def _raw(self, *path: str) -> Any:
        value: Any = self.report.document.value
        for step in path:
            value = value.get(step) if isinstance(value, Mapping) else None
        return value

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
        if expect.latency is not None:
            play["latency_s"] = expect.latency
        if expect.tokens is not None:
            play["tokens"] = expect.tokens
        draft.rehearsal = Rehearsal(**play)
        draft.simulated = False if simulate is False else True if simulate is not None else None


def _split(text: str) -> ModelRef:
    provider, _, name = text.partition("/")
    return ModelRef(provider, name)


def _sampling(*layers: SamplingSpec | None) -> Sampling:
    """The model parameters of *layers*, later ones winning; `params` are merged."""
    merged: dict[str, Any] = {}
    params: dict[str, Any] = {}
    for layer in layers:
        if layer is None:
            continue
        for key in SAMPLING_KEYS:
            value = getattr(layer, key)
            if value is not None:
                merged[key] = value
        params |= layer.params or {}
    merged["stop"] = tuple(merged.get("stop", ()))
    return Sampling(**{**merged, "params": params})
