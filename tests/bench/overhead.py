"""Microseconds a node: the whole engine, events and board included, against a 30-line loop on graphlib."""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from agentdag.plan.compile import compile_text
from agentdag.plan.plan import Plan
from agentdag.providers.registry import provider_types
from agentdag.session import Session
from agentdag.views.board import Board
from tests.bench import Figure

Needs = list[list[int]]
ROUNDS = 5


async def instant() -> None:
    await asyncio.sleep(0)


async def bare_loop(needs: Needs, act: Callable[[], object], cap: int) -> None:
    """What one would write by hand: graphlib for the order, a task a node, a semaphore for the cap."""
    order = TopologicalSorter(dict(enumerate(needs)))
    order.prepare()
    ended: asyncio.Queue[int] = asyncio.Queue()
    slots = asyncio.Semaphore(cap)

    async def run(node: int) -> None:
        async with slots:
            await act()  # type: ignore[misc]
        ended.put_nowait(node)

    tasks = set()
    while order.is_active():
        for node in order.get_ready():
            task = asyncio.create_task(run(node))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        order.done(await ended.get())


def chain(size: int) -> Needs:
    return [[node - 1] if node else [] for node in range(size)]


def fan(size: int) -> Needs:
    return [[], *([0] for _ in range(size - 2)), list(range(1, size - 1))]


def layered(size: int) -> Needs:
    """Layers of 50, each node needing three of the layer before."""
    width = 50
    return [
        [] if node < width else [node - width - node % width + (node * k) % width for k in (1, 7, 13)]
        for node in range(size)
    ]


def plan_of(needs: Needs, cap: int, folder: Path) -> Plan:
    (folder / "bench_instant.py").write_text("import asyncio\nasync def instant(): await asyncio.sleep(0)\n")
    nodes = "\n".join(
        f"  n{node}: {{call: 'bench_instant:instant', needs: [{', '.join(f'n{b}' for b in dict.fromkeys(before))}]}}"
        for node, before in enumerate(needs)
    )
    text = f"limits: {{concurrency: {cap}}}\nnodes:\n{nodes}\n"
    compiled = compile_text(text, folder / "bench.yaml", provider_types=provider_types())
    assert compiled.plan is not None, compiled.findings[:3]
    return compiled.plan


def timed(run: Callable[[], object]) -> float:
    gc.collect()
    started = time.process_time()
    run()
    return time.process_time() - started


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        yield from _measure(Path(folder))


def _measure(folder: Path) -> Iterator[Figure]:
    for shape in (chain, fan, layered):
        ours_by_size = {}
        for size in (1_000, 10_000):
            needs = [list(dict.fromkeys(before)) for before in shape(size)]
            plan = plan_of(needs, 100, folder)
            ours, bare = [], []
            for _ in range(ROUNDS):
                board = Board.of((node.id, node.wave, None) for node in plan.nodes)
                session = Session(plan, observers=(board,))
                ours.append(timed(lambda session=session: asyncio.run(session.run())))
                bare.append(timed(lambda needs=needs: asyncio.run(bare_loop(needs, instant, 100))))
                assert board.counts["succeeded"] == size
            detail = f"{min(ours) / size * 1e6:.1f} us a node, bare loop {min(bare) / size * 1e6:.1f} us"
            yield Figure(f"{shape.__name__} of {size}", min(ours) / min(bare), 4.0, detail)
            ours_by_size[size] = min(ours) / size
        yield Figure(
            f"{shape.__name__}: 10,000 to 1,000, a node", ours_by_size[10_000] / ours_by_size[1_000], 1.5, "1 is linear"
        )
