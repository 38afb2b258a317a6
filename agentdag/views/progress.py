"""A batch as a person watches it: how many rows are done, how fast, what it costs, and how long it still takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rich.text import Text

from agentdag.calls import NO_USAGE, Usage
from agentdag.events import BudgetLeft, Event, NodeSettled, NodeWarned, RunFinished, RunProgress, RunStarted, RunStatus
from agentdag.views.words import CUT, count, held_up, inert, money, seconds, warned

_BAR = 30
MAX_WARNINGS = 20
_ENOUGH = 3
"""Rows that must have ended before a rate is told."""


@dataclass
class Progress:
    """The rows of a batch of *name*: a fold over the events of all of them. *kept_before* says how many had succeeded
    in an earlier life of it, *budget* what is left of what all rows may spend together."""

    name: str
    rows: int
    concurrency: int
    kept_before: Callable[[], int] = lambda: 0
    budget: Callable[[], BudgetLeft | None] = lambda: None
    at_work: int = 0
    succeeded: int = 0
    failed: int = 0
    usage: Usage = NO_USAGE
    truncated: int = 0
    """How many answers were cut at their token limit."""
    warnings: Counter[str] = field(default_factory=Counter)
    """What was not done quite as the file says, with how often that was so; the first of them."""
    note: str = ""
    latest: str = ""
    _held_up: dict[str, Mapping[str, int]] = field(default_factory=dict)
    """Of each row at work: how many of its nodes wait for what, as it told last."""

    def __call__(self, event: Event, /) -> None:
        match event:
            case RunStarted():
                self.at_work += 1
            case NodeSettled(kept=False) if event.usage is not NO_USAGE:
                self.usage += event.usage
                self.truncated += event.truncated
            case NodeWarned():
                self.latest = warned(event)
                if self.latest in self.warnings or len(self.warnings) < MAX_WARNINGS:
                    self.warnings[self.latest] += 1
            case RunProgress():
                self._held_up[event.run] = event.waiting
            case RunFinished():
                self.at_work -= 1
                self._held_up.pop(event.run, None)
                self.succeeded += event.status is RunStatus.SUCCEEDED
                if event.status is RunStatus.FAILED:
                    self.failed += 1
                    self.latest = f"row {event.run.rpartition('.')[2]} failed"

    @property
    def kept(self) -> int:
        return self.kept_before()

    @property
    def done(self) -> int:
        return self.kept + self.succeeded + self.failed

    @property
    def waiting(self) -> Mapping[str, int]:
        """How many nodes of all rows wait for what."""
        return sum((Counter(each) for each in self._held_up.values()), Counter[str]())

    def left_s(self, now: float) -> float | None:
        """How long it still takes at the rate so far; None where there is none yet."""
        ended = self.succeeded + self.failed
        return None if ended < _ENOUGH else (self.rows - self.done) * now / ended


def render(board: Progress, *, now: float, width: int, height: int, ascii_only: bool = False) -> list[Text]:
    """The picture, at most *height* lines of at most *width* columns; *now* is in seconds since the batch began."""
    title = Text(inert(board.name), style="bold")
    title.append(f"  batch of {count(board.rows, 'row')}, {board.concurrency} at once", style="dim")
    filled = _BAR * board.done // max(1, board.rows)
    full, empty = ("#", ".") if ascii_only else ("█", "░")
    line = Text(f"{full * filled}", style="green").append(empty * (_BAR - filled), style="dim")
    line.append(f"  {board.done:,} of {count(board.rows, 'row')}")
    ended, left_s = board.succeeded + board.failed, board.left_s(now)
    if left_s is not None and now > 0:
        line.append(f"; {_rate(ended / now)}, {seconds(left_s)} left", style="dim")
    told = [f"{board.succeeded:,} succeeded", f"{board.failed:,} failed", f"{board.at_work:,} under way"]
    told += [f"{board.kept:,} kept from before"] if board.kept else []
    told += [f"{board.truncated:,} {CUT}"] if board.truncated else []
    usage = board.usage
    used = (
        f"{count(usage.input_tokens or 0, 'token')} in, {usage.output_tokens or 0:,} out, cost {money(usage.cost_usd)}"
    )
    lines = [title, line, Text(f"{seconds(now)}; {', '.join(told)}; {used}", style="dim")]
    held = held_up(board.waiting, board.budget())
    lines += [Text(held, style="dim")] if held else []
    lines += [Text(inert(board.latest), style="yellow")] if board.latest else []
    lines += [Text(board.note, style="bold yellow")] if board.note else []
    for each in lines:
        each.truncate(max(20, width), overflow="crop" if ascii_only else "ellipsis")
    return lines[: max(1, height)]


def _rate(per_s: float) -> str:
    """Rows in a time that gives a figure."""
    for unit, share in (("s", 1), ("min", 60), ("h", 3600)):
        if per_s * share >= 1:
            return f"{per_s * share:,.1f} rows/{unit}"
    return f"{per_s * 86400:,.1f} rows/day"
