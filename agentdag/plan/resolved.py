"""A plan written out as a pipeline: prompts and models in place, edges and defaults filled in.

What is written compiles to the same plan, wherever its file stands. Keys that were written down are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from agentdag.calls import Sampling
from agentdag.language.answers import SCHEMA
from agentdag.language.rules import AUTO, P95
from agentdag.language.scalars import PRIORITIES, duration_text
from agentdag.language.secrets import starred, written_secrets
from agentdag.language.spec import SAMPLING_KEYS
from agentdag.language.templates import Template, ValueTemplate
from agentdag.limits.policy import Timeout
from agentdag.plan.barrier import ALL, Barrier
from agentdag.plan.plan import BudgetTerms, Plan, PlanNode
from agentdag.plan.work import (
    AS_JSON,
    AS_TEXT,
    Answer,
    CallWork,
    CommandWork,
    Foreach,
    HttpWork,
    PipelineWork,
    PromptWork,
    Work,
)
from agentdag.written import written


def resolved(plan: Plan) -> str:
    """*plan* as YAML."""
    limits = {
        "concurrency": plan.concurrency,
        "queue": plan.queue,
        "timeout": _duration(plan.timeout_s),
        "fail_fast": plan.fail_fast,
    }
    whole = {
        "version": 1,
        "name": plan.name,
        "description": plan.description,
        "inputs": {name: spec.model_dump(exclude_unset=True) for name, spec in plan.inputs.items()},
        "providers": {name: spec.model_dump(exclude_unset=True) for name, spec in plan.providers.items()},
        "tiers": {tier.name: {"model": str(tier.model), **tier.said} for tier in plan.tiers},
        "limits": _said(limits),
        "budget": _budget(plan.budget),
        "defaults": {**plan.defaults, **({"cache_warm": True} if plan.cache_warm else {})},
        "schedule": _schedule(plan),
        "tools": {name: _said(spec.model_dump(exclude_unset=True, by_alias=True)) for name, spec in plan.tools.items()},
        "nodes": {node.id: _node(node, plan) for node in plan.nodes},
        "outputs": {name: _written(value.value) for name, value in plan.outputs.items()},
    }
    text = written(_said(whole))
    return starred(text, list(written_secrets(text)))


def _schedule(plan: Plan) -> Any:
    if plan.wave_timeout_s is None:
        return plan.schedule
    return {"waves": {"timeout": duration_text(plan.wave_timeout_s)}}


def _budget(terms: BudgetTerms | None) -> dict[str, Any] | None:
    if terms is None:
        return None
    low = {"at": terms.low_at, "do": sorted(terms.actions)} if terms.actions else None
    cost = None if terms.cost_usd is None else float(terms.cost_usd)
    return _said({"tokens": terms.tokens, "cost": cost, "when_low": low})


def _node(node: PlanNode, plan: Plan) -> dict[str, Any]:
    told = {
        "description": node.description,
        **_work(node.work, plan.defaults),
        "when": _written(node.when),
        "foreach": None if node.foreach is None else _foreach(node.foreach),
        "repeat": None if node.repeat is None else {"until": node.repeat.until.text, "max": node.repeat.most},
        "reads": sorted(node.reads_resources),
        "writes": sorted(node.writes),
        "save": _written(node.save),
        "needs": list(node.needs),
        "barrier": _barrier(node.barrier),
        "continue_on_failure": node.optional,
        "fallback": [_fallback(node.work, choice.work, plan.defaults) for choice in node.choices[1:]],
        "budget": _budget(node.budget),
        "priority": PRIORITIES[node.priority],
        **(_acting(node) if node.body is None else {}),
    }
    if node.bounded or node.body is None:
        told["timeout"] = _timeout(node.policy.timeout)
    return _said(told, keep=("needs",))


def _acting(node: PlanNode) -> dict[str, Any]:
    """What is said of a node that acts by itself, and not of one that runs a pipeline."""
    hedge = node.policy.hedge
    return {
        "output": _output(node.answer),
        "retry": _retry(node),
        "hedge": None if hedge is None else {"after": _duration(hedge.after_s) or P95, "max": hedge.most},
        "idempotent": node.idempotent,
        "cache": True if node.cache_s == math.inf else _duration(node.cache_s),
        "expect": _said({"latency": None if node.assumed else _duration(node.expected_s), "tokens": node.tokens}),
        "simulate": _simulate(node),
    }


def _retry(node: PlanNode) -> dict[str, Any]:
    """Its `on` is left out where it is not that of every fallback, and so not what the file says."""
    policy = node.policy
    told = {
        "retries": policy.retries,
        "delay": _duration(policy.delay_s),
        "max_delay": _duration(policy.max_delay_s),
        "on": sorted(kind.value for kind in policy.on),
    }
    if any(choice.policy.on != policy.on for choice in node.choices):
        del told["on"]
    return told


def _fallback(own: Work, work: Work, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """As `_work`, with null for the parameters of the node that the fallback does not share."""
    told = _work(work, defaults)
    if isinstance(own, PromptWork) and isinstance(work, PromptWork):
        told |= {key: None for key in own.own if key not in told}
    return told


def _work(work: Work, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked of whom; with null for the parameters of `defaults` or of its tier that do not hold for it."""
    match work:
        case CallWork():
            return _said({"call": work.name, "with": _values(work.arguments)})
        case CommandWork():
            own = {"stdin": work.stdin, "env": dict(work.env), "cwd": work.cwd}
            return _said({"command": [each.text for each in work.argv], **_written(own)})
        case HttpWork():
            return {"http": _http(work)}
        case PipelineWork():
            return _said({"pipeline": work.file, "with": _values(work.arguments)})
    tools = {}
    if work.tooling is not None:
        tools = {
            "tools": [tool.name for tool in work.tooling.tools],
            "max_turns": work.tooling.max_turns,
            "tool_timeout": _duration(work.tooling.timeout_s),
            "tool_output_limit": work.tooling.limit,
        }
    texts = tools | _said({"system": None if work.system is None else work.system.text, "prompt": work.prompt.text})
    if work.tier is not None:
        return {"tier": work.tier, **work.own, **texts}
    return {"model": str(work.model), **dict.fromkeys(defaults), **work.own, **_sampling(work.sampling), **texts}


