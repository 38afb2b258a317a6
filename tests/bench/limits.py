"""Limits over loopback and the real SDK: requests and seconds against a server that enforces them, and its quota used.

100 siblings against ten requests a second, with a burst of ten. A loop over the SDK with its own retries is beside it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from agentdag.session import RunResult, Session
from tests.bench import Figure
from tests.bench.loopback import OPENAI, siblings
from tests.wire import Limits, WireServer

SIBLINGS, A_SECOND = 100, 10
QUOTA_S = 6.0
"""A minute, scaled down to a tenth."""


def run(server: WireServer, calls: int, limits: str = "") -> RunResult:
    return asyncio.run(Session(siblings(OPENAI, server.url, calls, calls, limits)).run())


async def sdk_alone(server: WireServer) -> Counter[str]:
    """All siblings at once on the SDK, with the retries that it makes unless told otherwise."""
    import openai

    client = openai.AsyncOpenAI(api_key="none", base_url=server.openai_url)
    messages: Any = [{"role": "user", "content": "Say hello"}]

    async def one() -> str:
        try:
            await client.chat.completions.create(model="m", messages=messages)
        except openai.RateLimitError:
            return "lost"
        return "answered"

    ended = Counter(await asyncio.gather(*(one() for _ in range(SIBLINGS))))
    await client.close()
    return ended


def measure() -> Iterator[Figure]:
    ways: list[tuple[str, str, dict[str, Any], int, float]] = [
        ("rate declared", ", rpm: 600", {}, 105, 11.0),
        ("undeclared", "", {}, 150, 13.0),
        ("undeclared, Retry-After", "", {"retry_after_s": 1.0}, 150, 13.0),
        ("undeclared, headers", "", {"headers": True}, 150, 13.0),
    ]
    for name, declared, told, requests, seconds in ways:
        server = WireServer(latency_s=0.05, limits=Limits(rate=A_SECOND, burst=A_SECOND, **told)).start()
        result = run(server, SIBLINGS, declared)
        answered = sum(node.status.value == "succeeded" for node in result.nodes.values())
        assert answered == SIBLINGS, answered
        detail = f"{answered} of {SIBLINGS} answered, {result.elapsed_s:.1f} s"
        yield Figure(f"{name}: requests", len(server.calls), requests, detail)
        yield Figure(f"{name}: seconds", result.elapsed_s, seconds, f"{SIBLINGS / A_SECOND:.0f} s at the server's rate")
        server.stop()
    server = WireServer(latency_s=0.05, limits=Limits(rate=A_SECOND, burst=A_SECOND)).start()
    begun = time.monotonic()
    ended = asyncio.run(sdk_alone(server))
    detail = f"{ended['lost']} lost, {len(server.calls)} requests, {time.monotonic() - begun:.1f} s"
    yield Figure("the SDK alone: calls lost", ended["lost"], SIBLINGS, detail)
    server.stop()
    for name, declared in (("declared, headroom 1", ", rpm: 6000, headroom: 1"), ("undeclared", "")):
        rate = 100
        limits = Limits(rate=rate, burst=rate)
        server = WireServer(latency_s=0.05, limits=limits).start()
        assert run(server, round(rate * (QUOTA_S + 2)), declared).ok
        begun = limits.taken_at[0]
        used = sum(at - begun < QUOTA_S for at in limits.taken_at) / (rate * QUOTA_S)
        detail = f"{used:.1%} of {rate} a second, {limits.refused} refused"
        yield Figure(f"{name}: quota of a minute over its use", 1 / used, 1 / 0.97, detail)
        server.stop()
