"""Many calls over loopback through the whole engine and the real SDK: wall and CPU against bare loops over the SDK.

One loop calls the SDK's typed method, as people write it; the other takes the cheapest way through the SDK, as agentdag
does. Raw aiohttp stands beside them. The server is a process of its own. Rounds alternate, and the middle one of their
ratios counts.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from statistics import median
from typing import Any, NamedTuple

from agentdag.cli.main import GARBAGE_EVERY
from agentdag.session import Session
from agentdag.views.board import Board
from tests.bench import Figure
from tests.bench.loopback import ANTHROPIC, OPENAI, Api, by_aiohttp, by_sdk, server, siblings

ROUNDS = 7
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
        "cheapest": lambda: by_sdk(api, url, calls, cap),
        "agentdag": engine,
        "typed": lambda: by_sdk(api, url, calls, cap, typed=True),
        "aiohttp": lambda: by_aiohttp(api, url, calls, cap),
    }
    rounds: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            rounds[name].append(cost(way))
    wall_ms, cpu_ms = (min(each) / calls * 1000 for each in zip(*rounds["agentdag"], strict=True))
    for way in ("typed", "cheapest"):
        for index, kind in enumerate(Cost._fields):
            raw = _middle(rounds, "aiohttp", index)
            detail = f"{(wall_ms, cpu_ms)[index]:.2f} ms a call, {raw:.1f} times raw aiohttp"
            name = f"{what}: {kind.removesuffix('_s')}, {way} loop"
            yield Figure(name, _middle(rounds, way, index), BOUND, detail)


def _middle(rounds: dict[str, list[Cost]], way: str, index: int) -> float:
    """Of the ratios to *way*, each within a round."""
    return median(ours[index] / its[index] for ours, its in zip(rounds["agentdag"], rounds[way], strict=True))
