"""Findings for people and for machines: every code with its meaning, text and JSON.

This file renders findings; who finds them stands elsewhere.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from agentdag.errors import Finding, Severity

FIRST_WARNING = "AD500"
"""The codes above are warnings, those below errors."""

MANY_WORDS = 100
MAX_WIDTH = 120
"""Longer source lines are shown as the part around the mark."""


def severity_of(code: str) -> Severity:
    """Whether a finding with *code* keeps the pipeline from running."""
    return "warning" if code > FIRST_WARNING else "error"


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint that names the known word nearest to *word*, or None."""
    near = _nearest(word, _candidates(word, tuple(known)))
    return f"did you mean `{near}`?" if near else None


def _candidates(word: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Those of *known* that may be near to *word*: all of a few, and of many only what begins or is as long like it."""
    if len(known) <= MANY_WORDS:
        return known
    alike = (each for each in known if each[:1] == word[:1] and abs(len(each) - len(word)) <= 1)
    return tuple(islice(alike, MANY_WORDS // 4))


@lru_cache(maxsize=1024)
def _nearest(word: str, known: tuple[str, ...]) -> str | None:
    near = difflib.get_close_matches(word[:MAX_WIDTH], known, n=1, cutoff=0.6)
    return near[0] if near else None


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Each finding once, by file, then line and column; of a value that was misread, no more than that."""
    unique = list(dict.fromkeys(findings))
    misread = {finding.span for finding in unique if finding.code == "AD105"}
    kept = (finding for finding in unique if finding.code == "AD105" or finding.span not in misread)
    return sorted(kept, key=lambda f: (f.span.file, f.span.line, f.span.column, f.code))


def to_text(findings: Sequence[Finding]) -> str:
    """Each finding with its place, its source line with the place marked, and its hint."""
    return "\n\n".join(_paragraph(finding) for finding in findings)


def _paragraph(finding: Finding) -> str:
    span = finding.span
    lines = [
        f"{inert(span.file)}:{span.line}:{span.column}: {finding.severity}[{finding.code}]: {inert(finding.message)}"
    ]
    if span.excerpt.strip():
        number = str(span.line)
        gutter = " " * len(number)
        text, start, width = _window(finding)
        lines += [f"{gutter} |", f"{number} | {text}", f"{gutter} | {' ' * start}{'^' * width}"]
    if finding.hint:
        lines.append(f"  = hint: {inert(finding.hint)}")
    return "\n".join(lines)


def _window(finding: Finding) -> tuple[str, int, int]:
    """The part of the source line to show, and where in it the mark begins and how long it is."""
    span = finding.span
    line = span.excerpt.replace("\t", " ")
    start = min(span.column - 1, len(line))
    end = span.end_column - 1 if span.end_line == span.line else len(line.rstrip())
    first = max(0, start - MAX_WIDTH // 2) if len(line) > MAX_WIDTH else 0
    shown = inert(line[first : first + MAX_WIDTH])
    return shown, start - first, max(1, min(end, first + MAX_WIDTH) - start)


def inert(text: str) -> str:
    """*text* with everything that could move a cursor or hide words made visible, on one line."""
    return "".join(c if c.isprintable() else _VISIBLE.get(c) or f"<U+{ord(c):04X}>" for c in text)


_VISIBLE = {"\n": " ", "\t": " ", "\r": " ", "\u3000": "\u3000", "\xa0": " ", "\u2028": " ", "\u2029": " "}


def to_json(findings: Sequence[Finding], files: int, costs: Sequence[Mapping[str, Any]] = ()) -> str:
    """The findings of *files* checked files, as the appendix of the contract has it, and what runs of them cost."""
    return json.dumps(
        {
            "files": files,
            "errors": sum(finding.severity == "error" for finding in findings),
            "warnings": sum(finding.severity == "warning" for finding in findings),
            "findings": [_plain(finding) for finding in findings],
            "costs": list(costs),
        },
        indent=2,
    )


def _plain(finding: Finding) -> dict[str, str | int | None]:
    span = finding.span
    return {
        "code": finding.code,
        "severity": finding.severity,
        "file": span.file,
        "line": span.line,
        "column": span.column,
        "end_line": span.end_line,
        "end_column": span.end_column,
        "message": finding.message,
        "hint": finding.hint,
    }
