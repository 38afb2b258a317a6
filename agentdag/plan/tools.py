"""The tools of one pipeline, read from its `tools`: what they are, and what is declared of their effects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agentdag.language.findings import did_you_mean
from agentdag.language.scalars import IDENTIFIER
from agentdag.language.tools import McpSpec, ToolSpec
from agentdag.plan.drafts import Texts
from agentdag.plan.files import FileProblem, locate, read
from agentdag.plan.functions import FunctionProblem, Functions
from agentdag.plan.mcp_files import ServerProblem, server_in
from agentdag.plan.work import ToolPlan


def tools_of(
    specs: Mapping[str, ToolSpec], texts: Texts, functions: Functions, folder: Path, allowed: tuple[Path, ...]
) -> dict[str, ToolPlan]:
    """What *specs* declare; problems go to the report of *texts*."""
    report, tools = texts.report, {}
    for name, spec in specs.items():
        path = ("tools", name)
        if not IDENTIFIER.fullmatch(name):
            message = f"the tool `{name}` is not letters, digits and _, beginning with a letter"
            report.at(path, "AD202", message, "models call it by that name", key=True)
        for index, other in enumerate(spec.after):
            if other == name or other not in specs:
                hint = did_you_mean(other, specs)
                report.at((*path, "after", index), "AD205", f"there is no other tool `{other}`", hint)
        module, _, function = (spec.call or "").partition(":")
        if spec.call is not None:
            try:
                functions.check(module, function)
            except FunctionProblem as problem:
                report.at((*path, "call"), "AD207", str(problem), problem.hint)
        elif spec.description is not None:
            report.at((*path, "description"), "AD204", "the tools of an MCP server describe themselves", "remove it")
        mcp = spec.mcp
        if mcp is not None and mcp.file is not None:
            mcp = _from_file(name, mcp, texts, folder, allowed)
        tools[name] = ToolPlan(
            name,
            folder,
            module,
            function,
            mcp,
            spec.description,
            frozenset(spec.reads),
            frozenset(spec.writes),
            frozenset(spec.after),
            spec.parallel,
            spec.simulate is None,
        )
    if (circle := _circle(tools)) is not None:
        report.at(("tools", circle, "after"), "AD403", f"`{circle}` comes after itself", "remove one of these steps")
    return tools


def _from_file(name: str, mcp: McpSpec, texts: Texts, folder: Path, allowed: tuple[Path, ...]) -> McpSpec:
    """*mcp* with what its file says of the server; problems go to the report."""
    path = ("tools", name, "mcp", "file")
    assert mcp.file is not None
    try:
        told = server_in(read(locate(mcp.file, folder, allowed), mcp.file), mcp.server or name, folder)
    except FileProblem as problem:
        texts.report.at(path, "AD206", str(problem), problem.hint)
        return mcp
    except ServerProblem as problem:
        place = (*path[:3], "server") if problem.of_name and mcp.server is not None else path
        texts.report.at(place, "AD206", f"{mcp.file}: {problem}", problem.hint)
        return mcp
    said = {key: getattr(mcp, key) for key in mcp.model_fields_set}
    env, headers = ({**told.get(key, {}), **said.get(key, {})} for key in ("env", "headers"))
    return mcp.model_copy(update={**told, **said, "env": env, "headers": headers})


def _circle(tools: Mapping[str, ToolPlan]) -> str | None:
    """A tool that comes after itself, by way of others."""
    for name in tools:
        seen, left = set(), [name]
        while left:
            for other in tools[left.pop()].after & tools.keys():
                if other == name:
                    return name
                if other not in seen:
                    seen.add(other)
                    left.append(other)
    return None
