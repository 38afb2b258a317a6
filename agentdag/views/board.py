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
    BarrierOpened,
    BudgetLow,
    Event,
    NodeFallback,
    NodeHedged,
    NodeProgress,
    NodeResumed,
    NodeRetrying,
    NodeSettled,
    NodeStarted,
    PassFinished,
    RunFinished,
    RunProgress,
    RunStarted,
)
from agentdag.views.words import failed_over, hedged, low, opened, passed, seconds

PENDING, RUNNING, RETRYING, WAITING = "pending", "running", "retrying", "waiting"
"""Besides the settled statuses, what a row's status may be; a progressive join waits between two passes."""
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
    """The whole run. `rows` are by wave, then in file order."""

    rows: dict[str, Row]
    started: RunStarted | None = None
    finished: RunFinished | None = None
    counts: Counter[str] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    """Of what has settled."""
    cost_usd: Decimal | None = Decimal(0)
    """Of what has settled; None where it is not known."""
    progress: RunProgress | None = None
    """What was told last of queues and the budget."""
    expected_s: float | None = None
    """How long the run is expected to take under its cap."""
    note: str = ""
    """A word to whoever watches."""
    latest: str = ""
    """The last thing that did not go the usual way."""
    _resumed: dict[str, str] = field(default_factory=dict)
    """Why nodes of a run that goes on are run: worth a note until they have settled."""

    @classmethod
    def of(cls, nodes: Iterable[tuple[str, int, str | None]], *, expected_s: float | None = None) -> Board:
        """The board of *nodes*, each an id, its wave, and its model where it asks one."""
        rows = [Row(*node) for node in nodes]
        board = cls({row.node: row for row in sorted(rows, key=lambda row: row.wave)}, expected_s=expected_s)
        board.counts[PENDING] = len(rows)
        return board

    def __call__(self, event: Event, /) -> None:
        match event:
            case NodeStarted():
                self._node_started(event)
            case NodeSettled():
                self._node_settled(event)
            case BarrierOpened():
                self._tell(event.node, opened(event))
            case NodeProgress():
                row = self.rows[event.node]
                row.output_tokens, row.ttft_s, row.counting = event.output_tokens, event.ttft_s, True
            case NodeRetrying():
                row = self.rows[event.node]
                self._change(row, RETRYING, event.at)
                row.error, row.counting = event.error, False
                self._tell(event.node, f"again in {seconds(event.wait_s)}: {event.error.kind}")
            case NodeResumed(kept=False):
                self.rows[event.node].note = self._resumed[event.node] = event.why
            case NodeHedged():
                self._tell(event.node, f"hedged: {hedged(event)}")
            case NodeFallback():
                self._tell(event.node, f"fallback: {failed_over(event)}")
            case PassFinished():
                self._change(self.rows[event.node], WAITING, event.at)
                self._tell(event.node, passed(event))
            case _:
                self._run_told(event)

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
        return sum(row.output_tokens or 0 for row in self.rows.values() if row.counting)

    def _tell(self, node: str, note: str | None) -> None:
        if note:
            self.rows[node].note = note
            self.latest = f"{node}: {note}"

    def _change(self, row: Row, status: str, at: float) -> None:
        self.counts[row.status] -= 1
        self.counts[status] += 1
        row.status, row.since = status, at

    def _node_started(self, event: NodeStarted) -> None:
        row = self.rows[event.node]
        self._change(row, RUNNING, event.at)
        row.attempt, row.model = event.attempt, event.model
        row.ttft_s = row.output_tokens = None
        row.counting = False

    def _node_settled(self, event: NodeSettled) -> None:
        row = self.rows[event.node]
        self._change(row, event.status.value, event.at)
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
            self.input_tokens += usage.input_tokens or 0
            self.output_tokens += usage.output_tokens or 0
            if not event.kept:
                known = self.cost_usd is not None and usage.cost_usd is not None
                self.cost_usd = self.cost_usd + usage.cost_usd if known else None  # type: ignore[operator]
        else:
            row.output_tokens = None
