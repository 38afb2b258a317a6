"""A run as plain lines, for CI and logs: one a thing that happened, prefixed with its node."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from agentdag.events import (
    BarrierOpened,
    BudgetLow,
    Event,
    NodeExpanded,
    NodeFallback,
    NodeHedged,
    NodeResumed,
    NodeRetrying,
    NodeSettled,
    NodeStarted,
    NodeWaiting,
    NodeWarned,
    PassFinished,
    RunFinished,
    RunStarted,
    Status,
    ToolFinished,
    event_json,
)
from agentdag.views.words import (
    CUT,
    count,
    failed_over,
    failure,
    hedged,
    inert,
    low,
    opened,
    passed,
    seconds,
    waited,
    warned,
)


class Lines:
    """An observer that writes a line for each event worth one; *width* is of the longest node id."""

    def __init__(self, stream: TextIO, width: int) -> None:
        self._write = writer(stream)
        self._width = max(3, width)

    def __call__(self, event: Event, /) -> None:
        text: str | None
        if isinstance(event, RunStarted):
            bounds = f"critical path {seconds(event.critical_path_s)}, {seconds(event.sequential_s)} in sequence"
            text = f"{inert(event.pipeline)}: {count(event.nodes, 'node')}, {event.concurrency} at once; {bounds}"
        elif isinstance(event, BudgetLow):
            text = low(event)
        elif isinstance(event, RunFinished):
            text = f"{event.status.replace('_', ' ')} in {seconds(event.elapsed_s)}"
        else:
            text = _text(event)
        if text:
            name = getattr(event, "node", "run")
            self._write(f"{name:<{self._width}} | {event.at:8.3f} | {text}\n")


def _text(event: Event) -> str | None:
    match event:
        case NodeResumed():
            return None if event.kept else f"runs: {inert(event.why)}"
        case NodeStarted():
            again = f", attempt {event.attempt}" if event.attempt > 1 else ""
            again += f", turn {event.turn}" if event.turn > 1 else ""
            return f"started{again}" + (f" ({inert(event.model)})" if event.model else "")
        case NodeExpanded():
            return None if event.items is None else count(event.items, "item")
        case NodeRetrying():
            return f"attempt {event.attempt} failed, again in {seconds(event.wait_s)}: {failure(event.error)}"
        case NodeWaiting(on="slot" | "rate" | "budget" | "cache"):
            return f"waited {waited({event.on: event.seconds})}"
    told = _TOLD.get(type(event))
    return None if told is None else told(event)


def tool_text(event: ToolFinished) -> str:
    """What became of a call of a tool, in a line."""
    how = f": {failure(event.error)}" if event.error is not None else ""
    return f"{inert(event.tool)} {'failed' if event.error else 'answered'} in {seconds(event.latency_s)}{how}"


def settled_text(event: NodeSettled) -> str:
    """How a node ended, in a line."""
    words = event.status.value.replace("_", " ")
    if event.status is Status.SUCCEEDED:
        usage = event.usage
        tokens = (
            f", {count(usage.input_tokens or 0, 'token')} in, {usage.output_tokens:,} out"
            if usage.output_tokens
            else ""
        )
        cut = f", {CUT}" if event.truncated else ""
        if event.cached:
            return f"{words}: answered from the cache"
        before = "kept: " if event.kept else ""
        return f"{before}{words} in {seconds(event.latency_s)}{tokens}{cut}{_how(event)}"
    stays = "stays " if event.kept else ""
    if event.error is not None:
        return f"{stays}{words} after {seconds(event.latency_s)}: {failure(event.error, event.attempts)}"
    return f"{stays}{words}: {inert(event.reason or '')}"


def _how(event: NodeSettled) -> str:
    """What it took: a fallback, hedges, several passes."""
    facts = []
    if event.fallback:
        why = f" ({event.fallback_error.kind})" if event.fallback_error else ""
        facts.append(f"by {inert(event.model or '')} as fallback {event.fallback}{why}")
    if event.hedges:
        facts.append("hedged" if event.hedges == 1 else f"hedged {event.hedges} times")
    if event.degraded:
        done = [f"downgraded to {inert(event.model or '')}"] if "downgrade" in event.degraded else []
        facts += [*done, *(["shortened"] if "shrink" in event.degraded else [])]
    if event.passes > 1:
        facts.append(f"{event.passes} passes")
    if event.turns > 1:
        facts.append(f"{event.turns} turns")
    if event.reason:
        facts.append(inert(event.reason))
    return "".join(f", {fact}" for fact in facts)


_TOLD: Mapping[type, Callable[[Any], str | None]] = {
    BarrierOpened: opened,
    NodeHedged: hedged,
    NodeFallback: failed_over,
    NodeWarned: warned,
    ToolFinished: tool_text,
    PassFinished: passed,
    NodeSettled: settled_text,
}


class OutputError(OSError):
    """Results could not be written."""


class JsonLines:
    """An observer that writes each event as one line of JSON."""

    def __init__(self, stream: TextIO) -> None:
        self._write = writer(stream)

    def __call__(self, event: Event, /) -> None:
        self._write(event_json(event) + "\n")


def _let_go(stream: TextIO) -> None:
    """Point a broken stream to nowhere, so that flushing it at exit does not complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def writer(stream: TextIO) -> Callable[[str], None]:
    """A write to *stream* at once, that does nothing more once its reader has gone away.

    Raises OutputError where it cannot be written for any other reason: lost output is not to pass for success.
    """
    open_ = True

    def write(text: str) -> None:
        nonlocal open_
        if not open_:
            return
        try:
            stream.write(text)
            stream.flush()
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
        except (BrokenPipeError, ValueError):
            open_ = False
            _let_go(stream)
        except OSError as error:
            _let_go(stream)
            raise OutputError(*error.args) from error

    return write
