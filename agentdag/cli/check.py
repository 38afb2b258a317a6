"""`validate`: what is wrong with pipelines, for people, for CI servers, and for other programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from agentdag.cli.files import pipelines
from agentdag.errors import Finding, Span
from agentdag.events import Exit
from agentdag.language.findings import to_json, to_text
from agentdag.plan.compile import Compiled
from agentdag.plan.preview import Preview, Step
from agentdag.session import compile_pipeline, costs_of
from agentdag.views.lines import writer
from agentdag.views.words import count, inert, money, names

MAX_DEAR = 5
"""Nodes whose cost is told one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateArguments:
    """What was typed."""

    paths: Sequence[Path]
    format: str
    strict: bool
    print: bool
    color: str
    allowed: tuple[Path, ...]


def validate_paths(arguments: ValidateArguments) -> int:
    """Check every pipeline in the paths and print what was found; the exit code."""
    found = pipelines(arguments.paths)
    compiled = [compile_pipeline(file, allowed=arguments.allowed, lint=True) for file in found.files]
    findings = [_no_pipeline(path) for path in found.empty]
    findings += [finding for each in compiled for finding in each.findings]
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = len(findings) - errors
    out, err = writer(sys.stdout), writer(sys.stderr)
    if arguments.print:
        report(findings, arguments.color)
        out(_resolved(compiled))
    elif arguments.format == "text":
        out(_colored(to_text(findings), sys.stdout, arguments.color) + "\n\n" if findings else "")
        err("".join(_cost_text(seen) for seen in _costs(compiled)))
    else:
        costs = [_cost_json(seen) for seen in _costs(compiled)] if arguments.format == "json" else []
        out(_for_machines(arguments, findings, found.files, costs))
    if found.files and arguments.format == "text":
        told = [count(errors, "error")] if errors else []
        told += [count(warnings, "warning")] if warnings else []
        others = f" ({count(found.others, 'other YAML file')} left out: no pipeline)" if found.others else ""
        err(f"{count(len(found.files), 'file')} checked: {', '.join(told) or 'no problems'}{others}\n")
    failed = errors or (arguments.strict and warnings)
    return Exit.USAGE if failed else Exit.SUCCEEDED


def _costs(compiled: Sequence[Compiled]) -> Iterator[Preview]:
    """What runs of the pipelines are expected to cost and at the most, where that is known and something."""
    for each in compiled:
        seen = None if each.plan is None else costs_of(each.plan)
        if seen is not None and seen.high.cost_usd and not seen.unpriced:
            yield seen


def _cost_text(seen: Preview) -> str:
    """A run's cost, and which nodes make up most of it."""
    asked = [step for step in seen.steps if step.low.cost_usd]
    dearest = sorted(asked, key=lambda step: -(step.low.cost_usd or 0))[:MAX_DEAR]
    told = ", ".join(f"{step.name} {money(step.low.cost_usd)} to {money(step.high.cost_usd)}" for step in dearest)
    more = f", {len(asked) - len(dearest)} more" if len(asked) > len(dearest) else ""
    cost = f"{money(seen.low.cost_usd)} expected, {money(seen.high.cost_usd)} at most"
    of_one = f"; of one item each of {names(seen.uncounted)}" if seen.uncounted else ""
    return f"{inert(str(seen.plan.path))}: a run costs {cost} ({told}{more}){of_one}\n"


def _cost_json(seen: Preview) -> dict[str, Any]:
    nodes = [{"id": step.name, **_bounds(step)} for step in seen.steps if step.node.model is not None]
    return {"file": str(seen.plan.path), **_bounds(seen), "nodes": nodes}


def _bounds(seen: Preview | Step) -> dict[str, str | None]:
    told = {"expected_usd": seen.low.cost_usd, "worst_usd": seen.high.cost_usd}
    return {name: None if cost is None else format(cost, "f") for name, cost in told.items()}


def _no_pipeline(folder: Path) -> Finding:
    place = Span(str(folder), 1, 1, 1, 1)
    return Finding("AD101", "error", place, "there is no pipeline in this folder", "name the file itself")


def _for_machines(
    arguments: ValidateArguments, findings: Sequence[Finding], files: Sequence[Path], costs: Sequence[dict[str, Any]]
) -> str:
    from agentdag.language.reports import to_github, to_junit, to_sarif

    render: dict[str, Callable[[], str]] = {
        "json": lambda: to_json(findings, len(files), costs) + "\n",
        "github": lambda: to_github(findings),
        "sarif": lambda: to_sarif(findings),
        "junit": lambda: to_junit(findings, [str(file) for file in files], strict=arguments.strict),
    }
    return render[arguments.format]()


def _resolved(compiled: Sequence[Compiled]) -> str:
    from agentdag.plan.resolved import resolved

    plans = [each.plan for each in compiled if each.plan is not None]
    texts = [f"# {plan.path}\n{resolved(plan)}" if len(plans) > 1 else resolved(plan) for plan in plans]
    return "---\n".join(texts)


def report(findings: Sequence[Finding], color: str) -> None:
    """Print *findings* to stderr."""
    if findings:
        writer(sys.stderr)(_colored(to_text(findings), sys.stderr, color) + "\n")


def wants_color(stream: TextIO, color: str) -> bool:
    """Whether to colour *stream*: as asked, else on a terminal that can and where NO_COLOR is not set."""
    if color != "auto":
        return color == "always"
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _colored(text: str, stream: TextIO, color: str) -> str:
    """Severity, mark and hint of each finding in colour where *stream* wants it."""
    if not wants_color(stream, color):
        return text
    lines = []
    for line in text.split("\n"):
        if ": error[" in line or ": warning[" in line:
            place, _, rest = line.partition(": ")
            word, _, message = rest.partition(": ")
            shade = "31" if word.startswith("error") else "33"
            lines.append(f"\x1b[1m{place}:\x1b[0m \x1b[1;{shade}m{word}\x1b[0m: \x1b[1m{message}\x1b[0m")
        elif line.lstrip().startswith("|") and set(line.strip(" |")) == {"^"}:
            lines.append(line.replace("^", "\x1b[1;31m^", 1) + "\x1b[0m")
        elif line.startswith("  = hint:"):
            lines.append(line.replace("hint:", "\x1b[36mhint:\x1b[0m", 1))
        else:
            lines.append(line)
    return "\n".join(lines)
