"""Tool calls as servers send them, whole or in fragments, put together into calls that can be made.

Servers disagree on indexes, ids and the type of arguments; the rules here follow what they really send.
This file does no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from agentdag.calls import ToolCall
from agentdag.providers.sdk import paired

NO_ARGUMENTS = "{}"


def arguments_text(arguments: Any) -> str:
    """*arguments* as JSON text: some servers send the value itself, and nothing at all means none."""
    if arguments is None:
        return NO_ARGUMENTS
    if isinstance(arguments, str):
        return arguments if arguments.strip() else NO_ARGUMENTS
    return json.dumps(arguments, ensure_ascii=False)


def object_in(arguments: str) -> dict[str, Any]:
    """The object in *arguments*, to be sent back where only an object is accepted; empty where there is none."""
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class _Partial:
    """A call that is still being put together."""

    __slots__ = ("arguments", "extra", "id", "index", "name", "value")

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []
        self.value: Any = None
        self.extra: Any = None

    def add(self, id_: str, name: str, arguments: Any, extra: Any) -> None:
        self.id = self.id or id_
        if name and name != self.name:  # some servers repeat it in each fragment
            self.name += name
        if isinstance(arguments, str):
            self.arguments.append(arguments)
        elif arguments is not None:
            self.value = arguments
        self.extra = self.extra or extra

    @property
    def text(self) -> str:
        return arguments_text(paired("".join(self.arguments)) or self.value)

    @property
    def is_empty(self) -> bool:
        """Whether nothing of its arguments has come."""
        return self.value is None and not any(self.arguments)

    @property
    def is_begun(self) -> bool:
        """Whether its arguments have begun and are not whole yet."""
        return not self.is_empty and not self.is_complete

    @property
    def is_complete(self) -> bool:
        """Whether its arguments are a whole object already."""
        if self.value is not None:
            return True
        if not self.arguments or not self.arguments[-1].rstrip().endswith("}"):
            return False
        try:
            return isinstance(json.loads("".join(self.arguments)), dict)
        except (ValueError, RecursionError):
            return False


class ToolCalls:
    """The tool calls of one answer of a chat completion: `take` each list of fragments in order, or the whole list once
    with `take_whole`."""

    def __init__(self) -> None:
        self._partials: list[_Partial] = []
        self._by_index: dict[int, _Partial] = {}
        self._by_id: dict[str, _Partial] = {}

    def __bool__(self) -> bool:
        return bool(self._partials)

    def take_whole(self, told: Any) -> None:
        """Take in the value of `tool_calls` of a whole message: each of its elements is a call."""
        for each in told if isinstance(told, list) else ():
            function = each.get("function") if isinstance(each, dict) else None
            if isinstance(function, dict):
                partial = _Partial(None)
                self._partials.append(partial)
                name, id_ = _text(function.get("name")), _text(each.get("id"))
                partial.add(id_, name, function.get("arguments"), each.get("extra_content"))

    def take(self, told: Any) -> bool:
        """Take in the value of `tool_calls`; whether anything came."""
        came = False
        for each in told if isinstance(told, list) else ():
            function = each.get("function") if isinstance(each, dict) else None
            if isinstance(function, dict):
                self._take(each, function)
                came = True
        return came

    def take_function_call(self, told: Any) -> bool:
        """Take in the value of `function_call`, by which servers of the old protocol name one call."""
        if not isinstance(told, dict):
            return False
        self._take({"index": 0}, told)
        return True

    def _take(self, told: dict[str, Any], function: dict[str, Any]) -> None:
        index = told.get("index")
        index = index if isinstance(index, int) and not isinstance(index, bool) else None
        id_, name = _text(told.get("id")), _text(function.get("name"))
        arguments = function.get("arguments")
        partial = self._found(index, id_, name, arguments)
        if partial is None:
            partial = _Partial(index)
            self._partials.append(partial)
        if index is not None:
            self._by_index[index] = partial
        if id_:
            self._by_id[id_] = partial
        partial.add(id_, name, arguments, told.get("extra_content"))

    def _found(self, index: int | None, id_: str, name: str, arguments: Any) -> _Partial | None:
        """The call to which a fragment belongs; None where it begins a new one."""
        if index is None and id_:
            return self._by_id.get(id_)
        partial = self._by_index.get(index) if index is not None else (self._partials[-1] if self._partials else None)
        if partial is None:
            return None
        if id_ and partial.id and id_ != partial.id:
            # Either all calls share one index, or the ids are made anew for each fragment: only a name or complete
            # arguments tell.
            known = self._by_id.get(id_)
            if known is not None:
                return known
            return None if name and (partial.is_empty or partial.is_complete or name != partial.name) else partial
        if not name or not partial.name or (id_ and id_ == partial.id):
            return partial
        begins = isinstance(arguments, dict) or (isinstance(arguments, str) and arguments.lstrip().startswith("{"))
        if begins and partial.is_complete:
            return None
        return None if index is None and name != partial.name and not partial.is_begun else partial

    def calls(self) -> tuple[ToolCall, ...]:
        """The calls, each with an id of its own: some servers give them all the same, or none. What has no name is
        none."""
        return distinct((partial.id, partial.name, partial.text) for partial in self._partials if partial.name)

    def extras(self) -> list[Any]:
        """For each of `calls` what the server wants back with it besides, such as Gemini's thought signatures."""
        return [partial.extra for partial in self._partials if partial.name]


def distinct(calls: Iterable[tuple[str, str, str]]) -> tuple[ToolCall, ...]:
    """*calls* (id, name, arguments), each under an id of its own."""
    made: dict[str, ToolCall] = {}
    for number, (told, name, arguments) in enumerate(calls, 1):
        id_ = told
        while not id_ or id_ in made:
            id_ = f"{id_ or 'call'}_{number}"
        made[id_] = ToolCall(id_, name, arguments)
    return tuple(made.values())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
