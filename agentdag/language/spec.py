"""The language: what a pipeline may say, as pydantic models.

Every model refuses unknown keys and wrong types; a key that begins with `x-` is the user's own.
A wrong document becomes findings in `language/check.py`; this file knows no place in a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from agentdag.errors import TRANSIENT, ErrorKind
from agentdag.language.findings import did_you_mean

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
RESERVED_IDS = frozenset({"items", "keys", "values", "get"})
MODEL_NAME = re.compile(r"([^/\s]+)/(\S+)")
CALL_NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", re.ASCII)

_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,12})ms)?", re.ASCII)
_UNITS_S = (Decimal(3600), Decimal(60), Decimal(1), Decimal("0.001"))


def refusal(message: str, hint: str | None = None) -> PydanticCustomError:
    """A validation error in the words of the language."""
    return PydanticCustomError("refused", "{message}", {"message": message, "hint": hint})


def duration_s(value: Any) -> float:
    """Seconds of a duration such as `500ms`, `45s`, `2m30s`, `2h`; raises where *value* is none."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise refusal(f"the number {value} has no unit", f"write {value}s for seconds")
    if not isinstance(value, str) or not value.strip():
        raise refusal(f"a duration is due here, not {describe(value)}", "write 500ms, 45s, 2m30s or 2h")
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise refusal(f"{describe(value)} is not a duration", "write 500ms, 45s, 2m30s or 2h")
    return float(sum(Decimal(part) * unit for part, unit in zip(match.groups(), _UNITS_S, strict=True) if part))


def describe(value: Any) -> str:
    """*value* in words, for messages: the text 'x', the number 3, a list."""
    match value:
        case None:
            return "nothing"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {value if len(value) <= 40 else value[:37] + '...'!r}"
        case list():
            return "a list"
        case dict():
            return "a mapping"
    return type(value).__name__


def _without_own_keys(value: Any) -> Any:
    """A mapping without the keys that begin with `x-`."""
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if not str(key).startswith("x-")}
    return value


def _named(value: Any) -> Any:
    """A mapping of names to things, each name an identifier that templates can write."""
    return _without_own_keys({} if value is None else value)


def _no_values(kind: str, short: str) -> BeforeValidator:
    """Turns a missing mapping into a clear refusal."""

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            raise refusal(f"{kind} is a mapping, not {describe(value)}", short)
        return value

    return BeforeValidator(check)


Duration = Annotated[float, BeforeValidator(duration_s)]
Limit = Annotated[float, BeforeValidator(duration_s), Field(gt=0)]
Positive = Annotated[int, Field(ge=1)]
Priority = Literal["high", "normal", "low"]


