"""The language: what a pipeline may say, as pydantic models.

Every key is described once, here, in `language/rules.py` or in `language/limits.py`: refusals, `agentdag explain` and
the editors' schema read it from these models.
Unknown keys and wrong types are refused; a key that begins with `x-` is the user's own.
A wrong document becomes findings in `language/check.py`; this file knows no place in a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from agentdag.errors import ErrorKind
from agentdag.language.answers import Output
from agentdag.language.findings import did_you_mean
from agentdag.language.limits import BudgetSpec, NodeBudgetSpec, RateSpec
from agentdag.language.model import Model, without_own_keys
from agentdag.language.rules import (
    Barrier,
    Condition,
    Foreach,
    HedgeSpec,
    RepeatSpec,
    Retry,
    Schedule,
    ScheduleSpec,
    Timeout,
)
from agentdag.language.scalars import (
    IDENTIFIER,
    MODEL_FORM,
    Age,
    Count,
    Duration,
    FunctionName,
    Limit,
    ModelName,
    Positive,
    Priority,
    Written,
    describe,
    refusal,
)
from agentdag.language.tools import Argv, ToolSpec

_AGENT_KEYS = ("tools", "max_turns", "tool_timeout", "tool_output_limit")
RESERVED_IDS = frozenset({"items", "keys", "values", "get"})
_PROMPT_ONLY = ("system", "tier", "model")


def _named(value: Any) -> Any:
    """A mapping of names to things, each name an identifier that templates can write."""
    return without_own_keys({} if value is None else value)


def _no_values(kind: str, short: str) -> BeforeValidator:
    """Turns a missing mapping into a clear refusal."""

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            raise refusal(f"{kind} is a mapping, not {describe(value)}", short)
        return value

    return BeforeValidator(check)


class InputSpec(Model):
    """One input of the pipeline; without a default it is required."""

    type: Literal["string", "integer", "number", "boolean", "array", "object", "file"] = Field(
        default="string", examples=["file"]
    )
    """What the value is. A `file` is UTF-8 text, read from a path relative to the pipeline's file."""
    description: str | None = Field(default=None, examples=["The company's name"])
    """What the input is, for whoever runs the pipeline."""
    default: Any = Field(default=None, examples=["inputs/filing.txt"])
    """The value where none is given; without this key the input is required."""
    enum: list[Any] | None = Field(default=None, examples=[["short", "long"]])
    """The values that are allowed."""

    @property
    def required(self) -> bool:
        return "default" not in self.model_fields_set


class PricesSpec(Model):
    """What a provider's models cost, in USD per million tokens."""

    input: Annotated[float, Field(ge=0, allow_inf_nan=False, examples=[0.25])]
    """USD per million tokens of the prompt."""
    output: Annotated[float, Field(ge=0, allow_inf_nan=False, examples=[2])]
    """USD per million tokens of the answer."""
    cached_input: Annotated[float | None, Field(ge=0, allow_inf_nan=False, examples=[0.025])] = None
    """USD per million tokens of the prompt that the provider had in its cache; `input` where nothing is said."""


ServiceTier = Literal["auto", "default", "flex", "priority"]


