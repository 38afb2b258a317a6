"""The closing words of a run: what did not succeed and why, and where the time went."""

from __future__ import annotations

from rich.text import Text

from agentdag.events import NodeSettled, RunFinished, RunStatus, Status
from agentdag.views.lines import settled_text
from agentdag.views.words import count, inert, seconds

MAX_LISTED = 20
MAX_NAMED = 5
_STYLES = {RunStatus.SUCCEEDED: "bold green", RunStatus.FAILED: "bold red", RunStatus.INTERRUPTED: "bold yellow"}


def summary(finished: RunFinished, settled: list[NodeSettled]) -> list[Text]:
    """The lines to print at the end; failures first, then what they kept from running."""
    failed = [node for node in settled if node.status not in {Status.SUCCEEDED, Status.SKIPPED}]
    lines = [_trouble(node) for node in failed[:MAX_LISTED]]
    if len(failed) > MAX_LISTED:
        lines.append(Text(f"and {len(failed) - MAX_LISTED:,} more that did not succeed", style="dim"))
    skipped: dict[str, list[str]] = {}
    for node in settled:
        if node.status is Status.SKIPPED:
            skipped.setdefault(node.reason or "", []).append(node.node)
    lines += [_skipped(names, reason) for reason, names in list(skipped.items())[:MAX_LISTED]]
    for name, why in finished.output_errors.items():
        lines.append(Text(f"output {inert(name)} is null: {inert(why)}", style="yellow"))
    lines.append(_verdict(finished))
    lines.append(_time(finished))
    usage = finished.usage
    if usage.input_tokens or usage.output_tokens:
        about = "about " if usage.estimated else ""
        tokens = f"{about}{usage.input_tokens or 0:,} in, {usage.output_tokens or 0:,} out"
        cached = f", {usage.cached_tokens:,} of the input from the provider's cache" if usage.cached_tokens else ""
        lines.append(Text(f"tokens  {tokens}{cached}"))
    return lines


def _trouble(node: NodeSettled) -> Text:
    line = Text(f"{inert(node.node)} ", style="bold")
    line.append(settled_text(node), style="red")
    return line


def _skipped(names: list[str], reason: str) -> Text:
    """All that one cause has kept from running."""
    line = Text(inert(", ".join(names[:MAX_NAMED])), style="bold")
    if len(names) > MAX_NAMED:
        line.append(f" and {len(names) - MAX_NAMED:,} more", style="bold")
    line.append(f" skipped: {inert(reason)}", style="dim")
    return line


def _verdict(finished: RunFinished) -> Text:
    line = Text(finished.status.value, style=_STYLES[finished.status])
    counts = ", ".join(f"{number:,} {status.replace('_', ' ')}" for status, number in finished.nodes.items())
    line.append(f"  {count(sum(finished.nodes.values()), 'node')}: {counts}", style="")
    if finished.reason:
        line.append(f" ({inert(finished.reason)})", style="")
    return line


def _time(finished: RunFinished) -> Text:
    line = Text(f"time    {seconds(finished.elapsed_s)}; critical path {seconds(finished.critical_path_s)}")
    line.append(f"; one after another {seconds(finished.sequential_s)}")
    if finished.elapsed_s > 0 and finished.sequential_s > finished.elapsed_s:
        line.append(f", {finished.sequential_s / finished.elapsed_s:.1f} times as long")
    return line
