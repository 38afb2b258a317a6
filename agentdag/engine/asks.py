"""What a node asks, with every template rendered, and the fingerprint by which the same request is known again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from agentdag.calls import Sampling
from agentdag.plan.work import (
    AS_IT_COMES,
    AS_TEXT,
    Act,
    Answer,
    CallWork,
    CommandWork,
    HttpWork,
    ModelRef,
    PromptWork,
    ToolPlan,
)
from agentdag.store.schema import digest
from agentdag.values import value


@value(frozen=True, slots=True)
class Prompted:
    """A question to a model."""

    model: ModelRef
    prompt: str
    system: str | None
    sampling: Sampling
    lead: int | None = None
    """So many characters of the prompt are what others begin with too; None where nobody asked."""
    tools: tuple[str, ...] = ()
    """What the model may work with, with the digest of what functions do."""

    def plain(self) -> dict[str, Any]:
        """As JSON holds it; what is not said is left out."""
        told: dict[str, Any] = {
            "model": str(self.model),
            "system": self.system,
            "prompt": self.prompt,
            "parameters": self.sampling.said(),
        }
        return told | {"tools": list(self.tools)} if self.tools else told


@value(frozen=True, slots=True)
class Called:
    """A call of a function; *code* is the digest of what it does."""

    function: str
    arguments: Mapping[str, Any]
    code: str

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"function": self.function, "code": self.code, "arguments": dict(self.arguments)}


@value(frozen=True, slots=True)
class Fetched:
    """A request to a remote agent; variables of the environment in its headers are not filled in."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: str | None
    is_json: bool
    private: bool

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"method": self.method, "url": self.url, "headers": dict(self.headers), "body": self.body}


@value(frozen=True, slots=True)
class Ran:
    """A run of a program; variables of the environment in *env* are not filled in."""

    argv: tuple[str, ...]
    stdin: str | None
    env: Mapping[str, str]
    cwd: str | None
    folder: str
    """That of the pipeline, where it runs."""

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        where = {"cwd": self.cwd, "folder": self.folder}
        return {"command": list(self.argv), "stdin": self.stdin, "env": dict(self.env), **where}


Asked = Prompted | Called | Fetched | Ran
_PLAINLY = (AS_TEXT, AS_IT_COMES)
"""What a request asks for that says nothing of it."""
_SORTED = json.JSONEncoder(sort_keys=True, default=str)


def rendered(work: Act, names: Mapping[str, Any], codes: Mapping[tuple[str, str], str]) -> Asked:
    """What *work* asks where its templates see *names*; raises TemplateError."""
    match work:
        case PromptWork():
            system = None if work.system is None else work.system.render(names)
            prompt = work.prompt.render(names)
            tools = () if work.tooling is None else tuple(_tool(tool, codes) for tool in work.tooling.tools)
            return Prompted(work.model, prompt, system, work.sampling, _lead(work, prompt, names), tools)
        case CallWork():
            arguments = {name: value.evaluate(names) for name, value in work.arguments.items()}
            return Called(work.name, arguments, codes.get(work.key, ""))
        case HttpWork():
            headers = {name: value.render(names) for name, value in work.headers.items()}
            body = None if work.body is None else work.body.render(names)
            if work.json is not None:
                body = json.dumps(work.json.evaluate(names), ensure_ascii=False)
            return Fetched(work.method, work.url.render(names), headers, body, work.json is not None, work.private)
        case CommandWork():
            env = {name: value.render(names) for name, value in work.env.items()}
            stdin, cwd = (None if each is None else each.render(names) for each in (work.stdin, work.cwd))
            return Ran(tuple(each.render(names) for each in work.argv), stdin, env, cwd, str(work.folder))


def _tool(tool: ToolPlan, codes: Mapping[tuple[str, str], str]) -> str:
    """What tells a tool apart from what it was."""
    if tool.mcp is None:
        return f"{tool.name} {codes.get(tool.key, '')}"
    return f"{tool.name} {' '.join(tool.mcp.command or (tool.mcp.url or '',))}"


def _lead(work: PromptWork, prompt: str, names: Mapping[str, Any]) -> int | None:
    if work.lead is None:
        return None
    shared = work.lead.render(names)
    return len(shared) if prompt.startswith(shared) else 0


class Question(NamedTuple):
    """What a node asks as canonical JSON, and its fingerprint: equal for equal requests, whoever asks them where."""

    text: str
    fingerprint: str


def question_of(asked: Asked, answer: Answer, played: Any = None) -> Question:
    """*asked* as it is known again, with what the *answer* is to be; *played* is what a simulator is told to answer."""
    plain: dict[str, Any] = asked.plain()
    if answer not in _PLAINLY:
        plain["output"] = answer.model or answer.schema or answer.form
    if played is not None:
        plain["simulator"] = played
    text = _SORTED.encode(plain)
    return Question(text, digest((text,)))
