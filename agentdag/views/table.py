"""The board as a table for a terminal: pure, from a board, a moment and a size to lines.

Where not all rows fit, what runs and what failed comes first and the rest is folded to counts.
"""

from __future__ import annotations

from collections import Counter

from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from agentdag.views.board import PENDING, RETRYING, RUNNING, WAITING, Board, Row
from agentdag.views.words import CUT, count, held_up, inert, money, seconds

_MARKS = {
    PENDING: ("·", "dim"),
    RUNNING: ("▸", "bold cyan"),
    RETRYING: ("↻", "yellow"),
    WAITING: ("◦", "cyan"),
    "succeeded": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "timed_out": ("✗", "bold red"),
    "skipped": ("○", "dim"),
    "late": ("◌", "yellow"),
    "cancelled": ("■", "magenta"),
}
_ASCII = {
    "▸": ">",
    "↻": "~",
    "✓": "+",
    "✗": "x",
    "○": "o",
    "◦": "-",
    "◌": "o",
    "■": "#",
    "·": ".",
    "→": "->",
    "…": "~",
    "━": "=",
    "─": "-",
}
_COUNTED = (RETRYING, WAITING, "failed", "timed_out", "late", "skipped", "cancelled")
"""What the footer counts where there is any."""
_FIXED = 2 + 5 + 12 + 4 + 10 + 7 + 8 + 8
"""Columns of everything but the node and its model: mark, wave, status, try, time, first token, in, out."""
_NARROWEST_MODEL = 8
_NARROWEST_NODE, _WIDEST_NODE = 14, 28
_NARROWEST_NOTE = 12
"""With fewer columns left, what is special about a node is told below the table only."""


def render(
    board: Board, *, now: float, width: int, height: int, ascii_only: bool = False, footer: bool = True
) -> list[Text]:
    """The whole picture, at most *height* lines of at most *width* columns. *now* is on the run's clock."""
    width = max(20, width)
    last = _footer(board, now) if footer else []
    lines = [_header(board), *_table(board, now, width, height - 1 - len(last)), *last]
    return [_fitted(line, width, ascii_only=ascii_only) for line in lines[: max(1, height)]]


def _header(board: Board) -> Text:
    started = board.started
    title = Text(inert(started.pipeline) if started else "", style="bold")
    if started is not None:
        title.append(f"  {started.nodes} nodes, {started.concurrency} at once, {started.schedule}", style="dim")
    return title


def _table(board: Board, now: float, width: int, height: int) -> list[Text]:
    rows = list(board.rows.values())
    folded: list[Row] = []
    if len(rows) > height - 1:
        room = max(1, height - 2)
        by_urgency = sorted(rows, key=lambda row: row.urgency)
        shown = {row.node for row in by_urgency[:room]}
        folded = [row for row in rows if row.node not in shown]
        rows = [row for row in rows if row.node in shown]
    node_width, model_width = _widths(board, width)
    lines = [_columns(node_width, model_width)]
    lines += [_line(row, now, (node_width, model_width), width) for row in rows]
    if folded:
        counts = Counter(row.status for row in folded)
        told = ", ".join(f"{number} {status.replace('_', ' ')}" for status, number in counts.items())
        lines.append(Text(f"  and {len(folded)} more: {told}", style="dim"))
    return lines


def _widths(board: Board, width: int) -> tuple[int, int]:
    """Columns for the node and for its model; where they are too few, the model gives way first."""
    free = width - _FIXED
    names = min(_WIDEST_NODE, max((cell_len(row.node) for row in board.rows.values()), default=4))
    models = max((cell_len(row.model or "") for row in board.rows.values()), default=0)
    if not models or free - 2 - _NARROWEST_MODEL < min(names, _NARROWEST_NODE):
        return max(8, min(names, free)), 0
    node = min(names, max(_NARROWEST_NODE, free - 2 - models))
    return node, min(models, free - 2 - node)


