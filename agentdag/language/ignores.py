"""Comments that silence warnings: `# agentdag: ignore[AD501]` at the end of a line, or alone above it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from agentdag.errors import Finding, Span
from agentdag.language.document import Document
from agentdag.language.findings import did_you_mean, severity_of

_COMMENT = re.compile(r"(?:^|(?<=[ \t]))#[ \t]*agentdag:[ \t]*ignore\b(?:\[(?P<codes>[^\]\n]*)\])?", re.MULTILINE)


MAX_GAP = 20
"""Lines of comments that may stand between a comment and what it is about."""


@dataclass
class Ignore:
    """One comment: its place, the line that it is about, and which of its codes have silenced something."""

    span: Span
    line: int
    codes: tuple[str, ...]
    used: set[str] = field(default_factory=set)


class Ignores:
    """The comments of one document."""

    def __init__(self, document: Document) -> None:
        self._by_line: dict[int, list[Ignore]] = {}
        for ignore in _ignores(document):
            self._by_line.setdefault(ignore.line, []).append(ignore)

    def silences(self, finding: Finding, lines: Iterable[int]) -> bool:
        """Whether a comment about one of *lines* silences the warning *finding*."""
        for line in lines:
            for ignore in self._by_line.get(line, ()):
                if finding.code in ignore.codes:
                    ignore.used.add(finding.code)
                    return True
        return False

    def idle(self, known: AbstractSet[str]) -> Iterator[Finding]:
        """A finding for every code that silenced nothing; *known* are all codes that there are."""
        for ignore in (each for line in self._by_line.values() for each in line):
            if not ignore.codes:
                message, hint = "this names no code, so it silences nothing", "write `# agentdag: ignore[AD501]`"
                yield Finding("AD610", "warning", ignore.span, message, hint)
            for code in ignore.codes:
                if code in ignore.used:
                    continue
                message, hint = f"there is no {code} here to silence", "remove it"
                if code not in known:
                    message, hint = f"there is no code `{code}`", did_you_mean(code, known) or hint
                elif severity_of(code) == "error":
                    message = f"{code} is an error, which no comment silences"
                yield Finding("AD610", "warning", ignore.span, message, hint)


def _ignores(document: Document) -> Iterator[Ignore]:
    source = document.source
    if "agentdag:" not in source.text:
        return
    inside = list(document.scalars())
    for match in _COMMENT.finditer(source.text):
        at = match.start()
        if any(start <= at < end for start, end in inside):
            continue
        span = source.span_at(at, match.end() - at)
        alone = not span.excerpt[: span.column - 1].strip()
        codes = tuple(code.strip() for code in (match["codes"] or "").split(",") if code.strip())
        line = span.line
        while alone and (not source.line(line).strip() or source.line(line).lstrip().startswith("#")):
            line += 1
            if line > span.line + MAX_GAP:
                break
        yield Ignore(span, line, codes)
