"""Many calls over loopback through the whole engine and the real SDK: wall and CPU against a bare loop over the SDK.

The bare loop takes the cheapest way through the SDK, as agentdag does; a loop over its typed method, which most people
write, and raw aiohttp stand beside it. The server is a process of its own. Rounds alternate, the best of each counts.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

from agentdag.cli.main import GARBAGE_EVERY
from agentdag.session import Session
from agentdag.views.board import Board
from tests.bench import Figure
from tests.bench.loopback import ANTHROPIC, OPENAI, Api, by_aiohttp, by_sdk, server, siblings

ROUNDS = 5
BOUND = 1.15


class Cost(NamedTuple):
    """Of one way to make all the calls."""

    wall_s: float
    cpu_s: float


def cost(run: Callable[[], Awaitable[Any]]) -> Cost:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    asyncio.run(run())  # type: ignore[arg-type]
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def measure() -> Iterator[Figure]:
    threshold = gc.get_threshold()
    gc.set_threshold(GARBAGE_EVERY)  # as in the command
    for api, calls, cap, latency_s in (
        (OPENAI, 2_000, 100, 0.05),
        (OPENAI, 5_000, 500, 0.0),
        (ANTHROPIC, 2_000, 500, 0.05),
    ):
        with server(latency_s) as url:
            yield from _compared(api, url, calls, cap, f"{api.name}, {calls} of {latency_s * 1000:.0f} ms at cap {cap}")
    gc.set_threshold(*threshold)


def _compared(api: Api, url: str, calls: int, cap: int, what: str) -> Iterator[Figure]:
    plan = siblings(api, url, calls, cap, f", concurrency: {cap}")

    async def engine() -> None:
        board = Board.of((node.id, node.wave, str(node.model)) for node in plan.nodes)
        await Session(plan, observers=(board,)).run()
        assert board.counts["succeeded"] == calls

    ways: dict[str, Callable[[], Awaitable[Any]]] = {
        "sdk": lambda: by_sdk(api, url, calls, cap),
        "agentdag": engine,
        "typed": lambda: by_sdk(api, url, calls, cap, typed=True),
        "aiohttp": lambda: by_aiohttp(api, url, calls, cap),
    }
    rounds: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            rounds[name].append(cost(way))
    best = {name: Cost(*(min(each) for each in zip(*costs, strict=True))) for name, costs in rounds.items()}
    ours, sdk, typed, raw = best["agentdag"], best["sdk"], best["typed"], best["aiohttp"]
    beside = f"{ours.wall_s / typed.wall_s:.2f} of the typed method, {ours.wall_s / raw.wall_s:.2f} of raw aiohttp"
    yield Figure(f"{what}: wall", ours.wall_s / sdk.wall_s, BOUND, f"{ours.wall_s:.2f} s, {beside}")
    beside = f"{ours.cpu_s / typed.cpu_s:.2f} of the typed method, {ours.cpu_s / raw.cpu_s:.2f} of raw aiohttp"
    yield Figure(f"{what}: CPU", ours.cpu_s / sdk.cpu_s, BOUND, f"{ours.cpu_s / calls * 1000:.2f} ms a call, {beside}")