class ProviderSpec(RateSpec):
    """How to reach a provider, where it differs from the defaults. `${NAME}` reads the environment here."""

    type: str | None = Field(default=None, examples=["openai"])
    """Whose protocol it speaks: openai, azure, anthropic, bedrock, vertex, simulated, or one that a package brings.
    Where nothing is said, the provider's own name."""
    base_url: str | None = Field(default=None, examples=["http://127.0.0.1:11434/v1"])
    """The address of a server of your own. It never gets the key of the provider that it imitates."""
    api_key: str | None = Field(default=None, examples=["${TEAM_KEY}"])
    """The key, read from the environment with `${NAME}`; else the variable that the provider's own SDK reads."""
    api_version: str | None = Field(default=None, examples=["2024-10-21"])
    """The version of the API, for azure."""
    region: str | None = Field(default=None, examples=["eu-central-1"])
    """The region, for bedrock and vertex."""
    project: str | None = Field(default=None, examples=["my-project"])
    """The project, for vertex."""
    headers: dict[str, str] = Field(default={}, examples=[{"X-Team": "research"}])
    """Headers of every request."""
    stream: bool | None = Field(default=None, examples=[False])
    """Whether answers are streamed. Where nothing is said: those of a run or a resume are, those of a batch or a pool
    only where a timeout bounds their silence."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = Field(
        default=None, examples=["max_tokens"]
    )
    """The name that the server knows for `max_tokens`; older servers know only `max_tokens`."""
    structured: Literal["json_schema", "json_object", "tool", "prompt"] | None = Field(
        default=None, examples=["json_object"]
    )
    """How its models are asked for JSON where a node has an `output`: by JSON Schema, as any JSON, by a tool that takes
    the answer, or in words alone. For servers that do not know the first. Every answer is checked here anyway."""
    api: Literal["responses", "chat", "auto"] | None = Field(default=None, examples=["chat"])
    """Which protocol an openai or azure provider is asked by. `auto`, the default, is Responses at OpenAI's and Azure's
    own addresses, for all but requests with a `seed`, a `stop` or a parameter that only chat completions have; and chat
    completions everywhere else."""
    omit: list[Literal["stream_options", "strict", "prompt_cache_key", "tool_choice", "include", "cache_control"]] = (
        Field(default=[], examples=[["stream_options", "prompt_cache_key"]])
    )
    """Parameters that agentdag sends by itself and that this server refuses: they are left out."""
    finish_reasons: dict[str, Literal["stop", "length"]] = Field(default={}, examples=[{"all_done": "stop"}])
    """Words of this server's own for why an answer ended: `stop` says that it is whole, `length` that it was cut at its
    token limit. An answer that ends with an unknown word is no success."""
    service_tier: ServiceTier | None = Field(default=None, examples=["flex"])
    """The service tier of its models, where a node does not say another."""
    options: dict[str, Any] = Field(default={}, examples=[{"pool": "small"}])
    """Settings of a provider that another package brings, passed on as they are."""
    prices: PricesSpec | None = Field(default=None, examples=[{"input": 0.25, "output": 2}])
    """What its models cost, in USD per million tokens, where the price table does not know them."""
    models: dict[str, RateSpec] = Field(default={}, examples=[{"gpt-5": {"rpm": 100}}])
    """How fast single models of it may be asked, where that differs."""

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://", "${")):
            raise refusal(f"{describe(value)} is no address", "begin with https:// or http://")
        return value


LEAST_THINKING = 1024
ThinkingBudget = Annotated[int, Field(ge=LEAST_THINKING)]


def _thinking(value: Any) -> Any:
    if value is None or value in {"adaptive", "disabled"}:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if value < LEAST_THINKING:
            raise refusal(f"{value} tokens are too few to think", f"write {LEAST_THINKING} or more, or disabled")
        return value
    raise refusal(f"`thinking` is adaptive, disabled or a number of tokens, not {describe(value)}", "write adaptive")


class SamplingSpec(Model):
    """The model parameters, wherever they may stand."""

    max_tokens: Positive | None = Field(default=None, examples=[4000])
    """The longest answer, in tokens."""
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(default=None, examples=[0.2])
    """How freely the model chooses its words, from 0 to 2."""
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(default=None, examples=[0.9])
    """The model chooses among the likeliest words that together have this probability."""
    seed: int | None = Field(default=None, examples=[7])
    """Asks the provider for the same answer to the same request; few can promise it."""
    stop: list[str] | None = Field(default=None, examples=[["END"]])
    """Texts at which the answer ends."""
    reasoning_effort: str | None = Field(default=None, examples=["low"])
    """How long a reasoning model thinks, in its provider's word: none, minimal, low, medium, high, xhigh, max."""
    thinking: Annotated[Literal["adaptive", "disabled"] | ThinkingBudget | None, BeforeValidator(_thinking)] = Field(
        default=None, examples=["adaptive", 4000]
    )
    """Whether a model of Anthropic's thinks before it answers: `adaptive` (as long as `reasoning_effort` allows),
    `disabled`, or for older models the most tokens it may think, at least 1,024 and less than `max_tokens`."""
    service_tier: ServiceTier | None = Field(default=None, examples=["flex"])
    """Which service tier an OpenAI model is asked for: `flex` is slower at half the price, `priority` the reverse. The
    cost is that of the tier that was given; where flex has no capacity, a retry asks for `default`."""
    params: dict[str, Any] | None = Field(default=None, examples=[{"logprobs": True}])
    """More parameters, passed to the provider as they are."""


SAMPLING_KEYS = tuple(SamplingSpec.model_fields)


