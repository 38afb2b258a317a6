"""A pool of slots for any async work: what is over the cap queues, what is over the queue waits or is refused.

The engine's nodes take the slots of the same pool that anybody may submit to.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

from agentdag.errors import QueueFull, UsageError
from agentdag.limits.rates import Lane, Quotas
from agentdag.limits.slots import Place, Seat, Slots

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S")

SHORTEST_ALARM_S = 1e-6
"""A shorter one would not move a clock."""
PRIORITIES = {"high": 0, "normal": 1, "low": 2}
Priority = Literal["high", "normal", "low"]
Verdict = Literal["wait", "reject"]


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """What a pool is doing. `queued` wait for a slot, `held_back` for room in the queue.

    `most_queued` is the deepest that the queue has been, held-back ones counted: a depth that lasts says that the cap
    is too small. `waited_s` is what all that have begun waited in all.
    """

    in_flight: int
    queued: int
    held_back: int
    most_queued: int
    waited_s: float
    done: int
    failed: int


class Settled(NamedTuple, Generic[T]):
    """How a submission ended: with a value, or with an error."""

    value: T | None
    error: BaseException | None

    @property
    def ok(self) -> bool:
        return self.error is None


OnFull = Verdict | Callable[[PoolStatistics], Verdict]


class Seated(Protocol[T_co]):
    """What is called with the pool and its seat, so that it can give the slot back while it only waits."""

    def in_pool(self, pool: AgentPool, seat: Seat, *args: Any, **kwargs: Any) -> Awaitable[T_co]: ...


def at_least(name: str, value: Any, least: int) -> None:
    """Raise UsageError where *value* is neither None nor a whole number of *least* or more."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise UsageError(f"{name} is a whole number of at least {least}, not {value!r}")