def _http(work: HttpWork) -> dict[str, Any]:
    told = {"url": work.url, "method": work.method, "headers": dict(work.headers), "body": work.body}
    sent = {} if work.json is None else {"json": _written(work.json.value)}
    return _said(_written(told)) | sent | _said({"allow_private": work.private or None})


def _output(answer: Answer) -> Any:
    if answer.form == SCHEMA:
        return {"schema": answer.model or answer.schema}
    return answer.form if answer in {AS_TEXT, AS_JSON} else None


def _timeout(timeout: Timeout) -> Any:
    attempt = AUTO if timeout.attempt_s is None else duration_text(timeout.attempt_s)
    more = _said({"idle": _duration(timeout.idle_s), "total": _duration(timeout.total_s)})
    return {"attempt": attempt, **more} if more else attempt


def _foreach(each: Foreach) -> dict[str, Any]:
    own = {"as": each.name, "concurrency": each.concurrency, "barrier": _barrier(each.barrier)}
    told = {"items": _written(each.items.value), **_said(own), "on_item_failure": "null" if each.null else "fail"}
    return told | {"cache_warm": True} if each.cache_warm else told


def _barrier(rule: Barrier) -> Any:
    if rule == ALL:
        return None
    return _said(
        {
            "timeout": _duration(rule.timeout_s),
            "deadline": _duration(rule.deadline_s),
            "wait_for": rule.wait_for,
            "progressive": rule.progressive or None,
            "min": rule.minimum,
            "stragglers": "keep" if rule.keeps else "cancel",
        }
    )


def _simulate(node: PlanNode) -> Any:
    if node.simulated is not True:
        return node.simulated
    play = node.rehearsal
    failures = [kind.value for kind in play.fail_first] or play.fail_rate
    latency = None if play.latency_s == node.expected_s else _duration(play.latency_s)
    return _said({"latency": latency, "jitter": play.jitter, "fail": failures, "output": play.output}, keep=("jitter",))


def _sampling(sampling: Sampling) -> dict[str, Any]:
    values = {key: getattr(sampling, key) for key in SAMPLING_KEYS}
    return _said({**values, "stop": list(sampling.stop), "params": dict(sampling.params)})


def _values(arguments: Mapping[str, ValueTemplate]) -> dict[str, Any]:
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