def _short_tier(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


class TierSpec(SamplingSpec):
    """A named model with its parameters; `provider/model` is the short form."""

    model: ModelName = Field(examples=["anthropic/claude-opus-4-5"])
    """The model, as `provider/model`."""


class LimitsSpec(Model):
    """Bounds of the whole run."""

    concurrency: Positive = Field(default=8, examples=[5])
    """How many nodes may act at once; whatever only waits does not count."""
    queue: Positive | None = Field(default=None, examples=[100])
    """How many may wait for a slot; the others wait outside the queue until there is room. Any number where nothing
    is said."""
    timeout: Limit | None = Field(default=None, examples=["10m"])
    """Bounds the whole run; what then still runs is cancelled, what has finished is kept."""
    fail_fast: bool = Field(default=False, examples=[True])
    """Launch nothing more once a required node has failed. Else every independent branch finishes."""


class ExpectSpec(Model):
    """What an answer is expected to take; the forecast and the simulator go by it."""

    latency: Duration | None = Field(default=None, examples=["45s"])
    """How long the node is expected to take; 1 s where nothing is said."""
    tokens: Count | None = Field(default=None, examples=[800])
    """How many tokens the answer is expected to have; 200 where nothing is said."""


_FAILURES_FORM = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "array", "items": {"enum": [kind.value for kind in ErrorKind]}},
    ]
}


class SimulateSpec(Model):
    """How the simulator plays this node."""

    latency: Duration | None = Field(default=None, examples=["2m"])
    """How long it takes there, where that is not what `expect` says: to rehearse a straggler."""
    jitter: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(default=0.0, examples=[0.2])
    """By what share its latency varies."""
    fail: Annotated[
        Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | list[str], Written(only=_FAILURES_FORM)
    ] = Field(default=0.0, examples=[["rate_limit", "server"], 0.1])
    """The errors of its first attempts, or the probability that an attempt fails."""
    output: Any = Field(default=None, examples=["Acme sells pumps."])
    """Its answer; else a short echo of what it was asked."""

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

    tier: str | None = Field(default=None, examples=["execution"])
    """The tier of every prompt node that names neither tier nor model."""
    model: ModelName | None = Field(default=None, examples=["openai/gpt-5-mini"])
    """The model of every prompt node that names neither tier nor model, as `provider/model`."""
    timeout: Timeout | None = Field(default=None, examples=["90s"])
    """Bounds one attempt of every node; 10 m where nothing is said."""
    retry: Retry | None = Field(default=None, examples=[2])
    """How often and how patiently an attempt is repeated."""
    barrier: Barrier | None = Field(default=None, examples=[{"timeout": "60s"}])
    """When joins open that do not say otherwise."""
    cache_warm: bool = Field(default=False, examples=[True])
    """Where parallel prompts share a long beginning, one call goes first and the rest start at its first token, so
    that they read the provider's prompt cache instead of each paying for it."""


KINDS = ("prompt", "prompt_file", "call", "http", "command", "pipeline")
"""The keys of which a node has exactly one."""
KIND_NAMES = {
    "prompt": "a node with a prompt",
    "prompt_file": "a node with a prompt",
    "call": "a node that calls a function",
    "http": "a node that calls a remote agent",
    "command": "a node that runs a program",
    "pipeline": "a node that runs a pipeline",
}
_PROMPT_KEYS = (*_PROMPT_ONLY, *SAMPLING_KEYS, *_AGENT_KEYS)
OWN_KEYS: dict[str, tuple[str, ...]] = {
    "prompt": _PROMPT_KEYS,
    "prompt_file": _PROMPT_KEYS,
    "call": ("with",),
    "http": (),
    "command": ("stdin", "env", "cwd"),
    "pipeline": ("with",),
}
"""The keys that mean something only for some kinds of node."""


def _others(key: str) -> list[dict[str, Any]]:
    """The kinds for which *key* means nothing, as JSON Schema names them."""
    return [{"required": [kind]} for kind in KINDS if key not in OWN_KEYS[kind]]


_NODE_FORM: dict[str, Any] = {
    "oneOf": [{"required": [key]} for key in KINDS],
    "dependencies": {
        **{key: {"not": {"anyOf": _others(key)}} for key in dict.fromkeys(sum(OWN_KEYS.values(), ()))},
        "tier": {"not": {"anyOf": [*_others("tier"), {"required": ["model"]}]}},
        **{key: {"required": ["tools"]} for key in _AGENT_KEYS[1:]},
    },
}
"""What editors know of how the keys of a node go together."""


