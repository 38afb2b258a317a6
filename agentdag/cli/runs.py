"""`runs` and `runs prune`: the runs on record."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from agentdag.cli.columns import number, print_json, print_table
from agentdag.errors import StoreError, UsageError
from agentdag.events import (
    Exit,
)
from agentdag.language.scalars import duration_s
from agentdag.store.history import History, RunLine
from agentdag.store.keeper import key_of, store_of, stores_around
from agentdag.views.lines import writer
from agentdag.views.words import count, money, seconds


def list_runs(pipeline: Path | None, *, limit: int, as_json: bool, store: Path | None) -> int:
    """Print the newest runs of all stores around, or those of *pipeline*."""
    found: list[RunLine] = []
    folders = [store_of(pipeline, store, os.environ)] if pipeline else list(stores_around(store, os.environ, Path()))
    for history in _readable(folders):
        key = None if pipeline is None else key_of(history.folder, pipeline, "")
        found += history.runs(limit=limit, pipeline=key)
    found = sorted(found, key=lambda line: line.started, reverse=True)[:limit]
    if as_json:
        print_json({"runs": [_line_json(line) for line in found]})
    elif found:
        titles = ("run", "pipeline", "began (UTC)", "status", "took", "in", "out", "cost", "")
        print_table(titles, [_line_cells(line) for line in found], right={4, 5, 6, 7})
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
        f"{datetime.fromisoformat(line.started):%d %b %H:%M}" if line.started else "",
        line.status,
        "" if line.elapsed_s is None else seconds(line.elapsed_s),
        number(line.input_tokens),
        number(line.output_tokens),
        money(line.cost) if line.status != "running" else "",
        ", ".join(note for note in notes if note),
    )


def prune_runs(older_than: str, *, yes: bool, store: Path | None) -> int:
    """Remove the runs that began longer ago than *older_than*."""
    try:
        age_s = duration_s(older_than)
    except ValueError as error:
        raise UsageError(f"--older-than {older_than} is no age", hint="write 30d, 12h or 45m") from error
    for history in _readable(list(stores_around(store, os.environ, Path()))):
        folder = history.folder
        old = history.older_than(time.time() - age_s)
        if not old:
            writer(sys.stderr)(f"{folder}: no run is that old\n")
        elif yes or _confirmed(f"Remove {count(len(old), 'run')} from {folder}? [y/N] "):
            history.remove(old)
            writer(sys.stderr)(f"{folder}: {count(len(old), 'run')} removed\n")
    return Exit.SUCCEEDED


def _readable(folders: Sequence[Path]) -> Iterator[History]:
    """The stores in *folders*, one after another; of several, one that cannot be read is only told."""
    for folder in folders:
        try:
            history = History(folder)
        except StoreError as error:
            if len(folders) == 1:
                raise
            writer(sys.stderr)(f"warning: {error}\n")
            continue
        with closing(history):
            yield history


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to be asked", hint="--yes removes without asking")
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
