"""A node that asks a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from types import NoneType
from typing import Any

from agentdag.agents.agent import Outcome, Task
from agentdag.calls import NO_USAGE, Provider, Reply, Request, Usage
from agentdag.errors import ErrorKind, Failure, FinalError

_UNKNOWN_COST = Usage(0, 0, 0, None, estimated=True)
"""Of an attempt that failed and may have been billed: no tokens are known, and neither is the cost."""


@dataclass(frozen=True, slots=True)
class ModelAgent:
    """Sends *request* to *provider*. *lane* names the model on its key; *redact* takes secrets out of a text."""

    provider: Provider
    request: Request
    lane: str
    redact: Callable[[str], str]

    async def perform(self, task: Task) -> Outcome:
        async def ask(attempt: int) -> Reply:
            request = self.request if attempt == 1 else replace(self.request, attempt=attempt)
            reply = await self.provider.complete(request, task.on_delta)
            return _checked(reply, self.lane.partition("/")[0])

        call = await task.call(ask, self.lane)
        if call.failure is not None or call.result is None:
            usage = _UNKNOWN_COST if call.doubtful else NO_USAGE
            return Outcome(call.attempts, call.latency_s, failure=call.failure, usage=usage)
        reply = call.result
        return Outcome(
            call.attempts,
            call.latency_s,
            self.redact(reply.text),
            usage=reply.usage + _UNKNOWN_COST if call.doubtful else reply.usage,
            ttft_s=reply.ttft_s,
            finish_reason=reply.finish_reason,
        )


def _checked(reply: Any, provider: str) -> Reply:
    """*reply*, if it is one: providers of other packages are foreign code."""
    usage = getattr(reply, "usage", None)
    if isinstance(reply, Reply) and isinstance(reply.text, str) and isinstance(usage, Usage):
        counts = (usage.input_tokens, usage.output_tokens, usage.cached_tokens)
        if all(isinstance(n, (int, NoneType)) for n in counts) and isinstance(usage.cost_usd, (Decimal, NoneType)):
            return reply
    message = (
        f"the provider returned {type(reply).__name__}, which is no Reply with Usage in whole tokens and Decimal USD"
    )
    raise FinalError(Failure(ErrorKind.BAD_RESPONSE, message, provider, billed="maybe", final=True))