class Model(BaseModel):
    """What all parts of the language share."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _drop_own_keys(cls, value: Any) -> Any:
        return _without_own_keys(value)


class InputSpec(Model):
    """One input of the pipeline; without a default it is required."""

    type: Literal["string", "integer", "number", "boolean", "array", "object", "file"] = "string"
    description: str | None = None
    default: Any = None
    enum: list[Any] | None = None

    @property
    def required(self) -> bool:
        return "default" not in self.model_fields_set


class ProviderSpec(Model):
    """How to reach a provider, where it differs from the defaults."""

    type: str | None = None
    base_url: str | None = None
    api_key: str | None = None
    api_version: str | None = None
    region: str | None = None
    project: str | None = None
    headers: dict[str, str] = {}
    stream: bool | None = None
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    options: dict[str, Any] = {}

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://", "${")):
            raise refusal(f"{describe(value)} is no address", "begin with https:// or http://")
        return value


class SamplingSpec(Model):
    """The model parameters, wherever they may stand."""

    max_tokens: Positive | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    seed: int | None = None
    stop: list[str] | None = None
    reasoning_effort: str | None = None
    params: dict[str, Any] | None = None


SAMPLING_KEYS = tuple(SamplingSpec.model_fields)


def _check_model(value: Any) -> Any:
    if isinstance(value, str) and not MODEL_NAME.fullmatch(value):
        lacks = "model" if value.endswith("/") else "provider"
        raise refusal(f"{describe(value)} names no {lacks}", "write `provider/model`, such as openai/gpt-5-mini")
    return value


ModelName = Annotated[str, BeforeValidator(_check_model)]


def _short_tier(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


class TierSpec(SamplingSpec):
    """A named model with its parameters; `provider/model` is the short form."""

    model: ModelName


class LimitsSpec(Model):
    """Bounds of the whole run."""

    concurrency: Positive = 8
    timeout: Limit | None = None
    fail_fast: bool = False


RETRYABLE = (*sorted(kind.value for kind in TRANSIENT), ErrorKind.FUNCTION.value)


class RetrySpec(Model):
    """How often and how patiently an attempt is repeated; a number is the short form of `retries`."""

    retries: Annotated[int, Field(ge=0, le=100)] = 2
    delay: Duration = 1.0
    max_delay: Duration = 60.0
    on: list[str] = sorted(kind.value for kind in TRANSIENT)

    @field_validator("on")
    @classmethod
    def _known_kinds(cls, value: list[str]) -> list[str]:
        for kind in value:
            if kind not in RETRYABLE:
                hint = did_you_mean(str(kind), RETRYABLE) or f"known are {', '.join(RETRYABLE)}"
                raise refusal(f"{kind!r} is nothing that is retried", hint)
        return value


def _short_retry(value: Any) -> Any:
    return {"retries": value} if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Retry = Annotated[RetrySpec, BeforeValidator(_short_retry)]


class ExpectSpec(Model):
    """What an answer is expected to take; the forecast and the simulator go by it."""

    latency: Duration | None = None
    tokens: Annotated[int, Field(ge=0)] | None = None


class SimulateSpec(Model):
    """How the simulator plays this node."""

    jitter: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    fail: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | list[str] = 0.0
    output: Any = None

    @field_validator("fail", mode="before")
    @classmethod
    def _known_failures(cls, value: Any) -> Any:
        kinds = [kind.value for kind in ErrorKind]
        if isinstance(value, str):
            raise refusal(f"{describe(value)} is no list", f"write [{value}] or a probability such as 0.1")
        for kind in value if isinstance(value, list) else []:
            if kind not in kinds:
                hint = did_you_mean(str(kind), kinds) or f"known are {', '.join(kinds)}"
                raise refusal(f"{describe(kind)} is no kind of error", hint)
        return value


class DefaultsSpec(SamplingSpec):
    """What nodes that do not say otherwise get."""

    tier: str | None = None
    model: ModelName | None = None
    timeout: Limit | None = None
    retry: Retry | None = None


class NodeSpec(SamplingSpec):
    """One node: a prompt for a model, or a call of a Python function."""

    prompt: str | None = None
    prompt_file: str | None = None
    system: str | None = None
    tier: str | None = None
    model: ModelName | None = None
    call: str | None = None
    with_: dict[str, Any] | None = Field(default=None, alias="with")
    needs: list[str] | None = None
    description: str | None = None
    continue_on_failure: bool = False
    timeout: Limit | None = None
    retry: Retry | None = None
    priority: Priority = "normal"
    expect: ExpectSpec = ExpectSpec()
    simulate: SimulateSpec | Literal[False] | None = None

    @field_validator("simulate", mode="before")
    @classmethod
    def _false_or_mapping(cls, value: Any) -> Any:
        if value is not False and not isinstance(value, dict):
            raise refusal(f"`simulate` is false or a mapping, not {describe(value)}", "write false, or {output: ...}")
        return False if value is False else SimulateSpec.model_validate(value)

    @field_validator("call")
    @classmethod
    def _function_name(cls, value: str | None) -> str | None:
        if value is not None and not CALL_NAME.fullmatch(value):
            raise refusal(f"{describe(value)} names no function", "write `package.module:function`")
        return value


KINDS = ("prompt", "prompt_file", "call")
"""The keys of which a node has exactly one."""
PROMPT_KEYS = frozenset({"system", "tier", "model", *SAMPLING_KEYS})
CALL_KEYS = frozenset({"with"})


class PipelineSpec(Model):
    """A whole pipeline."""

    version: int = 1
    name: str | None = None
    description: str | None = None
    inputs: Annotated[dict[str, InputSpec], BeforeValidator(_named)] = {}
    providers: Annotated[dict[str, ProviderSpec], BeforeValidator(_named)] = {}
    tiers: Annotated[dict[str, Annotated[TierSpec, BeforeValidator(_short_tier)]], BeforeValidator(_named)] = {}
    limits: LimitsSpec = LimitsSpec()
    defaults: DefaultsSpec = DefaultsSpec()
    schedule: Literal["eager", "waves"] = "eager"
    nodes: Annotated[
        dict[str, NodeSpec], _no_values("`nodes`", "write `<id>: {prompt: ...}` below it"), BeforeValidator(_named)
    ]
    outputs: Annotated[dict[str, Any], BeforeValidator(_named)] = {}

    @field_validator("version")
    @classmethod
    def _known_version(cls, value: int) -> int:
        if value != 1:
            raise refusal(f"version {value} is not known", "write `version: 1`")
        return value


def known_keys(path: tuple[str | int, ...]) -> list[str] | None:
    """The keys that the mapping at *path* may hold, or None where any key is right."""
    model: Any = PipelineSpec
    for step in path:
        if isinstance(model, type) and issubclass(model, BaseModel):
            field = next((f for name, f in model.model_fields.items() if step in {name, f.alias}), None)
            model = field.annotation if field is not None else None
        else:
            model = get_args(model)[-1] if get_args(model) else None
        model = _unwrapped(model)
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [field.alias or name for name, field in model.model_fields.items()]
    return None


def _unwrapped(annotation: Any) -> Any:
    """The part of an annotation that a mapping in the file can stand for."""
    while hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    for argument in get_args(annotation):
        inner = argument
        while hasattr(inner, "__metadata__"):
            inner = inner.__origin__
        if isinstance(inner, type) and issubclass(inner, BaseModel) and not _is_mapping(annotation):
            return inner
    return annotation


def _is_mapping(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) in {dict, Mapping}
