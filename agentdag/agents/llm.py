"""A node that asks a model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from types import NoneType
from typing import Any, NamedTuple

from agentdag.agents.agent import Outcome, Task
from agentdag.agents.answers import Reader, complaint, objection
from agentdag.agents.thoughts import answered
from agentdag.agents.toolbox import LostToolError, Toolbox
from agentdag.calls import MAYBE_BILLED, NO_USAGE, Exchange, Notice, Provider, Reply, Request, Usage
from agentdag.errors import CallError, ErrorKind, Failure, FinalError, call_error
from agentdag.limits.policy import UNBOUNDED
from agentdag.limits.turn import Attempt, Call, Claim
from agentdag.values import value

Price = Callable[[Usage, str | None], Decimal | None]
"""What a usage costs on a service tier; None where nobody knows."""
FLEX, DEFAULT = "flex", "default"
CUT_FROM = 0.75
"""From this share of the longest answer on, one that was cut was cut there, and not at a limit of the server's own."""


def unpriced(_usage: Usage, _tier: str | None) -> None:
    """Nobody knows."""


def unheard(_usage: Usage) -> None:
    """Nobody learns from it."""


@value(frozen=True, slots=True)
class Terms:
    """On what terms a conversation goes on after its first call.

    The answer must be what *reader* reads, where there is one; the model may ask for *tools*, and answers
    within *max_turns*. *claim* says what a call takes whose request is so many
    bytes longer, *heard* is told what such a one took. *past* are the turns that an earlier life of the run had.
    """

    reader: Reader | None
    claim: Callable[[int], Claim]
    heard: Callable[[int, Usage], None]
    past: tuple[Exchange, ...] = ()
    tools: Callable[[], Awaitable[Toolbox]] | None = None
    max_turns: int = 1


@value(frozen=True, slots=True)
class ModelAgent:
    """Sends *request* to *provider*; each attempt takes *claim*. *redact* takes secrets out of a text.

    *billed* says whether anybody may charge for it, which the simulator does not; *price* what an answer costs, or
    would. *heard* is told what each answer took. With *terms* it may take more than one call to an answer. *limited_by*
    says for which budget's sake the longest answer was set, where the file did not: what that has cut is no answer.
    """

    provider: Provider
    request: Request
    claim: Claim
    redact: Callable[[str], str]
    billed: bool = True
    price: Price = unpriced
    heard: Callable[[Usage], None] = unheard
    terms: Terms | None = None
    limited_by: str | None = None

    async def perform(self, task: Task) -> Outcome:
        if self.terms is not None:
            return await _Conversation(self, task, self.terms).held()
        call = await self.ask(task, self.request, self.claim, self.heard)
        doubt = MAYBE_BILLED if call.doubtful and self.billed else NO_USAGE
        if call.failure is not None or call.result is None:
            return Outcome(call.attempts, call.latency_s, failure=call.failure, usage=_sum(call.spent, doubt))
        reply, usage = call.result
        answer, failure = answered(self.redact(reply.text), reply.reasoning), self.cut(reply)
        return Outcome(
            call.attempts,
            call.latency_s,
            answer.text if failure is None else None,
            failure,
            usage=_sum(_sum(call.spent, usage), doubt),
            ttft_s=reply.ttft_s,
            finish_reason=reply.finish_reason,
            truncated=reply.truncated,
            partial=None if failure is None else answer.text or None,
            reasoning=self.clean(answer.reasoning),
            service_tier=reply.service_tier,
        )

    def clean(self, text: str | None) -> str | None:
        """*text* without secrets."""
        return None if text is None else self.redact(text)

    def cut(self, reply: Reply) -> Failure | None:
        """Why *reply* is no answer, where a budget has cut it; None where that is not so, as of one that the server
        itself has cut long before."""
        if not reply.truncated or self.limited_by is None:
            return None
        most, usage = self.request.sampling.max_tokens or 0, reply.usage
        made = most if usage.estimated or usage.output_tokens is None else usage.output_tokens
        if made < CUT_FROM * most:
            return None
        message = f"the answer was cut at {most:,} tokens: {self.limited_by}"
        return Failure(ErrorKind.BUDGET, message, self.request.provider, billed="yes", final=True)

    def ask(self, task: Task, asks: Request, claim: Claim, heard: Callable[[Usage], None]) -> Awaitable[Call[_Answer]]:
        """One call for *asks*, tried again as the node's policy says."""
        return task.call(_Asking(self, task, asks, heard).attempt, claim)


