"""The closing words of a run: what did not succeed and why, and where the time went."""

from __future__ import annotations

from rich.text import Text

from agentdag.events import NodeSettled, RunFinished, RunStatus, Status
from agentdag.views.lines import settled_text
from agentdag.views.words import count, inert, seconds

MAX_LISTED = 20
_STYLES = {RunStatus.SUCCEEDED: "bold green", RunStatus.FAILED: "bold red", RunStatus.INTERRUPTED: "bold yellow"}


def summary(finished: RunFinished, settled: list[NodeSettled]) -> list[Text]:
    """The lines to print at the end; failures first, then what they kept from running."""
    troubles = [node for node in settled if node.status is not Status.SUCCEEDED]
    troubles.sort(key=lambda node: node.status is Status.SKIPPED)
    lines = [_trouble(node) for node in troubles[:MAX_LISTED]]
    if len(troubles) > MAX_LISTED:
        lines.append(Text(f"and {len(troubles) - MAX_LISTED} more that did not succeed", style="dim"))
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
    style = "dim" if node.status is Status.SKIPPED else "red"
    line = Text(f"{inert(node.node)} ", style="bold")
    line.append(settled_text(node), style=style)
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
