"""Who does what a node asks: a model, a function, a remote agent or a program, or the simulator in its place."""

from __future__ import annotations

import json
import os
import shlex
from functools import partial
from typing import NamedTuple

from agentdag.agents.agent import Agent
from agentdag.agents.command import CommandAgent, search_path
from agentdag.agents.function import FunctionAgent, StandInAgent
from agentdag.agents.http import HttpAgent, HttpRequest
from agentdag.agents.llm import ModelAgent, Terms, unheard, unpriced
from agentdag.calls import Amount, Exchange, Provider, Request, Usage, size_of
from agentdag.engine.afford import Bound, bounded, claim_of, degraded
from agentdag.engine.asks import Asked, Called, Fetched, Prompted, Ran
from agentdag.engine.run import Run
from agentdag.engine.scope import Instance
from agentdag.language.templates import TemplateError
from agentdag.limits.budget import Budget
from agentdag.limits.policy import Policy
from agentdag.limits.turn import Claim
from agentdag.plan.files import is_within
from agentdag.plan.plan import PlanNode
from agentdag.plan.work import Act, CallWork, CommandWork, HttpWork, PromptWork


class Made(NamedTuple):
    """Who does it, what a call may cost at the most where that is bounded, and what a low budget has made of it."""

    agent: Agent
    worst: Amount | None = None
    model: str | None = None
    degraded: tuple[str, ...] = ()
    bound: Bound | None = None
    """The longest answer, where a budget sets it."""


class Means(NamedTuple):
    """Under which bounds a node acts, what pays for it, and what a conversation of it has come to already."""

    policy: Policy
    purse: Budget | None
    past: tuple[Exchange, ...] = ()


def agent_for(instance: Instance, work: Act, asked: Asked, means: Means) -> Made:
    """Who does what *work* has *asked*; raises TemplateError where that leads out of the pipeline's folder."""
    run, node = instance.scope.run, instance.node
    simulator = run.simulator if run.simulator is not None and run.simulates(node) else None
    if isinstance(asked, Prompted):
        assert isinstance(work, PromptWork)
        return _model_agent(instance, work, asked, means, simulator)
    reader = run.reader(node.answer)
    if simulator is not None:
        form = None if reader is None else reader.form
        return Made(StandInAgent(simulator, node.rehearsal, _in_short(asked), form, isinstance(work, CallWork)))
    if isinstance(asked, Fetched):
        assert isinstance(work, HttpWork)
        return Made(_http_agent(run, node, work, asked))
    if isinstance(asked, Ran):
        assert isinstance(work, CommandWork)
        return Made(_command_agent(instance, work, asked))
    assert isinstance(work, CallWork)
    return Made(FunctionAgent(run.functions[work.key], asked.arguments, reader))


def _in_short(asked: Called | Fetched | Ran) -> str:
    """What would be done."""
    match asked:
        case Ran():
            return shlex.join(asked.argv)
        case Fetched():
            return f"{asked.method} {asked.url}"
    return json.dumps(asked.plain(), ensure_ascii=False)


def _model_agent(
    instance: Instance, work: PromptWork, asked: Prompted, means: Means, simulator: Provider | None
) -> Made:
    run, node = instance.scope.run, instance.node
    done: tuple[str, ...] = ()
    if run.budget is not None:
        asked, done = degraded(run, instance.scope.plan, work, asked)
    model, purse, reader = str(asked.model), means.purse, run.reader(node.answer)
    lane = run.lanes(asked.model)
    counts = lane is not None and lane.counts_tokens
    form = None if reader is None else reader.form
    size = size_of(asked.prompt, asked.system) if counts or purse is not None else 0
    tooling = work.tooling
    if form is not None and form.schema is not None:
        size += size_of(json.dumps(form.schema))
    bound = None
    if purse is not None:
        asked, bound = bounded(instance, asked, size, purse)
    claim = claim_of(run, node, asked, size, purse, lane)
    prices = run.prices(asked.model)
    request = Request(
        node=instance.name,
        attempt=1,
        model=asked.model.name,
        prompt=asked.prompt,
        system=asked.system,
        sampling=asked.sampling,
        stream=run.stream or means.policy.timeout.idle_s is not None or claim.prefix is not None,
        timeout_s=means.policy.attempt_s,
        rehearsal=node.rehearsal,
        provider=asked.model.provider,
        lead=None if claim.prefix is None else asked.lead or 0,
        cache_key=claim.prefix,
        form=form,
        bounded=bound is not None,
    )
    heard = partial(run.estimates.learn, node.id, model) if counts else None
    terms = None
    if reader is not None or tooling is not None:

        def longer(more: int) -> Claim:
            return claim_of(run, node, asked, size + more, purse, lane)

        def learn(more: int, usage: Usage) -> None:
            if heard is not None:
                heard(size + more, usage)

        plays = simulator is not None
        open_box = None if tooling is None else partial(run.toolbox, tooling, plays)
        turns = 1 if tooling is None else tooling.max_turns
        terms = Terms(reader, longer, learn, means.past, open_box, turns)
    provider = simulator or run.providers[asked.model.provider]
    agent = ModelAgent(
        provider,
        request,
        claim,
        run.redact,
        billed=not getattr(provider, "free", False),
        price=unpriced if prices is None else prices.of,
        heard=unheard if heard is None else partial(heard, size),
        terms=terms,
        limited_by=None if bound is None else bound.reason,
    )
    return Made(agent, claim.worst if purse is not None else None, model, done, bound)


def _http_agent(run: Run, node: PlanNode, work: HttpWork, asked: Fetched) -> HttpAgent:
    headers = {name: run.fill(work.headers[name].text, text) for name, text in asked.headers.items()}
    if asked.is_json and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = "application/json"
    body = None if asked.body is None else asked.body.encode("utf-8", "replace")
    request = HttpRequest(asked.method, asked.url, headers, body, asked.private)
    return HttpAgent(run.http, request, run.redact, run.reader(node.answer), as_text=node.answer.is_text)


def _command_agent(instance: Instance, work: CommandWork, asked: Ran) -> CommandAgent:
    run, node, folder = instance.scope.run, instance.node, instance.scope.plan.path.parent
    cwd = folder if asked.cwd is None else folder / asked.cwd
    if not is_within(cwd, folder, run.plan.allowed):
        raise TemplateError(f"`{asked.cwd}` is outside the pipeline's folder")
    env = {
        **os.environ,
        "PATH": search_path(),
        **{name: run.fill(work.env[name].text, text) for name, text in asked.env.items()},
    }
    program, *arguments = asked.argv
    if "/" in program:  # relative to the pipeline, not to where the program runs
        program = str((folder / program).resolve())
    argv, reader = (program, *arguments), run.reader(node.answer)
    return CommandAgent(run.programs, argv, asked.stdin, env, cwd.resolve(), run.redact, reader)
