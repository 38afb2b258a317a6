"""What the models of a pipeline are known to refuse of what it says, and limits that leave no room for thinking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agentdag.calls import Sampling
from agentdag.language.check import Report
from agentdag.language.spec import PipelineSpec, ProviderSpec
from agentdag.plan.plan import Plan, PlanNode
from agentdag.plan.work import PromptWork
from agentdag.providers.addresses import is_openais_own, misaddressed
from agentdag.providers.refusals import refused
from agentdag.providers.responses import CHAT_ONLY

Path_ = tuple[str | int, ...]
_OPENAI = frozenset({"openai", "azure"})


def lint_refusals(plan: Plan, spec: PipelineSpec, report: Report) -> None:
    """AD616 for what a model is known to refuse, AD617 for an address that is certainly another."""
    for node in plan.nodes:
        for path, work in _works(node):
            provider = spec.providers.get(work.model.provider) or ProviderSpec()
            kind = provider.type or work.model.provider
            if kind == "openai" and provider.base_url is not None and not is_openais_own(provider.base_url):
                continue  # whatever is there, it is not what these models are known from
            said = _said(work)
            for name, known in refused(kind, work.model.name, _api(kind, provider, work.sampling), said):
                message = f"`{work.model.name}` {known.refuses}"
                report.at(
                    _place(path, name, spec, node.id), "AD616", message, f"{known.instead} ({known.source})", key=True
                )
            _thinking(path, work.sampling, spec, node.id, report)
    for name, provider in spec.providers.items():
        better = None if provider.base_url is None else misaddressed(provider.type or name, provider.base_url)
        if better is not None:
            message = f"requests would go to {provider.base_url}/..., where nothing is"
            report.at(("providers", name, "base_url"), "AD617", message, f"write `base_url: {better}`")


def _works(node: PlanNode) -> Iterator[tuple[Path_, PromptWork]]:
    for number, choice in enumerate(node.choices):
        if isinstance(choice.work, PromptWork):
            path: Path_ = ("nodes", node.id)
            yield (path if not number else (*path, "fallback", number - 1)), choice.work


def _said(work: PromptWork) -> Mapping[str, Any]:
    """The parameters of a request as the file says them, `params.name` for those that are passed on."""
    said = work.sampling.said()
    params = said.pop("params", {})
    said |= {f"params.{name}": value for name, value in params.items()}
    if work.tooling is not None:
        said["tools"] = True
    return said


def _api(kind: str, provider: ProviderSpec, sampling: Sampling) -> str | None:
    """By which protocol of OpenAI's a request goes; None where it goes by none."""
    if kind not in _OPENAI:
        return None
    if provider.api in {"chat", "responses"}:
        return provider.api
    only_chat = sampling.stop or sampling.seed is not None or CHAT_ONLY & sampling.params.keys()
    return "chat" if only_chat else "responses"


def _place(path: Path_, name: str, spec: PipelineSpec, node: str) -> Path_:
    """Where the parameter *name* is said: at the node or its fallback, at its tier, or in the defaults."""
    key = name.partition(".")[0]
    if len(path) > 2:
        return path
    own = spec.nodes[node]
    if key in own.model_fields_set:
        return (*path, *name.split("."))
    tier = own.tier or (spec.defaults.tier if own.model is None else None)
    if tier is not None and key in spec.tiers[tier].model_fields_set:
        return ("tiers", tier, *name.split("."))
    return ("defaults", *name.split(".")) if key in spec.defaults.model_fields_set else path


def _thinking(path: Path_, sampling: Sampling, spec: PipelineSpec, node: str, report: Report) -> None:
    """`max_tokens` that thinking alone would use up."""
    budget, most = sampling.thinking, sampling.max_tokens
    if isinstance(budget, int) and most is not None and most <= budget:
        message = f"thinking may take {budget:,} tokens, and the whole answer no more than {most:,}"
        place = _place(path, "max_tokens", spec, node)
        report.at(place, "AD616", message, f"write `max_tokens: {budget + 4000}`, or less `thinking`", key=True)
