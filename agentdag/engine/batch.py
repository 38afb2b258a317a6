"""Many runs that share their slots: rows are begun while a slot would idle, and forgotten when they have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from agentdag.engine.runner import Runner
from agentdag.events import RunFinished
from agentdag.limits.pool import AgentPool

R = TypeVar("R")

ROWS_PER_SLOT = 4
"""So many rows are at work for each slot, at the most: those that wait for a retry hold none."""


class Batch(Generic[R]):
    """Drives one runner for each of *rows* on `slots`. *begin* makes a row's runner, *end* hears how it ended; while
    *may_begin* says no, those that have begun go on alone."""

    def __init__(
        self,
        cap: int,
        rows: Iterator[R],
        begin: Callable[[R], Runner],
        end: Callable[[R, RunFinished], None],
        may_begin: Callable[[], bool] = lambda: True,
    ) -> None:
        self._pool = AgentPool(cap, on_idle=self._make_room)
        self.slots = self._pool.slots
        self._rows = rows
        self._begin = begin
        self._end = end
        self._may_begin = may_begin
        self._running: dict[asyncio.Task[None], Runner] = {}
        self._room = asyncio.Event()
        self._stopped = False
        self._bug: BaseException | None = None

    def _make_room(self) -> None:
        """A slot is free, and nobody waits for one."""
        self._room.set()

    def stop(self) -> None:
        """Begin no more rows."""
        self._stopped = True
        self._room.set()

    def interrupt(self, signal: int) -> None:
        """Stop, and stop every row as it would be stopped alone."""
        self.stop()
        for runner in list(self._running.values()):
            runner.interrupt(signal)

    def store_broke(self) -> None:
        """Nothing can be written any more."""
        self.stop()
        for runner in list(self._running.values()):
            runner.store_broke()

    async def run(self) -> None:
        """Begin rows until there are no more, or until it is stopped; return when all have ended."""
        while True:
            while not self._stopped and self._has_room():
                await self._begin_next()
            if not self._running:
                break
            self._room.clear()
            await self._room.wait()
        self._pool.close()
        if self._bug is not None:
            raise self._bug

    def _has_room(self) -> bool:
        """Whether a slot would idle without another row, now or when the next one comes back."""
        slots = self.slots
        if self._running and not self._may_begin():
            return False
        return slots.held + slots.waiting <= slots.cap and len(self._running) < ROWS_PER_SLOT * slots.cap

    async def _begin_next(self) -> None:
        try:
            row = next(self._rows, None)
            runner = None if row is None else self._begin(row)
        except Exception as error:  # noqa: BLE001 - the rows that have begun are to end first
            self._bug, self._stopped = error, True
            return
        if row is None or runner is None:
            self._stopped = True
            return
        task = asyncio.ensure_future(self._live(row, runner))
        self._running[task] = runner
        task.add_done_callback(self._ended)
        await asyncio.sleep(0)  # it asks for its first slots

    async def _live(self, row: R, runner: Runner) -> None:
        self._end(row, await runner.run())

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and task.exception() is not None:
            self._bug = self._bug or task.exception()
            self._stopped = True
        self._room.set()
