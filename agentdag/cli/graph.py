"""`graph`: how long a pipeline takes and why, and what would make it shorter."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from agentdag.cli.check import report
from agentdag.events import Exit
from agentdag.session import compile_pipeline
from agentdag.views.lines import writer
from agentdag.views.words import speaks


def show_graph(path: Path, output_format: str, changes: dict[str, Any], color: str, allowed: tuple[Path, ...]) -> int:
    """Print the graph of the pipeline at *path*, with *changes* to its limits; the exit code."""
    from agentdag.plan.draw import to_json as graph_json
    from agentdag.plan.draw import to_text as graph_text

    compiled = compile_pipeline(path, allowed=allowed)
    report(compiled.findings, color)
    if compiled.plan is None:
        return Exit.USAGE
    plan = compiled.plan.changed(**changes)
    ascii_only = not speaks(sys.stdout, "●→")
    text = graph_json(plan) if output_format == "json" else graph_text(plan, ascii_only=ascii_only)
    writer(sys.stdout)(text + "\n")
    return Exit.SUCCEEDED
