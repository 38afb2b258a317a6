"""`validate` and `graph`: what can be told about a pipeline without running it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from agentdag.cli.main import OK, USAGE
from agentdag.errors import Finding
from agentdag.language.findings import to_json, to_text
from agentdag.session import compile_pipeline
from agentdag.views.lines import writer
from agentdag.views.words import speaks

SUFFIXES = frozenset({".yaml", ".yml"})


def validate_paths(paths: Sequence[Path], output_format: str, color: str, allowed: tuple[Path, ...]) -> int:
    """Check every pipeline in *paths* and print what was found; the exit code."""
    files, missing = _pipelines(paths)
    findings: list[Finding] = []
    for file in files:
        findings += compile_pipeline(file, allowed=allowed).findings
    errors = sum(finding.severity == "error" for finding in findings)
    out, err = writer(sys.stdout), writer(sys.stderr)
    for path in missing:
        err(f"error: there is no pipeline in {path}\n")
    if output_format == "json":
        out(to_json(findings, len(files)) + "\n")
    else:
        if findings:
            out(_colored(to_text(findings), sys.stdout, color) + "\n\n")
        if not files:
            return USAGE
        told = f"{errors} error{'' if errors == 1 else 's'}" if errors else "no problems"
        err(f"{len(files)} file{'' if len(files) == 1 else 's'} checked: {told}\n")
    return USAGE if errors or missing else OK


def show_graph(path: Path, output_format: str, changes: dict[str, Any], color: str, allowed: tuple[Path, ...]) -> int:
    """Print the graph of the pipeline at *path*, with *changes* to its limits; the exit code."""
    from agentdag.plan.draw import to_json as graph_json
    from agentdag.plan.draw import to_text as graph_text

    compiled = compile_pipeline(path, allowed=allowed)
    report(compiled.findings, color)
    if compiled.plan is None:
        return USAGE
    plan = compiled.plan.changed(**changes)
    ascii_only = not speaks(sys.stdout, "●→")
    text = graph_json(plan) if output_format == "json" else graph_text(plan, ascii_only=ascii_only)
    writer(sys.stdout)(text + "\n")
    return OK


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


def _pipelines(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The files to check, and those of *paths* in which there is none."""
    files: list[Path] = []
    missing: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
            files += found
            missing += [] if found else [path]
        else:
            files.append(path)
    return files, missing