def _columns(node_width: int, model_width: int) -> Text:
    line = Text("  ", style="dim")
    line.append(f"{'wave':<5}{'node':<{node_width}}  {'status':<10}")
    if model_width:
        line.append(f"  {'model':<{model_width}}")
    line.append(f" {'try':>3}{'time':>10}{'first':>7}{'in':>8}{'out':>8}")
    return line


def _line(row: Row, now: float, widths: tuple[int, int], width: int) -> Text:
    node_width, model_width = widths
    mark, style = _MARKS[row.status]
    line = Text(f"{mark} ", style=style)
    line.append(f"{row.wave:<5}", style="dim")
    line.append(_cell(row.node, node_width), style=Style() if row.status != PENDING else "dim")
    line.append(f"  {row.status.replace('_', ' '):<10}", style=style)
    if model_width:
        model = row.model or ""
        fits = cell_len(model) <= model_width
        line.append(f"  {_cell(model if fits else model.partition('/')[2], model_width)}", style="dim")
    line.append(f" {row.attempt if row.attempt > 1 else '':>3}{_time(row, now):>10}{_seconds(row.ttft_s):>7}")
    out = f"{'~' if row.counting else ''}{_count(row.output_tokens)}"
    line.append(f"{_count(row.input_tokens):>8}{out:>8}", style="dim")
    room = width - line.cell_len - 2
    note = "; ".join(each for each in (row.folded(), row.note) if each)
    if note and room >= _NARROWEST_NOTE:
        line.append(f"  {_cell(note, min(room, cell_len(inert(note))))}", style="dim")
    return line


def _cell(text: str, width: int) -> str:
    text = inert(text)
    return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _time(row: Row, now: float) -> str:
    if row.status in {RUNNING, RETRYING, WAITING}:
        return seconds(max(0.0, now - row.since))
    return _seconds(row.latency_s) if row.attempt else ""


def _seconds(value: float | None) -> str:
    return "" if value is None else seconds(value)


def _count(value: int | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if value < 1_000_000 else f"{value / 1e6:.1f}M"


def _footer(board: Board, now: float) -> list[Text]:
    started = board.started
    if started is None:
        return []
    elapsed = board.finished.elapsed_s if board.finished else now
    line = Text(seconds(elapsed), style="bold")
    if board.expected_s is not None:
        line.append(f" of {seconds(board.expected_s)} expected")
    line.append(f"; critical path {seconds(started.critical_path_s)}", style="dim")
    line.append(f", in sequence {seconds(started.sequential_s)}", style="dim")
    counts = board.counts
    told = [f"{counts[status]} {status}" for status in (RUNNING, PENDING)]
    told += [f"{counts[status]} {status.replace('_', ' ')}" for status in _COUNTED if counts[status]]
    told += [f"{board.truncated} {CUT}"] if board.truncated else []
    made = board.output_tokens + board.streaming_tokens()
    tokens = f"{count(board.input_tokens, 'token')} in, {made:,} out"
    tokens += f", cost {money(board.cost_usd)}" if board.cost_usd or board.cost_usd is None else ""
    lines = [line, Text(f"{', '.join(told)}; {tokens}", style="dim")]
    lines += _limits(board)
    if board.latest:
        lines.append(Text(inert(board.latest), style="yellow"))
    return [*lines, Text(board.note, style="bold yellow")] if board.note else lines


def _limits(board: Board) -> list[Text]:
    """Who waits for which limit, and what of the budget is left."""
    progress = board.progress
    if progress is None or board.finished is not None:
        return []
    told = held_up(progress.waiting, progress.budget_left)
    return [Text(told, style="dim")] if told else []


def _fitted(line: Text, width: int, *, ascii_only: bool) -> Text:
    if ascii_only:
        plain = "".join(_ASCII.get(c, c if c.isascii() else "?") for c in line.plain)
        if len(plain) == len(line.plain):
            line.plain = plain
        else:
            line = Text(plain)
    line.truncate(width, overflow="ellipsis" if not ascii_only else "crop")
    return line
