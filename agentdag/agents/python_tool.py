"""A Python function as a tool: its schema is read from its signature, its description from its docstring."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from agentdag.agents.function import called
from agentdag.agents.order import Effects
from agentdag.agents.toolbox import ArgumentError, Tool
from agentdag.calls import ToolForm


def python_tool(name: str, function: Callable[..., Any], effects: Effects, description: str | None) -> Tool:
    """*function* as the tool *name*. Raises TypeError where a model could not call it by keywords."""
    from pydantic import ConfigDict, ValidationError, create_model  # noqa: PLC0415 - only nodes with tools pay for it

    signature = inspect.signature(function)
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(f"its parameter `{parameter.name}` can only be given by position")
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints.get(parameter.name, Any), default)
    model = create_model(name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True), **fields)

    def check(given: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            taken = model.model_validate(given)
        except ValidationError as error:
            told = "; ".join(
                f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in error.errors(include_url=False)
            )
            raise ArgumentError(f"these arguments do not fit: {told}") from None
        return {key: getattr(taken, key) for key in fields if key in taken.model_fields_set}

    async def act(arguments: Mapping[str, Any]) -> Any:
        return await called(function, arguments)

    schema = model.model_json_schema()
    schema.pop("title", None)
    about = description or inspect.getdoc(function) or f"Calls {name}."
    return Tool(ToolForm(name, about, schema), name, act, effects, check)
