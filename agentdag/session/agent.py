"""A model with a prompt, for Python code that has no pipeline: an async callable, which a pool runs as the engine
runs its nodes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from random import Random
from typing import Any

from agentdag.agents.agent import Task
from agentdag.agents.llm import ModelAgent, unpriced
from agentdag.calls import NO_USAGE, Provider, Request, Sampling, Usage
from agentdag.errors import TRANSIENT, UsageError, call_error
from agentdag.language.scalars import MODEL_NAME
from agentdag.language.spec import ProviderSpec
from agentdag.language.templates import Template
from agentdag.limits.governor import Governor, Turn
from agentdag.limits.policy import Policy, RetryBudget, Timeout
from agentdag.limits.pool import AgentPool
from agentdag.limits.rates import Lane, Quotas
from agentdag.limits.slots import Seat
from agentdag.plan.nodes import model_ref
from agentdag.providers import registry
from agentdag.providers.http import SharedHttp
from agentdag.providers.settings import Secrets, Settings
from agentdag.providers.simulated import SimulatedProvider
from agentdag.session.money import PriceList

MOST_CONNECTIONS = 1000
RETRIES_OF_AN_AGENT = 1_000_000
"""A pool has no end at which its nodes could be counted: each call's own `retries` bounds it."""


class Agent:
    """Asks *model* (`provider/name`) with *prompt*, a template over `input`: a text, or a mapping whose parts it reads.

    `await agent("...")` gives the answer's text, and raises CallError where it failed for good. In an `AgentPool` it
    gives its slot back while it waits for a rate or a retry. `usage` is of all its calls. Raises UsageError where the
    model or the prompt is wrong, or a key is missing.
    """

    def __init__(  # noqa: PLR0913 - what a node of a pipeline may say
        self,
        model: str,
        prompt: str = "{{ input }}",
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        timeout: float = 600.0,
        retries: int = 2,
        base_url: str | None = None,
        rpm: int | None = None,
        tpm: int | None = None,
    ) -> None:
        if not MODEL_NAME.fullmatch(model):
            raise UsageError(f"{model} names no model", hint="write provider/name, such as openai/gpt-5-mini")
        self.model = model_ref(model)
        self._prompt = _checked(prompt)
        self._system = None if system is None else _checked(system)
        self._sampling = Sampling(max_tokens=max_tokens, temperature=temperature)
        self._policy = Policy(Timeout(timeout), retries, 1.0, 60.0, TRANSIENT)
        self._spec = ProviderSpec(base_url=base_url, type=None if base_url is None else _type_of(self.model.provider))
        self._quotas = Quotas(rpm=rpm, tpm=tpm)
        self._prices = PriceList({self.model.provider: self._spec})
        self._provider: Provider | None = None
        self._http: SharedHttp | None = None
        self._secrets = Secrets()
        self._own: AgentPool | None = None
        self.usage: Usage = NO_USAGE

    async def __call__(self, input: Any = None) -> str:  # noqa: A002 - as templates call it
        """The answer where the prompt's `input` is *input*."""
        self._own = self._own or AgentPool(MOST_CONNECTIONS)
        return await self._own.submit(self, input)

    async def in_pool(self, pool: AgentPool, seat: Seat, input: Any = None) -> str:  # noqa: A002 - likewise
        """The answer, asked from a pool's *seat*."""
        seen: Mapping[str, Any] = {"input": input}
        name = str(self.model)
        provider = self._made(pool)
        request = Request(
            node="agent",
            attempt=1,
            model=self.model.name,
            prompt=self._prompt.render(seen),
            system=None if self._system is None else self._system.render(seen),
            sampling=self._sampling,
            timeout_s=self._policy.attempt_s,
            provider=self.model.provider,
        )
        learns = not isinstance(provider, SimulatedProvider)
        lane = pool.lane(name, lambda: Lane(self._quotas, learns=learns))
        governor = Governor(pool.slots, Random(), RetryBudget(RETRIES_OF_AN_AGENT), lanes=lambda _: lane)  # noqa: S311 - no secret in it
        prices = self._prices(self.model)
        asked = ModelAgent(
            provider, request, name, self._secrets.redact, price=unpriced if prices is None else prices.of
        )
        outcome = await asked.perform(Task("agent", governor, Turn(self._policy, seat), lambda _: None))
        self.usage += outcome.usage
        if outcome.failure is not None:
            raise call_error(outcome.failure)
        return str(outcome.output)

    def _made(self, pool: AgentPool) -> Provider:
        """The provider, which lasts until the pool that asked for it first is left."""
        if self._provider is None:
            self._http = SharedHttp(MOST_CONNECTIONS)
            kind = self._spec.type or self.model.provider
            if kind == registry.SIMULATED:
                self._provider = SimulatedProvider()
            else:
                known = registry.provider_types()
                if kind not in known:
                    raise UsageError(f"there is no provider `{kind}`", hint=f"known are {', '.join(sorted(known))}")
                settings = Settings(
                    name=self.model.provider,
                    type=kind,
                    http=self._http,
                    secrets=self._secrets,
                    environment=os.environ,
                    base_url=self._spec.base_url,
                )
                self._provider = registry.create(settings)
            pool.when_left(self.aclose)
        return self._provider

    async def aclose(self) -> None:
        """Close its connections; the next call opens new ones."""
        provider, http, self._provider, self._http = self._provider, self._http, None, None
        if provider is not None:
            await provider.aclose()
        if http is not None:
            await http.aclose()


def _checked(text: str) -> Template:
    template = Template(text, frozenset({"input"}))
    if template.problems:
        problem = template.problems[0]
        raise UsageError(f"the prompt is wrong: {problem.message}", hint=problem.hint)
    return template


def _type_of(provider: str) -> str:
    return provider if provider in registry.provider_types() else "openai"
