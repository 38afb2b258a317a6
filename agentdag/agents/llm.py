"""A node that asks a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from agentdag.agents.agent import Outcome, Task
from agentdag.calls import Provider, Reply, Request


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
            return await self.provider.complete(request, task.on_delta)

        call = await task.call(ask, self.lane)
        if call.failure is not None or call.result is None:
            return Outcome(call.attempts, call.latency_s, failure=call.failure)
        reply = call.result
        text = self.redact(reply.text)
        return Outcome(call.attempts, call.latency_s, text, usage=reply.usage, ttft_s=reply.ttft_s)
