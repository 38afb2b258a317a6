"""The closing words of a run: what did not succeed and why, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from agentdag.events import BarrierOpened, NodeSettled, RunFinished, RunStatus, Status
from agentdag.views.lines import settled_text
from agentdag.views.words import count, failure, inert, lacked, names, seconds

MAX_LISTED = 20
_TROUBLE = frozenset({Status.FAILED, Status.TIMED_OUT, Status.CANCELLED})
_STYLES = {RunStatus.SUCCEEDED: "bold green", RunStatus.FAILED: "bold red", RunStatus.INTERRUPTED: "bold yellow"}


def summary(finished: RunFinished, settled: list[NodeSettled], joins: Sequence[BarrierOpened] = ()) -> list[Text]:
    """The lines to print at the end: failures first, then what they kept from running, then what did without."""
    failed = [node for node in settled if node.status in _TROUBLE]
    lines = [_trouble(node) for node in failed[:MAX_LISTED]]
    if len(failed) > MAX_LISTED:
        lines.append(Text(f"and {len(failed) - MAX_LISTED:,} more that did not succeed", style="dim"))
    for status in (Status.SKIPPED, Status.LATE):
        because: dict[str, list[str]] = {}
        for node in settled:
            if node.status is status:
                because.setdefault(node.reason or "", []).append(node.node)
        lines += [_without_run(ids, status, reason) for reason, ids in list(because.items())[:MAX_LISTED]]
    lines += _joins(joins)[:MAX_LISTED]
    replaced = [node for node in settled if node.fallback and node.status is Status.SUCCEEDED]
    lines += [_replaced(node) for node in replaced[:MAX_LISTED]]
    for name, why in finished.output_errors.items():
        lines.append(Text(f"output {inert(name)} is null: {inert(why)}", style="yellow"))
    lines.append(_verdict(finished, settled))
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


def _without_run(ids: Sequence[str], status: Status, reason: str) -> Text:
    """All that one cause has kept from running, or has cut off."""
    line = Text(names(ids), style="bold")
    line.append(f" {status.value}: {inert(reason)}", style="dim")
    return line


def _joins(joins: Sequence[BarrierOpened]) -> list[Text]:
    """What each join that lacked somebody went on with; of a progressive one, its last pass."""
    last = {event.node: event for event in joins}
    lines = []
    for event in last.values():
        if event.missing and (told := lacked(event)):
            line = Text(inert(event.node), style="bold")
            lines.append(line.append(f" {told}", style="dim"))
    return lines


def _replaced(node: NodeSettled) -> Text:
    """Whose answer it is, and why not that of the first choice."""
    line = Text(inert(node.node), style="bold")
    who = inert(node.model or f"fallback {node.fallback}")
    why = f": {failure(node.fallback_error)}" if node.fallback_error else ""
    return line.append(f" answered by {who}, as fallback {node.fallback}{why}", style="dim")


def _verdict(finished: RunFinished, settled: Sequence[NodeSettled]) -> Text:
    line = Text(finished.status.value, style=_STYLES[finished.status])
    counts = ", ".join(f"{number:,} {status.replace('_', ' ')}" for status, number in finished.nodes.items())
    line.append(f"  {count(sum(finished.nodes.values()), 'node')}: {counts}", style="")
    kept, cached = sum(node.kept for node in settled), sum(node.cached for node in settled)
    line.append(f"; {kept:,} kept from before" if kept else "")
    line.append(f"; {cached:,} from the cache" if cached else "")
    if finished.reason:
        line.append(f" ({inert(finished.reason)})", style="")
    return line


def _time(finished: RunFinished) -> Text:
    line = Text(f"time    {seconds(finished.elapsed_s)}; critical path {seconds(finished.critical_path_s)}")
    line.append(f"; one after another {seconds(finished.sequential_s)}")
    if finished.elapsed_s > 0 and finished.sequential_s > finished.elapsed_s:
        line.append(f", {finished.sequential_s / finished.elapsed_s:.1f} times as long")
    return line
