"""`show`: what happened in a run, and what each node of it was asked and answered."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentdag.calls import Usage
from agentdag.cli.columns import number, print_json, print_text, short, table
from agentdag.errors import Failure, UsageError
from agentdag.events import (
    Event,
    Exit,
    NodeFallback,
    NodeHedged,
    NodeRetrying,
    NodeSettled,
    NodeStarted,
    PassFinished,
    RunFinished,
    RunStatus,
    Status,
)
from agentdag.store.codec import decoded
from agentdag.store.fold import Entry, RunRecord
from agentdag.store.history import History, RunLine, mode_of
from agentdag.store.keeper import find_run, stores_around
from agentdag.views.lines import settled_text
from agentdag.views.words import count, failure, inert, inert_lines, left, money, seconds, waited, why_failed

ROWS_TOLD = 20
"""Rows of a batch that are told one by one: those that have not succeeded."""


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


def show_run(run: str, node: str | None, *, as_json: bool, store: Path | None) -> int:
    """Print what happened in a run, in one node of it, or in a batch."""
    history, run = find_run(stores_around(store, os.environ, Path()), run)
    batch = history.batch(run)
    if batch is not None:
        _show_batch(history, batch, node, as_json=as_json)
        history.close()
        return Exit.SUCCEEDED
    record = history.record(run)
    if node is None:
        print_json(_run_json(record)) if as_json else print_text("\n".join(_run_lines(record)))
    else:
        if node not in record.nodes:
            known = ", ".join(list(record.nodes)[:10])
            raise UsageError(f"run {run} has no record of a node `{node}`", hint=f"it has {known}" if known else None)
        requests = _requests(history.entries(run, node=node))
        settled = record.nodes[node].ended
        if as_json:
            print_json(_node_json(requests, settled))
        else:
            print_text("\n".join(_node_lines(node, requests, settled)))
    history.close()
    return Exit.SUCCEEDED


def _show_batch(history: History, batch: RunLine, node: str | None, *, as_json: bool) -> None:
    rows = history.rows(batch.id)
    if node is not None:
        raise UsageError(f"{batch.id} is a batch", hint=f"name a row of it: agentdag show {rows[0][1]} {node}")
    if as_json:
        told = [{"row": row, "run": run, "status": status or "interrupted"} for row, run, status in rows]
        print_json({"id": batch.id, "pipeline": batch.pipeline, "started": batch.started, "rows": told})
    else:
        print_text("\n".join(_batch_lines(history, batch, rows)))


def _batch_lines(history: History, batch: RunLine, rows: Sequence[tuple[int, str, str | None]]) -> Iterator[str]:
    counts = Counter(status or "not ended" for _, _, status in rows)
    whole = max(len(rows), batch.rows or 0)
    counts["not begun"] = whole - len(rows)
    told = ", ".join(f"{number:,} {status}" for status, number in counts.most_common() if number)
    yield f"{batch.id}  {inert(batch.pipeline)}: batch of {count(whole, 'row')}, {told}"
    yield _began(batch.started, batch.mode)
    yield f"used    {_used(Usage(batch.input_tokens, batch.output_tokens, None, batch.cost))}"
    open_ = [(row, run) for row, run, status in rows if status != RunStatus.SUCCEEDED]
    for row, run in open_[:ROWS_TOLD]:
        record = history.record(run)
        ended = [each.ended for each in record.nodes.values() if each.ended is not None]
        last_first = sorted(ended, key=lambda end: -end.at)  # what failed before it, others could do without
        why = "cut off" if record.finished is None else why_failed(record.finished, last_first)
        yield f"row {row}: {short(why)}"
    if len(open_) > ROWS_TOLD:
        yield f"and {count(len(open_) - ROWS_TOLD, 'more row')}"
    yield f"one row: agentdag show {(open_ or [rows[0][:2]])[0][1]}"


def _run_json(record: RunRecord) -> dict[str, Any]:
    finished = record.finished
    return {
        "id": record.id,
        "pipeline": record.pipeline,
        "started": record.started,
        "lives": record.lives,
        "mode": mode_of(record.options),
        "status": "interrupted" if finished is None else finished.status.value,
        "elapsed_s": None if finished is None else finished.elapsed_s,
        "usage": record.spent.plain(),
        "most_queued": None if finished is None else finished.most_queued,
        "inputs": record.inputs,
        "outputs": None if finished is None else finished.outputs,
        "nodes": {name: _settled_json(each.ended) for name, each in record.nodes.items()},
    }


def _settled_json(settled: NodeSettled | None) -> dict[str, Any] | None:
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
            "degraded",
        )
    }
    error = None if settled.error is None else settled.error.plain()
    more = {"waits": dict(settled.waits), "usage": settled.usage.plain(), "error": error, "output": settled.output}
    return {"status": settled.status.value, **told, **more}


def _run_lines(record: RunRecord) -> Iterator[str]:
    finished = record.finished
    status = "cut off, and not resumed" if finished is None else finished.status.replace("_", " ")
    lives = f", in {record.lives} lives" if record.lives > 1 else ""
    yield f"{record.id}  {inert(record.pipeline)}: {status}{lives}"
    yield _began(record.started, mode_of(record.options))
    if finished is not None:
        yield f"took    {seconds(finished.elapsed_s)}" + (f" ({inert(finished.reason)})" if finished.reason else "")
    yield f"used    {_used(record.spent)}"
    if finished is not None:
        yield from _limits(finished)
    for name, value in record.inputs.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"input   {name}: {short(text)}"
    yield ""
    titles = ("node", "status", "model", "try", "time", "waited", "in", "out", "cost", "")
    rows = [_node_cells(name, each.ended) for name, each in record.nodes.items()]
    yield from table(titles, rows, right={3, 4, 6, 7, 8})


def _limits(finished: RunFinished) -> Iterator[str]:
    """How the run stood to its limits."""
    if finished.most_queued > 1:
        yield f"queue   up to {count(finished.most_queued, 'node')} waited at once"
    if finished.top_tier_usd and finished.usage.cost_usd is not None:
        saved = 1 - finished.usage.cost_usd / finished.top_tier_usd
        less = f": {saved:.0%} saved" if saved > 0 else ""
        yield f"tiers   {money(finished.top_tier_usd)} with everything on the top tier{less}"
    if finished.budget_left is not None:
        yield f"budget  {left(finished.budget_left)} left"


def _node_cells(name: str, settled: NodeSettled | None) -> tuple[str, ...]:
    if settled is None:
        return (name, "no end", *[""] * 8)
    usage = settled.usage
    note = "cache" if settled.cached else failure(settled.error) if settled.error else settled.reason or ""
    return (
        name,
        settled.status.value.replace("_", " "),
        settled.model or "",
        str(settled.attempts) if settled.attempts > 1 else "",
        seconds(settled.latency_s) if settled.attempts else "",
        waited(settled.waits),
        number(usage.input_tokens) if settled.attempts else "",
        number(usage.output_tokens) if settled.attempts else "",
        money(usage.cost_usd) if settled.attempts and settled.model else "",
        short(note),
    )


def _requests(entries: Iterable[Entry]) -> list[_Request]:
    """What a node asked, in order, each with its attempts."""
    requests: list[_Request] = []
    last: _Attempt | None = None
    for entry in entries:
        if entry.asked is not None:
            requests.append(_Request(json.loads(entry.asked), entry.life))
        event: Event = decoded(entry.body)
        if isinstance(event, NodeStarted):
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


def _node_json(requests: Sequence[_Request], settled: NodeSettled | None) -> dict[str, Any]:
    asked = [
        {
            "request": each.asked["request"],
            "choice": each.asked["choice"],
            "life": each.life,
            "attempts": [attempt.json() for attempt in each.attempts],
        }
        for each in requests
    ]
    return {"requests": asked, "settled": _settled_json(settled)}


def _node_lines(node: str, requests: Sequence[_Request], settled: NodeSettled | None) -> Iterator[str]:
    yield f"{node}: " + ("no end is on record" if settled is None else settled_text(settled))
    if settled is not None:
        yield f"  waited {waited(settled.waits) or 'for nothing'}"
        yield f"  used {_used(settled.usage)}"
    for request in requests:
        plain = request.asked["request"]
        which = f", fallback {request.asked['choice']}" if request.asked["choice"] else ""
        life = f", life {request.life} of the run" if request.life > 1 else ""
        passed = f", pass {request.asked['pass']}" if request.asked["pass"] > 1 else ""
        yield f"\nasked {inert(plain.get('model') or plain.get('function', ''))}{which}{passed}{life}"
        yield from _asked_lines(plain)
        for attempt in request.attempts:
            began = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(attempt.began))
            of = f" of {inert(attempt.model)}" if attempt.model and attempt.model != plain.get("model") else ""
            yield f"  attempt {attempt.number}{of} at {began} UTC: {attempt.told()}"
    if settled is not None and settled.output is not None:
        text = (
            settled.output
            if isinstance(settled.output, str)
            else json.dumps(settled.output, ensure_ascii=False, indent=2)
        )
        yield "\nanswer"
        yield from (f"    {line}".rstrip() for line in inert_lines(text).splitlines())


def _asked_lines(plain: Mapping[str, Any]) -> Iterator[str]:
    for name in ("parameters", "arguments"):
        if plain.get(name):
            yield f"  {name} {inert(json.dumps(plain[name], ensure_ascii=False))}"
    for name in ("system", "prompt"):
        if plain.get(name):
            yield f"  {name}"
            yield from (f"    {line}".rstrip() for line in inert_lines(plain[name]).splitlines())


def _began(started: str, mode: str) -> str:
    return f"began   {started}" + (f", {mode}" if mode != "real" else "")


def _used(usage: Usage) -> str:
    about = "about " if usage.estimated else ""
    tokens = (
        f"{about}{number(usage.input_tokens) or 'unknown'} tokens in, {number(usage.output_tokens) or 'unknown'} out"
    )
    return f"{tokens}, cost {money(usage.cost_usd)}"
