"""What happened in a run, as frozen values, and who is told.

Events are the engine's only output: table, lines, JSON and results are folds over them.
An observer that raises is dropped and never hurts the run.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import IntEnum
from typing import Any, ClassVar, Protocol, Self, TypeVar

from agentdag.calls import Amount, Exchange, Usage
from agentdag.errors import Failure, Word
from agentdag.values import value

E = TypeVar("E", bound="Event")
_LOG = logging.getLogger("agentdag")
_INDEX = re.compile(r"\[\d+\]")


def unmet(passes: int) -> str:
    """The `reason` of a node that ended with the last of its *passes*, before its condition held."""
    return f"`until` did not hold in {passes} passes"


def base_name(name: str) -> str:
    """The node of which *name* is an instance: `audit.parser` of `audit[3].parser`."""
    return _INDEX.sub("", name) if "[" in name else name


class Status(Word):
    """How a node settled."""

    SUCCEEDED = "succeeded", "The node has an output."
    FAILED = "failed", "Its last attempt failed, or one of its templates; `error` says why."
    TIMED_OUT = "timed_out", "Its last attempt took longer than its `timeout`."
    SKIPPED = (
        "skipped",
        "It was not started; `reason` names what it would have needed, or why nothing more was launched.",
    )
    LATE = (
        "late",
        "A join went on without it, or gave up, and nobody else wanted it: cut off, or never started. No failure.",
    )
    CANCELLED = "cancelled", "It was cut off while it ran: an interrupt, the run's timeout, or `fail_fast`."


INTERRUPTED = "interrupted"
"""The `reason` of what a signal has stopped."""
OUT_OF_BUDGET = "budget"
"""The `reason` of a node that was skipped because the budget could not pay it."""
UNMET = "`when` did not hold"
"""The `reason` of a node that was not to run."""
ALL_ITEMS = "[*]"
"""Stands behind the name of a node for all its instances: `read[*]`."""
FAILURES = frozenset({Status.FAILED, Status.TIMED_OUT})
"""How a node fails by itself."""


class Reason(Word):
    """Why a barrier opened."""

    ALL = "all", "Every dependency has settled."
    QUORUM = "quorum", "As many as `wait_for` says have succeeded."
    TIMEOUT = "timeout", "The barrier's `timeout` or `deadline` is over."
    ARRIVAL = "arrival", "A progressive join runs on what has arrived, and runs again when more does."


class RunStatus(Word):
    """How a run ended."""

    SUCCEEDED = "succeeded", "Every required node succeeded."
    FAILED = "failed", "A required node did not succeed, or the run took longer than `limits.timeout`."
    OUT_OF_BUDGET = "out_of_budget", "The budget is spent; what had finished is kept, and a resume goes on from there."
    INTERRUPTED = "interrupted", "Ctrl-C or SIGTERM stopped it; what had finished is kept."


class Exit(IntEnum):
    """The exit codes of the program, with what they mean."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    SUCCEEDED = 0, "The run succeeded; the pipelines are valid."
    FAILED = 1, "The run ran and failed: a required node did not succeed, or its output could not be written."
    USAGE = 2, "Wrong usage or an invalid pipeline (with `validate --strict`: or a warning); no call was made."
    BUDGET = 3, "The budget is spent; raise it with --budget, and `agentdag resume` goes on."
    STORE = 4, "The store could not be opened or written, or another process runs that run; nothing more was begun."
    INTERRUPTED = 130, "Ctrl-C (SIGINT) stopped the run; what had finished is printed."
    TERMINATED = 143, "SIGTERM stopped the run; what had finished is printed."


@value(frozen=True, slots=True)
class RunStarted:
    """`at` is in seconds since the run began, in every event; `time` is UTC in ISO 8601."""

    type: ClassVar = "run.started"
    run: str
    at: float
    pipeline: str
    nodes: int
    concurrency: int
    schedule: str
    time: str
    critical_path_s: float
    sequential_s: float