_FALLBACK_FORM: dict[str, Any] = {
    "minProperties": 1,
    "dependencies": {
        **{key: {"not": {"required": ["call"]}} for key in ("prompt", "prompt_file", *_PROMPT_ONLY, *SAMPLING_KEYS)},
        "with": ["call"],
        "tier": {"not": {"anyOf": [{"required": ["call"]}, {"required": ["model"]}]}},
        "prompt_file": {"not": {"anyOf": [{"required": ["call"]}, {"required": ["prompt"]}]}},
    },
}
"""What editors know of how the keys of a fallback go together."""


class FallbackSpec(SamplingSpec):
    """Who does a node's work where those before have failed: what differs from the node. A model or a tier is the
    short form."""

    model_config = ConfigDict(json_schema_extra=_FALLBACK_FORM)

    model: ModelName | None = Field(default=None, examples=["openai/gpt-5-mini"])
    """Another model, as `provider/model`."""
    tier: str | None = Field(default=None, examples=["reasoning"])
    """Another model, as one of the names under `tiers`."""
    prompt: str | None = Field(default=None, examples=["In one sentence: {{ inputs.question }}"])
    """Another prompt."""
    prompt_file: str | None = Field(default=None, examples=["prompts/short.md"])
    """A file with another prompt."""
    system: str | None = Field(default=None, examples=["Answer in one sentence."])
    """Another system prompt."""
    call: FunctionName | None = Field(default=None, examples=["canned:answer"])
    """A Python function instead of a model."""
    with_: dict[str, Any] | None = Field(default=None, alias="with", examples=[{"question": "{{ inputs.question }}"}])
    """The keyword arguments of `call`."""


def _short_fallback(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if IDENTIFIER.fullmatch(value):
        return {"tier": value}
    return {"model": value}


Fallback = Annotated[FallbackSpec, BeforeValidator(_short_fallback), Written(also={"type": "string"})]


class HttpSpec(Model):
    """A request to a remote agent. An answer in JSON is a value; its `usage`, if it has one, counts."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["json", "body"]}})

    url: str = Field(examples=["https://agents.example.com/v1/research"])
    """The address: a template. Whom the request goes to must not come from a node's answer."""
    method: Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"] | None = Field(
        default=None, examples=["POST"]
    )
    """POST where something is sent, else GET."""
    headers: dict[str, str] = Field(default={}, examples=[{"Authorization": "Bearer ${AGENT_KEY}"}])
    """Its headers: templates over `inputs` and `run`; `${NAME}` reads the environment."""
    json_: Any = Field(default=None, alias="json", examples=[{"question": "{{ inputs.question }}"}])
    """What is sent, as JSON: any value, in which any text may be a template."""
    body: str | None = Field(default=None, examples=["{{ nodes.draft.output }}"])
    """What is sent, as text: a template."""
    allow_private: bool = Field(default=False, examples=[True])
    """Whether the address may be one of this machine or of its network."""


