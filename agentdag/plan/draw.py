"""A plan and its forecast for people and for programs: a timeline with its totals, and JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentdag.language.scalars import seconds_text
from agentdag.plan.advice import Advice, Sensitivity, advise, what_if
from agentdag.plan.flat import flat, owner_of
from agentdag.plan.forecast import Forecast, makespan_s
from agentdag.plan.graph import width
from agentdag.plan.plan import Plan, PlanNode

MAX_ROWS = 200
UNFOLDED_ROWS = 40
"""Up to so many nodes each have a row of their own; above, nodes that differ in nothing but their names share one."""
MAX_NAME = 28
MAX_NEEDS = 4
MAX_PATH = 12
BAR, MIN_BAR = 32, 10
"""Columns of the timeline."""
BESIDE_BAR = 48
"""Columns beside the name and the bar: wave, mark, seconds, slack, and the first of the needs."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What the timeline is drawn with."""

    critical: str = "●"
    arrow: str = "→"
    bar: str = "█"
    slack: str = "·"
    more: str = "…"


ASCII = Signs("*", "->", "#", ".", "~")


def caps(plan: Plan) -> list[tuple[int, float]]:
    """How long the run takes with 1, 2, 4, ... nodes at once, up to the graph's width."""
    most = width(plan.graph)
    asked = [cap for cap in (2**power for power in range(most.bit_length())) if cap < most]
    rules, seconds = plan.rules, plan.durations_s
    return [(cap, makespan_s(plan.graph, seconds, replace(rules, cap=cap))) for cap in [*asked, most]]


def to_json(
    plan: Plan, *, changes: Mapping[str, float] | None = None, sensitivity: Sequence[Sensitivity] | None = None
) -> str:
    """The graph as the appendix of the contract has it, with what else was asked; unfolded, as `flat` has it."""
    file, plan = plan, flat(plan)
    told = plan.forecast()
    names = [node.id for node in plan.nodes]
    critical = set(told.critical_path)
    nodes = []
    for number, node in enumerate(plan.nodes):
        entry: dict[str, Any] = {
            "id": node.id,
            "wave": node.wave,
            "needs": list(node.edges),
            "duration_s": _rounded(node.expected_s),
            "start_s": _rounded(told.starts_s[number]),
            "slack_s": None if math.isinf(told.slack_s[number]) else _rounded(told.slack_s[number]),
            "critical": number in critical,
        }
        if node.assumed:
            entry["assumed"] = True
        if not node.barrier.plain:
            entry["barrier"] = node.barrier.told(len(node.needs))
        if node.made is not None:
            entry["parts"] = list(node.made.parts)
        if node.feeder is not None:
            entry["item_by_item"] = node.feeder
        if number in told.late:
            entry["late"] = True
        if number in told.lost:
            entry["never_runs"] = True
        nodes.append(entry)
    whole = {
        "pipeline": plan.name,
        **_totals(plan, told),
        "concurrency": plan.concurrency,
        "schedule": plan.schedule,
        "width": width(plan.graph),
        "caps": [{"concurrency": cap, "makespan_s": _rounded(seconds)} for cap, seconds in caps(plan)],
        "waves": [[names[number] for number in wave] for wave in plan.graph.waves],
        "nodes": nodes,
        "advice": [_advice_json(advice) for advice in advise(file)],
    }
    if changes:
        changed = flat(file.lasting(changes))
        whole["what_if"] = {"durations_s": dict(changes), **_totals(changed, changed.forecast())}
    if sensitivity is not None:
        whole["sensitivity"] = [
            {"id": each.node, "per_second_s": _rounded(each.per_second_s), "up_to_s": _rounded(each.up_to_s)}
            for each in sensitivity
        ]
    return json.dumps(whole, indent=2, ensure_ascii=False)


def _totals(plan: Plan, told: Forecast) -> dict[str, Any]:
    return {
        "sequential_s": _rounded(told.sequential_s),
        "waves_s": _rounded(told.waves_s),
        "critical_path_s": _rounded(told.critical_path_s),
        "critical_path": _path(plan, told),
        "makespan_s": _rounded(told.makespan_s),
        "lower_bound_s": _rounded(told.lower_bound_s),
    }


