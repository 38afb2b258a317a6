"""`show`: what happened in a run, and what each node of it was asked and answered."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agentdag.calls import Usage
from agentdag.cli.columns import number, print_json, print_text, short, table
from agentdag.cli.show_node import node_json, node_lines, requests_of, settled_json, used
from agentdag.errors import UsageError
from agentdag.events import (
    ALL_ITEMS,
    Exit,
    NodeSettled,
    RunFinished,
    RunStatus,
    Status,
)
from agentdag.store.fold import RunRecord
from agentdag.store.history import History, RunLine, mode_of
from agentdag.store.keeper import find_run, stores_around
from agentdag.views.words import count, failure, inert, left, money, seconds, waited, why_failed

INSTANCES_TOLD = 20
"""Of more instances than that, only those are told one by one that did not succeed."""
ROWS_TOLD = 20
"""Rows of a batch that are told one by one: those that have not succeeded."""


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
        requests = requests_of(history.entries(run, node=node))
        settled = record.nodes[node].ended
        if as_json:
            print_json(node_json(requests, settled))
        else:
            print_text("\n".join(node_lines(node, requests, settled)))
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
    yield f"used    {used(Usage(batch.input_tokens, batch.output_tokens, None, batch.cost))}"
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
        "nodes": {name: settled_json(each.ended) for name, each in record.nodes.items()},
    }


def _run_lines(record: RunRecord) -> Iterator[str]:
    finished = record.finished
    status = "cut off, and not resumed" if finished is None else finished.status.replace("_", " ")
    lives = f", in {record.lives} lives" if record.lives > 1 else ""
    yield f"{record.id}  {inert(record.pipeline)}: {status}{lives}"
    yield _began(record.started, mode_of(record.options))
    if finished is not None:
        yield f"took    {seconds(finished.elapsed_s)}" + (f" ({inert(finished.reason)})" if finished.reason else "")
    yield f"used    {used(record.spent)}"
    if finished is not None:
        yield from _limits(finished)
    for name, value in record.inputs.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"input   {name}: {short(text)}"
    yield ""
    titles = ("node", "status", "model", "try", "time", "waited", "in", "out", "cost", "")
    shown, folded = _worth_a_row(record)
    rows = [_node_cells(name, record.nodes[name].ended) for name in shown]
    yield from table(titles, rows, right={3, 4, 6, 7, 8})
    if folded:
        yield f"and {count(folded, 'more instance')}: agentdag show {record.id} 'NODE[INDEX]'"


def _worth_a_row(record: RunRecord) -> tuple[list[str], int]:
    """The nodes that are told one by one, and how many instances are not: of many, those that succeeded."""
    named = [name for name in record.nodes if not name.endswith(ALL_ITEMS)]
    instances = [name for name in named if "[" in name]
    if len(instances) <= INSTANCES_TOLD:
        return named, 0
    ends = {name: record.nodes[name].ended for name in instances}
    trouble = [name for name, end in ends.items() if end is None or end.status is not Status.SUCCEEDED]
    told = {name for name in named if "[" not in name} | set(trouble[:INSTANCES_TOLD])
    return [name for name in named if name in told], len(named) - len(told)


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
    usage, acted = settled.usage, settled.attempts or settled.parts is not None
    note = "cache" if settled.cached else failure(settled.error) if settled.error else settled.reason or ""
    return (
        name,
        settled.status.value.replace("_", " "),
        settled.model or "",
        str(settled.attempts) if settled.attempts > 1 else "",
        seconds(settled.latency_s) if acted else "",
        waited(settled.waits),
        number(usage.input_tokens) if acted else "",
        number(usage.output_tokens) if acted else "",
        money(usage.cost_usd) if acted and (settled.model or settled.parts) else "",
        short(note),
    )


def _began(started: str, mode: str) -> str:
    return f"began   {started}" + (f", {mode}" if mode != "real" else "")
