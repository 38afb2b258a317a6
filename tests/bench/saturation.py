"""Many calls over loopback through the whole engine and the real SDK: wall and CPU against raw aiohttp and a bare loop.

The server is a process of its own. Rounds alternate, the best of each way counts.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from agentdag.plan.compile import compile_text
from agentdag.providers.registry import provider_types
from agentdag.session import Session
from tests.bench import Figure

ROUNDS = 4
SERVER = """
import sys
sys.path.insert(0, "tests")
from wire import WireServer
server = WireServer(latency_s=float(sys.argv[1])).start()
server.calls = type("Nothing", (list,), {"append": lambda self, call: None})()
print(server.url, flush=True)
sys.stdin.read()
"""


class Cost(NamedTuple):
    """Of one way to make all the calls."""

    wall_s: float
    cpu_s: float


def cost(run: Callable[[], Awaitable[Any]]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    asyncio.run(run())  # type: ignore[arg-type]
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


async def in_slots(cap: int, calls: int, one: Callable[[int], Awaitable[Any]]) -> None:
    slots = asyncio.Semaphore(cap)

    async def held(number: int) -> None:
        async with slots:
            await one(number)

    await asyncio.gather(*(held(number) for number in range(calls)))


def body(number: int) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": f"Say hello {number}"}]}


async def raw(url: str, calls: int, cap: int) -> None:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=cap)) as session:

        async def one(number: int) -> None:
            async with session.post(f"{url}/v1/chat/completions", json=body(number)) as answer:
                assert (await answer.json())["usage"]

        await in_slots(cap, calls, one)


async def bare(url: str, calls: int, cap: int) -> None:
    """The SDK's `post` with plain dictionaries on its aiohttp transport, and nothing else."""
    import httpx2
    import openai

    limits = httpx2.Limits(max_connections=cap, max_keepalive_connections=cap)
    http = openai.DefaultAioHttpClient(timeout=httpx2.Timeout(30), limits=limits)
    client = openai.AsyncOpenAI(api_key="none", base_url=f"{url}/v1", http_client=http, max_retries=0)

    async def one(number: int) -> None:
        answer = await client.post(
            "/chat/completions", cast_to=httpx2.Response, body=body(number), options={"timeout": 30.0}
        )
        assert answer.json()["usage"]

    await in_slots(cap, calls, one)
    await http.aclose()


def measure() -> Iterator[Figure]:
    for calls, cap, latency_s in ((2_000, 100, 0.05), (5_000, 500, 0.0)):
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(latency_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        assert server.stdin is not None
        url = server.stdout.readline().strip()
        nodes = "\n".join(f"  n{number}: {{model: openai/m, prompt: Say hello {number}}}" for number in range(calls))
        provider = f'openai: {{base_url: "{url}/v1", concurrency: {cap}}}'
        text = f"providers: {{{provider}}}\nlimits: {{concurrency: {cap}}}\nnodes:\n{nodes}\n"
        plan = compile_text(text, Path("p.yaml"), provider_types=provider_types()).plan
        assert plan is not None
        ways: dict[str, Callable[[], Awaitable[Any]]] = {
            "aiohttp": lambda: raw(url, calls, cap),  # noqa: B023 - run at once
            "sdk": lambda: bare(url, calls, cap),  # noqa: B023 - likewise
            "agentdag": lambda: Session(plan).run(),  # noqa: B023 - likewise
        }
        rounds: dict[str, list[Cost]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                rounds[name].append(cost(way))
        best = {name: Cost(*(min(each) for each in zip(*costs, strict=True))) for name, costs in rounds.items()}
        ours, sdk, http = best["agentdag"], best["sdk"], best["aiohttp"]
        what = f"{calls} calls of {latency_s * 1000:.0f} ms at cap {cap}"
        over = f"{ours.wall_s / http.wall_s:.2f} times raw aiohttp"
        yield Figure(f"{what}: wall", ours.wall_s / sdk.wall_s, 1.15, f"{ours.wall_s:.2f} s, {over}")
        over = f"{ours.cpu_s / http.cpu_s:.2f} times raw aiohttp"
        yield Figure(f"{what}: CPU", ours.cpu_s / sdk.cpu_s, 1.15, f"{ours.cpu_s / calls * 1000:.2f} ms a call, {over}")
        server.stdin.close()
        server.wait()