def _path(plan: Plan, told: Forecast) -> list[str]:
    """The nodes of the critical path, without those that are no more than the end of others."""
    return [plan.nodes[number].id for number in told.critical_path if plan.nodes[number].made is None]


def _advice_json(advice: Advice) -> dict[str, Any]:
    return {
        "code": advice.code,
        "message": advice.message,
        "hint": advice.hint,
        "saves_s": _rounded(advice.saves_s),
    }


def _rounded(value: float) -> float:
    """Without the dust of adding floats."""
    return round(value, 6)


def to_text(
    plan: Plan,
    *,
    changes: Mapping[str, float] | None = None,
    sensitivity: Sequence[Sensitivity] | None = None,
    signs: Signs | None = None,
    columns: int | None = None,
) -> str:
    """When each node runs, the critical path marked; the totals; what would make the run shorter.

    With *columns* the timeline is no wider than that.
    """
    signs = signs or Signs()
    file, plan = plan, flat(plan)
    told = plan.forecast()
    nodes, waves = _counted(len(file.nodes), "node"), _counted(len(plan.graph.waves), "wave")
    unfolded = "" if plan is file else f", {sum(node.made is None for node in plan.nodes):,} when unfolded"
    lines = [f"{plan.name}: {nodes} in {waves}{unfolded}", ""]
    lines += (_fitted(line, columns, signs) for line in _timeline(plan, told, signs, columns))
    if not _is_free(plan):
        lines += ["", "  slack is against the critical path: it does not know of the cap, or of waves"]
    if told.late:
        lines += ["", "  late: the joins after it open without it, and it is cut off"]
    if told.lost:
        lines += ["", "  never: a barrier on the way does not open in time, under this cap and with these durations"]
    if any(node.assumed for node in plan.nodes):
        lines += ["", "  ? assumed: say how long a node takes with `expect: {latency: 45s}`"]
    lines += ["", *_total_lines(plan, told, signs)]
    if changes:
        lines += ["", f"  {what_if(file, changes)}"]
    if sensitivity is not None:
        lines += ["", *_sensitivity_lines(sensitivity)]
    lines += _advice_lines(advise(file), columns)
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Row:
    """One node, or several that differ in nothing but their names, or what a node is made of."""

    numbers: tuple[int, ...]
    name: str
    whole: int | None = None
    """The node that *numbers* are the parts of."""


class _Folding:
    """The rows of a flat *plan*: a node that is made of others stands before them."""

    def __init__(self, plan: Plan, told: Forecast, signs: Signs) -> None:
        self._plan = plan
        self._told = told
        self._signs = signs
        self._critical = set(told.critical_path)
        self._numbers = {node.id: number for number, node in enumerate(plan.nodes)}
        self._within: dict[str, list[int]] = {}
        for number, node in enumerate(plan.nodes):
            self._within.setdefault(owner_of(node.id), []).append(number)

    def rows(self, owner: str, depth: int = 0) -> Iterator[_Row]:
        """Those of the nodes that *owner* is made of."""
        for numbers in self._groups(owner):
            node = self._plan.nodes[numbers[0]]
            name = "  " * depth + _cropped(self._plan.nodes[min(numbers)].id, self._signs)
            if node.made is not None:
                yield _Row(tuple(self._leaves(node.id)), name, numbers[0])
                yield from self._inner(node, depth + 1)
            else:
                yield _Row(tuple(numbers), f"{name} and {len(numbers) - 1} more" if len(numbers) > 1 else name)

    def _inner(self, node: PlanNode, depth: int) -> Iterator[_Row]:
        """What *node* is made of: the nodes of its pipeline, for the item that matters most where there are several."""
        inner = self._within.get(node.id, ())
        items = [number for number in inner if self._plan.nodes[number].id.endswith("]")]
        if inner and not items:
            yield from self.rows(node.id, depth)
        if not items:
            return
        shown = max(items, key=lambda number: not self._critical.isdisjoint(self._leaves(self._plan.nodes[number].id)))
        if self._plan.nodes[shown].made is not None:
            yield from self.rows(self._plan.nodes[shown].id, depth)

    def _groups(self, owner: str) -> Iterator[list[int]]:
        """The nodes of *owner* wave by wave, as they start; where they are many, the like ones together."""
        plan, starts = self._plan, self._told.starts_s
        firsts = {number: min(self._leaves(plan.nodes[number].id), key=self._moment) for number in self._within[owner]}
        listed = sorted(firsts, key=lambda number: (*self._moment(firsts[number]), starts[number], number))
        if len(listed) <= UNFOLDED_ROWS:
            yield from ([number] for number in listed)
            return
        groups: dict[Any, list[int]] = {}
        for number in listed:
            node, after = plan.nodes[number], tuple(plan.graph.dependants[number])
            single = number in self._critical or node.made is not None
            groups.setdefault(number if single else (node.wave, node.edges, after), []).append(number)
        yield from groups.values()

    def _moment(self, number: int) -> tuple[int, float]:
        return self._plan.nodes[number].wave, self._told.starts_s[number]

    def _leaves(self, name: str) -> list[int]:
        """The nodes that *name* is made of, and that are made of no others."""
        found = []
        for number in self._within.get(name, ()):
            found += self._leaves(self._plan.nodes[number].id)
        return found or [self._numbers[name]]