class NodeSpec(SamplingSpec):
    """One node: a prompt for a model, a call of a Python function, a request to a remote agent, or a program."""

    model_config = ConfigDict(json_schema_extra=_NODE_FORM)

    prompt: str | None = Field(default=None, examples=["Describe the market of {{ inputs.company }}."])
    """What to ask the model: a Jinja template over `inputs`, `nodes`, `needs`, `missing` and `run`."""
    prompt_file: str | None = Field(default=None, examples=["prompts/market.md"])
    """A file with the prompt, relative to the pipeline's file and inside its folder."""
    system: str | None = Field(default=None, examples=["You quote figures exactly and never add any."])
    """The system prompt: a template as well."""
    tier: str | None = Field(default=None, examples=["reasoning"])
    """The model, as one of the names under `tiers`."""
    model: ModelName | None = Field(default=None, examples=["openai/gpt-5-mini"])
    """The model, as `provider/model`."""
    call: FunctionName | None = Field(default=None, examples=["spend:summarise"])
    """A Python function instead of a model, as `package.module:function`; modules beside the pipeline are found."""
    with_: dict[str, Any] | None = Field(default=None, alias="with", examples=[{"ledger": "{{ inputs.ledger }}"}])
    """The keyword arguments of `call`, or the inputs of `pipeline`. Where a template is one single expression, it gives
    the value, not its text."""
    pipeline: str | None = Field(default=None, examples=["audit.yaml"])
    """Runs another pipeline as one node; its output is what that one's `outputs` give. Its nodes share this run's
    limits, schedule and budget: what the file says of these holds where it is run by itself. An input of type `file` is
    given as text."""
    http: HttpSpec | None = Field(default=None, examples=[{"url": "https://agents.example.com/v1/ask"}])
    """Calls a remote agent over HTTP."""
    command: Argv | None = Field(
        default=None, examples=[["git", "log", "--oneline", "-20"]], json_schema_extra={"minItems": 1}
    )
    """Runs a program, without a shell; each argument is a template. Its output is what it prints."""
    stdin: str | None = Field(default=None, examples=["{{ nodes.draft.output }}"])
    """What the program of `command` reads: a template."""
    env: dict[str, str] | None = Field(default=None, examples=[{"TOKEN": "${SERVICE_TOKEN}"}])
    """Variables of the program's environment, besides those of agentdag's own: templates; `${NAME}` reads the
    environment."""
    cwd: str | None = Field(default=None, examples=["repository"])
    """The folder in which the program runs, relative to the pipeline's own, which it is where nothing is said."""
    output: Output = Field(default=None, examples=["json", {"fields": {"risk": "string", "score": "number"}}])
    """What the answer is to be: `text`, `json`, or a schema that it must fit. The model is asked for it in the way of
    its provider; an answer that does not fit is sent back once with what is wrong."""
    tools: list[str] | None = Field(default=None, examples=[["search", "files"]])
    """What the model may work with, of what stands under `tools` at the top: it is asked turn by turn until it
    answers."""
    max_turns: Annotated[int, Field(ge=1, le=1000)] = Field(default=8, examples=[8])
    """How many times the model is asked at the most; at the last it has to answer with what it has."""
    tool_timeout: Limit = Field(default=60.0, examples=["30s"])
    """Bounds each call of a tool; 60 s where nothing is said. What then still runs is cut, and the model is told."""
    tool_output_limit: Positive = Field(default=50_000, examples=[20_000])
    """How many characters of a tool's result the model is told."""
    when: Condition | None = Field(default=None, examples=["{{ nodes.triage.output.label == 'legal' }}"])
    """A template that tells whether the node runs at all; where it does not hold, the node is `skipped`, and no
    failure: joins count it as missing."""
    foreach: Foreach | None = Field(default=None, examples=["{{ inputs.sources }}", ["north", "south"]])
    """One instance for each item of a list, shown as `research[3]`; the output is the list of theirs, in order."""
    repeat: RepeatSpec | None = Field(default=None, examples=[{"until": "{{ output.score >= 8 }}", "max": 4}])
    """Again and again, reading `previous`, until a condition holds."""
    reads: list[str] = Field(default=[], examples=[["crm"]])
    """Resources that the node reads, by names of your own. Nodes that conflict must be ordered by the graph."""
    writes: list[str] = Field(default=[], examples=[["crm"]])
    """Resources that the node changes, by names of your own."""
    save: str | None = Field(default=None, examples=["out/memo.md", "out/{{ index }}.json"])
    """A file that the output is written to, atomically, inside the pipeline's folder: a template."""
    needs: list[str] | None = Field(default=None, examples=[["parser", "market"]])
    """Nodes to wait for: for order without data, and for joins that loop over `needs`. Reading `nodes.<id>` in a
    template is enough otherwise."""
    description: str | None = Field(default=None, examples=["What the figures say"])
    """What the node is for, for people."""
    continue_on_failure: bool = Field(default=False, examples=[True])
    """Others go on without this node where it fails: they see `nodes.<id>.ok` false and its id in `missing`."""
    barrier: Barrier | None = Field(default=None, examples=[{"wait_for": 8, "timeout": "45s"}])
    """When a node with several dependencies opens: `all`, `progressive`, or a mapping."""
    timeout: Timeout | None = Field(default=None, examples=["45s", {"attempt": "45s", "idle": "15s", "total": "3m"}])
    """Bounds one attempt, its silence, and the node as a whole; a duration or `auto` bounds the attempt."""
    retry: Retry | None = Field(default=None, examples=[2])
    """How often and how patiently an attempt is repeated."""
    fallback: list[Fallback] = Field(default=[], examples=[["openai/gpt-5-mini"]])
    """Who does the work where the node's own model fails, in order: each a model, a tier, or a mapping of what
    differs; each with its own retries."""
    hedge: HedgeSpec | None = Field(default=None, examples=[{"after": "10s"}])
    """A second identical call where the first is late. Only for prompts, and for nodes that are `idempotent`."""
    idempotent: bool = Field(default=False, examples=[True])
    """The node may be repeated without harm: a hedge or a resume may call it a second time."""
    cache: Age = Field(default=None, examples=["7d", True])
    """Takes the answer from the cache where the same request was answered in an earlier run, at most that long ago;
    `true` for any age. Not where a template reads `run` or a `latency`."""
    budget: NodeBudgetSpec | None = Field(default=None, examples=[{"cost": 0.25}])
    """What this node may spend, over all its attempts, hedges, fallbacks and passes."""
    priority: Priority = Field(default="normal", examples=["high"])
    """Goes first, or last, where more is ready than the cap lets run: high, normal or low."""
    expect: ExpectSpec = Field(default=ExpectSpec(), examples=[{"latency": "45s", "tokens": 800}])
    """What an answer is expected to take; the forecast and the simulator go by it."""
    simulate: Annotated[SimulateSpec | Literal[False] | None, Field(examples=[{"fail": ["rate_limit"]}])] = None
    """How the simulator plays this node; `false` lets it act even under `--simulate`."""

    @field_validator("simulate", mode="before")
    @classmethod
    def _false_or_mapping(cls, value: Any) -> Any:
        if value is not False and not isinstance(value, dict):
            raise refusal(f"`simulate` is false or a mapping, not {describe(value)}", "write false, or {output: ...}")
        return False if value is False else SimulateSpec.model_validate(value)


