"""A plan written out as a pipeline: prompts and models in place, edges and defaults filled in.

What is written compiles to the same plan, wherever its file stands. Keys that were written down are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from agentdag.calls import Sampling
from agentdag.language.scalars import PRIORITIES, duration_text
from agentdag.language.secrets import starred, written_secrets
from agentdag.language.spec import SAMPLING_KEYS
from agentdag.language.templates import Template, ValueTemplate
from agentdag.plan.plan import Plan, PlanNode, PromptWork

_LIKE_A_NUMBER = re.compile(r"[-+.0-9][-+.0-9a-fA-FxXoO_eE]*")


def resolved(plan: Plan) -> str:
    """*plan* as YAML."""
    limits = {"concurrency": plan.concurrency, "timeout": _duration(plan.timeout_s), "fail_fast": plan.fail_fast}
    whole = {
        "version": 1,
        "name": plan.name,
        "description": plan.description,
        "inputs": {name: spec.model_dump(exclude_unset=True) for name, spec in plan.inputs.items()},
        "providers": {name: spec.model_dump(exclude_unset=True) for name, spec in plan.providers.items()},
        "limits": _said(limits),
        "schedule": plan.schedule,
        "nodes": {node.id: _node(node) for node in plan.nodes},
        "outputs": {name: _written(value.value) for name, value in plan.outputs.items()},
    }
    text = yaml.dump(_said(whole), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return starred(text, list(written_secrets(text)))


def _node(node: PlanNode) -> dict[str, Any]:
    work, policy = node.work, node.policy
    told: dict[str, Any] = {"description": node.description}
    if isinstance(work, PromptWork):
        told |= {"model": str(work.model), **_sampling(work.sampling)}
        told |= {"system": None if work.system is None else work.system.text, "prompt": work.prompt.text}
    else:
        told |= {"call": f"{work.module}:{work.function}", "with": _arguments(work.arguments)}
    return _said(
        told
        | {
            "needs": list(node.needs),
            "continue_on_failure": node.optional,
            "timeout": _duration(policy.timeout_s),
            "retry": {
                "retries": policy.retries,
                "delay": _duration(policy.delay_s),
                "max_delay": _duration(policy.max_delay_s),
                "on": sorted(kind.value for kind in policy.on),
            },
            "priority": PRIORITIES[node.priority],
            "expect": _said({"latency": None if node.assumed else _duration(node.expected_s), "tokens": node.tokens}),
            "simulate": _simulate(node),
        },
        keep=("needs",),
    )


def _simulate(node: PlanNode) -> Any:
    if node.simulated is not True:
        return node.simulated
    play = node.rehearsal
    failures = [kind.value for kind in play.fail_first] or play.fail_rate
    return _said({"jitter": play.jitter, "fail": failures, "output": play.output}, keep=("jitter",))


def _sampling(sampling: Sampling) -> dict[str, Any]:
    values = {key: getattr(sampling, key) for key in SAMPLING_KEYS}
    return _said({**values, "stop": list(sampling.stop), "params": dict(sampling.params)})


def _arguments(arguments: Mapping[str, ValueTemplate]) -> dict[str, Any]:
    return {name: _written(value.value) for name, value in arguments.items()}


def _written(part: Any) -> Any:
    """A value with its templates as they were written."""
    if isinstance(part, Template):
        return part.text
    if isinstance(part, dict):
        return {key: _written(item) for key, item in part.items()}
    return [_written(item) for item in part] if isinstance(part, list) else part


def _said(values: Mapping[str, Any], keep: Iterable[str] = ()) -> dict[str, Any]:
    """*values* without what says nothing."""
    return {key: value for key, value in values.items() if key in keep or (value is not None and value not in ({}, []))}


def _duration(seconds: float | None) -> str | None:
    return None if seconds is None else duration_text(seconds)


class _Dumper(yaml.SafeDumper):
    """Writes long texts as blocks, and in quotes whatever one version of YAML or another would take for a number."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML asks
        return True


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else '"' if _LIKE_A_NUMBER.fullmatch(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _list(dumper: _Dumper, value: list[Any]) -> yaml.SequenceNode:
    plain = all(isinstance(item, (int, float)) or (isinstance(item, str) and len(item) < 40) for item in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=plain)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)