def _is_free(plan: Plan) -> bool:
    """Whether nothing but its needs ever keeps a node waiting."""
    return plan.schedule == "eager" and width(plan.graph) <= plan.concurrency


def _fitted(line: str, columns: int | None, signs: Signs) -> str:
    return line if columns is None or len(line) <= columns else line[: columns - len(signs.more)] + signs.more


def _chosen(rows: Sequence[_Row], critical: set[int]) -> list[_Row]:
    """As many rows as are shown, those of the critical path before all others."""
    ranked = sorted(range(len(rows)), key=lambda index: (critical.isdisjoint(rows[index].numbers), index))
    return [rows[index] for index in sorted(ranked[:MAX_ROWS])]


def _timeline(plan: Plan, told: Forecast, signs: Signs, columns: int | None) -> Iterator[str]:
    critical = set(told.critical_path)
    rows = list(_Folding(plan, told, signs).rows(""))
    shown = _chosen(rows, critical)
    drawn = told if _is_free(plan) else replace(told, slack_s=[0.0] * len(plan.nodes))
    wide = max(4, *(len(row.name) for row in shown))
    bar_wide = BAR if columns is None else max(MIN_BAR, min(BAR, columns - wide - BESIDE_BAR))
    end = f"{seconds_text(told.makespan_s):>{bar_wide - 3}}"
    yield f"  wave    {'node':<{wide}}  0 s{end}  {'lasts':>10} {'slack':>8}  needs"
    for row in shown:
        is_critical = not critical.isdisjoint(row.numbers)
        mark = signs.critical if is_critical else " "
        bar = _bar(drawn, row, signs, bar_wide)
        spare = "" if is_critical else _spare(told, row)
        wave = min(plan.nodes[number].wave for number in row.numbers)
        lasts = _lasts(plan, told, row)
        needs = _needs(plan.nodes[row.numbers[0] if row.whole is None else row.whole])
        yield f"  {wave:>4}  {mark} {row.name:<{wide}}  {bar}  {lasts:>10} {spare:>8}  {needs}".rstrip()
    if len(rows) > len(shown):
        left = sum(len(row.numbers) for row in rows if row.whole is None) - sum(
            len(row.numbers) for row in shown if row.whole is None
        )
        yield f"  {signs.more} and {left:,} more nodes"


def _spare(told: Forecast, row: _Row) -> str:
    """The slack of a row, or that nobody waits for it."""
    if told.lost.issuperset(row.numbers):
        return "never"
    if told.late.issuperset(row.numbers):
        return "late"
    slack = min(told.slack_s[each] for each in row.numbers)
    return "any" if math.isinf(slack) else seconds_text(slack)


def _needs(node: PlanNode) -> str:
    """What *node* waits for, by which rule, and for how many items it runs."""
    edges = node.edges if node.made is None else node.made.edges
    needs = ", ".join(edges[:MAX_NEEDS])
    if len(edges) > MAX_NEEDS:
        needs += f" and {len(edges) - MAX_NEEDS} more"
    if not node.barrier.plain and node.made is None:
        needs = f"[{node.barrier.told(len(node.needs))}] {needs}"
    if node.feeder is not None:
        needs += ", item by item"
    if node.foreach is not None:
        needs += "  [each item]"
    elif node.made is not None and node.made.items is not None:
        rule = "" if node.barrier.plain else f": {node.barrier.told(node.made.items)}"
        needs += f"  [{_counted(node.made.items, 'item')}{rule}]"
    return needs.strip()