def above_zero(name: str, value: Any) -> None:
    """Raise UsageError where *value* is neither None nor a number above zero."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
        raise UsageError(f"{name} is a number of seconds above 0, not {value!r}")


class _Work:
    """One submission on its way to a slot."""

    __slots__ = ("act", "future", "priority", "seat", "submitted_at", "task", "timeout_s")

    def __init__(
        self, act: Callable[[Seat], Awaitable[Any]], future: asyncio.Future[Any], priority: int, timeout_s: float | None
    ) -> None:
        self.act = act
        self.future = future
        self.priority = priority
        self.timeout_s = timeout_s
        self.submitted_at = time.monotonic()
        self.seat: Seat | None = None
        self.task: asyncio.Task[Any] | None = None


class AgentPool:
    """At most *concurrency* at once; of those over it, at most *queue_limit* in a queue (None: any number).

    *timeout* bounds each submission in seconds, from when it has its slot. *on_full* says what becomes of one that
    finds the queue full: it waits for room, or `submit` raises QueueFull, or a callable is asked which.
    """

    def __init__(
        self,
        concurrency: int = 8,
        *,
        queue_limit: int | None = None,
        timeout: float | None = None,
        on_full: OnFull = "wait",
        on_idle: Callable[[], None] = lambda: None,
        lanes: dict[str, Lane] | None = None,
    ) -> None:
        at_least("concurrency", concurrency, 1)
        at_least("queue_limit", queue_limit, 0)
        above_zero("timeout", timeout)
        if not callable(on_full) and on_full not in {"wait", "reject"}:
            raise UsageError(f"on_full is wait, reject, or a callable, not {on_full}")
        self.slots = Slots(concurrency, self._wake, on_idle, alarm=self._ring_in, clock=time.monotonic)
        self.queue_limit = queue_limit
        self.timeout_s = timeout
        self.on_full = on_full
        self._held_back: list[tuple[int, int, _Work]] = []
        self._open: set[asyncio.Future[Any]] = set()
        self._running: set[asyncio.Task[Any]] = set()
        self._submitted = 0
        self._queued = 0
        self._most_queued = 0
        self._waited_s = 0.0
        self._done = 0
        self._failed = 0
        self._waking = False
        self._closed = False
        self._alarm: asyncio.TimerHandle | None = None
        self._lanes = {} if lanes is None else lanes
        self._leaving: list[Callable[[], Awaitable[None]]] = []

    def submit(
        self, act: Callable[..., Awaitable[T]], *args: Any, priority: Priority = "normal", **kwargs: Any
    ) -> asyncio.Future[T]:
        """Have *act* called with these arguments as soon as a slot is free; its result is the future's.

        An `Agent`, or whatever else is `Seated`, gives its slot back while it waits for a rate or a retry. Within a
        priority the first comes first. Cancelling the future takes it out of the queue, or cancels the call.
        Raises QueueFull where the queue is full and *on_full* says so; must be called where an event loop runs.
        """
        return self._submit(act, args, kwargs, priority, waits=False)

    def _submit(
        self,
        act: Callable[..., Awaitable[T]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        priority: Priority,
        *,
        waits: bool,
    ) -> asyncio.Future[T]:
        if self._closed:
            raise UsageError("the pool is closed")
        if priority not in PRIORITIES:
            raise UsageError(f"priority is high, normal or low, not {priority}")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        seated = getattr(act, "in_pool", None)

        def call(seat: Seat) -> Awaitable[T]:
            done: Awaitable[T] = act(*args, **kwargs) if seated is None else seated(self, seat, *args, **kwargs)
            return done

        work = _Work(call, future, PRIORITIES[priority], self.timeout_s)
        if self._held_back or not self._has_room():
            if not waits and self._verdict() == "reject":
                raise QueueFull(f"{self._queued} wait already, as many as queue_limit allows")
            self._submitted += 1
            heapq.heappush(self._held_back, (work.priority, self._submitted, work))
        else:
            self._enqueue(work)
            self.slots.hand_out()
        self._open.add(future)
        future.add_done_callback(lambda _: self._ended(work))
        self._most_queued = max(self._most_queued, self._queued + len(self._held_back))
        return future

    async def map(self, act: Callable[[S], Awaitable[T]], items: Iterable[S]) -> AsyncIterator[T]:
        """The results of *act* on each of *items*, in their order; items are taken as room appears.

        Raises what *act* raises; what was submitted after that is cancelled.
        """
        ahead = self.slots.cap + (self.slots.cap if self.queue_limit is None else self.queue_limit)
        out: list[asyncio.Future[T]] = []
        try:
            for item in items:
                out.append(self._submit(act, (item,), {}, "normal", waits=True))
                if len(out) >= ahead:
                    yield await out.pop(0)
            while out:
                yield await out.pop(0)
        finally:
            for each in out:
                each.cancel()

    async def settle(self, futures: Iterable[Awaitable[T]]) -> list[Settled[T]]:
        """How each of *futures* ended, in their order; raises for none of them."""
        ended = await asyncio.gather(*futures, return_exceptions=True)
        return [Settled(None, each) if isinstance(each, BaseException) else Settled(each, None) for each in ended]

    async def drain(self) -> None:
        """Return when everything that was submitted has ended."""
        while self._open or self._running:
            await asyncio.wait([*self._open, *self._running])

    def statistics(self) -> PoolStatistics:
        """What the pool is doing at this moment."""
        return PoolStatistics(
            in_flight=self.slots.held,
            queued=self._queued,
            held_back=len(self._held_back),
            most_queued=self._most_queued,
            waited_s=self._waited_s,
            done=self._done,
            failed=self._failed,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Everything ends before the pool closes; where the block was left by an exception, everything is cancelled."""
        try:
            if kind is not None:
                self._cancel_all()
            await self.drain()
        except asyncio.CancelledError:
            self._cancel_all()
            await self.drain()
            raise
        finally:
            self.close()
            for leave in self._leaving:
                await leave()

    def _cancel_all(self) -> None:
        for future in list(self._open):
            future.cancel()

    def lane(self, name: str, quotas: Quotas, *, learns: bool) -> Lane:
        """The limits of the model *name*, which all calls from this pool share.

        *quotas* hold from now on, if others did not declare any; raises UsageError where they declared others.
        """
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(quotas, learns=learns)
        elif quotas.says_anything and lane.quotas != quotas:
            if lane.quotas.says_anything:
                raise UsageError(f"{name} was declared with other limits in this pool")
            lane.declare(quotas)
        return lane

    def when_left(self, leave: Callable[[], Awaitable[None]]) -> None:
        """Await *leave* when the pool's block is left."""
        self._leaving.append(leave)

    def close(self) -> None:
        """Take nothing more."""
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _has_room(self) -> bool:
        """Whether one more may be queued, or begin at once."""
        if self.queue_limit is None or self._queued < self.queue_limit:
            return True
        return self.slots.held + self._queued < self.slots.cap

    def _verdict(self) -> Verdict:
        verdict = self.on_full(self.statistics()) if callable(self.on_full) else self.on_full
        if verdict not in {"wait", "reject"}:
            raise UsageError(f"on_full says wait or reject, not {verdict}")
        return verdict

    def _enqueue(self, work: _Work) -> None:
        work.seat = Seat(self.slots, (work.priority, 0.0))
        self._queued += 1
        work.seat.request(lambda: self._begin(work))

    def _begin(self, work: _Work) -> None:
        """*work* has its slot."""
        self._queued -= 1
        self._waited_s += time.monotonic() - work.submitted_at
        work.task = asyncio.ensure_future(self._perform(work))
        self._running.add(work.task)
        work.task.add_done_callback(lambda task: self._left(task, work))
        self._feed()

    def _feed(self) -> None:
        """Room appeared in the queue."""
        while self._held_back and self._has_room():
            _, _, work = heapq.heappop(self._held_back)
            if not work.future.done():
                self._enqueue(work)
                self._wake()

    async def _perform(self, work: _Work) -> Any:
        assert work.seat is not None
        try:
            async with asyncio.timeout(work.timeout_s):
                return await work.act(work.seat)
        except StopIteration as error:  # which no future takes
            raise RuntimeError(f"StopIteration: {error}") from error

    def _left(self, task: asyncio.Task[Any], work: _Work) -> None:
        """The call of *work* has really ended: its slot is free, and then whoever waits for it is told."""
        self._running.discard(task)
        if work.seat is not None:
            work.seat.leave()
        self._feed()
        if task.cancelled():
            work.future.cancel()
            return
        error = task.exception()
        if work.future.done():
            return
        if error is None:
            self._done += 1
            work.future.set_result(task.result())
        else:
            self._failed += 1
            work.future.set_exception(error)

    def _ended(self, work: _Work) -> None:
        """The future of *work* is done, perhaps because its owner has cancelled it."""
        self._open.discard(work.future)
        if work.task is not None:
            if work.future.cancelled():
                work.task.cancel()
        elif work.seat is not None and work.seat.place is Place.WAITING:
            work.seat.leave()
            self._queued -= 1
            self._feed()

    def _wake(self) -> None:
        """A slot came back while somebody waits for one."""
        if not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def _hand_out(self) -> None:
        self._waking = False
        self.slots.hand_out()

    def _ring_in(self, seconds: float) -> None:
        """A lane opens in so many seconds, unless something happens before."""
        loop = asyncio.get_running_loop()
        if self._alarm is not None:
            if self._alarm.when() <= loop.time() + seconds and not self._alarm.cancelled():
                return
            self._alarm.cancel()
        self._alarm = loop.call_later(max(seconds, SHORTEST_ALARM_S), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self.slots.hand_out()
