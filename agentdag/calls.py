"""The frozen values that cross the provider seam, and the seam itself.

A provider is anything with `complete` and `aclose`. This file knows no provider.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, field
from decimal import Decimal
from typing import Any, NamedTuple, Protocol, TypeVar

from agentdag.errors import ErrorKind
from agentdag.values import value

_N = TypeVar("_N", int, Decimal)

BYTES_PER_TOKEN = 3.5
"""A first guess where nothing was counted: UTF-8 bytes of a text over its tokens."""


def size_of(*texts: str | None) -> int:
    """How many bytes *texts* have in UTF-8 together."""
    return sum(len(text.encode("utf-8", "replace")) for text in texts if text is not None)


def estimate_tokens(text: str) -> int:
    """About how many tokens *text* has, where no provider has counted them."""
    return round(size_of(text) / BYTES_PER_TOKEN)


@value(frozen=True, slots=True)
class Usage:
    """Tokens and money of one call or of many. Unknown is None, never 0.

    `input_tokens` includes `cached_tokens`, read from the provider's cache, and `written_tokens`, written to it;
    `output_tokens` includes `reasoning_tokens`, as far as the provider reports them. `estimated` marks counts that no
    provider gave.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: Decimal | None = None
    estimated: bool = False
    written_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def cost(self) -> Decimal | None:
        """The same as `cost_usd`."""
        return self.cost_usd

    def plain(self) -> dict[str, Any]:
        """As machines read it; money is a string of decimal digits."""
        said: dict[str, Any] = {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached_tokens,
            "cost_usd": None if self.cost_usd is None else format(self.cost_usd, "f"),
        }
        if self.estimated:
            said["estimated"] = True
        if self.written_tokens:
            said["written_tokens"] = self.written_tokens
        if self.reasoning_tokens:
            said["reasoning_tokens"] = self.reasoning_tokens
        return said

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Usage:
        """What `plain` gave; raises TypeError or InvalidOperation where that is not what it is."""
        cost = plain.get("cost_usd")
        return cls(**{**plain, "cost_usd": None if cost is None else Decimal(str(cost))})

    def costing(self, cost_usd: Decimal) -> Usage:
        """The same, with its cost."""
        return Usage(
            self.input_tokens,
            self.output_tokens,
            self.cached_tokens,
            cost_usd,
            self.estimated,
            self.written_tokens,
            self.reasoning_tokens,
        )

    def __add__(self, other: Usage) -> Usage:
        if self is NO_USAGE:
            return other
        return Usage(
            _sum(self.input_tokens, other.input_tokens),
            _sum(self.output_tokens, other.output_tokens),
            _sum(self.cached_tokens, other.cached_tokens),
            _sum(self.cost_usd, other.cost_usd),
            self.estimated or other.estimated,
            self.written_tokens + other.written_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@value(frozen=True, slots=True)
class Amount:
    """What a budget counts: tokens in and out together, and USD; an unknown price counts as nothing."""

    tokens: int = 0
    cost_usd: Decimal = Decimal(0)

    @classmethod
    def used(cls, usage: Usage) -> Amount:
        """What *usage* takes of a budget."""
        return cls((usage.input_tokens or 0) + (usage.output_tokens or 0), usage.cost_usd or Decimal(0))

    def text(self) -> str:
        """In words: 4,162 tokens and $0.0041."""
        return f"{self.tokens:,} tokens" + (f" and ${self.cost_usd:.4f}" if self.cost_usd else "")

    def plain(self) -> dict[str, Any]:
        """As machines read it; money is a string of decimal digits."""
        return {"tokens": self.tokens, "cost_usd": format(self.cost_usd, "f")}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Amount:
        """What JSON holds of one; raises TypeError or InvalidOperation where it is none."""
        return cls(plain["tokens"], Decimal(str(plain["cost_usd"])))

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.tokens + other.tokens, self.cost_usd + other.cost_usd)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.tokens - other.tokens, self.cost_usd - other.cost_usd)


NOTHING = Amount()


def _sum(a: _N | None, b: _N | None) -> _N | None:
    return None if a is None or b is None else a + b


NO_USAGE = Usage(0, 0, 0, Decimal(0))
"""What nothing at all has cost: the start of a sum."""
MAYBE_BILLED = Usage(0, 0, 0, None, estimated=True)
"""Of a call that came to nothing and may have been billed: no tokens are known, and neither is the cost."""


ADAPTIVE = "adaptive"
"""How a model thinks that says itself for how long."""


@value(frozen=True, slots=True)
class Sampling:
    """The model parameters of a request; None leaves the provider's default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    reasoning_effort: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    """Passed to the provider as they are."""
    thinking: str | int | None = None
    """`ADAPTIVE`, `disabled`, or the most tokens that the model may think; for providers that take it."""
    service_tier: str | None = None

    @property
    def thinks(self) -> int:
        """Tokens that thinking may take, where that is said."""
        return self.thinking if isinstance(self.thinking, int) else 0

    def said(self) -> dict[str, Any]:
        """Everything in it that shapes the answer, by name. The service tier does not: it only decides who waits."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "service_tier"}
        return {name: value for name, value in values.items() if value not in (None, (), {})}


@value(frozen=True, slots=True)
class Rehearsal:
    """What the simulator plays for a node: how long, how much, and which failures."""

    latency_s: float = 1.0
    tokens: int = 200
    jitter: float = 0.0
    fail_rate: float = 0.0
    fail_first: tuple[ErrorKind, ...] = ()
    output: Any = None


