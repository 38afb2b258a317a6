"""The one way from a request to a reply, whatever the protocol: asked, corrected once where agentdag's own choice was
refused, read, and judged.

A protocol is a `Wire`: it writes bodies and reads answers, and does no I/O.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from agentdag.calls import Notice, OnDelta, Reply, Request, ToolCall, Usage, asked_tokens, estimate_tokens
from agentdag.errors import CallError, ErrorKind, Failure, call_error
from agentdag.providers.addresses import MISSING, mend_of_address
from agentdag.providers.dialect import MOST_CORRECTIONS, Correction, Dialect, Rule, correction_for
from agentdag.providers.finish import CALLS, Finish, meaning_of
from agentdag.providers.proxies import proxy_of
from agentdag.providers.sdk import DONE, SdkClient, Told, count, paired
from agentdag.providers.settings import Settings
from agentdag.providers.structured import answer_among

MOST_QUOTED = 500


class Counted(NamedTuple):
    """Token counts as a server gives them; None where it gives none."""

    input: int | None = None
    output: int | None = None
    cached: int = 0
    written: int = 0
    reasoning: int = 0


UNCOUNTED = Counted()


def counted_as(usage: Any, asked: str, made: str) -> Counted:
    """What *usage* counts in one of OpenAI's protocols, which name what was *asked* and what was *made* differently."""
    told = usage if isinstance(usage, dict) else {}
    of_asked, of_made = told.get(f"{asked}_tokens_details"), told.get(f"{made}_tokens_details")
    of_asked, of_made = (each if isinstance(each, dict) else {} for each in (of_asked, of_made))
    return Counted(
        count(told.get(f"{asked}_tokens")),
        count(told.get(f"{made}_tokens")),
        count(of_asked.get("cached_tokens")) or 0,
        count(of_asked.get("cache_write_tokens")) or 0,
        count(of_made.get("reasoning_tokens")) or 0,
    )


@dataclass(slots=True)
class Said:
    """What a model said in one answer."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    raw: Any = None
    """In the form in which it goes back to the model, where that says more than `text` and `calls`."""
    reason: str | None = None
    """Why it stopped, in the server's word; None where the server gives none."""
    ended: bool = False
    """Whether the server said that this is all."""
    refusal: str = ""
    reasoning: str = ""
    counted: Counted = UNCOUNTED
    service_tier: str | None = None
    notices: tuple[Notice, ...] = ()


class NoAnswerError(Exception):
    """What came is no answer: why."""


class ServerError(Exception):
    """The answer tells of an error: `body` is what it says."""

    def __init__(self, body: Any) -> None:
        super().__init__(body)
        self.body = body


_UNREADABLE = (NoAnswerError, ServerError, TypeError, ValueError, KeyError, AttributeError, IndexError)
"""What a reader raises of an answer that is none, the last ones where a value has not the type that it should have."""


class Reader(Protocol):
    """Reads one answer: as a whole, or event by event. Raises NoAnswerError or ServerError."""

    def whole(self, answer: Mapping[str, Any]) -> Said: ...

    def take(self, event: Mapping[str, Any]) -> str | None:
        """Take in an event; returns the text that it brings, the empty text where it brings anything else that the
        model made, None where it brings nothing of the model's."""

    def said(self) -> Said: ...


class Wire(Protocol):
    """One protocol."""

    path: str
    rules: Sequence[Rule]

    def body(self, request: Request, dialect: Dialect, *, stream: bool) -> dict[str, Any]:
        """What is sent."""

    def headers(self, request: Request) -> Mapping[str, str] | None:
        """Headers of this request alone, if it needs any."""

    def reader(self, request: Request, dialect: Dialect) -> Reader: ...


