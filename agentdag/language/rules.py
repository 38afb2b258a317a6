"""How work is bounded, repeated, hedged and joined: the keys of these rules, each with its short form."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from agentdag.errors import TRANSIENT, ErrorKind
from agentdag.language.findings import did_you_mean
from agentdag.language.model import Model
from agentdag.language.scalars import (
    IDENTIFIER,
    LIMIT_FORM,
    Count,
    Duration,
    Limit,
    Positive,
    Written,
    describe,
    limit_s,
    refusal,
)

_RETRIED = tuple(sorted(kind.value for kind in TRANSIENT))
RETRYABLE = (*_RETRIED, *(kind.value for kind in (ErrorKind.FUNCTION, ErrorKind.COMMAND, ErrorKind.HTTP)))


class RetrySpec(Model):
    """How often and how patiently an attempt is repeated; a number is the short form of `retries`."""

    retries: Annotated[int, Field(ge=0, le=100)] = Field(default=2, examples=[3])
    """How many attempts may follow the first."""
    delay: Duration = Field(default=1.0, examples=["2s"])
    """The longest wait before the second attempt; it doubles with each, and chance picks a time below it."""
    max_delay: Duration = Field(default=60.0, examples=["60s"])
    """The longest wait of all. A provider that asks for a longer one fails the attempt at once."""
    on: list[Annotated[str, Written(only={"enum": list(RETRYABLE)})]] = Field(
        default_factory=lambda: list(_RETRIED), examples=[["rate_limit", "server"]]
    )
    """The kinds of failure that are repeated. A function or a program is repeated only for what stands here."""

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


_RETRIES_FORM = {"type": "integer", "minimum": 0, "maximum": 100}
Retry = Annotated[RetrySpec, BeforeValidator(_short_retry), Written(also=_RETRIES_FORM)]


AUTO, P95 = "auto", "p95"


def _limit_or(word: str) -> Any:
    """A duration above zero, or *word*, which leaves it to experience."""

    def read(value: Any) -> Any:
        return value if value == word else limit_s(value, f"or {word}")

    return Annotated[Any, BeforeValidator(read), Written(only={"anyOf": [LIMIT_FORM, {"const": word}]})]


class TimeoutSpec(Model):
    """Bounds of a node's work; a duration, or `auto`, is the short form of `attempt`."""

    attempt: _limit_or(AUTO) = Field(default=None, examples=["45s", "auto"])  # type: ignore[valid-type]
    """Bounds one attempt; time in a queue or before a retry does not count. `auto` is 1.5 times the p95 of the
    node's recorded latencies, and 60 s until 20 are recorded."""
    idle: Limit | None = Field(default=None, examples=["15s"])
    """Bounds the silence of a streamed answer: from the stream's beginning, and between its tokens."""
    total: Limit | None = Field(default=None, examples=["3m"])
    """Bounds the node as a whole: all attempts, fallbacks and the waits between them, time in queues not counted."""


def _short_timeout(value: Any) -> Any:
    return value if isinstance(value, dict) else {"attempt": value}


_SHORT_TIMEOUT_FORM = {"anyOf": [LIMIT_FORM, {"const": AUTO}]}
Timeout = Annotated[TimeoutSpec, BeforeValidator(_short_timeout), Written(also=_SHORT_TIMEOUT_FORM)]


class HedgeSpec(Model):
    """A second identical call where the first is late: the first answer wins, the other is cancelled and booked."""

    after: _limit_or(P95) = Field(examples=["10s", "p95"])  # type: ignore[valid-type]
    """How long the first call may take before the second begins, on a slot that is idle. `p95` is that of the node's
    recorded latencies; until 20 are recorded, twice what `expect` says."""
    max: Positive = Field(default=1, examples=[1])
    """How many calls may be made beside the first; each waits as long again."""


def _quorum(value: Any) -> Any:
    if value == "any":
        return 1
    if not isinstance(value, int) or isinstance(value, bool):
        raise refusal(f"`wait_for` is a number or any, not {describe(value)}", "write how many are to succeed")
    if value < 1:
        raise refusal(f"`wait_for` is at least 1, not {value}", "write `any` for the first that succeeds")
    return value


_QUORUM_FORM = {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "any"}]}
PROGRESSIVE, ALL = "progressive", "all"


class BarrierSpec(Model):
    """When a join opens; `all` and `progressive` are short forms."""

    timeout: Limit | None = Field(default=None, examples=["45s"])
    """It opens that long after every dependency has been launched once, or has settled, with whatever has arrived."""
    deadline: Limit | None = Field(default=None, examples=["3m"])
    """It opens that long after the run began, with whatever has arrived."""
    wait_for: Annotated[int | None, BeforeValidator(_quorum), Written(only=_QUORUM_FORM)] = Field(
        default=None, examples=[8, "any"]
    )
    """A quorum: it opens as soon as that many have succeeded. `any` is 1."""
    min: Count | None = Field(default=None, examples=[5])
    """How many must have succeeded for it to open at all; with fewer the node fails. 1 where nothing is said."""
    progressive: bool = Field(default=False, examples=[True])
    """The node runs at the first success and again at each further one, reading `needs`, `missing`, `pending` and its
    own `previous`; the output of the last pass counts."""
    stragglers: Literal["cancel", "keep"] = Field(default="cancel", examples=["keep"])
    """What becomes of dependencies that come too late, where nobody else wants them."""

    @model_validator(mode="after")
    def _within_reach(self) -> BarrierSpec:
        if self.min is not None and self.wait_for is not None and self.min > self.wait_for:
            message = f"`min: {self.min}` is more than the {self.wait_for} that `wait_for` waits for"
            raise refusal(message, f"write `min: {self.wait_for}` or less")
        return self

    @property
    def plain(self) -> bool:
        """Whether it says no more than `all`."""
        return not (self.timeout or self.deadline or self.wait_for or self.progressive) and self.min is None


