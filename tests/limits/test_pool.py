"""A pool runs no more than its cap at once, in order, loses nothing, and tells how deep its queue is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual import run_virtually

import agentdag
from agentdag import Agent, AgentPool, QueueFull, UsageError
from agentdag.errors import CallError, ErrorKind
from tests.wire import WireServer


class Work:
    """Async work that counts how much of it runs at once."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.running = self.peak = 0
        self.began: list[object] = []

    async def __call__(self, item: object) -> object:
        self.began.append(item)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
        if isinstance(item, Exception):
            raise item
        return item


def test_settle_gives_every_end_and_raises_for_none() -> None:
    async def main() -> None:
        work = Work()
        async with AgentPool(concurrency=5, queue_limit=100) as pool:
            error = ValueError("no")
            futures = [pool.submit(work, item) for item in (*range(11), error)]
            assert pool.statistics().in_flight == 5
            assert pool.statistics().queued == 7
            settled = await pool.settle(futures)
        assert [each.value for each in settled[:11]] == list(range(11))
        assert all(each.ok for each in settled[:11])
        assert settled[11].error is error
        assert work.peak == 5
        told = pool.statistics()
        assert (told.in_flight, told.queued, told.done, told.failed, told.most_queued) == (0, 0, 11, 1, 7)
        assert told.waited_s == pytest.approx(5 * 1 + 2 * 2)

    run_virtually(main())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.none() | st.integers(0, 5), st.integers(0, 2**32))
def test_the_cap_is_exact_whatever_is_cancelled(cap: int, limit: int | None, seed: int) -> None:
    chance = Random(seed)

    async def main() -> None:
        work = Work()
        pool = AgentPool(cap, queue_limit=limit)
        futures = []
        for number in range(30):
            futures.append(pool.submit(work, number))
            if chance.random() < 0.3:
                chance.choice(futures).cancel()
            if chance.random() < 0.5:
                await asyncio.sleep(chance.random())
            told = pool.statistics()
            assert told.in_flight <= cap
            assert limit is None or told.queued <= limit
        await asyncio.wait_for(pool.drain(), 120)
        assert work.peak <= cap
        assert (pool.slots.held, pool.slots.waiting, work.running) == (0, 0, 0)
        assert all(future.done() for future in futures)
        told = pool.statistics()
        assert told.done == sum(not future.cancelled() for future in futures)
        assert told.queued == told.held_back == 0

    run_virtually(main())


def test_a_full_queue_rejects_waits_or_asks() -> None:
    async def main() -> None:
        work, asked = Work(), []

        def ask(told: agentdag.PoolStatistics) -> str:
            asked.append(told.queued)
            return "wait" if len(asked) == 1 else "reject"

        rejecting = AgentPool(1, queue_limit=2, on_full="reject")
        first = [rejecting.submit(work, number) for number in range(3)]
        with pytest.raises(QueueFull, match="2 wait already"):
            rejecting.submit(work, 3)
        assert [each.value for each in await rejecting.settle(first)] == [0, 1, 2]
        asking = AgentPool(1, queue_limit=1, on_full=ask)  # type: ignore[arg-type]
        futures = [asking.submit(work, number) for number in range(3)]
        assert asking.statistics().held_back == 1
        with pytest.raises(QueueFull):
            asking.submit(work, 3)
        assert [each.value for each in await asking.settle(futures)] == [0, 1, 2]
        assert asked == [1, 1]
        none_waits = AgentPool(2, queue_limit=0, on_full="reject")
        both = [none_waits.submit(work, number) for number in range(2)]
        with pytest.raises(QueueFull):
            none_waits.submit(work, 2)
        await asyncio.gather(*both)

    run_virtually(main())


def test_high_goes_first_and_within_a_priority_the_first_that_came() -> None:
    async def main() -> None:
        work = Work()
        async with AgentPool(1, queue_limit=2) as pool:
            for number, priority in enumerate(("normal", "low", "normal", "high", "low", "high")):
                pool.submit(work, (priority, number), priority=priority)  # type: ignore[arg-type]
        assert [number for _, number in work.began] == [0, 2, 3, 5, 1, 4]  # type: ignore[misc]

    run_virtually(main())


def test_a_timeout_is_of_the_work_and_not_of_the_queue() -> None:
    async def main() -> None:
        async with AgentPool(1, timeout=1.5) as pool:
            quick = [pool.submit(Work(1.0), number) for number in range(5)]
            slow = pool.submit(Work(2.0), 5)
            settled = await pool.settle([*quick, slow])
        assert [each.ok for each in settled] == [True] * 5 + [False]
        assert isinstance(settled[5].error, TimeoutError)

    run_virtually(main())


def test_map_takes_items_as_room_appears_and_keeps_their_order() -> None:
    async def main() -> None:
        taken: list[int] = []

        def items() -> Iterator[int]:
            for number in range(50):
                taken.append(number)
                yield number

        work = Work()
        pool = AgentPool(3, queue_limit=4)
        got = []
        async for result in pool.map(work, items()):
            got.append(result)
            assert len(taken) <= len(got) + 7
        assert got == list(range(50))
        with pytest.raises(ValueError, match="third"):
            async for _ in pool.map(work, [1, 2, ValueError("third"), *range(20)]):
                pass
        await pool.drain()
        assert len(work.began) < 50 + 4 + 7

    run_virtually(main())