@value(frozen=True, slots=True)
class BarrierOpened:
    """A join goes on: with `arrived`, without `missing`, of which those in `late` were still out.

    A progressive join tells it for each of its passes, with those that are still to come in `pending`.
    """

    type: ClassVar = "barrier.opened"
    run: str
    at: float
    node: str
    reason: Reason
    arrived: tuple[str, ...]
    missing: tuple[str, ...]
    late: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    pass_number: int = 1


@value(frozen=True, slots=True)
class NodeResumed:
    """In a run that goes on, whether what is there of a node is `kept` or its work is done (again), and why."""

    type: ClassVar = "node.resumed"
    run: str
    at: float
    node: str
    kept: bool
    why: str


@value(frozen=True, slots=True)
class NodeStarted:
    """An attempt (from 1, in each pass) of a node holds a slot and acts. `model` is None where none is asked."""

    type: ClassVar = "node.started"
    run: str
    at: float
    node: str
    wave: int
    attempt: int
    model: str | None
    pass_number: int = 1
    reserved: Amount | None = None
    """What it may cost at the most, where a budget bounds it."""
    turn: int = 1
    """Which turn of a conversation it is of."""


@value(frozen=True, slots=True)
class NodeProgress:
    """Tokens as they stream, estimated until the answer is complete; a few times a second at most."""

    type: ClassVar = "node.progress"
    run: str
    at: float
    node: str
    output_tokens: int
    ttft_s: float


@value(frozen=True, slots=True)
class NodeWaiting:
    """A node stopped waiting on `on` (`slot`, `rate`, `budget`, `cache` or `retry`) after `seconds`."""

    type: ClassVar = "node.waiting"
    run: str
    at: float
    node: str
    on: str
    seconds: float


@value(frozen=True, slots=True)
class NodeRetrying:
    """Attempt `attempt` failed; the next begins after `wait_s`."""

    type: ClassVar = "node.retrying"
    run: str
    at: float
    node: str
    attempt: int
    wait_s: float
    error: Failure


@value(frozen=True, slots=True)
class NodeWarned:
    """Something was not done quite as the file says, and the node went on: `message` says what, `hint` the mend."""

    type: ClassVar = "node.warned"
    run: str
    at: float
    node: str
    message: str
    hint: str | None = None


@value(frozen=True, slots=True)
class NodeHedged:
    """An attempt was still out after `after_s`: the same call runs a second time beside it. The first answer wins."""

    type: ClassVar = "node.hedged"
    run: str
    at: float
    node: str
    attempt: int
    after_s: float
    reserved: Amount | None = None
    """As of `node.started`."""


@value(frozen=True, slots=True)
class NodeFallback:
    """All attempts so far have failed, at last with `error`: fallback number `fallback` (from 1) takes over."""

    type: ClassVar = "node.fallback"
    run: str
    at: float
    node: str
    fallback: int
    model: str | None
    error: Failure


@value(frozen=True, slots=True)
class TurnFinished:
    """A turn of a conversation ended that was not the last: what the model said, and what it was told upon that.

    `fallback` is which of the node's fallbacks holds the conversation, 0 for its own work.
    """

    type: ClassVar = "turn.finished"
    run: str
    at: float
    node: str
    turn: int
    pass_number: int
    fallback: int
    exchange: Exchange
    usage: Usage


@value(frozen=True, slots=True)
class ToolStarted:
    """A tool is called as a model has asked: `call` is the call's id, `writes` whether it may change anything."""

    type: ClassVar = "tool.started"
    run: str
    at: float
    node: str
    tool: str
    call: str
    writes: bool = False


@value(frozen=True, slots=True)
class ToolFinished:
    """A call of a tool has come to `result`, which is what the model is told; where it failed, `error` says why."""

    type: ClassVar = "tool.finished"
    run: str
    at: float
    node: str
    tool: str
    call: str
    latency_s: float
    error: Failure | None
    result: str
    value: str | None = None
    """What it gave, as JSON, where `result` is another text: for calls that refer to it."""


