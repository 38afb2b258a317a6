"""A model with a prompt, for Python code that has no pipeline: an async callable, which a pool runs as the engine
runs its nodes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import partial
from random import Random
from typing import Any
from weakref import WeakKeyDictionary

from agentdag.agents.agent import Task
from agentdag.agents.llm import ModelAgent, unpriced
from agentdag.calls import NO_USAGE, Notice, Provider, Request, Sampling, Usage, size_of
from agentdag.errors import TRANSIENT, UsageError, call_error
from agentdag.language.scalars import MODEL_NAME
from agentdag.language.spec import ProviderSpec
from agentdag.language.templates import Template
from agentdag.limits.estimates import Estimates
from agentdag.limits.governor import Governor
from agentdag.limits.policy import Policy, RetryBudget, Timeout
from agentdag.limits.pool import AgentPool, above_zero, at_least
from agentdag.limits.rates import Lane, Quotas
from agentdag.limits.slots import Seat
from agentdag.limits.turn import Claim, Turn
from agentdag.plan.nodes import model_ref
from agentdag.providers import registry
from agentdag.providers.http import SharedHttp
from agentdag.providers.settings import Secrets, Settings
from agentdag.providers.simulated import SimulatedProvider
from agentdag.session.money import PriceList

MOST_CONNECTIONS = 1000
_LOG = logging.getLogger("agentdag")
RETRIES_OF_AN_AGENT = 1_000_000
"""A pool has no end at which its nodes could be counted: each call's own `retries` bounds it."""


class _Home:
    """What an agent has in one pool: a provider, closed when the pool is left, a door to it, and its limits."""

    def __init__(self, provider: Provider, http: SharedHttp, governor: Governor, lane: Lane) -> None:
        self.provider = provider
        self.governor = governor
        self.lane = lane
        self._http = http

    async def aclose(self) -> None:
        self.governor.deadlines.close()
        await self.provider.aclose()
        await self._http.aclose()


class Agent:
    """Asks *model* (`provider/name`) with *prompt*, a template over `input`: a text, or a mapping whose parts it reads.

    `await agent("...")` gives the answer's text, and raises CallError where it failed for good. In an `AgentPool` it
    gives its slot back while it waits for a rate or a retry. `usage` is of all its calls. Raises UsageError where the
    model, the prompt or a number is wrong; the first call does where a key is missing.
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
        for name, value, least in (
            ("max_tokens", max_tokens, 1),
            ("retries", retries, 0),
            ("rpm", rpm, 1),
            ("tpm", tpm, 1),
        ):
            at_least(name, value, least)
        above_zero("timeout", timeout)
        self.model = model_ref(model)
        self._prompt = _checked(prompt)
        self._system = None if system is None else _checked(system)
        self._sampling = Sampling(max_tokens=max_tokens, temperature=temperature)
        self._policy = Policy(Timeout(timeout), retries, 1.0, 60.0, TRANSIENT)
        self._kind = self.model.provider if base_url is None else _type_of(self.model.provider)
        if self._kind not in registry.provider_types():
            known = ", ".join(sorted(registry.provider_types()))
            raise UsageError(f"there is no provider `{self._kind}`", hint=f"known are {known}")
        if base_url is not None and not base_url.startswith(("http://", "https://")):
            raise UsageError(f"base_url {base_url} is no address", hint="begin with https:// or http://")
        self._base_url = base_url
        self._quotas = Quotas(rpm=rpm, tpm=tpm)
        self._price = PriceList({self.model.provider: ProviderSpec(type=self._kind)})(self.model)
        self._secrets = Secrets()
        self._homes: WeakKeyDictionary[AgentPool, _Home] = WeakKeyDictionary()
        self._estimates = Estimates()
        self._lanes: dict[str, Lane] = {}
        """Of its calls outside of any pool."""
        self.usage: Usage = NO_USAGE

    async def __call__(self, input: Any = None) -> str:  # noqa: A002 - as templates call it
        """The answer where the prompt's `input` is *input*; calls in one `AgentPool` share their connections too."""
        async with AgentPool(1, lanes=self._lanes) as pool:
            return await pool.submit(self, input)

    async def in_pool(self, pool: AgentPool, seat: Seat, input: Any = None) -> str:  # noqa: A002 - likewise
        """The answer, asked from a *seat* of *pool*."""
        seen: Mapping[str, Any] = {"input": input}
        name = str(self.model)
        home = self._homes.get(pool) or self._moved_into(pool, name)
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
        size = size_of(request.prompt, request.system)
        expected = min(self._sampling.max_tokens or request.rehearsal.tokens, request.rehearsal.tokens)
        asked = ModelAgent(
            home.provider,
            request,
            Claim(name, home.lane, self._estimates.need("agent", name, size, expected)),
            self._secrets.redact,
            price=unpriced if self._price is None else self._price.of,
            heard=partial(self._estimates.learn, "agent", name, size),
        )
        outcome = await asked.perform(Task("agent", home.governor, _LoggedTurn(self._policy, seat), lambda _: None))
        self.usage += outcome.usage
        if outcome.failure is not None:
            raise call_error(outcome.failure)
        if outcome.truncated:
            _LOG.warning("an answer of %s was cut at its token limit: raise `max_tokens`", name)
        return str(outcome.output)

    def _moved_into(self, pool: AgentPool, name: str) -> _Home:
        """A home in *pool*, until that is left; raises UsageError where a key is missing, or limits contradict."""
        http = SharedHttp(min(MOST_CONNECTIONS, pool.slots.cap))
        provider: Provider
        if self._kind == registry.SIMULATED:
            provider = SimulatedProvider()
        else:
            settings = Settings(
                name=self.model.provider,
                type=self._kind,
                http=http,
                secrets=self._secrets,
                environment=os.environ,
                base_url=self._base_url,
            )
            provider = registry.create(settings)
        lane = pool.lane(f"{name} at {self._base_url}", self._quotas, learns=self._kind != registry.SIMULATED)
        chance = Random()  # noqa: S311 - no secret in it
        governor = Governor(pool.slots, chance, RetryBudget(RETRIES_OF_AN_AGENT))
        home = self._homes[pool] = _Home(provider, http, governor, lane)
        pool.when_left(home.aclose)
        return home


class _LoggedTurn(Turn):
    """A call outside of any run: what is not quite as it was asked for goes to the log."""

    __slots__ = ()

    def warned(self, notice: Notice) -> None:
        _LOG.warning("%s", notice.message)


def _checked(text: str) -> Template:
    template = Template(text, frozenset({"input"}))
    if template.problems:
        problem = template.problems[0]
        raise UsageError(f"the prompt is wrong: {problem.message}", hint=problem.hint)
    return template


def _type_of(provider: str) -> str:
    return provider if provider in registry.provider_types() else "openai"