def test_leaving_by_an_exception_cancels_what_is_out() -> None:
    async def main() -> None:
        work = Work(1000.0)
        pool = AgentPool(2)

        async def fail() -> None:
            async with pool:
                futures.extend(pool.submit(work, number) for number in range(4))
                await asyncio.sleep(0)
                raise KeyError

        futures: list[asyncio.Future[object]] = []
        with pytest.raises(KeyError):
            await fail()
        assert all(future.cancelled() for future in futures)
        assert work.running == 0
        with pytest.raises(UsageError, match="closed"):
            pool.submit(work, 1)

    run_virtually(main())


def test_a_pool_of_nothing_is_refused() -> None:
    for wrong in ({"concurrency": 0}, {"queue_limit": -1}, {"on_full": "drop"}):
        with pytest.raises(UsageError):
            AgentPool(**wrong)  # type: ignore[arg-type]


def test_agents_in_a_pool_share_its_limits_and_hold_no_slot_while_they_wait(wire: WireServer) -> None:
    """One call is refused for half a second; with a cap of 1 the others go on meanwhile, on another model."""
    wire.script["slow"] = ["429:retry-after=0.5", "ok"]

    async def main() -> None:
        async with AgentPool(concurrency=1, timeout=30) as pool:
            slow = Agent("local/slow", "Say {{ input }}", base_url=wire.openai_url)
            quick = Agent("local/quick", "Say {{ input.word }}", system="Be brief.", base_url=wire.openai_url)
            order: list[str] = []

            def note(name: str) -> Callable[[asyncio.Future[str]], None]:
                return lambda _: order.append(name)

            first = pool.submit(slow, "a")
            first.add_done_callback(note("slow"))
            others = [pool.submit(quick, {"word": f"b{number}"}) for number in range(3)]
            for each in others:
                each.add_done_callback(note("quick"))
            settled = await pool.settle([first, *others])
        assert all(each.ok for each in settled), settled
        assert order == ["quick"] * 3 + ["slow"]
        assert slow.usage.input_tokens == 40
        assert quick.usage.output_tokens == 27

    asyncio.run(main())
    assert {call.prompt for call in wire.calls} == {"Say a", "Say b0", "Say b1", "Say b2"}


def test_an_agent_alone_answers_or_raises(wire: WireServer) -> None:
    wire.script["broken"] = ["401"]

    agent = Agent("openai/m", base_url=wire.openai_url)
    for _ in range(2):  # each in a loop of its own
        assert asyncio.run(agent("hello")).startswith("Hello from the wire")  # type: ignore[arg-type]
    with pytest.raises(CallError) as caught:
        asyncio.run(Agent("openai/broken", base_url=wire.openai_url)("hello"))  # type: ignore[arg-type]
    assert caught.value.failure.kind is ErrorKind.AUTH
    with pytest.raises(UsageError, match="names no model"):
        Agent("gpt-5")
    with pytest.raises(UsageError, match="the prompt is wrong"):
        Agent("openai/m", "{{ inptu }}")
    for wrong in ({"rpm": 0}, {"max_tokens": 0}, {"retries": -1}, {"timeout": "30s"}, {"base_url": "nowhere"}):
        with pytest.raises(UsageError):
            Agent("openai/m", **wrong)  # type: ignore[arg-type]


def test_agents_of_one_model_keep_to_what_either_declares(wire: WireServer) -> None:
    async def main() -> None:
        async with AgentPool(30) as pool:
            free, bound = (Agent("openai/m", base_url=wire.openai_url, rpm=rpm) for rpm in (None, 60))
            first = pool.submit(free, "a")
            out = [pool.submit((free, bound)[number % 2], number) for number in range(20)]
            await first
            await asyncio.sleep(0)
            await asyncio.wait(out, timeout=0.3)
            assert sum(future.done() for future in out) <= 12  # ten at once, then one a second
            with pytest.raises(UsageError, match="other limits"):
                await pool.submit(Agent("openai/m", base_url=wire.openai_url, rpm=90), "b")
            for future in out:
                future.cancel()

    asyncio.run(main())


def test_many_slots_that_come_back_at_once_do_not_pile_up() -> None:
    async def main() -> None:
        pool = AgentPool(400, queue_limit=10)
        futures = [pool.submit(Work(), number) for number in range(2000)]
        await pool.drain()
        assert all(future.done() for future in futures)
        assert pool.statistics().in_flight == 0

    run_virtually(main())


def test_leaving_that_is_cancelled_leaves_nothing_behind() -> None:
    async def main() -> None:
        work = Work(1000.0)

        async def block() -> None:
            async with AgentPool(2) as pool:
                for number in range(6):
                    pool.submit(work, number)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(block(), 0.1)
        assert work.running == 0
        assert len(work.began) == 2

    run_virtually(main())
