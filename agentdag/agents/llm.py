"""A node that asks a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from types import NoneType
from typing import Any, NamedTuple

from agentdag.agents.agent import Outcome, Task
from agentdag.calls import MAYBE_BILLED, NO_USAGE, Provider, Reply, Request, Usage
from agentdag.errors import ErrorKind, Failure, FinalError
from agentdag.limits.turn import Attempt, Claim
from agentdag.values import value

Price = Callable[[Usage], Decimal | None]
"""What a usage costs; None where nobody knows."""


def unpriced(_usage: Usage) -> None:
    """Nobody knows."""


def unheard(_usage: Usage) -> None:
    """Nobody learns from it."""


@value(frozen=True, slots=True)
class ModelAgent:
    """Sends *request* to *provider*; each attempt takes *claim*. *redact* takes secrets out of a text.

    *billed* says whether anybody may charge for it, which the simulator does not; *price* what an answer costs, or
    would. *heard* is told what each answer took.
    """

    provider: Provider
    request: Request
    claim: Claim
    redact: Callable[[str], str]
    billed: bool = True
    price: Price = unpriced
    heard: Callable[[Usage], None] = unheard

    async def perform(self, task: Task) -> Outcome:
        async def ask(attempt: Attempt) -> _Answer:
            deltas = 0

            def on_delta(piece: str) -> None:
                nonlocal deltas
                attempt.heard()
                deltas += 1
                if piece or deltas > 1:  # the first, empty one says that a stream begins
                    attempt.speaks()
                if piece and not attempt.hedge:
                    task.on_delta(piece)

            request = self.request
            if (attempt.number, attempt.hedge) != (request.attempt, request.hedge):
                request = replace(request, attempt=attempt.number, hedge=attempt.hedge)
            reply = _checked(await self.provider.complete(request, on_delta), self.request.provider)
            usage = reply.usage
            if usage.cost_usd is None and (cost := self.price(usage)) is not None:
                usage = usage.costing(cost)
            attempt.told(usage, reply.room)
            self.heard(usage)
            return _Answer(reply, usage)

        call = await task.call(ask, self.claim)
        if call.failure is not None or call.result is None:
            usage = MAYBE_BILLED if call.doubtful and self.billed else NO_USAGE
            return Outcome(call.attempts, call.latency_s, failure=call.failure, usage=usage)
        reply, usage = call.result
        return Outcome(
            call.attempts,
            call.latency_s,
            self.redact(reply.text),
            usage=usage + MAYBE_BILLED if call.doubtful and self.billed else usage,
            ttft_s=reply.ttft_s,
            finish_reason=reply.finish_reason,
        )


class _Answer(NamedTuple):
    """What came, and what it took, priced."""

    reply: Reply
    usage: Usage


_COUNTS = {int, NoneType}


def _checked(reply: Any, provider: str) -> Reply:
    """*reply*, if it is one: providers of other packages are foreign code."""
    usage = getattr(reply, "usage", None)
    if isinstance(reply, Reply) and isinstance(reply.text, str) and isinstance(usage, Usage):
        counts = {type(usage.input_tokens), type(usage.output_tokens), type(usage.cached_tokens)}
        if counts <= _COUNTS and isinstance(usage.cost_usd, (Decimal, NoneType)):
            return reply
    message = (
        f"the provider returned {type(reply).__name__}, which is no Reply with Usage in whole tokens and Decimal USD"
    )
    raise FinalError(Failure(ErrorKind.BAD_RESPONSE, message, provider, billed="maybe", final=True))
