"""Items of a foreach against as many plain nodes; and the memory of ten times as many items."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench import Figure

SIZE = 10_000
ROUNDS = 3
FUNCTION = "async def same(x):\n    return x\n"
PLAIN = "\n".join(["nodes:", *(f'  n{i}: {{call: "bench_fan:same", with: {{x: {i}}}}}' for i in range(SIZE))])
FAN = 'inputs: {xs: {type: array}}\nnodes: {a: {call: "bench_fan:same", with: {x: "{{ item }}"}, foreach: "{{ inputs.xs }}"}}'
RUN = """
import resource, sys, time, agentdag
plan, size = agentdag.load(sys.argv[1]), int(sys.argv[2])
inputs = {"xs": list(range(size))} if plan.inputs else {}
begun = time.process_time()
assert agentdag.run(plan, inputs).ok
print(time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def measured(file: Path, size: int) -> tuple[float, float]:
    """CPU seconds and peak memory in bytes of a run in a process of its own: the least of several."""
    runs = []
    for _ in range(ROUNDS):
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(file), str(size)], capture_output=True, text=True, check=True
        )
        runs.append(tuple(map(float, done.stdout.split())))
    return min(run[0] for run in runs), min(run[1] for run in runs)


def measure() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "bench_fan.py").write_text(FUNCTION)
        (place / "plain.yaml").write_text(PLAIN)
        (place / "fan.yaml").write_text(FAN)
        plain_s, _ = measured(place / "plain.yaml", SIZE)
        fan_s, small = measured(place / "fan.yaml", SIZE)
        _, large = measured(place / "fan.yaml", 10 * SIZE)
    told = f"{fan_s / SIZE * 1e6:.0f} us an item, {plain_s / SIZE * 1e6:.0f} us a node"
    yield Figure(f"foreach over {SIZE} to as many nodes", fan_s / plain_s, 1.5, told)
    each = (large - small) / (9 * SIZE)  # the list of items, and of their outputs
    yield Figure(f"foreach over {10 * SIZE}: bytes an item, to 100", each / 100, 1.0, f"{each:.0f} bytes an item")