def _lasts(plan: Plan, told: Forecast, row: _Row) -> str:
    if row.whole is not None:
        spans = [(told.starts_s[number], told.ends_s[number]) for number in row.numbers]
        return seconds_text(max(end for _, end in spans) - min(start for start, _ in spans)) + " "
    seconds = [plan.nodes[number].expected_s for number in row.numbers]
    assumed = "?" if any(plan.nodes[number].assumed for number in row.numbers) else " "
    low, high = seconds_text(min(seconds)), seconds_text(max(seconds))
    return (low if low == high else f"{low.removesuffix(' s')}-{high}") + assumed


def _bar(told: Forecast, row: _Row, signs: Signs, columns: int) -> str:
    """From the first start to the last end of the row's nodes, and how much later the end may be."""
    if not told.makespan_s:
        return " " * columns
    scale = columns / told.makespan_s
    start = min(told.starts_s[number] for number in row.numbers)
    end = max(told.ends_s[number] for number in row.numbers)
    slack = min(told.makespan_s, *(told.slack_s[number] for number in row.numbers))
    first = min(round(start * scale), columns - 1)
    last = max(first + 1, round(end * scale))
    spare = min(columns, round((end + slack) * scale)) - last
    return f"{' ' * first}{signs.bar * (last - first)}{signs.slack * max(0, spare)}".ljust(columns)


def _total_lines(plan: Plan, told: Forecast, signs: Signs) -> Iterator[str]:
    path = _path(plan, told)
    if len(path) > MAX_PATH:
        path = [*path[: MAX_PATH // 2], f"{signs.more} {len(path) - MAX_PATH} more", *path[-MAX_PATH // 2 :]]
    capped = f"with {plan.concurrency} at once" + (" in waves" if plan.schedule == "waves" else "")
    yield f"  {'one after another':<22} {seconds_text(told.sequential_s):>9}"
    yield f"  {'lock-step waves':<22} {seconds_text(told.waves_s):>9}"
    yield f"  {'critical path':<22} {seconds_text(told.critical_path_s):>9}  {f' {signs.arrow} '.join(path)}"
    bound = f"no order can beat {seconds_text(told.lower_bound_s)}"
    yield f"  {capped:<22} {seconds_text(told.makespan_s):>9}  {bound}"
    others = [f"{cap}: {seconds_text(seconds)}" for cap, seconds in caps(plan)]
    if len(others) > 1:
        yield f"  {'with as many at once':<22} {'':>9}  {', '.join(others)}"


def _sensitivity_lines(found: Sequence[Sensitivity]) -> Iterator[str]:
    if not found:
        yield "  no single node, however fast, would make it shorter"
        return
    wide = max(len(each.node) for each in found[:MAX_ROWS])
    yield f"  {'node':<{wide}}  each second off it saves     up to"
    for each in found[:MAX_ROWS]:
        yield f"  {each.node:<{wide}}  {seconds_text(each.per_second_s):>23} {seconds_text(each.up_to_s):>9}"
    if len(found) > MAX_ROWS:
        yield f"  and {len(found) - MAX_ROWS:,} more"


def _advice_lines(advice: Sequence[Advice], columns: int | None) -> Iterator[str]:
    if advice:
        yield from ("", "  What would make it shorter")
    for index, each in enumerate(advice):
        first, *rest = _wrapped(each.message, columns)
        yield f"  {seconds_text(each.saves_s):>9}  {first}"
        if index == len(advice) - 1 or advice[index + 1].hint != each.hint:
            rest += _wrapped(f"{each.code}: {each.hint}", columns)
        yield from (f"  {'':>9}  {line}" for line in rest)


def _wrapped(text: str, columns: int | None) -> list[str]:
    """*text* in lines that fit beside the seconds."""
    return [text] if columns is None else textwrap.wrap(text, max(40, columns - 14), break_on_hyphens=False)


def _cropped(name: str, signs: Signs) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + signs.more


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