@value(frozen=True, slots=True)
class PassFinished:
    """A pass of a progressive join, or of a node that repeats, ended. Where that of a join failed, `error` says why,
    and the output before it stands."""

    type: ClassVar = "pass.finished"
    run: str
    at: float
    node: str
    pass_number: int
    latency_s: float
    output: Any
    error: Failure | None
    asked: str | None = None
    """The digest of what it asked, of a node that repeats."""


@value(frozen=True, slots=True)
class NodeExpanded:
    """A node begins that is made of others: the instances of a `foreach`, so many `items`, or those of a pipeline."""

    type: ClassVar = "node.expanded"
    run: str
    at: float
    node: str
    wave: int
    items: int | None
    pass_number: int = 1


@value(frozen=True, slots=True)
class NodeSettled:
    """A node's end. `latency_s` is of the last attempt alone; `waits` are seconds by cause.

    `output` is there where the node succeeded; a progressive join that was cut off keeps that of its last good pass.
    """

    type: ClassVar = "node.settled"
    run: str
    at: float
    node: str
    status: Status
    latency_s: float
    attempts: int
    model: str | None
    usage: Usage
    output: Any
    error: Failure | None
    reason: str | None
    waits: Mapping[str, float]
    ttft_s: float | None = None
    cached: bool = False
    """Whether the answer came out of the cache: nobody was asked, and nothing was paid."""
    kept: bool = False
    """Whether it is the answer to the same request in an earlier life of this run, or in the run before."""
    finish_reason: str | None = None
    """Why the model stopped, in its provider's word; `length` and `max_tokens` say that it was cut."""
    fallback: int = 0
    """Which of the node's fallbacks came last, from 1; 0 where it needed none."""
    fallback_error: Failure | None = None
    """Why that fallback was asked: what those before it came to."""
    hedges: int = 0
    """How many calls were made a second time because the first was late."""
    passes: int = 1
    """How often a progressive join ran."""
    degraded: tuple[str, ...] = ()
    """What it was made to do with because the budget was low: `downgrade`, `shrink`."""
    charged: Amount | None = None
    """What it took of a budget, in this life of the run; of a call whose cost is not known, the most it can be."""
    stderr: str | None = None
    """What a program said besides its output, at its end."""
    parts: int | None = None
    """Of how many instances or nodes it was made, which tell of themselves: what it used is the sum of theirs."""
    turns: int = 1
    """How many turns the conversation took that gave the answer."""
    truncated: bool = False
    """Whether the answer was cut at its token limit."""
    partial: str | None = None
    """What had come of an answer that does not count, because it was cut."""
    reasoning: str | None = None
    """What the model thought before it answered, where the provider or the answer says that in text."""
    service_tier: str | None = None
    """Which service tier the provider says that it gave."""


@value(frozen=True, slots=True)
class BudgetLeft:
    """What of a budget is not spent; None where there is no bound. Calls that are out may have reserved some of it."""

    tokens: int | None
    cost_usd: Decimal | None

    def plain(self) -> dict[str, Any]:
        """As machines read it; money is a string of decimal digits."""
        return {"tokens": self.tokens, "cost_usd": None if self.cost_usd is None else format(self.cost_usd, "f")}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> BudgetLeft:
        """What JSON holds of one; raises KeyError, TypeError or InvalidOperation where it is none."""
        cost = plain["cost_usd"]
        return cls(plain["tokens"], None if cost is None else Decimal(str(cost)))


@value(frozen=True, slots=True)
class BudgetLow:
    """So much of the budget is spent that from now on `actions` are taken."""

    type: ClassVar = "budget.low"
    run: str
    at: float
    share: float
    actions: tuple[str, ...]