class WireProvider:
    """Models behind one or more protocols of one server."""

    def __init__(self, settings: Settings, dialect: Dialect) -> None:
        self._settings = settings
        self._dialect = dialect
        self._dialects: dict[tuple[str, str], Dialect] = {}
        """By protocol and model, where a correction has been made."""
        self._reported: set[tuple[str, str]] = set()

    @property
    def base_url(self) -> str:
        """Where its server is."""
        raise NotImplementedError

    async def models(self, timeout_s: float) -> list[str] | None:
        """The models that its server lists; None where there is no such list. Raises CallError."""
        raise NotImplementedError

    def _way(self, request: Request) -> tuple[SdkClient, Wire]:
        """By which client and which protocol *request* goes."""
        raise NotImplementedError

    async def complete(self, request: Request, on_delta: OnDelta) -> Reply:
        """The answer to *request*; streamed where it says so. Raises CallError only."""
        client, wire = self._way(request)
        stream = request.stream if self._settings.stream is None else self._settings.stream
        key = (wire.path, request.model)
        dialect = self._dialects.get(key, self._dialect)
        made: list[Correction] = []
        tried = {dialect}
        first: CallError | None = None
        while True:
            body = wire.body(request, dialect, stream=stream)
            reader, headers = wire.reader(request, dialect), wire.headers(request)
            try:
                if stream:
                    reply = await self._streamed(client, wire, request, body, reader, on_delta)
                else:
                    answer, told = await client.post(wire.path, body, request.timeout_s, headers)
                    reply = self._read(client, request, answer, reader, told)
            except CallError as error:
                correction = None
                if _is_refusal(error) and len(made) < MOST_CORRECTIONS:
                    written = request.sampling.params
                    correction = correction_for(wire.rules, dialect, body, error.refusal, self._settings, written)
                same = correction is not None and wire.body(request, correction.dialect, stream=stream) == body
                if correction is None or correction.dialect in tried or same:
                    refusal = first if correction is not None and first is not None else error
                    raise self._explained(refusal, client, wire, request) from error
                first = first or error
                made.append(correction)
                dialect = correction.dialect
                tried.add(dialect)
            else:
                return self._learned(reply, key, dialect, made)

    def _learned(self, reply: Reply, key: tuple[str, str], dialect: Dialect, made: Sequence[Correction]) -> Reply:
        """*reply*, with a notice of each correction that nobody has reported yet."""
        if not made:
            return reply
        self._dialects[key] = dialect
        notices = []
        for correction in made:
            known = (key[1], correction.message)
            if known not in self._reported:
                self._reported.add(known)
                notices.append(Notice(f"{self._settings.name}/{key[1]} {correction.message}", correction.line))
        return replace(reply, notices=(*reply.notices, *notices))

    def _read(
        self, client: SdkClient, request: Request, answer: dict[str, Any] | Iterator[Any], reader: Reader, told: Told
    ) -> Reply:
        """What came in one body: an object, or the events of a stream that nobody has asked for."""
        whole = isinstance(answer, dict)
        try:
            said = reader.whole(answer) if isinstance(answer, dict) else _read(reader, answer)
        except _UNREADABLE as error:
            raise self._no_answer(client, error, told) from error
        return self._reply(client, request, said, told, None, whole=whole)

    async def _streamed(
        self,
        client: SdkClient,
        wire: Wire,
        request: Request,
        body: dict[str, Any],
        reader: Reader,
        on_delta: OnDelta,
    ) -> Reply:
        started, ttft_s, ended = time.monotonic(), None, False
        async with client.stream(wire.path, body, request.timeout_s, wire.headers(request)) as incoming:
            told = incoming.told
            on_delta("")
            try:
                answer = await incoming.read()
                if isinstance(answer, dict):
                    return self._reply(client, request, reader.whole(answer), told, None, whole=True)
                async for event in answer:
                    if event is DONE:
                        ended = True
                        continue
                    piece = reader.take(event)
                    if piece:
                        ttft_s = time.monotonic() - started if ttft_s is None else ttft_s
                    if piece is not None:
                        on_delta(piece)
                said = reader.said()
            except _UNREADABLE as error:
                raise self._no_answer(client, error, told) from error
        said.ended |= ended
        return self._reply(client, request, said, told, ttft_s, whole=False)

    @staticmethod
    def _no_answer(client: SdkClient, error: Exception, told: Told) -> CallError:
        if isinstance(error, ServerError):
            return client.error(error.body, told, billed=True)
        if isinstance(error, NoAnswerError):
            return client.fail(str(error), told.request_id)
        return client.fail(f"the answer has not the shape that is expected: {error}", told.request_id)

    def _reply(
        self, client: SdkClient, request: Request, said: Said, told: Told, ttft_s: float | None, *, whole: bool
    ) -> Reply:
        """What was *said*, if it is an answer; *whole* where it came in one body."""
        try:
            return self._judged(client, request, said, told, ttft_s, whole=whole)
        except CallError as error:
            if said.counted.output is not None:
                error.usage = _usage(said.counted, request, said)
            raise

    def _judged(
        self, client: SdkClient, request: Request, said: Said, told: Told, ttft_s: float | None, *, whole: bool
    ) -> Reply:
        name, own = self._settings.name, self._settings.finish_reasons
        if said.refusal:
            raise self._refused(said.refusal, told)
        if said.reason is None and not (whole or said.ended):
            raise client.fail(
                "the stream broke off: it ended without a reason and without its end mark", told.request_id
            )
        finish = Finish.WHOLE if said.reason is None else meaning_of(said.reason, own)
        if finish is Finish.REFUSED:
            words = f", after: {said.text}" if said.text.strip() else ""
            raise self._refused(f"the answer was stopped by a filter (`{said.reason}`){words}", told)
        if finish is None:
            raise client.fail(
                f"the answer stopped for `{said.reason}`, a word that agentdag does not know; if it means that the"
                f" answer is whole, write `providers: {{{name}: {{finish_reasons: {{{said.reason}: stop}}}}}}`",
                told.request_id,
                final=True,
            )
        if finish is Finish.BROKEN:
            raise client.fail(f"the server broke off its answer: {said.reason}", told.request_id)
        text, calls, raw = paired(said.text), said.calls, said.raw
        if request.form is not None and (given := answer_among(calls, request.form)) is not None:
            text, calls, raw = given, (), None
        cut, notices = finish is Finish.CUT, said.notices
        if request.tools and not said.calls and said.reason in CALLS:
            words = f"{request.provider}/{request.model} says that it calls tools (`{said.reason}`), and calls none"
            notices = (*notices, Notice(words))
        if not text.strip() and not calls and not cut:
            raise client.fail("the answer is empty", told.request_id)
        return Reply(
            text,
            _usage(said.counted, request, said),
            said.reason or "stop",
            told.request_id,
            ttft_s,
            told.room,
            calls,
            raw,
            truncated=cut,
            reasoning=paired(said.reasoning) or None,
            service_tier=said.service_tier,
            notices=notices,
        )

    def _refused(self, message: str, told: Told) -> CallError:
        name = self._settings.name
        failure = Failure(ErrorKind.REFUSED, message[:MOST_QUOTED], name, 200, told.request_id, billed="yes")
        return call_error(failure)

    def _explained(self, error: CallError, client: SdkClient, wire: Wire, request: Request) -> CallError:
        """*error*; where the request was refused, with the address and the key of the file that was."""
        failure = error.failure
        if failure.kind is ErrorKind.CONNECTION and (proxy := proxy_of(client.base_url)) is not None:
            error.failure = replace(failure, message=f"{failure.message} ({proxy.words})")
        if failure.kind not in {ErrorKind.BAD_REQUEST, ErrorKind.AUTH} and failure.status not in MISSING:
            return error
        url = f"{client.base_url}{wire.path}"
        keys = [key for key in _keys(request) if _is_named(key, error.refusal)]
        parts = [failure.message, f"(at {url})"]
        if keys:
            parts.append(f"- the file says {' and '.join(f'`{key}`' for key in keys)}")
        mend = mend_of_address(self._settings, client.base_url, wire.path, failure)
        if mend is not None:
            parts.append(f"- {mend}")
        error.failure = replace(failure, message=" ".join(parts))
        return error

    async def aclose(self) -> None:
        """Nothing to close: the HTTP client is the run's."""


