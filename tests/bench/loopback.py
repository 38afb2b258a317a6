"""Calls over loopback: a server in a process of its own, the pipeline that asks it, and bare loops beside that."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from agentdag.plan.compile import compile_text
from agentdag.plan.plan import Plan
from agentdag.providers.registry import provider_types

SERVER = """
import sys
sys.path.insert(0, "tests")
from wire import WireServer
server = WireServer(latency_s=float(sys.argv[1])).start()
server.calls = type("Nothing", (list,), {"append": lambda self, call: None})()
print(server.url, flush=True)
sys.stdin.read()
"""


class Api(NamedTuple):
    """One of the two protocols: how its SDK's client is made, and what it asks."""

    name: str
    base: str
    """What follows the address of the server."""
    path: str
    client: str
    extra: dict[str, Any]


OPENAI = Api("openai", "/v1", "/chat/completions", "AsyncOpenAI", {})
ANTHROPIC = Api("anthropic", "", "/v1/messages", "AsyncAnthropic", {"max_tokens": 4096})


@contextmanager
def server(latency_s: float) -> Iterator[str]:
    """The address of a server that answers after *latency_s*."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(latency_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()


def siblings(api: Api, url: str, calls: int, cap: int, limits: str = "") -> Plan:
    """So many nodes that need no other, which ask *api* at *url*; *limits* are keys of the provider."""
    nodes = "\n".join(f"  n{number}: {{model: {api.name}/m, prompt: Say hello {number}}}" for number in range(calls))
    provider = f'{api.name}: {{base_url: "{url}{api.base}"{limits}}}'
    text = f"providers: {{{provider}}}\nlimits: {{concurrency: {cap}}}\nnodes:\n{nodes}\n"
    plan = compile_text(text, Path("p.yaml"), provider_types=provider_types()).plan
    assert plan is not None
    return plan


async def _in_slots(cap: int, calls: int, one: Callable[[int], Awaitable[Any]]) -> None:
    slots = asyncio.Semaphore(cap)

    async def held(number: int) -> None:
        async with slots:
            await one(number)

    await asyncio.gather(*(held(number) for number in range(calls)))


def _body(api: Api, number: int) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": f"Say hello {number}"}], **api.extra}


async def by_aiohttp(api: Api, url: str, calls: int, cap: int) -> None:
    """aiohttp alone, and a semaphore."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=cap)) as session:

        async def one(number: int) -> None:
            async with session.post(f"{url}{api.base}{api.path}", json=_body(api, number)) as answer:
                assert (await answer.json())["usage"]

        await _in_slots(cap, calls, one)


async def by_sdk(api: Api, url: str, calls: int, cap: int, *, typed: bool = False) -> None:
    """The SDK on its aiohttp transport, and a semaphore: its `post` with plain dictionaries, or its *typed* method."""
    from importlib import import_module

    import httpx2

    sdk = import_module(api.name)
    limits = httpx2.Limits(max_connections=cap, max_keepalive_connections=cap)
    http = sdk.DefaultAioHttpClient(timeout=httpx2.Timeout(30), limits=limits)
    client = getattr(sdk, api.client)(api_key="none", base_url=f"{url}{api.base}", http_client=http, max_retries=0)

    async def one(number: int) -> None:
        body = _body(api, number)
        if typed:
            create = client.messages.create if api is ANTHROPIC else client.chat.completions.create
            assert (await create(**body)).usage
        else:
            answer = await client.post(api.path, cast_to=httpx2.Response, body=body, options={"timeout": 30.0})
            assert answer.json()["usage"]

    await _in_slots(cap, calls, one)
    await http.aclose()
