"""How work is bounded, repeated, hedged and joined: the keys of these rules, each with its short form."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from agentdag.errors import TRANSIENT, ErrorKind
from agentdag.language.findings import did_you_mean
from agentdag.language.model import Model
from agentdag.language.scalars import (
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
