"""What is on record, in columns for people and as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from agentdag.views.lines import writer
from agentdag.views.words import inert


def number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.0%})" if part else ""


def short(text: str, most: int = 80) -> str:
    line = inert(" ".join(text[: 4 * most].split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def print_text(text: str) -> None:
    writer(sys.stdout)(text + "\n")


def print_json(value: Any) -> None:
    print_text(json.dumps(value, indent=2))


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> None:
    print_text("\n".join(table(titles, rows, right)))


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> Iterator[str]:
    """Columns as wide as they need to be."""
    cells = [[inert(cell) for cell in row] for row in (titles, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    for row in cells:
        line = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(line).rstrip()
