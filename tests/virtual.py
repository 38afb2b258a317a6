"""Runs in virtual time: whenever all tasks sleep, the clock jumps to the first that wakes.

The engine, its limits and its timers are the real ones; only the wait is left out, so figures are exact.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar
from unittest import mock

import agentdag
from agentdag import Options, RunResult
from agentdag.plan.plan import Plan

T = TypeVar("T")


class _Clock(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = time.monotonic()

    def time(self) -> float:
        return self.now

    def select(self, timeout: float | None = None) -> list[Any]:
        events = super().select(0)
        if not events and timeout:
            self.now += timeout
        return events


def run_virtually(coroutine: Coroutine[Any, Any, T]) -> T:
    clock = _Clock()
    loop = asyncio.SelectorEventLoop(clock)
    with mock.patch("time.monotonic", clock.time):
        try:
            return loop.run_until_complete(coroutine)
        finally:
            loop.close()


def simulated(plan: Plan, inputs: dict[str, Any] | None = None) -> RunResult:
    """What a run of *plan* on the simulator comes to, in no time; its times are those of the file."""
    scale = 0.01  # fewer progress events are told
    result = run_virtually(agentdag.arun(plan, inputs or {}, options=Options(simulate=True, time_scale=scale)))
    return replace(
        result,
        elapsed_s=result.elapsed_s / scale,
        critical_path_s=result.critical_path_s / scale,
        sequential_s=result.sequential_s / scale,
    )
