"""The closing words of a run: what did not succeed and why, and where the time went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

from rich.text import Text

from agentdag.events import BarrierOpened, NodeSettled, NodeWarned, RunFinished, RunStatus, Status
from agentdag.views.lines import settled_text
from agentdag.views.words import count, cut_answers, failure, inert, lacked, left, money, names, seconds, waited, warned

MAX_LISTED = 20
_TROUBLE = frozenset({Status.FAILED, Status.TIMED_OUT, Status.CANCELLED})
_STYLES = {
    RunStatus.SUCCEEDED: "bold green",
    RunStatus.FAILED: "bold red",
    RunStatus.OUT_OF_BUDGET: "bold yellow",
    RunStatus.INTERRUPTED: "bold yellow",
}
MAX_WAITED = 3
"""Nodes whose waits are told one by one."""


class About(NamedTuple):
    """What the closing words need to know besides: whether nobody is paid, what the top tier is, and what the
    simulator stood in for that asks no model, or did not save; and what was not done quite as the file says."""

    simulated: bool = False
    top_tier: str | None = None
    played: Sequence[str] = ()
    unsaved: Sequence[str] = ()
    warnings: Sequence[NodeWarned] = ()


def summary(
    finished: RunFinished,
    settled: list[NodeSettled],
    joins: Sequence[BarrierOpened] = (),
    about: About = About(),  # noqa: B008 - a frozen value
) -> list[Text]:
    """The lines to print at the end: failures first, then what they kept from running, then what did without."""
    whole = {node.node for node in settled if node.parts is not None}
    failed = [node for node in settled if node.status in _TROUBLE and not _is_told(node.node, whole)]
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
    lines += _warned(about.warnings, settled)
    for name, why in finished.output_errors.items():
        lines.append(Text(f"output {inert(name)} is null: {inert(why)}", style="yellow"))
    lines.append(_verdict(finished, settled))
    lines.append(_time(finished, resumed=any(node.kept for node in settled)))
    lines += _waited(settled, finished.most_queued)
    usage = finished.usage
    if usage.input_tokens or usage.output_tokens:
        told = "about " if usage.estimated else ""
        lines.append(Text(f"tokens  {told}{usage.input_tokens or 0:,} in, {usage.output_tokens or 0:,} out"))
        lines += _cost(finished, about)
    lines += _budget(finished, settled)
    if about.played:
        lines.append(Text(f"played  {names(about.played)}: no program ran and no request was sent", style="dim"))
    if about.unsaved:
        lines.append(Text(f"unsaved {names(about.unsaved)}: a rehearsal writes no files", style="dim"))
    return lines


def _warned(warnings: Sequence[NodeWarned], settled: Sequence[NodeSettled]) -> list[Text]:
    """Each thing once that was not done as the file says, and the answers that were cut."""
    nodes: dict[str, list[str]] = {}
    for event in warnings:
        nodes.setdefault(warned(event), []).append(event.node)
    lines = [Text(f"warning {words} ({names(ids)})", style="yellow") for words, ids in list(nodes.items())[:MAX_LISTED]]
    if len(nodes) > MAX_LISTED:
        lines.append(Text(f"        and {len(nodes) - MAX_LISTED:,} more warnings", style="yellow"))
    cut = [node.node for node in settled if node.truncated and node.status is Status.SUCCEEDED]
    if cut:
        lines.append(
            Text(f"cut     {cut_answers(len(cut))}: {names(cut)}; raise `max_tokens` for whole ones", style="yellow")
        )
    return lines


def _is_told(name: str, whole: Collection[str]) -> bool:
    """Whether the end of *name*, an instance, is told where its node's is."""
    return name.endswith("]") and name.rpartition("[")[0] in whole


def _waited(settled: Sequence[NodeSettled], most_queued: int) -> list[Text]:
    """What the nodes waited for in all, and those that waited most."""
    total: Counter[str] = Counter()
    for node in settled:
        total.update(node.waits)
    if not (told := waited(total)):
        return []
    deep = f"; up to {most_queued:,} queued" if most_queued > 1 else ""
    most = sorted(settled, key=lambda node: -sum(node.waits.values()))[:MAX_WAITED]
    each = "; ".join(f"{inert(node.node)} {words}" for node in most if (words := waited(node.waits)))
    return [Text(f"waited  {told}{deep}"), *([Text(f"        most: {each}", style="dim")] if each else [])]


def _cost(finished: RunFinished, about: About) -> list[Text]:
    """What it cost, what tiers have saved, and what the provider's caches have."""
    cost, lines = finished.usage.cost_usd, []
    if cost or cost is None:
        line = f"cost    {money(cost)}" + (" if it were real" if about.simulated else "")
        top = finished.top_tier_usd
        if cost is not None and top and about.top_tier is not None:
            line += f"; with everything on {inert(about.top_tier)} {money(top)}"
            line += f": {1 - cost / top:.0%} saved" if cost < top else ""
        lines.append(Text(line))
    if cached := finished.usage.cached_tokens:
        saved = finished.cache_saved_usd
        worth = f", {money(saved)} saved" if saved is not None and saved > 0 else ""
        lines.append(Text(f"cache   {cached:,} of the input tokens from the provider's cache{worth}"))
    return lines


def _budget(finished: RunFinished, settled: Sequence[NodeSettled]) -> list[Text]:
    """What of the budget is left, and what was done to keep within it."""
    if finished.budget_left is None:
        return []
    line = f"budget  {left(finished.budget_left) or 'nothing'} left"
    for action, done in (("downgrade", "downgraded"), ("shrink", "shortened")):
        if ids := [node.node for node in settled if action in node.degraded]:
            line += f"; {done}: {names(ids)}"
    return [Text(line)]


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
    line = Text(finished.status.replace("_", " "), style=_STYLES[finished.status])
    counts = ", ".join(f"{number:,} {status.replace('_', ' ')}" for status, number in finished.nodes.items())
    line.append(f"  {count(sum(finished.nodes.values()), 'node')}: {counts}", style="")
    kept, cached = sum(node.kept for node in settled), sum(node.cached for node in settled)
    line.append(f"; {kept:,} kept from before" if kept else "")
    line.append(f"; {cached:,} from the cache" if cached else "")
    if finished.reason:
        line.append(f" ({inert(finished.reason)})", style="")
    return line


def _time(finished: RunFinished, *, resumed: bool) -> Text:
    line = Text(f"time    {seconds(finished.elapsed_s)}; critical path {seconds(finished.critical_path_s)}")
    line.append(f"; one after another {seconds(finished.sequential_s)}")
    if not resumed and finished.elapsed_s > 0 and finished.sequential_s > finished.elapsed_s:
        line.append(f", {finished.sequential_s / finished.elapsed_s:.1f} times as long")
    return line
