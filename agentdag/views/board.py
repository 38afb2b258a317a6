"""What a person wants to see of a run: a fold over its events.

Table, lines and summary all draw the same board. It knows no terminal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from agentdag.calls import NO_USAGE
from agentdag.errors import Failure
from agentdag.events import (
    ALL_ITEMS,
    BarrierOpened,
    BudgetLow,
    Event,
    NodeExpanded,
    NodeFallback,
    NodeHedged,
    NodeProgress,
    NodeResumed,
    NodeRetrying,
    NodeSettled,
    NodeStarted,
    NodeWarned,
    PassFinished,
    RunFinished,
    RunProgress,
    RunStarted,
    ToolFinished,
    ToolStarted,
    base_name,
)
from agentdag.views.words import CUT, failed_over, hedged, low, opened, passed, seconds, warned

PENDING, RUNNING, RETRYING, WAITING = "pending", "running", "retrying", "waiting"
"""Besides the settled statuses, what a row's status may be; a progressive join waits between two passes."""
_AT_WORK = frozenset({RUNNING, RETRYING, WAITING})
_TOLD = (RUNNING, RETRYING, "failed", "timed_out", "late", "skipped", "cancelled")
"""What is told of instances, besides how many are done."""
_TROUBLE = frozenset({"failed", "timed_out", "cancelled"})


@dataclass(slots=True)
class Row:
    """One node. Times are in seconds; `since` is when the present status began, on the run's clock."""

    node: str
    wave: int
    model: str | None
    status: str = PENDING
    attempt: int = 0
    since: float = 0.0
    latency_s: float | None = None
    ttft_s: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    counting: bool = False
    """Whether the output tokens are still an estimate of what streams."""
    error: Failure | None = None
    note: str = ""
    """What is special about it."""
    items: int | None = None
    """How many instances it has, once that is known."""
    tally: Counter[str] = field(default_factory=Counter)
    """How many of its instances are how; those that are still to come are not counted."""

    def folded(self) -> str:
        """How its instances are, in words; empty where it has none."""
        if not self.tally:
            return ""
        done = sum(number for status, number in self.tally.items() if status not in _AT_WORK)
        told = [f"{done:,} of {self.items:,}" if self.items is not None else f"{done:,} done"]
        told += [f"{self.tally[status]:,} {status.replace('_', ' ')}" for status in _TOLD if self.tally[status]]
        return ", ".join(told)

    @property
    def urgency(self) -> int:
        """Smaller is shown first where not all rows fit."""
        if self.status in {RUNNING, RETRYING, WAITING}:
            return 0
        if self.status in _TROUBLE:
            return 1
        return 2 if self.status == PENDING else 3