def _short_barrier(value: Any) -> Any:
    if isinstance(value, dict):
        return value
    if isinstance(value, str) and value in {ALL, PROGRESSIVE}:
        return {"progressive": value == PROGRESSIVE}
    hint = did_you_mean(value, (ALL, PROGRESSIVE)) if isinstance(value, str) else None
    raise refusal(f"a barrier is all, progressive or a mapping, not {describe(value)}", hint or "write {timeout: 45s}")


Barrier = Annotated[BarrierSpec, BeforeValidator(_short_barrier), Written(also={"enum": [ALL, PROGRESSIVE]})]


class WavesSpec(Model):
    """Lock-step waves that do not wait for ever."""

    timeout: Limit | None = Field(default=None, examples=["60s"])
    """The next wave's ready nodes start that long after a wave began, at the latest."""


class ScheduleSpec(Model):
    """When nodes start; `eager` and `waves` are short forms."""

    waves: WavesSpec | None = Field(default=None, examples=[{"timeout": "60s"}])
    """All of a wave settles before the next one starts."""


EAGER, WAVES = "eager", "waves"


def _short_schedule(value: Any) -> Any:
    if isinstance(value, dict):
        return value
    if isinstance(value, str) and value in {EAGER, WAVES}:
        return {"waves": {} if value == WAVES else None}
    hint = did_you_mean(value, (EAGER, WAVES)) if isinstance(value, str) else None
    raise refusal(f"`schedule` is eager or waves, not {describe(value)}", hint)


Schedule = Annotated[ScheduleSpec, BeforeValidator(_short_schedule), Written(also={"enum": [EAGER, WAVES]})]


def condition(value: Any) -> Any:
    """A template that tells whether something holds; true and false may be written as they are."""
    if isinstance(value, bool):
        return "{{ true }}" if value else "{{ false }}"
    if not isinstance(value, str):
        raise refusal(f"a condition is a template, not {describe(value)}", 'write "{{ nodes.a.output.score > 3 }}"')
    if "{{" not in value:
        raise refusal(f"{describe(value)} is no template", f'write "{{{{ {value} }}}}"')
    return value


_CONDITION_FORM = {"anyOf": [{"type": "string", "pattern": r"\{\{"}, {"type": "boolean"}]}
Condition = Annotated[str, BeforeValidator(condition), Written(only=_CONDITION_FORM)]


def _null(value: Any) -> Any:
    return "null" if value is None else value


ItemFailure = Annotated[Literal["fail", "null"], BeforeValidator(_null), Written(also={"type": "null"})]


class ForeachSpec(Model):
    """One instance of the node for each item of a list; the list, or the template that gives it, is the short form."""

    items: Annotated[str | list[Any], Field(examples=["{{ inputs.sources }}", ["north", "south"]])]
    """The list: written out, or a template that gives one."""
    as_: Annotated[str, Written(only={"type": "string", "pattern": f"^{IDENTIFIER.pattern}$"})] = Field(
        default="item", alias="as", examples=["source"]
    )
    """By what name templates read the item; `index` counts from 0 beside it."""
    concurrency: Positive | None = Field(default=None, examples=[4])
    """How many instances may be under way at once; as many as `limits` allows where nothing is said."""
    barrier: Barrier | None = Field(default=None, examples=[{"wait_for": 8, "timeout": "45s"}])
    """When enough of the items are there: a quorum, a time; all of them where nothing is said. Late ones are null.
    `progressive` and `stragglers` mean nothing of items."""
    on_item_failure: ItemFailure = Field(default="fail", examples=["null"])
    """What an item comes to that failed: `fail` fails the node once all items have ended, `null` stands in the list."""
    cache_warm: bool = Field(default=False, examples=[True])
    """One instance goes first and the rest start at its first token, so that they read the provider's prompt cache."""

    @field_validator("as_")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not IDENTIFIER.fullmatch(value):
            raise refusal(f"{describe(value)} is no name that templates can read", "write letters, digits and _")
        return value


def _short_foreach(value: Any) -> Any:
    if isinstance(value, dict):
        return value
    if isinstance(value, (str, list)):
        return {"items": value}
    raise refusal(f"a foreach is a list or a template, not {describe(value)}", 'write "{{ inputs.sources }}"')


_ITEMS_FORM = {"type": ["string", "array"]}
Foreach = Annotated[ForeachSpec, BeforeValidator(_short_foreach), Written(also=_ITEMS_FORM)]


class RepeatSpec(Model):
    """The node again and again, reading its own `previous`, until a condition holds."""

    until: Condition = Field(examples=["{{ output.score >= 8 }}"])
    """A template that sees what the node's others see, and its `output`: it ends once this holds."""
    max: Annotated[int, Field(ge=1, le=1000)] = Field(default=5, examples=[4])
    """How many passes there are at the most; the output of the last one counts, whether the condition holds or not."""
