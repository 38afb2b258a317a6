"""`runs`, `show`, `stats`, `runs prune`: what is on record, for people and for programs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentdag.calls import Usage
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
    Status,
    event_from,
    failure_json,
    usage_json,
)
from agentdag.language.scalars import duration_s, duration_text
from agentdag.plan.plan import Plan
from agentdag.session import compile_pipeline
from agentdag.store.fold import Entry, RunRecord
from agentdag.store.history import History, NodeStats, RunLine, mode_of
from agentdag.store.keeper import find_run, key_of, store_of, stores_around
from agentdag.views.lines import settled_text, writer
from agentdag.views.words import count, failure, inert, inert_lines, money, seconds

OFTEN = 0.05
"""Who times out in a larger share of its runs does so often."""


def list_runs(pipeline: Path | None, *, limit: int, as_json: bool, store: Path | None) -> int:
    """Print the newest runs of all stores around, or those of *pipeline*."""
    found: list[RunLine] = []
    folders = [store_of(pipeline, store, os.environ)] if pipeline else list(stores_around(store, os.environ, Path()))
    for folder in folders:
        history = History(folder)
        key = None if pipeline is None else key_of(folder, pipeline, "")
        found += history.runs(limit=limit, pipeline=key)
        history.close()
    found = sorted(found, key=lambda line: line.started, reverse=True)[:limit]
    if as_json:
        _print_json({"runs": [_line_json(line) for line in found]})
    elif found:
        titles = ("run", "pipeline", "began (UTC)", "status", "took", "tokens in", "out", "cost", "")
        _print_table(titles, [_line_cells(line) for line in found], right={4, 5, 6, 7})
    else:
        writer(sys.stderr)("nothing is on record here; --store DIR looks elsewhere\n")
    return Exit.SUCCEEDED


def _line_json(line: RunLine) -> dict[str, Any]:
    usage = {
        "input_tokens": line.input_tokens,
        "output_tokens": line.output_tokens,
        "cost_usd": None if line.cost is None else format(line.cost, "f"),
    }
    told = {name: getattr(line, name) for name in ("id", "pipeline", "started", "status", "elapsed_s", "mode", "rows")}
    return {**told, "usage": usage}


def _line_cells(line: RunLine) -> tuple[str, ...]:
    notes = [line.mode if line.mode != "real" else "", count(line.rows, "row") if line.rows is not None else ""]
    return (
        line.id,
        line.pipeline,
        line.started[:19].replace("T", " "),
        line.status,
        "" if line.elapsed_s is None else seconds(line.elapsed_s),
        _number(line.input_tokens),
        _number(line.output_tokens),
        money(line.cost) if line.status != "running" else "",
        ", ".join(note for note in notes if note),
    )


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
            "error": None if self.error is None else failure_json(self.error),
        }


@dataclass(slots=True)
class _Request:
    """What was asked, and each attempt to have it answered."""

    asked: Mapping[str, Any]
    life: int
    attempts: list[_Attempt] = field(default_factory=list)


def show_run(run: str, node: str | None, *, as_json: bool, store: Path | None) -> int:
    """Print what happened in a run, or in one node of it."""
    history, run = find_run(stores_around(store, os.environ, Path()), run)
    record = history.record(run)
    if node is None:
        _print_json(_run_json(record)) if as_json else _print("\n".join(_run_lines(record)))
    else:
        if node not in record.nodes:
            known = ", ".join(list(record.nodes)[:10])
            raise UsageError(f"run {run} has no record of a node `{node}`", hint=f"it has {known}" if known else None)
        requests = _requests(history.entries(run, node))
        settled = record.nodes[node].ended
        if as_json:
            _print_json(_node_json(requests, settled))
        else:
            _print("\n".join(_node_lines(node, requests, settled)))
    history.close()
    return Exit.SUCCEEDED


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
        "usage": usage_json(record.spent),
        "inputs": record.inputs,
        "outputs": None if finished is None else finished.outputs,
        "nodes": {name: _settled_json(each.ended) for name, each in record.nodes.items()},
    }


def _settled_json(settled: NodeSettled | None) -> dict[str, Any] | None:
    if settled is None:
        return None
    told = {
        name: getattr(settled, name)
        for name in ("latency_s", "attempts", "model", "reason", "cached", "kept", "fallback", "hedges", "passes")
    }
    error = None if settled.error is None else failure_json(settled.error)
    more = {"waits": dict(settled.waits), "usage": usage_json(settled.usage), "error": error, "output": settled.output}
    return {"status": settled.status.value, **told, **more}


def _run_lines(record: RunRecord) -> Iterator[str]:
    finished = record.finished
    status = "cut off, and not resumed" if finished is None else finished.status.value
    lives = f", in {record.lives} lives" if record.lives > 1 else ""
    yield f"{record.id}  {inert(record.pipeline)}: {status}{lives}"
    mode = mode_of(record.options)
    yield f"began   {record.started}" + (f", {mode}" if mode != "real" else "")
    if finished is not None:
        yield f"took    {seconds(finished.elapsed_s)}" + (f" ({inert(finished.reason)})" if finished.reason else "")
    yield f"used    {_used(record.spent)}"
    for name, value in record.inputs.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"input   {name}: {_short(text)}"
    yield ""
    titles = ("node", "status", "model", "try", "time", "waited", "in", "out", "cost", "")
    rows = [_node_cells(name, each.ended) for name, each in record.nodes.items()]
    yield from _table(titles, rows, right={3, 4, 5, 6, 7, 8})


def _node_cells(name: str, settled: NodeSettled | None) -> tuple[str, ...]:
    if settled is None:
        return (name, "no end", *[""] * 8)
    usage = settled.usage
    waited = sum(settled.waits.values())
    note = "cache" if settled.cached else failure(settled.error) if settled.error else settled.reason or ""
    return (
        name,
        settled.status.value.replace("_", " "),
        settled.model or "",
        str(settled.attempts) if settled.attempts > 1 else "",
        seconds(settled.latency_s) if settled.attempts else "",
        seconds(waited) if waited >= 0.05 else "",
        _number(usage.input_tokens) if settled.attempts else "",
        _number(usage.output_tokens) if settled.attempts else "",
        money(usage.cost_usd) if settled.attempts and settled.model else "",
        _short(note),
    )


def _requests(entries: Iterable[Entry]) -> list[_Request]:
    """What a node asked, in order, each with its attempts."""
    requests: list[_Request] = []
    last: _Attempt | None = None
    for entry in entries:
        if entry.asked is not None:
            requests.append(_Request(json.loads(entry.asked), entry.life))
        event: Event = event_from(entry.body)
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
        waits = ", ".join(f"{seconds(value)} for {name}" for name, value in settled.waits.items())
        yield f"  waited {waits}" if waits else "  waited for nothing"
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
            yield f"  attempt {attempt.number} at {began} UTC: {attempt.told()}"
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


def show_stats(pipeline: Path, *, simulated: bool, as_json: bool, store: Path | None) -> int:
    """Print what is recorded of each node of *pipeline*."""
    folder = store_of(pipeline, store, os.environ)
    history = History(folder)
    compiled = compile_pipeline(pipeline) if pipeline.is_file() else None
    plan = None if compiled is None else compiled.plan
    found = history.stats(key_of(folder, pipeline, "" if plan is None else plan.name), simulated=simulated)
    history.close()
    order = {} if plan is None else {node.id: number for number, node in enumerate(plan.nodes)}
    found.sort(key=lambda stats: order.get(stats.node, len(order)))
    if as_json:
        _print_json({"pipeline": str(pipeline), "nodes": [_stats_json(stats) for stats in found]})
    elif found:
        _print("\n".join(_stats_lines(found, plan)))
    else:
        kind = "simulated run" if simulated else "run"
        hint = "" if simulated else "; --simulate tells of simulated ones"
        writer(sys.stderr)(f"no {kind} of {pipeline} is on record in {folder}{hint}\n")
    return Exit.SUCCEEDED


def _stats_json(stats: NodeStats) -> dict[str, Any]:
    suggested = stats.suggested_timeout_s
    return {
        "id": stats.node,
        "runs": stats.runs,
        "statuses": dict(stats.statuses),
        "p50_s": stats.p50_s,
        "p95_s": stats.p95_s,
        "attempts": stats.attempts,
        "input_tokens": stats.input_tokens,
        "output_tokens": stats.output_tokens,
        "cost_usd": None if stats.cost is None else format(stats.cost, "f"),
        "suggested_timeout_s": suggested,
    }


def _stats_lines(found: Sequence[NodeStats], plan: Plan | None) -> Iterator[str]:
    titles = ("node", "runs", "failed", "timed out", "late", "p50", "p95", "tries", "in", "out", "cost a run")
    yield from _table(titles, [_stats_cells(stats) for stats in found], right=set(range(1, 11)))
    bounds = {} if plan is None else {node.id: node.policy.timeout.attempt_s for node in plan.nodes}
    told = [line for stats in found for line in _advice(stats, bounds.get(stats.node))]
    if told:
        yield ""
        yield from told


def _stats_cells(stats: NodeStats) -> tuple[str, ...]:
    each = stats.statuses
    cost = None if stats.cost is None else stats.cost / stats.runs
    return (
        stats.node,
        f"{stats.runs:,}",
        _share(each[Status.FAILED], stats.runs),
        _share(each[Status.TIMED_OUT], stats.runs),
        _share(each[Status.LATE], stats.runs),
        "" if stats.p50_s is None else seconds(stats.p50_s),
        "" if stats.p95_s is None else seconds(stats.p95_s),
        f"{stats.attempts / stats.runs:.1f}",
        f"{stats.input_tokens // stats.runs:,}",
        f"{stats.output_tokens // stats.runs:,}",
        money(cost),
    )


def _advice(stats: NodeStats, bound_s: float | None) -> Iterator[str]:
    """Who times out often, and which timeout would suit whom."""
    timeouts = stats.statuses[Status.TIMED_OUT]
    if timeouts and timeouts >= OFTEN * stats.runs:
        yield f"{stats.node} times out often: in {timeouts} of {count(stats.runs, 'run')}"
    suggested = stats.suggested_timeout_s
    if suggested is not None:
        now = "" if bound_s is None else f", which is {duration_text(bound_s)} now"
        yield f"{stats.node}: `timeout: {duration_text(_rounded_up(suggested))}` would suit it (1.5 x p95){now}"


def _rounded_up(value_s: float) -> float:
    """To whole seconds above ten, to tenths above one, else to milliseconds."""
    step = 1.0 if value_s >= 10 else 0.1 if value_s >= 1 else 0.001
    return -(-value_s // step) * step


def prune_runs(older_than: str, *, yes: bool, store: Path | None) -> int:
    """Remove the runs that began longer ago than *older_than*."""
    try:
        age_s = duration_s(older_than)
    except ValueError as error:
        raise UsageError(f"--older-than {older_than} is no age", hint="write 30d, 12h or 45m") from error
    for folder in stores_around(store, os.environ, Path()):
        history = History(folder)
        old = history.older_than(time.time() - age_s)
        if not old:
            writer(sys.stderr)(f"{folder}: no run is that old\n")
        elif yes or _confirmed(f"Remove {count(len(old), 'run')} from {folder}? [y/N] "):
            history.remove(old)
            writer(sys.stderr)(f"{folder}: {count(len(old), 'run')} removed\n")
        history.close()
    return Exit.SUCCEEDED


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to be asked", hint="--yes removes without asking")
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _used(usage: Usage) -> str:
    about = "about " if usage.estimated else ""
    tokens = (
        f"{about}{_number(usage.input_tokens) or 'unknown'} tokens in, {_number(usage.output_tokens) or 'unknown'} out"
    )
    return f"{tokens}, cost {money(usage.cost_usd)}"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.0%})" if part else ""


def _short(text: str, most: int = 80) -> str:
    line = inert(" ".join(text[: 4 * most].split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def _print(text: str) -> None:
    writer(sys.stdout)(text + "\n")


def _print_json(value: Any) -> None:
    _print(json.dumps(value, indent=2))


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> None:
    _print("\n".join(_table(titles, rows, right)))


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> Iterator[str]:
    """Columns as wide as they need to be."""
    cells = [[inert(cell) for cell in row] for row in (titles, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    for row in cells:
        line = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(line).rstrip()
