"""500 calls in flight over the real SDKs: client CPU a call, against a bare loop over the same SDK path.

The server is a process of its own, so that only the client's CPU is counted.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from agentdag.plan.compile import compile_text
from agentdag.providers.registry import provider_types
from agentdag.session import Session
from agentdag.views.board import Board
from tests.bench import Figure

CALLS, IN_FLIGHT, ROUNDS = 2_000, 500, 5
SERVER = """
import sys, time
sys.path.insert(0, "tests")
from wire import WireServer
server = WireServer(latency_s=0.05).start()
server.calls = type("Nothing", (list,), {"append": lambda self, call: None})()
print(server.url, flush=True)
sys.stdin.read()
"""


async def bare(sdk: Any, make: Callable[[Any], Any], path: str, body: dict[str, Any]) -> None:
    """The SDK's `post` with plain dictionaries on its aiohttp transport, a semaphore, and nothing else."""
    import httpx2

    limits = httpx2.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    http = sdk.DefaultAioHttpClient(timeout=httpx2.Timeout(30), limits=limits)
    client = make(http)
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one(number: int) -> None:
        async with slots:
            asked = {**body, "messages": [{"role": "user", "content": f"Say hello {number}"}]}
            answer = await client.post(path, cast_to=httpx2.Response, body=asked, options={"timeout": 30.0})
            assert answer.json()["usage"]

    await asyncio.gather(*(one(number) for number in range(CALLS)))
    await http.aclose()


def cpu(run: Callable[[], Awaitable[Any]]) -> float:
    started = time.process_time()
    asyncio.run(run())  # type: ignore[arg-type]
    return (time.process_time() - started) / CALLS


def measure() -> Iterator[Figure]:
    import anthropic
    import openai

    server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    ways: list[tuple[str, str, Any, Callable[[Any], Any], str, dict[str, Any]]] = [
        ("openai", f"{url}/v1", openai, lambda http: openai.AsyncOpenAI(api_key="none", base_url=f"{url}/v1", http_client=http, max_retries=0), "/chat/completions", {"model": "m"}),
        ("anthropic", url, anthropic, lambda http: anthropic.AsyncAnthropic(api_key="none", base_url=url, http_client=http, max_retries=0), "/v1/messages", {"model": "m", "max_tokens": 4096}),
    ]  # fmt: skip
    for name, base, sdk, make, path, body in ways:
        nodes = "\n".join(f"  n{i}: {{model: {name}/m, prompt: Say hello {i}}}" for i in range(CALLS))
        text = f'providers: {{{name}: {{base_url: "{base}"}}}}\nlimits: {{concurrency: {IN_FLIGHT}}}\nnodes:\n{nodes}\n'
        plan = compile_text(text, Path("p.yaml"), provider_types=provider_types()).plan
        assert plan is not None
        ours, theirs = [], []
        for _ in range(ROUNDS):
            theirs.append(cpu(lambda: bare(sdk, make, path, body)))  # noqa: B023 - run at once
            board = Board.of((node.id, node.wave, str(node.model)) for node in plan.nodes)
            ours.append(cpu(Session(plan, observers=(board,)).run))
            assert board.counts["succeeded"] == CALLS
        detail = f"{min(ours) * 1000:.2f} ms a call, bare {min(theirs) * 1000:.2f} ms"
        yield Figure(f"{name}, {IN_FLIGHT} in flight", min(ours) / min(theirs), 1.15, detail)
    assert server.stdin is not None
    server.stdin.close()
    server.wait()
