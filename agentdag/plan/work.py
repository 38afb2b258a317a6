"""What a node may do, one value a kind: ask a model, call a function or a remote agent, run a program.

Every template in here is parsed; nothing is rendered yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from agentdag.calls import Sampling
from agentdag.language.answers import JSON, TEXT, kinds, lacks
from agentdag.language.sandbox import MAPPING_METHODS
from agentdag.language.templates import Template, ValueTemplate
from agentdag.language.tools import McpSpec
from agentdag.plan.barrier import ALL, Barrier


class ModelRef(NamedTuple):
    """A model at a provider."""

    provider: str
    name: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a node's output is to be: text, JSON, JSON that fits *schema*, or `any`.

    Of a pydantic *model*, `package.module:Model`, the schema is known once it has been imported.
    """

    form: str
    schema: Mapping[str, Any] | None = None
    model: str | None = None
    fields: frozenset[str] = frozenset()
    """The fields of *model*, so far as its source tells them."""

    @property
    def is_text(self) -> bool:
        return self.form == TEXT

    def lacks(self, path: Sequence[str]) -> tuple[str, list[str]] | None:
        """The first step of *path* into the output that no answer has, and what it has; None where there may be."""
        if self.form == TEXT:
            return None if hasattr("", path[0]) or path[0].isdigit() else (path[0], [])
        if self.schema is not None:
            return lacks(self.schema, path)
        if self.fields and path[0] not in self.fields and path[0] not in MAPPING_METHODS:
            return path[0], sorted(self.fields)
        return None

    def kinds(self, path: Sequence[str]) -> frozenset[str] | None:
        """The JSON types that what *path* leads to may have; None where nobody can tell."""
        if self.form == TEXT and not path:
            return frozenset({"string"})
        return None if self.schema is None else kinds(self.schema, path)


AS_TEXT = Answer(TEXT)
AS_JSON = Answer(JSON)
AS_IT_COMES = Answer("any")
"""Of a function whatever it returns; of a remote agent a value where it answers in JSON, else text."""


@dataclass(frozen=True, slots=True, eq=False)
class ToolPlan:
    """A tool, or the MCP server that brings several; `folder` is that of its pipeline."""

    name: str
    folder: Path
    module: str = ""
    function: str = ""
    mcp: McpSpec | None = None
    description: str | None = None
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    after: frozenset[str] = frozenset()
    parallel: bool = True
    simulated: bool = True
    """Whether the simulator may stand in for it."""

    @property
    def played(self) -> bool:
        """Whether the simulator does stand in for it, where there is one."""
        return self.simulated and (self.mcp is not None or bool(self.writes))

    @property
    def key(self) -> tuple[str, str]:
        """What tells its function apart from others."""
        return str(self.folder), f"{self.module}:{self.function}"


@dataclass(frozen=True, slots=True)
class Tooling:
    """What a model may work with, and how long."""

    tools: tuple[ToolPlan, ...]
    max_turns: int
    timeout_s: float
    limit: int


@dataclass(frozen=True, slots=True)
class PromptWork:
    """Ask a model, by the name of its `tier` where it has one. `own` are the parameters that it says itself."""

    prompt: Template
    system: Template | None
    model: ModelRef
    sampling: Sampling
    tier: str | None = None
    own: Mapping[str, Any] = field(default_factory=dict)
    lead: Template | None = None
    """The beginning of the prompt that other prompts to the same model share, where they are to warm its cache."""
    tooling: Tooling | None = None

    @property
    def templates(self) -> Iterator[Template]:
        yield self.prompt
        if self.system is not None:
            yield self.system

    @property
    def title(self) -> str:
        return f"asks {self.model}"


@dataclass(frozen=True, slots=True)
class CallWork:
    """Call the Python function `module:function` with keyword arguments."""

    module: str
    function: str
    arguments: Mapping[str, ValueTemplate]
    folder: Path = Path()
    """Where modules are looked for first."""
    name: str = field(init=False)
    """The function, as the file names it."""
    key: tuple[str, str] = field(init=False)
    """What tells it apart from functions of the same name elsewhere."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.module}:{self.function}")
        object.__setattr__(self, "key", (str(self.folder), self.name))

    @property
    def templates(self) -> Iterator[Template]:
        for value in self.arguments.values():
            yield from value.templates

    @property
    def title(self) -> str:
        return f"calls {self.name}"


@dataclass(frozen=True, slots=True)
class HttpWork:
    """Send a request to a remote agent; *json* or *body* is what is sent, if anything.

    `${NAME}` in a header reads the environment. Only where *private* is set may the address be one of this machine or
    of its network.
    """

    method: str
    url: Template
    headers: Mapping[str, Template]
    json: ValueTemplate | None = None
    body: Template | None = None
    private: bool = False

    @property
    def templates(self) -> Iterator[Template]:
        yield self.url
        yield from self.headers.values()
        if self.json is not None:
            yield from self.json.templates
        if self.body is not None:
            yield self.body

    @property
    def title(self) -> str:
        return f"sends {self.method} {self.url.text}"

    @property
    def is_safe(self) -> bool:
        """Whether the method promises to change nothing."""
        return self.method in {"GET", "HEAD", "OPTIONS"}


@dataclass(frozen=True, slots=True)
class CommandWork:
    """Run a program, without a shell. `${NAME}` in *env* reads the environment."""

    argv: tuple[Template, ...]
    stdin: Template | None = None
    env: Mapping[str, Template] = field(default_factory=dict)
    cwd: Template | None = None
    folder: Path = Path()
    """That of the pipeline."""

    @property
    def templates(self) -> Iterator[Template]:
        yield from self.argv
        yield from self.env.values()
        yield from (each for each in (self.stdin, self.cwd) if each is not None)

    @property
    def title(self) -> str:
        return f"runs {' '.join(each.text for each in self.argv)}"


@dataclass(frozen=True, slots=True)
class PipelineWork:
    """Run another pipeline on these inputs. It stands in its own file; compiled, it is the node's `body`."""

    file: str
    arguments: Mapping[str, ValueTemplate]

    @property
    def templates(self) -> Iterator[Template]:
        for value in self.arguments.values():
            yield from value.templates

    @property
    def title(self) -> str:
        return f"runs the pipeline {self.file}"


Act = PromptWork | CallWork | HttpWork | CommandWork
"""What a node does by itself."""
Work = Act | PipelineWork


@dataclass(frozen=True, slots=True)
class Foreach:
    """One instance of a node for each item of a list, which templates read as *name*."""

    items: ValueTemplate
    name: str = "item"
    concurrency: int | None = None
    barrier: Barrier = ALL
    null: bool = False
    """Whether an item that failed is null in the list, and the node goes on without it."""
    cache_warm: bool = False
    """Whether one instance goes first, so that the others read the provider's prompt cache."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """Passes of a node until *until* holds, at most *most*."""

    until: Template
    most: int


def may_repeat(work: Work) -> bool:
    """Whether *work* may be done again although nobody knows whether it was done: it changes nothing."""
    return isinstance(work, PromptWork) or (isinstance(work, HttpWork) and work.is_safe)


def retries_of_its_own(work: Work) -> bool:
    """Whether *work* is tried again after passing trouble without the file's asking for it."""
    return isinstance(work, (PromptWork, HttpWork))