@value(frozen=True, slots=True)
class Form:
    """What an answer is to be: JSON, and where *schema* is given, what that JSON Schema describes."""

    schema: Mapping[str, Any] | None = None


@value(frozen=True, slots=True)
class ToolForm:
    """A tool as a model knows it; *schema* is the JSON Schema of its arguments."""

    name: str
    about: str
    schema: Mapping[str, Any]


@value(frozen=True, slots=True)
class ToolCall:
    """A model asks for a tool; `arguments` are JSON as the model wrote it."""

    id: str
    name: str
    arguments: str


@value(frozen=True, slots=True)
class ToolResult:
    """What a tool call came to; `call` is the id of the call."""

    call: str
    text: str
    failed: bool = False
    value: str | None = None
    """What it gave, as JSON, where `text` is not just that: for calls that refer to it."""


@value(frozen=True, slots=True)
class Exchange:
    """One turn of a conversation: what the model said, and what it was told upon that.

    `raw` is what it said in its provider's own form, as JSON holds it.
    """

    text: str
    calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()
    told: str | None = None
    raw: Any = None
    truncated: bool = False
    """Whether what the model said was cut at its token limit."""

    def plain(self) -> dict[str, Any]:
        """As machines read it."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Exchange:
        """What `plain` gave; raises KeyError or TypeError where that is not what it is."""
        calls = tuple(ToolCall(**call) for call in plain["calls"])
        results = tuple(ToolResult(**result) for result in plain["results"])
        return cls(plain["text"], calls, results, plain["told"], plain["raw"], plain.get("truncated", False))

    def redacted(self, redact: Callable[[str], str]) -> Exchange:
        """The same without what *redact* takes out of a text."""
        text = json.dumps(self.plain())
        clean = redact(text)
        if clean == text:
            return self
        try:
            return Exchange.of(json.loads(clean))
        except (ValueError, KeyError, TypeError):  # a secret stood where no text does
            return Exchange(redact(self.text))

    @property
    def size(self) -> int:
        """Its bytes in UTF-8, about as they are sent."""
        parts = (part for call in self.calls for part in (call.name, call.arguments))
        return size_of(self.text, self.told, *parts, *(result.text for result in self.results))


@value(frozen=True, slots=True)
class Request:
    """One model call. `node` and `attempt` (from 1) say whose it is, `hedge` which of the same calls beside it.

    `provider` is the provider's name in the pipeline, whoever answers in its place. The first `lead` characters of the
    prompt, with all of the system prompt, are what other calls begin with too, if that is not None: the provider's
    cache is asked to keep it, as `cache_key`.
    """

    node: str
    attempt: int
    model: str
    prompt: str
    system: str | None = None
    sampling: Sampling = Sampling()
    stream: bool = False
    timeout_s: float = 600.0
    rehearsal: Rehearsal = Rehearsal()
    hedge: int = 0
    provider: str = ""
    lead: int | None = None
    cache_key: str | None = None
    form: Form | None = None
    """What the answer is to be, where that is not text."""
    history: tuple[Exchange, ...] = ()
    """What followed the prompt."""
    tools: tuple[ToolForm, ...] = ()
    """What the model may ask for."""
    bounded: bool = False
    """Whether a budget has set the longest answer, and not the file."""
    closing: bool = False
    """Whether it is to answer now, with what it has, and to ask for no tool any more."""


def asked_tokens(request: Request) -> int:
    """About how many tokens *request* has, where nobody has counted them."""
    size = size_of(request.system, request.prompt) + sum(exchange.size for exchange in request.history)
    return round(size / BYTES_PER_TOKEN)


class Gauge(NamedTuple):
    """What a server tells of one of its limits: how much a minute allows, and how much of it is left."""

    limit: int | None
    remaining: int | None


Room = Mapping[str, Gauge]
"""Gauges by what they count: requests, tokens, input_tokens, output_tokens."""


class Notice(NamedTuple):
    """Something about a call that its user should know: what was replaced, dropped or cut, and the mend."""

    message: str
    hint: str | None = None


@value(frozen=True, slots=True)
class Reply:
    """A complete answer. `ttft_s` is the time to the first token, from the start of the call."""

    text: str
    usage: Usage
    finish_reason: str
    request_id: str | None = None
    ttft_s: float | None = None
    room: Room = field(default_factory=dict)
    """What the server says is left of its limits."""
    calls: tuple[ToolCall, ...] = ()
    """The tools that the model asks for: then `text` is no answer yet."""
    raw: Any = None
    """What the model said in the provider's own form, where that says more than `text` and `calls`."""
    truncated: bool = False
    """Whether the answer was cut at its token limit."""
    reasoning: str | None = None
    """What the model thought before it answered, where that is text."""
    service_tier: str | None = None
    """Which service tier the call got, where the provider says so."""
    notices: tuple[Notice, ...] = ()


OnDelta = Callable[[str], None]
"""Told each piece of text as it streams, and the empty text where the stream begins or anything but text comes that
the model made (its reasoning); the provider calls it only where `Request.stream` is set."""


class Provider(Protocol):
    """One way to reach models. Raises only `CallError`, whatever the other side does."""

    async def complete(self, request: Request, on_delta: OnDelta) -> Reply: ...

    async def aclose(self) -> None: ...
