"""`run --batch`: one run a row of a file, results as they settle, a bar that tells how far it is."""

from __future__ import annotations

import sys

from agentdag.cli.children import end_children
from agentdag.cli.watch import Shown, attended, check_output, resume_command, store_trouble
from agentdag.errors import UsageError
from agentdag.events import Event, Exit, RunFinished, RunStatus
from agentdag.session import BatchResult, BatchSession, run_loop
from agentdag.views.lines import JsonLines, writer
from agentdag.views.progress import Progress, render
from agentdag.views.words import count, cut_answers, inert, left, money, seconds


def check_shown(shown: Shown) -> None:
    """Refuse, before any call, what a batch cannot show."""
    if shown.view == "json" and shown.output is None:
        raise UsageError("with --format json stdout is for events alone", hint="give the results a file with -o")
    if shown.output is not None:
        check_output(shown.output)


def watch_batch(session: BatchSession, shown: Shown) -> int:
    """Run *session* to its end and say how it went; the exit code."""
    shown.begin()
    plan, result = session.plan, session.result
    board = Progress(plan.name, result.rows, plan.concurrency, lambda: session.result.kept, session.budget_left)
    session.observers.add(board)
    live = None
    if shown.view == "json":
        session.observers.add(JsonLines(sys.stdout))
    elif shown.view == "plain":
        session.observers.add(_RowLines(session.result.rows))
    elif shown.paints:
        live = shown.live(board, render)

    async def main() -> BatchResult:
        if live is not None:
            live.start(0.0)
        return await session.run()

    run_loop(attended(session, live, main))
    if session.interrupts:
        end_children()
    if shown.view != "json" and (not shown.quiet or result.exit_code):
        _tell_end(session, result, board)
    return result.exit_code


class _RowLines:
    """An observer that writes a line for each row that ended."""

    def __init__(self, rows: int) -> None:
        self._write = writer(sys.stderr)
        self._width = len(str(rows))

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, RunFinished):
            row = event.run.rpartition(".")[2]
            why = "" if event.status is RunStatus.SUCCEEDED or not event.reason else f": {inert(event.reason)}"
            text = f"{event.status.replace('_', ' ')} in {seconds(event.elapsed_s)}{why}"
            self._write(f"row {row:>{self._width}} | {text}\n")


def _tell_end(session: BatchSession, result: BatchResult, board: Progress) -> None:
    """The closing words, on stderr."""
    lines = [f"row {row} failed: {inert(why)}" for row, why in result.failures]
    if result.failed > len(result.failures):
        lines.append(f"and {count(result.failed - len(result.failures), 'more row')} failed")
    lines += [f"warning {inert(words)} ({count(times, 'time')})" for words, times in board.warnings.items()]
    if board.truncated:
        lines.append(f"cut     {cut_answers(board.truncated)}; raise `max_tokens` for whole ones")
    done = result.kept + result.succeeded
    counts = f"{done:,} of {count(result.rows, 'row')} succeeded"
    counts += f" ({result.kept:,} before)" if result.kept else ""
    counts += f", {result.failed:,} failed" if result.failed else ""
    counts += f", {result.cut_short:,} cut short" if result.cut_short else ""
    not_begun = result.rows - done - result.failed - result.cut_short
    counts += f", {not_begun:,} not begun" if not_begun else ""
    lines.append(counts + (f": {result.reason}" if result.reason else ""))
    usage = result.usage
    ended = result.succeeded + result.failed
    rate = f"; {ended / result.elapsed_s:,.1f} rows/s" if ended and result.elapsed_s else ""
    lines.append(f"time    {seconds(result.elapsed_s)}{rate}")
    tokens = f"{usage.input_tokens or 0:,} in, {usage.output_tokens or 0:,} out"
    real = "" if session.stage.options.real else " if it were real"
    lines.append(f"tokens  {tokens}; cost {money(usage.cost_usd)}{real}")
    if (budget := session.budget_left()) is not None:
        lines.append(f"budget  {left(budget)} left")
    if session.spec.output is not None:
        lines.append(f"results {session.spec.output}")
    lines += store_trouble(session)
    command = resume_command(session)
    if done < result.rows and command is not None:
        lines.append(f"resume  {command}" + (" --budget ..." if result.exit_code == Exit.BUDGET else ""))
    writer(sys.stderr)("\n".join(lines) + "\n")
