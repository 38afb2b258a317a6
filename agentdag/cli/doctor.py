"""`doctor`: what is missing for a run, found before it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rich.text import Text

from agentdag.cli.check import report, wants_color
from agentdag.cli.columns import print_json
from agentdag.errors import SpecError
from agentdag.events import Exit
from agentdag.session import load, run_loop
from agentdag.session.doctor import Check, State, examine
from agentdag.store.keeper import store_of
from agentdag.views.lines import writer
from agentdag.views.words import count, inert

_STYLES = {State.OK: "green", State.NOTE: "dim", State.WARNING: "yellow", State.WRONG: "bold red"}


def diagnose(
    pipeline: Path | None, *, call: bool, as_json: bool, color: str, store: Path | None, allowed: tuple[Path, ...]
) -> int:
    """Print each check as soon as it is known; the exit code is 1 where something is wrong, 2 where the file is."""
    try:
        plan = None if pipeline is None else load(pipeline, allowed=allowed)
    except SpecError as error:
        report(error.findings, color)
        return Exit.USAGE
    folder = store_of(pipeline or Path("pipeline.yaml"), store, os.environ)
    checks: list[Check] = []

    async def look() -> None:
        async for check in examine(plan, store=folder, call=call):
            checks.append(check)
            if not as_json:
                _print(check, color)

    run_loop(look())
    wrong = sum(check.state is State.WRONG for check in checks)
    warnings = sum(check.state is State.WARNING for check in checks)
    if as_json:
        told = [check._asdict() | {"state": check.state.value} for check in checks]
        print_json({"wrong": wrong, "warnings": warnings, "checks": told})
    else:
        end = f"{count(wrong, 'thing')} {'is' if wrong == 1 else 'are'} wrong" if wrong else "nothing is wrong"
        end += f", {count(warnings, 'warning')}" if warnings else ""
        writer(sys.stdout)(f"\n{end}\n")
    return Exit.FAILED if wrong else Exit.SUCCEEDED


def _print(check: Check, color: str) -> None:
    line = Text(f"{check.state.value:<8}", style=_STYLES[check.state])
    line.append(f"{check.area:<10}", style="dim")
    line.append(inert(check.found), style="")
    if check.hint:
        line.append(f"\n{'':<18}{inert(check.hint)}", style="dim")
    if wants_color(sys.stdout, color):
        from rich.console import Console

        Console(highlight=False, soft_wrap=True, markup=False, emoji=False).print(line)
    else:
        writer(sys.stdout)(f"{line.plain}\n")
