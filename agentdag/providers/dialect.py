"""How one model at one server is spoken to where agentdag has a choice, and how a refusal of that choice is put right.

Only what agentdag chose is corrected. What the file says is sent as it is written.
This file does no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from agentdag.providers.settings import Settings
from agentdag.providers.structured import JSON_OBJECT, JSON_SCHEMA, PROMPT, TOOL

STREAM_OPTIONS, STRICT, CACHE_KEY, TOOL_CHOICE, ENCRYPTED, CACHE_CONTROL = OMITTABLE = (
    "stream_options",
    "strict",
    "prompt_cache_key",
    "tool_choice",
    "include",
    "cache_control",
)
"""Parameters that agentdag sends by itself and that `omit` of a provider leaves out."""
MAX_TOKENS, MAX_COMPLETION_TOKENS = "max_tokens", "max_completion_tokens"
MOST_CORRECTIONS = 6
REASONING_CONTENT = "reasoning_content"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What is left out, how the longest answer is called, how JSON is asked for, and under which key the model's
    reasoning goes back to it, if it does."""

    omit: frozenset[str] = frozenset()
    max_tokens: str = MAX_COMPLETION_TOKENS
    structured: str = JSON_SCHEMA
    reasoning: str | None = None

    def without(self, parameter: str) -> Dialect:
        return replace(self, omit=self.omit | {parameter})

    def trim(self, body: dict[str, Any]) -> None:
        """Take out of *body* what this server does not accept."""
        if self.omit:
            for parameter in self.omit & body.keys():
                del body[parameter]


class Correction(NamedTuple):
    """What was refused, how it is said from now on, and the line of the file that says so for good."""

    parameter: str
    dialect: Dialect
    message: str
    line: str | None = None


class Rule(NamedTuple):
    """A correction that may be made: where *applies* says so of the dialect, the request's body and the file, to a
    refusal that names one of *names*."""

    names: tuple[str, ...]
    applies: Callable[[Dialect, Mapping[str, Any], Settings], bool]
    correct: Callable[[Dialect, Settings], Correction]


_REFUSED = re.compile(
    r"unsupported|not support|n't support|unknown|unrecogni[sz]ed|unexpected|extra|not permitted|not allowed|"
    r"forbidden|unavailable|not available|invalid|deserialize|additional propert|must be|instead|missing|"
    r"not implemented|failed|passed back|no such|only allowed",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r'"param": "([^"]+)"')
"""The parameter that a refusal of OpenAI's is about."""
_VAGUE = frozenset({"body", "request", "input", "messages"})
_ABOUT_VALUE = re.compile(
    r"range|valid value|between|integer|"
    r"too (large|big|high|small|low)|at (most|least)|(less|greater|larger|smaller) than|exceed|out of range|"
    r"(below|above) (the )?m(in|ax)imum|maximum context",
    re.IGNORECASE,
)


def correction_for(
    rules: Sequence[Rule],
    dialect: Dialect,
    body: Mapping[str, Any],
    refusal: str,
    settings: Settings,
    written: Collection[str],
) -> Correction | None:
    """How the request *body*, spoken in *dialect* and refused with the words *refusal*, is to be said instead; None
    where the refusal is not about anything that agentdag chose. *written* are the parameters that the file writes
    itself, under their names in *body*."""
    if not _REFUSED.search(refusal):
        return None
    told = _PARAMETER.search(refusal)
    meant = None if told is None else {told[1], *re.split(r"[.\[\]]+", told[1])}
    for rule in rules:
        chosen = not any(name in written for name in rule.names) and rule.applies(dialect, body, settings)
        if chosen and any(_names(name, refusal, meant) for name in rule.names):
            return rule.correct(dialect, settings)
    return None


def _names(name: str, refusal: str, meant: set[str] | None) -> bool:
    """Whether a *refusal* is about *name*: by the parameters that it says it has *meant*, else by its words."""
    if meant is not None and name not in meant and not meant <= _VAGUE:
        return False
    if re.search(rf"(?<![A-Za-z0-9_]){name}(?![A-Za-z0-9_])", refusal, re.IGNORECASE) is None:
        return False
    return name not in {MAX_TOKENS, MAX_COMPLETION_TOKENS} or not _ABOUT_VALUE.search(refusal)


