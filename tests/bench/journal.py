"""What the journal costs: runs with it against the same runs without it; and how quickly its history is read."""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agentdag.cli.main import GARBAGE_EVERY
from agentdag.plan.compile import compile_text
from agentdag.plan.plan import Plan
from agentdag.providers.registry import provider_types
from agentdag.session import Session, keeper_of, run_loop
from agentdag.store.keeper import Keeper
from agentdag.store.schema import open_database
from tests.bench import Figure
from tests.bench.overhead import chain, fan, plan_of

ROUNDS = 8
RESULTS = 100_000


def wall_s(run: Callable[[], object]) -> float:
    gc.collect()
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def best_s(plan: Plan, folder: Path) -> tuple[float, float]:
    """The best wall time without and with the journal: in turns, so that a slow moment hits both."""

    def once(keeper: Keeper | None) -> None:
        run_loop(Session(plan, keeper=keeper).run())

    bare, kept = [], []
    for _ in range(ROUNDS):
        bare.append(wall_s(lambda: once(None)))
        kept.append(wall_s(lambda: once(keeper_of(plan, folder / "store"))))
    return min(bare), min(kept)


def calls_of_50_ms(size: int, cap: int, folder: Path) -> Plan:
    nodes = "\n".join(
        f"  n{number}: {{prompt: hi, model: simulated/m, expect: {{latency: 50ms}}}}" for number in range(size)
    )
    text = f"limits: {{concurrency: {cap}}}\nnodes:\n{nodes}\n"
    compiled = compile_text(text, folder / "calls.yaml", provider_types=provider_types())
    assert compiled.plan is not None
    return compiled.plan


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sys.path.insert(0, name)
        gc.set_threshold(GARBAGE_EVERY)  # as the program does
        yield from _costs(folder)
        yield from _questions(folder)
        yield _memory(folder)


def _costs(folder: Path) -> Iterator[Figure]:
    for title, plan, bound in (
        ("fan of 1,000 instant nodes, cap 500", plan_of(fan(1000), 500, folder), 2.5),
        ("4,000 calls of 50 ms, cap 100", calls_of_50_ms(4000, 100, folder), 1.03),
        ("chain of 200 instant nodes (a sync each)", plan_of(chain(200), 8, folder), float("inf")),
    ):
        bare, kept = best_s(plan, folder)
        each = (kept - bare) / len(plan.nodes) * 1e6
        yield Figure(
            title, kept / bare, bound, f"{bare * 1000:.0f} ms, with the journal {kept * 1000:.0f}: {each:.0f} us a node"
        )


def _questions(folder: Path) -> Iterator[Figure]:
    """`runs`, `show` and `stats` on a store of 100,000 results, start-up not counted."""
    store = folder / "large"
    _fill(store)
    (folder / "p.yaml").write_text("nodes:\n  n0: {prompt: hi, model: simulated/m}\n")
    bare = _command_s(folder, "explain", "node.settled")
    for command in (["runs"], ["show", "last"], ["show", "last", "n0"], ["stats", "p.yaml"]):
        took = _command_s(folder, *command, "--store", str(store)) - bare
        yield Figure(f"agentdag {' '.join(command)}, seconds beyond start-up", took, 1.0, "100,000 results")


def _command_s(folder: Path, *arguments: str) -> float:
    def once() -> None:
        subprocess.run([sys.executable, "-m", "agentdag.cli", *arguments], cwd=folder, check=True, capture_output=True)

    return min(wall_s(once) for _ in range(3))


def _fill(store: Path) -> None:
    """A store like one of 2,000 runs of 50 nodes: the first is real, the others repeat it."""
    nodes = "\n".join(f"  n{number}: {{prompt: hi, model: simulated/m}}" for number in range(50))
    text = f"limits: {{concurrency: 50}}\nnodes:\n{nodes}\n"
    pipeline = store.parent / "p.yaml"
    compiled = compile_text(
        text.replace("simulated/m", "simulated/m, expect: {latency: 1ms}"), pipeline, provider_types=provider_types()
    )
    assert compiled.plan is not None
    first = run_loop(Session(compiled.plan, keeper=keeper_of(compiled.plan, store)).run())
    connection = open_database(store, create=False)
    connection.execute("BEGIN IMMEDIATE")
    count = RESULTS // 50 - 1
    for table, key, columns in (
        ("runs", "id", "pipeline, batch, row, time, body, hash"),
        (
            "entries",
            "run",
            "seq, life, type, node, time, status, latency_s, attempts, input_tokens, output_tokens, cost, past, fingerprint, asked, body, hash",
        ),
    ):
        connection.execute(
            f"WITH RECURSIVE copy(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copy WHERE n < {count}) "
            f"INSERT INTO {table} ({key}, {columns}) SELECT {key} || '-' || n, {columns} FROM copy, {table} WHERE {key} = ?",
            (first.run,),
        )
    connection.execute("COMMIT")
    connection.close()
    run_loop(Session(compiled.plan, keeper=keeper_of(compiled.plan, store)).run())


def _memory(folder: Path) -> Figure:
    """Resident memory that 10,000 rows of 3 nodes add after row 1,000."""
    (folder / "row.yaml").write_text(
        "inputs: {n: {type: integer}}\nlimits: {concurrency: 50}\nnodes:\n"
        "  a: {prompt: 'first {{ inputs.n }}', model: simulated/m, expect: {latency: 1ms}}\n"
        "  b: {prompt: 'second {{ inputs.n }}', model: simulated/m, expect: {latency: 1ms}}\n"
        "  c: {prompt: '{{ nodes.a.output }} {{ nodes.b.output }}', model: simulated/m, expect: {latency: 1ms}}\n"
    )
    (folder / "rows.jsonl").write_text("".join(json.dumps({"n": number}) + "\n" for number in range(10_000)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.journal", str(folder)], capture_output=True, text=True, check=True
    )
    before, after, took = (float(part) for part in done.stdout.split())
    return Figure(
        "batch of 10,000 rows of 3 nodes: MB after row 1,000",
        after - before,
        10,
        f"{before:.0f} to {after:.0f} MB, {10_000 / took:.0f} rows/s",
    )


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _run_batch(folder: Path) -> None:
    from agentdag.events import RunFinished
    from agentdag.session import BatchSession, BatchSpec, Options, load

    plan = load(folder / "row.yaml")
    seen = [0]
    marks: list[float] = []

    def watch(event: object) -> None:
        if isinstance(event, RunFinished):
            seen[0] += 1
            if seen[0] in {1000, 10_000}:
                marks.append(_resident_mb())

    spec = BatchSpec(rows=folder / "rows.jsonl", output=folder / "results.jsonl")
    session = BatchSession(plan, spec, options=Options(), keeper=keeper_of(plan, folder / "batch"), print_line=print)
    session.observers.add(watch)
    result = run_loop(session.run())
    assert result.succeeded == 10_000, result
    print(*marks, result.elapsed_s)


if __name__ == "__main__":
    _run_batch(Path(sys.argv[1]))