class _Asking:
    """One request and its attempts. `tier` is the service tier that the next one asks for."""

    __slots__ = ("_agent", "_asks", "_heard", "_task", "_tier")

    def __init__(self, agent: ModelAgent, task: Task, asks: Request, heard: Callable[[Usage], None]) -> None:
        self._agent = agent
        self._task = task
        self._asks = asks
        self._heard = heard
        self._tier = asks.sampling.service_tier

    async def attempt(self, attempt: Attempt) -> _Answer:
        """What came, and what it took; raises CallError."""
        agent, asks, deltas = self._agent, self._asks, 0

        def on_delta(piece: str) -> None:
            nonlocal deltas
            attempt.heard()
            deltas += 1
            if piece or deltas > 1:  # the first, empty one says that a stream begins
                attempt.speaks()
            if piece and not attempt.hedge:
                self._task.on_delta(piece)

        try:
            reply = _checked(await agent.provider.complete(self._request(attempt), on_delta), asks.provider)
        except CallError as error:
            self._leave_flex(error)
            if isinstance(error.usage, Usage):
                attempt.told(self._priced(error.usage, None), error.room)
            raise
        for notice in reply.notices:
            self._task.turn.warned(notice)
        usage = self._priced(reply.usage, reply.service_tier)
        attempt.told(usage, reply.room)
        self._heard(usage)
        if reply.calls and not asks.tools:
            reply = replace(reply, calls=())  # tools that nobody has offered
        if agent.cut(reply) is None and not reply.calls:
            nothing = self._nothing(reply)
            if nothing is not None:
                raise call_error(nothing)
        return _Answer(reply, usage)

    def _priced(self, usage: Usage, tier: str | None) -> Usage:
        """*usage* with its cost on the service *tier* that was given, or asked for."""
        if usage.cost_usd is not None:
            return usage
        cost = self._agent.price(usage, tier or self._tier)
        return usage if cost is None else usage.costing(cost)

    def _nothing(self, reply: Reply) -> Failure | None:
        """Why *reply* is no answer, where there is nothing in it to be read."""
        terms, provider = self._agent.terms, self._asks.provider
        if terms is not None and terms.reader is not None and reply.text.strip():
            return None  # which says itself what is wrong with it
        answer = answered(reply.text, reply.reasoning)
        if answer.text.strip():
            return None
        message = (
            "the answer is empty" if not answer.reasoning else "the answer holds nothing but the model's reasoning"
        )
        if reply.truncated:
            message = "the token limit was reached before any text came: raise `max_tokens`"
        kind, request_id = ErrorKind.BAD_RESPONSE, reply.request_id
        return Failure(kind, message, provider, 200, request_id, billed="maybe", final=reply.truncated)

    def _request(self, attempt: Attempt) -> Request:
        request = self._asks
        if (attempt.number, attempt.hedge) != (request.attempt, request.hedge):
            request = replace(request, attempt=attempt.number, hedge=attempt.hedge)
        if self._tier != request.sampling.service_tier:
            request = replace(request, sampling=replace(request.sampling, service_tier=self._tier))
        return request

    def _leave_flex(self, error: CallError) -> None:
        """Ask for the default tier from now on, where *error* says that flex has no capacity."""
        if self._tier == FLEX and error.failure.kind is ErrorKind.OVERLOADED:
            self._tier = DEFAULT
            who = f"{self._asks.provider}/{self._asks.model}"
            what = "has no capacity for `service_tier: flex`; a retry asks for the default tier, at its full price"
            self._task.turn.warned(Notice(f"{who} {what}"))


