"""The wall time of one turn's tool calls, against the longest path of what they wait for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

from agentdag.agents.agent import Task
from agentdag.agents.order import Effects
from agentdag.agents.toolbox import Tool, Toolbox
from agentdag.calls import ToolCall, ToolForm
from agentdag.limits.governor import Governor
from agentdag.limits.policy import Policy, Timeout
from agentdag.limits.pool import AgentPool
from agentdag.limits.slots import Seat
from agentdag.limits.turn import Turn
from tests.bench import Figure

NAP_S = 0.2
ROUNDS = 5


async def nap(_arguments: Mapping[str, Any]) -> str:
    await asyncio.sleep(NAP_S)
    return "slept"


async def turn_s(calls: list[ToolCall]) -> float:
    """The least wall seconds of several turns that ask for *calls*."""
    tool = Tool(ToolForm("nap", "Naps.", {"type": "object"}), "nap", nap, Effects())
    box = Toolbox({"nap": tool}, 10.0, 1000, str)
    best = float("inf")
    async with AgentPool(16) as pool:
        for _ in range(ROUNDS):
            turn = Turn(Policy(Timeout(10.0), 0, 0.0, 0.0, frozenset()), Seat(pool.slots, (1, 0.0)))
            begun = time.perf_counter()
            results = await box.run(calls, (), Task("bench", Governor(pool.slots), turn, lambda _: None))
            best = min(best, time.perf_counter() - begun)
            assert not any(result.failed for result in results)
    return best


def measure() -> Iterator[Figure]:
    wide = [ToolCall(str(number), "nap", "{}") for number in range(8)]
    took_s = asyncio.run(turn_s(wide))
    yield Figure("8 independent tools of 0.2 s, to 0.2 s", took_s / NAP_S, 1.15, f"{took_s:.3f} s")
    after = {"b": '{"x": "${a}"}', "c": '{"x": "${a}"}', "d": '{"x": ["${b}", "${c}"]}'}
    diamond = [ToolCall(name, "nap", after.get(name, "{}")) for name in "abcd"]
    took_s = asyncio.run(turn_s(diamond))
    yield Figure("a diamond of 4, to its critical path", took_s / (3 * NAP_S), 1.15, f"{took_s:.3f} s")
