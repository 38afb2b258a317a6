"""What a model may be given to work with: functions, and the tools of MCP servers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from agentdag.language.model import Model
from agentdag.language.scalars import FunctionName, Limit, Written, describe, refusal


def _argv(value: Any) -> Any:
    if isinstance(value, str):
        hint = f"write [{', '.join(value.split())}]; a program and its arguments are a list: no shell takes them apart"
        raise refusal("`command` is a list, not a text", hint)
    if isinstance(value, list):  # a number is written as it stands: -20
        return [str(each) if isinstance(each, int) and not isinstance(each, bool) else each for each in value]
    return value


_ITEM_FORM = {"type": "array", "items": {"type": ["string", "integer"]}}
Argv = Annotated[list[str], BeforeValidator(_argv), Written(only=_ITEM_FORM)]


class McpSpec(Model):
    """An MCP server: a program that speaks over its pipes, an address, or a file that says which."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["command"]}, {"required": ["url"]}, {"required": ["file"]}]}
    )

    command: Argv | None = Field(default=None, examples=[["my-mcp-server", "--root", "."]])
    """The program and its arguments; it runs in the pipeline's folder, is started once a run, and ends with it."""
    env: dict[str, str] = Field(default={}, examples=[{"TOKEN": "${SERVICE_TOKEN}"}])
    """Variables of its environment, which is almost empty otherwise; `${NAME}` reads the environment."""
    url: str | None = Field(default=None, examples=["https://tools.example.com/mcp"])
    """The address of a server that speaks HTTP."""
    headers: dict[str, str] = Field(default={}, examples=[{"Authorization": "Bearer ${TOOLS_KEY}"}])
    """Headers of every request to it; `${NAME}` reads the environment."""
    file: str | None = Field(default=None, examples=[".mcp.json"])
    """A JSON file that says how to reach it, as other clients write them, with `mcpServers` or `servers` in it. There
    `${NAME}` and `${NAME:-default}` read the environment everywhere."""
    server: str | None = Field(default=None, examples=["filesystem"])
    """Under which name it stands in `file`; the tool's own, where nothing is said."""
    cwd: str | None = Field(default=None, examples=["tools"])
    """The folder in which the program runs, relative to the pipeline's own, which it is where nothing is said."""
    start_timeout: Limit = Field(default=30.0, examples=["60s"])
    """How long it may take to start and to tell its tools; 30 s where nothing is said."""
    only: list[str] | None = Field(default=None, examples=[["read_file", "search_files"]])
    """Those of its tools that models may use; all, where nothing is said."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://", "${")):
            raise refusal(f"{describe(value)} is no address", "begin with https:// or http://")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> McpSpec:
        said = [key for key in ("command", "url", "file") if getattr(self, key) is not None]
        if len(said) > 1:
            raise refusal(f"`{said[0]}` and `{said[1]}` exclude each other", "keep one")
        if not said:
            raise refusal("this server is nowhere", "give it `command: [...]`, `url:` or `file:`", lacks=True)
        if self.server is not None and self.file is None:
            raise refusal("`server` names one in a `file`", "add `file:`, or remove it")
        return self


class ToolSpec(Model):
    """A tool, or all tools of an MCP server, with what is declared of their effects."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["call"]}, {"required": ["mcp"]}]})

    call: FunctionName | None = Field(default=None, examples=["mytools:search"])
    """A Python function, as `package.module:function`: its signature is the tool's schema, its docstring the
    description."""
    mcp: McpSpec | None = Field(default=None, examples=[{"command": ["my-mcp-server", "--root", "."]}])
    """An MCP server, all of whose tools are meant; models know them as `files_read` and so on."""
    description: str | None = Field(default=None, examples=["Searches the web and returns titles and addresses."])
    """What the model is told of it, where that is not the function's docstring."""
    reads: list[str] = Field(default=[], examples=[["notes"]])
    """Resources that it reads, by names of your own: of two calls in one turn of which one writes what the other
    touches, the first goes first."""
    writes: list[str] = Field(default=[], examples=[["notes"]])
    """Resources that it changes. Such a call is never repeated on resume without asking."""
    after: list[str] = Field(default=[], examples=[["search"]])
    """Tools whose calls in the same turn go before those of this one."""
    parallel: bool = Field(default=True, examples=[False])
    """Whether it may run beside other calls of the same turn at all."""
    simulate: Annotated[Literal[False] | None, Field(examples=[False])] = None
    """`false` lets it act even under `--simulate`, where MCP servers and what writes are played otherwise."""

    @model_validator(mode="after")
    def _one_kind(self) -> ToolSpec:
        if (self.call is None) == (self.mcp is None):
            said = self.call is not None
            message = "`call` and `mcp` exclude each other" if said else "this tool does nothing"
            raise refusal(message, "keep one" if said else "give it `call:` or `mcp:`", lacks=not said)
        return self
