"""The tools of an agent: what a model may ask for, and how the calls of one of its turns are run.

A tool's failure is told to the model, and to nobody else. The results go back in the model's order.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentdag.agents.agent import Task
from agentdag.agents.order import NO_EFFECTS, Asked, Effects, filled, names_of, order, references
from agentdag.calls import Exchange, ToolCall, ToolForm, ToolResult, size_of
from agentdag.errors import ErrorKind, Failure, FinalError, RetryableError
from agentdag.limits.policy import Policy, Timeout
from agentdag.limits.slots import Seat
from agentdag.limits.turn import Attempt, Turn

Act = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Does it, with checked arguments; raises FinalError where that fails."""


class ArgumentError(Exception):
    """Arguments that do not fit a tool: why."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool as a model knows it. *check* gives the arguments as they are taken, or raises ArgumentError."""

    form: ToolForm
    family: str
    """By which name the file knows it: an MCP server brings several."""
    act: Act
    effects: Effects = NO_EFFECTS
    check: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools of one node, each bounded by *timeout_s*, each result by *limit* characters."""

    tools: Mapping[str, Tool]
    timeout_s: float
    limit: int
    redact: Callable[[str], str]

    @property
    def forms(self) -> tuple[ToolForm, ...]:
        return tuple(tool.form for tool in self.tools.values())

    @property
    def size(self) -> int:
        """The bytes of what a model is told of them, about."""
        return sum(size_of(form.name, form.about, json.dumps(form.schema)) for form in self.forms)

    async def run(self, asked: Exchange, task: Task) -> tuple[ToolResult, ...]:
        """The results of the calls in *asked*, in their order, of which some may be there already. Raises LostToolError
        where a tool cannot be reached, and CancelledError where the run is ending."""
        return await _Round(self, asked, task).run()


class LostToolError(Exception):
    """A tool could not be reached at all; `results` are those of the calls beside it."""

    def __init__(self, failure: Failure, results: tuple[ToolResult, ...]) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.results = results


class _NotRunError(Exception):
    """A call that refers to one which has failed: the model is told, and did nothing wrong."""


class _Round:
    """The calls of one turn at work."""

    def __init__(self, toolbox: Toolbox, asked: Exchange, task: Task) -> None:
        self._toolbox = toolbox
        self._calls = calls = asked.calls
        self._truncated = asked.truncated
        done = {result.call: result for result in asked.results}
        self._places = names_of([call.name for call in calls], [call.id for call in calls])
        self._task = task
        self._results: dict[int, ToolResult] = {
            number: done[call.id] for number, call in enumerate(calls) if call.id in done
        }
        self._values: dict[int, Any] = {number: _value(result) for number, result in self._results.items()}
        self._arguments: dict[int, Any] = {}
        self._ended = [asyncio.Event() for _ in calls]
        self._lost: Failure | None = None
        """Why a tool could not be reached at all: that is no result, and fails the attempt."""

    async def run(self) -> tuple[ToolResult, ...]:
        asked = [self._asked(number, call) for number, call in enumerate(self._calls)]
        before = order(asked, [call.id for call in self._calls])
        if isinstance(before, str):
            return tuple(ToolResult(call.id, f"error: not run: {before}", failed=True) for call in self._calls)
        for number in self._results:
            self._ended[number].set()
        async with asyncio.TaskGroup() as tasks:
            for number in range(len(self._calls)):
                if number not in self._results:
                    tasks.create_task(self._one(number, before[number]))
        if self._lost is not None:
            there = [self._results[number] for number in range(len(self._calls)) if number in self._results]
            raise LostToolError(self._lost, tuple(there))
        self._task.governor.go_on()  # of a run that is ending, some calls were not made
        return tuple(self._results[number] for number in range(len(self._calls)))

    def _asked(self, number: int, call: ToolCall) -> Asked:
        """The call with its arguments read; one that cannot be made has its result already."""
        tool = self._toolbox.tools.get(call.name)
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError) as error:
            arguments = None
            cut = "; your answer was cut at its token limit: ask for less at once" if self._truncated else ""
            self._refuse(number, f"these arguments are not JSON: {error}{cut}")
        if self._truncated and number == len(self._calls) - 1 and not arguments and arguments is not None:
            self._refuse(
                number, "your answer was cut at its token limit before the arguments came: ask for less at once"
            )
        if tool is None:
            self._refuse(number, f"there is no tool {call.name}; there are {', '.join(self._toolbox.tools)}")
        elif arguments is not None and not isinstance(arguments, dict):
            self._refuse(number, "the arguments of a tool are an object")
        self._arguments[number] = arguments
        effects = NO_EFFECTS if tool is None else tool.effects
        return Asked(call.name, call.name if tool is None else tool.family, arguments, effects)

    def _refuse(self, number: int, why: str) -> None:
        if number not in self._results:
            self._results[number] = ToolResult(self._calls[number].id, f"error: {why}", failed=True)
            self._task.turn.refused += 1

    async def _one(self, number: int, before: frozenset[int]) -> None:
        """One call, once all have ended that come before it."""
        for other in sorted(before):
            await self._ended[other].wait()
        call, tool = self._calls[number], self._toolbox.tools[self._calls[number].name]
        if self._lost is not None or self._task.governor.closing:
            self._ended[number].set()  # nothing new is begun
            return
        try:
            arguments = self._filled(number)
            checked = tool.check(arguments)
        except ArgumentError as error:
            self._refuse(number, str(error))
        except _NotRunError as error:
            self._results[number] = ToolResult(call.id, f"error: {error}", failed=True)
        else:
            await self._act(number, call, tool, checked)
        self._ended[number].set()

    def _filled(self, number: int) -> Mapping[str, Any]:
        """The arguments with the results that they refer to; raises _NotRunError where one of these has failed."""
        places, arguments = self._places, self._arguments[number]
        referred = references(arguments, places)
        for name in referred:
            if places[name] != number and (places[name] not in self._results or self._results[places[name]].failed):
                raise _NotRunError(f"not run: ${name} failed")
        values = {name: self._values.get(places[name]) for name in referred if places[name] != number}
        given: Mapping[str, Any] = filled(arguments, values)
        return given

    async def _act(self, number: int, call: ToolCall, tool: Tool, arguments: Mapping[str, Any]) -> None:
        turn, toolbox = self._task.turn, self._toolbox
        await turn.tool_starts(call, writes=bool(tool.effects.writes))

        lost = [False]

        async def act(_attempt: Attempt) -> Any:
            if self._task.governor.closing:
                raise asyncio.CancelledError  # its slot came when the run was ending
            try:
                return await tool.act(arguments)
            except RetryableError as error:
                self._lost, lost[0] = self._lost or error.failure, True
                raise

        policy = Policy(Timeout(toolbox.timeout_s), 0, 0.0, 0.0, frozenset())
        own = Turn(policy, Seat(self._task.governor.slots, turn.seat.rank))
        turn.tools_out += 1
        try:
            done = await self._task.governor.call(act, own)
        finally:
            turn.tools_out -= 1
        if lost[0]:
            return
        if done.failure is None:
            text = _text(done.result)
            cut = len(text) > toolbox.limit
            shown = f"{text[: toolbox.limit]}… (cut: {len(text):,} characters in all)" if cut else text
            self._values[number] = done.result
            value = None if isinstance(done.result, str) and not cut else toolbox.redact(json.dumps(done.result))
        else:
            shown, value = f"error: {done.failure.message}", None
        result = ToolResult(call.id, toolbox.redact(shown), done.failure is not None, value)
        self._results[number] = result
        failure = None if done.failure is None else Failure(ErrorKind.TOOL, done.failure.message)
        turn.tool_ended(call, done.latency_s, result, failure)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _value(result: ToolResult) -> Any:
    """The value of a result that is on record."""
    return result.text if result.value is None else json.loads(result.value)


def failed(message: str) -> FinalError:
    """The failure of a tool."""
    return FinalError(Failure(ErrorKind.TOOL, message))