MOST_REFUSED = 2
"""So many tool calls that cannot be made are told to the model; with one more the node fails."""


class _Conversation:
    """Model and node, turn by turn, until an answer fits; each turn but the last is kept before the next is made."""

    def __init__(self, agent: ModelAgent, task: Task, terms: Terms) -> None:
        self._agent = agent
        self._task = task
        self._terms = terms
        self._history = terms.past
        self._toolbox: Toolbox | None = None
        self._usage = NO_USAGE
        self._latency_s = 0.0
        self._ttft_s: float | None = None
        self._begun_at = task.turn.attempts_before
        self._answers = False
        """Whether the last call was answered."""

    async def held(self) -> Outcome:
        """What it came to; an answer that does not fit is asked for anew as often as the node's policy says."""
        tries = 0
        while True:
            try:
                await self._open_toolbox()
                outcome = await self._tried()
            except CallError as error:  # a tool's server cannot be reached
                outcome = self._outcome(None, error.failure)
            failure = outcome.failure
            if failure is None or failure.final or failure.kind not in {ErrorKind.INVALID_OUTPUT, ErrorKind.TOOL}:
                return outcome
            tries += 1
            self._task.turn.attempts_before += 1
            refused = await self._task.again(failure, tries, self._agent.claim)
            if refused is not None:
                return outcome._replace(failure=refused)
            if failure.kind is ErrorKind.INVALID_OUTPUT:
                self._history, self._latency_s, self._ttft_s = (), 0.0, None
                self._task.turn.refused = 0

    async def _open_toolbox(self) -> None:
        """Get the tools; an MCP server may still be starting, and nobody waits for it with a slot."""
        if self._terms.tools is not None and self._toolbox is None:
            opened = asyncio.ensure_future(self._terms.tools())
            await asyncio.sleep(0)
            if not opened.done():
                self._task.turn.seat.leave()
            self._toolbox = await opened

    async def _tried(self) -> Outcome:
        """One whole conversation, with one repair at the most."""
        reader = self._terms.reader
        if self._history and len(self._history[-1].results) < len(self._history[-1].calls):
            self._history = (*self._history[:-1], await self._answered(self._history[-1]))
        while True:
            if self._task.turn.refused > MOST_REFUSED:
                told = f"the model asked {self._task.turn.refused} times for tool calls that cannot be made"
                return self._outcome(None, Failure(ErrorKind.TOOL, told, self._agent.request.provider, final=True))
            call = await self._said()
            if call.failure is not None or call.result is None:
                return self._outcome(None, call.failure)
            reply, usage = call.result
            cut = self._agent.cut(reply)
            if cut is not None:
                return self._outcome(None, cut, reply)
            if reply.calls:
                if self._is_last_turn or self._toolbox is None:
                    told = f"no answer within {self._terms.max_turns} turns"
                    return self._outcome(None, Failure(ErrorKind.TOOL, told, final=True), reply)
                asked = Exchange(reply.text, reply.calls, raw=reply.raw, truncated=reply.truncated)
                await self._keep(asked, usage)
                self._history = (*self._history[:-1], await self._answered(asked))
                continue
            if reader is None:
                return self._outcome(answered(self._agent.redact(reply.text)).text, None, reply)
            read = None if reply.truncated else reader.text(self._agent.redact(reply.text))
            if read is not None and not read.errors:
                return self._outcome(read.value, None, reply)
            if read is None or self._is_as_long_as_it_may_be(usage):  # some servers do not say that they have cut it
                return self._outcome(None, self._cut_short(usage), reply)
            if any(exchange.told is not None for exchange in self._history):
                why = Failure(ErrorKind.INVALID_OUTPUT, complaint(read.errors), self._agent.request.provider)
                return self._outcome(None, replace(why, billed="yes"), reply)
            await self._keep(Exchange(reply.text, told=objection(read.errors, reader.form), raw=reply.raw), usage)

    def _is_as_long_as_it_may_be(self, usage: Usage) -> bool:
        most = self._agent.request.sampling.max_tokens
        return most is not None and not usage.estimated and (usage.output_tokens or 0) >= most

    def _cut_short(self, usage: Usage) -> Failure:
        """Why an answer that was cut is none where JSON was asked for; asking again would meet the same limit."""
        most = self._agent.request.sampling.max_tokens
        limit = "the model's own token limit"
        if most is not None and not self._agent.request.bounded:
            limit = f"`max_tokens: {most:,}`"
        message = (
            f"the answer was cut at {limit} after {usage.output_tokens or 0:,} tokens, so that it is no whole JSON:"
            " raise `max_tokens`, or ask for less"
        )
        return Failure(ErrorKind.INVALID_OUTPUT, message, self._agent.request.provider, billed="yes", final=True)

    @property
    def _is_last_turn(self) -> bool:
        """Whether the model has to answer now."""
        return sum(bool(exchange.calls) for exchange in self._history) + 1 >= self._terms.max_turns

    async def _answered(self, exchange: Exchange) -> Exchange:
        """*exchange* with the results of the tools that the model asks for."""
        assert self._toolbox is not None
        self._task.governor.go_on()
        self._task.turn.seat.leave()  # the tools need slots of their own
        begun = time.monotonic()
        try:
            results = await self._toolbox.run(exchange, self._task)
        except LostToolError as lost:  # the calls beside it are not made again
            self._history = (*self._history[:-1], replace(exchange, results=lost.results))
            raise call_error(lost.failure) from lost
        took_s = time.monotonic() - begun
        self._latency_s += took_s
        if self._task.turn.allowance is not UNBOUNDED:
            self._task.turn.allowance.spend(took_s)
        return replace(exchange, results=results)

    async def _said(self) -> Call[_Answer]:
        """The model's next turn."""
        agent, turn, terms = self._agent, self._task.turn, self._terms
        request, claim, heard = agent.request, agent.claim, agent.heard
        turn.step = len(self._history) + 1
        if self._history:
            self._task.governor.go_on()
        if self._history or self._toolbox is not None:
            longer = sum(exchange.size for exchange in self._history)
            longer += 0 if self._toolbox is None else self._toolbox.size
            request = replace(request, history=self._history)
            claim, heard = terms.claim(longer), partial(terms.heard, longer)
        if self._toolbox is not None:
            request = replace(request, tools=self._toolbox.forms, closing=self._is_last_turn)
        call = await agent.ask(self._task, request, claim, heard)
        self._answers = call.failure is None
        turn.attempts_before += call.attempts - self._answers
        self._usage = _sum(self._usage, call.spent)
        if call.doubtful and agent.billed:
            self._usage += MAYBE_BILLED
        if call.result is not None:
            self._usage += call.result.usage
            self._latency_s += call.latency_s
            self._ttft_s = call.result.reply.ttft_s if self._ttft_s is None else self._ttft_s
        else:
            self._latency_s = call.latency_s
        return call

    async def _keep(self, exchange: Exchange, usage: Usage) -> None:
        """*exchange* is over: on record before the conversation goes on."""
        self._history = (*self._history, exchange)
        await self._task.turn.exchanged(exchange, usage)

    def _outcome(self, output: Any, failure: Failure | None, reply: Reply | None = None) -> Outcome:
        done = self._task.turn.attempts_before - self._begun_at + self._answers
        whole = Outcome(done, self._latency_s, output, failure, self._usage, self._ttft_s)
        if reply is None:
            return whole
        answer = answered(self._agent.redact(reply.text), reply.reasoning)
        return whole._replace(
            finish_reason=reply.finish_reason,
            truncated=reply.truncated,
            partial=answer.text or None if failure is not None and reply.truncated else None,
            reasoning=self._agent.clean(answer.reasoning),
            service_tier=reply.service_tier,
        )


class _Answer(NamedTuple):
    """What came, and what it took, priced."""

    reply: Reply
    usage: Usage


def _sum(one: Usage, other: Usage) -> Usage:
    """Both together; what is nothing costs nothing to add."""
    return one if other is NO_USAGE else one + other


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