def _read(reader: Reader, events: Iterator[Any]) -> Said:
    """What a stream says that came whole."""
    ended = False
    for event in events:
        if event is DONE:
            ended = True
        else:
            reader.take(event)
    said = reader.said()
    said.ended |= ended
    return said


def _is_refusal(error: CallError) -> bool:
    """Whether a server has refused the request itself; some say so with a status of their own trouble."""
    kind, status = error.failure.kind, error.failure.status
    return bool(error.refusal) and (
        kind is ErrorKind.BAD_REQUEST or (kind is ErrorKind.SERVER and status in {500, 501}) or status == 422
    )


def _keys(request: Request) -> list[str]:
    """The parameters that the file says, under the names that it has for them."""
    said = request.sampling.said()
    params = said.pop("params", {})
    if request.bounded:
        said.pop("max_tokens", None)
    if request.sampling.service_tier is not None:
        said["service_tier"] = request.sampling.service_tier
    return [*said, *(f"params.{key}" for key in params)]


_WIRE_NAMES = {
    "max_tokens": ("max_tokens", "max_completion_tokens", "max_output_tokens"),
    "stop": ("stop", "stop_sequences"),
    "reasoning_effort": ("reasoning_effort", "reasoning", "effort"),
    "thinking": ("thinking", "budget_tokens"),
}


def _is_named(key: str, refusal: str) -> bool:
    names = _WIRE_NAMES.get(key, (key.removeprefix("params."),))
    return any(f"{quote}{name}{end}" in refusal for name in names for quote in "'\"`." for end in "'\"`.,: ")


def _usage(counted: Counted, request: Request, said: Said) -> Usage:
    """Tokens as counted; estimated from the texts where the server counted none."""
    if counted.input is None or counted.output is None:
        made = estimate_tokens(said.text + said.reasoning + "".join(call.arguments for call in said.calls))
        return Usage(asked_tokens(request), made, 0, estimated=True)
    return Usage(
        counted.input,
        counted.output,
        counted.cached,
        written_tokens=counted.written,
        reasoning_tokens=counted.reasoning,
    )
