"""Seconds, counts and failures in the words that all views share; everything that comes out is inert."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TextIO

from agentdag.errors import Failure
from agentdag.events import (
    BarrierOpened,
    BudgetLeft,
    BudgetLow,
    NodeFallback,
    NodeHedged,
    NodeSettled,
    NodeWarned,
    PassFinished,
    Reason,
    RunFinished,
)
from agentdag.language.findings import inert

__all__ = [
    "CUT",
    "count",
    "cut_answers",
    "failed_over",
    "failure",
    "hedged",
    "held_up",
    "inert",
    "inert_lines",
    "left",
    "low",
    "money",
    "names",
    "opened",
    "passed",
    "seconds",
    "speaks",
    "waited",
    "warned",
    "why_failed",
]

MAX_NAMED = 5


def seconds(value: float) -> str:
    """0.4 s, 12.3 s, 3 min 05 s, 2 h 10 min."""
    if value < 0.0995:
        return f"{value * 1000:.0f} ms"
    if value < 119.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(value: int, noun: str) -> str:
    """1 node, 2 nodes, 1,234 tokens."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def money(cost: Decimal | None) -> str:
    """Dollars to the cent; below one dollar, two digits that say something."""
    if cost is None:
        return "unknown"
    if not cost:
        return "$0"
    if cost < Decimal("0.0001"):
        return "<$0.0001"
    return f"${cost:.2f}" if cost >= 1 else f"${cost:.2g}"


def inert_lines(text: str) -> str:
    """As `inert`, but line ends and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"<U+{ord(c):04X}>" for c in text)


def speaks(stream: TextIO, text: str) -> bool:
    """Whether *stream* can show *text*."""
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


WAITED_FOR = {
    "slot": "for a slot",
    "rate": "for a rate",
    "budget": "for the budget",
    "cache": "for a warm cache",
    "retry": "for a retry",
}


def held_up(waiting: Mapping[str, int], budget: BudgetLeft | None) -> str:
    """How many wait for what, and what of the budget is left; nothing where nobody waits and nothing is bounded."""
    told = [f"{number} {WAITED_FOR[cause]}" for cause, number in waiting.items() if number]
    parts = [f"waiting: {', '.join(told)}"] if told else []
    return "; ".join(parts if budget is None else [*parts, f"{left(budget)} of the budget left"])


"""What a node waits for, in words."""
SHORTEST_TOLD_S = 0.05


def waited(waits: Mapping[str, float]) -> str:
    """9.1 s for a rate, 0.4 s for a slot: the longest first; empty where it is nothing worth a word."""
    told = sorted(((value, cause) for cause, value in waits.items() if value >= SHORTEST_TOLD_S), reverse=True)
    return ", ".join(f"{seconds(value)} {WAITED_FOR.get(cause, cause)}" for value, cause in told)


def left(budget: BudgetLeft) -> str:
    """What of a budget is left."""
    parts = [] if budget.cost_usd is None else [money(budget.cost_usd)]
    parts += [] if budget.tokens is None else [count(budget.tokens, "token")]
    return " and ".join(parts)


def low(event: BudgetLow) -> str:
    return f"{event.share:.0%} of the budget is spent; from now on: {', '.join(event.actions)}"


def failure(error: Failure, attempts: int = 0) -> str:
    """The whole story of a failure on one line."""
    facts = [error.provider, f"status {error.status}" if error.status else None]
    facts += [f"request {error.request_id}" if error.request_id else None]
    facts += {"no": ["not billed"] if error.provider else [], "yes": ["billed"], "maybe": ["maybe billed"]}[
        error.billed
    ]
    facts += [f"asked to wait {seconds(error.retry_after_s)}" if error.retry_after_s else None]
    facts += [count(attempts, "attempt") if attempts > 1 else None]
    told = ", ".join(fact for fact in facts if fact)
    return inert(f"{error.kind}: {error.message}" + (f" ({told})" if told else ""))


def names(ids: Sequence[str]) -> str:
    """a, b, c, d, e and 4 more."""
    more = f" and {len(ids) - MAX_NAMED} more" if len(ids) > MAX_NAMED else ""
    return inert(", ".join(ids[:MAX_NAMED])) + more


def opened(event: BarrierOpened) -> str | None:
    """Why a join goes on, with whom and without whom; None where that is nothing special."""
    if event.pending or event.reason is Reason.ARRIVAL:
        parts = [f"pass {event.pass_number} with {names(event.arrived)}"]
        parts += [f"still to come: {names(event.pending)}"] if event.pending else []
        parts += [f"without {names(event.missing)}"] if event.missing else []
        return "; ".join(parts)
    told = lacked(event)
    if event.pass_number > 1:
        return f"pass {event.pass_number}, the last: {told or 'all have arrived'}"
    return told


def lacked(event: BarrierOpened) -> str | None:
    """Without whom a join went on, and why; None where it lacked nobody."""
    if event.reason is Reason.ALL:
        return f"goes on without {names(event.missing)}" if event.missing else None
    why = "quorum" if event.reason is Reason.QUORUM else "time is up"
    parts = [f"goes on with {len(event.arrived)} of {len(event.arrived) + len(event.missing)} ({why})"]
    gone = [name for name in event.missing if name not in event.late]
    parts += [f"without {names(gone)}"] if gone else []
    parts += [f"too late: {names(event.late)}"] if event.late else []
    return "; ".join(parts)


def hedged(event: NodeHedged) -> str:
    return f"no answer after {seconds(event.after_s)}: the same call again beside it"


CUT = "cut at its token limit"


def cut_answers(number: int) -> str:
    """How many answers were cut."""
    return f"{count(number, 'answer')} {CUT if number == 1 else 'cut at their token limits'}"


def warned(event: NodeWarned) -> str:
    """What was not done quite as the file says, and the mend."""
    return inert(f"{event.message}; {event.hint}" if event.hint else event.message)


def failed_over(event: NodeFallback) -> str:
    """Who takes over, and why."""
    who = f"{inert(event.model)} takes over" if event.model else f"fallback {event.fallback} takes over"
    return f"{who}: {failure(event.error)}"


def passed(event: PassFinished) -> str:
    if event.error is None:
        return f"pass {event.pass_number} finished in {seconds(event.latency_s)}"
    return f"pass {event.pass_number} failed, what was there before stands: {failure(event.error)}"


def why_failed(finished: RunFinished, nodes: Iterable[NodeSettled], optional: Collection[str] = ()) -> str:
    """Why a row did not succeed, in a line; *optional* are the nodes that others can do without."""
    broken = sorted((node for node in nodes if node.error is not None), key=lambda node: node.node in optional)
    failed = next(iter(broken), None)
    if failed is not None and failed.error is not None:
        return f"{failed.node}: {failed.error.kind}: {failed.error.message}"
    return finished.reason or finished.status.value
