"""A batch as a person watches it: what its rows wait for, and what is left of what they may spend."""

from __future__ import annotations

from decimal import Decimal

from agentdag.calls import NO_USAGE
from agentdag.events import BudgetLeft, RunFinished, RunProgress, RunStarted, RunStatus
from agentdag.views.progress import Progress, render


def shown(board: Progress) -> str:
    return "\n".join(line.plain for line in render(board, now=5.0, width=100, height=20))


def test_what_rows_wait_for_is_told_for_all_of_them_together_until_they_end() -> None:
    left = BudgetLeft(None, Decimal("1.25"))
    board = Progress("name", 10, 4, budget=lambda: left)
    for row in ("b.1", "b.2"):
        board(RunStarted(row, 0.0, "name", 1, 4, "eager", "t", 1.0, 1.0))
        board(RunProgress(row, 1.0, 0, 1, {"slot": 0, "rate": 1, "retry": 0}, NO_USAGE, None))
    assert "waiting: 2 for a rate; $1.25 of the budget left" in shown(board)
    board(RunProgress("b.1", 2.0, 0, 1, {"slot": 1, "rate": 0, "retry": 0}, NO_USAGE, None))
    assert "waiting: 1 for a slot, 1 for a rate;" in shown(board)
    for row in ("b.1", "b.2"):
        board(RunFinished(row, 3.0, RunStatus.SUCCEEDED, 3.0, 0.0, 1.0, 1.0, NO_USAGE, {}, {}, {}, 0))
    assert "waiting" not in shown(board)
