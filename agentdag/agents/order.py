"""In which order the tool calls of one turn run: whatever is independent at once, the rest one after another.

The calls form a graph, as in LLMCompiler (Kim et al., "An LLM Compiler for Parallel Function Calling", 2023): an
argument may name another call's result, `$2` or `$search`, and what tools declare of their effects orders them further.
This file runs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

_REFERENCE = re.compile(r"\$(?:\{([A-Za-z0-9_-]+)\}|([A-Za-z0-9_-]+))")


@dataclass(frozen=True, slots=True)
class Effects:
    """What a tool declares: resources that it reads and writes, tools that go first, and whether it must be alone."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    after: frozenset[str] = frozenset()
    parallel: bool = True

    def conflicts(self, other: Effects) -> bool:
        """Whether the two must not overlap."""
        if not (self.parallel and other.parallel):
            return True
        touched, others = self.reads | self.writes, other.reads | other.writes
        return bool(self.writes & others or other.writes & touched)


NO_EFFECTS = Effects()


class Asked(NamedTuple):
    """One call of a turn: its tool, the family of tools that `after` may name, its arguments and its effects."""

    tool: str
    family: str
    arguments: Any
    effects: Effects


def order(calls: Sequence[Asked], ids: Sequence[str] = ()) -> list[frozenset[int]] | str:
    """For each call those that must have ended before it begins; or why there is no such order.

    Two that conflict keep the model's order, but where one refers to the other, or is declared to come after it.
    """
    names = names_of([call.tool for call in calls], ids)
    before: list[set[int]] = [set() for _ in calls]
    for number, call in enumerate(calls):
        before[number] |= {names[name] for name in references(call.arguments, names)} - {number}
        others = ((other, each) for other, each in enumerate(calls) if other != number)
        before[number] |= {other for other, each in others if {each.tool, each.family} & call.effects.after}
    reached = _closure(before)
    if reached is None:
        return "these calls wait for each other"
    for later in range(len(calls)):
        for earlier in range(later):
            if later in reached[earlier] or earlier in reached[later]:
                continue  # something else orders them
            if calls[earlier].effects.conflicts(calls[later].effects):
                before[later].add(earlier)
                reached = _closure(before)
                if reached is None:  # cannot be: no path led back
                    raise AssertionError("an order of calls runs in a circle")
    return [frozenset(each) for each in before]


def names_of(tools: Sequence[str], ids: Sequence[str]) -> Mapping[str, int]:
    """By which names an argument may refer to each call: its place from 1, its id, and its tool where it is the only
    call of it."""
    names = {str(number): number - 1 for number in range(1, len(tools) + 1)}
    names |= {tool: number for number, tool in enumerate(tools) if tools.count(tool) == 1}
    return names | {id_: number for number, id_ in enumerate(ids)}


def _closure(before: Sequence[set[int]]) -> list[set[int]] | None:
    """For each call all that come before it, directly or not; None where one comes before itself."""
    reached: list[set[int] | None] = [None] * len(before)
    on_the_way: set[int] = set()

    def reach(number: int) -> set[int] | None:
        known = reached[number]
        if known is not None:
            return known
        if number in on_the_way:
            return None
        on_the_way.add(number)
        found: set[int] = set()
        for each in before[number]:
            further = reach(each)
            if further is None:
                return None
            found |= {each, *further}
        on_the_way.discard(number)
        reached[number] = found
        return found

    all_ = [reach(number) for number in range(len(before))]
    return None if any(each is None for each in all_) else [each or set() for each in all_]


def references(arguments: Any, names: Mapping[str, int]) -> set[str]:
    """The names of other calls to whose results *arguments* refer: a whole text, or `${...}` in one."""
    found: set[str] = set()
    left = [arguments]
    while left:
        part = left.pop()
        if isinstance(part, str):
            found |= {name for name, whole in _referred(part) if name in names and (whole or f"${{{name}}}" in part)}
        elif isinstance(part, dict):
            left += part.values()
        elif isinstance(part, list):
            left += part
    return found


def _referred(text: str) -> list[tuple[str, bool]]:
    """The names after a `$` in *text*, each with whether it is all of it."""
    return [(match[1] or match[2], match[0] == text.strip()) for match in _REFERENCE.finditer(text)]


def filled(arguments: Any, results: Mapping[str, Any]) -> Any:
    """*arguments* with each reference replaced by the result that it names: the value itself, or its text in a text."""
    if isinstance(arguments, dict):
        return {key: filled(value, results) for key, value in arguments.items()}
    if isinstance(arguments, list):
        return [filled(value, results) for value in arguments]
    if not isinstance(arguments, str):
        return arguments
    for name, whole in _referred(arguments):
        if whole and name in results:
            return results[name]

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name is None or name not in results:
            return match[0]
        value = results[name]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return _REFERENCE.sub(fill, arguments)