@value(frozen=True, slots=True)
class RunProgress:
    """Once a second at most: what is going on. `waiting` counts nodes by what they wait for; of `budget_left`, what is
    not bounded is None."""

    type: ClassVar = "run.progress"
    run: str
    at: float
    in_flight: int
    queued: int
    waiting: Mapping[str, int]
    usage: Usage
    budget_left: BudgetLeft | None = None


@value(frozen=True, slots=True)
class RunFinished:
    """The run's end. Both totals come from the measured latencies.

    `output_errors` says for each output that is null why it could not be rendered.
    `startup_s` is what loading and importing took before the run began.
    """

    type: ClassVar = "run.finished"
    run: str
    at: float
    status: RunStatus
    elapsed_s: float
    startup_s: float
    sequential_s: float
    critical_path_s: float
    usage: Usage
    outputs: Mapping[str, Any]
    output_errors: Mapping[str, str]
    nodes: Mapping[Status, int]
    exit_code: int
    reason: str | None = None
    top_tier_usd: Decimal | None = None
    """What the same tokens would have cost with everything on the top tier, where that is known."""
    cache_saved_usd: Decimal | None = None
    """What the provider's prompt caches have saved, where prices are known."""
    budget_left: BudgetLeft | None = None
    most_queued: int = 0
    """How many nodes waited at once, at the most, for a slot or a rate: many say that the cap is too small."""


Event = (
    RunStarted
    | BarrierOpened
    | NodeResumed
    | NodeExpanded
    | NodeStarted
    | NodeProgress
    | NodeWaiting
    | NodeRetrying
    | NodeWarned
    | NodeHedged
    | NodeFallback
    | TurnFinished
    | ToolStarted
    | ToolFinished
    | PassFinished
    | BudgetLow
    | NodeSettled
    | RunProgress
    | RunFinished
)


class Observer(Protocol):
    """Anything that wants to know. Called in the order of the events, on the run's loop; must not block."""

    def __call__(self, event: Event, /) -> None: ...


class Observers:
    """The fan-out: tells each observer, and drops one that raises.

    `dropped` holds what was raised, for whoever wants to report it.
    """

    def __init__(self, observers: tuple[Observer, ...]) -> None:
        self._observers = list(observers)
        self.dropped: list[tuple[Observer, Exception]] = []

    def add(self, *observers: Observer) -> None:
        """Tell these as well, from now on."""
        self._observers += observers

    def __call__(self, event: Event, /) -> None:
        for observer in self._observers:
            try:
                observer(event)
            except Exception as error:  # noqa: BLE001 - foreign code: a view may not hurt the run
                _LOG.warning("an observer stopped, the run goes on: %s: %s", type(error).__name__, error)
                self.dropped.append((observer, error))
                self._observers = [other for other in self._observers if other is not observer]


_PLAIN: dict[type, Callable[[Any], Any]] = {
    Usage: Usage.plain,
    Failure: Failure.plain,
    Amount: Amount.plain,
    BudgetLeft: BudgetLeft.plain,
    Exchange: Exchange.plain,
    Decimal: lambda money: format(money, "f"),
}


def event_json(event: Event) -> str:
    """*event* as one line of JSON, safe for any output: lone surrogates are escaped. Seconds are to the microsecond."""
    plain: dict[str, Any] = {"type": event.type}
    for name in event.__slots__:
        value = getattr(event, name)
        plain[name] = _PLAIN[type(value)](value) if type(value) in _PLAIN else _rounded(value)
    if isinstance(event, NodeSettled) and event.status is not Status.SUCCEEDED and event.output is None:
        del plain["output"]
    return json.dumps(plain)


def later(event: E, at: float) -> E:
    """*event*, which nobody was told yet, as it happens at *at*."""
    object.__setattr__(event, "at", at)
    return event


def _rounded(value: Any) -> Any:
    """Seconds to the microsecond: the digits below mean nothing."""
    if isinstance(value, float):
        return round(value, 6)
    return value