def omission(
    parameter: str,
    consequence: str = "",
    *,
    names: tuple[str, ...] = (),
    sent: Callable[[Mapping[str, Any]], bool] | None = None,
) -> Rule:
    """*parameter* is left out, with that *consequence*; refusals may say it by other *names*, too, and *sent* says of a
    body whether it holds it."""

    def applies(dialect: Dialect, body: Mapping[str, Any], _settings: Settings) -> bool:
        return parameter not in dialect.omit and (parameter in body if sent is None else sent(body))

    def correct(dialect: Dialect, settings: Settings) -> Correction:
        left_out = sorted(dialect.omit | {parameter})
        message = f"does not accept `{parameter}`, and is asked without it{consequence}"
        return Correction(
            parameter, dialect.without(parameter), message, _line(settings, "omit", f"[{', '.join(left_out)}]")
        )

    return Rule((parameter, *names), applies, correct)


def loose_schemas(is_strict: Callable[[Mapping[str, Any]], bool]) -> Rule:
    """A schema goes without `strict`; *is_strict* says of a body whether it is asked for."""
    return omission(STRICT, ": answers are still checked here", names=("schema", "schemas"), sent=is_strict)


def other_max_tokens() -> Rule:
    """The other name of the longest answer."""

    def applies(dialect: Dialect, body: Mapping[str, Any], settings: Settings) -> bool:
        return settings.max_tokens_field is None and dialect.max_tokens in body

    def correct(dialect: Dialect, settings: Settings) -> Correction:
        other = MAX_TOKENS if dialect.max_tokens == MAX_COMPLETION_TOKENS else MAX_COMPLETION_TOKENS
        message = f"does not accept `{dialect.max_tokens}`, and is told `{other}` instead"
        line = _line(settings, "max_tokens_field", other)
        return Correction(dialect.max_tokens, replace(dialect, max_tokens=other), message, line)

    return Rule((MAX_TOKENS, MAX_COMPLETION_TOKENS), applies, correct)


def other_structure(modes: Sequence[str], names: tuple[str, ...], asks: Callable[[Mapping[str, Any]], bool]) -> Rule:
    """The next of *modes* of asking for JSON; *asks* says of a body whether it does so with a parameter of its own."""

    def applies(dialect: Dialect, body: Mapping[str, Any], settings: Settings) -> bool:
        return settings.structured is None and dialect.structured in modes[:-1] and asks(body)

    def correct(dialect: Dialect, settings: Settings) -> Correction:
        mode = modes[modes.index(dialect.structured) + 1]
        message = f"refuses to be asked for JSON {_MODES[dialect.structured]}, and is asked {_MODES[mode]}"
        line = _line(settings, "structured", mode)
        return Correction("structured", replace(dialect, structured=mode), message, line)

    return Rule(names, applies, correct)


_MODES = {
    JSON_SCHEMA: "by a JSON Schema",
    JSON_OBJECT: "for any JSON object, with the schema in words",
    TOOL: "by a tool that takes the answer",
    PROMPT: "in words alone",
}


def _line(settings: Settings, key: str, value: str) -> str:
    return f"to say so for good: `providers: {{{settings.name}: {{{key}: {value}}}}}`"


def returned_reasoning(field: str = REASONING_CONTENT) -> Rule:
    """The model's reasoning goes back to it, as some demand in a conversation with tools."""

    def applies(dialect: Dialect, body: Mapping[str, Any], _settings: Settings) -> bool:
        return dialect.reasoning is None and any(each.get("role") == "assistant" for each in body.get("messages", ()))

    def correct(dialect: Dialect, _settings: Settings) -> Correction:
        message = "wants the model's reasoning back between turns, and gets it"
        return Correction(field, replace(dialect, reasoning=field), message)

    return Rule((field,), applies, correct)


def withheld_reasoning() -> Rule:
    """The model's reasoning does not go back to a server that refuses it."""

    def applies(dialect: Dialect, _body: Mapping[str, Any], _settings: Settings) -> bool:
        return dialect.reasoning is not None

    def correct(dialect: Dialect, _settings: Settings) -> Correction:
        message = "does not accept the model's reasoning back between turns, and goes without it"
        return Correction("reasoning", replace(dialect, reasoning=None), message)

    return Rule((REASONING_CONTENT, "reasoning", "reasoning_details"), applies, correct)
