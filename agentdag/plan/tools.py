"""The tools of one pipeline, read from its `tools`: what they are, and what is declared of their effects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agentdag.language.findings import did_you_mean
from agentdag.language.scalars import IDENTIFIER
from agentdag.language.tools import ToolSpec
from agentdag.plan.drafts import Texts
from agentdag.plan.functions import FunctionProblem, Functions
from agentdag.plan.work import ToolPlan


def tools_of(specs: Mapping[str, ToolSpec], texts: Texts, functions: Functions, folder: Path) -> dict[str, ToolPlan]:
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
        tools[name] = ToolPlan(
            name,
            folder,
            module,
            function,
            spec.mcp,
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
