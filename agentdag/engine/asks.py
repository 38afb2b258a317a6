"""What a node asks, with every template rendered, and the fingerprint by which the same request is known again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from agentdag.calls import Sampling
from agentdag.plan.plan import CallWork, ModelRef, PromptWork, function_name
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

    def plain(self) -> dict[str, Any]:
        """As JSON holds it; what is not said is left out."""
        return {
            "model": str(self.model),
            "system": self.system,
            "prompt": self.prompt,
            "parameters": self.sampling.said(),
        }


@value(frozen=True, slots=True)
class Called:
    """A call of a function; *code* is the digest of what it does."""

    function: str
    arguments: Mapping[str, Any]
    code: str

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"function": self.function, "code": self.code, "arguments": dict(self.arguments)}


Asked = Prompted | Called
_SORTED = json.JSONEncoder(sort_keys=True, default=str)


def rendered(work: PromptWork | CallWork, names: Mapping[str, Any], codes: Mapping[str, str]) -> Asked:
    """What *work* asks where its templates see *names*; raises TemplateError."""
    if isinstance(work, PromptWork):
        system = None if work.system is None else work.system.render(names)
        prompt = work.prompt.render(names)
        return Prompted(work.model, prompt, system, work.sampling, _lead(work, prompt, names))
    arguments = {name: value.evaluate(names) for name, value in work.arguments.items()}
    return Called(function_name(work), arguments, codes.get(function_name(work), ""))


def _lead(work: PromptWork, prompt: str, names: Mapping[str, Any]) -> int | None:
    if work.lead is None:
        return None
    shared = work.lead.render(names)
    return len(shared) if prompt.startswith(shared) else 0


class Question(NamedTuple):
    """What a node asks as canonical JSON, and its fingerprint: equal for equal requests, whoever asks them where."""

    text: str
    fingerprint: str


def question_of(asked: Asked, played: Any = None) -> Question:
    """*asked* as it is known again; *played* is what a simulator is told to answer."""
    plain: dict[str, Any] = asked.plain()
    if played is not None:
        plain["simulator"] = played
    text = _SORTED.encode(plain)
    return Question(text, digest((text,)))
