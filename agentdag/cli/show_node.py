"""`show RUN NODE`: what a node was asked, turn by turn, and what it answered."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentdag.calls import Usage
from agentdag.cli.columns import number, short
from agentdag.errors import Failure
from agentdag.events import (
    Event,
    NodeFallback,
    NodeHedged,
    NodeRetrying,
    NodeSettled,
    NodeStarted,
    NodeWarned,
    PassFinished,
    Status,
    ToolFinished,
    TurnFinished,
)
from agentdag.store.codec import decoded
from agentdag.store.fold import Entry
from agentdag.views.lines import settled_text
from agentdag.views.words import CUT, failure, inert, inert_lines, money, seconds, waited, warned


@dataclass(slots=True)
class _Attempt:
    """One call as it went."""

    number: int
    pass_number: int
    model: str | None
    began: float
    took_s: float | None = None
    error: Failure | None = None
    hedged_after_s: float | None = None
    answered: bool = False

    def told(self) -> str:
        if self.answered:
            how = "answered"
        elif self.error is not None:
            how = failure(self.error)
        else:
            how = "no end is on record"
        took = "" if self.took_s is None else f" after {seconds(self.took_s)}"
        hedge = "" if self.hedged_after_s is None else f", made again beside it after {seconds(self.hedged_after_s)}"
        return f"{how}{took}{hedge}"

    def json(self) -> dict[str, Any]:
        return {
            "attempt": self.number,
            "pass": self.pass_number,
            "model": self.model,
            "time": self.began,
            "took_s": None if self.took_s is None else round(self.took_s, 6),
            "answered": self.answered,
            "hedged_after_s": self.hedged_after_s,
            "error": None if self.error is None else self.error.plain(),
        }


@dataclass(slots=True)
class _Request:
    """What was asked, and each attempt to have it answered."""

    asked: Mapping[str, Any]
    life: int
    attempts: list[_Attempt] = field(default_factory=list)
    turns: list[TurnFinished] = field(default_factory=list)
    tools: dict[str, list[ToolFinished]] = field(default_factory=dict)
    """What tool calls came to, by their ids: in each turn of some providers they begin anew."""
    warnings: list[NodeWarned] = field(default_factory=list)


def requests_of(entries: Iterable[Entry]) -> list[_Request]:
    """What a node asked, in order, each with its attempts."""
    requests: list[_Request] = []
    last: _Attempt | None = None
    for entry in entries:
        if entry.asked is not None:
            requests.append(_Request(json.loads(entry.asked), entry.life))
        event: Event = decoded(entry.body)
        if requests and isinstance(event, TurnFinished):
            requests[-1].turns.append(event)
            if last is not None and last.took_s is None:
                last.took_s, last.answered = max(0.0, entry.time - last.began), True
        elif requests and isinstance(event, ToolFinished):
            requests[-1].tools.setdefault(event.call, []).append(event)
        elif requests and isinstance(event, NodeWarned):
            requests[-1].warnings.append(event)
        elif isinstance(event, NodeStarted):
            last = _Attempt(event.attempt, event.pass_number, event.model, entry.time)
            if requests:
                requests[-1].attempts.append(last)
        elif last is not None:
            _end_attempt(last, event, entry.time)
    return requests


def _end_attempt(last: _Attempt, event: Event, at: float) -> None:
    match event:
        case NodeHedged():
            last.hedged_after_s = event.after_s
        case NodeRetrying() | NodeFallback() if last.took_s is None:
            last.took_s, last.error = max(0.0, at - last.began), event.error
        case PassFinished():
            last.took_s, last.error, last.answered = event.latency_s, event.error, event.error is None
        case NodeSettled() if event.status is Status.SUCCEEDED or event.error is not None:
            if last.took_s is None:
                last.took_s, last.error = event.latency_s, event.error
                last.answered = event.status is Status.SUCCEEDED


def _turn_json(turn: TurnFinished) -> dict[str, Any]:
    exchange = turn.exchange
    calls = [{"call": call.id, "tool": call.name, "arguments": call.arguments} for call in exchange.calls]
    return {"turn": turn.turn, "said": exchange.text, "calls": calls, "told": exchange.told}


def _tool_json(tool: ToolFinished) -> dict[str, Any]:
    error = None if tool.error is None else tool.error.plain()
    latency_s = round(tool.latency_s, 6)
    return {"call": tool.call, "tool": tool.tool, "latency_s": latency_s, "error": error, "result": tool.result}


def node_json(requests: Sequence[_Request], settled: NodeSettled | None) -> dict[str, Any]:
    asked = [
        {
            "request": each.asked["request"],
            "choice": each.asked["choice"],
            "life": each.life,
            "attempts": [attempt.json() for attempt in each.attempts],
            "turns": [_turn_json(turn) for turn in each.turns],
            "warnings": [{"message": warning.message, "hint": warning.hint} for warning in each.warnings],
            "tools": [_tool_json(tool) for tools in each.tools.values() for tool in tools],
        }
        for each in requests
    ]
    return {"requests": asked, "settled": settled_json(settled)}


def node_lines(node: str, requests: Sequence[_Request], settled: NodeSettled | None) -> Iterator[str]:
    yield f"{node}: " + ("no end is on record" if settled is None else settled_text(settled))
    if settled is not None and settled.truncated:
        yield f"  the answer was {CUT}"
    for warning in dict.fromkeys(warned(each) for request in requests for each in request.warnings):
        yield f"  warning: {warning}"
    if settled is not None:
        yield f"  waited {waited(settled.waits) or 'for nothing'}"
        yield f"  used {used(settled.usage)}"
    for request in requests:
        plain = request.asked["request"]
        which = f", fallback {request.asked['choice']}" if request.asked["choice"] else ""
        life = f", life {request.life} of the run" if request.life > 1 else ""
        passed = f", pass {request.asked['pass']}" if request.asked["pass"] > 1 else ""
        yield f"\n{_what(plain)}{which}{passed}{life}"
        yield from _asked_lines(plain)
        for attempt in request.attempts:
            began = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(attempt.began))
            of = f" of {inert(attempt.model)}" if attempt.model and attempt.model != plain.get("model") else ""
            yield f"  attempt {attempt.number}{of} at {began} UTC: {attempt.told()}"
        done = {call: iter(tools) for call, tools in request.tools.items()}
        for turn in request.turns:
            yield from _turn_lines(turn, done)
    if settled is not None:
        yield from _said("reasoning", settled.reasoning)
        yield from _said("answer", settled.output)
        yield from _said("the part of an answer that had come when it was cut", settled.partial)
        yield from _said("it also said", settled.stderr)


def _said(title: str, value: Any) -> Iterator[str]:
    """*value* below its *title*, if there is any."""
    if value is None or value == "":
        return
    yield f"\n{title}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    yield from (f"    {line}".rstrip() for line in inert_lines(text).splitlines())


def _what(plain: Mapping[str, Any]) -> str:
    """What was asked of whom."""
    if "command" in plain:
        return f"ran {inert(' '.join(plain['command']))}"
    if "url" in plain:
        return f"sent {inert(plain['method'])} {inert(plain['url'])}"
    return f"asked {inert(plain.get('model') or plain.get('function', ''))}"


def _turn_lines(turn: TurnFinished, done: Mapping[str, Iterator[ToolFinished]]) -> Iterator[str]:
    """What the model said in a turn, and what came of the tools that it asked for."""
    exchange = turn.exchange
    yield f"  turn {turn.turn}{f': {short(exchange.text)}' if exchange.text else ''}"
    for call in exchange.calls:
        yield f"    {inert(call.name)} {short(inert(call.arguments))}"
        tool = next(done.get(call.id, iter(())), None)
        if tool is None:
            yield "      no end is on record"
        else:
            yield f"      after {seconds(tool.latency_s)}: {short(tool.result)}"
    if exchange.told is not None:
        yield f"    was told: {short(exchange.told)}"


def _asked_lines(plain: Mapping[str, Any]) -> Iterator[str]:
    for name in ("parameters", "arguments", "tools", "headers", "env", "output"):
        if plain.get(name):
            yield f"  {name} {inert(json.dumps(plain[name], ensure_ascii=False))}"
    for name in ("system", "prompt", "body", "stdin"):
        if plain.get(name):
            yield f"  {name}"
            yield from (f"    {line}".rstrip() for line in inert_lines(plain[name]).splitlines())


def settled_json(settled: NodeSettled | None) -> dict[str, Any] | None:
    if settled is None:
        return None
    told = {
        name: getattr(settled, name)
        for name in (
            "latency_s",
            "attempts",
            "model",
            "reason",
            "cached",
            "kept",
            "fallback",
            "hedges",
            "passes",
            "turns",
            "parts",
            "stderr",
            "degraded",
            "truncated",
            "partial",
            "reasoning",
            "service_tier",
        )
    }
    error = None if settled.error is None else settled.error.plain()
    more = {"waits": dict(settled.waits), "usage": settled.usage.plain(), "error": error, "output": settled.output}
    return {"status": settled.status.value, **told, **more}


def used(usage: Usage) -> str:
    about = "about " if usage.estimated else ""
    tokens = (
        f"{about}{number(usage.input_tokens) or 'unknown'} tokens in, {number(usage.output_tokens) or 'unknown'} out"
    )
    return f"{tokens}, cost {money(usage.cost_usd)}"