Tier = Annotated[TierSpec, BeforeValidator(_short_tier), Written(also=MODEL_FORM)]


class PipelineSpec(Model):
    """A pipeline of LLM agents, run by agentdag."""

    version: Annotated[int, Written(only={"const": 1})] = Field(default=1, examples=[1])
    """The version of the language: 1."""
    name: str | None = Field(default=None, examples=["due-diligence"])
    """The pipeline's name; else its file's."""
    description: str | None = Field(default=None, examples=["Company name and filing in, investment memo out."])
    """What it does, for people."""
    inputs: Annotated[dict[str, InputSpec], BeforeValidator(_named)] = Field(
        default={}, examples=[{"company": {"type": "string", "description": "The company's name"}}]
    )
    """What a run is given, by name; templates read `inputs.<name>`."""
    providers: Annotated[dict[str, ProviderSpec], BeforeValidator(_named)] = Field(
        default={}, examples=[{"local": {"type": "openai", "base_url": "http://127.0.0.1:11434/v1"}}]
    )
    """How to reach providers, where it differs from the defaults."""
    tiers: Annotated[dict[str, Tier], BeforeValidator(_named)] = Field(
        default={}, examples=[{"routing": "anthropic/claude-haiku-4-5", "execution": "openai/gpt-5-mini"}]
    )
    """Names for models, cheapest first, so that a node says what it needs rather than whom it asks."""
    limits: LimitsSpec = Field(default=LimitsSpec(), examples=[{"concurrency": 5, "timeout": "10m"}])
    """Bounds of the whole run."""
    budget: BudgetSpec | None = Field(
        default=None, examples=[{"cost": 1.50, "when_low": {"at": "80%", "do": ["downgrade", "shrink"]}}]
    )
    """What the whole run may spend: tokens, USD, or both."""
    defaults: DefaultsSpec = Field(
        default=DefaultsSpec(), examples=[{"tier": "execution", "timeout": "90s", "retry": 2}]
    )
    """What nodes that do not say otherwise get."""
    schedule: Schedule = Field(default=ScheduleSpec(), examples=["waves", {"waves": {"timeout": "60s"}}])
    """`eager` starts each node as soon as it can; `waves` waits for all of a wave before the next."""
    tools: Annotated[dict[str, ToolSpec], BeforeValidator(_named)] = Field(
        default={},
        examples=[{"search": {"call": "mytools:search"}, "store": {"call": "mytools:store", "writes": ["notes"]}}],
    )
    """What models may work with, by name: functions, and the tools of MCP servers. A node says which of them it has."""
    nodes: Annotated[
        dict[str, NodeSpec], _no_values("`nodes`", "write `<id>: {prompt: ...}` below it"), BeforeValidator(_named)
    ] = Field(examples=[{"market": {"prompt": "Describe the market of {{ inputs.company }}."}}])
    """The nodes, by id. An id is letters, digits and _, beginning with a letter, because templates name it."""
    outputs: Annotated[dict[str, Any], BeforeValidator(_named)] = Field(
        default={}, examples=[{"memo": "{{ nodes.summary.output }}"}]
    )
    """What the run gives, by name: templates over `inputs`, `nodes` and `run`. Without it, the answers of all nodes
    that nobody needs."""

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
        model = part_of(model)
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [field.alias or name for name, field in model.model_fields.items()]
    return None


def part_of(annotation: Any) -> Any:
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
