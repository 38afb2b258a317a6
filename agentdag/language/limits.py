"""How fast providers may be asked, and what a run may spend: the keys of these limits, each with its short form."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from agentdag.language.findings import did_you_mean
from agentdag.language.model import Model
from agentdag.language.scalars import Count, Positive, Written, describe, refusal

DEFAULT_HEADROOM = 0.9
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%", re.ASCII)
_PERCENT_FORM = {"type": "string", "pattern": r"^\d{1,3}(\.\d{1,6})?\s*%$"}


def _share(value: Any) -> Any:
    """A share such as `80%` or 0.8."""
    if isinstance(value, str):
        match = _PERCENT.fullmatch(value.strip())
        if match is None:
            raise refusal(f"{describe(value)} is no share", "write 80% or 0.8")
        value = float(match.group(1)) / 100
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not 0 < value <= 1:
        raise refusal(f"{describe(value)} is no share: it is above 0 and at most 1", "write 80% or 0.8")
    return value


Share = Annotated[float, BeforeValidator(_share), Field(gt=0, le=1), Written(also=_PERCENT_FORM)]
Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RateSpec(Model):
    """How fast a model may be asked."""

    concurrency: Positive | None = Field(default=None, examples=[20])
    """How many calls may be in flight; where neither this nor a rate is said, it is found out, from 16 up."""
    rpm: Positive | None = Field(default=None, examples=[500])
    """Requests a minute, of each model. Undeclared, it is learned from what the provider tells and refuses."""
    tpm: Positive | None = Field(default=None, examples=[200_000])
    """Tokens a minute, of each model, in and out together."""
    input_tpm: Positive | None = Field(default=None, examples=[50_000])
    """Tokens a minute of prompts, where the provider counts them apart."""
    output_tpm: Positive | None = Field(default=None, examples=[10_000])
    """Tokens a minute of answers, where the provider counts them apart."""
    headroom: Share | None = Field(default=None, examples=[0.9])
    """The share of these rates that is used: 0.9 where nothing is said."""
    burst: Positive | None = Field(default=None, examples=[10])
    """How many calls may go at once; where nothing is said, ten seconds of the rate, but at most ten calls, or half a
    second of the rate if that is more."""


ACTIONS = {
    "downgrade": "Nodes still to run move one tier down, to the next cheaper one; told as `downgraded`.",
    "shrink": "The `max_tokens` of nodes still to run are scaled to what is left; told as `shortened`.",
    "shed": "Nodes with `priority: low` that have not begun are skipped.",
    "stop": "Nothing more is started, and what runs is cancelled.",
}
"""What can be done when a budget is low."""
_LEAST_LOW = 0.8


class WhenLowSpec(Model):
    """What is done when most of the budget is spent."""

    at: Share = Field(default=_LEAST_LOW, examples=["80%"])
    """The share that is spent from which on it is done."""
    do: list[Annotated[str, Written(only={"enum": list(ACTIONS)})]] = Field(
        default=["downgrade"], examples=[["downgrade", "shrink", "shed"]]
    )
    """`downgrade` moves the nodes still to run one tier down, `shrink` scales their `max_tokens` to what is left,
    `shed` skips those with `priority: low`, `stop` starts nothing more and cancels those that run."""

    @field_validator("do")
    @classmethod
    def _known_actions(cls, value: list[str]) -> list[str]:
        for action in value:
            if action not in ACTIONS:
                raise refusal(
                    f"{action!r} is nothing that can be done",
                    did_you_mean(str(action), ACTIONS) or f"known are {', '.join(ACTIONS)}",
                )
        return value


class NodeBudgetSpec(Model):
    """What one node may spend, over all its attempts, hedges, fallbacks and passes."""

    tokens: Count | None = Field(default=None, examples=[20_000])
    """Tokens in and out together."""
    cost: Usd | None = Field(default=None, examples=[0.25])
    """USD, of all calls together."""

    @model_validator(mode="after")
    def _says_something(self) -> NodeBudgetSpec:
        if self.tokens is None and self.cost is None:
            raise refusal("this budget bounds nothing", "write `tokens:` or `cost:`", lacks=True)
        return self


class BudgetSpec(NodeBudgetSpec):
    """What the whole run may spend, over all its lives. It is hard: each call reserves the most that it can cost."""

    tokens: Count | None = Field(default=None, examples=[200_000])
    """Tokens in and out together."""
    cost: Usd | None = Field(default=None, examples=[1.50])
    """USD, of all calls together."""
    when_low: WhenLowSpec | None = Field(default=None, examples=[{"at": "80%", "do": ["downgrade", "shrink", "shed"]}])
    """What is done before it is spent."""
