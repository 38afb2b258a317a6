"""The built-in simulator: answers without a key, a network or a cent, the same for the same seed.

How long, how much and which failures come from the node's `expect` and `simulate`.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from random import Random

from agentdag.calls import BYTES_PER_TOKEN, OnDelta, Reply, Request, ToolCall, Usage, asked_tokens, size_of
from agentdag.errors import ErrorKind, Failure, call_error
from agentdag.providers.invented import invented

_PIECES = 20
_ECHO = 160
_STATUS = {
    ErrorKind.RATE_LIMIT: 429,
    ErrorKind.OVERLOADED: 529,
    ErrorKind.SERVER: 500,
    ErrorKind.AUTH: 401,
    ErrorKind.QUOTA: 429,
    ErrorKind.TOO_LONG: 400,
    ErrorKind.BAD_REQUEST: 400,
}


class SimulatedProvider:
    """Plays every model. *seed* decides jitter and failures."""

    free = True
    """Nobody charges for it."""

    def __init__(self, name: str = "simulated", seed: int = 0, *, stream: bool | None = None) -> None:
        self._name = name
        self._stream = stream
        self._seed = seed
        self._cached: set[str] = set()
        """What stands in the cache that it plays."""

    async def complete(self, request: Request, on_delta: OnDelta) -> Reply:
        """The answer that `request.rehearsal` asks for; raises CallError where it says so."""
        play = request.rehearsal
        hedge = f":{request.hedge}" if request.hedge else ""
        question = zlib.crc32(request.prompt.encode("utf-8", "surrogatepass"))  # the rows of a batch differ in it
        turn = f":{len(request.history)}" if request.history else ""
        chance = Random(f"{self._seed}:{request.node}:{question}:{request.attempt}{hedge}{turn}")  # noqa: S311 - no secret
        latency_s = play.latency_s / (2 if request.tools else 1) * (1 + play.jitter * chance.uniform(-1, 1))
        failing = self._failing(request, chance)
        loop = asyncio.get_running_loop()
        started = loop.time()
        if failing is not None:
            await asyncio.sleep(latency_s)
            message = f"simulated {failing} in attempt {request.attempt}"
            raise call_error(Failure(failing, message, self._name, _STATUS.get(failing)))
        calls = self._calls(request, chance)
        text = "" if calls else self._text(request, chance)
        read, written = self._cache(request)
        ttft_s = None
        stream = request.stream if self._stream is None else self._stream
        if stream and latency_s > 0:
            on_delta("")
            step = max(1, -(-len(text) // _PIECES))
            pieces = [text[start : start + step] for start in range(0, len(text), step)]
            for number, piece in enumerate(pieces, start=1):
                await _sleep_until(started + latency_s * number / (len(pieces) + 1))
                ttft_s = loop.time() - started if ttft_s is None else ttft_s
                on_delta(piece)
        if latency_s > 0:
            await _sleep_until(started + latency_s)
        most = request.sampling.max_tokens
        made = play.tokens if most is None else min(play.tokens, most)
        usage = Usage(asked_tokens(request), made, read, written_tokens=written)
        finish = "tool_calls" if calls else "stop" if made == play.tokens else "length"
        request_id, cut = f"sim-{request.node}-{request.attempt}", finish == "length"
        return Reply(text, usage, finish, request_id, ttft_s, calls=calls, truncated=cut)

    @staticmethod
    def _calls(request: Request, chance: Random) -> tuple[ToolCall, ...]:
        """In its first turn the model that is played asks for each of its tools once; then it answers."""
        if not request.tools or request.history or request.closing:
            return ()
        return tuple(
            ToolCall(f"call_{number}", tool.name, json.dumps(invented(tool.schema, chance)))
            for number, tool in enumerate(request.tools, start=1)
        )

    def _cache(self, request: Request) -> tuple[int, int]:
        """How many tokens of the prompt are read from the cache, and how many are written to it."""
        if request.cache_key is None:
            return 0, 0
        shared = round(size_of(request.system, request.prompt[: request.lead or 0]) / BYTES_PER_TOKEN)
        known = request.cache_key in self._cached
        self._cached.add(request.cache_key)
        return (shared, 0) if known else (0, shared)

    @staticmethod
    def _failing(request: Request, chance: Random) -> ErrorKind | None:
        play = request.rehearsal
        if request.attempt <= len(play.fail_first):
            return play.fail_first[request.attempt - 1]
        return ErrorKind.SERVER if play.fail_rate and chance.random() < play.fail_rate else None

    @staticmethod
    def _text(request: Request, chance: Random) -> str:
        """The fixed answer, or one of the shape that is asked for, or an echo of what was asked, in short."""
        output = request.rehearsal.output
        if output is not None:
            is_text = isinstance(output, str) and request.form is None
            return output if is_text else json.dumps(output, ensure_ascii=False)
        asked = " ".join(request.prompt[: 4 * _ECHO].split())
        echo = asked if len(asked) <= _ECHO else asked[: _ECHO - 1] + "…"
        told = f"[{request.model}, simulated] {request.node} was asked: {echo}"
        if request.form is None:
            return told
        schema = request.form.schema
        return json.dumps({"simulated": told} if schema is None else invented(schema, chance), ensure_ascii=False)

    async def aclose(self) -> None:
        """Nothing to close."""


async def _sleep_until(when: float) -> None:
    await asyncio.sleep(when - asyncio.get_running_loop().time())
