"""The tools of a run: functions loaded, MCP servers at hand, and the simulator in place of what would act for real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from agentdag.agents.function import function_in, load_module
from agentdag.agents.mcp import McpServer, McpSettings, mcp_tools
from agentdag.agents.order import Effects
from agentdag.agents.python_tool import python_tool
from agentdag.agents.toolbox import Tool, Toolbox
from agentdag.calls import ToolForm
from agentdag.errors import ErrorKind, Failure, UsageError, call_error
from agentdag.plan.plan import Plan
from agentdag.plan.work import PromptWork, Tooling, ToolPlan
from agentdag.session.surroundings import check_mcp

_TOLD = 200
"""Characters of its arguments that a tool which is played repeats."""


class Tools:
    """All tools of a run of *plan*. Raises UsageError where a function is missing, before any call.

    *fill* fills `${NAME}` in a text in; with *simulate* the simulator stands in for MCP servers and for what writes.
    """

    def __init__(self, plan: Plan, *, simulate: bool, fill: Callable[[str], str], redact: Callable[[str], str]) -> None:
        self._fill = fill
        self._redact = redact
        self._made: dict[ToolPlan, Tool] = {}
        self._servers: dict[ToolPlan, McpServer] = {}
        self._boxes: dict[tuple[Tooling, bool], Toolbox] = {}
        for name, _, node in plan.walk():
            plays = simulate and node.simulated is not False
            for choice in node.choices:
                tooling = choice.work.tooling if isinstance(choice.work, PromptWork) else None
                for tool in tooling.tools if tooling is not None else ():
                    self._add(tool, name, plays=plays)

    def _add(self, tool: ToolPlan, node: str, *, plays: bool) -> None:
        """Load *tool*, which *node* has, unless that was done."""
        if tool.mcp is None:
            if tool not in self._made:
                self._made[tool] = _loaded(tool, node)
        elif not (plays and tool.played) and tool not in self._servers:
            check_mcp(tool.name)
            self._servers[tool] = McpServer(self._settings(tool))

    def _settings(self, tool: ToolPlan) -> McpSettings:
        mcp, fill = tool.mcp, self._fill
        assert mcp is not None
        env, headers = ({name: fill(text) for name, text in each.items()} for each in (mcp.env, mcp.headers))
        url = None if mcp.url is None else fill(mcp.url)
        command = tuple(map(fill, mcp.command or ())) if mcp.file is not None else tuple(mcp.command or ())
        cwd = tool.folder.resolve() if mcp.cwd is None else (tool.folder / fill(mcp.cwd)).resolve()
        return McpSettings(tool.name, command, env, cwd, url, headers, mcp.start_timeout)

    def servers(self) -> Iterator[tuple[str, McpServer]]:
        """The MCP servers, by the names of their tools."""
        for tool, server in self._servers.items():
            yield tool.name, server

    def start(self) -> None:
        """Start the MCP servers: they take a while, and the first nodes may not need them yet."""
        for server in self._servers.values():
            server.start()

    async def box(self, tooling: Tooling, *, plays: bool) -> Toolbox:
        """What a node may work with; raises CallError where an MCP server cannot be reached."""
        found = self._boxes.get((tooling, plays))
        if found is None:
            tools: dict[str, Tool] = {}
            for tool in tooling.tools:
                tools |= await self._tools(tool, plays=plays)
            found = Toolbox(tools, tooling.timeout_s, tooling.limit, self._redact)
            self._boxes[tooling, plays] = found
        return found

    async def _tools(self, tool: ToolPlan, *, plays: bool) -> Mapping[str, Tool]:
        if plays and tool.played:
            return {tool.name: _played(tool, self._made.get(tool))}
        if tool.mcp is None:
            return {tool.name: self._made[tool]}
        found = await self._servers[tool].tools()
        if tool.mcp.only is not None:
            known = {each.name for each in found}
            unknown = [name for name in tool.mcp.only if name not in known]
            if unknown:
                there = ", ".join(sorted(known))
                told = f"the MCP server `{tool.name}` has no tool {', '.join(unknown)}; it has {there}"
                raise call_error(Failure(ErrorKind.TOOL, told, final=True))
            found = [each for each in found if each.name in tool.mcp.only]
        return mcp_tools(self._servers[tool], found, tool.name, _effects(tool))

    async def aclose(self) -> None:
        """End the MCP servers."""
        await asyncio.gather(*(server.aclose() for server in self._servers.values()))


def _effects(tool: ToolPlan) -> Effects:
    return Effects(tool.reads, tool.writes, tool.after, tool.parallel)


def _loaded(tool: ToolPlan, node: str) -> Tool:
    try:
        function = function_in(load_module(tool.module, tool.folder), tool.function)
        return python_tool(tool.name, function, _effects(tool), tool.description)
    except (Exception, SystemExit) as error:
        told = f"node `{node}` cannot use the tool `{tool.name}` ({tool.module}:{tool.function})"
        raise UsageError(f"{told}: {type(error).__name__}: {error}") from error


def _played(tool: ToolPlan, real: Tool | None) -> Tool:
    """A tool that only says what it would have done."""
    form = real.form if real is not None else ToolForm(tool.name, f"The MCP server {tool.name}.", {"type": "object"})

    async def act(arguments: Mapping[str, Any]) -> str:
        given = json.dumps(dict(arguments), ensure_ascii=False, default=str)
        return f"[simulated] {tool.name} was called with {given[:_TOLD]}"

    if real is not None:
        return replace(real, act=act)
    return Tool(form, tool.name, act, _effects(tool))