@dataclass
class Board:
    """The whole run. `rows` are by wave, then in file order; the nodes of a pipeline stand below the one that runs it.

    The instances of a node are folded into its row.
    """

    rows: dict[str, Row]
    started: RunStarted | None = None
    finished: RunFinished | None = None
    counts: Counter[str] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    """Of what has settled."""
    cost_usd: Decimal | None = Decimal(0)
    """Of what has settled; None where it is not known."""
    truncated: int = 0
    """How many answers were cut at their token limit."""
    progress: RunProgress | None = None
    """What was told last of queues and the budget."""
    expected_s: float | None = None
    """How long the run is expected to take under its cap."""
    note: str = ""
    """A word to whoever watches."""
    latest: str = ""
    """The last thing that did not go the usual way."""
    _instances: dict[str, str] = field(default_factory=dict)
    """The instances that are at work, and how."""
    _streams: dict[str, int] = field(default_factory=dict)
    """Estimated tokens of the answers that are still coming."""
    _tools: dict[str, dict[str, str]] = field(default_factory=dict)
    """The tools at work for each node, by their calls' ids."""
    _resumed: dict[str, str] = field(default_factory=dict)
    """Why nodes of a run that goes on are run: worth a note until they have settled."""

    @classmethod
    def of(cls, nodes: Iterable[tuple[str, int, str | None]], *, expected_s: float | None = None) -> Board:
        """The board of *nodes*, each an id, its wave, and its model where it asks one."""
        rows = [Row(*node) for node in nodes]
        waves = {row.node: row.wave for row in rows}
        rows.sort(key=lambda row: waves[row.node.partition(".")[0]])
        board = cls({row.node: row for row in rows}, expected_s=expected_s)
        board.counts[PENDING] = len(rows)
        return board

    def row(self, name: str) -> Row:
        """The row of a node, or of the one of which it is an instance."""
        found = self.rows.get(name)
        if found is not None:
            return found
        base = base_name(name).removesuffix(ALL_ITEMS)
        found = self.rows.get(base)
        if found is None:
            found = self.rows[base] = Row(base, 0, None)
            self.counts[PENDING] += 1
        return found

    def __call__(self, event: Event, /) -> None:
        match event:
            case NodeExpanded() | NodeStarted() | NodeProgress() | NodeRetrying() | NodeSettled():
                self._node_goes_on(event)
            case BarrierOpened():
                self._tell(event.node, opened(event))
            case NodeResumed(kept=False):
                if "[" not in event.node:
                    self.row(event.node).note = self._resumed[event.node] = event.why
            case NodeHedged():
                self._tell(event.node, f"hedged: {hedged(event)}")
            case NodeWarned():
                self._tell(event.node, warned(event))
            case NodeFallback():
                self._tell(event.node, f"fallback: {failed_over(event)}")
            case ToolStarted() | ToolFinished():
                self._tool_told(event)
            case PassFinished():
                if "[" not in event.node:
                    self._change(self.row(event.node), WAITING, event.at)
                self._tell(event.node, passed(event))
            case _:
                self._run_told(event)

    def _node_goes_on(self, event: NodeExpanded | NodeStarted | NodeProgress | NodeRetrying | NodeSettled) -> None:
        """A node begins, streams, fails for now, or ends."""
        match event:
            case NodeExpanded():
                self._node_expanded(event)
            case NodeStarted():
                self._node_started(event)
            case NodeProgress():
                self._streams[event.node] = event.output_tokens
                if "[" not in event.node:
                    row = self.row(event.node)
                    row.output_tokens, row.ttft_s, row.counting = event.output_tokens, event.ttft_s, True
            case NodeRetrying():
                self._node_retrying(event)
            case NodeSettled():
                self._node_settled(event)

    def _tool_told(self, event: ToolStarted | ToolFinished) -> None:
        """What a node's tools are at work on, while it waits for them."""
        tools = self._tools.setdefault(event.node, {})
        if isinstance(event, ToolStarted):
            tools[event.call] = event.tool
        else:
            tools.pop(event.call, None)
        if "[" not in event.node:
            counts = Counter(tools.values())
            told = ", ".join(f"{tool} x{number}" if number > 1 else tool for tool, number in counts.items())
            self.row(event.node).note = f"waits for {told}" if told else ""

    def _node_retrying(self, event: NodeRetrying) -> None:
        self._streams.pop(event.node, None)
        if "[" in event.node:
            self._change_instance(event.node, RETRYING, event.at)
        else:
            row = self.row(event.node)
            self._change(row, RETRYING, event.at)
            row.error, row.counting = event.error, False
        self._tell(event.node, f"again in {seconds(event.wait_s)}: {event.error.kind}")

    def _run_told(self, event: Event) -> None:
        """Something happened that is of no single node."""
        match event:
            case RunStarted():
                self.started = event
            case RunProgress():
                self.progress = event
            case BudgetLow():
                self.latest = low(event)
            case RunFinished():
                self.finished = event

    def streaming_tokens(self) -> int:
        """Estimated tokens of the answers that are still coming."""
        return sum(self._streams.values())

    def _tell(self, node: str, note: str | None) -> None:
        if note:
            if "[" not in node:
                self.row(node).note = note
            self.latest = f"{node}: {note}"

    def _change(self, row: Row, status: str, at: float) -> None:
        self.counts[row.status] -= 1
        self.counts[status] += 1
        row.status, row.since = status, at

    def _change_instance(self, name: str, status: str, at: float) -> None:
        """An instance is folded into the row of its node, which is at work as long as any of them is."""
        row = self.row(name)
        before = self._instances.pop(name, None)
        if before is not None:
            row.tally[before] -= 1
        row.tally[status] += 1
        if status in _AT_WORK:
            self._instances[name] = status
        if row.status == PENDING:
            self._change(row, RUNNING, at)

    def _node_expanded(self, event: NodeExpanded) -> None:
        if "[" in event.node:
            self._change_instance(event.node, RUNNING, event.at)
            return
        row = self.row(event.node)
        self._change(row, RUNNING, event.at)
        row.items, row.wave = event.items, event.wave

    def _node_started(self, event: NodeStarted) -> None:
        self._streams.pop(event.node, None)
        if "[" in event.node:
            self._change_instance(event.node, RUNNING, event.at)
            self.row(event.node).model = event.model
            return
        row = self.row(event.node)
        self._change(row, RUNNING, event.at)
        row.attempt, row.model = event.attempt, event.model
        row.ttft_s = row.output_tokens = None
        row.counting = False

    def _node_settled(self, event: NodeSettled) -> None:
        self._streams.pop(event.node, None)
        self._tools.pop(event.node, None)
        if event.parts is None:
            self._count(event)
        if event.truncated:
            self.truncated += 1
            self._tell(event.node, "cut at limit")
            self.latest = f"{event.node}: {CUT}"
        if "[" in event.node:
            self._instance_settled(event)
            return
        row = self.row(event.node)
        self._change(row, event.status.value, event.at)
        for name in [name for name in self.rows if name.startswith(f"{event.node}.")] if event.parts else ():
            if self.rows[name].status in _AT_WORK | {PENDING} and self.rows[name].tally:
                self._change(self.rows[name], event.status.value, event.at)
        usage = event.usage
        row.latency_s, row.error, row.model = event.latency_s, event.error, event.model
        if row.note == self._resumed.get(event.node):
            row.note = ""
        row.note = event.reason or (f"{event.error.kind}: {event.error.message}" if event.error else row.note)
        if event.kept or event.cached:
            row.note = "cache" if event.cached else "kept"
        row.ttft_s, row.counting = event.ttft_s, False
        if event.passes == 1:
            row.attempt = event.attempts
        if usage is not NO_USAGE:
            row.input_tokens, row.output_tokens = usage.input_tokens, usage.output_tokens
        else:
            row.output_tokens = None

    def _instance_settled(self, event: NodeSettled) -> None:
        self._change_instance(event.node, event.status.value, event.at)
        row, usage = self.row(event.node), event.usage
        row.latency_s = event.latency_s
        if usage is not NO_USAGE:
            row.input_tokens = (row.input_tokens or 0) + (usage.input_tokens or 0)
            row.output_tokens = (row.output_tokens or 0) + (usage.output_tokens or 0)
        if event.error is not None:
            self.latest = f"{event.node}: {event.error.kind}: {event.error.message}"

    def _count(self, event: NodeSettled) -> None:
        """What a node has used is that of the run."""
        usage = event.usage
        if usage is NO_USAGE:
            return
        self.input_tokens += usage.input_tokens or 0
        self.output_tokens += usage.output_tokens or 0
        if not event.kept:
            known = self.cost_usd is not None and usage.cost_usd is not None
            self.cost_usd = self.cost_usd + usage.cost_usd if known else None  # type: ignore[operator]
